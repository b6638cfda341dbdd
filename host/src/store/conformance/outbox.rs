//! The outbox: due times, leases, and the refill of queues.

use std::sync::Arc;

use super::build::{batch, emits, envelope, new_event, order, retry, settlement};
use super::{Bench, LEASE_MS, START_MS};
use crate::domain::event::Envelope;
use crate::store::{
    AcceptedEvent, DeliveryStatus, Direct, LostDeliveries, NarrowedRow, OutboxRow, Settlement,
    Verdict,
};

fn direct(round: u32, attempt: u32) -> Direct {
    Direct { stage: "payment".into(), round, attempt }
}

pub(super) async fn a_retry_is_sent_when_it_is_due(bench: Bench) {
    let event = bench.subject("1").await;
    let (_, outbox) = bench.done(batch(vec![retry(&event, START_MS + 1_000)])).await;
    assert!(outbox.is_empty(), "not due yet");
    let delivery = bench.delivery("1", "payment").await;
    assert_eq!(
        (delivery.status, delivery.attempt, delivery.failures.len()),
        (DeliveryStatus::Open, 2, 1)
    );
    assert_eq!(delivery.failures[0], super::build::failure(1, 1));

    bench.clock.advance(999);
    assert!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().is_empty());
    bench.clock.advance(1);
    let rows = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].direct, Some(direct(1, 2)));
    assert_eq!(rows[0].envelope, event);
    bench.sent(&rows).await;
    assert!(bench.outbox_is_empty().await);
    // The first attempt is over; the second is not.
    assert_eq!(bench.refused(batch(vec![settlement(&event, Verdict::Skipped)])).await.0.len(), 1);
    let second = Settlement { attempt: 2, ..emits(&event, "payment.authorized", &[]) };
    bench.done(batch(vec![second])).await;
    assert_eq!(bench.delivery("1", "payment").await.failures.len(), 1);
}

pub(super) async fn a_deferral_does_not_count_as_an_attempt(bench: Bench) {
    let event = bench.subject("1").await;
    let due_at_ms = START_MS + 50;
    bench.done(batch(vec![settlement(&event, Verdict::Deferred { due_at_ms })])).await;
    let delivery = bench.delivery("1", "payment").await;
    assert_eq!(
        (delivery.status, delivery.attempt, delivery.failures.len()),
        (DeliveryStatus::Open, 1, 0)
    );
    bench.clock.advance(50);
    let rows = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    assert_eq!(rows[0].direct, Some(direct(1, 1)));
    // Due now: returned for the relay.
    let due_at_ms = START_MS;
    let (_, rows) =
        bench.done(batch(vec![settlement(&event, Verdict::Deferred { due_at_ms })])).await;
    assert_eq!(rows[0].direct, Some(direct(1, 1)));
    bench.done(batch(vec![settlement(&event, Verdict::Skipped)])).await;
}

pub(super) async fn a_delayed_event_is_sent_when_it_is_due(bench: Bench) {
    let mut event = new_event(envelope("reminder", "r1", None), &["notification"]);
    event.due_at_ms = START_MS + 10;
    let (accepted, rows) = bench.store.accept_event(event.clone()).await.unwrap();
    assert!(accepted == AcceptedEvent::New && rows.is_empty());
    bench.clock.advance(10);
    let rows = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    assert_eq!((rows.len(), rows[0].direct.clone()), (1, None));
    assert_eq!(rows[0].envelope, event.envelope);
}

pub(super) async fn an_expired_lease_frees_its_row(bench: Bench) {
    for (number, due_at_ms) in [START_MS + 3, START_MS + 1, START_MS + 2].into_iter().enumerate() {
        let mut event =
            new_event(envelope("reminder", &format!("r{number}"), None), &["notification"]);
        event.due_at_ms = due_at_ms;
        bench.store.accept_event(event).await.unwrap();
    }
    bench.clock.advance(3);
    let first = bench.store.claim_outbox(2, u64::MAX).await.unwrap();
    let ids: Vec<_> = first.iter().map(|row| row.envelope.event.id.as_str()).collect();
    assert_eq!(ids, ["r1", "r2"], "the earliest first");
    assert_eq!(bench.store.claim_outbox(2, u64::MAX).await.unwrap().len(), 1);
    assert!(bench.store.claim_outbox(2, u64::MAX).await.unwrap().is_empty(), "all are held");
    bench.sent(&first[..1]).await;
    bench.clock.advance(LEASE_MS - 1);
    assert!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().is_empty());
    bench.clock.advance(1);
    let again = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    let ids: Vec<_> = again.iter().map(|row| row.envelope.event.id.as_str()).collect();
    assert_eq!(ids, ["r2", "r0"], "what was not confirmed is sent again");
}

pub(super) async fn a_postponed_row_is_claimed_when_it_is_due(bench: Bench) {
    let (_, rows) = bench.store.accept_subject(super::build::new_subject("1", "a")).await.unwrap();
    bench.store.outbox_postponed(rows[0].id.into_iter().collect(), 7).await.unwrap();
    assert!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().is_empty());
    bench.clock.advance(6);
    assert!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().is_empty());
    bench.clock.advance(1);
    let again = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    assert_eq!((again.len(), again[0].id), (1, rows[0].id));
}

pub(super) async fn a_row_is_narrowed_to_the_stages_that_did_not_confirm(bench: Bench) {
    let event = new_event(envelope("news", "n", None), &["payment", "shipping"]);
    let (_, rows) = bench.store.accept_event(event).await.unwrap();
    let narrowed = |row: &OutboxRow, stages: &[&str]| NarrowedRow {
        id: row.id.unwrap(),
        envelope: Arc::clone(&row.envelope),
        stages: stages.iter().map(|stage| (*stage).into()).collect(),
    };
    bench.store.outbox_narrowed(vec![narrowed(&rows[0], &["shipping"])], 7).await.unwrap();
    assert!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().is_empty());
    bench.clock.advance(7);
    let again = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    let [row] = &again[..] else { panic!("{again:?}") };
    let direct = Direct { stage: "shipping".into(), round: 1, attempt: 1 };
    assert_eq!((&row.direct, &row.envelope), (&Some(direct), &rows[0].envelope));
    bench.store.outbox_narrowed(vec![narrowed(row, &[])], 7).await.unwrap();
    assert!(bench.outbox_is_empty().await);
}

pub(super) async fn rows_are_claimed_and_requeued_up_to_a_number_of_bytes(bench: Bench) {
    for (number, bytes) in [1_000, 400, 400, 400].into_iter().enumerate() {
        let mut envelope = envelope("scan", &format!("s{number}"), None);
        envelope.event.data = vec![b'x'; bytes].into();
        let mut event = new_event(envelope, &["notification"]);
        event.due_at_ms = START_MS + 1 + number as u64;
        bench.store.accept_event(event).await.unwrap();
    }
    let ids = |rows: &[OutboxRow]| -> Vec<String> {
        rows.iter().map(|row| row.envelope.event.id.clone()).collect()
    };
    bench.clock.advance(10);
    // A row that is larger than the limit is claimed alone.
    for (limit, expected) in [(500, &["s0"][..]), (450, &["s1", "s2"]), (500, &["s3"])] {
        let rows = bench.store.claim_outbox(10, limit).await.unwrap();
        assert_eq!(ids(&rows), expected);
        bench.sent(&rows).await;
    }
    bench.clock.advance(10);
    let lost = |max_bytes| LostDeliveries {
        queued_before_ms: START_MS + 20,
        min_age_ms: 0,
        limit: 10,
        max_bytes,
    };
    for (limit, expected) in [(500, &["s0"][..]), (450, &["s1", "s2"]), (500, &["s3"])] {
        let rows = bench.store.requeue_lost("notification", lost(limit)).await.unwrap();
        assert_eq!(ids(&rows), expected);
    }
    assert!(bench.store.requeue_lost("notification", lost(500)).await.unwrap().is_empty());
}

pub(super) async fn lost_deliveries_are_sent_again(bench: Bench) {
    // Sent and lost; sent, settled; not sent yet; waiting for its retry.
    let lost = bench.subject("lost").await;
    let settled = bench.subject("settled").await;
    bench.done(batch(vec![settlement(&settled, Verdict::Skipped)])).await;
    bench.store.accept_subject(super::build::new_subject("unsent", "a")).await.unwrap();
    let retried = bench.subject("retried").await;
    bench.done(batch(vec![retry(&retried, START_MS + 1)])).await;
    bench.clock.advance(100);
    let all = LostDeliveries {
        queued_before_ms: START_MS + 100,
        min_age_ms: 0,
        limit: 10,
        max_bytes: u64::MAX,
    };
    let earlier = LostDeliveries { queued_before_ms: START_MS, ..all };
    assert!(bench.store.requeue_lost("payment", earlier).await.unwrap().is_empty());
    assert!(bench.store.requeue_lost("inventory", all).await.unwrap().is_empty());
    let rows = bench.store.requeue_lost("payment", all).await.unwrap();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0].envelope, &rows[0].direct), (&lost, &Some(direct(1, 1))));
    // Now it has a row, and after that row was sent it was queued just now.
    assert!(bench.store.requeue_lost("payment", all).await.unwrap().is_empty());
    bench.sent(&rows).await;
    assert!(bench.store.requeue_lost("payment", all).await.unwrap().is_empty());
    // A retry that was sent and lost comes back as the attempt that it was.
    let sent: Vec<_> = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    bench.sent(&sent).await;
    let rows = bench.store.requeue_lost("payment", all).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0].envelope, &rows[0].direct), (&retried, &Some(direct(1, 2))));
}

/// An attempt that emits one event of this type, which the host wants to hand over.
fn hands_over(event: &Arc<Envelope>, event_type: &str, routed_to: &[&str]) -> Settlement {
    let mut settlement = emits(event, event_type, routed_to);
    for event in settlement.verdict.emitted_mut() {
        event.hand_over = true;
    }
    settlement
}

pub(super) async fn an_event_that_is_handed_over_has_no_row(bench: Bench) {
    let event = bench.subject("1").await;
    let emitted = hands_over(&event, "payment.authorized", &["inventory", "notification"]);
    let (_, rows) = bench.done(batch(vec![emitted])).await;
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.id, &row.direct), (None, &None));
    assert_eq!(row.envelope.event.event_type, "payment.authorized");
    assert!(bench.outbox_is_empty().await);
    for stage in ["inventory", "notification"] {
        assert_eq!(bench.delivery("1", stage).await.status, DeliveryStatus::Open);
    }
    // What is due later has to wait in the outbox.
    let event = bench.subject("2").await;
    let mut later = hands_over(&event, "payment.authorized", &["inventory"]);
    later.verdict.emitted_mut()[0].due_at_ms = START_MS + 20 * LEASE_MS;
    assert!(bench.done(batch(vec![later])).await.1.is_empty());
    bench.clock.advance(20 * LEASE_MS);
    assert_eq!(bench.store.claim_outbox(10, u64::MAX).await.unwrap().len(), 1);
}

pub(super) async fn an_event_is_not_handed_over_before_an_earlier_one(bench: Bench) {
    // An earlier event of the subject waits for one of the stages.
    let event = bench.subject("1").await;
    let earlier = new_event(envelope("news", "n1", Some(&order("1"))), &["notification"]);
    let (_, sent) = bench.store.accept_event(earlier).await.unwrap();
    bench.sent(&sent).await;
    let both = hands_over(&event, "payment.authorized", &["inventory", "notification"]);
    let (_, rows) = bench.done(batch(vec![both])).await;
    assert!(rows.len() == 1 && rows[0].id.is_some(), "{rows:?}");
    // One that was sent in the same commit counts, too; another subject's does not.
    let (two, three) = (bench.subject("2").await, bench.subject("3").await);
    let mut several = hands_over(&two, "payment.authorized", &["notification"]);
    if let Verdict::Done(events) = &mut several.verdict {
        let mut second = events[0].clone();
        let mut envelope = Envelope::clone(&second.envelope);
        envelope.event.id = "second".to_owned();
        second.envelope = Arc::new(envelope);
        events[0].hand_over = false;
        events.push(second);
    }
    let other = hands_over(&three, "payment.authorized", &["notification"]);
    let (_, rows) = bench.done(batch(vec![several, other])).await;
    let has_row: Vec<bool> = rows.iter().map(|row| row.id.is_some()).collect();
    assert_eq!(has_row, [true, true, false]);
}

pub(super) async fn messages_that_were_not_run_are_given_back(bench: Bench) {
    let event = bench.subject("1").await;
    let emitted = hands_over(&event, "payment.authorized", &["inventory"]);
    let (_, rows) = bench.done(batch(vec![emitted])).await;
    let unknown = super::build::event_key("elsewhere", "unknown");
    let keys = vec![rows[0].envelope.key(), event.key(), unknown];
    // Twice: one that has a row gets no second one.
    for _ in 0..2 {
        bench.store.requeue("inventory", keys.clone()).await.unwrap();
    }
    // Any host sends it.
    let claimed = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    let [row] = &claimed[..] else { panic!("{claimed:?}") };
    let to_inventory = Direct { stage: "inventory".into(), round: 1, attempt: 1 };
    assert_eq!((&row.envelope, &row.direct), (&rows[0].envelope, &Some(to_inventory)));
    bench.sent(&claimed).await;
    // A settled delivery is not sent again.
    bench.store.requeue("payment", vec![event.key()]).await.unwrap();
    assert!(bench.outbox_is_empty().await);
}
