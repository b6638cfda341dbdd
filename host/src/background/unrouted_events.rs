//! Routes events that no stage consumed when they were committed, once a stage consumes their type.
//!
//! It carries the guarantee that an accepted subject does not wait for ever: the store keeps such events
//! while their subject is unfinished, and this task looks for stages on this and every other host.
//! Bounds: [`BATCH`] events in one transaction. Costs: one query of a partial index every
//! [`EVERY`].

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::pipeline::routes::Routes as _;
use crate::services::Services;
use crate::store::{Routing, StoreError};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Events routed in one transaction.
const BATCH: u32 = 500;

/// Routes events that wait for a stage.
pub struct UnroutedRouter {
    services: Services,
    expiry_ms: u64,
}

impl UnroutedRouter {
    /// For the stages of these services. A routed event expires after `expiry_ms` at the earliest.
    pub fn new(services: Services, expiry_ms: u64) -> Self {
        Self { services, expiry_ms }
    }

    /// Routes until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            if let Err(error) = self.tick().await {
                tracing::warn!(%error, "events that wait for a stage could not be routed, retrying");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Routes what a stage consumes now, and counts what waits.
    pub async fn tick(&self) -> Result<(), StoreError> {
        let Services { store, pipeline, unrouted, .. } = &self.services;
        let mut waiting = store.unrouted_events().await?;
        let mut routed_any = false;
        for events in &waiting {
            let stages = pipeline.stages_for(&events.event_type);
            if !stages.is_empty() {
                self.route(&events.event_type, stages).await?;
                routed_any = true;
            }
        }
        if routed_any {
            waiting = store.unrouted_events().await?;
        }
        unrouted.store(Arc::new(waiting));
        Ok(())
    }

    async fn route(&self, event_type: &str, stages: Vec<Arc<str>>) -> Result<(), StoreError> {
        let Services { store, relay, clock, .. } = &self.services;
        let names = stages.join(",");
        loop {
            let routing = Routing {
                event_type: event_type.to_owned(),
                stages: stages.clone(),
                expires_at_ms: clock.now_ms() + self.expiry_ms,
                limit: BATCH,
            };
            let routed = store.route_unrouted(routing).await?;
            // Another host may have been first.
            if routed.events > 0 {
                tracing::info!(
                    event_type,
                    stages = names,
                    events = routed.events,
                    "routed events that waited for a stage"
                );
            }
            relay.enqueue(routed.outbox);
            if routed.events < BATCH {
                return Ok(());
            }
        }
    }
}
