//! The conformance suite on a real broker, and tests of `RabbitMQ` alone.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::time::timeout;

use super::topology::Names;
use super::{Rabbit, RabbitOptions};
use crate::broker::conformance::{self, bound, event, prefetch, received, sent};
use crate::broker::{Broker, BrokerError};
use crate::config::Config;
use crate::domain::clock::SystemClock;
use crate::domain::event::Envelope;

/// A namespace on the broker of the environment, or on the default port; deleted at the end.
struct Namespace {
    name: String,
    stages: Vec<&'static str>,
}

fn url() -> String {
    std::env::var("POSTRIDER_TEST_AMQP")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

async fn direct_connection() -> Connection {
    let uri = AMQPUri::from_str(&url()).unwrap();
    Connection::connect_uri(uri, ConnectionProperties::default())
        .await
        .expect("a RabbitMQ server for tests: see docs/testing.md")
}

impl Namespace {
    fn new(stages: &[&'static str]) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("unit-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        Self { name, stages: stages.to_vec() }
    }

    fn open(&self) -> Arc<dyn Broker> {
        let options = RabbitOptions {
            url: url(),
            namespace: self.name.clone(),
            host_name: "test".into(),
            clock: Arc::new(SystemClock),
            expiry_ms: 60_000,
            ingress: Config::default().ingress(&Config::default().kinds().expect("valid")),
        };
        let (rabbit, links) = Rabbit::new(options).unwrap();
        tokio::spawn(async move { tokio::join!(links.publishing.run(), links.consuming.run()) });
        rabbit
    }

    fn names(&self) -> Names {
        Names::new(&self.name)
    }

    async fn delete(names: Names, stages: Vec<&'static str>) {
        let connection = direct_connection().await;
        let channel = connection.create_channel().await.unwrap();
        for stage in stages {
            for queue in [names.queue(stage), names.dead_queue(stage)] {
                channel.queue_delete(queue, QueueDeleteOptions::default()).await.unwrap();
            }
        }
        for exchange in [names.events(), names.dead()] {
            channel.exchange_delete(exchange, ExchangeDeleteOptions::default()).await.unwrap();
        }
        connection.close(200, "done".into()).await.unwrap();
    }
}

/// Also after a test that failed.
impl Drop for Namespace {
    fn drop(&mut self) {
        let (names, stages) = (self.names(), std::mem::take(&mut self.stages));
        let deleted = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(Self::delete(names, stages));
        });
        assert!(deleted.join().is_ok() || std::thread::panicking(), "queues were left behind");
    }
}

#[tokio::test]
async fn it_conforms() {
    let namespaces = std::sync::Mutex::new(Vec::new());
    conformance::run(async |_| {
        let namespace = Namespace::new(&["one", "other", "all"]);
        let broker = namespace.open();
        namespaces.lock().unwrap().push(namespace);
        broker
    })
    .await;
}

#[tokio::test]
async fn a_message_that_no_queue_takes_is_not_delivered() {
    let namespace = Namespace::new(&["one"]);
    let broker = namespace.open();
    broker.up().await;
    bound(&broker, "one", &["x"]).await;
    let wanted = event("nobody.listens", 1);
    let unwanted = crate::broker::Outgoing { mandatory: false, ..wanted.clone() };
    let answers = broker.publish(vec![wanted, unwanted, event("x", 2)]).await;
    assert!(matches!(answers[0], Err(BrokerError::Unroutable(_))), "{answers:?}");
    assert!(answers[1].is_ok() && answers[2].is_ok(), "{answers:?}");
    broker.close().await;
}

#[tokio::test]
async fn the_longest_texts_that_fit_arrive() {
    let namespace = Namespace::new(&["one"]);
    let broker = namespace.open();
    broker.up().await;
    let stage = bound(&broker, "one", &["x"]).await;
    let mut long = event("x", 1);
    // Sent twice: as an attribute, and under its own name.
    let mut envelope = Envelope::clone(&long.envelope);
    envelope.event.attributes = vec![("tracestate".into(), String::new())];
    while envelope.validate().is_none() {
        envelope.event.attributes[0].1.push_str("0123456789");
    }
    let length = envelope.event.attributes[0].1.len();
    assert!(length > 30_000, "{:?}", envelope.validate());
    envelope.event.attributes[0].1.truncate(length - 10);
    long.envelope = Arc::new(envelope);
    sent(&broker, vec![long.clone()]).await;
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    assert_eq!(
        received(&mut consumer, 1).await[0].envelope.event.attributes,
        long.envelope.event.attributes
    );
    broker.close().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_comes_back_with_its_reason() {
    let namespace = Namespace::new(&["one"]);
    let broker = namespace.open();
    broker.up().await;
    let stage = bound(&broker, "one", &["x"]).await;
    let connection = direct_connection().await;
    let channel = connection.create_channel().await.unwrap();
    let options = BasicPublishOptions::default();
    channel
        .basic_publish(
            namespace.names().events(),
            "x".into(),
            options,
            b"garbage",
            BasicProperties::default(),
        )
        .await
        .unwrap();
    sent(&broker, vec![event("x", 2)]).await;
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    assert_eq!(received(&mut consumer, 1).await[0].envelope.event.id, "2");
    let mut dead = broker.consume_rejected(&stage).await.unwrap().unwrap();
    let dead_letters = timeout(Duration::from_secs(20), dead.receive()).await.unwrap().unwrap();
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(
        (dead_letters[0].reason.as_str(), &dead_letters[0].envelope.event.data[..]),
        ("rejected", &b"garbage"[..])
    );
    assert!(
        dead_letters[0].unreadable.as_ref().is_some_and(|why| why.contains("id")),
        "{dead_letters:?}"
    );
    dead.acker().ack(&[dead_letters[0].tag]).await;
    broker.close().await;
}

#[tokio::test]
async fn a_deleted_queue_ends_its_consumer_and_comes_back_as_a_gap() {
    let namespace = Namespace::new(&["one"]);
    let broker = namespace.open();
    broker.up().await;
    let stage = bound(&broker, "one", &["x"]).await;
    broker.take_gaps();
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    let connection = direct_connection().await;
    let channel = connection.create_channel().await.unwrap();
    channel
        .queue_delete(namespace.names().queue("one"), QueueDeleteOptions::default())
        .await
        .unwrap();
    assert!(timeout(Duration::from_secs(20), consumer.receive(1)).await.unwrap().is_none());
    let mut consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    assert_eq!(broker.take_gaps().len(), 1);
    sent(&broker, vec![event("x", 7)]).await;
    assert_eq!(received(&mut consumer, 1).await[0].envelope.event.id, "7");
    broker.close().await;
}

#[tokio::test]
async fn a_queue_that_was_declared_otherwise_is_refused_with_the_remedy() {
    let namespace = Namespace::new(&["one"]);
    let broker = namespace.open();
    broker.up().await;
    let connection = direct_connection().await;
    let channel = connection.create_channel().await.unwrap();
    let durable = lapin::options::QueueDeclareOptions::durable();
    channel
        .queue_declare(namespace.names().queue("one"), durable, lapin::types::FieldTable::default())
        .await
        .unwrap();
    let declared = broker
        .declare(crate::broker::Binding { stage: "one".into(), patterns: vec!["x".into()] })
        .await;
    let Err(BrokerError::Refused(why)) = declared else { panic!("{declared:?}") };
    assert!(why.contains("inequivalent arg") && why.contains("delete_queue"), "{why}");
    broker.close().await;
}
