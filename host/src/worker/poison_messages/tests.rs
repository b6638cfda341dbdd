//! Isolated runs, on a store whose commits are answered late or not at all.

use super::copies::Numbers;
use super::*;
use crate::broker::{ClaimedAttempt, Forgery, Sender};
use crate::config::Config;
use crate::domain::actor::Actor;
use crate::domain::clock::ManualClock;
use crate::domain::event::{Envelope, Event};
use crate::pipeline::Pipeline;
use crate::relay::Relay;
use crate::stage::handler::{
    Description, Emitted, Native, NativeContext, NativeError, NativeStage,
};
use crate::store::conformance::{LEASE_MS, START_MS, sample_event};
use crate::store::sqlite::tests::open as open_store;
use crate::store::{DeadLetterFilter, DeliveryStatus, OutboxRow, Store};

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
            forged: None,
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
    let mut bench = Bench::new().await;
    assert_eq!(bench.handle(&mut bench.process()).await, Some(2));
    // That process stopped, and another one has its name.
    bench.message.redelivered = true;
    assert_eq!(bench.handle(&mut bench.process()).await, None);
    assert_eq!(bench.delivery().await, (DeliveryStatus::Dead, 2));
}

#[tokio::test]
async fn a_process_runs_a_message_isolated_once() {
    let mut bench = Bench::new().await;
    let mut handler = bench.process();
    assert_eq!(bench.handle(&mut handler).await, Some(2));
    // The run begins, and the process stops before it ends.
    handler.unconfirmed.remove(&handler.key(&bench.message));
    bench.message.redelivered = true;
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

/// A message that claims to be the one of the bench, and `change`s something in it.
fn forged(bench: &Bench, change: impl FnOnce(&mut Envelope)) -> RejectedMessage {
    let mut envelope = Envelope::clone(&bench.message.envelope);
    change(&mut envelope);
    let claimed = ClaimedAttempt { envelope: Arc::new(envelope), round: 1, attempt: 1 };
    let why = "it has no signature".to_owned();
    RejectedMessage {
        unreadable: None,
        forged: Some(Forgery { why, claimed: Some(claimed) }),
        ..garbage(bench, 1, false)
    }
}

/// The outbox rows, after those of the bench's own event were sent.
async fn rows(bench: &Bench) -> Vec<OutboxRow> {
    bench.services.store.claim_outbox(10, u64::MAX).await.unwrap()
}

impl Bench {
    /// As after the relay sent the event.
    async fn sent(&self) {
        self.clock.advance(LEASE_MS + 1);
        let ids = rows(self).await.iter().filter_map(|row| row.id).collect();
        self.services.store.outbox_sent(ids).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_that_claims_what_is_not_true_is_forged() {
    type Change = fn(&mut Envelope);
    let changes: [(&str, Change); 8] = [
        ("body", |envelope| envelope.event.data = "{}".into()),
        ("type", |envelope| envelope.event.event_type = "other".into()),
        ("id", |envelope| envelope.event.id = "to-come".into()),
        ("source", |envelope| envelope.event.source = "/orders/api".into()),
        ("expiry", |envelope| envelope.expires_at_ms = 1),
        ("hops", |envelope| envelope.hops += 1),
        ("correlation", |envelope| envelope.correlation_id = "another".into()),
        ("subject", |envelope| envelope.subject_key = "order/7".parse().ok()),
    ];
    for (number, (changed, change)) in changes.into_iter().enumerate() {
        let bench = Bench::new().await;
        bench.sent().await;
        let mut handler = bench.process();
        settle(&mut handler, &forged(&bench, change)).await;
        assert_eq!(dead_letters(&bench).await, 1, "{number}: {changed}");
        let filter = DeadLetterFilter { limit: 1, ..DeadLetterFilter::default() };
        let found = bench.services.store.dead_letters(filter).await.unwrap().items.remove(0);
        assert_eq!(
            (found.code.as_str(), found.envelope.subject_key),
            ("forged", None),
            "{changed}"
        );
        assert!(found.message.contains("no signature"), "{}", found.message);
        assert_eq!(bench.delivery().await, (DeliveryStatus::Open, 1), "{changed}");
        let direct = rows(&bench).await.into_iter().filter_map(|row| row.direct);
        assert_eq!(direct.count(), 0, "{changed}: it was sent again");
    }
    // An attempt that was not made.
    let bench = Bench::new().await;
    let mut message = forged(&bench, |_| {});
    if let Some(Forgery { claimed: Some(claimed), .. }) = &mut message.forged {
        claimed.attempt = 2;
    }
    settle(&mut bench.process(), &message).await;
    assert_eq!(dead_letters(&bench).await, 1);
}

#[tokio::test]
async fn a_true_copy_is_taken_from_the_store() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    // The outbox is about to send it.
    settle(&mut handler, &forged(&bench, |_| {})).await;
    bench.sent().await;
    assert_eq!(rows(&bench).await.len(), 0);
    for _ in 0..2 {
        settle(&mut handler, &forged(&bench, |_| {})).await;
    }
    let sent = rows(&bench).await;
    let [row] = &sent[..] else { panic!("{sent:?}") };
    let direct = row.direct.as_ref().map(|direct| (direct.round, direct.attempt));
    assert_eq!((&row.envelope, direct), (&bench.message.envelope, Some((1, 1))));
    assert_eq!(dead_letters(&bench).await, 0);
    assert_eq!(bench.delivery().await, (DeliveryStatus::Open, 1));
}

#[tokio::test]
async fn a_message_that_the_queue_lost_settles_no_delivery() {
    for reason in ["expired", "rejected", "maxlen", "unknown"] {
        let mut bench = Bench::new().await;
        bench.sent().await;
        bench.message.reason = reason.to_owned();
        for sender in [Sender::Host, Sender::OtherProgram { due_at_ms: None }] {
            bench.message.sender = sender;
            settle(&mut bench.process(), &bench.message).await;
        }
        assert_eq!(rows(&bench).await.len(), 1, "{reason}: it is sent again, once");
        assert_eq!(bench.delivery().await, (DeliveryStatus::Open, 1), "{reason}");
        assert_eq!(dead_letters(&bench).await, 0, "{reason}");
    }
}

#[tokio::test]
async fn an_event_that_the_queue_lost_before_it_was_known_belongs_to_no_subject() {
    let bench = Bench::new().await;
    let mut envelope = Envelope::clone(&bench.message.envelope);
    envelope.event.id = "new".into();
    envelope.subject_key = "order/7".parse().ok();
    let mut message = RejectedMessage {
        envelope: Arc::new(envelope),
        reason: "expired".to_owned(),
        ..bench.message.clone()
    };
    // A copy of a host's message at a stage that it was not routed to.
    settle(&mut bench.process(), &message).await;
    assert_eq!(dead_letters(&bench).await, 0);
    message.sender = Sender::OtherProgram { due_at_ms: None };
    settle(&mut bench.process(), &message).await;
    let filter = DeadLetterFilter { limit: 1, ..DeadLetterFilter::default() };
    let found = bench.services.store.dead_letters(filter).await.unwrap().items.remove(0);
    assert_eq!((found.code.as_str(), found.envelope.subject_key), ("expired", None));
}

#[tokio::test]
async fn a_copy_of_a_message_that_runs_isolated_is_dropped() {
    let bench = Bench::new().await;
    assert_eq!(bench.handle(&mut bench.process()).await, Some(2));
    // Another host receives a second message, which the broker has not delivered before.
    assert_eq!(bench.handle(&mut bench.process()).await, None);
    assert_eq!(bench.delivery().await, (DeliveryStatus::Open, 2));
    assert_eq!(dead_letters(&bench).await, 0);
}

#[tokio::test]
async fn refused_messages_beyond_the_bound_are_counted() {
    let bench = Bench::new().await;
    let mut handler = bench.process();
    handler.budget = Budget::new(2);
    for tag in 1..=5 {
        settle(&mut handler, &garbage(&bench, tag, false)).await;
    }
    assert_eq!((dead_letters(&bench).await, handler.stage.metrics.refused()), (2, 3));
    // Another host finds no room either, until an operator discards one.
    let mut other = bench.process();
    other.budget = Budget::new(2);
    settle(&mut other, &forged(&bench, |envelope| envelope.hops += 1)).await;
    assert_eq!((dead_letters(&bench).await, handler.stage.metrics.refused()), (2, 4));
    bench.services.store.discard(1, "a test".to_owned(), &Actor::program()).await.unwrap();
    let mut next = bench.process();
    next.budget = Budget::new(2);
    settle(&mut next, &forged(&bench, |envelope| envelope.hops += 1)).await;
    assert_eq!(dead_letters(&bench).await, 3);
}
