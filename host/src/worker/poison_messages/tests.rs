//! Isolated runs, on a store whose commits are answered late or not at all.

use super::*;
use crate::broker::Sender;
use crate::config::Config;
use crate::domain::clock::ManualClock;
use crate::domain::event::{Envelope, Event};
use crate::pipeline::Pipeline;
use crate::relay::Relay;
use crate::stage::handler::{
    Description, Emitted, Native, NativeContext, NativeError, NativeStage,
};
use crate::store::conformance::{START_MS, sample_event};
use crate::store::sqlite::tests::open as open_store;
use crate::store::{DeadLetterFilter, DeliveryStatus, Store};

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
            redelivered: false,
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

/// An unreadable message of another program, as it is delivered under a tag.
fn garbage(bench: &Bench, tag: u64, redelivered: bool) -> RejectedMessage {
    let event = Event { id: "contents".to_owned(), ..bench.message.envelope.event.clone() };
    RejectedMessage {
        envelope: Arc::new(Envelope::first(event, None, bench.message.envelope.expires_at_ms)),
        sender: Sender::OtherProgram { due_at_ms: None },
        unreadable: Some("no id".to_owned()),
        reason: "rejected".to_owned(),
        redelivered,
        tag,
        ..bench.message.clone()
    }
}

async fn dead_letters(bench: &Bench) -> u64 {
    let filter = DeadLetterFilter::default();
    bench.services.store.count_dead_letters(filter).await.unwrap().count
}

/// Handles a message on a consumer; fails unless that settles it.
async fn settle(handler: &mut PoisonMessageHandler, message: &RejectedMessage) {
    let running = handler.stage.running().unwrap();
    let handled = handler.handle(message, &running).await.unwrap();
    assert!(matches!(handled, Handling::Acknowledge));
}

#[tokio::test]
async fn identical_unreadable_messages_have_a_dead_letter_each() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    for tag in 1..=5 {
        settle(&mut handler, &garbage(&bench, tag, false)).await;
    }
    assert_eq!(dead_letters(&bench).await, 5);
    // Another host finds the next number by itself.
    settle(&mut bench.process(), &garbage(&bench, 1, false)).await;
    assert_eq!(dead_letters(&bench).await, 6);
    // The first one did not know of it.
    settle(&mut handler, &garbage(&bench, 6, false)).await;
    assert_eq!(dead_letters(&bench).await, 7);
}

#[tokio::test]
async fn an_unreadable_message_that_is_delivered_again_has_one_dead_letter() {
    let bench = Bench::new().await;
    for tag in 1..=3 {
        settle(&mut bench.process(), &garbage(&bench, tag, false)).await;
    }
    // Their acknowledgements were lost; a host that did not record its message delivers one more.
    let mut handler = bench.process();
    for tag in 1..=4 {
        settle(&mut handler, &garbage(&bench, tag, true)).await;
        assert_eq!(dead_letters(&bench).await, if tag <= 3 { 3 } else { 4 });
    }
    settle(&mut handler, &garbage(&bench, 5, false)).await;
    assert_eq!(dead_letters(&bench).await, 5);
}

#[tokio::test]
async fn a_dead_letter_whose_commit_was_not_answered_is_not_written_again() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    let message = garbage(&bench, 1, false);
    settle(&mut handler, &message).await;
    // As when the answer is lost: it is stored, and the message is handled again.
    handler.copies.set("contents", Numbers::stored(0));
    settle(&mut handler, &message).await;
    assert_eq!(dead_letters(&bench).await, 1);
    settle(&mut handler, &garbage(&bench, 2, false)).await;
    assert_eq!(dead_letters(&bench).await, 2);
}
