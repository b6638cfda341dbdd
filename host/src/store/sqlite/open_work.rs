//! What the writer remembers of the work that it opened: subjects that it added, with their open
//! deliveries. It is the only writer, so it need not read these rows again when it settles them.
//!
//! Bounds: at most [`SUBJECTS_MAX`] subjects, each with at most [`DELIVERIES_MAX`] open deliveries; what
//! does not fit is read. A subject is forgotten when it has no open delivery. Guarantee: what is
//! remembered is what is stored. Everything is forgotten when a transaction fails, when another program
//! wrote into the file, and after an operation with statements of its own that change deliveries,
//! events or subjects.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::event::EventKey;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::DeliveryStatus;
use crate::store::transaction::{
    DeliveryLookup, DeliveryRow, DeliveryState, EventRow, Loaded, LoadedStatus, NewStatus,
    NumberedWriteSet, SubjectRow,
};

/// Subjects that are remembered.
const SUBJECTS_MAX: usize = 32_768;
/// Open deliveries of a subject that are remembered; a subject with more is forgotten.
const DELIVERIES_MAX: usize = 16;

/// The open work.
#[derive(Default)]
pub(super) struct OpenWork {
    subjects: HashMap<SubjectKey, OpenSubject>,
    /// `SQLite`'s number for the changes of other connections.
    data_version: i64,
}

struct OpenSubject {
    status: LoadedStatus,
    /// All its open deliveries.
    deliveries: Vec<OpenDelivery>,
}

struct OpenDelivery {
    event: EventKey,
    seq: i64,
    stage: Arc<str>,
    state: DeliveryState,
}

impl OpenWork {
    /// Forgets everything.
    pub(super) fn forget(&mut self) {
        self.subjects.clear();
    }

    /// Forgets everything if another program changed the file since the last transaction.
    pub(super) fn check(&mut self, data_version: i64) {
        if std::mem::replace(&mut self.data_version, data_version) != data_version {
            self.forget();
        }
    }

    /// Adds a delivery that a group settles, and its subject, to what is loaded. False if it is not
    /// remembered.
    pub(super) fn load<'a>(
        &self,
        one: DeliveryLookup<'a>,
        kinds: &SubjectKinds,
        loaded: &mut Loaded<'a>,
    ) -> bool {
        let Some(subject) = one.subject.and_then(|key| self.subjects.get(key)) else {
            return false;
        };
        let (stage, event) = one.key;
        let mut open = subject.deliveries.iter();
        let Some(open) = open.find(|open| *open.stage == *stage && open.event == *event) else {
            return false;
        };
        let status = Some(subject.status.clone());
        loaded.add_delivery(one, (Some(open.seq), Some(open.state)), status, kinds);
        true
    }

    /// Whether a stage has an open delivery of a subject; none if the subject is not remembered.
    pub(super) fn is_waiting(&self, subject: &str, stage: &str) -> Option<bool> {
        let deliveries = &self.subjects.get(subject)?.deliveries;
        Some(deliveries.iter().any(|open| *open.stage == *stage))
    }

    /// A subject was added at this position.
    pub(super) fn add(&mut self, pos: i64, SubjectRow(new): &SubjectRow<'_>) {
        if self.subjects.len() >= SUBJECTS_MAX {
            return;
        }
        let status = LoadedStatus { pos, status: new.status.as_str().into() };
        let subject = OpenSubject { status, deliveries: Vec::new() };
        self.subjects.insert(new.key.clone(), subject);
    }

    /// The status of a subject changed.
    pub(super) fn change(&mut self, new: &NewStatus<'_>) {
        if let Some(subject) = self.subjects.get_mut(new.subject) {
            subject.status.status = new.status.into();
        }
    }

    /// These deliveries were opened, and others settled.
    pub(super) fn update(&mut self, events: &[EventRow<'_>], rows: &NumberedWriteSet<'_>) {
        // Both are in the order of their numbers.
        let mut following = events.iter().peekable();
        for row in &rows.open_deliveries {
            while following.next_if(|event| event.seq < row.seq).is_some() {}
            let Some(event) = following.peek().filter(|event| event.seq == row.seq) else {
                // The event was logged by an earlier transaction.
                return self.forget();
            };
            let envelope = event.envelope;
            let Some(key) = envelope.subject_key.as_deref() else { continue };
            let event = &envelope.event;
            let open = OpenDelivery {
                event: EventKey { source: event.source.clone(), id: event.id.clone() },
                seq: row.seq,
                stage: Arc::clone(row.stage),
                state: row.state(rows.now_ms()),
            };
            self.open(key, open);
        }
        for row in &rows.deliveries {
            self.settle(row);
        }
        for key in events.iter().filter_map(|event| event.envelope.subject_key.as_deref()) {
            self.drop_idle(key);
        }
    }

    fn open(&mut self, key: &str, open: OpenDelivery) {
        let Some(subject) = self.subjects.get_mut(key) else { return };
        if subject.deliveries.len() < DELIVERIES_MAX {
            subject.deliveries.push(open);
        } else {
            self.subjects.remove(key);
        }
    }

    fn settle(&mut self, row: &DeliveryRow<'_>) {
        let Some(key) = row.subject else { return };
        let Some(subject) = self.subjects.get_mut(key) else { return };
        let is_it = |open: &OpenDelivery| open.seq == row.seq && *open.stage == *row.stage;
        let Some(index) = subject.deliveries.iter().position(is_it) else {
            // Another program's event, which this transaction logged.
            self.subjects.remove(key);
            return;
        };
        if row.status == DeliveryStatus::Open {
            subject.deliveries[index].state = row.state();
        } else {
            subject.deliveries.swap_remove(index);
            self.drop_idle(key);
        }
    }

    /// Forgets a subject without an open delivery: who knows when the next one comes.
    fn drop_idle(&mut self, key: &str) {
        if self.subjects.get(key).is_some_and(|subject| subject.deliveries.is_empty()) {
            self.subjects.remove(key);
        }
    }
}
