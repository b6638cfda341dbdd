//! Spans that have ended, in the terms of OpenTelemetry, on their way to the program's span processor.
//!
//! Ids are those of [`TraceContext`], so a span has the id that its events and calls carry. A span is
//! built when it has ended and what it describes is committed; the processor exports it elsewhere.
//! Bounds: the processor's queue. Without a processor nothing is built.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{
    SamplingDecision, ShouldSample, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};

use super::trace_context::TraceContext;

/// The version of the semantic conventions that names and attributes follow. Those of messaging are
/// still in development.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.38.0";

/// Where spans go that have ended. Cheap to clone.
#[derive(Clone, Default)]
pub struct Spans(Option<Arc<Recording>>);

struct Recording {
    processor: Arc<dyn SpanProcessor>,
    /// Decides about traces that begin here, and follows callers.
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spans").field(&self.0.is_some()).finish()
    }
}

/// Where a request is in its trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Entered {
    /// The span of the request.
    pub context: TraceContext,
    /// That of its caller.
    pub caller: Option<TraceContext>,
}

impl Spans {
    /// Passes spans to `processor`. `sampler` decides which traces are recorded.
    pub fn new(processor: Arc<dyn SpanProcessor>, sampler: Box<dyn ShouldSample>) -> Self {
        let scope = InstrumentationScope::builder("postrider")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(CONVENTIONS)
            .build();
        Self(Some(Arc::new(Recording { processor, sampler, scope })))
    }

    /// A span below the caller's, or a new trace if the caller's context is missing or invalid.
    pub fn enter<'a>(&self, header: impl Fn(&'static str) -> Option<&'a str>) -> Entered {
        let caller = TraceContext::read(header);
        let context = match &caller {
            Some(caller) => {
                let sampled = self.is_sampled(Some(caller), caller.trace_id());
                caller.child(SpanId::from_bytes(rand::random()), sampled)
            }
            None => self.begin(),
        };
        Entered { context, caller }
    }

    /// A new trace.
    pub fn begin(&self) -> TraceContext {
        let trace = TraceId::from_bytes(rand::random());
        TraceContext::root(trace, SpanId::from_bytes(rand::random()), self.is_sampled(None, trace))
    }

    /// Whether a trace is recorded. Without a processor, callers' decisions are passed on, and new traces
    /// are left to those who record.
    fn is_sampled(&self, caller: Option<&TraceContext>, trace: TraceId) -> bool {
        let Some(recording) = &self.0 else {
            return caller.is_none_or(TraceContext::is_sampled);
        };
        let parent =
            caller.map(|caller| Context::new().with_remote_span_context(caller.span().clone()));
        let sampler = &recording.sampler;
        let result = sampler.should_sample(parent.as_ref(), trace, "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// Whether the span of this context is to be recorded.
    pub fn wants(&self, context: &TraceContext) -> bool {
        self.0.is_some() && context.is_sampled()
    }

    /// Whether any span may be recorded.
    pub fn are_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Passes a span on; never waits.
    pub fn record(&self, span: FinishedSpan) {
        let Some(recording) = &self.0 else { return };
        let FinishedSpan { context, parent, link, kind, name, start, end, attributes, error } =
            span;
        let mut links = SpanLinks::default();
        links.links.extend(link.map(|to| Link::new(to.span().clone(), Vec::new(), 0)));
        let parent = parent.as_ref().map(TraceContext::span);
        recording.processor.on_end(SpanData {
            span_context: context.span().clone(),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanContext::span_id),
            parent_span_is_remote: parent.is_some_and(SpanContext::is_remote),
            span_kind: kind,
            name,
            start_time: start,
            end_time: end.max(start),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: error.map_or(Status::Unset, Status::error),
            instrumentation_scope: recording.scope.clone(),
        });
    }
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    /// Its place in the trace.
    pub context: TraceContext,
    /// The span that it is below; none: the first of its trace.
    pub parent: Option<TraceContext>,
    /// Where the message was created that it processes.
    pub link: Option<TraceContext>,
    /// Its role.
    pub kind: SpanKind,
    /// Its name, of few distinct ones.
    pub name: Cow<'static, str>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// Attributes by name.
    pub attributes: Vec<KeyValue>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Collects the spans of the calls that one attempt makes. Clones share them.
#[derive(Debug, Clone)]
pub struct CallSpans(Arc<Collected>);

#[derive(Debug)]
struct Collected {
    attempt: TraceContext,
    begun: AtomicU32,
    ended: Mutex<Vec<FinishedSpan>>,
}

impl CallSpans {
    /// For the attempt of this span.
    pub fn of(attempt: TraceContext) -> Self {
        let (begun, ended) = (AtomicU32::new(0), Mutex::default());
        Self(Arc::new(Collected { attempt, begun, ended }))
    }

    /// The span of the next call. Its id depends on the attempt and the number of the call only.
    pub fn begin(&self) -> TraceContext {
        self.0.attempt.of_call(self.0.begun.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Adds the span of a call that has ended.
    pub fn end(&self, span: FinishedSpan) {
        let span = FinishedSpan { parent: Some(self.0.attempt.clone()), ..span };
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }

    /// Removes and returns the spans so far.
    pub fn take(&self) -> Vec<FinishedSpan> {
        std::mem::take(&mut *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::Sampler;
    use std::time::Duration;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

    #[derive(Debug, Default)]
    struct Remembered(Mutex<Vec<SpanData>>);

    impl SpanProcessor for Remembered {
        fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &Context) {}

        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    fn spans(sampler: Sampler) -> (Spans, Arc<Remembered>) {
        let kept = Arc::new(Remembered::default());
        let sampler = Sampler::ParentBased(Box::new(sampler));
        (Spans::new(Arc::clone(&kept) as _, Box::new(sampler)), kept)
    }

    fn enter(spans: &Spans, flags: &str) -> Entered {
        let parent = format!("{CALLER}-{flags}");
        spans.enter(|name| (name == "traceparent").then_some(parent.as_str()))
    }

    #[test]
    fn sampling_follows_the_caller_and_the_sampler_decides_about_new_traces() {
        let (all, _) = spans(Sampler::AlwaysOn);
        let (none, _) = spans(Sampler::AlwaysOff);
        for spans in [&all, &none] {
            let (sampled, unsampled) = (enter(spans, "01"), enter(spans, "00"));
            assert!(spans.wants(&sampled.context) && !spans.wants(&unsampled.context));
            let caller = sampled.caller.expect("a caller");
            assert_eq!(caller.headers()[0].1, format!("{CALLER}-01"));
            assert_eq!(sampled.context.trace_id(), caller.trace_id());
        }
        assert!(all.wants(&all.begin()) && !none.wants(&none.begin()));
        assert!(none.begin().headers()[0].1.ends_with("-00"), "stages and callees follow");
        let off = Spans::default();
        assert!(!off.wants(&enter(&off, "01").context), "there is no processor");
        assert!(enter(&off, "01").context.is_sampled() && !enter(&off, "00").context.is_sampled());
        let half = spans(Sampler::TraceIdRatioBased(0.5)).0;
        let sampled = (0..1_000).filter(|_| half.wants(&half.begin())).count();
        assert!((400..600).contains(&sampled), "{sampled} of 1,000");
    }

    #[test]
    fn a_span_arrives_with_its_place_in_the_trace() {
        let (spans, kept) = spans(Sampler::AlwaysOn);
        let Entered { context, caller } = enter(&spans, "01");
        let calls = CallSpans::of(context.clone());
        let (first, second) = (calls.begin(), calls.begin());
        assert_ne!(first, second);
        assert_eq!(first, CallSpans::of(context.clone()).begin(), "the same on every run");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        let span = |context: TraceContext| FinishedSpan {
            context,
            parent: caller.clone(),
            link: caller.clone(),
            kind: SpanKind::Client,
            name: "GET".into(),
            start: at,
            end: SystemTime::UNIX_EPOCH,
            attributes: vec![KeyValue::new("a", 1)],
            error: Some("why".to_owned()),
        };
        calls.end(span(first.clone()));
        let call = calls.take().remove(0);
        assert!(calls.take().is_empty());
        assert_eq!(call.parent, Some(context.clone()));
        spans.record(span(context.clone()));
        let kept = kept.0.lock().unwrap();
        let data = &kept[0];
        assert_eq!(&data.span_context, context.span());
        let caller = caller.as_ref().expect("a caller");
        assert_eq!(data.parent_span_id, caller.span_id());
        assert_eq!(data.links.links[0].span_context, *caller.span());
        assert_eq!((data.start_time, data.end_time), (at, at), "it does not end before it began");
        assert_eq!(data.status, Status::error("why"));
    }
}
