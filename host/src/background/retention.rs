//! Retention: what is finished and old goes, in small batches, beside the flow.
//!
//! An order goes with its events, deliveries, tries, dead letters and state under `order/<id>/`,
//! once nothing of it is open; its id and fingerprint stay. Guarantee: nothing goes that may still
//! arrive, because events expire long before (the configuration sees to that).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::RetentionConfig;
use crate::services::Services;
use crate::store::{Pruned, StoreError};

/// Pause between two batches, so that the flow has the store for itself most of the time.
const BETWEEN: Duration = Duration::from_millis(50);

/// Removes what is old.
pub struct Retention {
    services: Services,
    config: RetentionConfig,
}

impl Retention {
    /// By this policy.
    pub fn new(services: Services, config: RetentionConfig) -> Self {
        Self { services, config }
    }

    /// Removes until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        if self.config.max_age_ms == 0 {
            return;
        }
        loop {
            let wait = match self.tick().await {
                Ok(pruned) if pruned.orders + pruned.events >= u64::from(self.config.batch) => {
                    BETWEEN
                }
                Ok(_) => Duration::from_millis(self.config.interval_ms),
                Err(error) => {
                    tracing::warn!(%error, "nothing could be pruned");
                    Duration::from_millis(self.config.interval_ms)
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One batch.
    pub async fn tick(&self) -> Result<Pruned, StoreError> {
        let before_ms = self.services.clock.now_ms().saturating_sub(self.config.max_age_ms);
        let pruned = self.services.store.prune(before_ms, self.config.batch).await?;
        if pruned.orders + pruned.events > 0 {
            tracing::info!(
                orders = pruned.orders,
                events = pruned.events,
                "pruned what is finished and old"
            );
        }
        Ok(pruned)
    }
}
