//! Messages that are not run: unreadable ones, and those that claim to be a host's and are not. Each gets
//! a dead letter with the reason, under a key of its own, that no order depends on ([`copies`](super::copies)
//! tells identical ones apart).
//!
//! A message whose claim is true in every respect is a copy of a delivery that the store has: one that a
//! host of an older version sent unsigned, one that is signed with a key that was removed, or one that
//! another program sent again. It changes nothing: the store sends the delivery again, if it is open and
//! not about to be sent. Bound: [`Budget`](super::budget::Budget).

use std::sync::Arc;

use super::copies::{Numbers, numbered};
use super::{Handling, PoisonMessageHandler, Settled};
use crate::broker::{ClaimedAttempt, Forgery, RejectedMessage};
use crate::domain::cloud_events::is_repetition;
use crate::domain::event::{DeliveryKey, Envelope};
use crate::pipeline::Running;
use crate::stage::delivery_log::log_delivery;
use crate::store::StoreError;
use crate::worker::alone::Alone;
use crate::worker::decide::{Decision, Rejection};

impl PoisonMessageHandler {
    /// Handles a message that claims to be a host's.
    pub(super) async fn handle_forged(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
        forgery: &Forgery,
    ) -> Result<Handling, StoreError> {
        let Forgery { why, claimed } = forgery;
        if let Some(claimed) = claimed
            && self.is_copy(claimed).await?
        {
            let event = claimed.envelope.key();
            // What it claims is true.
            let (envelope, round, attempt) =
                (Arc::clone(&claimed.envelope), claimed.round, claimed.attempt);
            let claimed = Alone { envelope, round, attempt, ..self.alone(message, running) };
            log_delivery!(
                WARN,
                &claimed.log(),
                %why,
                "a message is not a host's: its delivery is taken from the store"
            );
            self.services.store.requeue(&self.stage.name, vec![event]).await?;
            return Ok(Handling::Acknowledge);
        }
        self.refuse(message, running, Rejection::Forged(why)).await
    }

    /// Whether the store has a delivery of which everything is true that the message claims.
    async fn is_copy(&self, claimed: &ClaimedAttempt) -> Result<bool, StoreError> {
        let ClaimedAttempt { envelope, round, attempt } = claimed;
        let (stage, event) = (Arc::clone(&self.stage.name), envelope.key());
        let store = &self.services.store;
        let known = store.events_by_id(&event.id).await?.into_iter();
        let mut known = known.map(|logged| logged.envelope);
        let Some(known) = known.find(|known| known.event.source == event.source) else {
            return Ok(false);
        };
        if !is_same(&known, envelope) {
            return Ok(false);
        }
        let delivery = store.delivery(&DeliveryKey { stage, event }).await?;
        Ok(delivery.is_some_and(|known| (*round, *attempt) <= (known.round, known.attempt)))
    }

    /// Dead-letters a message that is not run, while there is room for it.
    pub(super) async fn refuse(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
        rejection: Rejection<'_>,
    ) -> Result<Handling, StoreError> {
        if self.budget.allows(&*self.services.store, &self.stage.name).await? {
            return self.number(message, running, rejection).await;
        }
        self.stage.metrics.count_refused();
        Ok(Handling::Acknowledge)
    }

    /// Dead-letters a message under the next number of its contents, unless it was delivered and
    /// dead-lettered before.
    async fn number(
        &mut self,
        message: &RejectedMessage,
        running: &Running,
        rejection: Rejection<'_>,
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
            let decision = self.decide(&message, running, rejection);
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
}

/// Whether two envelopes are the same in everything that decides about a delivery.
fn is_same(known: &Envelope, claimed: &Envelope) -> bool {
    let Envelope { subject_key, correlation_id, cause, hops, expires_at_ms, .. } = known;
    is_repetition(&known.event, &claimed.event)
        && (subject_key, correlation_id) == (&claimed.subject_key, &claimed.correlation_id)
        && (cause, hops, expires_at_ms) == (&claimed.cause, &claimed.hops, &claimed.expires_at_ms)
}
