//! The conformance suite on a database of its own, and tests of several hosts.

mod cancelling;
mod places;
mod plans;
mod sessions;

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use super::{PostgresOptions, PostgresStore};
use crate::domain::clock::ManualClock;
use crate::domain::event::DeliveryKey;
use crate::domain::name::DEFAULT_NAMESPACE;
use crate::domain::state_place::{StatePlace, StatePlaces};
use crate::store::conformance::{self, LEASE_MS};
use crate::store::{
    Batch, Commit, Direction, EventFilter, LogRange, NewEvent, Publishing, Settlement,
    StageBinding, StateSource as _, Store, Verdict,
};

/// A server to make databases on: from the environment, else the one that listens on the default
/// port.
fn server() -> PgConnectOptions {
    let url = std::env::var("POSTRIDER_TEST_POSTGRES")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into());
    PgConnectOptions::from_str(&url).expect("POSTRIDER_TEST_POSTGRES is a Postgres URL")
}

/// Payment keeps its state in a schema.
fn payment_in(schema: &str, role: Option<&str>) -> StatePlaces {
    let place = StatePlace { schema: schema.to_owned(), role: role.map(str::to_owned) };
    StatePlaces::from([("payment".to_owned(), place)])
}

/// A database that is dropped at the end.
struct Database {
    name: String,
    /// Of stages in the stores that it opens.
    places: StatePlaces,
}

impl Database {
    async fn create() -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "postrider_unit_{}_{}",
            std::process::id(),
            MADE.fetch_add(1, Ordering::Relaxed)
        );
        let mut conn =
            server().connect().await.expect("a Postgres server for tests: see docs/testing.md");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut conn)
            .await
            .unwrap();
        Self { name, places: StatePlaces::new() }
    }

    /// One where each stage keeps its state with everything else, and one where payment has a
    /// schema of its own.
    async fn create_both() -> [Self; 2] {
        let mut own = Self::create().await;
        own.places = payment_in("money", None);
        [Self::create().await, own]
    }

    /// A store of the default namespace.
    async fn open(&self, host: &str, clock: Arc<ManualClock>) -> Arc<PostgresStore> {
        self.open_in(DEFAULT_NAMESPACE, host, clock).await
    }

    fn url(&self) -> String {
        server().database(&self.name).to_url_lossy().to_string()
    }

    /// The URL without parameters.
    fn plain_url(&self) -> String {
        self.url().split('?').next().unwrap_or_default().to_owned()
    }

    /// A store of the default namespace whose leases and due times count by the database's clock.
    async fn open_by_database_time(
        &self,
        host: &str,
        clock: Arc<ManualClock>,
    ) -> Arc<PostgresStore> {
        let options = self.options(DEFAULT_NAMESPACE, host, clock);
        Self::start(PostgresOptions { host_time: false, ..options }).await
    }

    /// A store of a namespace of its own: much cheaper to make than a database.
    async fn open_in(
        &self,
        namespace: &str,
        host: &str,
        clock: Arc<ManualClock>,
    ) -> Arc<PostgresStore> {
        Self::start(self.options(namespace, host, clock)).await
    }

    async fn start(options: PostgresOptions) -> Arc<PostgresStore> {
        let (store, writer) = PostgresStore::open(options).await.unwrap();
        tokio::spawn(async move { writer.run().await });
        store
    }

    fn options(&self, namespace: &str, host: &str, clock: Arc<ManualClock>) -> PostgresOptions {
        PostgresOptions {
            url: self.url(),
            namespace: namespace.to_owned(),
            host_name: host.to_owned(),
            clock,
            steady: None,
            host_time: true,
            places: self.places.clone(),
            kinds: crate::store::conformance::kinds(),
            lease_ms: LEASE_MS,
            group_max_ops: 64,
            publishing: Publishing::to_stages(),
            encryption: crate::store::conformance::encryption(),
            connections: 4,
            pool: None,
            timeout_ms: 10_000,
            migration_timeout_ms: 60_000,
            migrate: true,
        }
    }
}

/// Also after a test that failed.
impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut conn = server().connect().await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
            });
        });
        assert!(
            dropped.join().is_ok() || std::thread::panicking(),
            "a test database was left behind"
        );
    }
}

#[tokio::test]
async fn it_conforms() {
    let database = Database::create().await;
    let made = AtomicUsize::new(0);
    conformance::run(async |clock| {
        let namespace = format!("exercise-{}", made.fetch_add(1, Ordering::Relaxed));
        let store: Arc<dyn Store> = database.open_in(&namespace, "here", clock).await;
        store
    })
    .await;
}

/// The same when a stage of the exercises keeps its state in a schema of its own.
#[tokio::test]
async fn it_conforms_with_state_in_a_schema_of_its_own() {
    let database = Database::create().await;
    let made = AtomicUsize::new(0);
    conformance::run(async |clock| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let options = database.options(&format!("exercise-{number}"), "here", clock);
        let places = payment_in(&format!("payment_{number}"), None);
        let store: Arc<dyn Store> = Database::start(PostgresOptions { places, ..options }).await;
        store
    })
    .await;
}

/// Batches of two hosts that add to one counter.
async fn count(store: &PostgresStore, times: usize) -> usize {
    let mut refused = 0;
    for _ in 0..times {
        loop {
            let row = store.state_get("payment", "count").await.unwrap();
            let (version, value) = row.map_or((0, 0), |row| {
                (row.version, std::str::from_utf8(&row.value.unwrap()).unwrap().parse().unwrap())
            });
            let value: u64 = value;
            let batch = Batch {
                stage: "payment".into(),
                settlements: Vec::new(),
                reads: vec![("count".into(), version)],
                writes: vec![("count".into(), Some((value + 1).to_string().into()))],
            };
            match store.commit(batch).await.unwrap() {
                Commit::Done { .. } => break,
                Commit::Conflict { conflicts, .. } => {
                    assert_eq!(conflicts, ["count"]);
                    refused += 1;
                }
                Commit::SubjectCancelled(_) => panic!("no subject was cancelled"),
            }
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_updates_of_two_hosts_are_not_lost() {
    for database in Database::create_both().await {
        let clock = Arc::new(ManualClock::at(conformance::START_MS));
        let (one, other) = tokio::join!(
            database.open("one", Arc::clone(&clock)),
            database.open("other", Arc::clone(&clock))
        );
        let (refused_here, refused_there) = tokio::join!(count(&one, 200), count(&other, 200));
        let row = one.state_get("payment", "count").await.unwrap().unwrap();
        assert_eq!((row.value.as_deref(), row.version), (Some(&b"400"[..]), 400));
        assert!(refused_here + refused_there > 0, "the hosts never met");
        one.close().await;
        other.close().await;
    }
}

/// Each host writes its own key after it found the other's absent: only one of the two may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_read_as_absent_cannot_be_created_meanwhile() {
    for database in Database::create_both().await {
        let clock = Arc::new(ManualClock::at(conformance::START_MS));
        let (one, other) = tokio::join!(
            database.open("one", Arc::clone(&clock)),
            database.open("other", Arc::clone(&clock))
        );
        for number in 0..50 {
            let claim = |mine: &str, theirs: &str| Batch {
                stage: "payment".into(),
                settlements: Vec::new(),
                reads: vec![(format!("{number}/{mine}"), 0), (format!("{number}/{theirs}"), 0)],
                writes: vec![(format!("{number}/{mine}"), Some("taken".into()))],
            };
            let (here, there) =
                tokio::join!(one.commit(claim("a", "b")), other.commit(claim("b", "a")));
            let won = [here.unwrap(), there.unwrap()]
                .iter()
                .filter(|commit| matches!(commit, Commit::Done { .. }))
                .count();
            assert_eq!(won, 1, "claim {number}");
        }
        one.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_holder_of_a_lock_commits_before_a_rival() {
    for database in Database::create_both().await {
        let clock = Arc::new(ManualClock::at(conformance::START_MS));
        let (one, other) = tokio::join!(
            database.open("one", Arc::clone(&clock)),
            database.open("other", Arc::clone(&clock))
        );
        let write = |value: &str| Batch {
            stage: "payment".into(),
            settlements: Vec::new(),
            reads: vec![("count".into(), 0)],
            writes: vec![("count".into(), Some(value.to_owned().into()))],
        };
        let lock = one.lock_state("payment", &["count".to_owned()]).await.unwrap().unwrap();
        assert_eq!(
            lock.rows().iter().map(|row| (row.key.as_str(), row.version)).collect::<Vec<_>>(),
            [("count", 0)]
        );
        let rival = tokio::spawn({
            let (other, batch) = (Arc::clone(&other), write("rival"));
            async move { other.commit(batch).await }
        });
        // The rival waits in the database: that is the condition under which the holder must still win.
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let mut conn = server().database(&database.name).connect().await.unwrap();
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut conn).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            matches!(lock.commit(write("holder")).await.unwrap(), Commit::Done { ref versions, .. } if *versions == [1])
        );
        assert!(
            matches!(rival.await.unwrap().unwrap(), Commit::Conflict { ref conflicts, .. } if *conflicts == ["count"])
        );
        // Dropping a lock leaves no row behind.
        drop(
            one.lock_state("payment", &["count".to_owned(), "never-written".to_owned()])
                .await
                .unwrap(),
        );
        assert!(other.state_get("payment", "never-written").await.unwrap().is_none());
        one.close().await;
        other.close().await;
    }
}

/// It would be a deadlock if the other batch wrote the first key as well, and the server finds that only
/// after a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_batch_does_not_wait_for_a_key_that_another_one_locked() {
    for database in Database::create_both().await {
        let clock = Arc::new(ManualClock::at(conformance::START_MS));
        let (one, other) = tokio::join!(
            database.open("one", Arc::clone(&clock)),
            database.open("other", Arc::clone(&clock))
        );
        let both = || Batch {
            stage: "payment".into(),
            settlements: Vec::new(),
            reads: Vec::new(),
            writes: ["a", "b"].map(|key| (key.to_owned(), Some("v".into()))).into(),
        };
        let first = one.lock_state("payment", &["a".to_owned()]).await.unwrap().unwrap();
        let second = other.lock_state("payment", &["b".to_owned()]).await.unwrap().unwrap();
        let refused = first.commit(both()).await.unwrap();
        assert!(
            matches!(refused, Commit::Conflict { ref stale, ref conflicts } if stale.is_empty() && conflicts.is_empty()),
            "{refused:?}"
        );
        assert!(matches!(second.commit(both()).await.unwrap(), Commit::Done { .. }));
        one.close().await;
        other.close().await;
    }
}

/// The settlement of a first attempt that the payment stage skips.
fn skipped(event: &NewEvent) -> Settlement {
    Settlement {
        delivery: DeliveryKey { stage: "payment".into(), event: event.envelope.key() },
        envelope: Arc::clone(&event.envelope),
        scheduled_ms: None,
        round: 1,
        attempt: 1,
        verdict: Verdict::Skipped,
        version: "1.0.0".into(),
        digest: "d".into(),
        host: Some("one".into()),
        duration_us: 1,
        failure: None,
        recording: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_settle_a_delivery_once() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    for number in 0..100 {
        let event = conformance::sample_event(&number.to_string(), &["payment"]);
        one.accept_event(event.clone()).await.unwrap();
        let settle = || Batch {
            stage: "payment".into(),
            settlements: vec![skipped(&event)],
            reads: Vec::new(),
            writes: Vec::new(),
        };
        let (here, there) = tokio::join!(one.commit(settle()), other.commit(settle()));
        let commits = [here.unwrap(), there.unwrap()];
        let done = commits.iter().filter(|commit| matches!(commit, Commit::Done { .. })).count();
        let stale = commits
            .iter()
            .filter(|commit| matches!(commit, Commit::Conflict { stale, .. } if stale.len() == 1))
            .count();
        assert_eq!((done, stale), (1, 1), "delivery {number}: {commits:?}");
    }
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_holds_a_lease_and_bindings_of_live_hosts_stay() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    assert!(one.lease_stage("payment", 1_000).await.unwrap());
    assert!(!other.lease_stage("payment", 1_000).await.unwrap());
    other.release_stage("payment").await.unwrap();
    clock.advance(999);
    assert!(
        !other.lease_stage("payment", 1_000).await.unwrap(),
        "only its holder gives a lease back"
    );
    clock.advance(1);
    assert!(other.lease_stage("payment", 1_000).await.unwrap(), "it ran out");
    assert!(!one.lease_stage("payment", 1_000).await.unwrap());
    other.release_stage("payment").await.unwrap();
    assert!(one.lease_stage("payment", 1_000).await.unwrap());

    let binding =
        |pattern: &str| StageBinding { stage: "payment".into(), pattern: pattern.to_owned() };
    one.record_bindings(vec![binding("a"), binding("b")], 100).await.unwrap();
    clock.advance(1);
    let known = other.record_bindings(vec![binding("b"), binding("c")], 100).await.unwrap();
    assert_eq!((known.kept.len(), known.unused.len()), (3, 0), "{known:?}");
    assert!(!other.delete_binding(binding("a"), 100).await.unwrap(), "a live host uses it");
    // The first host is gone.
    clock.advance(100);
    let known = other.record_bindings(vec![binding("b"), binding("c")], 100).await.unwrap();
    assert_eq!((known.kept, known.unused), (vec![binding("b"), binding("c")], vec![binding("a")]));
    // It is back before the binding was forgotten.
    one.record_bindings(vec![binding("a")], 100).await.unwrap();
    assert!(!other.delete_binding(binding("a"), 100).await.unwrap());
    one.close().await;
    other.close().await;
}

/// Two hosts write while a third one reads the complete part of the log: it must see every event
/// once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_log_sees_every_event_of_other_hosts_once() {
    const EVENTS: usize = 400;
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    let reader = database.open("reader", Arc::clone(&clock)).await;
    let write = async |store: Arc<PostgresStore>, host: &str| {
        for number in 0..EVENTS {
            store
                .accept_event(conformance::sample_event(&format!("{host}-{number}"), &["payment"]))
                .await
                .unwrap();
        }
    };
    let read = async {
        let mut seen: Vec<String> = Vec::new();
        let (mut after, mut reads) = (0, 0);
        while seen.len() < EVENTS * 2 {
            let range = LogRange {
                after,
                up_to: reader.log_end().await.unwrap(),
                limit: 1_000,
                direction: Direction::Oldest,
            };
            let page = reader.events(EventFilter::default(), range).await.unwrap();
            after = range.up_to.max(after);
            assert!(page.next.is_none(), "a page holds it all");
            seen.extend(page.items.into_iter().map(|event| event.envelope.event.id));
            reads += 1;
            assert!(reads < 100_000, "only {} of the events are ever seen", seen.len());
        }
        (seen, reads)
    };
    let ((), (), (mut seen, reads)) =
        tokio::join!(write(Arc::clone(&one), "one"), write(Arc::clone(&other), "other"), read);
    assert!(reads > 20, "the reader looked only {reads} times while the hosts wrote");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), EVENTS * 2, "each once");
    for store in [one, other, reader] {
        store.close().await;
    }
}

/// A position that was given out and not committed bounds the end of the log; earlier events can be
/// read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_ends_before_a_transaction_in_progress() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    one.accept_event(conformance::sample_event("before", &["payment"])).await.unwrap();
    let before = other.log_end().await.unwrap();
    // A lock of state is a transaction with a position of its own; it is held for as long as its
    // batch runs.
    let lock = one.lock_state("payment", &["count".to_owned()]).await.unwrap().unwrap();
    other.accept_event(conformance::sample_event("overtakes", &["payment"])).await.unwrap();
    let all = LogRange { after: 0, up_to: i64::MAX, limit: 10, direction: Direction::Oldest };
    assert_eq!(
        other.events(EventFilter::default(), all).await.unwrap().items.len(),
        2,
        "it is committed"
    );
    let held = other.log_end().await.unwrap();
    assert_eq!(held, before, "the holder's position is not settled yet");
    let batch = Batch {
        stage: "payment".into(),
        settlements: Vec::new(),
        reads: Vec::new(),
        writes: vec![("count".into(), Some("1".into()))],
    };
    assert!(matches!(lock.commit(batch).await.unwrap(), Commit::Done { .. }));
    let up_to = other.log_end().await.unwrap();
    let page = other
        .events(
            EventFilter::default(),
            LogRange { after: held, up_to, limit: 10, direction: Direction::Oldest },
        )
        .await
        .unwrap();
    assert_eq!(
        page.items.iter().map(|event| event.envelope.event.id.as_str()).collect::<Vec<_>>(),
        ["overtakes"]
    );
    one.close().await;
    other.close().await;
}
