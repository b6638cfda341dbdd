//! The undertaker: what the broker gave up on becomes an attempt or a dead letter in the store, through the same compare-and-set as any
//! other outcome.
//!
//! A message that was delivered too often without being settled may have killed its host each time, or may only have been near others
//! that did: it gets one run alone, noted before it begins, so that a message which ends this host, too, is dead when it comes back. A
//! message that cannot be read is dead at once, with its body and the reason. Bounded by the broker's prefetch; it acknowledges only
//! after the commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::broker::{Dead, DeadConsumer, Incoming};
use crate::decide::{self, Moment, Tried};
use crate::event::DeliveryKey;
use crate::handler::{Failure, Outcome};
use crate::pipeline::{Running, Stage};
use crate::store::{Batch, Commit, FailedAttempt, Settlement, StoreError, Verdict};
use crate::worker::{self, Services};

/// Pause after the broker or the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What the broker says of a message that was delivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";
/// The code of the attempt that such a message has behind it.
const MARK: &str = "delivery-limit";
/// A run alone that nobody finished is repeated after so long, if the broker does not bring the message back before.
const MARK_MS: u64 = 60_000;

/// Drains one stage's dead-letter queue.
pub struct Undertaker {
    /// The stage.
    pub stage: Arc<Stage>,
    /// Shared by all workers.
    pub services: Services,
}

impl Undertaker {
    /// Drains until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        loop {
            let drained = async {
                match self.services.broker.consume_dead(&self.stage.name).await {
                    Ok(None) => std::future::pending().await,
                    Ok(Some(consumer)) => self.drain(consumer).await,
                    Err(error) => tracing::debug!(stage = %self.stage.name, %error, "the dead-letter queue cannot be consumed"),
                }
                tokio::time::sleep(PAUSE).await;
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = drained => {}
            }
        }
    }

    async fn drain(&self, mut consumer: Box<dyn DeadConsumer>) {
        let acker = consumer.acker();
        while let Some(letters) = consumer.receive().await {
            for letter in letters {
                let Some(running) = self.stage.running() else { return };
                let alone = loop {
                    match self.judge(&letter, &running).await {
                        Ok(alone) => break alone,
                        Err(error) => {
                            tracing::warn!(stage = %self.stage.name, %error, "a dead letter could not be written; trying again");
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                };
                match alone {
                    Some(message) => worker::run_alone(&self.stage, &self.services, &acker, message).await,
                    None => acker.ack(&[letter.tag]).await,
                }
            }
        }
    }

    /// Writes what the message comes to; gives it back when it is to be run alone.
    async fn judge(&self, letter: &Dead, running: &Running) -> Result<Option<Incoming>, StoreError> {
        if letter.unreadable.is_some() || letter.reason != DELIVERY_LIMIT {
            self.bury(letter, running).await?;
            return Ok(None);
        }
        let next = Dead { attempt: letter.attempt + 1, ..letter.clone() };
        match self.services.store.delivery(&self.key(letter)).await? {
            // Its run alone was begun, and nobody came back to say how it went.
            Some(known) if known.attempt == next.attempt && known.failures.iter().any(|failure| is_marked(failure, letter)) => {
                self.bury(&next, running).await?;
                Ok(None)
            }
            _ if self.mark(letter, running).await? => Ok(Some(Incoming {
                envelope: Arc::clone(&next.envelope),
                round: next.round,
                attempt: next.attempt,
                redelivered: false,
                deliveries: 1,
                received: Instant::now(),
                tag: next.tag,
            })),
            _ => Ok(None),
        }
    }

    fn key(&self, letter: &Dead) -> DeliveryKey {
        DeliveryKey { stage: Arc::clone(&self.stage.name), event: letter.envelope.key() }
    }

    /// Notes that the message is about to be run alone; false when somebody settled it meanwhile.
    async fn mark(&self, letter: &Dead, running: &Running) -> Result<bool, StoreError> {
        let now_ms = self.services.clock.now_ms();
        let failure = FailedAttempt {
            round: letter.round,
            attempt: letter.attempt,
            code: MARK.to_owned(),
            message: "the broker gave the message up: too many hosts took it and went away; it is run alone, once".to_owned(),
            backtrace: None,
            digest: running.handler.digest().to_owned(),
            duration_us: 0,
            at_ms: now_ms,
        };
        // Should this host end now and the broker lose the message, the outbox brings it back.
        let verdict = Verdict::Retry { due_at_ms: now_ms + MARK_MS };
        self.settle(letter, running, (verdict, Some(failure))).await
    }

    /// Writes one; a delivery that somebody settled meanwhile stays as it is.
    async fn bury(&self, letter: &Dead, running: &Running) -> Result<(), StoreError> {
        let tried = Tried {
            delivery: self.key(letter),
            round: letter.round,
            attempt: letter.attempt,
            digest: running.handler.digest().into(),
            duration_us: 0,
        };
        let moment = Moment { now_ms: self.services.clock.now_ms(), random: rand::random() };
        let outcome = outcome(letter);
        let routes = &*self.services.pipeline;
        let decided = decide::decide(&running.policy, routes, &letter.envelope, &tried, outcome, moment);
        self.settle(letter, running, decided).await.map(|_| ())
    }

    /// Commits what a message comes to; false when somebody settled it meanwhile.
    async fn settle(&self, letter: &Dead, running: &Running, decided: (Verdict, Option<FailedAttempt>)) -> Result<bool, StoreError> {
        let settlement = Settlement {
            delivery: self.key(letter),
            envelope: Arc::clone(&letter.envelope),
            round: letter.round,
            attempt: letter.attempt,
            verdict: decided.0,
            version: running.handler.description().version.clone(),
            digest: running.handler.digest().into(),
            duration_us: 0,
            failure: decided.1,
            recording: None,
        };
        let batch = Batch { stage: Arc::clone(&self.stage.name), settlements: vec![settlement], reads: Vec::new(), writes: Vec::new() };
        match self.services.store.commit(batch.clone()).await? {
            Commit::Done { outbox, .. } => {
                self.services.relay.hand_over(outbox);
                Ok(true)
            }
            Commit::Overtaken(_) => {
                self.services.store.commit(skipped(batch)).await?;
                Ok(false)
            }
            Commit::Again { .. } => {
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

fn outcome(letter: &Dead) -> Outcome {
    let (code, message) = match &letter.unreadable {
        Some(why) => ("unreadable".to_owned(), format!("the message cannot be read: {why}")),
        None if letter.reason == DELIVERY_LIMIT => {
            (MARK.to_owned(), "hosts that took the message went away, also when it ran alone".to_owned())
        }
        None => (letter.reason.replace('_', "-"), format!("the broker gave the message up ({})", letter.reason)),
    };
    Outcome::Failed(Failure { retryable: false, code, message, retry_after_ms: None })
}

/// Whether this is the note that [`Undertaker::mark`] left.
fn is_marked(failure: &FailedAttempt, letter: &Dead) -> bool {
    failure.code == MARK && (failure.round, failure.attempt) == (letter.round, letter.attempt)
}
