//! Poison messages: a message that the broker dead-lettered becomes a failed attempt or a dead
//! letter in the store, through the same compare-and-set as any other outcome.
//!
//! A message that was delivered too often without being settled may have stopped its host each
//! time, or may only have been close to one that did. It runs once more, isolated. That run is
//! recorded before it begins, so a message that stops this host, too, is a dead letter when it
//! comes back. The record names its host, and this process remembers the records that no run has
//! followed yet: one whose commit was never answered is not mistaken for the record of a host that
//! stopped. A message that cannot be read is dead-lettered with its body and the reason ([`copies`]
//! tells identical ones apart). Bounds: the broker's prefetch, and [`UNCONFIRMED_MAX`] remembered
//! records. It acknowledges only after the commit.

mod copies;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::copies::{Copies, Numbers, numbered};
use crate::broker::{Incoming, RejectedConsumer, RejectedMessage, Sender};
use crate::domain::event::DeliveryKey;
use crate::pipeline::{Running, Stage};
use crate::services::Services;
use crate::store::{Commit, FailedAttempt, StoreError};
use crate::worker;
use crate::worker::alone::{Alone, commit_alone};
use crate::worker::decide::{
    self, Attempt, Decision, DecisionInputs, IsolatedRun, Progress, Rejection, Ruling,
    records_isolated_run,
};
use crate::worker::foreign::{self, Identified};

/// Pause after the broker or the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// The broker's reason for a message that was delivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";
/// Records that are remembered: more than a broker hands out at a time.
const UNCONFIRMED_MAX: usize = 1_024;

/// Drains one stage's dead-letter queue.
pub struct PoisonMessageHandler {
    stage: Arc<Stage>,
    services: Services,
    /// Records of isolated runs that this process wrote, or may have written, and has not begun: at
    /// most one for each message that it holds.
    unconfirmed: HashMap<DeliveryKey, FailedAttempt>,
    /// Unreadable messages of the present consumer.
    copies: Copies,
    /// The message, by its tag, whose dead letter was written last or may have been, and its number.
    numbered: Option<(u64, u32)>,
}

/// What to do with a message after it was classified.
enum Handling {
    /// Run it isolated; that settles and acknowledges it.
    RunIsolated(Incoming),
    /// It is settled.
    Acknowledge,
    /// The store refuses every form of it: the broker keeps it.
    Leave,
}

/// How a commit of the handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// As decided.
    Committed,
    /// The delivery was settled before, or its subject is cancelled.
    Refused,
}

impl PoisonMessageHandler {
    /// A handler for the dead-letter queue of `stage`.
    pub fn new(stage: Arc<Stage>, services: Services) -> Self {
        let copies = Copies::default();
        Self { stage, services, unconfirmed: HashMap::new(), copies, numbered: None }
    }

    /// Drains until cancelled.
    pub async fn run(&mut self, cancel: CancellationToken) {
        loop {
            let drained = async {
                match self.services.broker.consume_rejected(&self.stage.name).await {
                    // This broker dead-letters nothing.
                    Ok(None) => std::future::pending().await,
                    Ok(Some(consumer)) => self.drain(consumer).await,
                    Err(error) => tracing::debug!(
                        stage = %self.stage.name, %error,
                        "the dead-letter queue cannot be consumed, retrying"
                    ),
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
        (self.copies, self.numbered) = (Copies::default(), None);
        while let Some(messages) = consumer.receive().await {
            for message in messages {
                // Without a running version the consumer is dropped; the broker keeps the rest.
                let Some(running) = self.stage.running() else { return };
                match self.handle_until_stored(&message, &running).await {
                    Handling::RunIsolated(incoming) => {
                        self.unconfirmed.remove(&self.key(&message));
                        worker::run_isolated(&self.stage, &self.services, &acker, incoming).await;
                    }
                    Handling::Acknowledge => acker.ack(&[message.tag]).await,
                    Handling::Leave => {}
                }
            }
        }
    }

    async fn handle_until_stored(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
    ) -> Handling {
        loop {
            let handled = match self.handle(message, running).await {
                Err(error) if !error.is_transient() => {
                    self.dead_letter_refused(message, running, &error).await
                }
                handled => handled,
            };
            match handled {
                Ok(handling) => return handling,
                Err(error) => {
                    tracing::warn!(
                        stage = %self.stage.name, %error,
                        "a rejected message could not be stored, retrying"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Dead-letters a message whose outcome the store refused: a retry would be refused again.
    async fn dead_letter_refused(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
        error: &StoreError,
    ) -> Result<Handling, StoreError> {
        let alone = self.alone(message, running);
        let is_settled = alone.dead_letter_refused(error, message.unreadable.as_deref()).await?;
        self.unconfirmed.remove(&self.key(message));
        Ok(if is_settled { Handling::Acknowledge } else { Handling::Leave })
    }

    fn alone<'a>(&'a self, message: &RejectedMessage, running: &'a Running) -> Alone<'a> {
        Alone {
            stage: &self.stage,
            services: &self.services,
            running,
            envelope: Arc::clone(&message.envelope),
            round: message.round,
            attempt: message.attempt,
        }
    }

    /// Settles a message, or returns it for its isolated run.
    async fn handle(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
    ) -> Result<Handling, StoreError> {
        if let Some(why) = &message.unreadable {
            return match message.sender {
                // It names its delivery.
                Sender::Host => self.handle_identified(message, running).await,
                Sender::OtherProgram { .. } => self.number(message, running, why).await,
            };
        }
        let store = &*self.services.store;
        match foreign::identify(store, message.sender, &message.envelope).await? {
            Identified::Event(envelope) => {
                let message = RejectedMessage { envelope, ..message.clone() };
                self.handle_identified(&message, running).await
            }
            Identified::Conflict => {
                self.alone(message, running).dead_letter_conflict().await?;
                Ok(Handling::Acknowledge)
            }
        }
    }

    /// Dead-letters an unreadable message under the next number of its contents, unless it was
    /// delivered and dead-lettered before.
    async fn number(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
        why: &str,
    ) -> Result<Handling, StoreError> {
        let contents = &message.envelope.event.id;
        let mut numbers = match self.copies.get(contents) {
            Some(numbers) => numbers,
            None => Numbers::stored(self.last_number(message).await?),
        };
        let is_known = message.redelivered && numbers.claim();
        self.copies.set(contents, numbers);
        let mut is_settled = is_known;
        while !is_settled {
            let next = (message.tag, numbers.last + 1);
            let was_tried = self.numbered.replace(next) == Some(next);
            let envelope = numbered(&message.envelope, next.1);
            let message = RejectedMessage { envelope, ..message.clone() };
            let decision = self.decide(&message, running, Rejection::Unreadable(why));
            let Decision::Settle(ruling) = decision else { break };
            // Refused: another host took the number, unless an earlier commit came through.
            is_settled =
                self.settle(&message, running, ruling).await? == Settled::Committed || was_tried;
            numbers.last = next.1;
            self.copies.set(contents, numbers);
        }
        Ok(Handling::Acknowledge)
    }

    /// The last number of these contents that the store has; 0: none. Numbers are given out in order,
    /// so it is found in a few steps.
    async fn last_number(&self, message: &RejectedMessage) -> Result<u32, StoreError> {
        let (mut used, mut free) = (0, 1);
        while self.is_used(message, free).await? {
            (used, free) = (free, free * 2);
        }
        while free - used > 1 {
            let middle = used.midpoint(free);
            if self.is_used(message, middle).await? {
                used = middle;
            } else {
                free = middle;
            }
        }
        Ok(used)
    }

    async fn is_used(&self, message: &RejectedMessage, number: u32) -> Result<bool, StoreError> {
        let event = numbered(&message.envelope, number).key();
        let key = DeliveryKey { stage: Arc::clone(&self.stage.name), event };
        Ok(self.services.store.delivery(&key).await?.is_some())
    }

    async fn handle_identified(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
    ) -> Result<Handling, StoreError> {
        let next = RejectedMessage { attempt: message.attempt + 1, ..message.clone() };
        let rejection = self.classify(message).await?;
        let (judged, records_run) = match rejection {
            // The record is the attempt before it.
            Rejection::DeliveryLimit(IsolatedRun::Abandoned) => (&next, false),
            Rejection::DeliveryLimit(IsolatedRun::NotRecorded { .. }) => (message, true),
            _ => (message, false),
        };
        match self.decide(judged, running, rejection) {
            Decision::Call => return Ok(Handling::RunIsolated(isolated(next))),
            Decision::Settle(ruling) if records_run => {
                let settled = self.record_attempt(message, running, ruling).await?;
                // The record may have been refused because an earlier commit of it came through.
                if settled == Settled::Committed || self.is_ready_to_run(message).await? {
                    return Ok(Handling::RunIsolated(isolated(next)));
                }
            }
            Decision::Settle(ruling) => _ = self.settle(judged, running, ruling).await?,
        }
        self.unconfirmed.remove(&self.key(message));
        Ok(Handling::Acknowledge)
    }

    /// Why the broker dead-lettered a message, and how far its isolated run has come.
    async fn classify<'a>(
        &'a self,
        message: &'a RejectedMessage,
    ) -> Result<Rejection<'a>, StoreError> {
        if let Some(why) = &message.unreadable {
            return Ok(Rejection::Unreadable(why));
        }
        if message.reason != DELIVERY_LIMIT {
            return Ok(Rejection::Queue(&message.reason));
        }
        let key = self.key(message);
        let is_record = |failure: &&FailedAttempt| {
            records_isolated_run(failure, message.round, message.attempt)
        };
        let unconfirmed = self.unconfirmed.get(&key).filter(is_record);
        let delivery = self.services.store.delivery(&key).await?;
        let recorded = delivery
            .as_ref()
            .filter(|delivery| delivery.attempt == message.attempt + 1)
            .and_then(|delivery| delivery.failures.iter().find(is_record));
        Ok(Rejection::DeliveryLimit(match recorded {
            None => IsolatedRun::NotRecorded { host: &self.services.host, unconfirmed },
            // This process wrote it and no run followed: the commit was never answered.
            Some(_) if recorded == unconfirmed => IsolatedRun::NotBegun,
            Some(_) => IsolatedRun::Abandoned,
        }))
    }

    async fn is_ready_to_run(&self, message: &RejectedMessage) -> Result<bool, StoreError> {
        let rejection = self.classify(message).await?;
        Ok(matches!(rejection, Rejection::DeliveryLimit(IsolatedRun::NotBegun)))
    }

    fn decide(
        &self,
        message: &RejectedMessage,
        running: &Running,
        rejection: Rejection<'_>,
    ) -> Decision {
        let attempt = self.attempt(message, running);
        let inputs = self.inputs(message, running, &attempt);
        decide::decide(DecisionInputs { progress: Progress::Rejected(rejection), ..inputs })
    }

    /// The decision after a commit was refused because the subject is cancelled.
    fn decide_on_cancelled(&self, message: &RejectedMessage, running: &Running) -> Decision {
        let attempt = self.attempt(message, running);
        let inputs = self.inputs(message, running, &attempt);
        decide::decide(DecisionInputs { subject_cancelled: true, ..inputs })
    }

    fn inputs<'a>(
        &'a self,
        message: &'a RejectedMessage,
        running: &'a Running,
        attempt: &'a Attempt,
    ) -> DecisionInputs<'a> {
        let envelope = &*message.envelope;
        let expiry_ms = running.policy.expiry_ms;
        DecisionInputs {
            policy: &running.policy,
            routes: &*self.services.pipeline,
            envelope,
            attempt,
            subject_cancelled: false,
            chain: self.services.pipeline.chains().status(&envelope.correlation_id),
            expires_at_ms: self.stage.expires_at_ms(envelope.expires_at_ms, expiry_ms),
            progress: Progress::NotCalled,
            now_ms: self.services.clock.now_ms(),
            random: rand::random(),
        }
    }

    fn attempt(&self, message: &RejectedMessage, running: &Running) -> Attempt {
        Attempt {
            delivery: self.key(message),
            round: message.round,
            attempt: message.attempt,
            digest: running.handler.digest().into(),
            duration_us: 0,
        }
    }

    fn key(&self, message: &RejectedMessage) -> DeliveryKey {
        DeliveryKey { stage: Arc::clone(&self.stage.name), event: message.envelope.key() }
    }

    /// Commits the record of an isolated run. It is remembered first: the answer may be lost.
    async fn record_attempt(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
        ruling: Ruling,
    ) -> Result<Settled, StoreError> {
        self.remember(message, &ruling);
        self.settle(message, running, ruling).await
    }

    fn remember(&mut self, message: &RejectedMessage, ruling: &Ruling) {
        if self.unconfirmed.len() >= UNCONFIRMED_MAX {
            self.unconfirmed.clear();
        }
        self.unconfirmed.extend(ruling.failure().map(|record| (self.key(message), record.clone())));
    }

    async fn settle(
        &self,
        message: &RejectedMessage,
        running: &Running,
        ruling: Ruling,
    ) -> Result<Settled, StoreError> {
        match self.commit(message, running, ruling).await? {
            Commit::Done { .. } => Ok(Settled::Committed),
            Commit::SubjectCancelled(_) => {
                if let Decision::Settle(ruling) = self.decide_on_cancelled(message, running) {
                    self.commit(message, running, ruling).await?;
                }
                Ok(Settled::Refused)
            }
            Commit::Conflict { .. } => {
                tracing::debug!(
                    stage = %self.stage.name,
                    "the delivery of a rejected message was settled already"
                );
                Ok(Settled::Refused)
            }
        }
    }

    async fn commit(
        &self,
        message: &RejectedMessage,
        running: &Running,
        ruling: Ruling,
    ) -> Result<Commit, StoreError> {
        let attempt = self.attempt(message, running);
        let version = running.handler.description().version.clone();
        let envelope = Arc::clone(&message.envelope);
        let settlement = ruling.into_settlement(attempt, envelope, version, None);
        commit_alone(&self.services, settlement).await
    }
}

/// A rejected message as its isolated run receives it.
fn isolated(message: RejectedMessage) -> Incoming {
    Incoming {
        envelope: message.envelope,
        round: message.round,
        attempt: message.attempt,
        redelivered: false,
        deliveries: 1,
        sender: message.sender,
        received: Instant::now(),
        tag: message.tag,
    }
}
