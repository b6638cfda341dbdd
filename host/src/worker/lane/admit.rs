//! Admission: joins copies of the same attempt, and acknowledges what is settled already.
//!
//! It only saves work: the commit's compare-and-set refuses a delivery that is settled. And it drops
//! messages that no host sent to this stage, which would be settled without a call. Bounds: the messages
//! of one batch, and one query to the store when the broker redelivered one of them.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::conflicts::differ;
use super::{Lane, STORE_BACKOFF, pause};
use crate::broker::{Incoming, Sender};
use crate::domain::event::{DeliveryKey, Envelope, Event, topic_matches};
use crate::pipeline::Running;
use crate::stage::delivery_log::log_delivery;
use crate::store::{AttemptKey, StoreError};
use crate::worker::decide::Attempt;
use crate::worker::is_of_broker;

/// An attempt at a delivery, with every copy of it that the broker sent.
pub(super) struct Work {
    pub(super) key: AttemptKey,
    pub(super) message: Incoming,
    pub(super) tags: Vec<u64>,
    /// Another attempt at the same delivery is before it: they must not be in one batch.
    pub(super) follows_another: bool,
    /// A commit was refused because the subject is cancelled.
    pub(super) subject_cancelled: bool,
}

impl Lane {
    /// The attempt at `work` on this host and the version that runs it, before the call.
    pub(super) fn attempt(&self, work: &Work, running: &Running) -> Attempt {
        let AttemptKey { delivery, round, attempt } = work.key.clone();
        let mut attempt = Attempt::new(delivery, round, attempt, Arc::clone(&running.digest));
        attempt.host = Some(Arc::clone(&self.services.host));
        attempt
    }

    /// The deliveries to run.
    pub(super) async fn admit(
        &self,
        received: impl Iterator<Item = Incoming>,
        cancel: &CancellationToken,
    ) -> Vec<Work> {
        let work = join(&self.stage.name, received);
        let work = self.refuse_conflicts(work, cancel).await;
        let mut work = self.drop_misdirected(work, cancel).await;
        if work.iter().any(|work| work.message.redelivered || work.follows_another) {
            self.drop_settled(&mut work, cancel).await;
        }
        work
    }

    /// Drops messages that would be settled without a call although the store has no such delivery: copies
    /// of a host's message, or of an old event, that another program sent to this stage. Others cost no
    /// query.
    async fn drop_misdirected(&self, work: Vec<Work>, cancel: &CancellationToken) -> Vec<Work> {
        let Some(running) = self.stage.running() else { return work };
        if !work.iter().any(|work| self.is_uncalled(work, &running)) {
            return work;
        }
        let (mut kept, mut dropped) = (Vec::with_capacity(work.len()), Vec::new());
        for work in work {
            if self.is_uncalled(&work, &running) && !self.is_stored(&work, cancel).await {
                let log = self.attempt(&work, &running).log(&self.stage, &work.message.envelope);
                log_delivery!(WARN, &log, "the store has no such delivery: the message is dropped");
                dropped.push(work);
            } else {
                kept.push(work);
            }
        }
        self.ack(&dropped).await;
        kept
    }

    /// Whether a message that the store should know is expired, or a host's of a type that the stage does
    /// not consume.
    fn is_uncalled(&self, work: &Work, running: &Running) -> bool {
        let Incoming { envelope, sender, tag, .. } = &work.message;
        if !is_of_broker(*tag) {
            return false;
        }
        let policy = &running.policy;
        let expires_at_ms = self.stage.expires_at_ms(envelope.expires_at_ms, policy.expiry_ms);
        let is_consumed = || {
            let event_type = &envelope.event.event_type;
            policy.consumes.iter().any(|pattern| topic_matches(pattern, event_type))
        };
        expires_at_ms <= self.services.clock.now_ms() || (*sender == Sender::Host && !is_consumed())
    }

    /// Whether the store has the delivery; true when it cannot say.
    async fn is_stored(&self, work: &Work, cancel: &CancellationToken) -> bool {
        let mut backoff = STORE_BACKOFF;
        loop {
            match self.services.store.delivery(&work.key.delivery).await {
                Ok(delivery) => return delivery.is_some(),
                Err(error) if error.is_transient() && pause(&mut backoff, cancel).await => {}
                Err(_) => return true,
            }
        }
    }

    /// Asks the store which deliveries are settled, waiting out an outage, and acknowledges those.
    pub(super) async fn drop_settled(&self, work: &mut Vec<Work>, cancel: &CancellationToken) {
        let mut backoff = STORE_BACKOFF;
        loop {
            let keys = work.iter().map(|work| work.key.clone()).collect();
            match self.services.store.already_settled(keys).await {
                Ok(settled) => return self.drop_keys(work, &settled, cancel).await,
                // The commit decides about each of them.
                Err(StoreError::Rejected { .. } | StoreError::Corrupt(_)) => return,
                Err(error) if pause(&mut backoff, cancel).await => {
                    tracing::debug!(%error, "waiting for the store");
                }
                // The lane is being stopped: the broker delivers all of them again.
                Err(_) => return work.clear(),
            }
        }
    }

    /// Acknowledges these attempts without running them; others at the same delivery stay.
    pub(super) async fn drop_keys(
        &self,
        work: &mut Vec<Work>,
        keys: &[AttemptKey],
        cancel: &CancellationToken,
    ) {
        let (dropped, kept): (Vec<Work>, Vec<Work>) =
            std::mem::take(work).into_iter().partition(|work| keys.contains(&work.key));
        *work = kept;
        // Another event may have taken the key since the messages were admitted.
        let dropped = self.refuse_conflicts(dropped, cancel).await;
        self.ack(&dropped).await;
    }
}

/// An event, which is the same as another one with its source and id.
struct SameEvent(Arc<Envelope>);

impl SameEvent {
    fn key(&self) -> (&str, &str) {
        let Event { id, source, .. } = &self.0.event;
        (id, source)
    }
}

impl PartialEq for SameEvent {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for SameEvent {}

impl Hash for SameEvent {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

/// Joins the copies of each attempt, in the order of their first copy.
fn join(stage: &Arc<str>, received: impl Iterator<Item = Incoming>) -> Vec<Work> {
    // Where the first attempt at each delivery is.
    let mut firsts: HashMap<SameEvent, usize> = HashMap::new();
    let mut work: Vec<Work> = Vec::new();
    for message in received {
        let delivery = DeliveryKey { stage: Arc::clone(stage), event: message.envelope.key() };
        let key = AttemptKey { delivery, round: message.round, attempt: message.attempt };
        let event = SameEvent(Arc::clone(&message.envelope));
        let first = firsts.get(&event).copied();
        // Copies are rare, so what comes after the first attempt is searched.
        let is_copy = |work: &&mut Work| work.key == key && !differ(&work.message, &message);
        let same = first.and_then(|first| work[first..].iter_mut().find(is_copy));
        if let Some(same) = same {
            same.tags.push(message.tag);
            continue;
        }
        if first.is_none() {
            firsts.insert(event, work.len());
        }
        work.push(Work {
            key,
            tags: vec![message.tag],
            message,
            follows_another: first.is_some(),
            subject_cancelled: false,
        });
    }
    work
}
