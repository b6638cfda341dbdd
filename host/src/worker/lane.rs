//! A lane: takes the messages that are ready, processes them one after another, commits all
//! outcomes in one transaction, acknowledges, and takes the next.
//!
//! One batch is in flight, so no call builds on an uncommitted batch. There is no timer: under low
//! load a batch is one message, under high load batches grow. The lane takes no more messages than it
//! ran in the time of a batch ([`TakeSize`]): what it took no longer gives way to other flows. The
//! guarantees are the commit's compare-and-set and version check. A batch that they refuse runs again,
//! which is no attempt. Keys that were in conflict with other hosts are locked before the next batches run. A batch that
//! the store refuses for good is divided until the message at fault is alone.
//!
//! A stage that calls the outside has many lanes, and its batches are single messages: no message
//! waits for the call of another, no call is made under a lock, and a call sees committed state
//! only (nothing is cached between messages).

mod admit;
mod batch;
mod conflicts;
mod contended_keys;
mod process;
mod spans;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::admit::Work;
use self::batch::{BatchResult, BatchRun, batch_len};
use self::contended_keys::ContendedKeys;
use super::gate::Gate;
use super::is_of_broker;
use super::lane_queue::LaneReceiver;
use crate::broker::Acker;
use crate::domain::event::DeliveryKey;
use crate::domain::steps::STEPS;
use crate::pipeline::metrics::{OutcomeKind, Settled};
use crate::pipeline::turns::Turn;
use crate::pipeline::{Running, Stage};
use crate::services::Services;
use crate::stage::circuit_breaker::Permit;
use crate::stage::delivery_log::log_delivery;
use crate::stage::state::LaneCache;
use crate::store::{AttemptKey, Commit, LockedState, StateSource, StoreError, Version};

/// Times that a batch in conflict runs again as a whole; after that its messages are committed one
/// by one.
const RERUNS_MAX: u32 = 3;
/// Times that a single message may fail to be committed among conflicts with other hosts, each time
/// after the store's own attempts, before it counts as refused.
const CONTENDED_MAX: u32 = 5;
/// Pause after the store did not answer, doubled up to [`STORE_BACKOFF_MAX`].
const STORE_BACKOFF: Duration = Duration::from_millis(50);
const STORE_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How the next batch is run, given how the last ones fared.
struct Pace {
    reruns: u32,
    /// Times that a single message was in conflict with other hosts.
    contended: u32,
    /// Most messages in the next batch.
    len_max: usize,
    /// Pause after the store did not answer.
    backoff: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { reruns: 0, contended: 0, len_max: usize::MAX, backoff: STORE_BACKOFF }
    }
}

impl Pace {
    /// How many of the next messages to run.
    fn next_len(&self, work: &[Work], permit: Permit) -> usize {
        if self.reruns > RERUNS_MAX || permit.is_probe() {
            return 1;
        }
        batch_len(work).min(self.len_max)
    }
}

/// How many messages the lane takes at a time: about as many as it runs in the time of a batch, so
/// that a slow stage holds few that other flows have to wait for.
#[derive(Debug)]
struct TakeSize {
    size: usize,
    max: usize,
}

impl TakeSize {
    fn new(max: usize) -> Self {
        Self { size: 1, max }
    }

    /// Of the messages that were taken and admitted, so many ran in the first batch.
    fn adapt(&mut self, taken: usize, admitted: usize, ran: usize) {
        if ran < admitted {
            self.size = ran.max(1);
        } else if taken == self.size {
            self.size = (self.size * 2).min(self.max);
        }
    }
}

/// A batch that could not be committed.
struct Failed<'a> {
    /// Its messages.
    len: usize,
    running: &'a Running,
    error: StoreError,
}

pub(super) struct Lane {
    stage: Arc<Stage>,
    services: Services,
    acker: Arc<dyn Acker>,
    cache: LaneCache,
    contended: ContendedKeys,
    gate: Gate,
    take: TakeSize,
}

impl Lane {
    pub(super) fn new(stage: Arc<Stage>, services: Services, acker: Arc<dyn Acker>) -> Self {
        let cache = new_cache(&stage);
        let gate = Gate::new(Arc::clone(&stage), Arc::clone(&services.clock));
        let take = TakeSize::new(stage.config.batch_most());
        let contended = ContendedKeys::default();
        stage.metrics.open_lane();
        Self { stage, services, acker, cache, contended, gate, take }
    }

    pub(super) async fn run(mut self, mut messages: LaneReceiver, cancel: CancellationToken) {
        loop {
            let received = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                received = messages.receive(self.take.size) => received,
            };
            let taken = received.len();
            if taken == 0 {
                return;
            }
            let step = tracing::trace_span!(target: STEPS, "batch");
            let settling = async {
                let work = self.admit(received.into_iter(), &cancel).await;
                let admitted = work.len();
                if let Some(ran) = self.settle_all(work, &cancel).await {
                    self.take.adapt(taken, admitted, ran);
                }
            };
            settling.instrument(step).await;
        }
    }

    /// Runs and commits until every message is settled, or the lane is stopped (then the broker
    /// delivers the rest again). Returns the number of messages in the first batch that was committed.
    async fn settle_all(
        &mut self,
        mut work: Vec<Work>,
        cancel: &CancellationToken,
    ) -> Option<usize> {
        let mut pace = Pace::default();
        let mut first = None;
        while !work.is_empty() && !cancel.is_cancelled() {
            let Some(permit) = self.gate.pass(work[0].message.received, cancel).await else {
                return first;
            };
            // Read for each batch: what is left of the last one runs on the version that serves now.
            let Some(running) = self.stage.running() else { return first };
            let len = pace.next_len(&work, permit);
            let (len, turn) = self.services.turnstile.batch(len).await;
            let result = self.run_and_commit(&work[..len], &running, permit, turn.as_ref()).await;
            if let Permit::Probe(probe) = permit {
                // The message may have been settled without a call, or not at all.
                self.stage.breaker().release_probe(probe, self.services.clock.now_ms());
            }
            match result {
                Ok((Commit::Done { queued_ms, .. }, outcomes)) => {
                    first = first.or(Some(outcomes.len()));
                    // Other messages than the queue's say nothing about it.
                    let ran = &work[..outcomes.len()];
                    if ran.iter().all(|work| is_of_broker(work.message.tag)) {
                        self.stage.in_flight.settle(queued_ms);
                    }
                    let settled: Vec<Work> = work.drain(..outcomes.len()).collect();
                    self.finish(&settled, outcomes).await;
                    let reruns = if pace.reruns > RERUNS_MAX { pace.reruns } else { 0 };
                    pace = Pace { reruns, ..Pace::default() };
                }
                Ok((Commit::Conflict { stale, conflicts }, _)) => {
                    self.note_conflict(&stale, &conflicts);
                    self.drop_keys(&mut work, &stale, cancel).await;
                    pace.reruns += 1;
                    // It is not known what changed: by now, all that the batch wrote is locked.
                    let is_unknown = stale.is_empty() && conflicts.is_empty();
                    if is_unknown && pace.reruns > RERUNS_MAX {
                        let failed =
                            Failed { len, running: &running, error: StoreError::Contended };
                        self.recover(&mut work, failed, &mut pace, cancel).await;
                    }
                }
                Ok((Commit::SubjectCancelled(keys), _)) => self.mark_cancelled(&mut work, &keys),
                Err(error) => {
                    let failed = Failed { len, running: &running, error };
                    self.recover(&mut work, failed, &mut pace, cancel).await;
                }
            }
        }
        first
    }

    /// After a batch could not be committed: waits for the store, or makes the next batch smaller,
    /// or dead-letters the only message. Clears `work` when the lane is being stopped.
    async fn recover(
        &mut self,
        work: &mut Vec<Work>,
        failed: Failed<'_>,
        pace: &mut Pace,
        cancel: &CancellationToken,
    ) {
        let Failed { len, running, error } = failed;
        tracing::warn!(
            stage = %self.stage.name, %error, messages = len, "commit failed, retrying"
        );
        for work in work.iter().take(len) {
            let log = self.attempt(work, running).log(&self.stage, &work.message.envelope);
            log_delivery!(DEBUG, &log, %error, "commit failed, the delivery runs again");
        }
        // The cached versions are unknown; and a locked transaction may be what fails.
        self.cache = new_cache(&self.stage);
        self.contended = ContendedKeys::default();
        let is_refused = match &error {
            StoreError::Unavailable(_) | StoreError::StateUnavailable { .. } => {
                if !pause(&mut pace.backoff, cancel).await {
                    return work.clear();
                }
                // It may have taken effect all the same.
                return self.drop_settled(work, cancel).await;
            }
            StoreError::Contended => {
                if !pause(&mut pace.backoff, cancel).await {
                    return work.clear();
                }
                pace.contended += u32::from(len == 1);
                pace.contended > CONTENDED_MAX
            }
            StoreError::Rejected { .. } | StoreError::Corrupt(_) => true,
        };
        if len > 1 {
            pace.len_max = len / 2;
        } else if is_refused && !work.is_empty() {
            match self.alone(&work[0], running).dead_letter_refused(&error, None).await {
                Ok(true) => {
                    let settled = work.remove(0);
                    self.finish(&[settled], vec![OutcomeKind::DeadLettered]).await;
                    *pace = Pace::default();
                }
                // It is not acknowledged.
                Ok(false) => _ = work.remove(0),
                Err(_) if pause(&mut pace.backoff, cancel).await => {}
                Err(_) => work.clear(),
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
        turn: Option<&Turn>,
    ) -> Result<(Commit, Vec<OutcomeKind>), StoreError> {
        if self.stage.config.calls_out() {
            self.cache.clear();
        }
        // Not under a lock: only the first message waits for the rate limit.
        if work.first().is_some_and(|work| self.is_to_run(work)) {
            self.gate.wait_for_rate().await;
        }
        let lock = self.lock_contended().await?;
        let source = lock.as_ref().map_or_else(
            || Arc::clone(&self.services.store) as Arc<dyn StateSource>,
            |lock| lock.source(),
        );
        let state = self.batch_state(source);
        let began = Instant::now();
        let BatchResult { mut batch, outcomes, counted, spans } =
            self.run_batch(work, &BatchRun { running, state: &state, permit, turn }).await?;
        let emitted = batch.settlements.iter_mut().flat_map(|one| one.verdict.emitted_mut());
        let reserved = self.services.pipeline.reserve(emitted);
        let written = batch.writes.clone();
        let observed =
            self.services.observer.as_ref().map(|observer| (observer, batch.settlements.clone()));
        let mut commit = match lock {
            Some(lock) => lock.commit(batch).await?,
            None => self.services.store.commit(batch).await?,
        };
        self.stage.metrics.count_busy(began.elapsed());
        if let Commit::Conflict { .. } = &commit {
            self.contended.run_again(written.into_iter().map(|(key, _)| key));
        } else if let Commit::Done { versions, outbox, .. } = &mut commit {
            self.services.relay.enqueue(reserved.deliver(std::mem::take(outbox)));
            counted.keep();
            let stored = written
                .into_iter()
                .zip(versions.iter())
                .map(|((key, value), version): (_, &Version)| (key, value, *version));
            self.cache.store(stored);
            for span in spans {
                self.services.spans.record(span);
            }
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
        let settled = settled.iter().zip(outcomes).map(|(work, outcome)| Settled {
            outcome,
            time: work.message.received.elapsed(),
            attempt: work.key.attempt,
        });
        self.stage.metrics.record(&settled.collect::<Vec<_>>());
    }

    fn note_conflict(&mut self, stale: &[AttemptKey], conflicts: &[String]) {
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
            "commit refused, skipping deliveries of cancelled subjects"
        );
        for work in work.iter_mut().filter(|work| keys.contains(&work.key.delivery)) {
            work.subject_cancelled = true;
        }
    }

    async fn ack(&self, work: &[Work]) {
        let tags: Vec<u64> = work.iter().flat_map(|work| work.tags.iter().copied()).collect();
        if !tags.is_empty() {
            self.acker.ack(&tags).await;
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stage.metrics.close_lane();
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
