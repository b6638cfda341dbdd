//! The kind that is built in: orders, as the shipped stages process them.

use std::collections::BTreeMap;

use super::{CancelTable, StatusTable};
use crate::domain::event::DEAD_LETTERED;
use crate::domain::subject_status::Transition;

/// The kind's name.
pub(super) const NAME: &str = "order";
const CANCELLED: &str = "order.cancelled";

/// The status table of the shipped stages in their default sequence.
pub(super) fn table() -> StatusTable {
    let named = |statuses: &[&str]| Some(statuses.iter().map(ToString::to_string).collect());
    let rules: [(&str, &str, Option<Vec<String>>); 10] = [
        ("order.created", "received", Some(Vec::new())),
        ("payment.authorized", "authorized", None),
        ("payment.declined", "declined", None),
        ("inventory.reserved", "reserved", None),
        // Not terminal: the refund follows.
        ("inventory.rejected", "rejected", None),
        // A replayed refund follows `failed`.
        ("payment.refunded", "refunded", named(&["rejected", "failed"])),
        ("shipping.ready", "ready", None),
        // The point of no return.
        ("shipping.dispatched", "dispatched", named(&["ready"])),
        (
            CANCELLED,
            "cancelling",
            named(&["received", "authorized", "reserved", "ready", "failed"]),
        ),
        // Not terminal: a replay continues from here.
        (DEAD_LETTERED, "failed", None),
    ];
    let transitions: BTreeMap<String, Transition> = rules
        .into_iter()
        .map(|(event_type, status, from)| {
            (event_type.to_owned(), Transition { status: status.to_owned(), from })
        })
        .collect();
    StatusTable {
        transitions,
        terminal: ["declined", "refunded", "ready", "dispatched"].map(String::from).into(),
        cancel: CancelTable::default(),
    }
}

/// The compensations of the shipped stages.
pub(super) fn compensations() -> Vec<String> {
    let types = [
        CANCELLED,
        "payment.refunded",
        "inventory.released",
        "shipping.recalled",
        "notification.sent",
    ];
    types.map(String::from).to_vec()
}
