//! The undertaker: what the broker gave up on becomes an attempt or a dead letter in the store, through the same compare-and-set as any
//! other outcome.
//!
//! A message that was delivered too often without being settled has killed its host or its connection each time: that is an attempt, and
//! the stage's retry policy says what follows. A message that cannot be read is dead at once, with its body and the reason. Bounded by
//! the broker's prefetch; it acknowledges only after the commit.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::{Dead, DeadConsumer};
use crate::decide::{self, Moment, Tried};
use crate::event::DeliveryKey;
use crate::handler::{Failure, Outcome};
use crate::pipeline::{Running, Stage};
use crate::store::{Batch, Commit, Settlement, StoreError};
use crate::worker::Services;

/// Pause after the broker or the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

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
                while let Err(error) = self.bury(&letter, &running).await {
                    tracing::warn!(stage = %self.stage.name, %error, "a dead letter could not be written; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
                acker.ack(&[letter.tag]).await;
            }
        }
    }

    /// Writes one; a delivery that somebody settled meanwhile stays as it is.
    async fn bury(&self, letter: &Dead, running: &Running) -> Result<(), StoreError> {
        let tried = Tried {
            delivery: DeliveryKey { stage: Arc::clone(&self.stage.name), event: letter.envelope.key() },
            round: letter.round,
            attempt: letter.attempt,
            digest: running.handler.digest().into(),
            duration_us: 0,
        };
        let moment = Moment { now_ms: self.services.clock.now_ms(), random: rand::random() };
        let outcome = outcome(letter);
        let routes = &*self.services.pipeline;
        let (verdict, failure) = decide::decide(&running.policy, routes, &letter.envelope, &tried, outcome, moment);
        let settlement = Settlement {
            delivery: tried.delivery,
            envelope: Arc::clone(&letter.envelope),
            round: letter.round,
            attempt: letter.attempt,
            verdict,
            version: running.handler.description().version.clone(),
            digest: tried.digest,
            duration_us: 0,
            failure,
        };
        let batch = Batch { stage: Arc::clone(&self.stage.name), settlements: vec![settlement], reads: Vec::new(), writes: Vec::new() };
        match self.services.store.commit(batch).await? {
            Commit::Done { outbox, .. } => self.services.relay.hand_over(outbox),
            Commit::Again { .. } => tracing::debug!(stage = %self.stage.name, "a dead-lettered delivery was settled already"),
        }
        Ok(())
    }
}

fn outcome(letter: &Dead) -> Outcome {
    match &letter.unreadable {
        Some(why) => Outcome::Failed(Failure {
            retryable: false,
            code: "unreadable".to_owned(),
            message: format!("the message cannot be read: {why}"),
            retry_after_ms: None,
        }),
        None => Outcome::Trapped {
            kind: letter.reason.replace('_', "-"),
            message: format!("the broker gave the message up ({}): each host that took it went away without settling it", letter.reason),
            backtrace: None,
        },
    }
}
