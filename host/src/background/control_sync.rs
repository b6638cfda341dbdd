//! What operators said about stages: pause, drain, resume. It lives in the store, holds on every
//! host and survives restarts.
//!
//! Each host looks twice a second; a host that cannot look goes on as it was told last.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::services::Services;
use crate::store::StoreError;

/// How often the store is asked.
const POLL: Duration = Duration::from_millis(500);

/// Follows the operators' word.
pub struct ControlSync {
    services: Services,
}

impl ControlSync {
    /// For these services.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    /// Follows until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            if let Err(error) = self.tick().await {
                tracing::debug!(%error, "the stages' controls could not be read");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// One look.
    pub async fn tick(&self) -> Result<(), StoreError> {
        let controls = self.services.store.stage_controls().await?;
        for stage in self.services.pipeline.stages() {
            let control = controls.iter().find(|control| control.stage == *stage.name).cloned();
            stage.apply_control(control);
        }
        Ok(())
    }
}
