//! Which new traces are recorded unless `OTEL_TRACES_SAMPLER` says otherwise: each one, unless there are very many.
//!
//! At the saturated rate of a small machine, recording every trace costs a tenth of the orders. A few hundred complete
//! traces are worth more than thousands that the full queue of the processor has holes in.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

/// New traces that are recorded in a second, and at once after a quiet one.
const NEW_TRACES_PER_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");

/// Records a bounded number of traces in a second. Clones share the bound.
#[derive(Debug, Clone)]
struct Limited(Arc<DefaultDirectRateLimiter>);

/// Follows the caller, and records up to [`NEW_TRACES_PER_SECOND`].
pub(super) fn limited() -> Box<dyn ShouldSample> {
    let limiter = RateLimiter::direct(Quota::per_second(NEW_TRACES_PER_SECOND));
    Box::new(Sampler::ParentBased(Box::new(Limited(Arc::new(limiter)))))
}

impl ShouldSample for Limited {
    fn should_sample(
        &self,
        _: Option<&Context>,
        _: TraceId,
        _: &str,
        _: &SpanKind,
        _: &[KeyValue],
        _: &[Link],
    ) -> SamplingResult {
        let decision = match self.0.check() {
            Ok(()) => SamplingDecision::RecordAndSample,
            Err(_) => SamplingDecision::Drop,
        };
        // It is asked about the first span of a trace only, which no caller gave a state.
        SamplingResult { decision, attributes: Vec::new(), trace_state: TraceState::NONE }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags};

    use super::*;

    fn is_recorded(sampler: &dyn ShouldSample, parent: Option<&Context>) -> bool {
        let result =
            sampler.should_sample(parent, TraceId::from(7), "", &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    fn caller(flags: TraceFlags) -> Context {
        let (trace, span) = (TraceId::from(7), SpanId::from(1));
        let caller = SpanContext::new(trace, span, flags, true, TraceState::NONE);
        Context::new().with_remote_span_context(caller)
    }

    #[test]
    fn new_traces_are_bounded_in_a_second_and_callers_are_followed() {
        const ASKED: usize = 5_000;
        let sampler = limited();
        let began = Instant::now();
        let recorded = (0..ASKED).filter(|_| is_recorded(&*sampler, None)).count();
        let per_second = NEW_TRACES_PER_SECOND.get() as usize;
        let most = per_second * (began.elapsed().as_secs() as usize + 2);
        assert!((per_second..=most).contains(&recorded), "{recorded} of {ASKED}");
        let (sampled, unsampled) = (caller(TraceFlags::SAMPLED), caller(TraceFlags::NOT_SAMPLED));
        for _ in 0..2 * per_second {
            assert!(is_recorded(&*sampler, Some(&sampled)));
            assert!(!is_recorded(&*sampler, Some(&unsampled)));
        }
    }
}
