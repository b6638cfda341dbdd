//! Retention: deletes finished subjects past their retention period, in small batches.
//!
//! A subject is deleted with its events, deliveries, attempts, dead letters and state under
//! its key, once none of it is open; its id and fingerprint stay. Guarantee: nothing is
//! deleted that a broker may still deliver, because the configuration keeps subjects at least twice
//! as long as events live.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::RetentionConfig;
use crate::domain::subject_kind::SubjectKind;
use crate::services::Services;
use crate::store::{PruneRequest, Pruned, StoreError};

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
        if self.keeps_everything() {
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

    /// The period of a kind; 0: forever.
    fn period_of(&self, kind: &SubjectKind) -> u64 {
        kind.max_age_ms.unwrap_or(self.config.max_age_ms)
    }

    fn keeps_everything(&self) -> bool {
        let mut kinds = self.services.pipeline.kinds().iter();
        let subjects = self.config.max_age_ms == 0 && kinds.all(|kind| self.period_of(kind) == 0);
        subjects && self.config.audit_max_age_ms == 0
    }

    /// Deletes one batch.
    pub async fn tick(&self) -> Result<Pruned, StoreError> {
        let now_ms = self.services.clock.now_ms();
        let before = |age_ms: u64| (age_ms > 0).then(|| now_ms.saturating_sub(age_ms));
        let kinds = self.services.pipeline.kinds().iter();
        let request = PruneRequest {
            subjects: kinds
                .filter_map(|kind| Some((kind.name.clone(), before(self.period_of(kind))?)))
                .collect(),
            others: before(self.config.max_age_ms),
            limit: self.config.batch,
        };
        let pruned = self.services.store.prune(request).await?;
        if let Some(before_ms) = before(self.config.audit_max_age_ms) {
            let records = self.services.store.prune_audit(before_ms).await?;
            if records > 0 {
                tracing::info!(
                    records,
                    "deleted records of the audit log past their retention period"
                );
            }
        }
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
