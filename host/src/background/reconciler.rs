//! The reconciler: refills queues that lost messages from the open deliveries in the store.
//!
//! It carries the guarantee that an accepted subject survives the loss of the broker. Two triggers: a
//! gap that the broker reports, and a periodic sweep for open deliveries that no queue holds: queued
//! before those that are settled now, or before an empty queue, and held by no host. A message that
//! a host holds for long counts as queued when the host recorded that last. A copy of a message that
//! was not lost costs a call at most: the compare-and-set settles a delivery once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::broker::Gap;
use crate::pipeline::{Consumption, Stage};
use crate::services::Services;
use crate::store::{ControlState, LostDeliveries, StoreError};

/// Deliveries refilled in one transaction.
const REFILL_MAX: u32 = 500;
/// Bytes of events after which a refill begins another transaction.
const REFILL_MAX_BYTES: u64 = 8 << 20;
/// Time between two checks of open gaps.
const TICK: Duration = Duration::from_millis(200);
/// Time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Longest time between two sweeps: one takes at most a twentieth of the time.
const SWEEP_EVERY_MAX: Duration = Duration::from_secs(30);
/// A delivery counts as lost when it was queued this long before those that are settled now.
const SWEEP_GRACE_MS: u64 = 5_000;
/// A queue counts as empty after this many sweeps: hosts have recorded what they hold by then.
const EMPTY_SWEEPS: u32 = 3;
/// Deliveries of a busy queue that are sent again at most in one sweep.
const BUSY_MAX: u32 = 100;
/// A message that was held for this long is recorded as held: with the time between two sweeps,
/// well within the grace.
const HELD: Duration = Duration::from_millis(1_500);

/// A queue without a bound is checked again this long after its refill: a message that was
/// confirmed just before the loss may still have had its outbox row at the refill.
const RECHECK_MS: [u64; 3] = [2_000, 10_000, 30_000];

/// A gap under repair.
struct Repair {
    gap: Gap,
    /// Times that it was refilled.
    closed: usize,
    /// Next check, milliseconds since 1970-01-01 UTC.
    next_ms: u64,
}

/// Refills queues.
pub struct Reconciler {
    services: Services,
    /// Survives a restart of the task: the broker reports a gap once.
    state: Mutex<State>,
}

struct State {
    /// By stage.
    repairs: HashMap<Arc<str>, Repair>,
    next_sweep: Instant,
    /// Sweeps in a row that found the stage's queue empty.
    empty_sweeps: HashMap<Arc<str>, u32>,
}

impl Reconciler {
    /// Starts without gaps; the first sweep is due after one interval.
    pub fn new(services: Services) -> Self {
        let next_sweep = Instant::now() + SWEEP_EVERY;
        let state = State { repairs: HashMap::new(), next_sweep, empty_sweeps: HashMap::new() };
        Self { services, state: Mutex::new(state) }
    }

    /// Refills until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let broker = Arc::clone(&self.services.broker);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = broker.gap() => {}
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.tick().await {
                tracing::warn!(%error, "queues could not be reconciled, retrying");
            }
        }
    }

    /// Checks the gaps and, when it is time, sweeps.
    pub async fn tick(&self) -> Result<(), StoreError> {
        let now = self.services.clock.now_ms();
        let state = &mut *self.state.lock().await;
        for gap in self.services.broker.take_gaps() {
            state.repairs.insert(Arc::clone(&gap.stage), Repair { gap, closed: 0, next_ms: now });
        }
        let due = state
            .repairs
            .values()
            .filter(|repair| repair.next_ms <= now)
            .map(|repair| repair.gap.clone());
        for gap in due.collect::<Vec<_>>() {
            if self.refill(&gap).await? {
                self.services.broker.refilled(&gap).await;
                state.close(&gap, now);
            }
        }
        if Instant::now() >= state.next_sweep {
            let began = Instant::now();
            let swept = self.sweep(&mut state.empty_sweeps).await;
            let wait = (began.elapsed() * 20).clamp(SWEEP_EVERY, SWEEP_EVERY_MAX);
            state.next_sweep = Instant::now() + wait;
            swept?;
        }
        Ok(())
    }

    /// Refills a gap as far as the queue has room; true when nothing is left to refill.
    async fn refill(&self, gap: &Gap) -> Result<bool, StoreError> {
        let mut room = self.services.broker.room(&gap.stage);
        if let Some(capacity) = gap.capacity {
            if !room.covers(capacity.half()) {
                return Ok(false);
            }
            room = room.half();
        }
        while room.messages > 0 && room.bytes > 0 {
            let limit = room.messages.min(REFILL_MAX);
            let max_bytes = room.bytes.min(REFILL_MAX_BYTES);
            let queued_before_ms = gap.before_ms;
            let lost = LostDeliveries { queued_before_ms, min_age_ms: 0, limit, max_bytes };
            let rows = self.services.store.requeue_lost(&gap.stage, lost).await?;
            if rows.is_empty() {
                return Ok(true);
            }
            tracing::info!(
                stage = %gap.stage, deliveries = rows.len(), "refilled the queue from the store"
            );
            for row in &rows {
                room.remove(row.envelope.bytes());
            }
            self.services.relay.enqueue(rows);
        }
        Ok(false)
    }

    /// Sends the deliveries again that no queue and no host holds.
    async fn sweep(&self, empty_sweeps: &mut HashMap<Arc<str>, u32>) -> Result<(), StoreError> {
        for stage in self.services.pipeline.stages() {
            let control = stage.control();
            let runs = control.is_none_or(|control| control.state == ControlState::Running);
            if !runs || stage.consumption() != Consumption::Consuming {
                empty_sweeps.remove(&stage.name);
                continue;
            }
            let is_empty = self.services.broker.depth(&stage.name).await == Ok(0);
            let times = empty_sweeps.entry(Arc::clone(&stage.name)).or_default();
            *times = if is_empty { *times + 1 } else { 0 };
            let is_empty = *times >= EMPTY_SWEEPS;
            self.sweep_stage(&stage, is_empty).await?;
        }
        Ok(())
    }

    async fn sweep_stage(&self, stage: &Stage, is_empty: bool) -> Result<(), StoreError> {
        let store = &self.services.store;
        store.mark_held(&stage.name, stage.in_flight.held_for(HELD)).await?;
        let (queued_before_ms, limit) = if is_empty {
            (u64::MAX, REFILL_MAX)
        } else {
            (self.passed_ms(stage).saturating_sub(SWEEP_GRACE_MS), BUSY_MAX)
        };
        let (min_age_ms, max_bytes) = (SWEEP_GRACE_MS, REFILL_MAX_BYTES);
        let lost = LostDeliveries { queued_before_ms, min_age_ms, limit, max_bytes };
        let rows = store.requeue_lost(&stage.name, lost).await?;
        if !rows.is_empty() {
            tracing::warn!(
                stage = %stage.name,
                deliveries = rows.len(),
                "sent open deliveries again that no queue held"
            );
        }
        self.services.relay.enqueue(rows);
        Ok(())
    }
}

impl Reconciler {
    /// Everything queued before then has left the stage's queue, milliseconds since 1970-01-01 UTC.
    fn passed_ms(&self, stage: &Stage) -> u64 {
        let settled_ms = stage.in_flight.settled_queued_ms();
        let wait = self.services.broker.longest_wait(&stage.name);
        wait.map_or(settled_ms, |wait| {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            settled_ms.min(self.services.clock.now_ms().saturating_sub(wait_ms))
        })
    }
}

impl State {
    /// Closes a gap that is refilled; one of a queue without a bound stays for later checks.
    fn close(&mut self, gap: &Gap, now_ms: u64) {
        let Some(repair) = self.repairs.get_mut(&gap.stage) else { return };
        match RECHECK_MS.get(repair.closed).filter(|_| gap.capacity.is_none()) {
            Some(wait_ms) => {
                (repair.closed, repair.next_ms) = (repair.closed + 1, now_ms + wait_ms);
            }
            None => _ = self.repairs.remove(&gap.stage),
        }
    }
}
