//! A lane: takes the messages that are ready, processes them one after another, commits all
//! outcomes in one transaction, acknowledges, and takes the next.
//!
//! One batch is in flight, so no call builds on an uncommitted batch. There is no timer: under low
//! load a batch is one message, under high load batches grow. The guarantees are the commit's
//! compare-and-set and version check. A batch that they refuse runs again, which is no attempt.
//! Keys that were in conflict with other hosts are locked before the next batches run.
//!
//! A stage that calls the outside has many lanes, and its batches are single messages: no message
//! waits for the call of another, no call is made under a lock, and a call sees committed state
//! only (nothing is cached between messages).

mod admit;
mod batch;
mod contended_keys;
mod process;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::admit::Work;
use self::batch::{BatchResult, batch_len};
use self::contended_keys::ContendedKeys;
use super::gate::Gate;
use crate::broker::{Acker, Incoming};
use crate::domain::event::DeliveryKey;
use crate::pipeline::metrics::OutcomeKind;
use crate::pipeline::{Running, Stage};
use crate::services::Services;
use crate::stage::circuit_breaker::Permit;
use crate::stage::state::LaneCache;
use crate::store::{Commit, LockedState, StoreError, Version};

/// Times that a refused batch runs again as a whole; after that its messages are committed one by
/// one.
const RERUNS_MAX: u32 = 3;
/// Pause after the store did not answer, doubled up to [`STORE_BACKOFF_MAX`].
const STORE_BACKOFF: Duration = Duration::from_millis(50);
const STORE_BACKOFF_MAX: Duration = Duration::from_secs(2);

pub(super) struct Lane {
    stage: Arc<Stage>,
    services: Services,
    acker: Arc<dyn Acker>,
    cache: LaneCache,
    contended: ContendedKeys,
    gate: Gate,
}

impl Lane {
    pub(super) fn new(stage: Arc<Stage>, services: Services, acker: Arc<dyn Acker>) -> Self {
        let cache = new_cache(&stage);
        let gate = Gate::new(Arc::clone(&stage), Arc::clone(&services.clock));
        Self { stage, services, acker, cache, contended: ContendedKeys::default(), gate }
    }

    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Incoming>,
        cancel: CancellationToken,
    ) {
        let mut received = Vec::new();
        loop {
            let count = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                count = messages.recv_many(&mut received, self.stage.config.batch_most()) => count,
            };
            if count == 0 {
                return;
            }
            let work = self.admit(received.drain(..), &cancel).await;
            self.settle_all(work, &cancel).await;
        }
    }

    /// Runs and commits until every message is settled, or the lane is stopped (then the broker
    /// delivers the rest again).
    async fn settle_all(&mut self, mut work: Vec<Work>, cancel: &CancellationToken) {
        let mut reruns = 0;
        let mut backoff = STORE_BACKOFF;
        while !work.is_empty() && !cancel.is_cancelled() {
            let Some(permit) = self.gate.pass(cancel).await else { return };
            // Read for each batch: what is left of the last one runs on the version that serves now.
            let Some(running) = self.stage.running() else { return };
            let single = reruns > RERUNS_MAX || permit == Permit::Probe;
            let len = if single { 1 } else { batch_len(&work) };
            let result = self.run_and_commit(&work[..len], &running, permit).await;
            if permit == Permit::Probe {
                // The message may have been settled without a call, or not at all.
                self.stage.breaker().release_probe(self.services.clock.now_ms());
            }
            match result {
                Ok((Commit::Done { outbox, .. }, outcomes)) => {
                    self.services.relay.enqueue(outbox);
                    let settled: Vec<Work> = work.drain(..outcomes.len()).collect();
                    self.finish(&settled, outcomes).await;
                    backoff = STORE_BACKOFF;
                }
                Ok((Commit::Conflict { stale, conflicts }, _)) => {
                    self.note_conflict(&stale, &conflicts);
                    self.drop_keys(&mut work, &stale).await;
                    reruns += 1;
                }
                Ok((Commit::OrderCancelled(keys), _)) => self.mark_cancelled(&mut work, &keys),
                Err(error) => {
                    tracing::warn!(stage = %self.stage.name, %error, "commit failed, retrying");
                    // It may have taken effect all the same: the cached versions are unknown, and
                    // the store is asked before anything runs again.
                    self.cache = new_cache(&self.stage);
                    if !pause(&mut backoff, cancel).await {
                        return;
                    }
                    self.drop_settled(&mut work, cancel).await;
                }
            }
        }
    }

    /// Runs one batch and commits it. The outcomes are those of the messages that ran; the others
    /// are left for the next batch.
    async fn run_and_commit(
        &mut self,
        work: &[Work],
        running: &Running,
        permit: Permit,
    ) -> Result<(Commit, Vec<OutcomeKind>), StoreError> {
        if self.stage.config.calls_out() {
            self.cache.clear();
        }
        let lock = self.lock_contended().await?;
        let BatchResult { batch, outcomes } = self.run_batch(work, running, permit).await?;
        let written = batch.writes.clone();
        let observed =
            self.services.observer.as_ref().map(|observer| (observer, batch.settlements.clone()));
        let commit = match lock {
            Some(lock) => lock.commit(batch).await?,
            None => self.services.store.commit(batch).await?,
        };
        if let Commit::Done { versions, .. } = &commit {
            let stored = written
                .into_iter()
                .zip(versions)
                .map(|((key, value), version): (_, &Version)| (key, value, *version));
            self.cache.store(stored);
            if let Some((observer, settlements)) = observed {
                for settlement in &settlements {
                    observer(settlement);
                }
            }
        }
        Ok((commit, outcomes))
    }

    /// Locks keys that other hosts write as well, and caches their current values.
    async fn lock_contended(&mut self) -> Result<Option<Box<dyn LockedState>>, StoreError> {
        let keys = self.contended.next_batch();
        if keys.is_empty() || self.stage.config.calls_out() {
            return Ok(None);
        }
        let lock = self.services.store.lock_state(&self.stage.name, &keys).await?;
        if let Some(lock) = &lock {
            self.cache.store(
                lock.rows().iter().map(|row| (row.key.clone(), row.value.clone(), row.version)),
            );
        }
        Ok(lock)
    }

    /// Acknowledges settled messages and counts them.
    async fn finish(&self, settled: &[Work], outcomes: Vec<OutcomeKind>) {
        self.ack(settled).await;
        let times = settled.iter().map(|work| work.message.received.elapsed());
        self.stage.metrics.record(outcomes.into_iter().zip(times));
    }

    fn note_conflict(&mut self, stale: &[DeliveryKey], conflicts: &[String]) {
        tracing::debug!(
            stage = %self.stage.name,
            stale = stale.len(),
            conflicts = conflicts.len(),
            "commit refused, running the batch again"
        );
        self.cache.remove(conflicts);
        self.contended.note(conflicts);
    }

    fn mark_cancelled(&self, work: &mut [Work], keys: &[DeliveryKey]) {
        tracing::debug!(
            stage = %self.stage.name,
            deliveries = keys.len(),
            "commit refused, skipping deliveries of cancelled orders"
        );
        for work in work.iter_mut().filter(|work| keys.contains(&work.key)) {
            work.order_cancelled = true;
        }
    }

    async fn ack(&self, work: &[Work]) {
        let tags: Vec<u64> = work.iter().flat_map(|work| work.tags.iter().copied()).collect();
        if !tags.is_empty() {
            self.acker.ack(&tags).await;
        }
    }
}

fn new_cache(stage: &Stage) -> LaneCache {
    LaneCache::new(
        NonZeroUsize::new(stage.config.state_cache_keys as usize).unwrap_or(NonZeroUsize::MIN),
    )
}

/// Waits before the store is asked again; false when the lane is being stopped.
async fn pause(backoff: &mut Duration, cancel: &CancellationToken) -> bool {
    let wait = *backoff;
    *backoff = (wait * 2).min(STORE_BACKOFF_MAX);
    tokio::select! {
        () = cancel.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}
