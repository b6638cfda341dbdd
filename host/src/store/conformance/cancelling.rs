//! Cancellations: once, from a status that allows them, before forward deliveries, and complete with
//! the last compensation.

use std::sync::Arc;

use super::Bench;
use super::build::{
    batch, dead, emits, envelope, key, new_event, new_subject, operator, order, retry, settlement,
    writing,
};
use crate::domain::event::Envelope;
use crate::store::{
    Cancelled, Commit, DeadLetterAction, DeadLetterFilter, DeliveryStatus, NewCancel, OutboxRow,
    Settlement, Store, Verdict,
};

fn cancel_request(subject: &str, routed_to: &[&str]) -> NewCancel {
    // Each request has an event of its own.
    let id = uuid::Uuid::now_v7().to_string();
    NewCancel {
        subject_key: order(subject),
        event: new_event(envelope("order.cancelled", &id, Some(&order(subject))), routed_to),
        reason: None,
        actor: operator(),
    }
}

/// Cancels a subject that can be; its event.
async fn cancel(bench: &Bench, subject: &str, routed_to: &[&str]) -> Arc<Envelope> {
    match bench.store.cancel_subject(cancel_request(subject, routed_to)).await.unwrap() {
        (Cancelled::Begun(_), rows) => {
            bench.sent(&rows).await;
            Arc::clone(&rows[0].envelope)
        }
        other => panic!("not cancelled: {other:?}"),
    }
}

async fn stopped(bench: &Bench, settlements: Vec<Settlement>) -> usize {
    match bench.store.commit(batch(settlements)).await.unwrap() {
        Commit::SubjectCancelled(deliveries) => deliveries.len(),
        other => panic!("not refused for a cancelled subject: {other:?}"),
    }
}

/// A delivery of another stage than `payment`.
fn at(stage: &str, event: &Arc<Envelope>, verdict: Verdict) -> Settlement {
    Settlement { delivery: key(event, stage), ..settlement(event, verdict) }
}

fn done() -> Verdict {
    Verdict::Done(Vec::new())
}

async fn commit_at(bench: &Bench, stage: &str, settlement: Settlement) -> Commit {
    bench
        .store
        .commit(crate::store::Batch { stage: stage.into(), ..batch(vec![settlement]) })
        .await
        .unwrap()
}

pub(super) async fn a_cancellation_is_written_with_its_event_once(bench: Bench) {
    bench.subject("1").await;
    bench.clock.advance(5);
    let (cancelled, rows) =
        bench.store.cancel_subject(cancel_request("1", &["payment", "inventory"])).await.unwrap();
    let Cancelled::Begun(subject) = cancelled else { panic!("{cancelled:?}") };
    assert_eq!(
        (subject.status.as_str(), subject.updated_at_ms - subject.created_at_ms),
        ("cancelling", 5)
    );
    assert_eq!(bench.store.subject(&order("1")).await.unwrap(), Some(subject.clone()));
    assert_eq!((rows.len(), rows[0].envelope.event.event_type.as_str()), (1, "order.cancelled"));
    assert_eq!(bench.delivery("1", "inventory").await.status, DeliveryStatus::Open);
    let (again, rows) =
        bench.store.cancel_subject(cancel_request("1", &["payment"])).await.unwrap();
    assert_eq!(again, Cancelled::Already(subject));
    assert!(rows.is_empty());
    assert_eq!(bench.events("1").await.len(), 2);
    assert_eq!(
        bench.store.cancel_subject(cancel_request("2", &[])).await.unwrap().0,
        Cancelled::NotFound
    );
}

pub(super) async fn a_late_cancellation_changes_nothing(bench: Bench) {
    let event = bench.subject("1").await;
    bench.done(batch(vec![emits(&event, "payment.declined", &[])])).await;
    let (cancelled, rows) =
        bench.store.cancel_subject(cancel_request("1", &["payment"])).await.unwrap();
    assert!(
        matches!(&cancelled, Cancelled::Refused(subject) if subject.status == "declined"),
        "{cancelled:?}"
    );
    assert!(rows.is_empty());
    assert_eq!(bench.status("1").await, "declined");
    assert_eq!(bench.events("1").await.len(), 2);
}

pub(super) async fn concurrent_cancellations_begin_once(bench: Bench) {
    bench.subject("1").await;
    let answers = futures::future::join_all(
        (0..10).map(|_| bench.store.cancel_subject(cancel_request("1", &["payment"]))),
    )
    .await;
    let (mut begun, mut already) = (0, 0);
    for answer in answers {
        match answer.unwrap().0 {
            Cancelled::Begun(_) => begun += 1,
            Cancelled::Already(subject) if subject.status == "cancelling" => already += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((begun, already), (1, 9));
    assert_eq!(bench.events("1").await.len(), 2);
}

pub(super) async fn a_cancellation_stops_forward_deliveries(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.subject("2").await);
    cancel(&bench, "1", &["payment"]).await;
    // Whatever its outcome, and the whole batch with it.
    let mixed = vec![
        emits(&one, "payment.authorized", &["inventory"]),
        emits(&two, "payment.authorized", &["inventory"]),
    ];
    match bench.store.commit(writing(mixed, "k", 0, Some("1"))).await.unwrap() {
        Commit::SubjectCancelled(deliveries) => assert_eq!(deliveries, [key(&one, "payment")]),
        other => panic!("{other:?}"),
    }
    for verdict in [
        retry(&one, super::START_MS + 1),
        dead(&one),
        settlement(&one, Verdict::Deferred { due_at_ms: super::START_MS }),
    ] {
        assert_eq!(stopped(&bench, vec![verdict]).await, 1);
    }
    assert!(bench.store.state_get("payment", "k").await.unwrap().is_none());
    assert_eq!(bench.delivery("2", "payment").await.status, DeliveryStatus::Open);
    let skipped =
        vec![settlement(&one, Verdict::Skipped), emits(&two, "payment.authorized", &["inventory"])];
    bench.done(batch(skipped)).await;
    let statuses: Vec<_> = bench
        .store
        .subject_deliveries(&order("1"), 0, 200)
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|one| one.status)
        .collect();
    assert_eq!(
        statuses,
        [DeliveryStatus::Skipped, DeliveryStatus::Open],
        "the first event's, and the cancel's"
    );
    assert_eq!(
        (bench.status("1").await, bench.status("2").await),
        ("cancelling".to_owned(), "authorized".to_owned())
    );
    // An event from another program belongs to its subject, too.
    let foreign = Arc::new(envelope("order.flagged", "f1", Some(&order("1"))));
    assert_eq!(stopped(&bench, vec![settlement(&foreign, done())]).await, 1);
}

pub(super) async fn a_subject_is_cancelled_when_every_compensation_has_completed(bench: Bench) {
    let created = bench.subject("1").await;
    let event = cancel(&bench, "1", &["payment", "inventory"]).await;
    // Payment undoes something, and tells of it.
    bench.done(batch(vec![emits(&event, "payment.refunded", &["notification"])])).await;
    assert_eq!(bench.status("1").await, "cancelling");
    let events = bench.events("1").await;
    let refunded = Arc::new(events.into_iter().last().unwrap().envelope);
    assert!(matches!(
        commit_at(&bench, "notification", at("notification", &refunded, done())).await,
        Commit::Done { .. }
    ));
    assert_eq!(bench.status("1").await, "cancelling");
    bench.clock.advance(7);
    assert!(matches!(
        commit_at(&bench, "inventory", at("inventory", &event, done())).await,
        Commit::Done { .. }
    ));
    // What went forward may still wait for its skip.
    let subject = bench.store.subject(&order("1")).await.unwrap().unwrap();
    assert_eq!(
        (subject.status.as_str(), subject.updated_at_ms - subject.created_at_ms),
        ("cancelled", 7)
    );
    assert_eq!(stopped(&bench, vec![settlement(&created, done())]).await, 1);
    bench.done(batch(vec![settlement(&created, Verdict::Skipped)])).await;
    assert_eq!(bench.status("1").await, "cancelled");
    let (again, _) = bench.store.cancel_subject(cancel_request("1", &["payment"])).await.unwrap();
    assert!(
        matches!(&again, Cancelled::Already(subject) if subject.status == "cancelled"),
        "{again:?}"
    );
}

pub(super) async fn a_subject_without_compensations_is_cancelled_immediately(bench: Bench) {
    bench.subject("1").await;
    let (cancelled, rows) = bench.store.cancel_subject(cancel_request("1", &[])).await.unwrap();
    assert!(matches!(cancelled, Cancelled::Begun(_)) && rows.is_empty());
    assert_eq!(bench.status("1").await, "cancelled");
}

pub(super) async fn concurrent_compensations_complete_the_cancellation(bench: Bench) {
    compensate_concurrently(&*bench.store, &*bench.store, 20).await;
}

/// Two stages of one cancelled subject, each the last to undo as far as it knows.
pub(in crate::store) async fn compensate_concurrently(
    one: &dyn Store,
    other: &dyn Store,
    subjects: usize,
) {
    for number in 0..subjects {
        let id = format!("u-{number}");
        one.accept_subject(new_subject(&id, "a")).await.unwrap();
        let (cancelled, rows) =
            one.cancel_subject(cancel_request(&id, &["payment", "inventory"])).await.unwrap();
        assert!(matches!(cancelled, Cancelled::Begun(_)), "{cancelled:?}");
        let undo = |stage: &'static str| crate::store::Batch {
            stage: stage.into(),
            ..batch(vec![at(stage, &rows[0].envelope, done())])
        };
        let (here, there) =
            tokio::join!(one.commit(undo("payment")), other.commit(undo("inventory")));
        assert!(matches!(
            (here.unwrap(), there.unwrap()),
            (Commit::Done { .. }, Commit::Done { .. })
        ));
        assert_eq!(
            one.subject(&order(&id)).await.unwrap().unwrap().status,
            "cancelled",
            "subject {id}"
        );
    }
}

pub(super) async fn a_dead_lettered_compensation_delays_the_cancellation(bench: Bench) {
    bench.subject("1").await;
    let event = cancel(&bench, "1", &["payment"]).await;
    bench.done(batch(vec![dead(&event)])).await;
    assert_eq!(bench.status("1").await, "cancelling");
    let page = DeadLetterFilter { limit: 1, ..DeadLetterFilter::default() };
    let dead_letter = bench.store.dead_letters(page).await.unwrap().items.remove(0);
    let expires_at_ms = super::START_MS + super::build::DAY_MS;
    assert!(matches!(
        bench.store.replay(dead_letter.id, expires_at_ms, &operator()).await.unwrap(),
        DeadLetterAction::Done(_)
    ));
    bench.done(batch(vec![Settlement { round: 2, ..settlement(&event, done()) }])).await;
    assert_eq!(bench.status("1").await, "cancelled");
}

pub(super) async fn exactly_one_of_dispatch_and_cancel_wins(bench: Bench) {
    race(&*bench.store, &*bench.store, "r", 20).await;
}

/// `one` dispatches ready subjects while `other` cancels them.
pub(in crate::store) async fn race(
    one: &dyn Store,
    other: &dyn Store,
    prefix: &str,
    subjects: usize,
) {
    let mut dispatched = 0;
    for number in 0..subjects {
        let id = format!("{prefix}-{number}");
        one.accept_subject(new_subject(&id, "a")).await.unwrap();
        let ready =
            new_event(envelope("shipping.ready", &format!("ready-{id}"), Some(&order(&id))), &[]);
        one.accept_event(ready).await.unwrap();
        let collected = new_event(
            envelope("carrier.collected", &format!("collected-{id}"), Some(&order(&id))),
            &["payment"],
        );
        let (_, rows): (_, Vec<OutboxRow>) = one.accept_event(collected).await.unwrap();
        let dispatch = || emits(&rows[0].envelope, "shipping.dispatched", &[]);
        // Now one is asked first, now the other.
        let (commit, cancelled) = if number % 2 == 0 {
            tokio::join!(
                one.commit(batch(vec![dispatch()])),
                other.cancel_subject(cancel_request(&id, &["payment"]))
            )
        } else {
            let (cancelled, commit) = tokio::join!(
                other.cancel_subject(cancel_request(&id, &["payment"])),
                one.commit(batch(vec![dispatch()]))
            );
            (commit, cancelled)
        };
        let status = one.subject(&order(&id)).await.unwrap().unwrap().status;
        match (commit.unwrap(), cancelled.unwrap().0) {
            (Commit::Done { .. }, Cancelled::Refused(subject)) => {
                assert_eq!(
                    (subject.status.as_str(), status.as_str()),
                    ("dispatched", "dispatched")
                );
                dispatched += 1;
            }
            (Commit::SubjectCancelled(_), Cancelled::Begun(_)) => assert_eq!(status, "cancelling"),
            both => panic!("subject {id}: {both:?}"),
        }
    }
    println!("{dispatched} of {subjects} were dispatched, the others cancelled");
}
