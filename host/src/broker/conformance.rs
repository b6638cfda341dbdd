//! What every [`Broker`] must do, as exercises that run on any implementation.
//!
//! The list is [`EXERCISES`]. Each exercise gets a broker without queues. It waits for messages,
//! never for time to pass, and fails after [`PATIENCE`] without one. An exercise fails by panicking.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::timeout;

use super::{Binding, Broker, Capacity, Consumer, Incoming, Outgoing};
use crate::domain::event::{Envelope, Event};
use crate::store::Direct;

/// Longest wait for an expected message.
const PATIENCE: Duration = Duration::from_secs(20);

/// An exercise and its name.
pub struct Exercise {
    /// The behaviour that it checks.
    pub name: &'static str,
    /// Checks it, or panics.
    pub run: fn(Arc<dyn Broker>) -> BoxFuture<'static, ()>,
}

macro_rules! exercises {
    ($($name:ident),* $(,)?) => {
        /// All exercises.
        pub const EXERCISES: &[Exercise] = &[$( Exercise { name: stringify!($name), run: |broker| Box::pin($name(broker)) } ),*];
    };
}

exercises![
    an_event_reaches_every_stage_bound_to_its_type,
    a_direct_message_reaches_one_stage_with_its_round_and_attempt,
    messages_arrive_unchanged_and_in_order,
    unacknowledged_messages_never_exceed_the_prefetch,
    unacknowledged_messages_are_bounded_in_bytes,
    a_message_larger_than_the_bound_is_held_alone,
    unacknowledged_messages_are_redelivered,
    requeued_messages_are_redelivered,
    a_new_queue_is_reported_as_a_gap,
    bindings_can_be_added,
    bindings_can_be_removed,
    the_depth_counts_ready_messages,
];

/// Runs every exercise on a broker of its own.
pub async fn run(make: impl AsyncFn(&'static str) -> Arc<dyn Broker>) {
    for exercise in EXERCISES {
        let broker = make(exercise.name).await;
        timeout(PATIENCE, broker.up()).await.expect("the broker never came up");
        (exercise.run)(Arc::clone(&broker)).await;
        broker.close().await;
    }
}

/// An event of a type, whose data is its id.
pub(super) fn event(event_type: &str, id: usize) -> Outgoing {
    let event = Event {
        id: id.to_string(),
        event_type: event_type.to_owned(),
        source: "/exercise".to_owned(),
        subject: "s".to_owned(),
        time_ms: 1_700_000_000_000,
        content_type: "text/plain".to_owned(),
        data: id.to_string().into(),
        attributes: vec![("colour".to_owned(), "green".to_owned())],
    };
    let envelope = Envelope {
        data_key: None,
        event,
        subject_key: None,
        customer_hash: 0,
        correlation_id: "c".into(),
        cause: None,
        hops: 1,
        expires_at_ms: 1_800_000_000_000,
    };
    Outgoing { envelope: Arc::new(envelope), direct: None, mandatory: true }
}

pub(super) async fn bound(broker: &Arc<dyn Broker>, stage: &str, patterns: &[&str]) -> Arc<str> {
    let stage: Arc<str> = stage.into();
    let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    broker.declare(Binding { stage: Arc::clone(&stage), patterns }).await.unwrap();
    stage
}

pub(super) async fn sent(broker: &Arc<dyn Broker>, messages: Vec<Outgoing>) {
    for answer in broker.publish(messages).await {
        answer.unwrap();
    }
}

/// A prefetch of this many messages of any size.
pub(super) fn prefetch(messages: u32) -> Capacity {
    Capacity { messages, bytes: 64 << 20 }
}

/// An event with data of this length.
fn large(id: usize, bytes: usize) -> Outgoing {
    let mut envelope = Envelope::clone(&event("x", id).envelope);
    envelope.event.data = vec![b'x'; bytes].into();
    Outgoing { envelope: Arc::new(envelope), ..event("x", id) }
}

/// Takes what arrives until nothing more does.
async fn received_until_quiet(consumer: &mut Box<dyn Consumer>) -> Vec<Incoming> {
    let mut messages = received(consumer, 1).await;
    while let Ok(more) = timeout(Duration::from_millis(300), consumer.receive(100)).await {
        messages.extend(more.expect("the consumer ended"));
    }
    messages
}

/// Takes exactly `count` messages.
pub(super) async fn received(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Incoming> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let more = timeout(PATIENCE, consumer.receive(count - messages.len())).await;
        messages.extend(more.expect("a message never came").expect("the consumer ended"));
    }
    messages
}

fn ids(messages: &[Incoming]) -> Vec<usize> {
    messages.iter().map(|message| message.envelope.event.id.parse().unwrap()).collect()
}

async fn an_event_reaches_every_stage_bound_to_its_type(broker: Arc<dyn Broker>) {
    let one = bound(&broker, "one", &["order.created", "order.cancelled"]).await;
    let all = bound(&broker, "all", &["order.*"]).await;
    sent(
        &broker,
        vec![event("order.created", 1), event("order.shipped", 2), event("order.cancelled", 3)],
    )
    .await;
    let mut consumer = broker.consume(&one, prefetch(10)).await.unwrap();
    assert_eq!(ids(&received(&mut consumer, 2).await), [1, 3]);
    let mut consumer = broker.consume(&all, prefetch(10)).await.unwrap();
    assert_eq!(ids(&received(&mut consumer, 3).await), [1, 2, 3]);
}

async fn a_direct_message_reaches_one_stage_with_its_round_and_attempt(broker: Arc<dyn Broker>) {
    let one = bound(&broker, "one", &["x"]).await;
    let other = bound(&broker, "other", &["x"]).await;
    let direct = Direct { stage: Arc::clone(&one), round: 2, attempt: 5 };
    sent(&broker, vec![Outgoing { direct: Some(direct), ..event("x", 1) }, event("x", 2)]).await;
    let mut consumer = broker.consume(&other, prefetch(10)).await.unwrap();
    assert_eq!(ids(&received(&mut consumer, 1).await), [2]);
    let mut consumer = broker.consume(&one, prefetch(10)).await.unwrap();
    let messages = received(&mut consumer, 2).await;
    assert_eq!(ids(&messages), [1, 2]);
    let numbers: Vec<_> = messages
        .iter()
        .map(|message| (message.round, message.attempt, message.deliveries))
        .collect();
    assert_eq!(numbers, [(2, 5, 1), (1, 1, 1)]);
}

async fn messages_arrive_unchanged_and_in_order(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    let mut consumer = broker.consume(&stage, prefetch(100)).await.unwrap();
    let acker = consumer.acker();
    for batch in 0..5 {
        sent(&broker, (batch * 200..batch * 200 + 200).map(|id| event("x", id)).collect()).await;
    }
    let mut seen = Vec::new();
    while seen.len() < 1_000 {
        let messages = received(&mut consumer, 1).await;
        assert_eq!(messages[0].envelope, event("x", seen.len()).envelope);
        seen.extend(ids(&messages));
        acker.ack(&messages.iter().map(|message| message.tag).collect::<Vec<_>>()).await;
    }
    assert_eq!(seen, (0..1_000).collect::<Vec<_>>());
}

async fn unacknowledged_messages_never_exceed_the_prefetch(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    sent(&broker, (0..6).map(|id| event("x", id)).collect()).await;
    let mut consumer = broker.consume(&stage, prefetch(4)).await.unwrap();
    let first = received(&mut consumer, 4).await;
    let more = timeout(Duration::from_millis(200), consumer.receive(10)).await;
    assert!(more.is_err(), "a fifth message was handed out: {more:?}");
    // Acknowledging two in the middle delivers two more; the others stay unacknowledged.
    consumer.acker().ack(&[first[1].tag, first[2].tag]).await;
    assert_eq!(ids(&received(&mut consumer, 2).await), [4, 5]);
}

async fn unacknowledged_messages_are_bounded_in_bytes(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    sent(&broker, (0..20).map(|id| large(id, 300_000)).collect()).await;
    let bytes = 1_000_000;
    let mut consumer = broker.consume(&stage, Capacity { messages: 100, bytes }).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let messages = received_until_quiet(&mut consumer).await;
        let held: u64 = messages.iter().map(|message| message.envelope.bytes()).sum();
        assert!(held <= bytes, "{} messages of {held} bytes are held", messages.len());
        seen.extend(ids(&messages));
        consumer.acker().ack(&messages.iter().map(|message| message.tag).collect::<Vec<_>>()).await;
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    // Small ones are no longer held back.
    sent(&broker, (0..100).map(|id| event("x", id)).collect()).await;
    let mut small = Vec::new();
    while small.len() < 100 {
        let messages = received(&mut consumer, 1).await;
        consumer.acker().ack(&messages.iter().map(|message| message.tag).collect::<Vec<_>>()).await;
        small.extend(ids(&messages));
    }
    sent(&broker, (0..80).map(|id| event("x", id)).collect()).await;
    assert_eq!(received(&mut consumer, 80).await.len(), 80);
}

async fn a_message_larger_than_the_bound_is_held_alone(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    sent(&broker, vec![large(0, 2_000), event("x", 1), large(2, 2_000)]).await;
    let prefetch = Capacity { messages: 100, bytes: 1_000 };
    let mut consumer = broker.consume(&stage, prefetch).await.unwrap();
    for id in 0..3 {
        let messages = received_until_quiet(&mut consumer).await;
        assert_eq!(ids(&messages), [id]);
        consumer.acker().ack(&[messages[0].tag]).await;
    }
}

async fn unacknowledged_messages_are_redelivered(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    sent(&broker, (0..3).map(|id| event("x", id)).collect()).await;
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    let messages = received(&mut consumer, 3).await;
    assert!(messages.iter().all(|message| !message.redelivered));
    consumer.acker().ack(&[messages[1].tag]).await;
    drop(consumer);
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    let again = received(&mut consumer, 2).await;
    assert_eq!(ids(&again), [0, 2]);
    assert!(
        again.iter().all(|message| message.redelivered && message.deliveries == 2),
        "{again:?}"
    );
    consumer.acker().ack(&again.iter().map(|message| message.tag).collect::<Vec<_>>()).await;
}

async fn requeued_messages_are_redelivered(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    sent(&broker, vec![event("x", 1), event("x", 2)]).await;
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    let messages = received(&mut consumer, 2).await;
    consumer.acker().requeue(&[messages[0].tag]).await;
    consumer.acker().ack(&[messages[1].tag]).await;
    let again = received(&mut consumer, 1).await;
    assert_eq!((ids(&again), again[0].redelivered), (vec![1], true));
}

async fn a_new_queue_is_reported_as_a_gap(broker: Arc<dyn Broker>) {
    assert!(broker.take_gaps().is_empty());
    let stage = bound(&broker, "one", &["x"]).await;
    timeout(PATIENCE, broker.gap()).await.expect("the gap was not reported");
    let gaps = broker.take_gaps();
    assert_eq!(gaps.iter().map(|gap| &gap.stage).collect::<Vec<_>>(), [&stage]);
    assert!(broker.take_gaps().is_empty(), "a gap is reported once");
    bound(&broker, "one", &["x"]).await;
    assert!(broker.take_gaps().is_empty(), "the queue was there");
}

async fn bindings_can_be_added(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    bound(&broker, "one", &["x", "y"]).await;
    sent(&broker, vec![event("x", 1), event("y", 2)]).await;
    assert_eq!(ids(&received(&mut consumer, 2).await), [1, 2]);
}

async fn bindings_can_be_removed(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x", "y"]).await;
    broker.unbind(&stage, "never.bound").await.unwrap();
    broker.unbind(&stage, "y").await.unwrap();
    sent(&broker, vec![Outgoing { mandatory: false, ..event("y", 1) }, event("x", 2)]).await;
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    assert_eq!(ids(&received(&mut consumer, 1).await), [2]);
    broker.bind(&stage, "y").await.unwrap();
    sent(&broker, vec![event("y", 3)]).await;
    assert_eq!(ids(&received(&mut consumer, 1).await), [3]);
}

async fn the_depth_counts_ready_messages(broker: Arc<dyn Broker>) {
    let stage = bound(&broker, "one", &["x"]).await;
    assert_eq!(broker.depth(&stage).await, Ok(0));
    sent(&broker, (0..3).map(|id| event("x", id)).collect()).await;
    // A broker may update its counters after its confirms.
    timeout(PATIENCE, async {
        while broker.depth(&stage).await != Ok(3) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the depth never became 3");
}
