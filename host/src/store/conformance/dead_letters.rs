//! Groups, filters and outcomes of dead letters.

use super::build::{DAY_MS, batch, dead, envelope, failure, new_event, operator, order};
use super::{Bench, START_MS};
use crate::store::{
    DeadLetter, DeadLetterAction, DeadLetterFilter, DeadLetterGroup, DeadLetterStatus,
    FailedAttempt, Settlement, Verdict,
};

fn filter() -> DeadLetterFilter {
    DeadLetterFilter { limit: 100, ..DeadLetterFilter::default() }
}

impl Bench {
    /// Dead-letters the delivery of a new subject at `payment` with this failure.
    async fn fails_with(&self, subject: &str, code: &str, message: &str) -> DeadLetter {
        self.fails_in(subject, (code, message), None, "d1").await
    }

    async fn fails_in(
        &self,
        subject: &str,
        (code, message): (&str, &str),
        backtrace: Option<&str>,
        digest: &str,
    ) -> DeadLetter {
        let event = self.subject(subject).await;
        let mut settlement = dead(&event);
        let Verdict::Dead { announcement, .. } = settlement.verdict else {
            panic!("not dead-lettered")
        };
        settlement.verdict =
            Verdict::Dead { code: code.to_owned(), message: message.to_owned(), announcement };
        let failed = FailedAttempt {
            backtrace: backtrace.map(str::to_owned),
            digest: digest.to_owned(),
            ..failure(1, 1)
        };
        let (_, rows) = self
            .done(batch(vec![Settlement {
                failure: Some(failed),
                digest: digest.into(),
                ..settlement
            }]))
            .await;
        self.sent(&rows).await;
        self.store
            .dead_letters(DeadLetterFilter { limit: 1, ..filter() })
            .await
            .unwrap()
            .items
            .remove(0)
    }

    async fn groups(&self, filter: DeadLetterFilter) -> Vec<DeadLetterGroup> {
        self.store.dead_letter_groups(filter).await.unwrap().items
    }

    async fn ids(&self, filter: DeadLetterFilter) -> Vec<i64> {
        self.store.dead_letter_ids(filter, 0).await.unwrap()
    }
}

pub(super) async fn dead_letters_with_the_same_fingerprint_are_one_group(bench: Bench) {
    let first = bench.fails_with("1", "no-answer", "bank 17 is silent").await;
    bench.clock.advance(5);
    let second = bench.fails_in("2", ("no-answer", "bank 18 is silent"), None, "d2").await;
    bench.clock.advance(5);
    let other = bench.fails_with("3", "declined", "bank 18 is silent").await;
    assert_eq!((first.fingerprint.as_str(), &first.group), ("bank <n> is silent", &second.group));
    assert_ne!(second.group, other.group);
    bench.store.discard(first.id, "a test".to_owned(), &operator()).await.unwrap();
    let groups = bench.groups(filter()).await;
    let expected = DeadLetterGroup {
        id: first.group.clone(),
        stage: "payment".to_owned(),
        code: "no-answer".to_owned(),
        fingerprint: "bank <n> is silent".to_owned(),
        open: 1,
        replayed: 0,
        discarded: 1,
        first_at_ms: START_MS,
        last_at_ms: START_MS + 5,
        digests: vec!["d1".to_owned(), "d2".to_owned()],
        example: second.id,
    };
    assert_eq!(groups.len(), 2);
    assert_eq!((groups[0].code.as_str(), groups[0].open, &groups[1]), ("declined", 1, &expected));
    // A filter picks the dead letters that are counted.
    let open =
        bench.groups(DeadLetterFilter { status: Some(DeadLetterStatus::Open), ..filter() }).await;
    assert_eq!((open[1].open, open[1].discarded, open[1].digests.len()), (1, 0, 1));
    let of_code =
        bench.groups(DeadLetterFilter { code: Some("declined".to_owned()), ..filter() }).await;
    assert_eq!(of_code, groups[..1]);
}

pub(super) async fn groups_are_listed_in_pages(bench: Bench) {
    for (subject, code) in [("1", "a"), ("2", "b"), ("3", "c"), ("4", "a")] {
        bench.fails_with(subject, code, "why").await;
    }
    let codes = |groups: &[DeadLetterGroup]| {
        groups.iter().map(|group| group.code.clone()).collect::<Vec<_>>()
    };
    let first =
        bench.store.dead_letter_groups(DeadLetterFilter { limit: 2, ..filter() }).await.unwrap();
    assert_eq!(codes(&first.items), ["a", "c"]);
    let second = bench
        .store
        .dead_letter_groups(DeadLetterFilter { limit: 2, before: first.next, ..filter() })
        .await
        .unwrap();
    assert_eq!((codes(&second.items), second.next), (vec!["b".to_owned()], None));
    assert!(
        bench
            .groups(DeadLetterFilter { stage: Some("shipping".to_owned()), ..filter() })
            .await
            .is_empty()
    );
}

pub(super) async fn dead_letters_are_found_by_every_filter(bench: Bench) {
    let mut dead_letters = Vec::new();
    for (subject, code) in [("1", "a"), ("2", "b"), ("3", "a")] {
        dead_letters.push(bench.fails_with(subject, code, "why").await);
        bench.clock.advance(10);
    }
    let [first, second, third] =
        [&dead_letters[0], &dead_letters[1], &dead_letters[2]].map(|dead_letter| dead_letter.id);
    bench.store.discard(second, "a test".to_owned(), &operator()).await.unwrap();
    for (picked, expected) in [
        (filter(), vec![first, second, third]),
        (
            DeadLetterFilter { group: Some(dead_letters[0].group.clone()), ..filter() },
            vec![first, third],
        ),
        (DeadLetterFilter { subject: Some(order("2")), ..filter() }, vec![second]),
        (DeadLetterFilter { since_ms: Some(START_MS + 10), ..filter() }, vec![second, third]),
        (DeadLetterFilter { until_ms: Some(START_MS + 10), ..filter() }, vec![first]),
        (
            DeadLetterFilter {
                status: Some(DeadLetterStatus::Open),
                code: Some("b".to_owned()),
                ..filter()
            },
            vec![],
        ),
        (DeadLetterFilter { before: Some(third), limit: 1, ..filter() }, vec![first]),
        (DeadLetterFilter { stage: Some("shipping".to_owned()), ..filter() }, vec![]),
    ] {
        assert_eq!(bench.ids(picked.clone()).await, expected, "{picked:?}");
        if picked.limit > 1 {
            let listed = bench.store.dead_letters(picked.clone()).await.unwrap().items;
            let newest_first: Vec<i64> = expected.iter().rev().copied().collect();
            assert_eq!(
                listed.iter().map(|dead_letter| dead_letter.id).collect::<Vec<_>>(),
                newest_first,
                "{picked:?}"
            );
            let count = bench.store.count_dead_letters(picked.clone()).await.unwrap();
            assert_eq!(
                (count.count, count.last),
                (expected.len() as u64, expected.last().copied().unwrap_or(0)),
                "{picked:?}"
            );
        }
    }
    assert_eq!(bench.store.dead_letter_ids(filter(), first).await.unwrap(), [second, third]);
}

pub(super) async fn pages_of_dead_letters_are_bounded_in_bytes(bench: Bench) {
    const LARGE: usize = 600 << 10;
    for id in ["1", "2"] {
        let event = bench.subject_with_data(id, LARGE).await;
        let (_, rows) = bench.done(batch(vec![dead(&event)])).await;
        bench.sent(&rows).await;
    }
    // Large failures count as large events do.
    let large = "x".repeat(LARGE);
    bench.fails_with("3", "a", &large).await;
    bench.fails_in("4", ("a", "why"), Some(&large), "d1").await;
    bench.fails_with("5", "a", "why").await;
    let mut page = DeadLetterFilter { limit: 10, ..filter() };
    let (mut pages, mut ids) = (Vec::new(), Vec::new());
    loop {
        let found = bench.store.dead_letters(page.clone()).await.unwrap();
        pages.push(found.items.len());
        ids.extend(found.items.iter().map(|one| one.id));
        match found.next {
            Some(next) => page.before = Some(next),
            None => break,
        }
    }
    // The one that exceeds the bound is the last of its page.
    assert_eq!(pages, [3, 2]);
    ids.reverse();
    assert_eq!(ids, bench.ids(filter()).await);
}

pub(super) async fn traps_are_grouped_by_function_and_line(bench: Bench) {
    let one = bench
        .fails_in(
            "1",
            ("trap:unreachable", "about 1"),
            Some("rust_panic\npay::charge at src/lib.rs:4"),
            "d1",
        )
        .await;
    let same = bench
        .fails_in(
            "2",
            ("trap:unreachable", "otherwise"),
            Some("pay::charge at src/lib.rs:4\nhandle"),
            "d1",
        )
        .await;
    let other = bench
        .fails_in("3", ("trap:unreachable", "about 1"), Some("pay::charge at src/lib.rs:9"), "d1")
        .await;
    assert_eq!(one.fingerprint, "in pay::charge at src/lib.rs:4");
    assert_eq!(one.group, same.group);
    assert_ne!(one.group, other.group);
}

pub(super) async fn the_outcome_of_a_dead_letter_is_kept(bench: Bench) {
    let as_it_was = bench.fails_with("1", "a", "why").await;
    let edited = bench.fails_with("2", "a", "why").await;
    assert_eq!((edited.settled_at_ms, &edited.replayed_as), (None, &None));
    bench.clock.advance(7);
    bench.store.replay(as_it_was.id, START_MS + DAY_MS, &operator()).await.unwrap();
    let event = new_event(envelope("order.created", "edited", Some(&order("2"))), &["payment"]);
    let action = bench.store.replay_edited(edited.id, event.clone(), &operator()).await.unwrap();
    assert!(matches!(action, DeadLetterAction::Done(_)), "{action:?}");
    let as_it_was = bench.store.dead_letter(as_it_was.id).await.unwrap().unwrap();
    assert_eq!((as_it_was.settled_at_ms, as_it_was.replayed_as), (Some(START_MS + 7), None));
    let edited = bench.store.dead_letter(edited.id).await.unwrap().unwrap();
    assert_eq!(
        (edited.settled_at_ms, edited.replayed_as),
        (Some(START_MS + 7), Some(event.envelope.key()))
    );
    let groups = bench.groups(filter()).await;
    assert_eq!((groups[0].open, groups[0].replayed), (0, 2));
}
