//! Subjects and events from outside.

use super::Bench;
use super::build::{envelope, new_event, new_subject, order};
use crate::domain::event::Envelope;
use crate::store::{Accepted, AcceptedEvent, DeliveryStatus};

pub(super) async fn a_subject_is_accepted_once(bench: Bench) {
    let (accepted, rows) = bench.store.accept_subject(new_subject("1", "a")).await.unwrap();
    let Accepted::New(subject) = accepted else { panic!("{accepted:?}") };
    assert_eq!((subject.status.as_str(), subject.created_at_ms), ("received", super::START_MS));
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].envelope.event.id, "created-1");
    assert_eq!(rows[0].direct, None);
    assert_eq!(bench.store.subject(&order("1")).await.unwrap(), Some(subject.clone()));
    let delivery = bench.delivery("1", "payment").await;
    assert_eq!((delivery.status, delivery.round, delivery.attempt), (DeliveryStatus::Open, 1, 1));
    // The row is leased to whoever was given it.
    assert!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().is_empty());

    let (again, rows) = bench.store.accept_subject(new_subject("1", "a")).await.unwrap();
    assert_eq!(again, Accepted::Duplicate(subject));
    assert!(rows.is_empty());
    let (other, rows) = bench.store.accept_subject(new_subject("1", "b")).await.unwrap();
    assert_eq!(other, Accepted::Conflict);
    assert!(rows.is_empty());
    assert_eq!(bench.events("1").await.len(), 1);
}

pub(super) async fn concurrent_subjects_with_one_id_are_accepted_once(bench: Bench) {
    let accepts = (0..20).map(|number| {
        bench.store.accept_subject(new_subject("1", if number % 2 == 0 { "a" } else { "b" }))
    });
    let accepted = futures::future::join_all(accepts).await;
    let (mut new, mut same, mut different) = (0, 0, 0);
    for (accepted, rows) in accepted.into_iter().map(Result::unwrap) {
        match accepted {
            Accepted::New(_) => new += 1,
            Accepted::Duplicate(_) => same += 1,
            Accepted::Conflict => different += 1,
            Accepted::KeyReused => panic!("there is no key"),
        }
        assert!(rows.len() <= 1);
    }
    assert_eq!((new, same, different), (1, 9, 10));
    assert_eq!(bench.events("1").await.len(), 1);
}

pub(super) async fn an_event_is_accepted_once(bench: Bench) {
    let event = new_event(envelope("product.stocked", "s1", None), &["inventory", "notification"]);
    let (accepted, rows) = bench.store.accept_event(event.clone()).await.unwrap();
    assert_eq!(accepted, AcceptedEvent::New);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].envelope, event.envelope);
    let (accepted, rows) = bench.store.accept_event(event.clone()).await.unwrap();
    assert_eq!(accepted, AcceptedEvent::Duplicate);
    assert!(rows.is_empty());
    // Another event with its key is neither written nor taken for it, also in one group.
    let mut changed = Envelope::clone(&event.envelope);
    changed.event.subject = "another".to_owned();
    let (accepted, rows) = bench.store.accept_event(new_event(changed, &[])).await.unwrap();
    assert_eq!((accepted, rows.len()), (AcceptedEvent::Conflict, 0));
    let racing = |subject: &str| {
        let mut racing = envelope("product.stocked", "s2", None);
        racing.event.subject = subject.to_owned();
        bench.store.accept_event(new_event(racing, &[]))
    };
    let (one, other) = tokio::join!(racing("1"), racing("2"));
    let mut results = [one.unwrap().0, other.unwrap().0];
    results.sort_by_key(|accepted| *accepted == AcceptedEvent::Conflict);
    assert_eq!(results, [AcceptedEvent::New, AcceptedEvent::Conflict]);
    // Ids are unique per source only.
    let mut other = envelope("product.stocked", "s1", None);
    other.event.source = String::from("/elsewhere");
    // An event that no stage consumes is not sent.
    let (accepted, rows) = bench.store.accept_event(new_event(other, &[])).await.unwrap();
    assert_eq!(accepted, AcceptedEvent::New);
    assert!(rows.is_empty());
}

pub(super) async fn a_subject_whose_first_event_is_in_the_log_is_refused(bench: Bench) {
    let new = new_subject("7", "a");
    bench.store.accept_event(new.event.clone()).await.unwrap();
    let (accepted, rows) = bench.store.accept_subject(new).await.unwrap();
    assert_eq!((accepted, rows.len()), (Accepted::Conflict, 0));
}
