//! Emitted events: the only place that validates what a stage returns before it is committed.
//!
//! All events of an attempt are accepted or none. Bounds: event types that the stage declares, the
//! hop limit, the events of its chain and the longest delay of its policy, and [`Envelope::validate`](crate::domain::event::Envelope::validate).

use super::{AttemptError, DecisionInputs, following_event};
use crate::domain::cloud_events::is_json;
use crate::domain::event::{Event, HOST_EVENT_PREFIX, emitted_id};
use crate::domain::json;
use crate::pipeline::chains::CHAIN_LIMIT_CODE;
use crate::stage::outcome::Emitted;
use crate::stage::policy::StagePolicy;
use crate::store::NewEvent;

/// The events to commit, or why the attempt fails.
pub(super) fn new_events(
    inputs: &DecisionInputs<'_>,
    emitted: Vec<Emitted>,
) -> Result<Vec<NewEvent>, AttemptError> {
    for check in [check_declared, check_not_reserved, check_json, check_delay] {
        emitted.iter().try_for_each(|event| check(inputs.policy, event))?;
    }
    let (hops, max) = (inputs.envelope.hops, inputs.policy.hops_max);
    // Without a limit a cycle of stages would never end.
    if !emitted.is_empty() && hops >= max {
        let message = format!("the chain of events is {hops} stages long; the limit is {max}");
        return Err(AttemptError::fatal("hop-limit", message));
    }
    check_chain(inputs, emitted.len() as u64)?;
    emitted
        .into_iter()
        .enumerate()
        .map(|(position, event)| new_event(inputs, position, event))
        .collect()
}

/// Without a limit a stage that emits several events of a type that it consumes would multiply them
/// up to the hop limit.
fn check_chain(inputs: &DecisionInputs<'_>, emitted: u64) -> Result<(), AttemptError> {
    let (events, max) = (inputs.chain.events, inputs.policy.chain_events_max);
    if emitted == 0 || events.saturating_add(emitted) <= max {
        return Ok(());
    }
    let id = &inputs.envelope.correlation_id;
    let message = format!(
        "the chain `{id}` has {events} events and would get {emitted} more; the limit is {max} \
         (events.chain_events_max). `postrider events stop {id}` skips the rest of it; `postrider \
         events resume {id}` lets it emit as many events again"
    );
    Err(AttemptError::fatal(CHAIN_LIMIT_CODE, message))
}

fn check_declared(policy: &StagePolicy, event: &Emitted) -> Result<(), AttemptError> {
    let event_type = &event.event_type;
    if policy.emits.contains(event_type) {
        return Ok(());
    }
    let declared = policy.emits.join(", ");
    let message = format!("emitted `{event_type}`, but `describe` declares only: {declared}");
    Err(AttemptError::fatal("undeclared-event", message))
}

fn check_not_reserved(_: &StagePolicy, event: &Emitted) -> Result<(), AttemptError> {
    let event_type = &event.event_type;
    if !event_type.starts_with(HOST_EVENT_PREFIX) {
        return Ok(());
    }
    let message = format!("emitted `{event_type}`: the prefix `{HOST_EVENT_PREFIX}` is reserved");
    Err(AttemptError::fatal("reserved-event", message))
}

/// Checks data that claims to be JSON: later stages would fail on it, far from the cause.
fn check_json(_: &StagePolicy, event: &Emitted) -> Result<(), AttemptError> {
    if !is_json(&event.content_type) {
        return Ok(());
    }
    json::check(&event.data).map(|_| ()).map_err(|error| {
        let event_type = &event.event_type;
        let message = format!("emitted `{event_type}` with data that is not valid JSON: {error}");
        AttemptError::fatal("invalid-event", message)
    })
}

fn check_delay(policy: &StagePolicy, event: &Emitted) -> Result<(), AttemptError> {
    let (delay_ms, max_ms) = (u64::from(event.delay_ms), policy.delay_max_ms);
    if delay_ms <= max_ms {
        return Ok(());
    }
    let message = format!(
        "emitted `{}` with a delay of {delay_ms} ms; the limit is {max_ms} ms \
         (events.schedule_max_ms)",
        event.event_type
    );
    Err(AttemptError::fatal("invalid-event", message))
}

fn new_event(
    inputs: &DecisionInputs<'_>,
    position: usize,
    emitted: Emitted,
) -> Result<NewEvent, AttemptError> {
    let due_at_ms = inputs.now_ms + u64::from(emitted.delay_ms);
    let event = Event {
        id: emitted_id(&inputs.attempt.delivery, inputs.envelope.event.time_ms, position),
        event_type: emitted.event_type,
        source: inputs.policy.source.clone(),
        subject: emitted.subject.unwrap_or_else(|| inputs.envelope.event.subject.clone()),
        time_ms: inputs.now_ms,
        content_type: emitted.content_type,
        data: emitted.data,
        attributes: emitted.attributes,
    };
    let new = following_event(inputs, event, due_at_ms);
    match new.envelope.validate() {
        None => Ok(new),
        Some(why) => {
            let message = format!("emitted `{}` with {why}", new.envelope.event.event_type);
            Err(AttemptError::fatal("invalid-event", message))
        }
    }
}
