//! Erases what is stored of a customer, and keeps the skeleton of the log: which events there were,
//! when, and what became of them.
//!
//! A subject's data key is dropped, so that what it sealed cannot be read, wherever it was copied to.
//! What was written without a key is overwritten as well. An erasure is final.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::AuditEntry;
use crate::domain::actor::Actor;
use crate::domain::encryption::erased_value;
use crate::domain::event::hex;
use crate::domain::subject::SubjectKey;

/// Most subjects that one batch erases, and most unfinished ones that it names.
pub const ERASURE_MAX: u32 = 500;

/// What one batch erases.
#[derive(Debug, Clone)]
pub struct Erasure {
    /// Kinds of subjects.
    pub kinds: Vec<String>,
    /// Whose subjects.
    pub customer: String,
    /// Why, for the audit log.
    pub reason: Option<String>,
    /// Who erases them.
    pub actor: Actor,
}

/// What one batch erased.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Subjects.
    pub subjects: u64,
    /// Whether there may be further ones to erase.
    pub more: bool,
    /// Subjects that were not erased because something of them has to follow: finish or cancel them
    /// first. At most [`ERASURE_MAX`].
    pub unfinished: Vec<SubjectKey>,
}

impl Erasure {
    /// The record. The customer is named by a digest: the audit log is kept for long.
    pub(super) fn audited(&self, subjects: u64) -> AuditEntry {
        let digest: [u8; 32] = Sha256::digest(&self.customer).into();
        let object = format!("customer/sha256:{}", &hex(&digest)[..16]);
        let after = json!({ "erased": subjects });
        AuditEntry::new(&self.actor, "customer.erase", object)
            .change(Value::Null, after)
            .because(self.reason.clone())
    }
}

/// What a value is replaced with, as bytes and as a text.
pub(super) fn replacement() -> (Vec<u8>, String) {
    let value = erased_value();
    let text = String::from_utf8_lossy(&value).into_owned();
    (value, text)
}
