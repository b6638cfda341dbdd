//! A store that accepts what a target decided, and from which everything is read back: a decision
//! must not break later reads.
//!
//! Bounds: the store is replaced after [`SETTLEMENTS_MAX`] settlements, so a long run neither fills
//! the disk nor slows down.

use std::sync::Arc;

use crate::domain::clock::ManualClock;
use crate::domain::event::{DeliveryKey, Envelope};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{
    Batch, Commit, DeadLetterFilter, Listeners, NewEvent, OutboxRow, Publishing, Settlement,
    Store as _, StoreError, SubjectCursor,
};

/// The time of every decision.
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;
/// The store's clock: after every delay that a stage can ask for, so every event is due.
const LATER_MS: u64 = NOW_MS + (u32::MAX as u64) + 1_000_000;
/// Settlements before the store is replaced.
const SETTLEMENTS_MAX: u32 = 2_000;

/// A store with its runtime.
pub(crate) struct Stored {
    pub(crate) tokio: tokio::runtime::Runtime,
    open: Option<Open>,
    settled: u32,
}

struct Open {
    store: Arc<SqliteStore>,
    _folder: tempfile::TempDir,
}

impl Stored {
    pub(crate) fn new() -> Self {
        Self { tokio: super::tokio(), open: None, settled: 0 }
    }

    /// Writes a settlement, after its event if that did not come from a broker, and reads what others
    /// would read. Returns all outbox rows.
    pub(crate) fn settle(
        &mut self,
        arrived: Option<NewEvent>,
        settlement: Settlement,
    ) -> Vec<OutboxRow> {
        if self.settled == SETTLEMENTS_MAX {
            self.close();
        }
        self.settled += 1;
        let open = self.open.get_or_insert_with(|| Open::new(&self.tokio));
        self.tokio
            .block_on(open.settle(arrived, settlement))
            .expect("what was decided can be stored and read")
    }

    fn close(&mut self) {
        self.settled = 0;
        if let Some(open) = self.open.take() {
            self.tokio.block_on(open.store.close());
        }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.close();
    }
}

impl Open {
    fn new(tokio: &tokio::runtime::Runtime) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteOptions {
            path: folder.path().join("fuzz.db"),
            namespace: "orders".to_owned(),
            host_name: "here".to_owned(),
            clock: Arc::new(ManualClock::at(LATER_MS)),
            steady: None,
            kinds: crate::config::Config::default().kinds().expect("valid"),
            lease_ms: 1_000,
            group_max_ops: 64,
            publishing: Publishing { listeners: Listeners::Unknown, from_outbox: true },
            encryption: Arc::default(),
        };
        let (store, writer) = tokio.block_on(SqliteStore::open(options)).expect("a store");
        tokio.spawn(async move { writer.run().await });
        Self { store, _folder: folder }
    }

    async fn settle(
        &self,
        arrived: Option<NewEvent>,
        settlement: Settlement,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let Self { store, .. } = self;
        let delivery: DeliveryKey = settlement.delivery.clone();
        let subject = settlement.envelope.subject_key.clone();
        let mut rows = Vec::new();
        if let Some(arrived) = arrived {
            rows.extend(store.accept_event(arrived).await?.1);
        }
        let batch = Batch {
            stage: Arc::clone(&delivery.stage),
            settlements: vec![settlement],
            reads: Vec::new(),
            writes: Vec::new(),
        };
        match store.commit(batch).await? {
            Commit::Done { outbox, .. } => rows.extend(outbox),
            Commit::Conflict { stale, .. } => {
                assert!(stale.is_empty(), "no other worker settled {stale:?}");
            }
            Commit::SubjectCancelled(keys) => {
                panic!("no client cancelled the subject of {keys:?}")
            }
        }
        store.delivery(&delivery).await?.expect("the delivery that was settled");
        if let Some(subject) = subject {
            store.subject_deliveries(&subject, 0, 200).await?;
            store.events_of_subjects(&[SubjectCursor { subject, after: 0 }], 10).await?;
        }
        store.dead_letters(DeadLetterFilter { limit: 1, ..DeadLetterFilter::default() }).await?;
        // As another host reads them, after this one has gone.
        store.outbox_postponed(rows.iter().filter_map(|row| row.id).collect(), 0).await?;
        let read = store.claim_outbox(100, u64::MAX).await?;
        assert_eq!(read.len(), rows.len(), "rows of the outbox");
        for row in &rows {
            let read = read.iter().find(|read| read.id == row.id).expect("a row of the outbox");
            // The customer is read from the subject, which this store does not have.
            let decided = Envelope { customer_hash: 0, ..Envelope::clone(&row.envelope) };
            assert_eq!(
                (&*read.envelope, &read.direct),
                (&decided, &row.direct),
                "stored as it was decided"
            );
        }
        store.outbox_sent(rows.iter().filter_map(|row| row.id).collect()).await?;
        Ok(rows)
    }
}
