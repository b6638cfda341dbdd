//! Sample values, and the queries that most exercises need.

use std::sync::Arc;

use bytes::Bytes;

use super::{Bench, LEASE_MS, START_MS};
use crate::domain::actor::Actor;
use crate::domain::encryption::{Encryption, KeyRing};
use crate::domain::event::DeliveryKey;
use crate::domain::event::{Envelope, Event, EventKey, emitted_id};
use crate::domain::fair_queue::customer_hash;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{
    Batch, Commit, ControlChange, ControlState, DeadLetter, DeadLetterFilter, DeliveryRecord,
    FailedAttempt, LoggedEvent, NewEvent, NewSubject, OutboxRow, PruneRequest, Pruned, Settlement,
    StoreError, SubjectCursor, Verdict, Version,
};

pub(super) const DAY_MS: u64 = 86_400_000;

/// The host that runs what an exercise settles.
pub(super) const RAN_ON: &str = "north";

/// Who does what operators do.
pub(super) fn operator() -> Actor {
    Actor::new("key", "key/ada").at(Some([127, 0, 0, 1].into()))
}

/// A control that the operator sets.
pub(super) fn control_change(
    stage: &str,
    state: ControlState,
    reason: Option<String>,
) -> ControlChange {
    let action = match state {
        ControlState::Running => "stage.resume",
        ControlState::Paused => "stage.pause",
        ControlState::Draining => "stage.drain",
    };
    ControlChange { stage: stage.to_owned(), state, reason, actor: operator(), action }
}

/// The kinds that exercises have: orders, and documents whose status table is another.
pub(in crate::store) fn kinds() -> Arc<SubjectKinds> {
    let text = r#"
        [subjects.document]
        customer_field = "author"
        [subjects.document.status]
        terminal = ["archived", "authorized"]
        [subjects.document.status.transitions]
        "document.created" = { status = "received", from = [] }
        "document.scanned" = { status = "scanned" }
        "document.archived" = { status = "archived" }
        "payment.authorized" = { status = "authorized", from = ["scanned"] }
        "document.cancelled" = { status = "withdrawing", from = ["received", "scanned"] }
        [subjects.document.status.cancel]
        compensations = ["document.cancelled", "document.unscanned"]
        done = "withdrawn"
    "#;
    crate::config::Config::from_toml(text).expect("valid").kinds().expect("valid")
}

/// Keys for what is stored. A store of the exercises is encrypted.
pub(crate) fn encryption() -> Arc<Encryption> {
    let text = serde_json::json!({
        "primary": "test",
        "keys": { "test": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" },
    });
    let text = serde_json::from_value(text).expect("a key ring");
    Arc::new(Encryption::with(Arc::new(KeyRing::new(text).expect("valid"))))
}

/// The key of a document.
pub(super) fn document(id: &str) -> SubjectKey {
    SubjectKey::new("document", id)
}

/// The key of an order.
pub(super) fn order(id: &str) -> SubjectKey {
    SubjectKey::new("order", id)
}

/// The customer of every subject.
const CUSTOMER: &str = "42";

pub(super) fn envelope(event_type: &str, id: &str, subject: Option<&SubjectKey>) -> Envelope {
    Envelope {
        data_key: None,
        event: Event {
            id: id.to_owned(),
            event_type: event_type.to_owned(),
            source: "/orders".to_owned(),
            subject: subject.map_or("none", SubjectKey::id).to_owned(),
            time_ms: START_MS,
            content_type: "application/octet-stream".to_owned(),
            data: Bytes::from_static(b"\x00\xff not UTF-8"),
            attributes: vec![("traceparent".to_owned(), "00-1-2-01".to_owned())],
        },
        subject_key: subject.cloned(),
        customer_hash: customer_hash(subject.map(|_| CUSTOMER)),
        correlation_id: "first".to_owned(),
        cause: None,
        hops: 0,
        expires_at_ms: START_MS + DAY_MS,
    }
}

pub(super) fn new_event(envelope: Envelope, routed_to: &[&str]) -> NewEvent {
    let routed_to = routed_to.iter().map(|stage| Arc::from(*stage)).collect();
    NewEvent::new(envelope, START_MS, routed_to)
}

pub(in crate::store) fn new_subject(id: &str, fingerprint: &str) -> NewSubject {
    NewSubject {
        key: order(id),
        customer: Some(CUSTOMER.to_owned()),
        body: serde_json::json!({"items": ["Book"], "total": 20.0}),
        fingerprint: fingerprint.to_owned(),
        status: "received".to_owned(),
        idempotency_key: None,
        owner: None,
        event: new_event(
            envelope("order.created", &format!("created-{id}"), Some(&order(id))),
            &["payment"],
        ),
    }
}

impl Bench {
    /// Accepts a subject and confirms the sending of its first event, which is returned.
    pub(super) async fn subject(&self, id: &str) -> Arc<Envelope> {
        self.accepted(new_subject(id, "same")).await
    }

    /// The same, with this much data in the event.
    pub(super) async fn subject_with_data(&self, id: &str, bytes: usize) -> Arc<Envelope> {
        let mut subject = new_subject(id, "same");
        Arc::make_mut(&mut subject.event.envelope).event.data = vec![b'x'; bytes].into();
        self.accepted(subject).await
    }

    async fn accepted(&self, subject: NewSubject) -> Arc<Envelope> {
        let (_, rows) = self.store.accept_subject(subject).await.unwrap();
        assert_eq!(rows.len(), 1);
        self.sent(&rows).await;
        Arc::clone(&rows[0].envelope)
    }

    pub(super) async fn sent(&self, rows: &[OutboxRow]) {
        self.store.outbox_sent(rows.iter().filter_map(|row| row.id).collect()).await.unwrap();
    }

    /// Prunes every kind, and events without a subject.
    pub(super) async fn prune(&self, before_ms: u64, limit: u32) -> Result<Pruned, StoreError> {
        let kinds = kinds();
        let subjects = kinds.iter().map(|kind| (kind.name.clone(), before_ms)).collect();
        self.store.prune(PruneRequest { subjects, others: Some(before_ms), limit }).await
    }

    pub(super) async fn done(&self, batch: Batch) -> (Vec<Version>, Vec<OutboxRow>) {
        match self.store.commit(batch).await.unwrap() {
            Commit::Done { versions, outbox, .. } => (versions, outbox),
            refused => panic!("the batch was refused: {refused:?}"),
        }
    }

    pub(super) async fn refused(&self, batch: Batch) -> (Vec<DeliveryKey>, Vec<String>) {
        match self.store.commit(batch).await.unwrap() {
            Commit::Conflict { stale, conflicts } => {
                (stale.into_iter().map(|attempt| attempt.delivery).collect(), conflicts)
            }
            other => panic!("the batch did not conflict: {other:?}"),
        }
    }

    /// A subject's events, oldest first.
    pub(super) async fn events(&self, subject: &str) -> Vec<LoggedEvent> {
        self.events_after(subject, 0, 100).await
    }

    pub(super) async fn events_after(
        &self,
        subject: &str,
        after: i64,
        limit: u32,
    ) -> Vec<LoggedEvent> {
        let cursor = SubjectCursor { subject: order(subject), after };
        self.store.events_of_subjects(&[cursor], limit).await.unwrap()
    }

    /// Whether nothing waits to be sent: expires every lease first.
    pub(super) async fn outbox_is_empty(&self) -> bool {
        self.clock.advance(LEASE_MS);
        self.store.claim_outbox(1, u64::MAX).await.unwrap().is_empty()
    }

    pub(super) async fn delivery(&self, subject: &str, stage: &str) -> DeliveryRecord {
        let found = self.store.subject_deliveries(&order(subject), 0, 200).await.unwrap().items;
        found.into_iter().find(|record| record.stage == stage).expect("no such delivery")
    }

    pub(super) async fn status(&self, subject: &str) -> String {
        self.store.subject(&order(subject)).await.unwrap().expect("no such subject").status
    }

    /// Dead-letters the delivery of a new subject at `payment`.
    pub(super) async fn dead_letter_of(&self, subject: &str) -> DeadLetter {
        let event = self.subject(subject).await;
        let (_, rows) = self.done(batch(vec![dead(&event)])).await;
        self.sent(&rows).await;
        let page = DeadLetterFilter { limit: 1, ..DeadLetterFilter::default() };
        self.store.dead_letters(page).await.unwrap().items.remove(0)
    }
}

pub(super) fn key(event: &Envelope, stage: &str) -> DeliveryKey {
    DeliveryKey { stage: stage.into(), event: event.key() }
}

/// The first attempt of an event at `payment`.
pub(in crate::store) fn settlement(event: &Arc<Envelope>, verdict: Verdict) -> Settlement {
    Settlement {
        delivery: key(event, "payment"),
        envelope: Arc::clone(event),
        scheduled_ms: None,
        round: 1,
        attempt: 1,
        verdict,
        version: "1.2.3".to_owned(),
        digest: "d1".into(),
        host: Some(RAN_ON.into()),
        duration_us: 55,
        failure: None,
        recording: None,
    }
}

/// The same, with something recorded.
pub(super) fn recorded(settlement: Settlement, body: &str) -> Settlement {
    Settlement { recording: Some(body.to_owned()), ..settlement }
}

/// An attempt that emits one event of this type, routed to `routed_to`.
pub(super) fn emits(event: &Arc<Envelope>, event_type: &str, routed_to: &[&str]) -> Settlement {
    let delivery = key(event, "payment");
    let mut emitted = envelope(
        event_type,
        &emitted_id(&delivery, event.event.time_ms, 0),
        event.subject_key.as_ref(),
    );
    emitted.event.source = String::from("/orders/stages/payment");
    emitted.cause = Some(event.key());
    emitted.hops = event.hops + 1;
    emitted.data_key.clone_from(&event.data_key);
    let new = new_event(emitted, routed_to).produced_by("payment".into(), "d1".into());
    settlement(event, Verdict::Done(vec![new]))
}

pub(super) fn failure(round: u32, attempt: u32) -> FailedAttempt {
    FailedAttempt {
        round,
        attempt,
        code: "no-answer".to_owned(),
        message: "the bank did not answer".to_owned(),
        backtrace: Some("at pay".to_owned()),
        digest: "d1".to_owned(),
        host: Some(RAN_ON.into()),
        duration_us: 77,
        at_ms: START_MS,
    }
}

/// An attempt that dead-letters the delivery.
pub(super) fn dead(event: &Arc<Envelope>) -> Settlement {
    let id =
        crate::domain::event::dead_letter_event_id(&key(event, "payment"), event.event.time_ms, 1);
    let announcement =
        envelope(crate::domain::event::DEAD_LETTERED, &id, event.subject_key.as_ref());
    let verdict = Verdict::Dead {
        code: "no-answer".to_owned(),
        message: "the bank did not answer".to_owned(),
        announcement: new_event(announcement, &["watch"]),
    };
    Settlement { failure: Some(failure(1, 1)), ..settlement(event, verdict) }
}

pub(super) fn retry(event: &Arc<Envelope>, due_at_ms: u64) -> Settlement {
    Settlement { failure: Some(failure(1, 1)), ..settlement(event, Verdict::Retry { due_at_ms }) }
}

pub(in crate::store) fn batch(settlements: Vec<Settlement>) -> Batch {
    Batch { stage: "payment".into(), settlements, reads: Vec::new(), writes: Vec::new() }
}

/// A batch that writes one key, having read it at `version`.
pub(super) fn writing(
    settlements: Vec<Settlement>,
    key: &str,
    version: Version,
    value: Option<&str>,
) -> Batch {
    Batch {
        reads: vec![(key.to_owned(), version)],
        writes: vec![(key.to_owned(), value.map(|text| Bytes::copy_from_slice(text.as_bytes())))],
        ..batch(settlements)
    }
}

pub(super) fn event_key(source: &str, id: &str) -> EventKey {
    EventKey { source: source.to_owned(), id: id.to_owned() }
}
