//! The reconciler: the store knows every open delivery, so a queue that lost messages is refilled from it.
//!
//! It carries the guarantee that an accepted order survives the loss of the broker. Two causes wake it: a gap that the broker
//! reports, and a sweep over stages whose queue is empty while old deliveries are open.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Gap};
use crate::clock::Clock;
use crate::pipeline::Pipeline;
use crate::relay::RelayHandle;
use crate::store::{Lost, Store, StoreError};

/// Deliveries refilled in one transaction.
const REFILL_MAX: u32 = 500;
/// How often open gaps are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often idle stages are swept.
const SWEEP_EVERY_MS: u64 = 30_000;
/// A delivery is taken for lost when its queue is empty and it was handed over this long ago.
const SWEEP_GRACE_MS: u64 = 60_000;

/// Refills queues.
pub struct Reconciler {
    /// Open deliveries are its truth.
    pub store: Arc<dyn Store>,
    /// Reports gaps.
    pub broker: Arc<dyn Broker>,
    /// Sends what was refilled.
    pub relay: RelayHandle,
    /// Which stages consume here.
    pub pipeline: Arc<Pipeline>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Gaps that are not refilled yet.
    pub gaps: HashMap<Arc<str>, Gap>,
    /// When the last sweep was.
    pub swept_at_ms: u64,
}

impl Reconciler {
    /// Refills until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let broker = Arc::clone(&self.broker);
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
        for gap in self.broker.take_gaps() {
            self.gaps.insert(Arc::clone(&gap.stage), gap);
        }
        for gap in self.gaps.values().cloned().collect::<Vec<_>>() {
            if self.refill(&gap).await? {
                self.gaps.remove(&gap.stage);
            }
        }
        let now = self.clock.now_ms();
        if now.saturating_sub(self.swept_at_ms) >= SWEEP_EVERY_MS {
            self.swept_at_ms = now;
            self.sweep(now).await?;
        }
        Ok(())
    }

    /// Refills a gap as far as the queue has room; whether it is closed.
    async fn refill(&self, gap: &Gap) -> Result<bool, StoreError> {
        let mut room = match gap.room {
            None => u32::MAX,
            Some(room) => {
                let depth = self.broker.depth(&gap.stage).await.unwrap_or(u64::from(room)) as u32;
                if depth > room / 2 {
                    return Ok(false);
                }
                (room - depth) / 2
            }
        };
        while room > 0 {
            let limit = room.min(REFILL_MAX);
            let lost = Lost { queued_before_ms: gap.before_ms, limit };
            let rows = self.store.requeue_lost(&gap.stage, lost).await?;
            let count = rows.len() as u32;
            if count > 0 {
                tracing::info!(stage = %gap.stage, deliveries = count, "refilled the queue from the store");
            }
            self.relay.hand_over(rows);
            if count < limit {
                return Ok(true);
            }
            room -= count;
        }
        Ok(false)
    }

    async fn sweep(&self, now_ms: u64) -> Result<(), StoreError> {
        for stage in self.pipeline.consuming() {
            if self.broker.depth(&stage).await != Ok(0) {
                continue;
            }
            let lost = Lost { queued_before_ms: now_ms.saturating_sub(SWEEP_GRACE_MS), limit: REFILL_MAX };
            let rows = self.store.requeue_lost(&stage, lost).await?;
            if !rows.is_empty() {
                tracing::warn!(%stage, deliveries = rows.len(), "found open deliveries that no queue held");
            }
            self.relay.hand_over(rows);
        }
        Ok(())
    }
}
