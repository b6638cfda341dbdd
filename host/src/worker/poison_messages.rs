//! The handler: what the broker gave up on becomes an attempt or a dead letter in the store,
//! through the same compare-and-set as any other outcome.
//!
//! A message that was delivered too often without being settled may have killed its host each time,
//! or may only have been near others that did: it gets one run alone, noted before it begins, so
//! that a message which ends this host, too, is dead when it comes back. The note names its author:
//! this process remembers those of its notes that no run followed yet, so one whose commit was
//! never answered is not taken for the note of a host that went away. A message that cannot be read
//! is dead at once, with its body and the reason. Bounded by the broker's prefetch; it acknowledges
//! only after the commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::broker::{Incoming, RejectedConsumer, RejectedMessage};
use crate::domain::event::DeliveryKey;
use crate::pipeline::{Running, Stage};
use crate::stage::handler::{Failure, Outcome};
use crate::store::{Batch, Commit, FailedAttempt, Settlement, StoreError, Verdict};
use crate::worker::decide::{self, Attempt, DecisionTime};
use crate::worker::{self, Services};

/// Pause after the broker or the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What the broker says of a message that was delivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";
/// The code of the attempt that such a message has behind it.
const MARK: &str = "delivery-limit";
/// A run alone that nobody finished is repeated after so long, if the broker does not bring the
/// message back before.
const MARK_MS: u64 = 60_000;

/// Drains one stage's dead-letter queue.
pub struct PoisonMessageHandler {
    /// The stage.
    pub stage: Arc<Stage>,
    /// Shared by all workers.
    pub services: Services,
    /// Notes that this process wrote, or may have written, before a run that has not begun: at most
    /// one for each message that it holds.
    noted: HashMap<DeliveryKey, FailedAttempt>,
}

/// Notes that are remembered: more than a broker hands out at once.
const NOTED_MAX: usize = 1_024;

impl PoisonMessageHandler {
    /// For a stage.
    pub fn new(stage: Arc<Stage>, services: Services) -> Self {
        Self { stage, services, noted: HashMap::new() }
    }

    /// Drains until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let drained = async {
                match self.services.broker.consume_rejected(&self.stage.name).await {
                    Ok(None) => std::future::pending().await,
                    Ok(Some(consumer)) => self.drain(consumer).await,
                    Err(error) => {
                        tracing::debug!(stage = %self.stage.name, %error, "the dead-letter queue cannot be consumed")
                    }
                }
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = drained => {}
            }
        }
    }

    async fn drain(&mut self, mut consumer: Box<dyn RejectedConsumer>) {
        let acker = consumer.acker();
        while let Some(dead_letters) = consumer.receive().await {
            for dead_letter in dead_letters {
                let Some(running) = self.stage.running() else { return };
                let alone = loop {
                    match self.judge(&dead_letter, &running).await {
                        Ok(alone) => break alone,
                        Err(error) => {
                            tracing::warn!(stage = %self.stage.name, %error, "a dead letter could not be written; trying again");
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                };
                match alone {
                    Some(message) => {
                        self.noted.remove(&self.key(&dead_letter));
                        worker::run_alone(&self.stage, &self.services, &acker, message).await;
                    }
                    None => acker.ack(&[dead_letter.tag]).await,
                }
            }
        }
    }

    /// Writes what the message comes to; gives it back when it is to be run alone.
    async fn judge(
        &mut self,
        dead_letter: &RejectedMessage,
        running: &Running,
    ) -> Result<Option<Incoming>, StoreError> {
        if dead_letter.unreadable.is_some() || dead_letter.reason != DELIVERY_LIMIT {
            self.bury(dead_letter, running).await?;
            return Ok(None);
        }
        let next = RejectedMessage { attempt: dead_letter.attempt + 1, ..dead_letter.clone() };
        let key = self.key(dead_letter);
        let mark = self.mark_of(dead_letter).await?;
        let own = |mark: &FailedAttempt| self.noted.get(&key) == Some(mark);
        match mark {
            // The note is this process's own, and no run followed it: its commit was never
            // answered.
            Some(mark) if own(&mark) => Ok(Some(alone(next))),
            // Its run alone was begun, and nobody came back to say how it went.
            Some(_) => {
                self.bury(&next, running).await?;
                self.noted.remove(&key);
                Ok(None)
            }
            None if self.mark(dead_letter, running).await? => Ok(Some(alone(next))),
            // Somebody settled it, or an earlier try to note it came through late.
            None if self
                .mark_of(dead_letter)
                .await?
                .is_some_and(|mark| self.noted.get(&key) == Some(&mark)) =>
            {
                Ok(Some(alone(next)))
            }
            None => {
                self.noted.remove(&key);
                Ok(None)
            }
        }
    }

    /// The note that the message gets its run alone, if that is where its delivery stands.
    async fn mark_of(
        &self,
        dead_letter: &RejectedMessage,
    ) -> Result<Option<FailedAttempt>, StoreError> {
        let known = self
            .services
            .store
            .delivery(&self.key(dead_letter))
            .await?
            .filter(|known| known.attempt == dead_letter.attempt + 1);
        Ok(known.and_then(|known| {
            known.failures.into_iter().find(|failure| is_marked(failure, dead_letter))
        }))
    }

    fn key(&self, dead_letter: &RejectedMessage) -> DeliveryKey {
        DeliveryKey { stage: Arc::clone(&self.stage.name), event: dead_letter.envelope.key() }
    }

    /// Notes that the message is about to be run alone; false when somebody settled it meanwhile.
    async fn mark(
        &mut self,
        dead_letter: &RejectedMessage,
        running: &Running,
    ) -> Result<bool, StoreError> {
        let failure = self.note(dead_letter, running);
        let due_at_ms = failure.at_ms + MARK_MS;
        // Should this host end now and the broker lose the message, the outbox brings it back.
        let verdict = Verdict::Retry { due_at_ms };
        self.settle(dead_letter, running, (verdict, Some(failure))).await
    }

    /// The note, remembered before its commit, whose answer may be lost; a second try to write it
    /// writes the same.
    fn note(&mut self, dead_letter: &RejectedMessage, running: &Running) -> FailedAttempt {
        let key = self.key(dead_letter);
        if let Some(noted) = self.noted.get(&key).filter(|noted| is_marked(noted, dead_letter)) {
            return noted.clone();
        }
        let host = &self.services.host;
        let failure = FailedAttempt {
            round: dead_letter.round,
            attempt: dead_letter.attempt,
            code: MARK.to_owned(),
            message: format!(
                "the broker gave the message up: too many hosts took it and went away; it is run alone, once, by {host}"
            ),
            backtrace: None,
            digest: running.handler.digest().to_owned(),
            duration_us: 0,
            at_ms: self.services.clock.now_ms(),
        };
        if self.noted.len() >= NOTED_MAX {
            self.noted.clear();
        }
        self.noted.insert(key, failure.clone());
        failure
    }

    /// Writes one; a delivery that somebody settled meanwhile stays as it is.
    async fn bury(
        &self,
        dead_letter: &RejectedMessage,
        running: &Running,
    ) -> Result<(), StoreError> {
        let tried = Attempt {
            delivery: self.key(dead_letter),
            round: dead_letter.round,
            attempt: dead_letter.attempt,
            digest: running.handler.digest().into(),
            duration_us: 0,
        };
        let moment = DecisionTime { now_ms: self.services.clock.now_ms(), random: rand::random() };
        let outcome = outcome(dead_letter);
        let routes = &*self.services.pipeline;
        let decided =
            decide::decide(&running.policy, routes, &dead_letter.envelope, &tried, outcome, moment);
        self.settle(dead_letter, running, decided).await.map(|_| ())
    }

    /// Commits what a message comes to; false when somebody settled it meanwhile.
    async fn settle(
        &self,
        dead_letter: &RejectedMessage,
        running: &Running,
        decided: (Verdict, Option<FailedAttempt>),
    ) -> Result<bool, StoreError> {
        let settlement = Settlement {
            delivery: self.key(dead_letter),
            envelope: Arc::clone(&dead_letter.envelope),
            round: dead_letter.round,
            attempt: dead_letter.attempt,
            verdict: decided.0,
            version: running.handler.description().version.clone(),
            digest: running.handler.digest().into(),
            duration_us: 0,
            failure: decided.1,
            recording: None,
        };
        let batch = Batch {
            stage: Arc::clone(&self.stage.name),
            settlements: vec![settlement],
            reads: Vec::new(),
            writes: Vec::new(),
        };
        match self.services.store.commit(batch.clone()).await? {
            Commit::Done { outbox, .. } => {
                self.services.relay.enqueue(outbox);
                Ok(true)
            }
            Commit::OrderCancelled(_) => {
                self.services.store.commit(skipped(batch)).await?;
                Ok(false)
            }
            Commit::Conflict { .. } => {
                tracing::debug!(stage = %self.stage.name, "a dead-lettered delivery was settled already");
                Ok(false)
            }
        }
    }
}

/// The same deliveries, settled without running: their order is cancelled.
fn skipped(mut batch: Batch) -> Batch {
    for settlement in &mut batch.settlements {
        (settlement.verdict, settlement.failure) = (Verdict::Skipped, None);
    }
    batch
}

/// A message for its run alone.
fn alone(dead_letter: RejectedMessage) -> Incoming {
    Incoming {
        envelope: dead_letter.envelope,
        round: dead_letter.round,
        attempt: dead_letter.attempt,
        redelivered: false,
        deliveries: 1,
        received: Instant::now(),
        tag: dead_letter.tag,
    }
}

fn outcome(dead_letter: &RejectedMessage) -> Outcome {
    let (code, message) = match &dead_letter.unreadable {
        Some(why) => ("unreadable".to_owned(), format!("the message cannot be read: {why}")),
        None if dead_letter.reason == DELIVERY_LIMIT => (
            MARK.to_owned(),
            "hosts that took the message went away, also when it ran alone".to_owned(),
        ),
        None => (
            dead_letter.reason.replace('_', "-"),
            format!("the broker gave the message up ({})", dead_letter.reason),
        ),
    };
    Outcome::Failed(Failure::reject(code, message))
}

/// Whether this is the note that [`PoisonMessageHandler::mark`] left.
fn is_marked(failure: &FailedAttempt, dead_letter: &RejectedMessage) -> bool {
    failure.code == MARK
        && (failure.round, failure.attempt) == (dead_letter.round, dead_letter.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::embedded::Embedded;
    use crate::config::Config;
    use crate::domain::clock::ManualClock;
    use crate::domain::event::Event;
    use crate::domain::order_status::StatusRules;
    use crate::pipeline::Pipeline;
    use crate::relay::Relay;
    use crate::stage::handler::{
        Description, Emitted, Native, NativeContext, NativeError, NativeStage,
    };
    use crate::store::conformance::{LEASE_MS, START_MS, sample_event};
    use crate::store::sqlite::{SqliteOptions, SqliteStore};
    use crate::store::{DeliveryStatus, Store};

    struct Idle;

    #[async_trait::async_trait]
    impl NativeStage for Idle {
        fn describe(&self) -> Description {
            Description::new("idle", "1.0.0", "Idles").consumes(["#"])
        }

        async fn handle(
            &self,
            _: &mut NativeContext,
            _: &Event,
        ) -> Result<Vec<Emitted>, NativeError> {
            Ok(vec![])
        }
    }

    /// A store with one message of the stage `idle` that the broker gave up on.
    struct Bench {
        services: Services,
        dead_letter: RejectedMessage,
        _folder: tempfile::TempDir,
        _relay: Relay,
    }

    impl Bench {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let clock = Arc::new(ManualClock::at(START_MS));
            let options = SqliteOptions {
                path: folder.path().join("store.db"),
                host_name: "here".to_owned(),
                clock: Arc::clone(&clock) as Arc<_>,
                status: Arc::new(StatusRules::default()),
                lease_ms: LEASE_MS,
                group_max_ops: 64,
                publish_all: false,
            };
            let (store, writer) = SqliteStore::open(options).await.unwrap();
            tokio::spawn(async move { writer.run().await });
            let store: Arc<dyn Store> = store;
            let broker = Embedded::new(16, Arc::clone(&clock) as Arc<_>);
            let pipeline = Pipeline::new(&Config::default());
            pipeline.swap(&pipeline.stage("idle"), Arc::new(Native::new(Idle)), None, START_MS);
            let (relay, handle) = Relay::new(
                Arc::clone(&store),
                Arc::clone(&broker) as Arc<_>,
                Arc::clone(&clock) as Arc<_>,
                Arc::clone(&pipeline),
            );
            let (_, rows) = store.accept_event(sample_event("e1", &["idle"])).await.unwrap();
            let dead_letter = RejectedMessage {
                envelope: Arc::clone(&rows[0].envelope),
                round: 1,
                attempt: 1,
                unreadable: None,
                reason: DELIVERY_LIMIT.to_owned(),
                tag: 7,
            };
            let plugins = tokio::sync::mpsc::channel(1).0.downgrade();
            let services = Services {
                store,
                broker,
                relay: handle,
                pipeline,
                clock,
                host: "here".into(),
                plugins,
                observer: None,
            };
            Self { services, dead_letter, _folder: folder, _relay: relay }
        }

        /// A process that takes the message up.
        fn process(&self) -> PoisonMessageHandler {
            PoisonMessageHandler::new(self.services.pipeline.stage("idle"), self.services.clone())
        }

        async fn judge(&self, handler: &mut PoisonMessageHandler) -> Option<u32> {
            let running = handler.stage.running().unwrap();
            handler.judge(&self.dead_letter, &running).await.unwrap().map(|message| message.attempt)
        }

        async fn stands(&self) -> (DeliveryStatus, u32) {
            let key = self.process().key(&self.dead_letter);
            let delivery = self.services.store.delivery(&key).await.unwrap().unwrap();
            (delivery.status, delivery.attempt)
        }
    }

    #[tokio::test]
    async fn a_note_whose_commit_was_not_answered_is_followed_by_its_run() {
        let bench = Bench::new().await;
        let mut handler = bench.process();
        // As when the answer is lost: the note is in the store, and the message is judged again.
        let running = handler.stage.running().unwrap();
        assert!(handler.mark(&bench.dead_letter, &running).await.unwrap());
        assert_eq!(bench.judge(&mut handler).await, Some(2), "it was buried without its run");
        assert_eq!(bench.stands().await, (DeliveryStatus::Open, 2));
    }

    #[tokio::test]
    async fn a_note_that_comes_through_late_is_followed_by_its_run() {
        let bench = Bench::new().await;
        let mut handler = bench.process();
        let running = handler.stage.running().unwrap();
        let note = handler.note(&bench.dead_letter, &running);
        let late = (Verdict::Retry { due_at_ms: START_MS + MARK_MS }, Some(note));
        // The delivery is looked up, then the earlier commit lands, then the note is refused.
        assert!(handler.settle(&bench.dead_letter, &running, late).await.unwrap());
        assert!(!handler.mark(&bench.dead_letter, &running).await.unwrap());
        assert_eq!(bench.judge(&mut handler).await, Some(2));
    }

    #[tokio::test]
    async fn a_message_whose_run_alone_was_begun_is_dead_when_it_comes_back() {
        let bench = Bench::new().await;
        assert_eq!(bench.judge(&mut bench.process()).await, Some(2));
        // The process went away with it, and another one has its name.
        assert_eq!(bench.judge(&mut bench.process()).await, None);
        assert_eq!(bench.stands().await, (DeliveryStatus::Dead, 2));
    }

    #[tokio::test]
    async fn one_process_runs_it_once() {
        let bench = Bench::new().await;
        let mut handler = bench.process();
        assert_eq!(bench.judge(&mut handler).await, Some(2));
        // The run begins.
        handler.noted.remove(&handler.key(&bench.dead_letter));
        assert_eq!(bench.judge(&mut handler).await, None);
        assert_eq!(bench.stands().await.0, DeliveryStatus::Dead);
    }
}
