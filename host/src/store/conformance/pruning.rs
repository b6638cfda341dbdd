//! Retention: what goes, and what stays.

use super::build::{batch, emits, new_order, settlement, writing};
use super::{Bench, START_MS, sample_event};
use crate::store::{Accepted, Pruned, Verdict};

const LATER_MS: u64 = START_MS + 1_000;

pub(super) async fn finished_orders_past_their_retention_are_deleted(bench: Bench) {
    let event = bench.order("1").await;
    bench
        .done(writing(
            vec![emits(&event, "payment.authorized", &[])],
            "order/1/paid",
            0,
            Some("yes"),
        ))
        .await;
    bench.done(writing(Vec::new(), "order/12/paid", 0, Some("yes"))).await;
    bench.done(writing(Vec::new(), "stock/1", 0, Some("7"))).await;
    bench.store.accept_event(sample_event("lonely", &[])).await.unwrap();
    assert_eq!(
        bench.store.prune(START_MS, 10).await.unwrap(),
        Pruned::default(),
        "nothing is old enough"
    );
    bench.clock.advance(1_000);
    assert_eq!(bench.store.prune(LATER_MS, 10).await.unwrap(), Pruned { orders: 1, events: 1 });
    assert_eq!(bench.store.prune(LATER_MS, 10).await.unwrap(), Pruned::default(), "it goes once");
    assert!(bench.events("1").await.is_empty());
    assert!(bench.store.order_deliveries("1").await.unwrap().is_empty());
    assert_eq!(
        bench.store.state_keys("payment", "", "", 10).await.unwrap(),
        ["order/12/paid", "stock/1"]
    );
    // The id is known for ever.
    let (again, rows) = bench.store.accept_order(new_order("1", "same")).await.unwrap();
    assert!(
        matches!(again, Accepted::Duplicate(ref order) if order.status == "pruned" && order.body.is_null()),
        "{again:?}"
    );
    assert!(rows.is_empty());
    assert_eq!(
        bench.store.accept_order(new_order("1", "other")).await.unwrap().0,
        Accepted::Conflict
    );
}

pub(super) async fn unfinished_orders_are_kept(bench: Bench) {
    // Sent but not run; not sent; dead-lettered and open.
    bench.order("open").await;
    let unsent = bench.order("unsent").await;
    bench.done(batch(vec![emits(&unsent, "payment.authorized", &["inventory"])])).await;
    let dead_letter = bench.dead_letter_of("dead").await;
    let finished = bench.order("finished").await;
    bench.done(batch(vec![settlement(&finished, Verdict::Skipped)])).await;
    bench.clock.advance(1_000);
    assert_eq!(bench.store.prune(LATER_MS, 10).await.unwrap().orders, 1, "the finished one");
    assert_eq!(bench.store.prune(LATER_MS, 10).await.unwrap().orders, 0);
    bench.store.discard(dead_letter.id, "seen".into()).await.unwrap();
    // The dead-letter event is routed to a stage that has not settled it.
    assert_eq!(bench.store.prune(LATER_MS, 10).await.unwrap().orders, 0);
    for id in ["open", "unsent", "dead"] {
        assert_ne!(bench.status(id).await, "pruned", "{id}");
    }
}
