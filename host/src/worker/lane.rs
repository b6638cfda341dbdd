//! A lane: take what is ready, run it message after message, commit all outcomes in one
//! transaction, acknowledge, take the next.
//!
//! One batch in flight, so nothing ever builds on an uncommitted batch. There is no timer: under
//! low load a batch is one message, under high load batches grow. The guarantees are the commit's
//! compare-and-set and version check; a batch that they refuse is run again, and none of that is an
//! attempt. Keys that were in conflict with other hosts are locked before the next batches run.
//!
//! A stage that calls the outside has many lanes, and its batches are single messages: nobody waits
//! for another's call, no call is made under a lock, and what it is decided by was committed
//! (nothing is cached between messages).

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Services;
use super::gate::Gate;
use crate::broker::{Acker, Incoming};
use crate::domain::event::{BREAKER_CHANGED, DeliveryKey, idempotency_key};
use crate::domain::trace_context::TraceContext;
use crate::pipeline::metrics::OutcomeKind;
use crate::pipeline::plugin_change::PluginChange;
use crate::pipeline::{Running, Stage};
use crate::stage::circuit_breaker::{BreakerState, Health, Permit};
use crate::stage::handler::{Call, CallContext, Outcome};
use crate::stage::recording::Decided;
use crate::stage::state::{BatchState, LaneCache};
use crate::store::{
    Batch, Commit, LockedState, Settlement, StateSource, StoreError, Verdict, Version,
};
use crate::worker::decide::{self, Attempt, DecisionTime};

/// Times that a refused batch is run again as a whole; after that its messages are committed one by
/// one.
const RERUNS_MAX: u32 = 3;
/// A message whose probe failed comes back after this long.
const PROBE_DEFER_MS: u64 = 1_000;
/// Keys that a lane locks at most.
const CONTENDED_MAX: usize = 64;
/// Batches for which a key that was in conflict is locked.
const CONTENDED_BATCHES: u32 = 64;
/// From this broker delivery on a message runs alone.
const ALONE_FROM: u32 = 3;
/// Pause after the store did not answer, doubled up to [`STORE_BACKOFF_MAX`].
const STORE_BACKOFF: Duration = Duration::from_millis(50);
const STORE_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A delivery in this lane's hands, with every copy of it that the broker handed out.
struct Work {
    key: DeliveryKey,
    message: Incoming,
    tags: Vec<u64>,
    /// Its order is cancelled: it is settled without running.
    overtaken: bool,
}

pub(super) struct Lane {
    stage: Arc<Stage>,
    services: Services,
    acker: Arc<dyn Acker>,
    cache: LaneCache,
    contended: Contended,
    gate: Gate,
}

/// Keys that other hosts write, too: they are locked before a batch runs, for a while.
#[derive(Default)]
struct Contended {
    keys: BTreeSet<String>,
    batches_left: u32,
}

impl Contended {
    fn note(&mut self, conflicts: &[String]) {
        if conflicts.is_empty() {
            return;
        }
        if self.keys.len() + conflicts.len() > CONTENDED_MAX {
            self.keys.clear();
        }
        self.keys.extend(conflicts.iter().take(CONTENDED_MAX).cloned());
        self.batches_left = CONTENDED_BATCHES;
    }

    /// The keys to be locked for the next batch.
    fn take_turn(&mut self) -> Vec<String> {
        if self.batches_left == 0 {
            self.keys.clear();
        }
        self.batches_left = self.batches_left.saturating_sub(1);
        self.keys.iter().cloned().collect()
    }
}

/// What running a batch produced.
struct BatchResult {
    batch: Batch,
    state: Arc<BatchState>,
    /// What the messages that were run came to; the rest comes with the next batch.
    settled: Vec<OutcomeKind>,
}

impl Lane {
    pub(super) fn new(stage: Arc<Stage>, services: Services, acker: Arc<dyn Acker>) -> Self {
        let cache = new_cache(&stage);
        let gate = Gate::new(Arc::clone(&stage), Arc::clone(&services.clock));
        Self { stage, services, acker, cache, contended: Contended::default(), gate }
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

    /// Joins copies of one delivery and acknowledges what was settled before.
    async fn admit(
        &self,
        received: impl Iterator<Item = Incoming>,
        cancel: &CancellationToken,
    ) -> Vec<Work> {
        let mut places: HashMap<(DeliveryKey, u32, u32), usize> = HashMap::new();
        let mut work: Vec<Work> = Vec::new();
        for message in received {
            let key =
                DeliveryKey { stage: Arc::clone(&self.stage.name), event: message.envelope.key() };
            let place =
                *places.entry((key.clone(), message.round, message.attempt)).or_insert(work.len());
            match work.get_mut(place) {
                Some(first) => first.tags.push(message.tag),
                None => work.push(Work { key, tags: vec![message.tag], message, overtaken: false }),
            }
        }
        if work.iter().any(|work| work.message.redelivered) {
            self.drop_settled(&mut work, cancel).await;
        }
        work
    }

    /// Asks the store which deliveries are settled, waiting out an outage, and acknowledges those.
    async fn drop_settled(&self, work: &mut Vec<Work>, cancel: &CancellationToken) {
        let mut backoff = STORE_BACKOFF;
        loop {
            let keys = work
                .iter()
                .map(|work| (work.key.clone(), work.message.round, work.message.attempt))
                .collect();
            match self.services.store.already_settled(keys).await {
                Ok(settled) => return self.drop_keys(work, &settled).await,
                Err(error) if pause(&mut backoff, cancel).await => {
                    tracing::debug!(%error, "waiting for the store")
                }
                Err(_) => return work.clear(),
            }
        }
    }

    async fn drop_keys(&self, work: &mut Vec<Work>, keys: &[DeliveryKey]) {
        let (dropped, kept): (Vec<Work>, Vec<Work>) =
            std::mem::take(work).into_iter().partition(|work| keys.contains(&work.key));
        *work = kept;
        self.ack(&dropped).await;
    }

    async fn ack(&self, work: &[Work]) {
        let tags: Vec<u64> = work.iter().flat_map(|work| work.tags.iter().copied()).collect();
        if !tags.is_empty() {
            self.acker.ack(&tags).await;
        }
    }

    /// Runs and commits until every message is settled, or the lane is stopped (then the broker
    /// delivers the rest again).
    async fn settle_all(&mut self, mut work: Vec<Work>, cancel: &CancellationToken) {
        let mut reruns = 0;
        let mut backoff = STORE_BACKOFF;
        while !work.is_empty() && !cancel.is_cancelled() {
            let Some(permit) = self.gate.pass(cancel).await else { return };
            // What is left of a batch, or has waited, runs on the version that serves now.
            let Some(running) = self.stage.running() else { return };
            let most =
                if reruns > RERUNS_MAX || permit == Permit::Probe { 1 } else { batch_len(&work) };
            let attempt = self.attempt(&work[..most], &running, permit).await;
            if permit == Permit::Probe {
                // It may have come to nothing, or have been settled without running.
                self.stage.breaker().give_up_probe(self.services.clock.now_ms());
            }
            match attempt {
                Ok((Commit::Done { outbox, .. }, outcomes)) => {
                    self.services.relay.enqueue(outbox);
                    let settled: Vec<Work> = work.drain(..outcomes.len()).collect();
                    self.ack(&settled).await;
                    let times = settled.iter().map(|work| work.message.received.elapsed());
                    self.stage.meter.note(outcomes.into_iter().zip(times));
                    backoff = STORE_BACKOFF;
                }
                Ok((Commit::Conflict { stale, conflicts }, _)) => {
                    tracing::debug!(stage = %self.stage.name, stale = stale.len(), conflicts = conflicts.len(), "batch refused");
                    self.cache.forget(&conflicts);
                    self.contended.note(&conflicts);
                    self.drop_keys(&mut work, &stale).await;
                    reruns += 1;
                }
                Ok((Commit::OrderCancelled(keys), _)) => {
                    tracing::debug!(stage = %self.stage.name, deliveries = keys.len(), "orders were cancelled");
                    work.iter_mut()
                        .filter(|work| keys.contains(&work.key))
                        .for_each(|work| work.overtaken = true);
                }
                Err(error) => {
                    // The commit may or may not have happened: forget what was cached and ask
                    // before running again.
                    tracing::warn!(stage = %self.stage.name, %error, "a batch could not be committed; trying again");
                    self.cache = new_cache(&self.stage);
                    if !pause(&mut backoff, cancel).await {
                        return;
                    }
                    self.drop_settled(&mut work, cancel).await;
                }
            }
        }
    }

    async fn attempt(
        &mut self,
        work: &[Work],
        running: &Running,
        permit: Permit,
    ) -> Result<(Commit, Vec<OutcomeKind>), StoreError> {
        if self.stage.config.calls_out() {
            self.cache.clear();
        }
        let lock = self.lock_contended().await?;
        let BatchResult { mut batch, state, settled } =
            self.run_batch(work, running, permit).await?;
        let (reads, writes, cache) = state.finish();
        self.cache = cache;
        batch.reads = reads.into_iter().collect();
        batch.writes = writes.into_iter().collect();
        let written = batch.writes.clone();
        let observed =
            self.services.observer.as_ref().map(|observer| (observer, batch.settlements.clone()));
        let commit = match lock {
            Some(lock) => lock.commit(batch).await?,
            None => self.services.store.commit(batch).await?,
        };
        if let Commit::Done { versions, .. } = &commit {
            let learned = written
                .into_iter()
                .zip(versions)
                .map(|((key, value), version): (_, &Version)| (key, value, *version));
            self.cache.learn(learned);
            if let Some((observer, settlements)) = observed {
                for settlement in &settlements {
                    observer(settlement);
                }
            }
        }
        Ok((commit, settled))
    }

    /// Locks what other hosts write, too, and learns how it stands.
    async fn lock_contended(&mut self) -> Result<Option<Box<dyn LockedState>>, StoreError> {
        let keys = self.contended.take_turn();
        if keys.is_empty() || self.stage.config.calls_out() {
            return Ok(None);
        }
        let lock = self.services.store.lock_state(&self.stage.name, &keys).await?;
        if let Some(lock) = &lock {
            self.cache.learn(
                lock.rows().iter().map(|row| (row.key.clone(), row.value.clone(), row.version)),
            );
        }
        Ok(lock)
    }

    /// Runs messages one after another until the batch's time is up.
    async fn run_batch(
        &mut self,
        work: &[Work],
        running: &Running,
        permit: Permit,
    ) -> Result<BatchResult, StoreError> {
        let cache = std::mem::replace(&mut self.cache, LaneCache::placeholder());
        let limits = self.stage.config.limits.state_limits();
        let state = BatchState::new(
            Arc::clone(&self.stage.name),
            Arc::clone(&self.services.store) as Arc<dyn StateSource>,
            limits,
            cache,
        );
        let subjects: BTreeSet<String> =
            work.iter().map(|work| work.message.envelope.event.subject.clone()).collect();
        state.prefetch(&subjects).await?;
        let budget = Duration::from_millis(self.stage.config.batch_time_ms);
        let began = Instant::now();
        let (mut settlements, mut breaker_change) = (Vec::with_capacity(work.len()), None);
        for work in work {
            // The first message waits for its turn; the batch does not.
            if !self.gate.allows_rate(settlements.is_empty()).await {
                break;
            }
            let (settlement, turn) = self.run_one(work, running, &state, permit).await;
            settlements.push(settlement);
            breaker_change = turn.or(breaker_change);
            // What is left of the batch runs on the version that serves by then.
            let replaced =
                !self.stage.running().is_some_and(|now| std::ptr::eq(&raw const *now, running));
            if began.elapsed() >= budget || replaced || !self.gate.is_open() {
                break;
            }
        }
        if let Some(state) = breaker_change {
            self.announce_breaker(state, running).await;
        }
        let settled =
            settlements.iter().map(|settlement| OutcomeKind::from(&settlement.verdict)).collect();
        let batch = Batch {
            stage: Arc::clone(&self.stage.name),
            settlements,
            reads: Vec::new(),
            writes: Vec::new(),
        };
        Ok(BatchResult { batch, state, settled })
    }

    /// Runs one message. Gives the breaker's new state, too, when this opened or closed it.
    async fn run_one(
        &self,
        work: &Work,
        running: &Running,
        state: &Arc<BatchState>,
        permit: Permit,
    ) -> (Settlement, Option<BreakerState>) {
        let Incoming { envelope, round, attempt, .. } = &work.message;
        let digest: Arc<str> = running.handler.digest().into();
        let mut tried = Attempt {
            delivery: work.key.clone(),
            round: *round,
            attempt: *attempt,
            digest,
            duration_us: 0,
        };
        let routes = &*self.services.pipeline;
        let expires_at_ms =
            self.stage.expires_at_ms(envelope.expires_at_ms, running.policy.expiry_ms);
        let early = if work.overtaken {
            Some(Verdict::Skipped)
        } else {
            decide::before_running(
                &running.policy,
                routes,
                envelope,
                &tried,
                (self.moment(), expires_at_ms),
            )
        };
        let (mut breaker_change, mut recording) = (None, None);
        let (verdict, failure) = match early {
            Some(verdict) => (verdict, None),
            None => {
                let call = self.call(work, state);
                let (recorder, now_ms) = (call.context.recorder.clone(), call.context.now_ms);
                let handled = running.handler.handle(call).await;
                tried.duration_us = handled.duration.as_micros() as u64;
                if let Outcome::Unavailable(why) = &handled.outcome {
                    tracing::warn!(stage = %self.stage.name, %why, "a message could not be run; it comes back");
                }
                let health = handled.outcome.health();
                if let Some(why) = self.stage.ran(&tried.digest, handled.outcome.is_trap()) {
                    self.distrust(&tried.digest, why);
                }
                let free = health.is_some_and(|health| self.is_uncounted(health, permit));
                breaker_change = health.and_then(|health| {
                    self.stage.breaker().report(health, self.services.clock.now_ms())
                });
                let retryable = handled.outcome.is_retryable();
                let (mut verdict, mut failure) = decide::decide(
                    &running.policy,
                    routes,
                    envelope,
                    &tried,
                    handled.outcome,
                    self.moment(),
                );
                if free {
                    (verdict, failure) = (
                        Verdict::Deferred {
                            due_at_ms: self.services.clock.now_ms() + PROBE_DEFER_MS,
                        },
                        None,
                    );
                }
                recording =
                    recorder.finish(now_ms, || Decided::of(&verdict, retryable, &handled.writes));
                if matches!(verdict, Verdict::Done(_)) {
                    state.merge(handled.writes);
                }
                (verdict, failure)
            }
        };
        if let Some(failure) = &failure {
            let event = &envelope.event;
            tracing::warn!(
                stage = %self.stage.name, event = %event.id, event_type = %event.event_type, order = envelope.order_id.as_deref(),
                attempt, code = %failure.code, dead = matches!(verdict, Verdict::Dead { .. }), "{}", failure.message
            );
        }
        let settlement = Settlement {
            delivery: work.key.clone(),
            envelope: Arc::clone(envelope),
            round: *round,
            attempt: *attempt,
            verdict,
            version: running.handler.description().version.clone(),
            digest: tried.digest,
            duration_us: tried.duration_us,
            failure,
            recording,
        };
        (settlement, breaker_change)
    }

    /// The failure of a probe is no attempt, for a while: what the stage depends on is known to be
    /// down.
    fn is_uncounted(&self, health: Health, permit: Permit) -> bool {
        permit == Permit::Probe && health == Health::Failing && self.stage.breaker().probe_is_free()
    }

    /// The version before runs again by now; the supervisor sees to its file.
    fn distrust(&self, digest: &str, why: String) {
        tracing::error!(stage = %self.stage.name, digest, why, "a new version traps: the one before runs again");
        let change = PluginChange::RolledBack {
            stage: Arc::clone(&self.stage.name),
            digest: digest.to_owned(),
            why,
        };
        // The supervisor may be waiting for this very lane: it is told, never waited for.
        if self.services.plugins.upgrade().is_none_or(|plugins| plugins.try_send(change).is_err()) {
            tracing::error!(stage = %self.stage.name, "the supervisor is too busy to put the file back, too");
        }
    }

    /// Says that the breaker opened or closed: in the log, and as an event that anybody may listen
    /// to.
    async fn announce_breaker(&self, state: BreakerState, running: &Running) {
        tracing::warn!(stage = %self.stage.name, ?state, "the circuit breaker changed");
        let data = serde_json::json!({ "stage": &*self.stage.name, "state": state, "host": &*self.services.host });
        self.services.announce(&running.policy, BREAKER_CHANGED, &data).await;
    }

    fn call(&self, work: &Work, state: &Arc<BatchState>) -> Call {
        let message = &work.message;
        let recorder = self.stage.recorder();
        let context = CallContext {
            stage: Arc::clone(&self.stage.name),
            attempt: message.attempt,
            idempotency_key: idempotency_key(&work.key),
            now_ms: self.services.clock.now_ms(),
            trace_headers: TraceContext::of_try(
                &message.envelope.event,
                &work.key,
                message.round,
                message.attempt,
            )
            .headers(),
            settings: Arc::clone(&self.stage.settings),
            logs: None,
            recorder: recorder.clone(),
        };
        Call { envelope: Arc::clone(&message.envelope), context, state: state.view_noted(recorder) }
    }

    fn moment(&self) -> DecisionTime {
        DecisionTime { now_ms: self.services.clock.now_ms(), random: rand::random() }
    }
}

/// How many of the next messages run in one batch. One that was delivered so often that it may be
/// what ends its hosts runs alone.
fn batch_len(work: &[Work]) -> usize {
    work.iter()
        .position(|work| work.message.deliveries >= ALONE_FROM)
        .map_or(work.len(), |first| first.max(1))
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
