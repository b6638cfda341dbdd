//! Dead letters: written, replayed, edited, discarded, listed.

use std::sync::Arc;

use super::build::{
    DAY_MS, batch, dead, emits, envelope, key, new_event, operator, order, settlement,
};
use super::{Bench, START_MS};
use crate::store::{
    DeadLetterAction, DeadLetterFilter, DeadLetterStatus, DeliveryStatus, Direct, Settlement,
    Verdict,
};

pub(super) async fn a_dead_letter_is_written_and_announced(bench: Bench) {
    let event = bench.subject("1").await;
    let (_, rows) = bench.done(batch(vec![dead(&event)])).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].envelope.event.event_type, "postrider.dead-lettered");
    assert_eq!(bench.status("1").await, "failed");
    assert_eq!(bench.delivery("1", "payment").await.status, DeliveryStatus::Dead);
    let page = DeadLetterFilter { limit: 10, ..DeadLetterFilter::default() };
    let dead_letter = bench.store.dead_letters(page).await.unwrap().items.remove(0);
    assert_eq!(
        (dead_letter.stage.as_str(), dead_letter.code.as_str(), dead_letter.digest.as_str()),
        ("payment", "no-answer", "d1")
    );
    assert_eq!(
        (dead_letter.status, dead_letter.round, dead_letter.dead_lettered_at_ms),
        (DeadLetterStatus::Open, 1, START_MS)
    );
    assert_eq!(dead_letter.envelope, *event);
    assert_eq!(dead_letter.attempts, [super::build::failure(1, 1)]);
    assert_eq!(
        bench.refused(batch(vec![settlement(&event, Verdict::Skipped)])).await.0,
        [key(&event, "payment")]
    );
}

pub(super) async fn a_replay_reopens_the_delivery_once(bench: Bench) {
    let dead_letter = bench.dead_letter_of("1").await;
    bench.clock.advance(10);
    let expires_at_ms = START_MS + 9 * DAY_MS;
    let action = bench.store.replay(dead_letter.id, expires_at_ms, &operator()).await.unwrap();
    let DeadLetterAction::Done(rows) = action else { panic!("{action:?}") };
    assert_eq!(rows.len(), 1);
    let expected = Direct { stage: "payment".into(), round: 2, attempt: 1 };
    assert_eq!(rows[0].direct, Some(expected));
    assert_eq!(rows[0].envelope.expires_at_ms, expires_at_ms);
    assert_eq!(rows[0].envelope.event, dead_letter.envelope.event);
    let again = bench.store.replay(dead_letter.id, expires_at_ms, &operator()).await.unwrap();
    assert!(
        matches!(again, DeadLetterAction::AlreadySettled(DeadLetterStatus::Replayed)),
        "{again:?}"
    );
    let delivery = bench.delivery("1", "payment").await;
    assert_eq!((delivery.status, delivery.round, delivery.attempt), (DeliveryStatus::Open, 2, 1));
    assert_eq!((delivery.digest, delivery.settled_at_ms), (None, None));
    // The first round is over; the second settles it.
    let event = Arc::clone(&rows[0].envelope);
    assert_eq!(bench.refused(batch(vec![settlement(&event, Verdict::Skipped)])).await.0.len(), 1);
    let second = Settlement { round: 2, ..emits(&event, "payment.authorized", &[]) };
    bench.done(batch(vec![second])).await;
    assert_eq!(bench.status("1").await, "authorized");
    let dead_letter = bench.store.dead_letter(dead_letter.id).await.unwrap().unwrap();
    assert_eq!(
        (dead_letter.status, dead_letter.envelope.expires_at_ms),
        (DeadLetterStatus::Replayed, expires_at_ms)
    );
    assert!(matches!(
        bench.store.replay(99, 0, &operator()).await.unwrap(),
        DeadLetterAction::NotFound
    ));
}

pub(super) async fn an_edited_replay_replaces_the_delivery(bench: Bench) {
    let dead_letter = bench.dead_letter_of("1").await;
    let mut edited = envelope("order.created", "edited", Some(&order("1")));
    edited.cause = Some(dead_letter.envelope.key());
    let mut event = new_event(edited, &["payment"]);
    event.only_stage = Some("payment".into());
    let action =
        bench.store.replay_edited(dead_letter.id, event.clone(), &operator()).await.unwrap();
    let DeadLetterAction::Done(rows) = action else { panic!("{action:?}") };
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].envelope, event.envelope);
    assert_eq!(
        rows[0].direct.as_ref().map(|direct| (&*direct.stage, direct.round, direct.attempt)),
        Some(("payment", 1, 1))
    );
    let again =
        bench.store.replay_edited(dead_letter.id, event.clone(), &operator()).await.unwrap();
    assert!(
        matches!(again, DeadLetterAction::AlreadySettled(DeadLetterStatus::Replayed)),
        "{again:?}"
    );
    let deliveries = bench.store.subject_deliveries(&order("1"), 0, 200).await.unwrap().items;
    let statuses: Vec<_> = deliveries
        .iter()
        .filter(|record| record.stage == "payment")
        .map(|record| (record.event.id.as_str(), record.status))
        .collect();
    assert_eq!(
        statuses,
        [("created-1", DeliveryStatus::Replaced), ("edited", DeliveryStatus::Open)]
    );
    bench.done(batch(vec![emits(&event.envelope, "payment.authorized", &[])])).await;
}

pub(super) async fn a_discard_is_final(bench: Bench) {
    let dead_letter = bench.dead_letter_of("1").await;
    let action = bench
        .store
        .discard(dead_letter.id, "a test subject".to_owned(), &operator())
        .await
        .unwrap();
    assert!(matches!(&action, DeadLetterAction::Done(rows) if rows.is_empty()), "{action:?}");
    for action in [
        bench.store.discard(dead_letter.id, "again".to_owned(), &operator()).await.unwrap(),
        bench.store.replay(dead_letter.id, START_MS, &operator()).await.unwrap(),
    ] {
        assert!(
            matches!(action, DeadLetterAction::AlreadySettled(DeadLetterStatus::Discarded)),
            "{action:?}"
        );
    }
    let dead_letter = bench.store.dead_letter(dead_letter.id).await.unwrap().unwrap();
    assert_eq!(dead_letter.note.as_deref(), Some("a test subject"));
    assert_eq!(bench.delivery("1", "payment").await.status, DeliveryStatus::Dead);
    assert!(matches!(
        bench.store.discard(99, String::new(), &operator()).await.unwrap(),
        DeadLetterAction::NotFound
    ));
}

pub(super) async fn dead_letters_are_listed_in_pages(bench: Bench) {
    for subject in ["1", "2", "3"] {
        bench.dead_letter_of(subject).await;
    }
    let mut filter = DeadLetterFilter {
        stage: Some("payment".to_owned()),
        code: Some("no-answer".to_owned()),
        status: Some(DeadLetterStatus::Open),
        limit: 2,
        ..DeadLetterFilter::default()
    };
    let first = bench.store.dead_letters(filter.clone()).await.unwrap();
    let subjects = |dead_letters: &[crate::store::DeadLetter]| {
        dead_letters.iter().map(|one| one.envelope.subject_key.clone().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(subjects(&first.items), [order("3"), order("2")]);
    filter.before = first.next;
    let second = bench.store.dead_letters(filter.clone()).await.unwrap();
    assert_eq!((subjects(&second.items), second.next), (vec![order("1")], None));
    filter.stage = Some("shipping".to_owned());
    assert!(bench.store.dead_letters(filter).await.unwrap().items.is_empty());
}
