//! Admission: joins copies of the same attempt, and acknowledges what is settled already.
//!
//! It only saves work: the commit's compare-and-set refuses a delivery that is settled. Bounds: the
//! messages of one batch, and one query to the store when the broker redelivered one of them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Lane, STORE_BACKOFF, pause};
use crate::broker::Incoming;
use crate::domain::event::{DeliveryKey, Envelope};
use crate::store::{AttemptKey, StoreError};

/// An attempt at a delivery, with every copy of it that the broker sent.
pub(super) struct Work {
    pub(super) key: AttemptKey,
    pub(super) message: Incoming,
    pub(super) tags: Vec<u64>,
    /// Another attempt at the same delivery is before it: they must not be in one batch.
    pub(super) follows_another: bool,
    /// A commit was refused because the order is cancelled.
    pub(super) order_cancelled: bool,
}

impl Work {
    /// The same attempt with another event in place of its own.
    pub(super) fn alone(work: &Self, envelope: Arc<Envelope>) -> Self {
        let delivery =
            DeliveryKey { stage: Arc::clone(&work.key.delivery.stage), event: envelope.key() };
        Self {
            key: AttemptKey { delivery, ..work.key.clone() },
            message: Incoming { envelope, ..work.message.clone() },
            tags: Vec::new(),
            follows_another: false,
            order_cancelled: work.order_cancelled,
        }
    }
}

impl Lane {
    /// The deliveries to run.
    pub(super) async fn admit(
        &self,
        received: impl Iterator<Item = Incoming>,
        cancel: &CancellationToken,
    ) -> Vec<Work> {
        let mut work = join(&self.stage.name, received);
        if work.iter().any(|work| work.message.redelivered || work.follows_another) {
            self.drop_settled(&mut work, cancel).await;
        }
        work
    }

    /// Asks the store which deliveries are settled, waiting out an outage, and acknowledges those.
    pub(super) async fn drop_settled(&self, work: &mut Vec<Work>, cancel: &CancellationToken) {
        let mut backoff = STORE_BACKOFF;
        loop {
            let keys = work.iter().map(|work| work.key.clone()).collect();
            match self.services.store.already_settled(keys).await {
                Ok(settled) => return self.drop_keys(work, &settled).await,
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
    pub(super) async fn drop_keys(&self, work: &mut Vec<Work>, keys: &[AttemptKey]) {
        let (dropped, kept): (Vec<Work>, Vec<Work>) =
            std::mem::take(work).into_iter().partition(|work| keys.contains(&work.key));
        *work = kept;
        self.ack(&dropped).await;
    }
}

/// Joins the copies of each attempt, in the order of their first copy.
fn join(stage: &Arc<str>, received: impl Iterator<Item = Incoming>) -> Vec<Work> {
    // The attempts at each delivery; mostly one.
    let mut places: HashMap<DeliveryKey, Vec<usize>> = HashMap::new();
    let mut work: Vec<Work> = Vec::new();
    for message in received {
        let delivery = DeliveryKey { stage: Arc::clone(stage), event: message.envelope.key() };
        let (round, attempt) = (message.round, message.attempt);
        let known = places.entry(delivery.clone()).or_default();
        let same = known
            .iter()
            .copied()
            .find(|place| (work[*place].key.round, work[*place].key.attempt) == (round, attempt));
        if let Some(place) = same {
            work[place].tags.push(message.tag);
            continue;
        }
        let follows_another = !known.is_empty();
        known.push(work.len());
        work.push(Work {
            key: AttemptKey { delivery, round, attempt },
            tags: vec![message.tag],
            message,
            follows_another,
            order_cancelled: false,
        });
    }
    work
}
