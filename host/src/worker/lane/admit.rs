//! Admission: joins copies of one delivery, and acknowledges what is settled already.
//!
//! It only saves work: the commit's compare-and-set refuses a delivery that is settled. Bounds: the
//! messages of one batch, and one query to the store when the broker redelivered one of them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Lane, STORE_BACKOFF, pause};
use crate::broker::Incoming;
use crate::domain::event::DeliveryKey;

/// A delivery that the lane holds, with every copy of it that the broker sent.
pub(super) struct Work {
    pub(super) key: DeliveryKey,
    pub(super) message: Incoming,
    pub(super) tags: Vec<u64>,
    /// A commit was refused because the order is cancelled.
    pub(super) order_cancelled: bool,
}

impl Lane {
    /// The deliveries to run.
    pub(super) async fn admit(
        &self,
        received: impl Iterator<Item = Incoming>,
        cancel: &CancellationToken,
    ) -> Vec<Work> {
        let mut places: HashMap<(DeliveryKey, u32, u32), usize> = HashMap::new();
        let mut work: Vec<Work> = Vec::new();
        for message in received {
            let key =
                DeliveryKey { stage: Arc::clone(&self.stage.name), event: message.envelope.key() };
            let place =
                *places.entry((key.clone(), message.round, message.attempt)).or_insert(work.len());
            match work.get_mut(place) {
                Some(first) => first.tags.push(message.tag),
                None => {
                    let tags = vec![message.tag];
                    work.push(Work { key, tags, message, order_cancelled: false });
                }
            }
        }
        if work.iter().any(|work| work.message.redelivered) {
            self.drop_settled(&mut work, cancel).await;
        }
        work
    }

    /// Asks the store which deliveries are settled, waiting out an outage, and acknowledges those.
    pub(super) async fn drop_settled(&self, work: &mut Vec<Work>, cancel: &CancellationToken) {
        let mut backoff = STORE_BACKOFF;
        loop {
            let keys = work
                .iter()
                .map(|work| (work.key.clone(), work.message.round, work.message.attempt))
                .collect();
            match self.services.store.already_settled(keys).await {
                Ok(settled) => return self.drop_keys(work, &settled).await,
                Err(error) if pause(&mut backoff, cancel).await => {
                    tracing::debug!(%error, "waiting for the store");
                }
                // The lane is being stopped: the broker delivers all of them again.
                Err(_) => return work.clear(),
            }
        }
    }

    /// Acknowledges these deliveries without running them.
    pub(super) async fn drop_keys(&self, work: &mut Vec<Work>, keys: &[DeliveryKey]) {
        let (dropped, kept): (Vec<Work>, Vec<Work>) =
            std::mem::take(work).into_iter().partition(|work| keys.contains(&work.key));
        *work = kept;
        self.ack(&dropped).await;
    }
}
