//! The services that workers, background tasks and the app share: store, broker, relay, pipeline and
//! clock. Cheap to clone; it owns no task.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::domain::clock::Clock;
use crate::domain::event::{BREAKER_CHANGED, Envelope, Event};
use crate::domain::spans::Spans;
use crate::pipeline::plugin_change::PluginChange;
use crate::pipeline::routes::Routes as _;
use crate::pipeline::turns::Turnstile;
use crate::pipeline::{Pipeline, Running, Stage};
use crate::relay::RelayHandle;
use crate::stage::circuit_breaker::{BreakerState, BreakerStatus};
use crate::stage::policy::StagePolicy;
use crate::store::{
    AcceptedEvent, Counted, NewEvent, Settlement, Store, StoreError, UnroutedEvents,
};

/// Target of the spans in which a host and its calls run. The host's is a child of the span in which
/// it was built.
pub const SPANS: &str = "postrider::span";

/// Called with every delivery that this host settles, after its commit. The lanes call it, so it
/// must return quickly.
pub type Observer = Arc<dyn Fn(&Settlement) + Send + Sync>;

/// The shared services of one host.
#[derive(Clone)]
pub struct Services {
    /// Subjects, events, deliveries and state.
    pub store: Arc<dyn Store>,
    /// The queues of the stages.
    pub broker: Arc<dyn Broker>,
    /// Sends committed events.
    pub relay: RelayHandle,
    /// Stages and routes.
    pub pipeline: Arc<Pipeline>,
    /// Events that wait for a stage, as last counted.
    pub unrouted: Arc<ArcSwap<Vec<UnroutedEvents>>>,
    /// What waits in the store and what finished, as last counted.
    pub counted: Arc<Counted>,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// This host's name.
    pub host: Arc<str>,
    /// Where rollbacks are reported. Weak: the supervisor ends when the watcher of the folder does.
    pub plugins: mpsc::WeakSender<PluginChange>,
    /// Called with every settled delivery.
    pub observer: Option<Observer>,
    /// Where spans go that have ended.
    pub spans: Spans,
    /// Where the namespace waits while others of the process work.
    pub turnstile: Turnstile,
}

impl Services {
    /// Publishes an event of the host about a stage. It is a notification that no delivery depends
    /// on: when the store is unavailable, it is lost.
    pub(crate) async fn announce(
        &self,
        policy: &StagePolicy,
        event_type: &str,
        data: &serde_json::Value,
    ) {
        let now_ms = self.clock.now_ms();
        let event = Event {
            id: uuid::Uuid::now_v7().to_string(),
            event_type: event_type.to_owned(),
            source: policy.source.clone(),
            subject: policy.name.to_string(),
            time_ms: now_ms,
            content_type: "application/json".to_owned(),
            data: data.to_string().into(),
            attributes: vec![("stage".to_owned(), policy.name.to_string())],
        };
        let envelope = Envelope::first(event, None, now_ms + policy.expiry_ms);
        let routed_to = self.pipeline.stages_for(event_type);
        let event = NewEvent::new(envelope, now_ms, routed_to);
        if let Err(error) = self.publish(event).await {
            tracing::warn!(%error, event_type, "the event could not be published");
        }
    }

    /// Logs and publishes that the circuit breaker of a stage opened or closed.
    pub(crate) async fn announce_breaker(
        &self,
        stage: &Stage,
        running: &Running,
        state: BreakerState,
    ) {
        let BreakerStatus { reason, next_probe_at_ms, .. } = stage.breaker().status();
        let reason = reason.filter(|_| state != BreakerState::Closed);
        let now_ms = self.clock.now_ms();
        match (&reason, next_probe_at_ms) {
            (Some(reason), Some(at_ms)) => tracing::warn!(
                stage = %stage.name,
                %reason,
                next_probe_ms = at_ms.saturating_sub(now_ms),
                "circuit breaker opened: the stage's dependency is down, its messages wait"
            ),
            _ => tracing::info!(stage = %stage.name, "circuit breaker closed"),
        }
        let data = serde_json::json!({
            "stage": &*stage.name,
            "state": state,
            "reason": reason,
            "host": &*self.host,
        });
        self.announce(&running.policy, BREAKER_CHANGED, &data).await;
    }

    /// Writes an event that no stage emitted, and sends it.
    ///
    /// # Errors
    ///
    /// When the store does not answer.
    pub(crate) async fn publish(&self, event: NewEvent) -> Result<AcceptedEvent, StoreError> {
        let (accepted, rows) = self.store.accept_event(event).await?;
        self.relay.enqueue(rows);
        Ok(accepted)
    }
}

#[cfg(test)]
impl Services {
    /// The services of a host with the embedded broker; and its relay, which does not run.
    pub(crate) fn for_tests(
        store: Arc<dyn Store>,
        clock: &Arc<crate::domain::clock::ManualClock>,
        pipeline: Arc<Pipeline>,
    ) -> (Self, crate::relay::Relay) {
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let capacity = crate::broker::Capacity { messages: 16, bytes: 1 << 20 };
        let broker = crate::broker::embedded::Embedded::new(capacity, Arc::clone(&clock));
        let (relay, handle) = crate::relay::Relay::new(
            Arc::clone(&store),
            Arc::clone(&broker) as _,
            Arc::clone(&pipeline),
            1 << 20,
        );
        let services = Self {
            store,
            broker,
            relay: handle,
            pipeline,
            unrouted: Arc::default(),
            counted: Arc::default(),
            clock,
            host: "here".into(),
            plugins: mpsc::channel(1).0.downgrade(),
            observer: None,
            spans: Spans::default(),
            turnstile: Turnstile::default(),
        };
        (services, relay)
    }
}
