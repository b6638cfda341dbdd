//! BindingSync, agreed between hosts through the store: an event is routed to every stage that any of
//! them runs, and a binding goes only when no live host uses it.
//!
//! A stage that nobody runs keeps its bindings, also over a restart: its deliveries wait until it
//! is back. Costs: one small transaction per host every few seconds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::Binding;
use crate::services::Services;
use crate::store::StageBinding;

/// How often hosts tell each other.
const EVERY: Duration = Duration::from_secs(5);
/// A host that said nothing for so long is gone.
pub(crate) const LIVE_MS: u64 = 30_000;

/// Keeps this host's bindings known, and learns those of others.
pub struct BindingSync {
    services: Services,
}

impl BindingSync {
    /// For these services.
    pub fn new(services: Services) -> Self {
        Self { services }
    }

    /// Tells and learns until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            if let Err(error) = self.tick().await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "bindings could not be agreed with other hosts; trying again"
                );
            }
        }
    }

    /// Once.
    pub async fn tick(&self) -> anyhow::Result<()> {
        let Services { store, broker, pipeline, .. } = &self.services;
        let known = store.record_bindings(pipeline.bindings(), LIVE_MS).await?;
        pipeline.set_remote_bindings(known.kept);
        for binding in known.unused {
            broker.unbind(&binding.stage, &binding.pattern).await?;
            if store.delete_binding(binding.clone(), LIVE_MS).await? {
                tracing::info!(stage = %binding.stage, pattern = %binding.pattern, "no host uses this binding any more: it was removed");
            } else {
                // A host began to use it a moment ago, and may have bound it before it was unbound
                // here.
                broker.bind(&binding.stage, &binding.pattern).await?;
            }
        }
        Ok(())
    }

    /// Before a stage is declared: from now on no other host takes its bindings away.
    pub(crate) async fn announce(services: &Services, binding: &Binding) {
        let mut used = services.pipeline.bindings();
        used.retain(|present| present.stage != binding.stage);
        used.extend(StageBinding::all(&binding.stage, &binding.patterns));
        match services.store.record_bindings(used, LIVE_MS).await {
            Ok(known) => services.pipeline.set_remote_bindings(known.kept),
            Err(error) => {
                tracing::warn!(stage = %binding.stage, %error, "the bindings could not be told to other hosts yet")
            }
        }
    }
}
