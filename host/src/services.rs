//! What workers and background tasks share.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::broker::Broker;
use crate::domain::clock::Clock;
use crate::domain::event::{Envelope, Event};
use crate::pipeline::Pipeline;
use crate::pipeline::plugin_change::PluginChange;
use crate::pipeline::routes::Routes as _;
use crate::relay::RelayHandle;
use crate::stage::policy::StagePolicy;
use crate::store::{NewEvent, Settlement, Store, StoreError};

/// Hears of deliveries as they are settled. It is called by the lanes: it must be quick.
pub type Observer = Arc<dyn Fn(&Settlement) + Send + Sync>;

/// What every worker of the host shares.
#[derive(Clone)]
pub struct Services {
    /// Truth.
    pub store: Arc<dyn Store>,
    /// Queues.
    pub broker: Arc<dyn Broker>,
    /// Sends what was committed.
    pub relay: RelayHandle,
    /// Routes of emitted events.
    pub pipeline: Arc<Pipeline>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This host's name.
    pub host: Arc<str>,
    /// Where a plugin that traps is reported; weak, so that the supervisor sees when the folder is
    /// followed no more.
    pub plugins: mpsc::WeakSender<PluginChange>,
    /// Told of every delivery that was settled here, after its commit.
    pub observer: Option<Observer>,
}

impl Services {
    /// Publishes an event of the host's own about a stage. It is news, not part of anybody's work:
    /// without the store it is not told.
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

    /// Writes an event that no stage emitted, and has it sent; false when it was known already.
    pub(crate) async fn publish(&self, event: NewEvent) -> Result<bool, StoreError> {
        let (new, rows) = self.store.accept_event(event).await?;
        self.relay.enqueue(rows);
        Ok(new)
    }
}
