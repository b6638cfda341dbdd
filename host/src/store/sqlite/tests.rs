//! The conformance suite on a file, and tests of this store alone.

use std::path::Path;
use std::sync::Arc;

use super::{SqliteOptions, SqliteStore};
use crate::domain::clock::{Clock, ManualClock};
use crate::store::StateSource as _;
use crate::store::conformance::{self, LEASE_MS, START_MS};
use crate::store::{AcceptedEvent, Batch, Commit, Publishing, Store, StoreError, Verdict};

/// A store in this file, with its writer.
pub(crate) async fn open(path: &Path, clock: Arc<ManualClock>) -> Arc<SqliteStore> {
    let options = SqliteOptions {
        path: path.to_owned(),
        namespace: "orders".to_owned(),
        host_name: "here".to_owned(),
        clock,
        steady: None,
        kinds: crate::store::conformance::kinds(),
        lease_ms: LEASE_MS,
        group_max_ops: 64,
        publishing: Publishing::to_stages(),
        encryption: crate::store::conformance::encryption(),
    };
    let (store, writer) = SqliteStore::open(options).await.unwrap();
    tokio::spawn(async move { writer.run().await });
    store
}

#[tokio::test]
async fn it_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(async |clock| {
        let number = made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store: Arc<dyn Store> = open(&folder.path().join(format!("{number}.db")), clock).await;
        store
    })
    .await;
}

fn state(key: &str, value: &str) -> Batch {
    Batch {
        stage: "payment".into(),
        settlements: Vec::new(),
        reads: Vec::new(),
        writes: vec![(key.to_owned(), Some(value.to_owned().into()))],
    }
}

#[tokio::test]
async fn groups_of_every_size_are_written_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START_MS));
    let store = open(&folder.path().join("postrider.db"), clock).await;
    // Around the sizes that statements have room for, and more than fits into one.
    for rows in [1, 2, 5, 7, 24, 25, 49, 65, 129, 192, 257, 700] {
        let write = |n: usize| (format!("{rows}/{n:04}"), Some(format!("{n}").into_bytes().into()));
        let writes = (0..rows).map(write).collect();
        let batch = Batch { stage: format!("s{rows}").into(), writes, ..state("", "") };
        let stage = Arc::clone(&batch.stage);
        let committed = store.commit(batch).await.unwrap();
        assert!(matches!(&committed, Commit::Done { versions, .. } if versions.len() == rows));
        let stored = store.state_folders(&stage, &[format!("{rows}/")]).await.unwrap();
        let values = stored.iter().map(|row| row.value.as_deref().map(<[u8]>::to_vec));
        let written = (0..rows).map(|n| Some(format!("{n}").into_bytes()));
        assert!(values.eq(written), "{rows}: {stored:?}");
    }
}

#[tokio::test]
async fn a_restart_keeps_data_and_releases_leases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let clock = Arc::new(ManualClock::at(START_MS));
    let store = open(&path, Arc::clone(&clock)).await;
    store.commit(state("k", "v")).await.unwrap();
    let event = conformance::sample_event("e1", &["payment"]);
    let (_, leased) = store.accept_event(event).await.unwrap();
    assert_eq!(leased.len(), 1);
    store.close().await;

    let store = open(&path, Arc::clone(&clock)).await;
    assert_eq!(store.state_get("payment", "k").await.unwrap().unwrap().version, 1);
    let claimed = store.claim_outbox(10, u64::MAX).await.unwrap();
    assert_eq!((claimed.len(), claimed[0].id), (1, leased[0].id));
    // The numbering continues.
    let (accepted, rows) =
        store.accept_event(conformance::sample_event("e2", &["payment"])).await.unwrap();
    assert_eq!(accepted, AcceptedEvent::New);
    assert!(rows[0].id > leased[0].id);
    assert_eq!(clock.now_ms(), START_MS);
}

#[tokio::test]
async fn a_failing_operation_does_not_fail_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let store = open(&path, Arc::new(ManualClock::at(START_MS))).await;
    // The trigger makes one row impossible to write.
    let mut other =
        sqlx::ConnectOptions::connect(&sqlx::sqlite::SqliteConnectOptions::new().filename(&path))
            .await
            .unwrap();
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON state WHEN new.key = 'poison' BEGIN SELECT raise(ABORT, 'poison'); END";
    super::sql::execute(&mut other, poison, super::sql::args![]).await.unwrap();
    let keys = ["a", "poison", "b", "c"];
    let commits = futures::future::join_all(keys.map(|key| store.commit(state(key, "v")))).await;
    for (key, commit) in keys.into_iter().zip(commits) {
        if key == "poison" {
            assert!(matches!(commit, Err(StoreError::Rejected { .. })), "{commit:?}");
        } else {
            assert!(
                matches!(commit, Ok(Commit::Done { ref versions, .. }) if *versions == [1]),
                "{commit:?}"
            );
        }
    }
    assert_eq!(store.state_keys("payment", "", "", 10).await.unwrap(), ["a", "b", "c"]);
    store.close().await;
}

#[tokio::test]
async fn writes_of_a_group_count_up_and_stale_reads_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let store = open(&path, Arc::new(ManualClock::at(START_MS))).await;
    // Four batches of one group write the same new key, which none of them has read.
    let writes = ["a", "b", "c", "d"].map(|value| store.commit(state("count", value)));
    let mut versions: Vec<_> = futures::future::join_all(writes)
        .await
        .into_iter()
        .map(|commit| match commit.unwrap() {
            Commit::Done { versions, .. } => versions[0],
            other => panic!("{other:?}"),
        })
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4]);
    // A version that is not current, and one of a key that the store has forgotten; each is written, or only
    // read.
    for (key, read) in [("count", 3), ("gone", 5)] {
        for writes in [vec![], vec![(key.to_owned(), None)]] {
            let reads = vec![(key.to_owned(), read)];
            let committed = store.commit(Batch { reads, writes, ..state("", "") }).await.unwrap();
            let Commit::Conflict { conflicts, .. } = committed else { panic!("{committed:?}") };
            assert_eq!(conflicts, [key]);
        }
    }
    let reads = vec![("count".to_owned(), 4), ("new".to_owned(), 0)];
    let committed = store.commit(Batch { reads, ..state("new", "v") }).await.unwrap();
    assert!(matches!(committed, Commit::Done { ref versions, .. } if *versions == [1]));
}

#[tokio::test]
async fn what_another_program_writes_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let store = open(&path, Arc::new(ManualClock::at(START_MS))).await;
    let (_, rows) = store.accept_subject(conformance::new_subject("o1", "same")).await.unwrap();
    let mut other =
        sqlx::ConnectOptions::connect(&sqlx::sqlite::SqliteConnectOptions::new().filename(&path))
            .await
            .unwrap();
    let settled = "UPDATE deliveries SET status = 'done'";
    assert_eq!(super::sql::execute(&mut other, settled, super::sql::args![]).await.unwrap(), 1);
    let settlement = conformance::settlement(&rows[0].envelope, Verdict::Skipped);
    let committed = store.commit(conformance::batch(vec![settlement])).await.unwrap();
    assert!(
        matches!(committed, Commit::Conflict { ref stale, .. } if stale.len() == 1),
        "{committed:?}"
    );
}

#[tokio::test]
async fn close_finishes_queued_operations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let clock = Arc::new(ManualClock::at(START_MS));
    let store = open(&path, Arc::clone(&clock)).await;
    let keys: Vec<String> = (0..200).map(|number| format!("{number:03}")).collect();
    let commits = futures::future::join_all(keys.iter().map(|key| store.commit(state(key, "v"))));
    let (commits, ()) = futures::future::join(commits, store.close()).await;
    let written: Vec<_> = keys
        .iter()
        .zip(&commits)
        .filter(|(_, commit)| commit.is_ok())
        .map(|(key, _)| key.clone())
        .collect();
    assert!(!written.is_empty());
    assert!(commits.iter().all(|commit| matches!(commit, Ok(_) | Err(StoreError::Unavailable(_)))));
    let store = open(&path, clock).await;
    assert_eq!(store.state_keys("payment", "", "", 1_000).await.unwrap(), written);
}
