//! Decides cancellations, and which settlements a cancellation stops. No I/O.
//!
//! Guarantee carried here: a subject is cancelled at most once, and only from a status that allows
//! it. The stored status is verified under the subject's lock when the write set is written.

use serde_json::json;

use super::read_set::Loaded;
use super::write_set::WriteSet;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{AuditEntry, Cancelled, NewCancel, OutboxRow, Settlement, Subject, Verdict};

/// A request to cancel a subject.
pub(super) fn subject<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    kinds: &SubjectKinds,
    cancel: &'a NewCancel,
) -> (Cancelled, Vec<OutboxRow>) {
    let key = cancel.subject_key.as_str();
    let Some(known) = loaded.subjects.get(key) else {
        return (Cancelled::NotFound, Vec::new());
    };
    let subject = known.subject(write_set.now_ms());
    // Operations of the same group may have changed the status.
    let status = write_set.status_of(kinds, key, &subject.status);
    let subject = Subject { status: status.to_owned(), ..subject };
    if kinds.is_cancelled(key, &subject.status) {
        return (Cancelled::Already(subject), Vec::new());
    }
    let Some(next) = kinds.next(key, &subject.status, &cancel.event.envelope.event.event_type)
    else {
        return (Cancelled::Refused(subject), Vec::new());
    };
    loaded.cancelled.insert(key);
    let (before, after) = (json!({ "status": subject.status }), json!({ "status": next }));
    let entry = AuditEntry::new(&cancel.actor, "subject.cancel", key).change(before, after);
    write_set.audit(entry.because(cancel.reason.clone()));
    let subject = Subject { status: next.to_owned(), updated_at_ms: write_set.now_ms(), ..subject };
    let outbox = write_set.cancel(key, &cancel.event).into_iter().collect();
    (Cancelled::Begun(subject), outbox)
}

/// Whether a cancellation stops this settlement: its subject must not be cancelled when it is
/// written.
pub(super) fn is_stopped_by_cancel(kinds: &SubjectKinds, settlement: &Settlement) -> bool {
    let Some(key) = settlement.envelope.subject_key.as_deref() else { return false };
    let event_type = &settlement.envelope.event.event_type;
    !matches!(settlement.verdict, Verdict::Skipped)
        && !kinds.runs_when_cancelled(key, &settlement.delivery.stage, event_type)
}
