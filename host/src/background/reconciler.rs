//! The reconciler: refills queues that lost messages from the open deliveries in the store.
//!
//! It carries the guarantee that an accepted order survives the loss of the broker. Two triggers: a
//! gap that the broker reports, and a periodic sweep over stages whose queue is empty while old
//! deliveries are open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::broker::Gap;
use crate::services::Services;
use crate::store::{LostDeliveries, StoreError};

/// Deliveries refilled in one transaction.
const REFILL_MAX: u32 = 500;
/// Time between two checks of open gaps.
const TICK: Duration = Duration::from_millis(200);
/// Time between two sweeps.
const SWEEP_EVERY_MS: u64 = 30_000;
/// A delivery counts as lost when its queue is empty and it was queued this long ago.
const SWEEP_GRACE_MS: u64 = 60_000;

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
    swept_at_ms: u64,
}

impl Reconciler {
    /// Starts without gaps; the first sweep is due after one interval.
    pub fn new(services: Services) -> Self {
        let swept_at_ms = services.clock.now_ms();
        let state = State { repairs: HashMap::new(), swept_at_ms };
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
                state.close(&gap, now);
            }
        }
        if now.saturating_sub(state.swept_at_ms) >= SWEEP_EVERY_MS {
            state.swept_at_ms = now;
            self.sweep(now).await?;
        }
        Ok(())
    }

    /// Refills a gap as far as the queue has room; true when nothing is left to refill.
    async fn refill(&self, gap: &Gap) -> Result<bool, StoreError> {
        let mut room = match gap.room {
            None => u32::MAX,
            Some(room) => {
                let depth =
                    self.services.broker.depth(&gap.stage).await.unwrap_or(u64::from(room)) as u32;
                if depth > room / 2 {
                    return Ok(false);
                }
                (room - depth) / 2
            }
        };
        while room > 0 {
            let limit = room.min(REFILL_MAX);
            let lost = LostDeliveries { queued_before_ms: gap.before_ms, limit };
            let rows = self.services.store.requeue_lost(&gap.stage, lost).await?;
            let count = rows.len() as u32;
            if count > 0 {
                tracing::info!(stage = %gap.stage, deliveries = count, "refilled the queue from the store");
            }
            self.services.relay.enqueue(rows);
            if count < limit {
                return Ok(true);
            }
            room -= count;
        }
        Ok(false)
    }

    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError> {
        for stage in self.services.pipeline.consuming() {
            if self.services.broker.depth(&stage).await != Ok(0) {
                continue;
            }
            let lost = LostDeliveries {
                queued_before_ms: now_ms.saturating_sub(SWEEP_GRACE_MS),
                limit: REFILL_MAX,
            };
            let rows = self.services.store.requeue_lost(&stage, lost).await?;
            if !rows.is_empty() {
                tracing::warn!(%stage, deliveries = rows.len(), "refilled open deliveries that no queue held");
            }
            self.services.relay.enqueue(rows);
        }
        Ok(())
    }
}

impl State {
    /// Closes a gap that is refilled; one of a queue without a bound stays for later checks.
    fn close(&mut self, gap: &Gap, now_ms: u64) {
        let Some(repair) = self.repairs.get_mut(&gap.stage) else { return };
        match RECHECK_MS.get(repair.closed).filter(|_| gap.room.is_none()) {
            Some(wait_ms) => {
                (repair.closed, repair.next_ms) = (repair.closed + 1, now_ms + wait_ms);
            }
            None => _ = self.repairs.remove(&gap.stage),
        }
    }
}
