//! Exchanges bindings with the other hosts through the store: an event is routed to every stage that
//! any of them runs, and a binding is removed only when no live host uses it. Reads the keys again with
//! which hosts sign their messages.
//!
//! A stage that runs on no host keeps its bindings, even across restarts: its deliveries wait for
//! it. Costs: one small transaction per host every few seconds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::Binding;
use crate::services::Services;
use crate::store::StageBinding;

/// Time between two exchanges.
const EVERY: Duration = Duration::from_secs(5);
/// A host whose last exchange is older than this no longer counts as live.
pub(crate) const LIVE_MS: u64 = crate::store::hosts::LIVE_MS;

/// Publishes this host's bindings, and learns those of others.
pub struct BindingSync {
    services: Services,
}

impl BindingSync {
    /// For the pipeline of these services.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    /// Exchanges until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            if let Err(error) = self.tick().await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "bindings could not be exchanged with other hosts, retrying"
                );
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Exchanges once.
    pub async fn tick(&self) -> anyhow::Result<()> {
        let Services { store, broker, pipeline, .. } = &self.services;
        // Another host may have added a key, or an operator removed one.
        broker.refresh_keys().await?;
        let known = store.record_bindings(pipeline.bindings(), LIVE_MS).await?;
        pipeline.set_remote_bindings(known.kept);
        for binding in known.unused {
            broker.unbind(&binding.stage, &binding.pattern).await?;
            if store.delete_binding(binding.clone(), LIVE_MS).await? {
                let StageBinding { stage, pattern } = &binding;
                tracing::info!(%stage, %pattern, "removed a binding that no host uses");
            } else {
                // Another host began to use it meanwhile, and may have bound it before it was
                // unbound here.
                broker.bind(&binding.stage, &binding.pattern).await?;
            }
        }
        Ok(())
    }

    /// Publishes a stage's bindings before its queue is declared, so that no other host removes
    /// them.
    pub(crate) async fn announce(services: &Services, binding: &Binding) {
        let mut used = services.pipeline.bindings();
        used.retain(|present| present.stage != binding.stage);
        used.extend(StageBinding::all(&binding.stage, &binding.patterns));
        match services.store.record_bindings(used, LIVE_MS).await {
            Ok(known) => services.pipeline.set_remote_bindings(known.kept),
            Err(error) => {
                tracing::warn!(stage = %binding.stage, %error, "bindings could not be published to other hosts yet");
            }
        }
    }
}
