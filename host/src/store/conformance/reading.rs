//! Queries.

use super::build::{batch, control_change, emits, key, new_subject, order, settlement};
use super::{Bench, START_MS};
use crate::store::{
    AttemptKey, Batch, ControlState, PluginLoad, StoreError, SubjectFilter, Verdict,
};

pub(super) async fn subjects_are_listed_in_pages(bench: Bench) {
    for id in ["1", "2", "3", "4", "5"] {
        let mut subject = new_subject(id, "a");
        subject.customer = (id != "3").then(|| "42".to_owned());
        bench.store.accept_subject(subject).await.unwrap();
    }
    let mut filter =
        SubjectFilter { customer: Some("42".to_owned()), limit: 2, ..SubjectFilter::default() };
    let mut pages = Vec::new();
    loop {
        let page = bench.store.subjects(filter.clone()).await.unwrap();
        pages.push(page.items.iter().map(|subject| subject.id().to_owned()).collect::<Vec<_>>());
        filter.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(pages, [["5", "4"], ["2", "1"]]);
    filter.status = Some("declined".to_owned());
    assert!(bench.store.subjects(filter).await.unwrap().items.is_empty());
}

pub(super) async fn subjects_of_each_filter_are_listed_in_pages(bench: Bench) {
    for number in 0..12 {
        let mut subject = new_subject(&format!("{number:02}"), "a");
        // Of these, `declined` is final.
        subject.status = ["received", "declined"][number % 2].to_owned();
        subject.customer = (number % 3 == 0).then(|| "42".to_owned());
        subject.owner = (number % 4 < 2).then(|| "key/a".to_owned());
        bench.store.accept_subject(subject).await.unwrap();
    }
    let kind = || Some("order".to_owned());
    let all = SubjectFilter { kind: kind(), limit: 2, ..SubjectFilter::default() };
    let some = |text: &str| Some(text.to_owned());
    for (filter, expected) in [
        (all.clone(), (0..12).collect::<Vec<_>>()),
        (SubjectFilter { status: some("received"), ..all.clone() }, vec![0, 2, 4, 6, 8, 10]),
        (SubjectFilter { status: some("declined"), ..all.clone() }, vec![1, 3, 5, 7, 9, 11]),
        (SubjectFilter { customer: some("42"), ..all.clone() }, vec![0, 3, 6, 9]),
        (SubjectFilter { owner: some("key/a"), ..all.clone() }, vec![0, 1, 4, 5, 8, 9]),
        (
            SubjectFilter { customer: some("42"), status: some("received"), ..all.clone() },
            vec![0, 6],
        ),
        (
            SubjectFilter { owner: some("key/a"), status: some("declined"), ..all.clone() },
            vec![1, 5, 9],
        ),
    ] {
        for times in [(None, None), (Some(START_MS), Some(START_MS + 1))] {
            for kind in [kind(), None] {
                let (since_ms, until_ms) = times;
                let mut filter = SubjectFilter { kind, since_ms, until_ms, ..filter.clone() };
                let mut listed = Vec::new();
                loop {
                    let page = bench.store.subjects(filter.clone()).await.unwrap();
                    listed.extend(page.items.iter().map(|one| one.id().parse::<i32>().unwrap()));
                    filter.before = page.next;
                    if page.next.is_none() {
                        break;
                    }
                }
                listed.reverse();
                assert_eq!(listed, expected, "{filter:?}");
            }
        }
    }
}

pub(super) async fn a_subject_has_its_events_and_deliveries(bench: Bench) {
    let event = bench.subject("1").await;
    bench.subject("2").await;
    bench.done(batch(vec![emits(&event, "payment.authorized", &["inventory"])])).await;
    let events = bench.events("1").await;
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].envelope, *event);
    assert_eq!(
        (events[0].stage.as_deref(), events[0].routed_to.as_slice()),
        (None, &["payment".to_owned()][..])
    );
    assert_eq!(
        (events[1].stage.as_deref(), events[1].digest.as_deref()),
        (Some("payment"), Some("d1"))
    );
    assert_eq!(events[1].envelope.cause, Some(event.key()));
    assert_eq!(events[1].envelope.hops, 1);
    let rest = bench.events_after("1", events[0].seq, 10).await;
    assert_eq!((rest.len(), rest[0].seq), (1, events[1].seq));
    assert_eq!(bench.events_after("1", 0, 1).await.len(), 1);
    let stages: Vec<_> = bench
        .store
        .subject_deliveries(&order("1"), 0, 200)
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|record| record.stage)
        .collect();
    assert_eq!(stages, ["payment", "inventory"]);
    let first = bench.store.subject_deliveries(&order("1"), 0, 1).await.unwrap();
    assert_eq!((first.items.len(), first.next), (1, Some(events[0].seq)));
    let second = bench.store.subject_deliveries(&order("1"), events[0].seq, 1).await.unwrap();
    assert_eq!((second.items.len(), second.next), (1, None));
    assert!(bench.store.subject(&order("3")).await.unwrap().is_none());
    assert!(bench.store.subject_deliveries(&order("3"), 0, 200).await.unwrap().items.is_empty());
}

pub(super) async fn state_is_found_by_folder_and_prefix(bench: Bench) {
    let keys = ["a/1", "a/2", "a/b/3", "a0", "b/1", "b/é", "b/ü"];
    let batch = Batch {
        writes: keys.map(|key| (key.to_owned(), Some("v".into()))).into(),
        ..batch(Vec::new())
    };
    bench.done(batch).await;
    bench.done(super::build::writing(Vec::new(), "a/2", 1, None)).await;
    let folders = ["a/".to_owned(), "a/b/".to_owned()];
    let rows = bench.store.state_folders("payment", &folders).await.unwrap();
    let mut found: Vec<_> =
        rows.iter().map(|row| (row.key.as_str(), row.value.is_some(), row.version)).collect();
    found.sort_unstable();
    assert_eq!(found, [("a/1", true, 1), ("a/2", false, 2), ("a/b/3", true, 1)]);
    assert!(bench.store.state_folders("shipping", &folders).await.unwrap().is_empty());
    for (prefix, after, limit, expected) in [
        ("a", "", 10, &["a/1", "a/b/3", "a0"][..]),
        ("a/", "", 10, &["a/1", "a/b/3"]),
        ("a/", "a/1", 10, &["a/b/3"]),
        ("", "", 2, &["a/1", "a/b/3"]),
        ("b/é", "", 10, &["b/é"]),
        ("b/", "b/1", 10, &["b/é", "b/ü"]),
        ("c", "", 10, &[]),
    ] {
        assert_eq!(
            bench.store.state_keys("payment", prefix, after, limit).await.unwrap(),
            expected,
            "{prefix} after {after}"
        );
    }
}

pub(super) async fn settled_deliveries_are_recognised(bench: Bench) {
    let (open, done, retried) =
        (bench.subject("1").await, bench.subject("2").await, bench.subject("3").await);
    bench.done(batch(vec![settlement(&done, Verdict::Skipped)])).await;
    bench.done(batch(vec![super::build::retry(&retried, super::START_MS + 1)])).await;
    let attempt =
        |event, stage, attempt| AttemptKey { delivery: key(event, stage), round: 1, attempt };
    let (first, second) = (attempt(&retried, "payment", 1), attempt(&retried, "payment", 2));
    let asked = vec![
        attempt(&open, "payment", 1),
        attempt(&done, "payment", 1),
        second,
        first.clone(),
        attempt(&done, "nowhere", 1),
    ];
    let settled = bench.store.already_settled(asked).await.unwrap();
    assert_eq!(settled, [attempt(&done, "payment", 1), first], "the live attempt is not settled");
}

pub(super) async fn a_delivery_is_found_by_its_key(bench: Bench) {
    let event = bench.subject("1").await;
    bench.subject("2").await;
    bench.done(batch(vec![super::build::retry(&event, super::START_MS + 1)])).await;
    let found = bench.store.delivery(&key(&event, "payment")).await.unwrap().unwrap();
    assert_eq!((found.event, found.attempt, found.failures.len()), (event.key(), 2, 1));
    assert!(bench.store.delivery(&key(&event, "nowhere")).await.unwrap().is_none());
}

pub(super) async fn plugin_loads_are_kept(bench: Bench) {
    for digest in ["d1", "d2"] {
        let load = PluginLoad {
            stage: "payment".to_owned(),
            digest: digest.to_owned(),
            version: "1.0.0".to_owned(),
            host: "here".to_owned(),
            loaded_at_ms: super::START_MS,
        };
        bench.store.record_plugin_load(load).await.unwrap();
    }
    let loads = bench.store.plugin_loads("payment", 10).await.unwrap();
    let digests: Vec<_> = loads.iter().map(|load| load.digest.as_str()).collect();
    assert_eq!(digests, ["d2", "d1"]);
    assert!(bench.store.plugin_loads("shipping", 10).await.unwrap().is_empty());
}

pub(super) async fn a_closed_store_is_unavailable(bench: Bench) {
    bench.store.ping().await.unwrap();
    bench.store.close().await;
    bench.store.close().await;
    assert!(matches!(bench.store.ping().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(
        bench.store.accept_subject(new_subject("1", "a")).await,
        Err(StoreError::Unavailable(_))
    ));
    assert!(matches!(bench.store.subject(&order("1")).await, Err(StoreError::Unavailable(_))));
}

pub(super) async fn stage_controls_are_kept(bench: Bench) {
    assert!(bench.store.stage_controls().await.unwrap().is_empty());
    let paused = bench
        .store
        .set_stage_control(control_change(
            "payment",
            ControlState::Paused,
            Some("bank holiday".into()),
        ))
        .await
        .unwrap();
    assert_eq!(
        (paused.state, paused.since_ms, paused.held_from_ms),
        (ControlState::Paused, super::START_MS, Some(super::START_MS))
    );
    bench.clock.advance(10);
    let draining = bench
        .store
        .set_stage_control(control_change("payment", ControlState::Draining, None))
        .await
        .unwrap();
    assert_eq!(
        (draining.since_ms, draining.held_from_ms),
        (super::START_MS + 10, Some(super::START_MS)),
        "held all the time"
    );
    bench.clock.advance(10);
    let running = bench
        .store
        .set_stage_control(control_change("payment", ControlState::Running, None))
        .await
        .unwrap();
    assert_eq!(
        (running.state, running.held_from_ms),
        (ControlState::Running, Some(super::START_MS)),
        "what expired meanwhile is known"
    );
    bench.clock.advance(10);
    let again = bench
        .store
        .set_stage_control(control_change("payment", ControlState::Paused, None))
        .await
        .unwrap();
    assert_eq!(again.held_from_ms, Some(super::START_MS + 30));
    assert_eq!(bench.store.stage_controls().await.unwrap(), [again]);
}
