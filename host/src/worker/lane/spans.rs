//! The spans of a lane: one for each attempt at a delivery, below the event that it is about, with those
//! of the calls that the stage made.
//!
//! They are recorded after the commit. A batch that runs again gives the same ids, and only what was
//! committed is recorded.

use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::{Lane, Work};
use crate::broker::Sender;
use crate::broker::destination::Destination;
use crate::domain::event::shortened;
use crate::domain::spans::{CallSpans, FinishedSpan};
use crate::domain::trace_context::TraceContext;
use crate::pipeline::hand_over::is_handed_over;
use crate::pipeline::metrics::OutcomeKind;
use crate::store::Settlement;

/// Longest description of an error in a span, in bytes: the queue of spans is bounded in number only.
const ERROR_MAX_BYTES: usize = 1_024;

/// An attempt whose span is to be recorded.
pub(super) struct RecordedAttempt {
    context: TraceContext,
    start: SystemTime,
    /// The calls that the stage makes.
    pub(super) calls: CallSpans,
}

/// When a call of the stage ended, and how long its message waited for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallTimes {
    pub(super) waited: Duration,
    pub(super) duration: Duration,
}

impl Lane {
    /// Begins the span of an attempt, if it is to be recorded.
    pub(super) fn begin_span(&self, context: &TraceContext) -> Option<RecordedAttempt> {
        self.services.spans.wants(context).then(|| RecordedAttempt {
            calls: CallSpans::of(context.clone()),
            context: context.clone(),
            start: SystemTime::now(),
        })
    }

    /// The spans of an attempt that was settled like this.
    pub(super) fn spans_of(
        &self,
        recorded: RecordedAttempt,
        work: &Work,
        settlement: &Settlement,
        times: Option<CallTimes>,
    ) -> impl Iterator<Item = FinishedSpan> {
        let RecordedAttempt { context, start, calls } = recorded;
        let (message, event) = (&work.message, &work.message.envelope.event);
        let handed_over = is_handed_over(message.tag);
        let by_exchange = !handed_over
            && (message.sender != Sender::Host || (message.attempt, message.round) == (1, 1));
        let destination = Destination::of_received(
            &*self.services.broker,
            &event.event_type,
            &self.stage.name,
            by_exchange,
        );
        let outcome = OutcomeKind::from(&settlement.verdict).name();
        let mut attributes = destination.attributes("process");
        attributes.extend([
            KeyValue::new("messaging.message.id", event.id.clone()),
            KeyValue::new(
                "messaging.message.conversation_id",
                message.envelope.correlation_id.clone(),
            ),
            KeyValue::new("postrider.stage", self.stage.name.clone()),
            KeyValue::new("postrider.event.type", event.event_type.clone()),
            KeyValue::new("postrider.round", i64::from(settlement.round)),
            KeyValue::new("postrider.attempt", i64::from(settlement.attempt)),
            KeyValue::new("postrider.plugin.version", settlement.version.clone()),
            KeyValue::new("postrider.plugin.digest", settlement.digest.clone()),
            KeyValue::new("postrider.host", self.services.host.clone()),
            KeyValue::new("postrider.handed_over", handed_over),
            KeyValue::new("postrider.outcome", outcome),
        ]);
        if let Some(key) = &message.envelope.subject_key {
            attributes.push(KeyValue::new("postrider.subject", key.to_string()));
        }
        if let Some(times) = times {
            attributes.push(KeyValue::new("postrider.queue_wait", times.waited.as_secs_f64()));
        }
        let failure = settlement.failure.as_ref();
        if let Some(failure) = failure {
            attributes.push(KeyValue::new("error.type", failure.code.clone()));
        }
        let created = TraceContext::of_event(event);
        let duration = times.map_or(Duration::ZERO, |times| times.duration);
        let span = FinishedSpan {
            context,
            parent: Some(created.clone()),
            link: Some(created),
            kind: SpanKind::Consumer,
            name: format!("process {}", destination.name).into(),
            start,
            end: start + duration,
            attributes,
            error: failure.map(|failure| shortened(&failure.message, ERROR_MAX_BYTES).to_owned()),
        };
        std::iter::once(span).chain(calls.take())
    }
}
