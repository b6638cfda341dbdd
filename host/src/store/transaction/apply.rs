//! Decides subjects, events and batches from what was loaded, without I/O. A rejected operation leaves
//! the write set as it was.
//!
//! Guarantee carried here: a delivery is settled by a compare-and-set on (open, round, attempt), a
//! batch only when every version that it read is still current, and a settlement that a
//! cancellation stops only when its subject is not cancelled.

use std::borrow::Cow;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::cancel::is_stopped_by_cancel;
use super::read_set::{
    DeliveryState, KnownSubject, Loaded, LoadedDelivery, event_ref, idempotency_ref,
};
use super::rows::{
    AttemptRow, DeadLetterRow, DeliveryRow, RecordingRow, SettledBy, StateWrite, SubjectRow,
};
use super::write_set::{SubjectProgress, Way, WriteSet};
use crate::domain::cloud_events::is_repetition;
use crate::domain::event::{DeliveryKey, EventKey};
use crate::domain::failure_fingerprint::FailureFingerprint;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{
    Accepted, AcceptedEvent, AttemptKey, Batch, Commit, DeliveryStatus, Direct, NewEvent,
    NewSubject, OutboxRow, Settlement, Verdict, Version,
};

/// A new subject: the first one with its key is accepted, also within one group.
pub(super) fn subject<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    new: &'a NewSubject,
) -> (Accepted, Vec<OutboxRow>) {
    let now_ms = write_set.now_ms();
    if let Some(accepted) = known_subject(loaded, new, now_ms) {
        return (accepted, Vec::new());
    }
    loaded.subjects.insert(&new.key, KnownSubject::New(new));
    let key = idempotency_ref(new);
    loaded.idempotency_keys.extend(key.map(|key| (key, KnownSubject::New(new))));
    write_set.rows.subjects.push(SubjectRow(new));
    let event = &new.event.envelope.event;
    loaded.events.insert(event_ref(&new.event), Cow::Borrowed(event));
    let outbox = write_set.first_event(&new.event).into_iter().collect();
    (Accepted::New(new.stored_at(now_ms)), outbox)
}

/// The outcome for a subject whose idempotency key or own key is in use.
fn known_subject(loaded: &Loaded<'_>, new: &NewSubject, now_ms: u64) -> Option<Accepted> {
    let by_key = idempotency_ref(new).and_then(|key| loaded.idempotency_keys.get(&key));
    let (known, otherwise) = match by_key {
        Some(known) => (known, Accepted::KeyReused),
        None => match loaded.subjects.get(new.key.as_str()) {
            Some(known) => (known, Accepted::Conflict),
            // Its first event is in the log, imported from another host: what follows it, too.
            None => {
                let is_known = loaded.events.contains_key(&event_ref(&new.event));
                return is_known.then_some(Accepted::Conflict);
            }
        },
    };
    Some(if known.fingerprint() == new.fingerprint {
        Accepted::Duplicate(known.subject(now_ms))
    } else {
        otherwise
    })
}

/// An event that no stage emitted: the first one with its key is accepted.
pub(super) fn event<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    new: &'a NewEvent,
) -> (AcceptedEvent, Vec<OutboxRow>) {
    let event = &new.envelope.event;
    match loaded.events.entry(event_ref(new)) {
        Entry::Occupied(known) if is_repetition(known.get(), event) => {
            (AcceptedEvent::Duplicate, Vec::new())
        }
        Entry::Occupied(_) => (AcceptedEvent::Conflict, Vec::new()),
        Entry::Vacant(free) => {
            free.insert(Cow::Borrowed(event));
            let outbox = write_set.accepted(new).into_iter().collect();
            (AcceptedEvent::New, outbox)
        }
    }
}

/// A lane's batch.
pub(crate) fn batch<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    kinds: &SubjectKinds,
    batch: &'a Batch,
) -> Commit {
    if let Some(refused) = conflict(loaded, batch).or_else(|| cancelled(loaded, kinds, batch)) {
        return refused;
    }
    for settlement in &batch.settlements {
        let Some(subject) = settlement.envelope.subject_key.as_deref() else { continue };
        if subject_cancelled(loaded, settlement) {
            write_set.rows.maybe_completed.push(subject);
        } else if is_stopped_by_cancel(kinds, settlement) {
            write_set.rows.not_cancelled.push(subject);
        }
    }
    let versions = write_state(loaded, write_set, batch);
    let mut queued_ms = 0;
    let mut outbox = Vec::new();
    for settlement in &batch.settlements {
        let before = stored(loaded, settlement);
        queued_ms = before.state.map_or(0, |state| state.queued_ms).max(queued_ms);
        outbox.extend(settle(loaded, write_set, kinds, settlement, before));
    }
    Commit::Done { versions, outbox, queued_ms }
}

/// The refusal of a batch whose deliveries moved on, or whose state was written meanwhile.
fn conflict(loaded: &Loaded<'_>, batch: &Batch) -> Option<Commit> {
    let stale: Vec<AttemptKey> = batch
        .settlements
        .iter()
        .filter(|one| !is_current(loaded, one))
        .map(Settlement::attempt_key)
        .collect();
    let changed =
        batch.reads.iter().filter(|(key, read)| version(loaded, &batch.stage, key) != *read);
    let conflicts: Vec<_> = changed.map(|(key, _)| key.clone()).collect();
    (!stale.is_empty() || !conflicts.is_empty()).then_some(Commit::Conflict { stale, conflicts })
}

/// The refusal of a batch that a cancellation stops.
fn cancelled(loaded: &Loaded<'_>, kinds: &SubjectKinds, batch: &Batch) -> Option<Commit> {
    let stopped: Vec<DeliveryKey> = batch
        .settlements
        .iter()
        .filter(|one| subject_cancelled(loaded, one) && is_stopped_by_cancel(kinds, one))
        .map(|one| one.delivery.clone())
        .collect();
    (!stopped.is_empty()).then_some(Commit::SubjectCancelled(stopped))
}

fn version(loaded: &Loaded<'_>, stage: &str, key: &str) -> Version {
    loaded.versions.get(&(stage, key)).copied().unwrap_or(0)
}

/// Adds the batch's state writes, and the reads that have to be verified; the new versions in the
/// order of the writes.
fn write_state<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    batch: &'a Batch,
) -> Vec<Version> {
    let stage: &'a str = &batch.stage;
    let mut versions = Vec::with_capacity(batch.writes.len());
    for (key, value) in &batch.writes {
        let next = version(loaded, stage, key) + 1;
        loaded.versions.insert((stage, key), next);
        versions.push(next);
        let value = value.as_deref();
        write_set.rows.state.push(StateWrite { stage, key, value, version: next });
    }
    let only_read = batch
        .reads
        .iter()
        .filter(|(key, _)| !batch.writes.iter().any(|(written, _)| written == key));
    write_set.rows.verified_reads.extend(only_read.map(|(key, version)| StateWrite {
        stage,
        key,
        value: None,
        version: *version,
    }));
    versions
}

/// Whether the delivery is still open in the round and attempt that were run. One that is not
/// stored is another program's: its first round is current.
fn is_current(loaded: &Loaded<'_>, settlement: &Settlement) -> bool {
    match stored(loaded, settlement).state {
        Some(state) => {
            state.open && (state.round, state.attempt) == (settlement.round, settlement.attempt)
        }
        None => settlement.round == 1 && settlement.attempt >= 1,
    }
}

/// Whether the delivery's subject is cancelled, or being cancelled.
fn subject_cancelled(loaded: &Loaded<'_>, settlement: &Settlement) -> bool {
    let subject = settlement.envelope.subject_key.as_deref();
    stored(loaded, settlement).subject_cancelled
        || subject.is_some_and(|subject| loaded.cancelled.contains(subject))
}

fn stored(loaded: &Loaded<'_>, settlement: &Settlement) -> LoadedDelivery {
    let key: (&str, &EventKey) = (&settlement.delivery.stage, &settlement.delivery.event);
    loaded.deliveries.get(&key).copied().unwrap_or_default()
}

/// What a verdict makes of its delivery.
struct Next {
    status: DeliveryStatus,
    attempt: u32,
    /// When the delivery is sent again; none: it is settled.
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
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    kinds: &SubjectKinds,
    settlement: &'a Settlement,
    before: LoadedDelivery,
) -> Vec<OutboxRow> {
    let stage: &'a str = &settlement.delivery.stage;
    let now_ms = write_set.now_ms();
    let seq = before.seq.unwrap_or_else(|| write_set.adopt(settlement));
    let next = next(settlement);
    let open = next.status == DeliveryStatus::Open;
    let state = DeliveryState {
        open,
        round: settlement.round,
        attempt: next.attempt,
        created_ms: before.state.map_or(now_ms, |state| state.created_ms),
        queued_ms: next
            .due_at_ms
            .map(|at_ms| write_set.due_ms(at_ms))
            .or(before.state.map(|state| state.queued_ms))
            .unwrap_or(now_ms),
    };
    let after = LoadedDelivery { seq: Some(seq), state: Some(state), ..before };
    loaded.deliveries.insert((stage, &settlement.delivery.event), after);
    let envelope = &*settlement.envelope;
    if let Some(failure) = &settlement.failure {
        write_set.rows.attempts.push(AttemptRow { seq, stage, failure, envelope });
    }
    if let Some(body) = settlement.recording.as_deref().filter(|_| !open) {
        write_set.rows.recordings.push(RecordingRow { seq, stage, body, envelope });
    }
    let progress = progress(kinds, before, settlement);
    let (emitted, mut outbox) = consequences(loaded, write_set, settlement, (seq, progress));
    write_set.rows.deliveries.push(DeliveryRow {
        seq,
        stage,
        subject: envelope.subject_key.as_deref(),
        round: state.round,
        attempt: state.attempt,
        expected: before.state.map(|state| (state.round, state.attempt)),
        status: next.status,
        settled: (!open).then(|| SettledBy {
            version: &settlement.version,
            digest: &settlement.digest,
            duration_us: settlement.duration_us,
            at_ms: now_ms,
        }),
        host: settlement.host.as_deref(),
        emitted,
        created_ms: state.created_ms,
        queued_ms: state.queued_ms,
    });
    if let Some(due_at_ms) = next.due_at_ms {
        let direct = Direct {
            stage: Arc::clone(&settlement.delivery.stage),
            round: settlement.round,
            attempt: next.attempt,
        };
        outbox.extend(write_set.send(seq, &settlement.envelope, Some(direct), due_at_ms));
    }
    outbox
}

/// Whether the settlement's subject waits for something after the events that the settlement emits.
fn progress(
    kinds: &SubjectKinds,
    stored: LoadedDelivery,
    settlement: &Settlement,
) -> SubjectProgress {
    let finishes = |event: &NewEvent| {
        let envelope = &event.envelope;
        envelope
            .subject_key
            .as_deref()
            .is_some_and(|key| kinds.finishes(key, &envelope.event.event_type))
    };
    let finished = match &settlement.verdict {
        Verdict::Done(events) => events.iter().any(finishes),
        _ => false,
    };
    if stored.subject_finished || finished {
        SubjectProgress::Finished
    } else {
        SubjectProgress::Unfinished
    }
}

/// Logs the events of a verdict and adds the dead letter; the ids of emitted events, and the rows to
/// send.
fn consequences<'a>(
    loaded: &mut Loaded<'a>,
    write_set: &mut WriteSet<'a>,
    settlement: &'a Settlement,
    (seq, progress): (i64, SubjectProgress),
) -> (Vec<&'a str>, Vec<OutboxRow>) {
    match &settlement.verdict {
        Verdict::Done(events) => (
            events.iter().map(|event| event.envelope.event.id.as_str()).collect(),
            events
                .iter()
                .filter_map(|event| emit(&mut loaded.waiting, write_set, event, progress))
                .collect(),
        ),
        Verdict::Dead { code, message, announcement } => {
            let stage: &'a str = &settlement.delivery.stage;
            let backtrace =
                settlement.failure.as_ref().and_then(|failed| failed.backtrace.as_deref());
            write_set.rows.dead_letters.push(DeadLetterRow {
                seq,
                stage,
                round: settlement.round,
                code,
                message,
                digest: &settlement.digest,
                fingerprint: FailureFingerprint::of(stage, (code, message), backtrace),
                envelope: &settlement.envelope,
            });
            (Vec::new(), write_set.event(announcement, progress).into_iter().collect())
        }
        Verdict::Retry { .. } | Verdict::Skipped | Verdict::Deferred { .. } => {
            (Vec::new(), Vec::new())
        }
    }
}

/// Logs an emitted event, and hands it over or sends it. It is not handed over while an earlier event
/// of its subject waits for one of its stages, which would come second.
fn emit<'a>(
    waiting: &mut HashSet<(&'a str, &'a str)>,
    write_set: &mut WriteSet<'a>,
    event: &'a NewEvent,
    progress: SubjectProgress,
) -> Option<OutboxRow> {
    if event.hand_over && !event.stages_of_subject().any(|key| waiting.contains(&key)) {
        return write_set.event_by(event, progress, Way::HandOver);
    }
    waiting.extend(event.stages_of_subject());
    write_set.event(event, progress)
}
