//! A batch: messages that run one after another on one version of the stage, until the batch's time
//! is up.
//!
//! Bounds: `batch_time_ms` and `batch_max_bytes`, checked between messages; the rate limit; the gate,
//! which may close while the batch runs; the turn of its namespace, which may end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Lane, Work};
use crate::domain::spans::FinishedSpan;
use crate::domain::subject::SubjectKey;
use crate::pipeline::Running;
use crate::pipeline::chains::Counted;
use crate::pipeline::metrics::OutcomeKind;
use crate::pipeline::turns::Turn;
use crate::stage::circuit_breaker::Permit;
use crate::stage::state::{BatchState, LaneCache};
use crate::store::{Batch, StateSource, StoreError};

/// From this broker delivery on a message runs in a batch of its own.
const ISOLATED_FROM: u32 = 3;

/// A batch that ran and is ready to be committed.
pub(super) struct BatchResult {
    pub(super) batch: Batch,
    /// One for each message that ran, in order.
    pub(super) outcomes: Vec<OutcomeKind>,
    /// The events of the batch, until it is committed.
    pub(super) counted: Counted,
    /// To be recorded once it is committed.
    pub(super) spans: Vec<FinishedSpan>,
}

/// What the messages of one batch share.
pub(super) struct BatchRun<'a> {
    pub(super) running: &'a Running,
    pub(super) state: &'a Arc<BatchState>,
    pub(super) permit: Permit,
    /// None if the process has one namespace.
    pub(super) turn: Option<&'a Turn>,
}

impl Lane {
    /// Runs messages one after another until the batch's time is up.
    pub(super) async fn run_batch(
        &mut self,
        work: &[Work],
        run: &BatchRun<'_>,
    ) -> Result<BatchResult, StoreError> {
        let BatchRun { running, state, .. } = *run;
        let subjects: BTreeSet<SubjectKey> =
            work.iter().filter_map(|work| work.message.envelope.subject_key.clone()).collect();
        state.prefetch(&subjects).await?;
        let time_max = Duration::from_millis(self.stage.config.batch_time_ms);
        let (began, mut bytes) = (Instant::now(), 0);
        let (mut settlements, mut breaker_change) = (Vec::with_capacity(work.len()), None);
        let mut spans = Vec::new();
        let mut counted = self.services.pipeline.chains().begin();
        for work in work {
            // A started batch is committed before the lane waits for the rate limit.
            if !settlements.is_empty() && self.is_to_run(work) && !self.gate.allows_rate() {
                break;
            }
            let (settlement, change) = self.process(work, run, &mut spans).await;
            counted.add(&settlement);
            bytes += settlement.bytes();
            settlements.push(settlement);
            breaker_change = change.or(breaker_change);
            let is_full = began.elapsed() >= time_max || bytes >= self.stage.config.batch_max_bytes;
            let is_over = run.turn.is_some_and(Turn::is_over);
            if is_full || is_over || self.is_replaced(running) || !self.gate.is_open() {
                break;
            }
        }
        if let Some(state) = breaker_change {
            self.services.announce_breaker(&self.stage, running, state).await;
        }
        let outcomes =
            settlements.iter().map(|settlement| OutcomeKind::from(&settlement.verdict)).collect();
        let (reads, writes, cache) = state.finish();
        self.cache = cache;
        let batch = Batch {
            stage: Arc::clone(&self.stage.name),
            settlements,
            reads: reads.into_iter().collect(),
            writes: writes.into_iter().collect(),
        };
        Ok(BatchResult { batch, outcomes, counted, spans })
    }

    /// State for one batch, read from `source`; it borrows the lane's cache.
    pub(super) fn batch_state(&mut self, source: Arc<dyn StateSource>) -> Arc<BatchState> {
        BatchState::new(
            Arc::clone(&self.stage.name),
            source,
            self.stage.config.limits.state_limits(),
            std::mem::replace(&mut self.cache, LaneCache::placeholder()),
        )
    }

    /// Whether the stage is called for this message: what is skipped takes nothing of the rate limit.
    pub(super) fn is_to_run(&self, work: &Work) -> bool {
        let chain = &work.message.envelope.correlation_id;
        !work.subject_cancelled && !self.services.pipeline.chains().is_stopped(chain)
    }

    /// Whether another version serves now; it runs the rest of the batch.
    fn is_replaced(&self, running: &Running) -> bool {
        !self.stage.running().is_some_and(|now| std::ptr::eq(&raw const *now, running))
    }
}

/// How many of the next messages run in one batch. A message that was delivered so often that it
/// may be what stops its hosts runs in a batch of its own, and a batch has one attempt at a delivery.
pub(super) fn batch_len(work: &[Work]) -> usize {
    let is_isolated = |work: &Work| work.message.deliveries >= ISOLATED_FROM;
    match work.split_first() {
        Some((first, rest)) if !is_isolated(first) => {
            let end = rest.iter().position(|work| is_isolated(work) || work.follows_another);
            1 + end.unwrap_or(rest.len())
        }
        _ => work.len().min(1),
    }
}
