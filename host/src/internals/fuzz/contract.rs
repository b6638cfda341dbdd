//! The target `contract`: any description, any event, any answer of a stage.
//!
//! A description is accepted or refused. Every answer of a stage leads to a decision. Emitted events
//! are declared, fit into every store and broker, arrive as they were sent, and are stored.

use std::collections::HashSet;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};

use super::stored::NOW_MS;
use super::{Stored, any_bytes, any_list, any_text};
use crate::broker::rabbit::message_fuzz;
use crate::domain::event::{
    DEAD_LETTERED, DeliveryKey, Envelope, Event, EventKey, HOST_EVENT_PREFIX, topic_matches,
};
use crate::domain::name::is_name;
use crate::domain::subject::SubjectKey;
use crate::pipeline::chains::ChainStatus;
use crate::pipeline::routes::Routes;
use crate::runtime::check_description;
use crate::stage::handler::{Description, Emitted, Failure, Limit, Outcome};
use crate::stage::policy::{RetryPolicy, StagePolicy};
use crate::store::{NewEvent, Verdict};
use crate::worker::decide::{Attempt, Decision, DecisionInputs, Progress, decide};

/// Longest text about a failed attempt.
const FAILURE_MAX_BYTES: usize = 256 << 10;

/// Decides about answers of stages.
pub struct Contract {
    stored: Stored,
    number: u64,
}

impl Contract {
    /// Begins with an empty store.
    pub fn new() -> Self {
        Self { stored: Stored::new(), number: 0 }
    }

    /// Runs one input.
    pub fn run(&mut self, input: &[u8]) {
        self.number += 1;
        // An error means too few bytes, which is no finding.
        let _ = self.answer(&mut Unstructured::new(input));
    }

    fn answer(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let described = description(u)?;
        let event = event(u, self.number.to_string())?;
        let (consumes, emits) = match check_description(&described) {
            Ok(()) => {
                is_usable(&described);
                (described.consumes, described.emits)
            }
            Err(refused) => {
                assert!(!refused.to_string().is_empty());
                (vec!["#".to_owned()], vec!["x.done".to_owned()])
            }
        };
        for pattern in &consumes {
            is_matched(pattern, &event.event_type);
        }
        let policy = policy(consumes, emits);
        let envelope = Envelope { hops: u.int_in_range(0..=65)?, ..envelope(u, event)? };
        if envelope.validate().is_some() {
            return Ok(());
        }
        let (round, attempt) = (1, 1);
        let arrived = NewEvent::new(envelope, NOW_MS, vec![Arc::clone(&policy.name)]);
        decide_and_store(
            u,
            &mut self.stored,
            &policy,
            ReceivedMessage { envelope: Arc::clone(&arrived.envelope), round, attempt },
            Some(arrived),
        )
    }
}

/// A delivery to decide about.
pub(crate) struct ReceivedMessage {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) round: u32,
    pub(crate) attempt: u32,
}

/// Generates a stage's answer, and follows the decision to the store and the broker.
pub(crate) fn decide_and_store(
    u: &mut Unstructured<'_>,
    stored: &mut Stored,
    policy: &StagePolicy,
    given: ReceivedMessage,
    arrived: Option<NewEvent>,
) -> Result<()> {
    let ReceivedMessage { envelope, round, attempt } = given;
    let delivery = DeliveryKey { stage: Arc::clone(&policy.name), event: envelope.key() };
    let mut attempt = Attempt::new(delivery, round, attempt, "d".into());
    attempt.host = Some("here".into());
    attempt.duration_us = u.arbitrary::<u32>()?.into();
    let mut progress = Progress::NotCalled;
    let ruling = loop {
        let decision = decide(DecisionInputs {
            policy,
            routes: &Everywhere,
            envelope: &envelope,
            attempt: &attempt,
            subject_cancelled: false,
            chain: ChainStatus::default(),
            expires_at_ms: envelope.expires_at_ms,
            progress,
            now_ms: NOW_MS,
            random: 0.5,
        });
        match decision {
            Decision::Settle(ruling) => break ruling,
            Decision::Call => {
                progress = Progress::Called { outcome: outcome(u)?, uncounted: false };
            }
        }
    };
    emits_valid_events(policy, ruling.verdict());
    if let Some(failure) = ruling.failure() {
        let texts = [Some(&failure.code), Some(&failure.message), failure.backtrace.as_ref()];
        let bytes = texts.into_iter().flatten().map(String::len).sum::<usize>();
        assert!(bytes <= FAILURE_MAX_BYTES, "{bytes} bytes about one failed attempt");
        assert!(failure.code.len() <= 1_000, "a code that Postgres cannot index");
    }
    let settlement = ruling.into_settlement(attempt, envelope, "1".to_owned(), None);
    for row in stored.settle(arrived, settlement) {
        message_fuzz::arrives_as_sent(row.envelope, row.direct);
    }
    Ok(())
}

/// Asserts that the events of a verdict are declared, or the host's own, and valid.
fn emits_valid_events(policy: &StagePolicy, verdict: &Verdict) {
    let events: Vec<&NewEvent> = match verdict {
        Verdict::Done(events) => events.iter().collect(),
        Verdict::Dead { code, announcement, .. } => {
            assert!(
                !code.contains('\0') && code.len() <= 1_000,
                "a code that Postgres cannot keep"
            );
            vec![announcement]
        }
        Verdict::Retry { .. } | Verdict::Skipped | Verdict::Deferred { .. } => Vec::new(),
    };
    let ids: HashSet<_> = events.iter().map(|event| &event.envelope.event.id).collect();
    assert_eq!(ids.len(), events.len(), "two events of one id");
    for new in events {
        let event = &new.envelope.event;
        let own = matches!(verdict, Verdict::Dead { .. }) && event.event_type == DEAD_LETTERED;
        let declared = policy.emits.contains(&event.event_type)
            && !event.event_type.starts_with(HOST_EVENT_PREFIX);
        assert!(own || declared, "`{}` left", event.event_type);
        is_fit(&new.envelope);
    }
}

/// Asserts that every store and broker accepts the envelope. Independent of the host's own check.
pub(crate) fn is_fit(envelope: &Envelope) {
    let Envelope { event, subject_key, correlation_id, cause, expires_at_ms, .. } = envelope;
    let mut texts = vec![
        &event.id,
        &event.source,
        &event.event_type,
        &event.subject,
        &event.content_type,
        correlation_id,
    ];
    let key = subject_key.as_ref().map(ToString::to_string);
    texts.extend(&key);
    texts.extend(cause.iter().flat_map(|cause| [&cause.id, &cause.source]));
    texts.extend(event.attributes.iter().flat_map(|(name, value)| [name, value]));
    assert!(!texts.iter().any(|text| text.contains('\0')), "Postgres has no NUL in its texts");
    // Trace context is sent twice.
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    assert!(
        2 * bytes < 120_000,
        "{bytes} bytes of texts: more than a header frame of RabbitMQ holds"
    );
    assert!(event.id.len() + event.source.len() < 2_600, "a key that Postgres cannot index");
    assert!(
        subject_key.as_ref().is_none_or(|key| key.len() < 2_600),
        "a key that Postgres cannot index"
    );
    assert!(event.event_type.len() <= 255, "a type that is no routing key");
    assert!(
        i64::try_from(event.time_ms.max(*expires_at_ms)).is_ok(),
        "a time that no database holds"
    );
}

fn is_usable(description: &Description) {
    assert!(is_name(&description.name) && !description.consumes.is_empty());
    assert!(!description.version.contains('\0'));
    for event_type in &description.emits {
        assert!(
            !event_type.is_empty()
                && event_type.len() <= 255
                && !event_type.contains(['*', '#', '\0']),
            "{event_type:?}"
        );
        assert!(!event_type.starts_with(HOST_EVENT_PREFIX));
    }
    for pattern in &description.consumes {
        assert!(
            !pattern.is_empty() && pattern.len() <= 255 && !pattern.contains('\0'),
            "{pattern:?}"
        );
    }
}

fn policy(consumes: Vec<String>, emits: Vec<String>) -> StagePolicy {
    StagePolicy {
        name: "x".into(),
        source: "/fuzz/stages/x".into(),
        consumes,
        emits,
        retry: RetryPolicy::default(),
        hops_max: 64,
        chain_events_max: 10_000,
        expiry_ms: 60_000,
        delay_max_ms: 60_000,
    }
}

/// A stage that consumes and emits what the generated events are.
pub(crate) fn any_stage() -> StagePolicy {
    policy(vec!["#".to_owned()], vec!["x.done".to_owned()])
}

struct Everywhere;

impl Routes for Everywhere {
    fn stages_for(&self, _: &str) -> Vec<Arc<str>> {
        vec!["next".into()]
    }
}

/// An event type, or a pattern.
fn topic(u: &mut Unstructured<'_>) -> Result<String> {
    if u.ratio(1, 4)? {
        return any_text(u);
    }
    let word = |u: &mut Unstructured<'_>| {
        Ok(*u.choose(&["#", "*", "a", "x", "done", "order", "created", ""])?)
    };
    let words = (0..u.int_in_range(1..=100)?).map(|_| word(u)).collect::<Result<Vec<_>>>()?;
    Ok(words.join("."))
}

fn description(u: &mut Unstructured<'_>) -> Result<Description> {
    Ok(Description {
        name: if u.ratio(3, 4)? { "x".to_owned() } else { any_text(u)? },
        version: any_text(u)?,
        summary: any_text(u)?,
        consumes: any_list(u, topic)?,
        emits: any_list(u, |u| if u.arbitrary()? { Ok("x.done".to_owned()) } else { topic(u) })?,
        attributes: any_list(u, pair)?,
    })
}

fn pair(u: &mut Unstructured<'_>) -> Result<(String, String)> {
    Ok((any_text(u)?, any_text(u)?))
}

fn event(u: &mut Unstructured<'_>, id: String) -> Result<Event> {
    Ok(Event {
        id,
        event_type: topic(u)?,
        source: "/fuzz".into(),
        subject: any_text(u)?,
        time_ms: NOW_MS,
        content_type: any_text(u)?,
        data: any_bytes(u)?.into(),
        attributes: any_list(u, pair)?,
    })
}

fn envelope(u: &mut Unstructured<'_>, event: Event) -> Result<Envelope> {
    let subject_key = if u.arbitrary()? {
        Some(SubjectKey::new("order", u.choose(&["1", "a:b", "~"])?))
    } else {
        None
    };
    let cause = if u.arbitrary()? {
        Some(EventKey { source: any_text(u)?, id: any_text(u)? })
    } else {
        None
    };
    let expires_at_ms = if u.ratio(1, 8)? { u.arbitrary()? } else { NOW_MS + 1 };
    Ok(Envelope {
        data_key: None,
        event,
        subject_key,
        customer_hash: u.arbitrary()?,
        correlation_id: any_text(u)?,
        cause,
        hops: 0,
        expires_at_ms,
    })
}

fn emitted(u: &mut Unstructured<'_>) -> Result<Emitted> {
    Ok(Emitted {
        // Sometimes an undeclared one.
        event_type: if u.ratio(7, 8)? { "x.done".to_owned() } else { topic(u)? },
        content_type: any_text(u)?,
        data: any_bytes(u)?.into(),
        subject: if u.arbitrary()? { Some(any_text(u)?) } else { None },
        delay_ms: u.arbitrary()?,
        attributes: any_list(u, pair)?,
    })
}

fn outcome(u: &mut Unstructured<'_>) -> Result<Outcome> {
    Ok(match u.int_in_range(0..=7)? {
        0..=3 => Outcome::Done(any_list(u, emitted)?),
        4 => Outcome::Failed(Failure {
            retryable: u.arbitrary()?,
            code: any_text(u)?,
            message: any_text(u)?,
            retry_after_ms: u.arbitrary()?,
        }),
        5 => {
            let backtrace = if u.arbitrary()? { Some(any_text(u)?) } else { None };
            Outcome::Trapped { kind: any_text(u)?, message: any_text(u)?, backtrace }
        }
        6 => Outcome::LimitExceeded { limit: Limit::Output, message: any_text(u)? },
        _ => Outcome::Unavailable(any_text(u)?),
    })
}

/// Asserts that matching ends, and that a pattern without wildcards matches itself only.
fn is_matched(pattern: &str, event_type: &str) {
    let matched = topic_matches(pattern, event_type);
    assert!(pattern.contains(['*', '#']) || matched == (pattern == event_type));
}
