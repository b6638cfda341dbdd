//! Retention: what goes, and what stays.

use super::build::{
    batch, control_change, emits, new_subject, operator, order, settlement, writing,
};
use super::{Bench, START_MS, sample_event};
use crate::store::{
    Accepted, AcceptedEvent, ChainCount, ControlState, PluginLoad, Pruned, Verdict,
};

const LATER_MS: u64 = START_MS + 1_000;

pub(super) async fn finished_subjects_past_their_retention_are_deleted(bench: Bench) {
    let event = bench.subject("1").await;
    bench
        .done(writing(vec![emits(&event, "payment.declined", &[])], "order/1/paid", 0, Some("yes")))
        .await;
    bench.done(writing(Vec::new(), "order/12/paid", 0, Some("yes"))).await;
    bench.done(writing(Vec::new(), "stock/1", 0, Some("7"))).await;
    bench.store.accept_event(sample_event("lonely", &[]).external()).await.unwrap();
    assert_eq!(
        bench.prune(START_MS, 10).await.unwrap(),
        Pruned::default(),
        "nothing is old enough"
    );
    bench.clock.advance(1_000);
    assert_eq!(bench.prune(LATER_MS, 10).await.unwrap(), Pruned { subjects: 1, events: 1 });
    assert_eq!(bench.prune(LATER_MS, 10).await.unwrap(), Pruned::default(), "it goes once");
    assert!(bench.events("1").await.is_empty());
    assert!(bench.store.subject_deliveries(&order("1"), 0, 200).await.unwrap().items.is_empty());
    assert_eq!(
        bench.store.state_keys("payment", "", "", 10).await.unwrap(),
        ["order/12/paid", "stock/1"]
    );
    // The id is known for ever.
    let (again, rows) = bench.store.accept_subject(new_subject("1", "same")).await.unwrap();
    assert!(
        matches!(again, Accepted::Duplicate(ref subject) if subject.status == "pruned" && subject.body.is_null()),
        "{again:?}"
    );
    assert!(rows.is_empty());
    assert_eq!(
        bench.store.accept_subject(new_subject("1", "other")).await.unwrap().0,
        Accepted::Conflict
    );
}

pub(super) async fn unfinished_subjects_are_kept(bench: Bench) {
    // Sent but not run; not sent; dead-lettered and open.
    bench.subject("open").await;
    let unsent = bench.subject("unsent").await;
    bench.done(batch(vec![emits(&unsent, "payment.authorized", &["inventory"])])).await;
    let dead_letter = bench.dead_letter_of("dead").await;
    let finished = bench.subject("finished").await;
    bench.done(batch(vec![settlement(&finished, Verdict::Skipped)])).await;
    bench.clock.advance(1_000);
    assert_eq!(bench.prune(LATER_MS, 10).await.unwrap().subjects, 1, "the finished one");
    assert_eq!(bench.prune(LATER_MS, 10).await.unwrap().subjects, 0);
    bench.store.discard(dead_letter.id, "seen".into(), &operator()).await.unwrap();
    // The dead-letter event is routed to a stage that has not settled it.
    assert_eq!(bench.prune(LATER_MS, 10).await.unwrap().subjects, 0);
    for id in ["open", "unsent", "dead"] {
        assert_ne!(bench.status(id).await, "pruned", "{id}");
    }
}

pub(super) async fn an_old_event_that_was_logged_now_is_kept(bench: Bench) {
    let mut event = sample_event("dated", &[]).external();
    std::sync::Arc::make_mut(&mut event.envelope).event.time_ms = 0;
    bench.store.accept_event(event.clone()).await.unwrap();
    assert_eq!(bench.prune(START_MS, 10).await.unwrap(), Pruned::default());
    let (accepted, _) = bench.store.accept_event(event).await.unwrap();
    assert_eq!(accepted, AcceptedEvent::Duplicate, "its repetition is recognised");
    bench.clock.advance(1_000);
    assert_eq!(bench.prune(LATER_MS, 10).await.unwrap().events, 1);
}

pub(super) async fn old_chains_are_deleted(bench: Bench) {
    let waiting = bench.subject("1").await;
    let waits = waiting.correlation_id.as_str();
    let count = |id: &str| ChainCount {
        correlation_id: id.into(),
        events: 1,
        first_at_ms: START_MS,
        last_at_ms: START_MS,
    };
    bench.store.count_chains(vec![count("counted")]).await.unwrap();
    for stopped in ["stopped", waits] {
        bench.store.stop_chain(stopped, None, &operator()).await.unwrap();
    }
    bench.clock.advance(1_000);
    bench.store.count_chains(vec![count("young")]).await.unwrap();
    let left = async || {
        let chains = bench.store.chains(0).await.unwrap();
        let mut ids: Vec<_> = chains.into_iter().map(|one| one.correlation_id).collect();
        ids.sort();
        ids
    };
    bench.prune(LATER_MS, 10).await.unwrap();
    let mut expected = [waits.into(), "young".into()];
    expected.sort();
    assert_eq!(left().await, expected, "a stop is kept while a delivery of the chain is open");
    bench.done(batch(vec![settlement(&waiting, Verdict::Skipped)])).await;
    bench.prune(LATER_MS, 10).await.unwrap();
    assert_eq!(left().await, ["young".into()]);
}

pub(super) async fn removed_keys_and_old_loads_and_controls_are_deleted(bench: Bench) {
    bench.done(writing(Vec::new(), "basket", 0, Some("1"))).await;
    bench.done(writing(Vec::new(), "basket", 1, None)).await;
    bench.done(writing(Vec::new(), "stock/1", 0, Some("7"))).await;
    bench
        .store
        .record_plugin_load(PluginLoad {
            stage: "payment".into(),
            digest: "d".into(),
            version: "1".into(),
            host: "here".into(),
            loaded_at_ms: START_MS,
        })
        .await
        .unwrap();
    for state in [ControlState::Paused, ControlState::Running] {
        bench.store.set_stage_control(control_change("payment", state, None)).await.unwrap();
    }
    bench
        .store
        .set_stage_control(control_change("shipping", ControlState::Paused, None))
        .await
        .unwrap();
    bench.clock.advance(2 * 3_600_000);
    bench.prune(LATER_MS, 10).await.unwrap();
    assert!(bench.store.state_get("payment", "basket").await.unwrap().is_none());
    assert!(bench.store.state_get("payment", "stock/1").await.unwrap().is_some());
    assert!(bench.store.plugin_loads("payment", 10).await.unwrap().is_empty());
    let controls = bench.store.stage_controls().await.unwrap();
    let stages: Vec<_> = controls.iter().map(|control| control.stage.as_str()).collect();
    assert_eq!(stages, ["shipping"], "a pause stays");
}
