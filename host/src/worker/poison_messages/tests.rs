//! Isolated runs, on a store whose commits are answered late or not at all.

use super::*;
use crate::broker::Sender;
use crate::config::Config;
use crate::domain::clock::ManualClock;
use crate::domain::event::Event;
use crate::pipeline::Pipeline;
use crate::relay::Relay;
use crate::stage::handler::{
    Description, Emitted, Native, NativeContext, NativeError, NativeStage,
};
use crate::store::conformance::{START_MS, sample_event};
use crate::store::sqlite::tests::open as open_store;
use crate::store::{DeliveryStatus, Store};

struct Idle;

#[async_trait::async_trait]
impl NativeStage for Idle {
    fn describe(&self) -> Description {
        Description::new("idle", "1.0.0", "Idles").consumes(["#"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        Ok(vec![])
    }
}

/// A store with one message of the stage `idle` that exceeded the delivery limit.
struct Bench {
    services: Services,
    clock: Arc<ManualClock>,
    message: RejectedMessage,
    _folder: tempfile::TempDir,
    _relay: Relay,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START_MS));
        let store = open_store(&folder.path().join("store.db"), Arc::clone(&clock)).await;
        let pipeline = Pipeline::new(&Config::default(), Config::default().kinds().expect("valid"));
        pipeline.swap(&pipeline.stage("idle"), Arc::new(Native::new(Idle)), None, START_MS);
        let (_, rows) = store.accept_event(sample_event("e1", &["idle"])).await.unwrap();
        let message = RejectedMessage {
            envelope: Arc::clone(&rows[0].envelope),
            round: 1,
            attempt: 1,
            sender: Sender::Host,
            unreadable: None,
            reason: DELIVERY_LIMIT.to_owned(),
            tag: 7,
        };
        let (services, relay) = Services::for_tests(store, &clock, pipeline);
        Self { services, clock, message, _folder: folder, _relay: relay }
    }

    /// A process that receives the message.
    fn process(&self) -> PoisonMessageHandler {
        PoisonMessageHandler::new(self.services.pipeline.stage("idle"), self.services.clone())
    }

    /// Handles the message; the attempt of its isolated run, if it is to run.
    async fn handle(&self, handler: &mut PoisonMessageHandler) -> Option<u32> {
        let running = handler.stage.running().unwrap();
        match handler.handle(&self.message, &running).await.unwrap() {
            Handling::RunIsolated(incoming) => Some(incoming.attempt),
            Handling::Acknowledge | Handling::Leave => None,
        }
    }

    /// The record of the isolated run that the process would commit.
    async fn record(&self, handler: &PoisonMessageHandler) -> Ruling {
        let running = handler.stage.running().unwrap();
        let rejection = handler.classify(&self.message).await.unwrap();
        match handler.decide(&self.message, &running, rejection) {
            Decision::Settle(ruling) => ruling,
            Decision::Call => panic!("it was recorded before"),
        }
    }

    async fn delivery(&self) -> (DeliveryStatus, u32) {
        let key = self.process().key(&self.message);
        let delivery = self.services.store.delivery(&key).await.unwrap().unwrap();
        (delivery.status, delivery.attempt)
    }
}

#[tokio::test]
async fn a_record_whose_commit_was_not_answered_is_followed_by_its_run() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    let running = handler.stage.running().unwrap();
    // As when the answer is lost: the record is stored, and the message is handled again.
    let record = bench.record(&handler).await;
    let settled = handler.record_attempt(&bench.message, &running, record).await.unwrap();
    assert_eq!(settled, Settled::Committed);
    assert_eq!(bench.handle(&mut handler).await, Some(2), "dead-lettered without its run");
    assert_eq!(bench.delivery().await, (DeliveryStatus::Open, 2));
}

#[tokio::test]
async fn a_record_that_is_committed_late_is_followed_by_its_run() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    let running = handler.stage.running().unwrap();
    let late = bench.record(&handler).await;
    handler.remember(&bench.message, &late);
    bench.clock.advance(1_000);
    let again = bench.record(&handler).await;
    // The delivery is read, then the first commit takes effect, then the second is refused.
    let first = handler.settle(&bench.message, &running, late).await.unwrap();
    let second = handler.record_attempt(&bench.message, &running, again).await.unwrap();
    assert_eq!((first, second), (Settled::Committed, Settled::Refused));
    assert_eq!(bench.handle(&mut handler).await, Some(2));
}

#[tokio::test]
async fn a_message_whose_isolated_run_was_abandoned_is_dead_lettered() {
    let bench = Bench::new().await;
    assert_eq!(bench.handle(&mut bench.process()).await, Some(2));
    // That process stopped, and another one has its name.
    assert_eq!(bench.handle(&mut bench.process()).await, None);
    assert_eq!(bench.delivery().await, (DeliveryStatus::Dead, 2));
}

#[tokio::test]
async fn a_process_runs_a_message_isolated_once() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    assert_eq!(bench.handle(&mut handler).await, Some(2));
    // The run begins.
    handler.unconfirmed.remove(&handler.key(&bench.message));
    assert_eq!(bench.handle(&mut handler).await, None);
    assert_eq!(bench.delivery().await.0, DeliveryStatus::Dead);
}

#[tokio::test]
async fn an_unreadable_message_is_dead_lettered_without_a_run() {
    let mut bench = Bench::new().await;
    bench.message.unreadable = Some("no id".to_owned());
    assert_eq!(bench.handle(&mut bench.process()).await, None);
    assert_eq!(bench.delivery().await, (DeliveryStatus::Dead, 1));
}
