//! Events of other programs, and where they belong. Each counts once, by its source and id.
//!
//! Bounds: what one request brings ([`crate::domain::cloud_events::http_binding`]); [`ORDERS_ASKED_AT_ONCE`] questions for it
//! at the same time.

use std::collections::BTreeSet;

use futures::StreamExt as _;

use super::App;
use crate::domain::cloud_events::http_binding::IngestedEvent;
use crate::domain::event::{Envelope, EventKey, LoggedEvent};
use crate::domain::trace_context::{self, TraceContext};
use crate::pipeline::routes::Routes as _;
use crate::store::{NewEvent, StoreError};

/// Orders that are looked up at once for events that name them.
const ORDERS_ASKED_AT_ONCE: usize = 8;
const TRACE_PARENT: &str = trace_context::NAMES[0];

impl App {
    /// An event of the log.
    pub async fn event(&self, key: &EventKey) -> Result<Option<LoggedEvent>, StoreError> {
        let found = self.services.store.events_by_id(&key.id).await?;
        Ok(found.into_iter().find(|logged| logged.envelope.event.source == key.source))
    }

    /// Takes events in from outside; for each whether it is new, in their order. One that is known
    /// already counts once: when some were not taken, all may be sent again.
    pub async fn ingest(
        &self,
        arrivals: Vec<IngestedEvent>,
        trace: &TraceContext,
    ) -> Result<Vec<bool>, StoreError> {
        let orders = self.known_orders(&arrivals).await?;
        let published = arrivals
            .into_iter()
            .map(|arrival| self.services.publish(self.arrived(arrival, &orders, trace)));
        futures::future::join_all(published).await.into_iter().collect()
    }

    /// Orders that events name and that exist: an event about anything else is nobody's history.
    async fn known_orders(
        &self,
        arrivals: &[IngestedEvent],
    ) -> Result<BTreeSet<String>, StoreError> {
        let named: BTreeSet<String> =
            arrivals.iter().filter_map(|arrival| arrival.order_id.clone()).collect();
        let asked = named.into_iter().map(async |id: String| self.services.store.order(&id).await);
        let mut found = futures::stream::iter(asked).buffered(ORDERS_ASKED_AT_ONCE);
        let mut known = BTreeSet::new();
        while let Some(order) = found.next().await {
            known.extend(order?.map(|order| order.id));
        }
        Ok(known)
    }

    fn arrived(
        &self,
        arrival: IngestedEvent,
        orders: &BTreeSet<String>,
        trace: &TraceContext,
    ) -> NewEvent {
        let IngestedEvent { mut event, order_id, correlation_id, due_at_ms } = arrival;
        // An event that carries a trace of its own goes on with it.
        let own = |name: &str| {
            event
                .attributes
                .iter()
                .find(|(given, _)| given == name)
                .map(|(_, value)| value.as_str())
        };
        let trace =
            if own(TRACE_PARENT).is_some() { TraceContext::enter(own) } else { trace.clone() };
        trace.mark(&mut event.attributes);
        let now_ms = self.services.clock.now_ms();
        let due_at_ms = due_at_ms.unwrap_or(now_ms);
        let routed_to = self.services.pipeline.stages_for(&event.event_type);
        let mut envelope = Envelope::first(
            event,
            order_id.filter(|id| orders.contains(id)),
            due_at_ms + self.expiry_ms,
        );
        envelope.correlation_id = correlation_id.unwrap_or(envelope.correlation_id);
        NewEvent::new(envelope, due_at_ms, routed_to)
    }
}
