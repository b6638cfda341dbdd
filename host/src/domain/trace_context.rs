//! W3C trace context: one trace from the caller's request through every event and stage to the
//! calls that a stage makes.
//!
//! Carried as the CloudEvents attributes `traceparent` and `tracestate`
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/extensions/distributed-tracing.md>).
//! Each attempt of a delivery is a span; its id is derived from the delivery, so running a batch
//! again gives the same spans.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::domain::event::{DeliveryKey, Event, hash};

/// Its names in headers and in attributes:
/// <https://www.w3.org/TR/trace-context/>.
pub const NAMES: [&str; 2] = ["traceparent", "tracestate"];

/// A place in a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext(SpanContext);

impl TraceContext {
    /// The caller's trace context; none if it is missing or invalid.
    pub fn read<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<Self> {
        read(&NAMES.map(header)).map(Self)
    }

    /// The first span of a trace.
    pub fn root(trace: TraceId, span: SpanId, sampled: bool) -> Self {
        let flags = TraceFlags::default().with_sampled(sampled);
        Self(SpanContext::new(trace, span, flags, false, TraceState::NONE))
    }

    /// A span below this one, recorded or not.
    #[must_use]
    pub fn child(&self, span: SpanId, sampled: bool) -> Self {
        let flags = self.0.trace_flags().with_sampled(sampled);
        let state = self.0.trace_state().clone();
        Self(SpanContext::new(self.0.trace_id(), span, flags, false, state))
    }

    /// The span of a call that the attempt of this span makes, by its number, from 1.
    #[must_use]
    pub fn of_call(&self, number: u32) -> Self {
        self.within(span_of(&["call", &self.0.span_id().to_string(), &number.to_string()]))
    }

    /// The trace and the span as OpenTelemetry's crates name them.
    pub fn span(&self) -> &SpanContext {
        &self.0
    }

    /// Whether its trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    /// The trace context of an event. An event without one starts a trace of its own.
    pub fn of_event(event: &Event) -> Self {
        let attribute = |name: &str| {
            let found = event.attributes.iter().find(|(attribute, _)| attribute == name);
            found.map(|(_, value)| value.as_str())
        };
        Self(read(&NAMES.map(attribute)).unwrap_or_else(|| {
            let trace = TraceId::from_bytes(hash(&["trace", &event.source, &event.id]));
            Self::root(trace, span_of(&["event", &event.source, &event.id]), true).0
        }))
    }

    /// The span of one attempt of a delivery, below its event.
    pub fn of_attempt(event: &Event, delivery: &DeliveryKey, round: u32, attempt: u32) -> Self {
        let try_number = format!("{round}.{attempt}");
        Self::of_event(event).within(span_of(&[
            "try",
            &delivery.stage,
            &delivery.event.source,
            &delivery.event.id,
            &try_number,
        ]))
    }

    /// Its trace: 32 hexadecimal digits.
    pub fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    /// Its span: 16 hexadecimal digits.
    pub fn span_id(&self) -> SpanId {
        self.0.span_id()
    }

    fn within(&self, span: SpanId) -> Self {
        self.child(span, self.is_sampled())
    }

    /// Headers of a call, or attributes of an event.
    pub fn headers(&self) -> Vec<(String, String)> {
        let mut headers = Headers(Vec::with_capacity(NAMES.len()));
        let context = opentelemetry::Context::new().with_remote_span_context(self.0.clone());
        TraceContextPropagator::new().inject_context(&context, &mut headers);
        headers.0
    }

    /// Sets it in an event's attributes, replacing what they contain.
    pub fn mark(&self, attributes: &mut Vec<(String, String)>) {
        attributes.retain(|(name, _)| !NAMES.contains(&name.as_str()));
        attributes.extend(self.headers());
    }
}

fn span_of(parts: &[&str]) -> SpanId {
    let hash = hash(parts);
    SpanId::from_bytes(std::array::from_fn(|at| hash[at]))
}

/// Headers that are not empty.
struct Headers(Vec<(String, String)>);

impl Injector for Headers {
    fn set(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.push((name.to_owned(), value));
        }
    }
}

/// The values of [`NAMES`].
struct Values<'a>(&'a [Option<&'a str>; 2]);

impl Extractor for Values<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        NAMES.iter().position(|known| *known == name).and_then(|at| self.0[at])
    }

    fn keys(&self) -> Vec<&str> {
        NAMES.iter().zip(self.0).filter_map(|(name, value)| value.map(|_| *name)).collect()
    }
}

fn read(values: &[Option<&str>; 2]) -> Option<SpanContext> {
    if values.iter().all(Option::is_none) {
        return None;
    }
    let context = TraceContextPropagator::new()
        .extract_with_context(&opentelemetry::Context::new(), &Values(values));
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::EventKey;
    use crate::domain::spans::Spans;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parent(headers: &[(String, String)]) -> Vec<&str> {
        headers[0].1.split('-').collect()
    }

    /// The context of a request with these headers.
    fn enter<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> TraceContext {
        Spans::default().enter(header).context
    }

    fn event(attributes: Vec<(String, String)>) -> Event {
        Event {
            id: "e".into(),
            event_type: "order.created".into(),
            source: "/s".into(),
            subject: "1".into(),
            time_ms: 0,
            content_type: "application/json".into(),
            data: "{}".into(),
            attributes,
        }
    }

    #[test]
    fn a_callers_trace_continues_with_a_new_span() {
        let headers = enter(|name| (name == "traceparent").then_some(CALLER)).headers();
        let (here, caller) = (parent(&headers), CALLER.split('-').collect::<Vec<_>>());
        assert_eq!((here[1], here[3], headers.len()), (caller[1], caller[3], 1));
        assert_ne!(here[2], caller[2]);
        let with_state =
            enter(|name| Some(if name == "traceparent" { CALLER } else { "vendor=1" })).headers();
        assert_eq!(with_state[1], ("tracestate".to_owned(), "vendor=1".to_owned()));
        // What is no trace context is not carried on.
        let broken = enter(|_| Some("garbage")).headers();
        assert_eq!((broken.len(), broken[0].1.len()), (1, CALLER.len()));
    }

    #[test]
    fn each_attempt_has_a_span_with_a_stable_id() {
        let mut marked =
            event(vec![("zone".into(), "x".into()), ("traceparent".into(), "old".into())]);
        enter(|name| (name == "traceparent").then_some(CALLER)).mark(&mut marked.attributes);
        assert_eq!(marked.attributes.len(), 2, "{:?}", marked.attributes);
        let key = DeliveryKey {
            stage: "payment".into(),
            event: EventKey { source: "/s".into(), id: "e".into() },
        };
        let first = TraceContext::of_attempt(&marked, &key, 1, 1);
        assert_eq!(first, TraceContext::of_attempt(&marked, &key, 1, 1));
        assert_ne!(first, TraceContext::of_attempt(&marked, &key, 1, 2));
        assert_eq!(parent(&first.headers())[1], CALLER.split('-').nth(1).unwrap());
        // Without a mark the event itself begins the trace, the same each time it is asked.
        assert_eq!(TraceContext::of_event(&event(vec![])), TraceContext::of_event(&event(vec![])));
        assert!(TraceContext::of_event(&event(vec![])).0.is_valid());
    }
}
