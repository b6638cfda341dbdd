//! The steps of a message's way through the host, as spans, and what they cost, as events: for
//! measurements (`postrider bench --costs`).
//!
//! Both have targets of their own and the level trace. Where no subscriber wants them, each costs one
//! comparison. Beside the spans with this target, the span `call` is a step.

/// Target of the spans that tell the steps apart: `request`, `commit`, `consume`, `batch`, `publish`,
/// `outbox`.
pub const STEPS: &str = "postrider::step";

/// Target of the events that count costs. Each field is a number to be added to the count of its
/// name.
pub const COSTS: &str = "postrider::cost";

/// Counts a JSON text that was read.
pub(crate) fn count_json_read() {
    tracing::trace!(target: COSTS, json_reads = 1_u64);
}

/// Counts a JSON text that was written.
pub(crate) fn count_json_written() {
    tracing::trace!(target: COSTS, json_writes = 1_u64);
}
