//! The reconciler: the store knows every open delivery, so a queue that lost messages is refilled
//! from it.
//!
//! It carries the guarantee that an accepted order survives the loss of the broker. Two causes wake
//! it: a gap that the broker reports, and a sweep over stages whose queue is empty while old
//! deliveries are open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::Gap;
use crate::services::Services;
use crate::store::{LostDeliveries, StoreError};

/// Deliveries refilled in one transaction.
const REFILL_MAX: u32 = 500;
/// How often open gaps are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often idle stages are swept.
const SWEEP_EVERY_MS: u64 = 30_000;
/// A delivery is taken for lost when its queue is empty and it was handed over this long ago.
const SWEEP_GRACE_MS: u64 = 60_000;

/// A queue whose loss is known exactly is looked at again so long after its refill: what was
/// confirmed just before the loss may still have had its outbox row then.
const LOOK_AGAIN_MS: [u64; 3] = [2_000, 10_000, 30_000];

/// A gap under repair.
struct Repair {
    gap: Gap,
    /// Times that it was closed.
    closed: usize,
    /// Not looked at before then.
    next_ms: u64,
}

/// Refills queues.
pub struct Reconciler {
    services: Services,
    /// By stage.
    repairs: HashMap<Arc<str>, Repair>,
    swept_at_ms: u64,
}

impl Reconciler {
    /// Knows of no gap yet; the first sweep is due after a while.
    pub fn new(services: Services) -> Self {
        let swept_at_ms = services.clock.now_ms();
        Self { services, repairs: HashMap::new(), swept_at_ms }
    }

    /// Refills until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
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
                tracing::warn!(%error, "queues could not be reconciled; trying again");
            }
        }
    }

    /// One look at the gaps and, when it is time, at the idle stages.
    pub async fn tick(&mut self) -> Result<(), StoreError> {
        let now = self.services.clock.now_ms();
        for gap in self.services.broker.take_gaps() {
            self.repairs.insert(Arc::clone(&gap.stage), Repair { gap, closed: 0, next_ms: now });
        }
        let due = self
            .repairs
            .values()
            .filter(|repair| repair.next_ms <= now)
            .map(|repair| repair.gap.clone());
        for gap in due.collect::<Vec<_>>() {
            if self.refill(&gap).await? {
                self.close(&gap, now);
            }
        }
        if now.saturating_sub(self.swept_at_ms) >= SWEEP_EVERY_MS {
            self.swept_at_ms = now;
            self.sweep(now).await?;
        }
        Ok(())
    }

    /// Notes that a gap is refilled; one of a queue without bound stays for another look or two.
    fn close(&mut self, gap: &Gap, now_ms: u64) {
        let Some(repair) = self.repairs.get_mut(&gap.stage) else { return };
        match LOOK_AGAIN_MS.get(repair.closed).filter(|_| gap.room.is_none()) {
            Some(wait_ms) => {
                (repair.closed, repair.next_ms) = (repair.closed + 1, now_ms + wait_ms)
            }
            None => _ = self.repairs.remove(&gap.stage),
        }
    }

    /// Refills a gap as far as the queue has room; whether it is closed.
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
                tracing::warn!(%stage, deliveries = rows.len(), "found open deliveries that no queue held");
            }
            self.services.relay.enqueue(rows);
        }
        Ok(())
    }
}
