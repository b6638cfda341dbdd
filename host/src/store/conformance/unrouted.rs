//! Events that wait for a stage.

use super::build::{
    DAY_MS, batch, emits, envelope, key, new_event, new_subject, order, settlement,
};
use super::kinds::new_document;
use super::{Bench, LEASE_MS, START_MS};
use crate::domain::clock::Clock as _;
use crate::domain::fair_queue::customer_hash;
use crate::store::{
    DeliveryStatus, Direct, LostDeliveries, NewSubject, Queued, Routed, Routing, Verdict,
};

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

/// What is stored of a value beside it: mark, kind, nonce and tag.
const SEALED_BYTES: u64 = 8 + 1 + 12 + 16;

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

pub(super) async fn kinds_and_customers_take_turns_in_what_waits(bench: Bench) {
    let of = |customer: Option<&str>, subject: NewSubject| NewSubject {
        customer: customer.map(str::to_owned),
        ..subject
    };
    let accept = async |subject: NewSubject| {
        let (_, rows) = bench.store.accept_subject(subject).await.unwrap();
        bench.sent(&rows).await;
        bench.clock.advance(1);
    };
    for id in ["x1", "x2", "x3", "x4"] {
        accept(of(Some("x"), new_subject(id, "same"))).await;
    }
    accept(of(Some("y"), new_subject("y1", "same"))).await;
    accept(of(Some("y"), new_subject("y2", "same"))).await;
    accept(of(None, new_subject("n1", "same"))).await;
    accept(of(Some("x"), new_document("d1", "same"))).await;
    let late_ms = bench.clock.now_ms();
    accept(of(Some("z"), new_subject("late", "same"))).await;
    let of_others = new_event(envelope("order.created", "other", None), &["audit"]);
    bench.store.accept_event(of_others).await.unwrap();
    let read = async |before_ms: u64, limit: u32, max_bytes: u64| {
        let queued = Queued { before_ms, limit, max_bytes };
        bench.store.deliveries_in_turn("payment", queued).await.unwrap()
    };
    let found = read(late_ms, 100, u64::MAX).await;
    let ids: Vec<&str> = found.iter().map(|one| one.envelope.event.id.as_str()).collect();
    let expected = ["x1", "d1", "y1", "n1", "x2", "y2", "x3", "x4"];
    let expected = expected.map(|id| match id {
        "d1" => "document-d1".to_owned(),
        id => format!("created-{id}"),
    });
    assert_eq!(ids, expected);
    assert_eq!((found[0].round, found[0].attempt, found[0].queued_at_ms), (1, 1, START_MS));
    let customer = |at: usize| found[at].envelope.customer_hash;
    assert_eq!((customer(0), customer(2)), (customer_hash(Some("x")), customer_hash(Some("y"))));
    assert_eq!((customer(1), customer(3)), (customer(0), 0));
    assert_eq!(read(late_ms, 3, u64::MAX).await.len(), 3);
    let bytes = found[0].envelope.event.data.len() as u64 + SEALED_BYTES;
    assert_eq!(read(late_ms, 100, 2 * bytes).await.len(), 2);
    assert_eq!(read(late_ms + 1, 100, u64::MAX).await.len(), 9);
    assert!(read(START_MS, 100, u64::MAX).await.is_empty());
    // What is sent carries the customer as well.
    bench.clock.advance(60_000);
    let lost =
        LostDeliveries { queued_before_ms: u64::MAX, min_age_ms: 0, limit: 1, max_bytes: u64::MAX };
    let rows = bench.store.requeue_lost("payment", lost).await.unwrap();
    assert_eq!(rows[0].envelope.customer_hash, customer(0));
    bench.clock.advance(LEASE_MS);
    let rows = bench.store.claim_outbox(10, u64::MAX).await.unwrap();
    assert!(rows.iter().any(|row| row.envelope.customer_hash == customer(0)));
}
