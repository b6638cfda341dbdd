//! The conformance suite on a real broker, and tests of `RabbitMQ` alone.

use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::time::timeout;

use super::signature::SIGNATURE;
use super::topology::Names;
use super::{MessageKeys, Rabbit, RabbitOptions, RabbitServer};
use crate::broker::conformance::{self, bound, event, prefetch, received, sent};
use crate::broker::{Broker, BrokerError, Sender};
use crate::config::Config;
use crate::domain::actor::Actor;
use crate::domain::clock::SystemClock;
use crate::domain::encryption::{Encryption, SharedKey};
use crate::domain::event::Envelope;
#[cfg(feature = "sqlite")]
use crate::store::{KeyAdded, MessageKey, Store};

/// A namespace on the broker of the environment, or on the default port; deleted at the end.
struct Namespace {
    name: String,
    stages: Vec<&'static str>,
    keys: Arc<MessageKeys>,
}

/// The keys of a host, with the shared key that is always the same.
fn encryption() -> Arc<Encryption> {
    static SHARED: OnceLock<SharedKey> = OnceLock::new();
    let encryption = crate::store::conformance::encryption();
    let first = SHARED.get_or_init(|| encryption.take_shared(&[]).expect("a first key"));
    let _ = encryption.take_shared(std::slice::from_ref(first));
    encryption
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
        Self { name, stages: stages.to_vec(), keys: MessageKeys::of_process() }
    }

    fn open(&self) -> Arc<dyn Broker> {
        self.open_with(&self.keys)
    }

    /// A host with these keys.
    fn open_with(&self, keys: &Arc<MessageKeys>) -> Arc<dyn Broker> {
        let options = RabbitOptions {
            server: RabbitServer { url: url(), ..RabbitServer::default() },
            namespace: self.name.clone(),
            host_name: "test".into(),
            clock: Arc::new(SystemClock),
            expiry_ms: 60_000,
            ingress: Config::default().ingress(&Config::default().kinds().expect("valid")),
            encryption: encryption(),
            keys: Arc::clone(keys),
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

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_message_under_a_new_key_of_another_host_is_authentic() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(crate::domain::clock::ManualClock::at(1));
    let place = folder.path().join("store.db");
    let store: Arc<dyn Store> = crate::store::sqlite::tests::open(&place, clock).await;
    let namespace = Namespace::new(&["one"]);
    let keys = [
        MessageKeys::open(Arc::clone(&store), 1).await.unwrap(),
        MessageKeys::open(Arc::clone(&store), 1).await.unwrap(),
    ];
    let [sender, receiver] = [namespace.open_with(&keys[0]), namespace.open_with(&keys[1])];
    sender.up().await;
    receiver.up().await;
    let stage = bound(&receiver, "one", &["x"]).await;
    let mut consumer = receiver.consume(&stage, prefetch(10)).await.unwrap();
    sent(&sender, vec![event("x", 1)]).await;
    assert_eq!(received(&mut consumer, 1).await[0].sender, Sender::Host);
    // Only the sender knows of it.
    let added = store.add_message_key(MessageKey::generate(2), &Actor::program()).await.unwrap();
    assert!(matches!(added, KeyAdded::Added(_)));
    sender.refresh_keys().await.unwrap();
    sent(&sender, vec![event("x", 2)]).await;
    let message = received(&mut consumer, 1).await.remove(0);
    assert_eq!((message.envelope.event.id.as_str(), message.sender), ("2", Sender::Host));
    sender.close().await;
    receiver.close().await;
}

/// What another program sends is not a host's, whichever way it comes.
#[tokio::test]
async fn only_hosts_and_the_broker_are_believed() {
    let namespace = Namespace::new(&["one"]);
    let broker = namespace.open();
    broker.up().await;
    let stage = bound(&broker, "one", &["x"]).await;
    let connection = direct_connection().await;
    let channel = connection.create_channel().await.unwrap();
    sent(&broker, vec![event("x", 1)]).await;
    let options = BasicGetOptions { no_ack: true };
    let queue = namespace.names().queue("one");
    let genuine = channel.basic_get(queue.clone(), options).await.unwrap().unwrap().delivery;
    let unsigned = BasicProperties::default()
        .with_headers({
            let mut headers = genuine.properties.headers().clone().unwrap();
            headers.insert(SIGNATURE.into(), AMQPValue::LongString("".into()));
            headers
        })
        .with_content_type("text/plain".into());
    let names = namespace.names();
    let copies: [(ShortString, ShortString, BasicProperties, &str); 5] = [
        (names.events(), "x".into(), unsigned, "not one that hosts make"),
        (ShortString::default(), queue, genuine.properties.clone(), "a copy"),
        (ShortString::default(), names.dead_queue("one"), genuine.properties.clone(), "sent it to"),
        (names.dead(), "one".into(), genuine.properties.clone(), "sent it to"),
        (names.dead(), "one".into(), BasicProperties::default(), "is missing"),
    ];
    let mut dead = broker.consume_rejected(&stage).await.unwrap().unwrap();
    let consumer = broker.consume(&stage, prefetch(10)).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut consumer = consumer;
        consumer.receive(1).await
    });
    for (exchange, key, properties, expected) in copies {
        let published = channel
            .basic_publish(exchange, key, BasicPublishOptions::default(), &genuine.data, properties)
            .await;
        published.unwrap();
        let found = timeout(Duration::from_secs(20), dead.receive()).await.unwrap().unwrap();
        let why = found[0].forged.as_ref().map(|forgery| &forgery.why);
        let why = why.or(found[0].unreadable.as_ref()).expect("a reason");
        assert!(why.contains(expected), "{expected}: {why}");
        dead.acker().ack(&[found[0].tag]).await;
    }
    // A genuine one, through the exchange of events, is a host's, however often it comes.
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish(
        names.events(),
        "x".into(),
        options,
        &genuine.data,
        genuine.properties,
    );
    published.await.unwrap();
    let received = timeout(Duration::from_secs(20), reading).await.unwrap().unwrap().unwrap();
    assert_eq!(received[0].sender, Sender::Host);
    connection.close(200, "done".into()).await.unwrap();
    broker.close().await;
}
