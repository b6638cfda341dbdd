//! Records of refused plugin files in the audit log.
//!
//! A file that stays as it is leaves one record, however often it is refused, by whichever host: the log
//! has one for each file name, content, and cause of the refusal. Bound: a host writes
//! [`PER_HOUR_MAX`] records an hour, so that a folder whose files change without end does not flood the
//! log; the host's own log has every refusal. Without a record, the file is refused all the same.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::{Value, json};

use crate::domain::actor::Actor;
use crate::domain::event::without_nul;
use crate::services::Services;
use crate::store::{AuditEntry, AuditOutcome};

/// Most records of a host in an hour.
const PER_HOUR_MAX: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Longest reason in a record, in characters.
const REASON_MAX: usize = 1_000;

/// Records refusals.
pub(super) struct Refusals(DefaultDirectRateLimiter);

/// A file that was refused.
pub(super) struct Refusal<'a> {
    pub(super) file: &'a str,
    /// Of its content; none: it is too large to be read.
    pub(super) digest: Option<&'a str>,
    /// Why.
    pub(super) error: &'a str,
    /// What has to change before it serves.
    pub(super) waiting_for: &'a str,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self(RateLimiter::direct(Quota::per_hour(PER_HOUR_MAX)))
    }

    /// Records that this host refused a file, unless that is known.
    pub(super) async fn record(&self, services: &Services, refusal: Refusal<'_>) {
        let Refusal { file, digest, error, waiting_for } = refusal;
        if self.0.check().is_err() {
            tracing::warn!(file, "too many refused plugin files: not recorded in the audit log");
            return;
        }
        let reason = without_nul(error.chars().take(REASON_MAX).collect());
        let after = json!({ "digest": digest, "waiting_for": waiting_for });
        let actor = Actor::host(&services.host);
        let entry = AuditEntry::new(&actor, "plugin.refuse", format!("plugin/{file}"))
            .change(Value::Null, after)
            .because(Some(reason));
        let entry = AuditEntry { outcome: AuditOutcome::Refused, ..entry };
        if let Err(error) = services.store.audit_once(entry).await {
            tracing::warn!(file, %error, "the refusal of a plugin file could not be recorded");
        }
    }
}
