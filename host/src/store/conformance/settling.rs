//! Commits: compare-and-set, versions, effects, subject status.

use std::sync::Arc;

use super::build::{
    RAN_ON, batch, dead, emits, envelope, event_key, failure, key, new_event, operator, order,
    retry, settlement, writing,
};
use super::{Bench, START_MS};
use crate::store::{
    Batch, Commit, DeadLetterFilter, DeliveryRecord, DeliveryStatus, FailedAttempt, Settlement,
    Verdict,
};

pub(super) async fn a_batch_is_committed_with_its_effects(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.subject("2").await);
    let settlements = vec![
        emits(&one, "payment.authorized", &["inventory", "notification"]),
        emits(&two, "payment.authorized", &[]),
    ];
    let (versions, outbox) = bench.done(writing(settlements, "order/1/paid", 0, Some("yes"))).await;
    assert_eq!(versions, [1]);
    assert_eq!(outbox.len(), 1, "no stage consumes the second event");
    assert_eq!(outbox[0].envelope.subject_key.as_deref(), Some("order/1"));
    let delivery = bench.delivery("1", "payment").await;
    assert_eq!(delivery.status, DeliveryStatus::Done);
    assert_eq!(
        (delivery.version.as_deref(), delivery.digest.as_deref()),
        (Some("1.2.3"), Some("d1"))
    );
    assert_eq!((delivery.duration_us, delivery.settled_at_ms), (Some(55), Some(super::START_MS)));
    assert_eq!(delivery.emitted, [outbox[0].envelope.event.id.clone()]);
    assert_eq!(bench.delivery("1", "inventory").await.status, DeliveryStatus::Open);
    assert_eq!(bench.delivery("1", "notification").await.status, DeliveryStatus::Open);
    let row = bench.store.state_get("payment", "order/1/paid").await.unwrap().unwrap();
    assert_eq!((row.value.as_deref(), row.version), (Some(&b"yes"[..]), 1));
    assert!(bench.store.state_get("inventory", "order/1/paid").await.unwrap().is_none());
}

pub(super) async fn a_settled_delivery_is_stale(bench: Bench) {
    let event = bench.subject("1").await;
    bench.done(batch(vec![emits(&event, "payment.authorized", &["inventory"])])).await;
    let (stale, conflicts) =
        bench.refused(batch(vec![emits(&event, "payment.declined", &[])])).await;
    assert_eq!(stale, [key(&event, "payment")]);
    assert!(conflicts.is_empty());
    // Another attempt or round than the one that stands open is as stale.
    let event = bench.subject("2").await;
    for (round, attempt) in [(1, 2), (2, 1)] {
        let early = Settlement { round, attempt, ..settlement(&event, Verdict::Skipped) };
        assert_eq!(bench.refused(batch(vec![early])).await.0.len(), 1);
    }
}

pub(super) async fn a_changed_version_is_a_conflict(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.subject("2").await);
    let skip = |event| vec![settlement(event, Verdict::Skipped)];
    bench.done(writing(skip(&one), "count", 0, Some("1"))).await;
    let (stale, conflicts) = bench.refused(writing(skip(&two), "count", 0, Some("1"))).await;
    assert!(stale.is_empty());
    assert_eq!(conflicts, ["count"]);
    let (versions, _) = bench.done(writing(skip(&two), "count", 1, Some("2"))).await;
    assert_eq!(versions, [2]);
    // A blind write does not conflict, and versions come in the order of the writes.
    let blind = Batch {
        writes: ["new", "count"].map(|key| (key.to_owned(), Some("x".into()))).into(),
        ..batch(Vec::new())
    };
    assert_eq!(bench.done(blind).await.0, [1, 3]);
}

pub(super) async fn a_removed_key_keeps_its_version(bench: Bench) {
    bench.done(writing(Vec::new(), "k", 0, Some("1"))).await;
    assert_eq!(bench.done(writing(Vec::new(), "k", 1, None)).await.0, [2]);
    let row = bench.store.state_get("payment", "k").await.unwrap().expect("the version lives on");
    assert_eq!((row.value, row.version), (None, 2));
    assert_eq!(bench.refused(writing(Vec::new(), "k", 0, Some("3"))).await.1, ["k"]);
    assert_eq!(bench.done(writing(Vec::new(), "k", 2, Some("3"))).await.0, [3]);
}

pub(super) async fn a_rejected_batch_writes_nothing(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.subject("2").await);
    bench.done(batch(vec![settlement(&one, Verdict::Skipped)])).await;
    let settlements = vec![
        emits(&two, "payment.declined", &["notification"]),
        emits(&one, "payment.declined", &["notification"]),
    ];
    bench.refused(writing(settlements, "k", 7, Some("1"))).await;
    assert!(bench.store.state_get("payment", "k").await.unwrap().is_none());
    assert_eq!(bench.delivery("2", "payment").await.status, DeliveryStatus::Open);
    assert_eq!(bench.events("2").await.len(), 1);
    assert_eq!(bench.status("2").await, "received");
    assert!(bench.outbox_is_empty().await);
}

pub(super) async fn concurrent_batches_settle_a_delivery_once(bench: Bench) {
    let event = bench.subject("1").await;
    let attempt = || {
        writing(vec![emits(&event, "payment.authorized", &["inventory"])], "count", 0, Some("1"))
    };
    let commits = futures::future::join_all((0..10).map(|_| bench.store.commit(attempt()))).await;
    let (mut done, mut again) = (0, 0);
    for commit in commits {
        match commit.unwrap() {
            Commit::Done { versions, outbox, .. } => {
                assert_eq!((versions, outbox.len()), (vec![1], 1));
                done += 1;
            }
            Commit::Conflict { stale, conflicts } => {
                assert_eq!((stale.len(), conflicts.len()), (1, 1));
                again += 1;
            }
            Commit::SubjectCancelled(_) => panic!("no subject was cancelled"),
        }
    }
    assert_eq!((done, again), (1, 9));
    assert_eq!(bench.events("1").await.len(), 2);
}

pub(super) async fn an_event_of_another_program_is_logged(bench: Bench) {
    bench.subject("1").await;
    let mut foreign = envelope("order.flagged", "f1", Some(&order("1")));
    foreign.event.source = String::from("/fraud-desk");
    let foreign = Arc::new(foreign);
    // A second round of something unknown is not a first meeting.
    let late = Settlement { round: 2, ..settlement(&foreign, Verdict::Skipped) };
    assert_eq!(bench.refused(batch(vec![late])).await.0.len(), 1);
    bench.done(batch(vec![emits(&foreign, "payment.authorized", &["inventory"])])).await;
    let events = bench.events("1").await;
    let adopted = events
        .iter()
        .find(|logged| logged.envelope == *foreign)
        .expect("the event was not written");
    assert_eq!(adopted.routed_to, ["payment"]);
    let deliveries = bench.store.subject_deliveries(&order("1"), 0, 200).await.unwrap().items;
    let record =
        deliveries.iter().find(|record| record.event == foreign.key()).expect("no delivery");
    assert_eq!(
        (record.status, record.event_type.as_str()),
        (DeliveryStatus::Done, "order.flagged")
    );
    assert_eq!(bench.refused(batch(vec![settlement(&foreign, Verdict::Skipped)])).await.0.len(), 1);
}

pub(super) async fn a_skipped_delivery_is_settled(bench: Bench) {
    let event = bench.subject("1").await;
    let (_, outbox) = bench.done(batch(vec![settlement(&event, Verdict::Skipped)])).await;
    assert!(outbox.is_empty());
    assert_eq!(bench.delivery("1", "payment").await.status, DeliveryStatus::Skipped);
    assert_eq!(bench.delivery("1", "payment").await.event, event_key("/orders", "created-1"));
}

/// The host of a delivery, and those of its failed attempts.
fn hosts(delivery: &DeliveryRecord) -> (Option<&str>, Vec<Option<&str>>) {
    let failures = delivery.failures.iter().map(|failure| failure.host.as_deref());
    (delivery.host.as_deref(), failures.collect())
}

pub(super) async fn every_attempt_has_its_host(bench: Bench) {
    let (retried, skipped) = (bench.subject("1").await, bench.subject("2").await);
    assert_eq!(hosts(&bench.delivery("1", "payment").await), (None, vec![]), "nothing ran it yet");
    bench
        .done(batch(vec![retry(&retried, START_MS + 1), settlement(&skipped, Verdict::Skipped)]))
        .await;
    let north = Some(RAN_ON);
    assert_eq!(hosts(&bench.delivery("1", "payment").await), (north, vec![north]));
    assert_eq!(hosts(&bench.delivery("2", "payment").await), (north, vec![]));
    let emitted = emits(&retried, "payment.authorized", &[]);
    bench.done(batch(vec![Settlement { attempt: 2, host: Some("south".into()), ..emitted }])).await;
    assert_eq!(hosts(&bench.delivery("1", "payment").await), (Some("south"), vec![north]));
    // An event of another program: its delivery is written when it is settled.
    let foreign = Arc::new(envelope("order.flagged", "f1", Some(&order("3"))));
    bench.subject("3").await;
    bench.done(batch(vec![settlement(&foreign, Verdict::Skipped)])).await;
    let adopted = bench.store.delivery(&key(&foreign, "payment")).await.unwrap().unwrap();
    assert_eq!(hosts(&adopted), (north, vec![]));
}

pub(super) async fn a_dead_letter_has_the_hosts_of_its_attempts(bench: Bench) {
    let (ran, drained) = (bench.subject("1").await, bench.subject("2").await);
    // A message that the broker dead-lettered: no host ran it.
    let failed = FailedAttempt { host: None, ..failure(1, 1) };
    let without_host = Settlement { host: None, failure: Some(failed), ..dead(&drained) };
    bench.done(batch(vec![dead(&ran), without_host])).await;
    let north = Some(RAN_ON);
    assert_eq!(hosts(&bench.delivery("1", "payment").await), (north, vec![north]));
    assert_eq!(hosts(&bench.delivery("2", "payment").await), (None, vec![None]));
    let page = DeadLetterFilter { subject: Some(order("1")), limit: 1, ..Default::default() };
    let dead_letter = bench.store.dead_letters(page).await.unwrap().items.remove(0);
    assert_eq!(dead_letter.attempts[0].host.as_deref(), north);
    bench.store.replay(dead_letter.id, START_MS + 9, &operator()).await.unwrap();
    let reopened = bench.delivery("1", "payment").await;
    assert_eq!(hosts(&reopened), (None, vec![north]), "the next round ran nowhere yet");
}

pub(super) async fn status_follows_the_events(bench: Bench) {
    let event = bench.subject("1").await;
    bench.clock.advance(5);
    bench.done(batch(vec![emits(&event, "payment.authorized", &["inventory"])])).await;
    assert_eq!(bench.status("1").await, "authorized");
    let subject = bench.store.subject(&order("1")).await.unwrap().unwrap();
    assert_eq!(subject.updated_at_ms - subject.created_at_ms, 5);
    for (number, (event_type, expected)) in [
        ("inventory.rejected", "rejected"),
        ("something.unknown", "rejected"),
        ("payment.refunded", "refunded"),
        // Final: nothing that comes late moves it.
        ("inventory.reserved", "refunded"),
        ("postrider.dead-lettered", "refunded"),
    ]
    .into_iter()
    .enumerate()
    {
        let event = envelope(event_type, &format!("e{number}"), Some(&order("1")));
        bench.store.accept_event(new_event(event, &[])).await.unwrap();
        assert_eq!(bench.status("1").await, expected, "after {event_type}");
    }
}
