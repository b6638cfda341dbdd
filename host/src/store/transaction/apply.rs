//! Decides what becomes of an operation, from what is known, without I/O: a rejected one leaves the
//! plan as it was.
//!
//! Guarantee carried here: a delivery is settled by a compare-and-set on (open, round, attempt), a
//! batch only when every version that it relied upon is the present one, and what a cancel stops
//! only when its order is not cancelled.

use std::sync::Arc;

use super::cancel::goes_forward;
use super::read_set::{Loaded, Present, Seen, event_ref};
use super::rows::{AttemptRow, DeadRow, DeliveryRow, OrderRow, RecordingRow, SettledBy, StateRow};
use super::write_set::WriteSet;
use crate::domain::event::EventKey;
use crate::domain::failure_fingerprint::FailureFingerprint;
use crate::domain::order_status::StatusRules;
use crate::store::{
    Accepted, Batch, Commit, DeliveryStatus, Direct, NewEvent, NewOrder, Order, OutboxRow,
    Settlement, Verdict,
};

/// A new order: the first of its id wins, also within one group.
pub(super) fn order<'a>(
    known: &mut Loaded<'a>,
    plan: &mut WriteSet<'a>,
    new: &'a NewOrder,
) -> (Accepted, Vec<OutboxRow>) {
    let key = new.idempotency_key.as_deref();
    if let Some((present, fingerprint)) = key.and_then(|key| known.keys.get(key)) {
        let accepted = if *fingerprint == new.fingerprint {
            Accepted::Duplicate(present.clone())
        } else {
            Accepted::KeyReused
        };
        return (accepted, Vec::new());
    }
    if let Some((present, fingerprint)) = known.orders.get(new.id.as_str()) {
        let accepted = if *fingerprint == new.fingerprint {
            Accepted::Duplicate(present.clone())
        } else {
            Accepted::Conflict
        };
        return (accepted, Vec::new());
    }
    let order = Order {
        id: new.id.clone(),
        customer: new.customer.clone(),
        status: new.status.clone(),
        body: new.body.clone(),
        created_at_ms: plan.now_ms(),
        updated_at_ms: plan.now_ms(),
    };
    known.orders.insert(&new.id, (order.clone(), new.fingerprint.clone()));
    known.keys.extend(key.map(|key| (key, (order.clone(), new.fingerprint.clone()))));
    plan.orders.push(OrderRow(new));
    let outbox = plan.first_event(&new.event).into_iter().collect();
    (Accepted::New(order), outbox)
}

/// An event from outside: the first of its key wins.
pub(super) fn event<'a>(
    known: &mut Loaded<'a>,
    plan: &mut WriteSet<'a>,
    new: &'a NewEvent,
) -> (bool, Vec<OutboxRow>) {
    if !known.events.insert(event_ref(new)) {
        return (false, Vec::new());
    }
    (true, plan.event(new).into_iter().collect())
}

/// A lane's batch.
pub(super) fn batch<'a>(
    known: &mut Loaded<'a>,
    plan: &mut WriteSet<'a>,
    rules: &StatusRules,
    batch: &'a Batch,
) -> Commit {
    let stage: &'a str = &batch.stage;
    let version =
        |known: &Loaded<'a>, key: &'a str| known.versions.get(&(stage, key)).copied().unwrap_or(0);
    let stale: Vec<_> = batch
        .settlements
        .iter()
        .filter(|one| !fits(known, one))
        .map(|one| one.delivery.clone())
        .collect();
    let changed =
        batch.reads.iter().filter(|(key, relied_upon)| version(known, key) != *relied_upon);
    let conflicts: Vec<_> = changed.map(|(key, _)| key.clone()).collect();
    if !stale.is_empty() || !conflicts.is_empty() {
        return Commit::Conflict { stale, conflicts };
    }
    let overtaken =
        batch.settlements.iter().filter(|one| is_held(known, one) && goes_forward(rules, one));
    let overtaken: Vec<_> = overtaken.map(|one| one.delivery.clone()).collect();
    if !overtaken.is_empty() {
        return Commit::OrderCancelled(overtaken);
    }
    for settlement in &batch.settlements {
        let Some(order) = settlement.envelope.order_id.as_deref() else { continue };
        if is_held(known, settlement) {
            plan.ending.push(order);
        } else if goes_forward(rules, settlement) {
            plan.forward.push(order);
        }
    }
    let mut versions = Vec::with_capacity(batch.writes.len());
    for (key, value) in &batch.writes {
        let next = version(known, key) + 1;
        known.versions.insert((stage, key), next);
        versions.push(next);
        plan.state.push(StateRow { stage, key, value: value.as_deref(), version: next });
    }
    let only_read = batch
        .reads
        .iter()
        .filter(|(key, _)| !batch.writes.iter().any(|(written, _)| written == key));
    plan.relied_upon.extend(only_read.map(|(key, version)| StateRow {
        stage,
        key,
        value: None,
        version: *version,
    }));
    let outbox = batch.settlements.iter().flat_map(|one| settle(known, plan, one)).collect();
    Commit::Done { versions, outbox }
}

/// Whether the delivery still stands where the try found it. One that is not there at all came from
/// elsewhere: its first round fits.
fn fits(known: &Loaded<'_>, settlement: &Settlement) -> bool {
    match seen(known, settlement).row {
        Some(row) => row.open && row.round == settlement.round && row.attempt == settlement.attempt,
        None => settlement.round == 1 && settlement.attempt >= 1,
    }
}

/// Whether the delivery's order is cancelled, or being cancelled.
fn is_held(known: &Loaded<'_>, settlement: &Settlement) -> bool {
    seen(known, settlement).held
        || settlement.envelope.order_id.as_deref().is_some_and(|order| known.held.contains(order))
}

fn seen(known: &Loaded<'_>, settlement: &Settlement) -> Seen {
    let key: (&str, &EventKey) = (&settlement.delivery.stage, &settlement.delivery.event);
    known.deliveries.get(&key).copied().unwrap_or_default()
}

/// Where a delivery goes next.
struct Next {
    status: DeliveryStatus,
    attempt: u32,
    /// Sent again then.
    due_at_ms: Option<u64>,
}

fn next(settlement: &Settlement) -> Next {
    let attempt = settlement.attempt;
    let (status, attempt, due_at_ms) = match &settlement.verdict {
        Verdict::Done(_) => (DeliveryStatus::Done, attempt, None),
        Verdict::Skipped => (DeliveryStatus::Skipped, attempt, None),
        Verdict::Dead { .. } => (DeliveryStatus::Dead, attempt, None),
        Verdict::Retry { due_at_ms } => (DeliveryStatus::Open, attempt + 1, Some(*due_at_ms)),
        Verdict::Deferred { due_at_ms } => (DeliveryStatus::Open, attempt, Some(*due_at_ms)),
    };
    Next { status, attempt, due_at_ms }
}

fn settle<'a>(
    known: &mut Loaded<'a>,
    plan: &mut WriteSet<'a>,
    settlement: &'a Settlement,
) -> Vec<OutboxRow> {
    let stage: &'a str = &settlement.delivery.stage;
    let now_ms = plan.now_ms();
    let before = seen(known, settlement);
    let seq = before.seq.unwrap_or_else(|| plan.adopt(&settlement.envelope, stage));
    let next = next(settlement);
    let open = next.status == DeliveryStatus::Open;
    let present = Present {
        open,
        round: settlement.round,
        attempt: next.attempt,
        created_ms: before.row.map_or(now_ms, |row| row.created_ms),
        queued_ms: next.due_at_ms.or(before.row.map(|row| row.queued_ms)).unwrap_or(now_ms),
    };
    let after = Seen { seq: Some(seq), row: Some(present), held: before.held };
    known.deliveries.insert((stage, &settlement.delivery.event), after);
    if let Some(failure) = &settlement.failure {
        plan.attempts.push(AttemptRow { seq, stage, failure });
    }
    if let Some(body) = settlement.recording.as_deref().filter(|_| !open) {
        plan.recordings.push(RecordingRow { seq, stage, body });
    }
    let (emitted, mut outbox) = consequences(plan, settlement, seq);
    plan.settled.push(DeliveryRow {
        seq,
        stage,
        round: present.round,
        attempt: present.attempt,
        expected: before.row.map(|row| (row.round, row.attempt)),
        status: next.status,
        settled: (!open).then(|| SettledBy {
            version: &settlement.version,
            digest: &settlement.digest,
            duration_us: settlement.duration_us,
            at_ms: now_ms,
        }),
        emitted,
        created_ms: present.created_ms,
        queued_ms: present.queued_ms,
    });
    if let Some(due_at_ms) = next.due_at_ms {
        let direct = Direct {
            stage: Arc::clone(&settlement.delivery.stage),
            round: settlement.round,
            attempt: next.attempt,
        };
        outbox.extend(plan.send(seq, &settlement.envelope, Some(direct), due_at_ms));
    }
    outbox
}

/// The events that a verdict brings, and the dead letter.
fn consequences<'a>(
    plan: &mut WriteSet<'a>,
    settlement: &'a Settlement,
    seq: i64,
) -> (Vec<&'a str>, Vec<OutboxRow>) {
    match &settlement.verdict {
        Verdict::Done(events) => (
            events.iter().map(|event| event.envelope.event.id.as_str()).collect(),
            events.iter().filter_map(|event| plan.event(event)).collect(),
        ),
        Verdict::Dead { code, message, announcement } => {
            let stage: &'a str = &settlement.delivery.stage;
            plan.dead.push(DeadRow {
                seq,
                stage,
                round: settlement.round,
                code,
                message,
                digest: &settlement.digest,
                fingerprint: FailureFingerprint::of(
                    stage,
                    (code, message),
                    settlement.failure.as_ref().and_then(|failure| failure.backtrace.as_deref()),
                ),
            });
            (Vec::new(), plan.event(announcement).into_iter().collect())
        }
        Verdict::Retry { .. } | Verdict::Skipped | Verdict::Deferred { .. } => {
            (Vec::new(), Vec::new())
        }
    }
}
