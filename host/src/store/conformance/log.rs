//! The event log: positions, filters, pages; what is settled.

use super::build::{
    batch, dead, emits, envelope, new_event, new_subject, operator, order, settlement,
};
use super::{Bench, START_MS};
use crate::store::{
    Accepted, Direction, EventFilter, LogRange, LoggedEvent, NewEvent, SettledSubject,
    SubjectCursor, SubjectFilter, Verdict,
};

impl Bench {
    async fn log(&self, filter: &EventFilter, limit: u32) -> Vec<LoggedEvent> {
        let mut range = LogRange {
            after: 0,
            up_to: self.store.log_end().await.unwrap(),
            limit,
            direction: Direction::Oldest,
        };
        let mut events = Vec::new();
        loop {
            let page = self.store.events(filter.clone(), range).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            assert!(
                page.items.iter().all(|event| event.seq > range.after && event.seq <= range.up_to)
            );
            events.extend(page.items);
            match page.next {
                Some(next) => range.after = next,
                None => return events,
            }
        }
    }

    /// The same, read from the end.
    async fn log_backwards(&self, filter: &EventFilter, limit: u32) -> Vec<LoggedEvent> {
        let up_to = self.store.log_end().await.unwrap();
        let mut range = LogRange { after: 0, up_to, limit, direction: Direction::Newest };
        let mut events: Vec<LoggedEvent> = Vec::new();
        loop {
            let page = self.store.events(filter.clone(), range).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            assert!(page.items.iter().all(|event| event.seq <= range.up_to));
            events.extend(page.items);
            match page.next {
                Some(next) => range.up_to = next - 1,
                None => break,
            }
        }
        events.reverse();
        events
    }

    async fn event_ids(&self, filter: EventFilter) -> Vec<String> {
        let found = self.log(&filter, 2).await;
        assert!(
            found.iter().all(|event| filter.matches(event)),
            "what the store finds is what the filter means"
        );
        for limit in [1, 2, 50] {
            let backwards = self.log_backwards(&filter, limit).await;
            let seqs =
                |events: &[LoggedEvent]| events.iter().map(|one| one.seq).collect::<Vec<_>>();
            assert_eq!(seqs(&backwards), seqs(&found), "{filter:?} in pages of {limit}");
        }
        found.into_iter().map(|event| event.envelope.event.id).collect()
    }
}

pub(super) async fn pages_of_the_log_are_bounded_in_bytes(bench: Bench) {
    const LARGE: usize = 600 << 10;
    for id in ["1", "2", "3", "4"] {
        let mut large = envelope("desk.note", id, None);
        large.event.data = vec![b'x'; LARGE].into();
        bench.store.accept_event(new_event(large, &[])).await.unwrap();
    }
    let up_to = bench.store.log_end().await.unwrap();
    let mut range = LogRange { after: 0, up_to, limit: 10, direction: Direction::Oldest };
    let mut pages = Vec::new();
    loop {
        let page = bench.store.events(EventFilter::default(), range).await.unwrap();
        pages.push(page.items.len());
        match page.next {
            Some(next) => range.after = next,
            None => break,
        }
    }
    // The event that exceeds the bound is the last of its page.
    assert_eq!(pages, [2, 2, 0]);
    let mut range = LogRange { after: 0, up_to, limit: 10, direction: Direction::Newest };
    let mut sizes = Vec::new();
    loop {
        let page = bench.store.events(EventFilter::default(), range).await.unwrap();
        sizes.push(page.items.iter().map(|one| one.envelope.event.id.clone()).collect::<String>());
        match page.next {
            Some(next) => range.up_to = next - 1,
            None => break,
        }
    }
    assert_eq!(sizes, ["43", "21", ""]);
    let all = bench.log(&EventFilter::default(), 3).await;
    assert!(all.len() == 4 && all.is_sorted_by_key(|event| event.seq));
}

pub(super) async fn the_log_is_read_by_filters_in_pages(bench: Bench) {
    let first = bench.subject("1").await;
    bench.clock.advance(600_000);
    let second = bench.subject("2").await;
    bench
        .done(batch(vec![
            emits(&first, "payment.authorized", &[]),
            emits(&second, "payment.declined", &[]),
        ]))
        .await;
    bench.clock.advance(600_000);
    let mut other = envelope("desk.note", "n1", None);
    "/desk".clone_into(&mut other.event.source);
    "n1".clone_into(&mut other.correlation_id);
    bench.store.accept_event(new_event(other, &[])).await.unwrap();
    let all = EventFilter::default;
    let types = |events: &[LoggedEvent]| {
        events.iter().map(|event| event.envelope.event.event_type.clone()).collect::<Vec<_>>()
    };
    let everything = bench.log(&all(), 2).await;
    assert_eq!(
        types(&everything),
        ["order.created", "order.created", "payment.authorized", "payment.declined", "desk.note"]
    );
    assert!(everything.is_sorted_by(|one, next| one.seq < next.seq));
    assert_eq!(
        (everything[0].logged_at_ms, everything[4].logged_at_ms),
        (START_MS, START_MS + 1_200_000)
    );
    assert!(everything[4].seq <= bench.store.log_end().await.unwrap());
    let of = |subject: &str| EventFilter { subject: Some(order(subject)), ..all() };
    assert_eq!(bench.event_ids(of("1")).await.len(), 2);
    let typed = async |pattern: &str| {
        types(&bench.log(&EventFilter { event_type: Some(pattern.into()), ..all() }, 1).await)
    };
    assert_eq!(typed("payment.*").await, ["payment.authorized", "payment.declined"]);
    assert_eq!(typed("*.created").await, ["order.created", "order.created"]);
    assert_eq!(typed("desk.note").await, ["desk.note"]);
    assert!(typed("desk").await.is_empty());
    assert_eq!(
        bench.event_ids(EventFilter { source: Some("/desk".into()), ..all() }).await,
        ["n1"]
    );
    assert_eq!(
        bench.event_ids(EventFilter { stage: Some("payment".into()), ..all() }).await.len(),
        2
    );
    assert_eq!(
        bench.event_ids(EventFilter { correlation: Some("n1".into()), ..all() }).await,
        ["n1"]
    );
    assert_eq!(
        bench.event_ids(EventFilter { correlation: Some("first".into()), ..all() }).await.len(),
        4
    );
    let between = |since_ms, until_ms| EventFilter { since_ms, until_ms, ..all() };
    assert_eq!(bench.event_ids(between(Some(START_MS + 600_000), None)).await.len(), 4);
    assert_eq!(bench.event_ids(between(None, Some(START_MS + 600_000))).await, ["created-1"]);
    assert_eq!(
        bench.event_ids(between(Some(START_MS + 600_001), Some(START_MS + 1_200_000))).await.len(),
        0
    );
    assert_eq!(
        bench.event_ids(between(Some(START_MS + 900_000), Some(START_MS + 1_200_001))).await,
        ["n1"]
    );
}

pub(super) async fn events_are_found_by_subject_and_id(bench: Bench) {
    let first = bench.subject("1").await;
    bench.subject("2").await;
    bench.done(batch(vec![emits(&first, "payment.authorized", &[])])).await;
    let all = bench.log(&EventFilter::default(), 100).await;
    let cursors = [("1", all[0].seq), ("2", 0), ("unknown", 0)]
        .map(|(subject, after)| SubjectCursor { subject: order(subject), after });
    let found: Vec<i64> = bench
        .store
        .events_of_subjects(&cursors, 10)
        .await
        .unwrap()
        .iter()
        .map(|event| event.seq)
        .collect();
    assert_eq!(found, [all[1].seq, all[2].seq]);
    assert_eq!(bench.store.events_of_subjects(&cursors, 1).await.unwrap().len(), 1);
    assert!(bench.store.events_of_subjects(&[], 10).await.unwrap().is_empty());
    assert_eq!(bench.store.events_by_id("created-1").await.unwrap()[0].envelope, *first);
    assert!(bench.store.events_by_id("nothing").await.unwrap().is_empty());
}

pub(super) async fn a_scheduled_event_shows_when_it_is_due(bench: Bench) {
    let later = NewEvent {
        due_at_ms: START_MS + 5_000,
        ..new_event(envelope("reminder", "r1", None), &["notification"])
    };
    bench.store.accept_event(later).await.unwrap();
    bench
        .store
        .accept_event(new_event(envelope("reminder", "r2", None), &["notification"]))
        .await
        .unwrap();
    let due: Vec<_> =
        bench.log(&EventFilter::default(), 10).await.iter().map(|event| event.due_at_ms).collect();
    assert_eq!(due, [Some(START_MS + 5_000), None]);
}

pub(super) async fn a_subject_is_settled_when_all_its_deliveries_are(bench: Bench) {
    let (first, second) = (bench.subject("1").await, bench.subject("2").await);
    let both = ["1", "2", "unknown"].map(order);
    assert!(bench.store.settled_subjects(&both).await.unwrap().is_empty());
    bench
        .done(batch(vec![
            emits(&first, "payment.authorized", &["inventory"]),
            settlement(&second, Verdict::Skipped),
        ]))
        .await;
    let settled = |subject: &str, status: &str| SettledSubject {
        subject: order(subject),
        status: status.to_owned(),
    };
    assert_eq!(bench.store.settled_subjects(&both).await.unwrap(), [settled("2", "received")]);
    assert!(bench.store.settled_subjects(&[]).await.unwrap().is_empty());
}

pub(super) async fn subjects_are_found_by_time_and_by_waiting_stage(bench: Bench) {
    for id in ["1", "2", "3"] {
        bench.subject(id).await;
        bench.clock.advance(600_000);
    }
    let found = async |filter: SubjectFilter| {
        let page = bench.store.subjects(SubjectFilter { limit: 10, ..filter }).await.unwrap();
        page.items.into_iter().map(|subject| subject.id().to_owned()).collect::<Vec<_>>()
    };
    let between =
        |since_ms, until_ms| SubjectFilter { since_ms, until_ms, ..SubjectFilter::default() };
    assert_eq!(found(between(Some(START_MS + 600_000), None)).await, ["3", "2"]);
    assert_eq!(found(between(None, Some(START_MS + 600_000))).await, ["1"]);
    assert_eq!(found(between(Some(START_MS + 1), Some(START_MS + 600_001))).await, ["2"]);
    assert_eq!(found(between(Some(START_MS + 9_000_000), None)).await, [""; 0]);
    let at =
        |stage: &str| SubjectFilter { stage: Some(stage.to_owned()), ..SubjectFilter::default() };
    assert_eq!(found(at("payment")).await, ["3", "2", "1"]);
    let events = bench.log(&EventFilter::default(), 10).await;
    let event = |at: usize| std::sync::Arc::new(events[at].envelope.clone());
    bench
        .done(batch(vec![emits(&event(0), "payment.authorized", &["inventory"]), dead(&event(1))]))
        .await;
    assert_eq!(found(at("payment")).await, ["3", "2"], "open, or dead and waiting for a person");
    assert_eq!(found(at("inventory")).await, ["1"]);
    let dead_letter = bench
        .store
        .dead_letters(crate::store::DeadLetterFilter { limit: 1, ..Default::default() })
        .await
        .unwrap()
        .items
        .remove(0);
    bench.store.discard(dead_letter.id, "a test".to_owned(), &operator()).await.unwrap();
    assert_eq!(found(at("payment")).await, ["3"]);
}

pub(super) async fn an_idempotency_key_is_bound_to_one_body(bench: Bench) {
    let subject = |id: &str, fingerprint: &str, key: Option<&str>| {
        let subject = new_subject(id, fingerprint);
        crate::store::NewSubject { idempotency_key: key.map(str::to_owned), ..subject }
    };
    let accept = async |subject| bench.store.accept_subject(subject).await.unwrap().0;
    assert!(matches!(accept(subject("1", "a", Some("k"))).await, Accepted::New(_)));
    assert!(
        matches!(accept(subject("1", "a", Some("k"))).await, Accepted::Duplicate(subject) if subject.id() == "1")
    );
    // The key counts, not the id that a repeated request may have been given.
    assert!(
        matches!(accept(subject("2", "a", Some("k"))).await, Accepted::Duplicate(subject) if subject.id() == "1")
    );
    assert_eq!(accept(subject("2", "b", Some("k"))).await, Accepted::KeyReused);
    assert_eq!(accept(subject("1", "b", Some("other"))).await, Accepted::Conflict);
    assert!(matches!(accept(subject("1", "a", Some("other"))).await, Accepted::Duplicate(_)));
    assert!(bench.store.subject(&order("2")).await.unwrap().is_none());
    // At the same time: one is written, whatever the others say.
    let many = futures::future::join_all((0..20).map(|number| {
        bench.store.accept_subject(subject(
            &format!("n{number}"),
            if number % 2 == 0 { "x" } else { "y" },
            Some("race"),
        ))
    }));
    let many: Vec<Accepted> = many.await.into_iter().map(|answer| answer.unwrap().0).collect();
    assert_eq!(many.iter().filter(|accepted| matches!(accepted, Accepted::New(_))).count(), 1);
    assert_eq!(many.iter().filter(|accepted| matches!(accepted, Accepted::KeyReused)).count(), 10);
}
