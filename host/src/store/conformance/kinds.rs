//! Two kinds of subjects in one store: orders, and documents with another status table.

use std::sync::Arc;

use super::build::{
    batch, document, emits, envelope, key, new_event, new_subject, operator, order, settlement,
};
use super::{Bench, START_MS};
use crate::domain::event::Envelope;
use crate::domain::subject::SubjectKey;
use crate::store::{
    Accepted, Cancelled, Commit, NewCancel, NewSubject, PruneRequest, Pruned, SubjectFilter,
    Verdict,
};

pub(super) fn new_document(id: &str, fingerprint: &str) -> NewSubject {
    let event = envelope("document.created", &format!("document-{id}"), Some(&document(id)));
    NewSubject {
        key: document(id),
        event: new_event(event, &["payment"]),
        ..new_subject(id, fingerprint)
    }
}

impl Bench {
    /// Accepts a document and confirms the sending of its first event, which is returned.
    async fn document(&self, id: &str) -> Arc<Envelope> {
        let (_, rows) = self.store.accept_subject(new_document(id, "same")).await.unwrap();
        self.sent(&rows).await;
        Arc::clone(&rows[0].envelope)
    }

    async fn status_of(&self, key: &SubjectKey) -> String {
        self.store.subject(key).await.unwrap().expect("no such subject").status
    }

    /// Logs an event about a subject, as another program does.
    async fn logged(&self, event_type: &str, key: &SubjectKey) {
        let id = uuid::Uuid::now_v7().to_string();
        let event = new_event(envelope(event_type, &id, Some(key)), &[]);
        self.store.accept_event(event).await.unwrap();
    }

    async fn cancel_document(&self, id: &str) -> Cancelled {
        let event_id = uuid::Uuid::now_v7().to_string();
        let event = envelope("document.cancelled", &event_id, Some(&document(id)));
        let cancel = NewCancel {
            subject_key: document(id),
            event: new_event(event, &["payment"]),
            reason: None,
            actor: operator(),
        };
        let (cancelled, rows) = self.store.cancel_subject(cancel).await.unwrap();
        self.sent(&rows).await;
        cancelled
    }
}

pub(super) async fn each_kind_has_its_own_status_table(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.document("1").await);
    // One batch with an event that means something else to each of them.
    bench
        .done(batch(vec![
            emits(&one, "payment.authorized", &[]),
            emits(&two, "payment.authorized", &[]),
        ]))
        .await;
    assert_eq!(bench.status_of(&order("1")).await, "authorized");
    assert_eq!(bench.status_of(&document("1")).await, "received", "it is not scanned yet");
    for (event_type, expected) in [
        ("document.scanned", "scanned"),
        ("inventory.reserved", "scanned"),
        ("payment.authorized", "authorized"),
        ("postrider.dead-lettered", "authorized"),
    ] {
        bench.logged(event_type, &document("1")).await;
        assert_eq!(bench.status_of(&document("1")).await, expected, "after {event_type}");
    }
    bench.logged("document.scanned", &order("1")).await;
    assert_eq!(bench.status_of(&order("1")).await, "authorized");
}

pub(super) async fn each_kind_has_its_own_ids_and_idempotency_keys(bench: Bench) {
    let keyed = |subject: NewSubject| NewSubject { idempotency_key: Some("k".into()), ..subject };
    let accept = async |new: NewSubject| bench.store.accept_subject(new).await.unwrap().0;
    for new in [new_subject("1", "a"), new_document("1", "b")] {
        assert!(matches!(accept(keyed(new)).await, Accepted::New(_)));
    }
    assert_eq!(accept(keyed(new_document("2", "c"))).await, Accepted::KeyReused);
    assert!(
        matches!(accept(keyed(new_document("2", "b"))).await, Accepted::Duplicate(known) if known.key == document("1"))
    );
    assert_eq!(accept(new_document("1", "a")).await, Accepted::Conflict);
}

pub(super) async fn a_cancellation_completes_by_the_rules_of_its_kind(bench: Bench) {
    let event = bench.document("1").await;
    bench.subject("1").await;
    let Cancelled::Begun(begun) = bench.cancel_document("1").await else { panic!("not begun") };
    assert_eq!(begun.status, "withdrawing");
    assert!(matches!(bench.cancel_document("1").await, Cancelled::Already(_)));
    assert_eq!(bench.status_of(&order("1")).await, "received", "the order is another subject");
    // A forward delivery is stopped.
    let stopped = bench.store.commit(batch(vec![emits(&event, "document.scanned", &[])])).await;
    assert!(matches!(stopped.unwrap(), Commit::SubjectCancelled(keys) if keys.len() == 1));
    let events = bench.store.events_by_id(&event.event.id).await.unwrap();
    assert_eq!(events.len(), 1);
    // Its compensation is not, and completes the cancellation. The refund of an order is none of it.
    let open = bench.store.open_deliveries("payment", 10).await.unwrap();
    let cancelled =
        open.iter().find(|one| one.envelope.event.event_type == "document.cancelled").unwrap();
    let refund = envelope("payment.refunded", "r", Some(&document("1")));
    let (_, rows) = bench.store.accept_event(new_event(refund, &["payment"])).await.unwrap();
    bench.sent(&rows).await;
    bench.done(batch(vec![settlement(&cancelled.envelope, Verdict::Done(Vec::new()))])).await;
    assert_eq!(bench.status_of(&document("1")).await, "withdrawn");
    // Too late: the status has no way to a cancellation.
    bench.document("2").await;
    bench.logged("document.archived", &document("2")).await;
    assert!(matches!(bench.cancel_document("2").await, Cancelled::Refused(_)));
    assert_eq!(bench.cancel_document("3").await, Cancelled::NotFound);
}

pub(super) async fn subjects_are_listed_by_kind(bench: Bench) {
    for id in ["1", "2", "3"] {
        bench.subject(id).await;
        bench.document(id).await;
    }
    bench.logged("document.scanned", &document("2")).await;
    let list = async |filter: SubjectFilter| {
        let page = bench.store.subjects(SubjectFilter { limit: 2, ..filter }).await.unwrap();
        page.items.into_iter().map(|subject| subject.key).collect::<Vec<_>>()
    };
    let of = |kind: &str| SubjectFilter { kind: Some(kind.to_owned()), ..SubjectFilter::default() };
    assert_eq!(list(of("document")).await, [document("3"), document("2")]);
    assert_eq!(list(of("order")).await, [order("3"), order("2")]);
    assert_eq!(list(SubjectFilter::default()).await, [document("3"), order("3")]);
    let received = SubjectFilter { status: Some("received".into()), ..of("document") };
    assert_eq!(list(received).await, [document("3"), document("1")]);
    let of_customer = SubjectFilter { customer: Some("42".into()), ..of("document") };
    assert_eq!(list(of_customer).await, [document("3"), document("2")]);
    let waiting = SubjectFilter { stage: Some("payment".into()), ..of("order") };
    assert_eq!(list(waiting).await, [order("3"), order("2")]);
}

pub(super) async fn each_kind_has_its_own_retention_period(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.document("1").await);
    let settlements = vec![settlement(&one, Verdict::Skipped), settlement(&two, Verdict::Skipped)];
    bench.done(batch(settlements)).await;
    let write = |key: &str| super::build::writing(Vec::new(), key, 0, Some("yes"));
    for key in ["document/1/paid", "order/1/paid", "document/12/paid"] {
        bench.done(write(key)).await;
    }
    bench.clock.advance(1_000);
    let prune = async |kind: &str, before_ms| {
        let subjects = vec![(kind.to_owned(), before_ms)];
        bench.store.prune(PruneRequest { subjects, others: None, limit: 10 }).await.unwrap()
    };
    let nothing = Pruned::default();
    assert_eq!(prune("document", START_MS).await, nothing, "it is not old enough");
    assert_eq!(prune("ticket", START_MS + 500).await, nothing);
    assert_eq!(prune("document", START_MS + 500).await, Pruned { subjects: 1, ..nothing });
    assert_eq!(bench.status_of(&document("1")).await, "pruned");
    assert_eq!(bench.status_of(&order("1")).await, "received");
    let left = bench.store.state_keys("payment", "", "", 10).await.unwrap();
    assert_eq!(left, ["document/12/paid", "order/1/paid"], "its state goes with it");
    assert_eq!(bench.events("1").await.len(), 1);
}

pub(super) async fn a_subject_of_a_removed_kind_keeps_its_status(bench: Bench) {
    let ticket: SubjectKey = "ticket/1".parse().unwrap();
    let first = envelope("ticket.created", "ticket-1", Some(&ticket));
    let new = NewSubject {
        key: ticket.clone(),
        event: new_event(first, &["payment"]),
        ..new_subject("1", "a")
    };
    let (_, rows) = bench.store.accept_subject(new).await.unwrap();
    bench.sent(&rows).await;
    let event = Arc::clone(&rows[0].envelope);
    let (_, rows) =
        bench.done(batch(vec![emits(&event, "payment.authorized", &["inventory"])])).await;
    assert_eq!(rows.len(), 1, "its events go on");
    assert_eq!(bench.status_of(&ticket).await, "received");
    assert_eq!(key(&event, "payment").event, event.key());
    bench.clock.advance(1_000);
    assert_eq!(bench.prune(START_MS + 500, 10).await.unwrap().subjects, 0);
}

pub(super) async fn an_event_waits_by_the_status_of_its_kind(bench: Bench) {
    let scanned = bench.document("1").await;
    bench.logged("document.scanned", &document("1")).await;
    // Final for a document, on the way for an order.
    let authorized = bench.subject("1").await;
    bench.done(batch(vec![emits(&scanned, "payment.authorized", &[])])).await;
    bench.done(batch(vec![emits(&authorized, "payment.authorized", &[])])).await;
    let waiting = bench.store.unrouted_events().await.unwrap();
    let count = |event_type: &str| {
        waiting.iter().find(|one| one.event_type == event_type).map_or(0, |one| one.count)
    };
    assert_eq!(count("payment.authorized"), 1, "{waiting:?}");
}
