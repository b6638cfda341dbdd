//! Recordings of settled deliveries: listed in the order of settlement, deleted with their delivery.

use std::sync::Arc;

use super::build::{
    RAN_ON, batch, dead, emits, envelope, operator, order, recorded, retry, settlement,
};
use super::{Bench, START_MS};
use crate::store::{
    Batch, DeadLetterAction, RecordedDelivery, RecordingCursor, RecordingFilter, Settlement,
    Verdict,
};

fn all() -> RecordingFilter {
    RecordingFilter {
        stage: "payment".to_owned(),
        subject: None,
        after: RecordingCursor::default(),
        limit: 100,
    }
}

async fn list(bench: &Bench, filter: RecordingFilter) -> Vec<RecordedDelivery> {
    bench.store.recordings(filter).await.unwrap().0
}

fn bodies(found: &[RecordedDelivery]) -> Vec<&str> {
    found.iter().map(|one| one.recording.as_str()).collect()
}

pub(super) async fn recordings_are_listed_in_the_order_of_settlement(bench: Bench) {
    let mut events = Vec::new();
    for id in ["1", "2", "3", "4", "5"] {
        events.push(bench.subject(id).await);
    }
    // The last subject is settled first.
    for (number, event) in events.iter().enumerate().rev() {
        let body = format!("{{\"n\":{number}}}");
        bench
            .done(batch(vec![recorded(emits(event, "payment.authorized", &["inventory"]), &body)]))
            .await;
        bench.clock.advance(10);
    }
    let mut filter = RecordingFilter { limit: 2, ..all() };
    let mut pages = Vec::new();
    loop {
        let (items, next) = bench.store.recordings(filter.clone()).await.unwrap();
        pages.push(bodies(&items).join(" "));
        let Some(next) = next else { break };
        // As it is sent and comes back.
        filter.after = next.to_string().parse().unwrap();
    }
    assert_eq!(pages, [r#"{"n":4} {"n":3}"#, r#"{"n":2} {"n":1}"#, r#"{"n":0}"#]);
    let first = list(&bench, all()).await.remove(0);
    assert_eq!(first.envelope, *events[4]);
    assert_eq!((first.round, first.attempt, first.settled_at_ms), (1, 1, START_MS));
    assert_eq!((first.version.as_deref(), first.digest.as_deref()), (Some("1.2.3"), Some("d1")));
    assert_eq!(first.host.as_deref(), Some(RAN_ON));
    let emitted = first.emitted.expect("its events are in the log");
    let types: Vec<_> = emitted.iter().map(|event| event.event_type.as_str()).collect();
    assert_eq!(types, ["payment.authorized"]);
    let since = RecordingFilter { after: RecordingCursor::before(START_MS as i64 + 20), ..all() };
    assert_eq!(bodies(&list(&bench, since).await), [r#"{"n":2}"#, r#"{"n":1}"#, r#"{"n":0}"#]);
    assert!(
        list(&bench, RecordingFilter { stage: "shipping".to_owned(), ..all() }).await.is_empty()
    );
}

pub(super) async fn pages_of_recordings_are_bounded_in_bytes(bench: Bench) {
    const LARGE: usize = 600 << 10;
    let large_body = format!("\"{}\"", "x".repeat(LARGE));
    let mut recordings = Vec::new();
    // What was received, what was decided, and what was emitted count.
    let received = bench.subject_with_data("1", LARGE).await;
    recordings.push(recorded(emits(&received, "payment.authorized", &[]), "1"));
    let decided = bench.subject("2").await;
    recordings.push(recorded(emits(&decided, "payment.authorized", &[]), &large_body));
    let mut emitted = emits(&bench.subject("3").await, "payment.authorized", &[]);
    if let Verdict::Done(events) = &mut emitted.verdict {
        Arc::make_mut(&mut events[0].envelope).event.data = vec![b'x'; LARGE].into();
    }
    recordings.push(recorded(emitted, "3"));
    let last = bench.subject_with_data("4", LARGE).await;
    recordings.push(recorded(emits(&last, "payment.authorized", &[]), "4"));
    let small = bench.subject("5").await;
    recordings.push(recorded(emits(&small, "payment.authorized", &[]), "5"));
    for recording in recordings {
        bench.done(batch(vec![recording])).await;
        bench.clock.advance(10);
    }
    let (mut filter, mut pages) = (all(), Vec::new());
    loop {
        let (items, next) = bench.store.recordings(filter.clone()).await.unwrap();
        pages.push(items.len());
        let Some(next) = next else { break };
        filter.after = next;
    }
    assert_eq!(pages, [2, 2, 1]);
    let of_subject = RecordingFilter { subject: Some(order("3")), ..all() };
    assert_eq!(bodies(&list(&bench, of_subject).await), ["3"]);
}

pub(super) async fn a_subject_has_its_own_recordings(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.subject("2").await);
    bench
        .done(batch(vec![
            recorded(emits(&one, "payment.authorized", &[]), "1"),
            recorded(dead(&two), "2"),
        ]))
        .await;
    let of = |subject: &str| RecordingFilter { subject: Some(order(subject)), ..all() };
    assert_eq!(bodies(&list(&bench, of("1")).await), ["1"]);
    let dead_lettered = list(&bench, of("2")).await.remove(0);
    assert_eq!((dead_lettered.recording.as_str(), dead_lettered.emitted), ("2", Some(Vec::new())));
    assert!(list(&bench, of("3")).await.is_empty());
}

pub(super) async fn only_settled_deliveries_are_recorded(bench: Bench) {
    let (retried, quiet) = (bench.subject("1").await, bench.subject("2").await);
    bench
        .done(batch(vec![
            recorded(retry(&retried, START_MS + 1), "too early"),
            settlement(&quiet, Verdict::Skipped),
        ]))
        .await;
    assert!(list(&bench, all()).await.is_empty());
    let second = Settlement { attempt: 2, ..emits(&retried, "payment.authorized", &[]) };
    bench.done(batch(vec![recorded(second, "settled")])).await;
    let found = list(&bench, all()).await;
    assert_eq!((bodies(&found), found[0].attempt), (vec!["settled"], 2));
}

pub(super) async fn an_event_of_another_program_has_its_recording(bench: Bench) {
    // Two batches of one group meet the same foreign event for the first time; the log has it once.
    let mut foreign = envelope("order.flagged", "f1", None);
    foreign.event.source = String::from("/fraud-desk");
    let foreign = Arc::new(foreign);
    let here = batch(vec![recorded(settlement(&foreign, Verdict::Done(Vec::new())), "here")]);
    let mut elsewhere = recorded(settlement(&foreign, Verdict::Done(Vec::new())), "there");
    elsewhere.delivery.stage = "audit".into();
    let there = Batch { stage: "audit".into(), ..batch(vec![elsewhere]) };
    futures::join!(bench.done(here), bench.done(there));
    assert_eq!(bodies(&list(&bench, all()).await), ["here"]);
    let found = list(&bench, RecordingFilter { stage: "audit".to_owned(), ..all() }).await;
    assert_eq!((bodies(&found), &found[0].envelope), (vec!["there"], &*foreign));
}

pub(super) async fn a_replayed_delivery_gets_a_new_recording(bench: Bench) {
    let event = bench.subject("1").await;
    bench.done(batch(vec![recorded(dead(&event), "failed")])).await;
    assert_eq!(bodies(&list(&bench, all()).await), ["failed"]);
    let page = crate::store::DeadLetterFilter { limit: 1, ..Default::default() };
    let dead_letter = bench.store.dead_letters(page).await.unwrap().items.remove(0);
    bench.clock.advance(10);
    let action = bench
        .store
        .replay(dead_letter.id, START_MS + super::build::DAY_MS, &operator())
        .await
        .unwrap();
    let DeadLetterAction::Done(rows) = action else { panic!("{action:?}") };
    assert!(list(&bench, all()).await.is_empty(), "it is open again");
    let second = Settlement { round: 2, ..emits(&rows[0].envelope, "payment.authorized", &[]) };
    bench.done(batch(vec![recorded(second, "went well")])).await;
    let found = list(&bench, all()).await;
    assert_eq!((bodies(&found), found[0].round), (vec!["went well"], 2));
}

pub(super) async fn recordings_are_deleted_with_their_subject(bench: Bench) {
    let (old, open) = (bench.subject("1").await, bench.subject("2").await);
    let settlements = vec![
        recorded(emits(&old, "payment.declined", &[]), "old"),
        recorded(emits(&open, "payment.authorized", &["inventory"]), "open"),
    ];
    bench.done(batch(settlements)).await;
    bench.clock.advance(1_000);
    assert_eq!(bench.prune(START_MS + 1_000, 10).await.unwrap().subjects, 1);
    assert_eq!(bodies(&list(&bench, all()).await), ["open"]);
}
