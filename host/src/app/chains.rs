//! Chains of events: the largest ones, stop and resume.

use super::App;
use super::audit::actor;
use crate::domain::event::without_nul;
use crate::pipeline::chains::ChainReport;
use crate::store::{CHAINS_MAX, StoreError};

/// Chains in a list.
const LISTED_MAX: usize = 200;

/// The result of stopping or resuming a chain of events.
///
/// ```no_run
/// # async fn example(app: &postrider::App, first_event: &str) -> anyhow::Result<()> {
/// use postrider::ChainControl;
///
/// match app.stop_chain(first_event, None).await? {
///     ChainControl::Set(chain) => println!("stopped after {} events", chain.events),
///     refused => eprintln!("{refused:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum ChainControl {
    /// The chain as it is now.
    Set(ChainReport),
    /// No event with this id began a chain. If it is part of one, the id of that chain's first event.
    NotFound {
        /// Id of the first event.
        part_of: Option<String>,
    },
    /// So many chains are stopped that hosts would not apply another stop.
    TooMany,
}

impl App {
    /// Returns the stopped chains and the largest ones that this host knows, at most 200.
    pub fn chains(&self) -> Vec<ChainReport> {
        self.services.pipeline.chains().largest(LISTED_MAX)
    }

    /// Stops a chain on every host: its deliveries are skipped. `correlation_id` is the id of its
    /// first event.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn stop_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
    ) -> Result<ChainControl, StoreError> {
        let (store, chains) = (&self.services.store, self.services.pipeline.chains());
        if let Some(not_found) = self.missing_chain(correlation_id).await? {
            return Ok(not_found);
        }
        if !chains.is_stopped(correlation_id) && chains.stopped_len() >= CHAINS_MAX {
            return Ok(ChainControl::TooMany);
        }
        let record = store.stop_chain(correlation_id, reason.map(without_nul), &actor()).await?;
        Ok(ChainControl::Set(chains.apply_control(&record)))
    }

    /// Lets a chain run again on every host. Its events count from zero; those that were skipped are
    /// not repeated.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn resume_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
    ) -> Result<ChainControl, StoreError> {
        if let Some(not_found) = self.missing_chain(correlation_id).await? {
            return Ok(not_found);
        }
        let (store, reason) = (&self.services.store, reason.map(without_nul));
        let record = store.resume_chain(correlation_id, reason, &actor()).await?;
        Ok(ChainControl::Set(self.services.pipeline.chains().apply_control(&record)))
    }

    /// Why there is no such chain; none if there is one.
    async fn missing_chain(&self, id: &str) -> Result<Option<ChainControl>, StoreError> {
        if self.services.pipeline.chains().find(id).is_some() {
            return Ok(None);
        }
        if id.contains('\0') {
            return Ok(Some(ChainControl::NotFound { part_of: None }));
        }
        let events = self.services.store.events_by_id(id).await?;
        if events.iter().any(|event| event.envelope.correlation_id == id) {
            return Ok(None);
        }
        let part_of = events.into_iter().next().map(|event| event.envelope.correlation_id);
        Ok(Some(ChainControl::NotFound { part_of }))
    }
}
