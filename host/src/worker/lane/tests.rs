//! Copies and attempts of one delivery in a lane, on the embedded store.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::broker::{Incoming, Sender};
use crate::config::Config;
use crate::domain::clock::ManualClock;
use crate::domain::event::Event;
use crate::pipeline::Pipeline;
use crate::relay::Relay;
use crate::stage::handler::{
    Description, Emitted, Failure, Native, NativeContext, NativeError, NativeStage,
};
use crate::store::DeliveryStatus;
use crate::store::conformance::{START_MS, sample_event};
use crate::store::sqlite::tests::open as open_store;
use crate::worker::lane_queue::lane_queue;

/// Fails as often as told, then succeeds.
struct Flaky {
    failures: AtomicU32,
    calls: Arc<AtomicU32>,
}

#[async_trait::async_trait]
impl NativeStage for Flaky {
    fn describe(&self) -> Description {
        Description::new("flaky", "1.0.0", "Fails at first").consumes(["#"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let decrement = |left: u32| left.checked_sub(1);
        match self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, decrement) {
            Ok(_) => Err(Failure::retry("flaky", "not yet").into()),
            Err(_) => Ok(vec![]),
        }
    }
}

#[derive(Default)]
struct Acknowledged(Mutex<Vec<u64>>);

#[async_trait::async_trait]
impl Acker for Acknowledged {
    async fn ack(&self, tags: &[u64]) {
        self.0.lock().unwrap().extend(tags);
    }

    async fn requeue(&self, _: &[u64]) {}
}

struct Bench {
    services: Services,
    stage: Arc<Stage>,
    calls: Arc<AtomicU32>,
    acknowledged: Arc<Acknowledged>,
    _folder: tempfile::TempDir,
    _relay: Relay,
}

impl Bench {
    async fn new(failures: u32) -> Self {
        Self::with(&Config::default(), failures).await
    }

    async fn with(config: &Config, failures: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START_MS));
        let store = open_store(&folder.path().join("store.db"), Arc::clone(&clock)).await;
        let pipeline = Pipeline::new(config, config.kinds().expect("valid"));
        let stage = pipeline.stage("flaky");
        let calls = Arc::new(AtomicU32::new(0));
        let flaky = Flaky { failures: AtomicU32::new(failures), calls: Arc::clone(&calls) };
        pipeline.swap(&stage, Arc::new(Native::new(flaky)), None, START_MS);
        let (services, relay) = Services::for_tests(store, &clock, pipeline);
        let acknowledged = Arc::default();
        Self { services, stage, calls, acknowledged, _folder: folder, _relay: relay }
    }

    /// Runs messages, which are ready at the same time, until all are settled.
    async fn run(&self, messages: Vec<Incoming>) {
        let (sender, received) = lane_queue();
        for message in messages {
            sender.send(message);
        }
        drop(sender);
        let acker = Arc::clone(&self.acknowledged) as Arc<dyn Acker>;
        let mut lane = Lane::new(Arc::clone(&self.stage), self.services.clone(), acker);
        lane.take.size = lane.take.max;
        lane.run(received, CancellationToken::new()).await;
    }

    fn acknowledged(&self) -> Vec<u64> {
        let mut tags = self.acknowledged.0.lock().unwrap().clone();
        tags.sort_unstable();
        tags
    }

    async fn delivery(&self, message: &Incoming) -> (DeliveryStatus, u32) {
        let stage = Arc::clone(&self.stage.name);
        let key = DeliveryKey { stage, event: message.envelope.key() };
        let delivery = self.services.store.delivery(&key).await.unwrap().unwrap();
        (delivery.status, delivery.attempt)
    }
}

fn message(event: &crate::store::NewEvent, attempt: u32, tag: u64) -> Incoming {
    Incoming {
        envelope: Arc::clone(&event.envelope),
        round: 1,
        attempt,
        redelivered: false,
        deliveries: 1,
        sender: Sender::Host,
        received: std::time::Instant::now(),
        tag,
    }
}

#[tokio::test]
async fn stale_copy_is_dropped_alone_and_the_live_retry_runs() {
    for stale_first in [true, false] {
        let bench = Bench::new(1).await;
        let event = sample_event("e1", &["flaky"]);
        bench.services.store.accept_event(event.clone()).await.unwrap();
        bench.run(vec![message(&event, 1, 1)]).await;
        assert_eq!(bench.delivery(&message(&event, 1, 1)).await, (DeliveryStatus::Open, 2));
        let mut both = vec![message(&event, 1, 2), message(&event, 2, 3)];
        if !stale_first {
            both.reverse();
        }
        bench.run(both).await;
        assert_eq!(bench.delivery(&message(&event, 1, 1)).await, (DeliveryStatus::Done, 2));
        assert_eq!(bench.acknowledged(), [1, 2, 3]);
        assert_eq!(bench.calls.load(Ordering::SeqCst), 2, "the stale copy ran");
    }
}

#[tokio::test]
async fn attempts_at_an_unknown_delivery_are_settled_once() {
    let bench = Bench::new(0).await;
    let event = sample_event("foreign", &[]);
    let other = sample_event("other", &[]);
    let messages = [(&event, 1), (&event, 2), (&other, 1), (&event, 7), (&event, 2)];
    let messages =
        messages.iter().zip(1..).map(|((event, attempt), tag)| message(event, *attempt, tag));
    bench.run(messages.collect()).await;
    assert_eq!(bench.delivery(&message(&event, 1, 1)).await, (DeliveryStatus::Done, 1));
    assert_eq!(bench.delivery(&message(&other, 1, 1)).await, (DeliveryStatus::Done, 1));
    assert_eq!(bench.acknowledged(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn copies_of_one_attempt_run_once() {
    let bench = Bench::new(0).await;
    let event = sample_event("e1", &["flaky"]);
    bench.services.store.accept_event(event.clone()).await.unwrap();
    bench.run(vec![message(&event, 1, 1), message(&event, 1, 2)]).await;
    assert_eq!(bench.calls.load(Ordering::SeqCst), 1);
    assert_eq!(bench.acknowledged(), [1, 2]);
}

#[tokio::test]
async fn a_batch_ends_at_its_bytes() {
    let events: Vec<_> =
        (0..5).map(|number| sample_event(&format!("e{number}"), &["flaky"])).collect();
    let mut config = Config::default();
    config.defaults.batch_max_bytes = 2 * events[0].envelope.bytes();
    let bench = Bench::with(&config, 0).await;
    let acker = Arc::clone(&bench.acknowledged) as Arc<dyn Acker>;
    let mut lane = Lane::new(Arc::clone(&bench.stage), bench.services.clone(), acker);
    let messages = events.iter().zip(1..).map(|(event, tag)| message(event, 1, tag));
    let work = lane.admit(messages, &CancellationToken::new()).await;
    let state = lane.batch_state(Arc::clone(&bench.services.store) as Arc<dyn StateSource>);
    let running = bench.stage.running().unwrap();
    let run = batch::BatchRun { running: &running, state: &state, permit: Permit::Run, turn: None };
    let result = lane.run_batch(&work, &run).await.unwrap();
    assert_eq!(result.outcomes.len(), 2);
}

#[test]
fn a_lane_takes_as_many_messages_as_it_runs_in_a_batch() {
    let mut take = TakeSize::new(128);
    let mut sizes = Vec::new();
    for _ in 0..8 {
        sizes.push(take.size);
        take.adapt(take.size, take.size, take.size);
    }
    assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64, 128]);
    take.adapt(3, 3, 3);
    assert_eq!(take.size, 128, "fewer were ready");
    take.adapt(128, 100, 5);
    assert_eq!(take.size, 5, "the time was up");
    take.adapt(5, 4, 4);
    assert_eq!(take.size, 10, "one of them was settled before");
    take.adapt(10, 10, 0);
    assert_eq!(take.size, 1);
}
