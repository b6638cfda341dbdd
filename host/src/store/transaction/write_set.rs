//! The rows that a commit group writes, collected one operation after another.
//!
//! Only operations whose checks have passed add rows. A write set takes memory in proportion to the
//! group, which the committer bounds. It allocates positions in the log, which are final once the
//! database has claimed them: see [`WriteSet::number`].

use std::collections::HashMap;
use std::sync::Arc;

use super::numbered::NumberedWriteSet;
use super::rows::{
    AttemptRow, DeadLetterRow, DeliveryRow, Effect, EventRow, OpenDeliveryRow, OutboxInsert,
    RecordingRow, StateWrite, StatusEvent, SubjectRow,
};
use crate::domain::event::Envelope;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{AuditEntry, Direct, NarrowedRow, NewEvent, OutboxRow, Publishing, Settlement};

/// The last numbers that were given out; a write set takes the next ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    /// Position in the event log.
    pub(crate) event: i64,
    /// Outbox id.
    pub(crate) outbox: i64,
}

/// When a transaction takes place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransactionTime {
    /// The store's clock: written into rows, and the base of leases.
    pub(crate) now_ms: u64,
    /// The calling host's clock at the same time: what the host asks for "in 5 s" happens after 5 s,
    /// however far the two clocks differ.
    pub(crate) host_ms: u64,
}

/// A difference of clocks that is within the time between reading one and the other.
const SAME_TIME_MS: u64 = 100;
/// When something that does not wait is due.
pub(crate) const IMMEDIATELY: u64 = 0;

impl TransactionTime {
    /// When the store considers something due that is due at `at_ms` by the host's clock; none: it is
    /// due now.
    fn due_ms(&self, at_ms: u64) -> Option<u64> {
        let wait_ms = at_ms.checked_sub(self.host_ms).filter(|wait_ms| *wait_ms > 0)?;
        let agree = self.now_ms.abs_diff(self.host_ms) <= SAME_TIME_MS;
        Some(if agree { at_ms.max(self.now_ms) } else { self.now_ms.saturating_add(wait_ms) })
    }
}

/// Who sends the outbox rows that are due now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The host that commits the transaction, right afterwards: the rows are leased to it.
    #[default]
    ThisHost,
    /// Whichever host finds the rows.
    AnyHost,
}

/// How an event that is due now reaches its stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Through the broker.
    Message,
    /// The committing host runs it.
    HandOver,
}

/// Whether an event's subject waits for something to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubjectProgress {
    /// It does, or the event is its first one.
    Unfinished,
    /// It does not.
    Finished,
}

/// All rows of a group. Their `seq` is the position of their event in the log.
#[derive(Default)]
pub(crate) struct Rows<'a> {
    pub(crate) subjects: Vec<SubjectRow<'a>>,
    pub(crate) open_deliveries: Vec<OpenDeliveryRow<'a>>,
    pub(crate) deliveries: Vec<DeliveryRow<'a>>,
    pub(crate) outbox: Vec<OutboxInsert>,
    pub(crate) state: Vec<StateWrite<'a>>,
    /// Keys that a batch read and did not write, with the version that it read.
    pub(crate) verified_reads: Vec<StateWrite<'a>>,
    pub(crate) attempts: Vec<AttemptRow<'a>>,
    pub(crate) dead_letters: Vec<DeadLetterRow<'a>>,
    pub(crate) recordings: Vec<RecordingRow<'a>>,
    pub(crate) status_events: Vec<StatusEvent<'a>>,
    /// Subjects that must not be cancelled when this is written.
    pub(crate) not_cancelled: Vec<&'a str>,
    /// Subjects whose cancellation this may complete.
    pub(crate) maybe_completed: Vec<&'a str>,
    /// Outbox rows to delete.
    pub(crate) sent: Vec<i64>,
    /// What operators did.
    pub(crate) audit: Vec<AuditEntry>,
}

/// The rows before their positions are final.
pub(crate) struct WriteSet<'a> {
    numbers: Numbers,
    time: TransactionTime,
    publishing: Publishing,
    sender: Sender,
    kinds: Arc<SubjectKinds>,
    pub(crate) events: Vec<EventRow<'a>>,
    pub(super) rows: Rows<'a>,
}

impl<'a> WriteSet<'a> {
    pub(crate) fn new(
        numbers: Numbers,
        time: TransactionTime,
        publishing: Publishing,
        kinds: Arc<SubjectKinds>,
    ) -> Self {
        let (sender, events, rows) = (Sender::default(), Vec::new(), Rows::default());
        Self { numbers, time, publishing, sender, kinds, events, rows }
    }

    pub(crate) fn sent_by(self, sender: Sender) -> Self {
        Self { sender, ..self }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.time.now_ms
    }

    /// The kinds of subjects.
    pub(crate) fn kinds(&self) -> Arc<SubjectKinds> {
        Arc::clone(&self.kinds)
    }

    /// The last numbers that this write set took.
    pub(crate) fn numbers(&self) -> Numbers {
        self.numbers
    }

    /// Logs an event of another program; its position in the log.
    pub(super) fn adopt(&mut self, settlement: &'a Settlement) -> i64 {
        self.log(EventRow {
            seq: 0,
            envelope: &settlement.envelope,
            routed_to: vec![&settlement.delivery.stage],
            producer: None,
            due_ms: settlement.scheduled_ms,
            unrouted: false,
            must_be_new: false,
        })
    }

    /// Logs an event that no stage emitted and whose key was free, and sends it.
    pub(super) fn accepted(&mut self, new: &'a NewEvent) -> Option<OutboxRow> {
        let row = self.event(new, SubjectProgress::Unfinished);
        self.require_new();
        row
    }

    /// The event that was logged last must not be in the log already.
    fn require_new(&mut self) {
        if let Some(event) = self.events.last_mut() {
            event.must_be_new = true;
        }
    }

    /// Logs an event that may change its subject's status, opens its deliveries and sends it.
    pub(crate) fn event(
        &mut self,
        new: &'a NewEvent,
        progress: SubjectProgress,
    ) -> Option<OutboxRow> {
        self.event_by(new, progress, Way::Message)
    }

    /// The same, with the way to its stages.
    pub(super) fn event_by(
        &mut self,
        new: &'a NewEvent,
        progress: SubjectProgress,
        way: Way,
    ) -> Option<OutboxRow> {
        if let Some(subject) = &new.envelope.subject_key {
            self.status_event(subject, new, Effect::Optional);
            if self.kinds.is_cancel_event(subject, &new.envelope.event.event_type) {
                self.rows.maybe_completed.push(subject);
            }
        }
        self.log_and_send(new, progress, way)
    }

    /// Logs the event that cancels a subject; it must change the subject's status.
    pub(super) fn cancel(&mut self, subject: &'a str, new: &'a NewEvent) -> Option<OutboxRow> {
        self.status_event(subject, new, Effect::Required);
        // There may be nothing to compensate.
        self.rows.maybe_completed.push(subject);
        self.log_and_send(new, SubjectProgress::Unfinished, Way::Message)
    }

    /// The event is logged next, so it takes the next position.
    fn status_event(&mut self, subject: &'a str, new: &'a NewEvent, effect: Effect) {
        let seq = self.numbers.event + 1;
        let event_type = &new.envelope.event.event_type;
        self.rows.status_events.push(StatusEvent { seq, subject, event_type, effect });
    }

    /// Logs a subject's first event: the subject's row has the resulting status already.
    pub(super) fn first_event(&mut self, new: &'a NewEvent) -> Option<OutboxRow> {
        let way = if new.hand_over { Way::HandOver } else { Way::Message };
        let row = self.log_and_send(new, SubjectProgress::Unfinished, way);
        self.require_new();
        row
    }

    fn log_and_send(
        &mut self,
        new: &'a NewEvent,
        progress: SubjectProgress,
        way: Way,
    ) -> Option<OutboxRow> {
        let routed_to: Vec<&'a str> = new.routed_to.iter().map(AsRef::as_ref).collect();
        let producer = new.producer.as_ref().map(|(stage, digest)| (&**stage, &**digest));
        let is_consumed = !routed_to.is_empty() || new.only_stage.is_some();
        let later_ms = self.time.due_ms(new.due_at_ms);
        let seq = self.log(EventRow {
            seq: 0,
            envelope: &new.envelope,
            routed_to,
            producer,
            due_ms: later_ms.map(|_| new.due_at_ms),
            unrouted: !is_consumed
                && progress == SubjectProgress::Unfinished
                && new.needs_a_stage(&self.kinds),
            must_be_new: false,
        });
        let queued_ms = later_ms.unwrap_or(self.time.now_ms);
        let opened = new.routed_to.iter().map(|stage| OpenDeliveryRow { seq, stage, queued_ms });
        self.rows.open_deliveries.extend(opened);
        let event_type = &new.envelope.event.event_type;
        if new.only_logged || (!is_consumed && !self.publishing.listeners.hear(event_type)) {
            return None;
        }
        if way == Way::HandOver && later_ms.is_none() && is_consumed {
            let envelope = Arc::clone(&new.envelope);
            return Some(OutboxRow { id: None, envelope, direct: None, routed: true });
        }
        let direct = new.only_stage.as_ref().map(|stage| Direct {
            stage: Arc::clone(stage),
            round: 1,
            attempt: 1,
        });
        let row = self.send(seq, &new.envelope, direct, new.due_at_ms);
        row.map(|row| OutboxRow { routed: !new.routed_to.is_empty(), ..row })
    }

    /// Adds an event at the next position of the log.
    fn log(&mut self, event: EventRow<'a>) -> i64 {
        self.numbers.event += 1;
        let seq = self.numbers.event;
        self.events.push(EventRow { seq, ..event });
        seq
    }

    /// Opens deliveries of a logged event that no stage consumed before, and sends it to each stage.
    pub(crate) fn route(
        &mut self,
        seq: i64,
        envelope: &Arc<Envelope>,
        stages: &'a [Arc<str>],
        due_at_ms: u64,
    ) -> Vec<OutboxRow> {
        let queued_ms = self.time.due_ms(due_at_ms).unwrap_or(self.time.now_ms);
        let opened = stages.iter().map(|stage| OpenDeliveryRow { seq, stage, queued_ms });
        self.rows.open_deliveries.extend(opened);
        let direct = |stage: &Arc<str>| Direct { stage: Arc::clone(stage), round: 1, attempt: 1 };
        stages
            .iter()
            .filter_map(|stage| self.send(seq, envelope, Some(direct(stage)), due_at_ms))
            .collect()
    }

    /// When the store considers something due that is due at `at_ms` by the host's clock.
    pub(super) fn due_ms(&self, at_ms: u64) -> u64 {
        self.time.due_ms(at_ms).unwrap_or(self.time.now_ms)
    }

    /// Adds an outbox row, due at `due_at_ms` by the host's clock. One that is due now is leased to
    /// this host and returned, for the relay; without an outbox, it is only returned.
    pub(crate) fn send(
        &mut self,
        seq: i64,
        envelope: &Arc<Envelope>,
        direct: Option<Direct>,
        due_at_ms: u64,
    ) -> Option<OutboxRow> {
        let later_ms = self.time.due_ms(due_at_ms);
        let leased = later_ms.is_none() && self.sender == Sender::ThisHost;
        if leased && !self.publishing.from_outbox {
            return Some(OutboxRow {
                id: None,
                envelope: Arc::clone(envelope),
                direct,
                routed: true,
            });
        }
        self.numbers.outbox += 1;
        let id = self.numbers.outbox;
        self.rows.outbox.push(OutboxInsert {
            id,
            seq,
            due_ms: later_ms.unwrap_or(self.time.now_ms),
            leased,
            direct: direct.clone(),
        });
        leased.then(|| OutboxRow {
            id: Some(id),
            envelope: Arc::clone(envelope),
            direct,
            routed: true,
        })
    }

    /// Replaces outbox rows, whose events have these positions, with one row for each stage.
    pub(crate) fn narrow(
        &mut self,
        rows: &[NarrowedRow],
        positions: &HashMap<i64, i64>,
        delay_ms: u64,
    ) {
        let due_at_ms = self.time.host_ms + delay_ms.max(1);
        for row in rows {
            // Another host may have sent it since.
            let Some(seq) = positions.get(&row.id) else { continue };
            for stage in &row.stages {
                let direct = Direct { stage: Arc::clone(stage), round: 1, attempt: 1 };
                // It is due later, so there is no row to send now.
                let _ = self.send(*seq, &row.envelope, Some(direct), due_at_ms);
            }
            self.rows.sent.push(row.id);
        }
    }

    /// Records what an operator did.
    pub(super) fn audit(&mut self, entry: AuditEntry) {
        self.rows.audit.push(entry);
    }

    pub(super) fn delete_outbox_rows(&mut self, ids: &[i64]) {
        self.rows.sent.extend(ids);
    }

    /// The status of a subject after the events of this write set so far, given its stored status.
    pub(super) fn status_of<'r>(
        &self,
        kinds: &'r SubjectKinds,
        subject: &str,
        stored: &'r str,
    ) -> &'r str {
        let events = self.rows.status_events.iter().filter(|event| event.subject == subject);
        events.fold(stored, |status, event| {
            kinds.next(subject, status, event.event_type).unwrap_or(status)
        })
    }

    /// Makes the positions final. `known` has those of events that were in the log before (planned
    /// position → position in the log); their rows are not written again.
    pub(crate) fn number(self, known: &HashMap<i64, i64>) -> NumberedWriteSet<'a> {
        let mut rows = self.rows;
        if !known.is_empty() {
            let number = |seq: &mut i64| *seq = known.get(seq).copied().unwrap_or(*seq);
            rows.open_deliveries.iter_mut().for_each(|row| number(&mut row.seq));
            rows.deliveries.iter_mut().for_each(|row| number(&mut row.seq));
            rows.outbox.iter_mut().for_each(|row| number(&mut row.seq));
            rows.attempts.iter_mut().for_each(|row| number(&mut row.seq));
            rows.dead_letters.iter_mut().for_each(|row| number(&mut row.seq));
            rows.recordings.iter_mut().for_each(|row| number(&mut row.seq));
            // An event that was in the log before has changed its subject's status before.
            rows.status_events.retain(|row| !known.contains_key(&row.seq));
        }
        NumberedWriteSet::new(rows, self.time.now_ms)
    }
}
