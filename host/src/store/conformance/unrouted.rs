//! Events that wait for a stage.

use super::build::{
    DAY_MS, batch, emits, envelope, key, new_event, new_subject, order, settlement,
};
use super::{Bench, START_MS};
use crate::store::{DeliveryStatus, Direct, NewSubject, Routed, Routing, Verdict};

fn unrouted_subject(id: &str) -> NewSubject {
    let event =
        new_event(envelope("order.created", &format!("created-{id}"), Some(&order(id))), &[]);
    NewSubject { event, ..new_subject(id, "same") }
}

impl Bench {
    async fn waiting(&self) -> Vec<(String, u64)> {
        let waiting = self.store.unrouted_events().await.unwrap();
        waiting.into_iter().map(|events| (events.event_type, events.count)).collect()
    }

    async fn route(&self, event_type: &str, stages: &[&str], limit: u32) -> Routed {
        let routing = Routing {
            event_type: event_type.to_owned(),
            stages: stages.iter().map(|stage| (*stage).into()).collect(),
            expires_at_ms: START_MS + 5 * DAY_MS,
            limit,
        };
        self.store.route_unrouted(routing).await.unwrap()
    }
}

fn waits(event_type: &str, count: u64) -> (String, u64) {
    (event_type.to_owned(), count)
}

pub(super) async fn a_subject_without_a_stage_is_routed_when_one_appears(bench: Bench) {
    for id in ["1", "2", "3"] {
        let (_, rows) = bench.store.accept_subject(unrouted_subject(id)).await.unwrap();
        assert!(rows.is_empty());
    }
    assert_eq!(bench.waiting().await, [waits("order.created", 3)]);
    bench.clock.advance(DAY_MS * 2);
    // A subject that waits is not finished, however old it is.
    assert_eq!(bench.prune(START_MS + DAY_MS, 10).await.unwrap().subjects, 0);
    let routed = bench.route("order.created", &["payment", "audit"], 2).await;
    assert_eq!((routed.events, routed.outbox.len()), (2, 4), "two events to two stages each");
    assert_eq!(bench.waiting().await, [waits("order.created", 1)]);
    let direct = Some(Direct { stage: "payment".into(), round: 1, attempt: 1 });
    assert_eq!(routed.outbox[0].direct, direct);
    let event = &routed.outbox[0].envelope;
    assert_eq!(event.expires_at_ms, START_MS + 5 * DAY_MS, "the wait does not count");
    assert_eq!(bench.delivery("1", "audit").await.status, DeliveryStatus::Open);
    assert_eq!(bench.events("1").await[0].routed_to, ["payment", "audit"]);
    bench.done(batch(vec![settlement(event, Verdict::Skipped)])).await;
    assert_eq!(bench.route("order.created", &["payment"], 10).await.events, 1);
    assert_eq!(bench.route("order.created", &["payment"], 10).await.events, 0);
    assert_eq!(bench.waiting().await, []);
}

pub(super) async fn an_event_waits_while_its_subject_is_unfinished(bench: Bench) {
    let (going, done) = (bench.subject("going").await, bench.subject("done").await);
    // The last one finishes its subject; so nothing has to follow the events beside it.
    let settlements =
        vec![emits(&going, "payment.authorized", &[]), emits(&done, "payment.declined", &[])];
    bench.done(batch(settlements)).await;
    assert_eq!(bench.waiting().await, [waits("payment.authorized", 1)]);
    // Events of other programs, and those of the host about a stage, depend on nothing.
    let foreign = new_event(envelope("carrier.lost", "f", Some(&order("going"))), &[]).external();
    bench.store.accept_event(foreign).await.unwrap();
    let told = new_event(envelope("postrider.breaker-changed", "b", None), &[]);
    bench.store.accept_event(told).await.unwrap();
    let stocked = new_event(envelope("product.stocked", "s", None), &[]);
    bench.store.accept_event(stocked).await.unwrap();
    assert_eq!(
        bench.waiting().await,
        [waits("payment.authorized", 1), waits("product.stocked", 1)]
    );
}

pub(super) async fn open_deliveries_of_a_stage_are_listed(bench: Bench) {
    let (one, two) = (bench.subject("1").await, bench.subject("2").await);
    bench.done(batch(vec![settlement(&one, Verdict::Skipped)])).await;
    let open = bench.store.open_deliveries("payment", 10).await.unwrap();
    let [open] = &open[..] else { panic!("{open:?}") };
    assert_eq!((open.envelope.key(), open.round, open.attempt), (key(&two, "payment").event, 1, 1));
    assert!(bench.store.open_deliveries("inventory", 10).await.unwrap().is_empty());
}
