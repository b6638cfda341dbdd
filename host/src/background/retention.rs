//! Retention: deletes finished subjects past their retention period, in small batches.
//!
//! A subject is deleted with its events, deliveries, attempts, dead letters and state under
//! `order/<id>/`, once none of it is open; its id and fingerprint stay. Guarantee: nothing is
//! deleted that a broker may still deliver, because the configuration keeps subjects at least twice
//! as long as events live.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::RetentionConfig;
use crate::services::Services;
use crate::store::{Pruned, StoreError};

/// Pause between two full batches, so that deliveries have the store to themselves most of the time.
const BETWEEN: Duration = Duration::from_millis(50);

/// Deletes what is past its retention period.
pub struct Retention {
    services: Services,
    config: RetentionConfig,
}

impl Retention {
    /// Deletes by the periods of `config`.
    pub fn new(services: Services, config: RetentionConfig) -> Self {
        Self { services, config }
    }

    /// Deletes until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        if self.config.max_age_ms == 0 {
            // Everything is kept.
            return cancel.cancelled().await;
        }
        loop {
            let wait = match self.tick().await {
                Ok(pruned) if pruned.subjects + pruned.events >= u64::from(self.config.batch) => {
                    BETWEEN
                }
                Ok(_) => Duration::from_millis(self.config.interval_ms),
                Err(error) => {
                    tracing::warn!(%error, "expired subjects could not be deleted, retrying");
                    Duration::from_millis(self.config.interval_ms)
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Deletes one batch.
    pub async fn tick(&self) -> Result<Pruned, StoreError> {
        let before_ms = self.services.clock.now_ms().saturating_sub(self.config.max_age_ms);
        let pruned = self.services.store.prune(before_ms, self.config.batch).await?;
        if pruned.subjects + pruned.events > 0 {
            tracing::info!(
                subjects = pruned.subjects,
                events = pruned.events,
                "deleted finished subjects past their retention period"
            );
        }
        Ok(pruned)
    }
}
