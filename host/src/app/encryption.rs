//! Encryption of what is stored: its keys, and the erasure of a customer.

use super::App;
use super::audit::actor;
use crate::store::{DataKeyCount, Erased, Erasure, Rewrapped, StoreError};

/// The keys of the ring, and those that wrap what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EncryptionReport {
    /// The id of the key that wraps what is new; none: nothing is encrypted.
    pub(crate) primary: Option<String>,
    /// The ids of all keys in the ring.
    pub(crate) ring: Vec<String>,
    /// The ids of the keys that wrap something, and how much.
    pub(crate) used: Vec<DataKeyCount>,
}

/// A request to erase what is stored of a customer.
#[derive(Debug, Clone)]
pub(crate) struct ErasureRequest {
    /// Whose subjects.
    pub(crate) customer: String,
    /// Only subjects of this kind; none: of every kind.
    pub(crate) kind: Option<String>,
    /// Why, for the audit log.
    pub(crate) reason: Option<String>,
}

impl App {
    /// Returns the state of the keys. Reads the key of every subject.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn encryption(&self) -> Result<EncryptionReport, StoreError> {
        let ring = self.services.pipeline.config().encryption.ring.as_ref();
        Ok(EncryptionReport {
            primary: ring.map(|ring| ring.primary_id().to_owned()),
            ring: ring.iter().flat_map(|ring| ring.ids()).map(str::to_owned).collect(),
            used: self.services.store.data_keys().await?,
        })
    }

    /// Wraps a bounded number of keys again with the primary key: those after a position, from 0 on.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn rewrap_keys(&self, after: i64) -> Result<Rewrapped, StoreError> {
        self.services.store.rewrap_keys(after, &actor()).await
    }

    /// Erases a bounded number of a customer's subjects: bodies, events' data, recordings, texts of
    /// failures and state. What remains says which events there were, and when.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn erase(&self, request: ErasureRequest) -> Result<Erased, StoreError> {
        let ErasureRequest { customer, kind, reason } = request;
        if customer.contains('\0') {
            return Ok(Erased::default());
        }
        let all = self.services.pipeline.kinds().iter().map(|kind| kind.name.clone());
        let kinds = kind.map_or_else(|| all.collect(), |kind| vec![kind]);
        let erasure = Erasure { kinds, customer, reason, actor: actor() };
        let erased = self.services.store.erase(erasure).await?;
        tracing::info!(
            subjects = erased.subjects,
            unfinished = erased.unfinished.len(),
            "erased a customer's subjects"
        );
        Ok(erased)
    }
}
