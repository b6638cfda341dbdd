//! Events of other programs whose source and id the log has with other contents: dead letters, never
//! taken for the event that they are not.
//!
//! Bound: [`CONCURRENT_LOOKUPS`] messages are compared with the log at a time.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use super::{Lane, STORE_BACKOFF, Work, pause};
use crate::broker::{Incoming, Sender};
use crate::domain::cloud_events::is_repetition;
use crate::domain::event::Envelope;
use crate::pipeline::Running;
use crate::pipeline::metrics::OutcomeKind;
use crate::stage::delivery_log::log_delivery;
use crate::store::StoreError;
use crate::worker::alone::Alone;
use crate::worker::foreign::{Identified, identify};

/// Messages that are compared with the log at a time.
const CONCURRENT_LOOKUPS: usize = 8;

/// Whether two messages with one key carry different events. Messages of hosts never do.
pub(super) fn differ(one: &Incoming, other: &Incoming) -> bool {
    let both_of_hosts = one.sender == Sender::Host && other.sender == Sender::Host;
    !both_of_hosts && !is_repetition(&one.envelope.event, &other.envelope.event)
}

impl Lane {
    pub(super) fn alone<'a>(&'a self, work: &Work, running: &'a Running) -> Alone<'a> {
        Alone {
            stage: &self.stage,
            services: &self.services,
            running,
            host: Some(&self.services.host),
            envelope: Arc::clone(&work.message.envelope),
            round: work.key.round,
            attempt: work.key.attempt,
        }
    }

    /// Dead-letters those of the messages whose key another event of the log has; returns the others,
    /// as the log knows them.
    pub(super) async fn refuse_conflicts(
        &self,
        work: Vec<Work>,
        cancel: &CancellationToken,
    ) -> Vec<Work> {
        if work.iter().all(|work| work.message.sender == Sender::Host) {
            return work;
        }
        let mut backoff = STORE_BACKOFF;
        let identified = loop {
            match self.identified(&work).await {
                Ok(identified) => break identified,
                // The commit decides about each of them.
                Err(StoreError::Rejected { .. } | StoreError::Corrupt(_)) => return work,
                Err(error) if pause(&mut backoff, cancel).await => {
                    tracing::debug!(%error, "waiting for the store");
                }
                // The lane is being stopped: the broker delivers all of them again.
                Err(_) => return Vec::new(),
            }
        };
        let mut kept = Vec::with_capacity(work.len());
        for (mut work, identified) in work.into_iter().zip(identified) {
            match identified {
                Identified::Event { envelope, sender } => {
                    (work.message.envelope, work.message.sender) = (envelope, sender);
                    kept.push(work);
                }
                Identified::Conflict => self.refuse_conflict(work, cancel).await,
            }
        }
        kept
    }

    /// What the log makes of each message.
    async fn identified(&self, work: &[Work]) -> Result<Vec<Identified>, StoreError> {
        let messages: Vec<(Sender, Arc<Envelope>)> = work
            .iter()
            .map(|work| (work.message.sender, Arc::clone(&work.message.envelope)))
            .collect();
        let store = &self.services.store;
        let lookups = messages
            .into_iter()
            .map(async |(sender, envelope)| identify(&**store, sender, &envelope).await);
        futures::stream::iter(lookups).buffered(CONCURRENT_LOOKUPS).try_collect().await
    }

    async fn refuse_conflict(&self, work: Work, cancel: &CancellationToken) {
        // Without a running version the broker keeps the message.
        let Some(running) = self.stage.running() else { return };
        let mut backoff = STORE_BACKOFF;
        loop {
            match self.alone(&work, &running).dead_letter_conflict().await {
                Ok(()) => return self.finish(&[work], vec![OutcomeKind::DeadLettered]).await,
                Err(error) if error.is_transient() && pause(&mut backoff, cancel).await => {}
                // It is not acknowledged: the broker delivers it again.
                Err(error) => {
                    let log = self.alone(&work, &running).log();
                    return log_delivery!(
                        WARN, &log, %error, "a conflicting event could not be dead-lettered"
                    );
                }
            }
        }
    }
}
