//! Applies what operators said on any host to this one: stage controls (pause, drain, resume), log
//! levels of stages, and stopped chains of events. Exchanges the counts of large chains with the other hosts.
//!
//! All hold on every host and survive restarts. Each host reads them twice a second; one that
//! cannot reach the store keeps what it read last.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::services::Services;
use crate::store::StoreError;

/// Time between two reads.
const POLL: Duration = Duration::from_millis(500);

/// Reads and applies stage controls.
pub struct ControlSync {
    services: Services,
}

impl ControlSync {
    /// For the stages of these services.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    /// Reads and applies until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            if let Err(error) = self.tick().await {
                tracing::debug!(%error, "controls could not be read, retrying");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Reads and applies once.
    pub async fn tick(&self) -> Result<(), StoreError> {
        self.sync_stages().await?;
        self.sync_chains().await
    }

    async fn sync_stages(&self) -> Result<(), StoreError> {
        let stages = self.services.pipeline.stages();
        let seen: Vec<u64> = stages.iter().map(|stage| stage.controls_set()).collect();
        // Also while the store does not answer.
        let now_ms = self.services.clock.now_ms();
        for stage in &stages {
            stage.expire_log_level(now_ms);
        }
        let controls = self.services.store.stage_controls().await?;
        let levels = self.services.store.stage_log_levels().await?;
        for (stage, seen) in stages.iter().zip(seen) {
            let control = controls.iter().find(|control| control.stage == *stage.name).cloned();
            stage.refresh_control(control, seen);
            let level = levels.iter().find(|level| level.stage == *stage.name).cloned();
            stage.refresh_log_level(level, seen, now_ms);
        }
        Ok(())
    }

    async fn sync_chains(&self) -> Result<(), StoreError> {
        let (store, chains) = (&self.services.store, self.services.pipeline.chains());
        let counts = chains.take_unrecorded();
        if !counts.is_empty()
            && let Err(error) = store.count_chains(counts.clone()).await
        {
            chains.restore(&counts);
            return Err(error);
        }
        let seen = chains.controls_set();
        chains.apply(&store.chains(chains.changed_since_ms()).await?, seen);
        Ok(())
    }
}
