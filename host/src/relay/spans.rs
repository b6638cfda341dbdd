//! The spans of messages that the broker confirmed: below what created the event.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, SpanKind};

use super::Outlet;
use crate::broker::destination::Destination;
use crate::domain::spans::FinishedSpan;
use crate::domain::trace_context::TraceContext;
use crate::store::OutboxRow;

impl Outlet {
    /// Records that an event was sent between `start` and now.
    pub(super) fn record_sent(&self, row: &OutboxRow, start: SystemTime) {
        if !self.spans.are_recorded() {
            return;
        }
        let event = &row.envelope.event;
        let created = TraceContext::of_event(event);
        if !self.spans.wants(&created) {
            return;
        }
        let stage = row.direct.as_ref().map(|direct| &*direct.stage);
        let destination = Destination::of_sent(&*self.broker, &event.event_type, stage);
        let mut attributes = destination.attributes("send");
        attributes.extend([
            KeyValue::new("messaging.message.id", event.id.clone()),
            KeyValue::new("messaging.message.conversation_id", row.envelope.correlation_id.clone()),
            KeyValue::new("postrider.event.type", event.event_type.clone()),
        ]);
        self.spans.record(FinishedSpan {
            // An event may be sent again, so each has an id of its own.
            context: created.child(SpanId::from_bytes(rand::random()), true),
            parent: Some(created),
            link: None,
            kind: SpanKind::Producer,
            name: format!("send {}", destination.name).into(),
            start,
            end: SystemTime::now(),
            attributes,
            error: None,
        });
    }
}
