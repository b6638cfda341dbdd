//! Poison messages: a message that the broker dead-lettered becomes a failed attempt or a dead
//! letter in the store, through the same compare-and-set as any other outcome.
//!
//! A message that was delivered too often without being settled may have stopped its host each
//! time, or may only have been close to one that did. It runs once more, isolated. That run is
//! recorded before it begins, so a message that stops this host, too, is a dead letter when it
//! comes back. The record names its host, and this process remembers the records that no run has
//! followed yet: one whose commit was never answered is not mistaken for the record of a host that
//! stopped. What cannot be read, or claims to be a host's and is not, is dead-lettered with the reason
//! ([`refused`]). Whatever else arrives says nothing about its delivery that the store does not know
//! better: an open delivery is sent again. Bounds: the broker's prefetch, and [`UNCONFIRMED_MAX`]
//! remembered records. It acknowledges only after the commit.

mod budget;
mod copies;
mod refused;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use self::copies::Copies;
use crate::broker::{Incoming, RejectedConsumer, RejectedMessage, Sender};
use crate::domain::event::{DeliveryKey, Envelope, EventKey};
use crate::pipeline::{Running, Stage};
use crate::services::Services;
use crate::stage::delivery_log::log_delivery;
use crate::store::{Commit, FailedAttempt, StoreError};
use crate::worker;
use crate::worker::alone::{Alone, commit_alone};
use crate::worker::decide::{
    self, Attempt, Decision, DecisionInputs, IsolatedRun, Progress, Rejection, Ruling,
    records_isolated_run,
};
use crate::worker::delivery_log::log_ruling;
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
    /// How many dead letters of refused messages may still be written.
    budget: Budget,
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
        let budget = Budget::new(services.pipeline.refused_max());
        let (unconfirmed, copies) = (HashMap::new(), Copies::default());
        Self { stage, services, unconfirmed, copies, numbered: None, budget }
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
                    let log = self.alone(message, running).log();
                    log_delivery!(
                        WARN, &log, %error, "a rejected message could not be stored, retrying"
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
        let forged = message.forged.as_ref().map(|forgery| forgery.why.as_str());
        let why = message.unreadable.as_deref().or(forged);
        let is_settled = alone.dead_letter_refused(error, why).await?;
        self.unconfirmed.remove(&self.key(message));
        Ok(if is_settled { Handling::Acknowledge } else { Handling::Leave })
    }

    fn alone<'a>(&'a self, message: &RejectedMessage, running: &'a Running) -> Alone<'a> {
        Alone {
            stage: &self.stage,
            services: &self.services,
            running,
            host: None,
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
        if let Some(forgery) = &message.forged {
            return self.handle_forged(message, running, forgery).await;
        }
        if let Some(why) = &message.unreadable {
            return match message.sender {
                Sender::Host => self.handle_unsendable(message, running).await,
                Sender::OtherProgram { .. } => {
                    self.refuse(message, running, Rejection::Unreadable(why)).await
                }
            };
        }
        let store = &*self.services.store;
        match foreign::identify(store, message.sender, &message.envelope).await? {
            Identified::Event { envelope, sender } => {
                let message = RejectedMessage { envelope, sender, ..message.clone() };
                if message.reason == DELIVERY_LIMIT {
                    self.handle_identified(&message, running).await
                } else {
                    self.handle_lost(&message, running).await
                }
            }
            Identified::Conflict => {
                self.alone(message, running).dead_letter_conflict().await?;
                Ok(Handling::Acknowledge)
            }
        }
    }

    /// Handles a message that stands for one that the broker cannot carry: it names its delivery. A copy
    /// that another program sent to another stage names none.
    async fn handle_unsendable(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
    ) -> Result<Handling, StoreError> {
        let is_known = self.services.store.delivery(&self.key(message)).await?.is_some();
        if is_known {
            return self.handle_identified(message, running).await;
        }
        let log = self.alone(message, running).log();
        log_delivery!(WARN, &log, "the store has no such delivery: the message is dropped");
        Ok(Handling::Acknowledge)
    }

    /// Handles a message that the queue lost for its own reason. A delivery that the store knows is sent
    /// again if it is open: the message may be a copy that another program sent. An event that is not in
    /// the log is dead-lettered, without its subject, which has nothing to do with it.
    async fn handle_lost(
        &self,
        message: &RejectedMessage,
        running: &Running,
    ) -> Result<Handling, StoreError> {
        let key = self.key(message);
        let is_known = self.services.store.delivery(&key).await?.is_some();
        let log = self.alone(message, running).log();
        log_delivery!(WARN, &log, reason = %message.reason, is_known, "the queue lost a message");
        if is_known {
            self.services.store.requeue(&self.stage.name, vec![key.event]).await?;
        } else if message.sender != Sender::Host && !self.is_logged(&key.event).await? {
            let envelope = Envelope {
                subject_key: None,
                customer_hash: 0,
                ..Envelope::clone(&message.envelope)
            };
            let message = RejectedMessage { envelope: Arc::new(envelope), ..message.clone() };
            let decision = self.decide(&message, running, Rejection::Queue(&message.reason));
            if let Decision::Settle(ruling) = decision {
                self.settle(&message, running, ruling).await?;
            }
        }
        Ok(Handling::Acknowledge)
    }

    async fn is_logged(&self, key: &EventKey) -> Result<bool, StoreError> {
        let found = self.services.store.events_by_id(&key.id).await?;
        Ok(found.iter().any(|logged| logged.envelope.event.source == key.source))
    }

    async fn handle_identified(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
    ) -> Result<Handling, StoreError> {
        let next = RejectedMessage { attempt: message.attempt + 1, ..message.clone() };
        let rejection = self.classify(message).await?;
        let is_abandoned = matches!(rejection, Rejection::DeliveryLimit(IsolatedRun::Abandoned));
        if is_abandoned && !message.redelivered {
            // The message whose run was recorded comes back marked as redelivered: this is a copy, and
            // the outbox has the delivery's next attempt.
            let log = self.alone(message, running).log();
            log_delivery!(WARN, &log, "a copy of a message that ran isolated is dropped");
            return Ok(Handling::Acknowledge);
        }
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

    /// The attempt that the broker gave up on, by an unknown host.
    fn attempt(&self, message: &RejectedMessage, running: &Running) -> Attempt {
        let digest = Arc::clone(&running.digest);
        Attempt::new(self.key(message), message.round, message.attempt, digest)
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
                let log = self.alone(message, running).log();
                log_delivery!(
                    DEBUG,
                    &log,
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
        log_ruling(&attempt.log(&self.stage, &message.envelope), &ruling, 0);
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
