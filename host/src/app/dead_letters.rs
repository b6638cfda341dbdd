//! Dead letters: list, group, show, replay (unchanged or edited) and discard, one or many.
//!
//! The API, the command line (over HTTP) and embedders use this one service. Guarantee: a dead
//! letter is settled once. The store compares and sets its status, so repeating an action, here or
//! on another host, is harmless. Actions on many dead letters are jobs (`jobs`) with a bounded rate.

use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use self::jobs::Jobs;
pub use self::jobs::{
    Job, JobFailure, JobState, JobStatus, RATE, RATE_MAX, StartError, Task, Work,
};
use super::audit::actor;
use crate::domain::cloud_events::is_json;
use crate::domain::encryption::unreadable;
use crate::domain::event::{DeliveryKey, Envelope, Event, EventKey, UNREADABLE, without_nul};
use crate::domain::trace_context::TraceContext;
use crate::pipeline::routes::Routes as _;
use crate::services::Services;
use crate::store::{
    DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterGroup, DeadLetterStatus,
    DeliveryRecord, NewEvent, OutboxRow, Page, StoreError,
};

mod jobs;

/// How a dead letter is replayed.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Unchanged.
    None,
    /// With this body.
    Body(Value),
    /// With its body after this merge patch (RFC 7396).
    Patch(Value),
    /// As an event of this type.
    Type {
        /// The type.
        event_type: String,
        /// Its new body; none: its own.
        body: Option<Value>,
    },
}

impl Edit {
    /// The edited body; none when nothing changes.
    fn applied(&self, body: &[u8]) -> Result<Option<Value>, String> {
        match self {
            Self::None => Ok(None),
            Self::Body(body) => Ok(Some(body.clone())),
            Self::Patch(patch) => patched(body, patch),
            Self::Type { body, .. } => Ok(body.clone()),
        }
    }
}

/// The result of a replay.
#[derive(Debug)]
pub enum Replayed {
    /// The store decided. If it replayed the dead letter, the relay has the event already.
    Settled {
        /// What the store did.
        action: DeadLetterAction,
        /// The edited event; none when it is replayed unchanged.
        event: Option<EventKey>,
    },
    /// The patch cannot be applied to the body: why. Nothing was changed.
    NotEditable(String),
}

/// The event that a replay delivered, with its delivery.
#[derive(Debug)]
pub struct Successor {
    /// The event: the same one, or the edited one.
    pub event: EventKey,
    /// Whether its body was edited.
    pub edited: bool,
    /// Its delivery; none when retention has deleted it.
    pub delivery: Option<DeliveryRecord>,
}

/// A dead letter with its successor.
#[derive(Debug)]
pub struct DeadLetterHistory {
    /// The dead letter.
    pub dead_letter: DeadLetter,
    /// The result of its replay, if it was replayed.
    pub successor: Option<Successor>,
}

/// Lists, replays and discards dead letters.
pub struct DeadLetterService {
    services: Services,
    /// CloudEvents source of edited events.
    source: String,
    expiry_ms: u64,
    jobs: Jobs,
}

/// A replay that is ready for the store. It is prepared once, so that it can be retried without
/// sending a second edited event.
enum Prepared {
    Unchanged,
    Edited(Box<NewEvent>),
}

impl DeadLetterService {
    pub(crate) fn new(services: Services, source: String, expiry_ms: u64) -> Self {
        Self { services, source, expiry_ms, jobs: Jobs::default() }
    }

    /// Runs jobs until cancelled; dead letters that a job has not settled by then stay open.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        jobs::run(self, cancel).await;
    }

    /// Returns a page of dead letters, newest first.
    pub async fn list(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError> {
        self.services.store.dead_letters(filter).await
    }

    /// Returns a page of groups of the dead letters that match the filter; the group of the newest
    /// dead letter first.
    pub async fn groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError> {
        self.services.store.dead_letter_groups(filter).await
    }

    /// Returns a dead letter with its successor; none when there is no such dead letter.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetterHistory>, StoreError> {
        let Some(dead_letter) = self.services.store.dead_letter(id).await? else { return Ok(None) };
        let successor = match dead_letter.status {
            DeadLetterStatus::Replayed => Some(self.successor(&dead_letter).await?),
            DeadLetterStatus::Open | DeadLetterStatus::Discarded => None,
        };
        Ok(Some(DeadLetterHistory { dead_letter, successor }))
    }

    async fn successor(&self, dead_letter: &DeadLetter) -> Result<Successor, StoreError> {
        let edited = dead_letter.replayed_as.is_some();
        let event = dead_letter.replayed_as.clone().unwrap_or_else(|| dead_letter.envelope.key());
        let key = DeliveryKey { stage: dead_letter.stage.as_str().into(), event: event.clone() };
        let delivery = self.services.store.delivery(&key).await?;
        Ok(Successor { event, edited, delivery })
    }

    /// Replays a dead letter.
    pub async fn replay(&self, id: i64, edit: &Edit) -> Result<Replayed, StoreError> {
        let prepared = match self.prepare(id, edit).await? {
            Ok(prepared) => prepared,
            Err(refused) => return Ok(refused),
        };
        self.replay_prepared(id, &prepared).await
    }

    async fn replay_prepared(&self, id: i64, prepared: &Prepared) -> Result<Replayed, StoreError> {
        let store = &self.services.store;
        let (action, event) = match prepared {
            Prepared::Unchanged => {
                let expires_at_ms = self.services.clock.now_ms() + self.expiry_ms;
                (store.replay(id, expires_at_ms, &actor()).await?, None)
            }
            Prepared::Edited(event) => {
                let action = store.replay_edited(id, (**event).clone(), &actor()).await?;
                (action, Some(event.envelope.key()))
            }
        };
        Ok(Replayed::Settled { action: self.enqueue(action), event })
    }

    /// Discards a dead letter: it can never be replayed. The reason is kept with it.
    pub async fn discard(&self, id: i64, reason: &str) -> Result<DeadLetterAction, StoreError> {
        self.services.store.discard(id, without_nul(reason.to_owned()), &actor()).await
    }

    /// Starts a job on all open dead letters that match the task's filter now. Later ones are not
    /// part of it.
    pub async fn start(&self, task: Task) -> Result<Arc<Job>, StartError> {
        let open = DeadLetterFilter { status: Some(DeadLetterStatus::Open), ..task.filter.clone() };
        let count = self.services.store.count_dead_letters(open).await?;
        self.jobs.add(Job::new(task, count, self.services.clock.now_ms()))
    }

    /// Returns a job of this host.
    pub fn job(&self, id: &str) -> Option<Arc<Job>> {
        self.jobs.find(id)
    }

    /// Returns the jobs that this host remembers, newest first.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.jobs.all()
    }

    /// Prepares a replay.
    async fn prepare(
        &self,
        id: i64,
        edit: &Edit,
    ) -> Result<Result<Prepared, Replayed>, StoreError> {
        let settled = |action| Ok(Err(Replayed::Settled { action, event: None }));
        let Some(dead_letter) = self.services.store.dead_letter(id).await? else {
            return settled(DeadLetterAction::NotFound);
        };
        if dead_letter.status != DeadLetterStatus::Open {
            return settled(DeadLetterAction::AlreadySettled(dead_letter.status));
        }
        let event_type = match edit {
            Edit::Type { event_type, .. } => Some(event_type.as_str()),
            Edit::None | Edit::Body(_) | Edit::Patch(_) => None,
        };
        if let Some(why) = self.cannot_run(&dead_letter, event_type) {
            return Ok(Err(Replayed::NotEditable(why)));
        }
        if let Some(why) = unreadable(&dead_letter.envelope.event.data)
            && !matches!(edit, Edit::None | Edit::Body(_))
        {
            let why = format!("the body of the event cannot be read: {why}");
            return Ok(Err(Replayed::NotEditable(why)));
        }
        Ok(match edit.applied(&dead_letter.envelope.event.data) {
            Ok(body) if body.is_some() || event_type.is_some() => {
                let edited = self.edited(dead_letter, event_type, body.as_ref());
                Ok(Prepared::Edited(Box::new(edited)))
            }
            // An unchanged event keeps its id, and with it its idempotency key.
            Ok(_) => Ok(Prepared::Unchanged),
            Err(why) => Err(Replayed::NotEditable(why)),
        })
    }

    /// Why the stage would skip the event, as the type that it is to have.
    fn cannot_run(&self, dead_letter: &DeadLetter, event_type: Option<&str>) -> Option<String> {
        let stage = dead_letter.stage.as_str();
        match event_type {
            None if dead_letter.envelope.event.event_type == UNREADABLE => Some(
                "the message could not be read, so the event has no type: give it one (`type`)"
                    .to_owned(),
            ),
            Some(event_type) => {
                let stages = self.services.pipeline.stages_for(event_type);
                let consumed = stages.iter().any(|consumer| &**consumer == stage);
                (!consumed).then(|| format!("the stage `{stage}` does not consume `{event_type}`"))
            }
            None => None,
        }
    }

    /// The edited event: caused by the dead-lettered one, and delivered to the same stage only.
    fn edited(
        &self,
        dead_letter: DeadLetter,
        event_type: Option<&str>,
        body: Option<&Value>,
    ) -> NewEvent {
        let now_ms = self.services.clock.now_ms();
        let stage: Arc<str> = dead_letter.stage.into();
        let old = dead_letter.envelope;
        let is_unreadable = old.event.event_type == UNREADABLE;
        // Those of an unreadable message are the message's headers.
        let mut attributes = if is_unreadable { Vec::new() } else { old.event.attributes.clone() };
        TraceContext::of_event(&old.event).mark(&mut attributes);
        let content_type = if body.is_none() || is_json(&old.event.content_type) {
            old.event.content_type.clone()
        } else {
            "application/json".to_owned()
        };
        let event = Event {
            id: uuid::Uuid::now_v7().to_string(),
            source: self.source.clone(),
            time_ms: now_ms,
            data: body.map_or_else(|| old.event.data.clone(), |body| body.to_string().into()),
            content_type,
            attributes,
            event_type: event_type.unwrap_or(&old.event.event_type).to_owned(),
            subject: old.event.subject.clone(),
        };
        let envelope = Envelope::replacing(&old, event, now_ms + self.expiry_ms);
        NewEvent::new(envelope, now_ms, Vec::new()).only_for(stage)
    }

    fn enqueue(&self, action: DeadLetterAction) -> DeadLetterAction {
        match action {
            DeadLetterAction::Done(rows) => {
                self.services.relay.enqueue(rows);
                DeadLetterAction::Done(Vec::<OutboxRow>::new())
            }
            other => other,
        }
    }
}

/// The body after the patch; none when the patch changes nothing.
fn patched(body: &[u8], patch: &Value) -> Result<Option<Value>, String> {
    let before: Value = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not JSON, so it cannot be patched: {error}"))?;
    let mut after = before.clone();
    json_patch::merge(&mut after, patch);
    Ok((after != before).then_some(after))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_changes_only_the_fields_that_it_names() {
        let body = br#"{"total": 20, "force_fail": true, "user": {"id": 1, "name": "a"}}"#;
        let patch = json!({ "force_fail": null, "user": { "name": "b" } });
        let expected = json!({ "total": 20, "user": { "id": 1, "name": "b" } });
        assert_eq!(patched(body, &patch).unwrap(), Some(expected));
        assert_eq!(patched(body, &json!({ "total": 20, "absent": null })).unwrap(), None);
        assert!(patched(b"\xff", &patch).unwrap_err().contains("not JSON"));
    }
}
