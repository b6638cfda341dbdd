//! A new event: an envelope, when it falls due, and the stages it goes to.
//!
//! [`NewEvent::new`] is the only constructor. It does no I/O and decides nothing: the caller names
//! the routes, and the envelope's own constructors set its place in the chain.

use std::sync::Arc;

use crate::domain::event::{Envelope, HOST_EVENT_PREFIX};
use crate::domain::subject_kind::SubjectKinds;

/// Who made an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This system: its API, a stage, the host itself.
    Host,
    /// Another program. Without a consumer, its event is only logged.
    External,
}

/// The result of accepting an event that no stage emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedEvent {
    /// Written.
    New,
    /// The log has the same event: nothing was written.
    Duplicate,
    /// The log has another event with this source and id: nothing was written.
    Conflict,
}

/// An event to be written, with the stages it is routed to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewEvent {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Stages that consume it, by the topology of the moment: each gets an open delivery.
    pub routed_to: Vec<Arc<str>>,
    /// Not sent before this time, milliseconds since 1970-01-01 UTC.
    pub due_at_ms: u64,
    /// The stage that emitted it and the digest of its plugin; none for the host's own events.
    pub producer: Option<(Arc<str>, Arc<str>)>,
    /// Sent to this stage's queue alone (an edited replay); none: published by its type.
    pub only_stage: Option<Arc<str>>,
    /// Who made it.
    pub origin: Origin,
    /// It is written to the log and not sent to any stage.
    pub only_logged: bool,
    /// The host that commits it can run it right away: there is no message, unless an earlier event
    /// of its subject waits for one of the stages.
    pub hand_over: bool,
}

impl NewEvent {
    /// An event that is published by its type at `due_at_ms`, with no producer.
    pub fn new(envelope: Envelope, due_at_ms: u64, routed_to: Vec<Arc<str>>) -> Self {
        Self {
            envelope: Arc::new(envelope),
            routed_to,
            due_at_ms,
            producer: None,
            only_stage: None,
            origin: Origin::Host,
            only_logged: false,
            hand_over: false,
        }
    }

    /// The same event, emitted by the plugin `digest` of `stage`.
    #[must_use]
    pub fn produced_by(self, stage: Arc<str>, digest: Arc<str>) -> Self {
        Self { producer: Some((stage, digest)), ..self }
    }

    /// The same event, made by another program.
    #[must_use]
    pub fn external(self) -> Self {
        Self { origin: Origin::External, ..self }
    }

    /// The same event, written to the log and not sent: no stage and no other program receives it.
    #[must_use]
    pub fn only_logged(self) -> Self {
        Self { routed_to: Vec::new(), only_stage: None, only_logged: true, ..self }
    }

    /// Whether something depends on the event being processed, while its subject is unfinished: a
    /// subject or stock that was accepted, or the next step of a subject. A cancellation completes
    /// without a stage.
    pub(super) fn needs_a_stage(&self, kinds: &SubjectKinds) -> bool {
        let event_type = self.envelope.event.event_type.as_str();
        let subject = self.envelope.subject_key.as_deref();
        self.origin == Origin::Host
            && !subject.is_some_and(|key| kinds.is_cancel_event(key, event_type))
            && !event_type.starts_with(HOST_EVENT_PREFIX)
            && (self.producer.is_none() || subject.is_some())
    }

    /// Its subject with each stage that it is routed to; nothing without a subject.
    pub(super) fn stages_of_subject(&self) -> impl Iterator<Item = (&str, &str)> {
        let subject = self.envelope.subject_key.as_deref();
        subject
            .into_iter()
            .flat_map(|subject| self.routed_to.iter().map(move |to| (subject, &**to)))
    }

    /// The same event, sent to the queue of `stage` alone, whatever else consumes its type.
    #[must_use]
    pub fn only_for(self, stage: Arc<str>) -> Self {
        Self { routed_to: vec![Arc::clone(&stage)], only_stage: Some(stage), ..self }
    }
}
