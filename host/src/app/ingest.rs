//! Events of other programs: each counts once, by its source and id.
//!
//! Bounds: what one request may hold ([`crate::domain::cloud_events::ingress`]), and
//! [`CONCURRENT_LOOKUPS`] lookups of subjects at a time.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;

use super::App;
use crate::domain::cloud_events::ingress::IngestedEvent;
use crate::domain::event::{Envelope, EventKey, LoggedEvent};
use crate::domain::fair_queue::customer_hash;
use crate::domain::subject::SubjectKey;
use crate::domain::trace_context::{self, TraceContext};
use crate::pipeline::routes::Routes as _;
use crate::store::{AcceptedEvent, NewEvent, StoreError, Subject};

/// Concurrent lookups of subjects that events name.
const CONCURRENT_LOOKUPS: usize = 8;
const TRACE_PARENT: &str = trace_context::NAMES[0];

impl App {
    /// Returns an event of the log; none when there is no such event.
    pub async fn event(&self, key: &EventKey) -> Result<Option<LoggedEvent>, StoreError> {
        let found = self.services.store.events_by_id(&key.id).await?;
        Ok(found.into_iter().find(|logged| logged.envelope.event.source == key.source))
    }

    /// Accepts events of other programs. Returns for each event, in order, whether it is new; one
    /// whose source and id the log has already changes nothing.
    ///
    /// # Errors
    /// When the store fails. Some events may have been accepted then: send all of them again.
    pub async fn ingest(
        &self,
        events: Vec<IngestedEvent>,
        trace: &TraceContext,
    ) -> Result<Vec<AcceptedEvent>, StoreError> {
        let subjects = self.known_subjects(&events).await?;
        let published = events
            .into_iter()
            .map(|event| self.services.publish(self.new_ingested(event, &subjects, trace)));
        futures::future::join_all(published).await.into_iter().collect()
    }

    /// The subjects that events name and that exist, with the hashes of their customers. An event that names another one is logged
    /// without a subject.
    async fn known_subjects(
        &self,
        events: &[IngestedEvent],
    ) -> Result<BTreeMap<SubjectKey, u64>, StoreError> {
        let named: BTreeSet<SubjectKey> =
            events.iter().filter_map(|event| event.subject_key.clone()).collect();
        let lookups =
            named.into_iter().map(async |key: SubjectKey| self.services.store.subject(&key).await);
        let mut found = futures::stream::iter(lookups).buffered(CONCURRENT_LOOKUPS);
        let mut known = BTreeMap::new();
        while let Some(subject) = found.next().await {
            let customer = |subject: &Subject| customer_hash(subject.customer.as_deref());
            known.extend(subject?.map(|subject| (subject.key.clone(), customer(&subject))));
        }
        Ok(known)
    }

    fn new_ingested(
        &self,
        ingested: IngestedEvent,
        subjects: &BTreeMap<SubjectKey, u64>,
        trace: &TraceContext,
    ) -> NewEvent {
        let IngestedEvent { mut event, subject_key, correlation_id, due_at_ms } = ingested;
        // An event that has a trace context continues that trace.
        let own = |name: &str| {
            event
                .attributes
                .iter()
                .find(|(attribute, _)| attribute == name)
                .map(|(_, value)| value.as_str())
        };
        let trace = if own(TRACE_PARENT).is_some() {
            self.services.spans.enter(own).context
        } else {
            trace.clone()
        };
        trace.mark(&mut event.attributes);
        let now_ms = self.services.clock.now_ms();
        let due_at_ms = due_at_ms.unwrap_or(now_ms);
        let routed_to = self.services.pipeline.stages_for(&event.event_type);
        let known = subject_key.and_then(|key| subjects.get_key_value(&key));
        let subject_key = known.map(|(key, _)| key.clone());
        let mut envelope = Envelope::first(event, subject_key, due_at_ms + self.expiry_ms);
        envelope.customer_hash = known.map_or(0, |(_, customer)| *customer);
        envelope.correlation_id = correlation_id.unwrap_or(envelope.correlation_id);
        NewEvent::new(envelope, due_at_ms, routed_to).external()
    }
}
