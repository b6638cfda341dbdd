//! What a commit group must read before it is decided: one query per table, whatever the size of
//! the group.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::numbered::StoredSubject;
use super::operation::Pending;
use crate::domain::event::{Event, EventKey};
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{Batch, NewCancel, NewEvent, NewSubject, StoreError, Subject, Version};

/// A delivery's row, as far as a compare-and-set needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveryState {
    pub(crate) open: bool,
    pub(crate) round: u32,
    pub(crate) attempt: u32,
    pub(crate) created_ms: u64,
    pub(crate) queued_ms: u64,
}

/// What is stored of a delivery: nothing, only its event, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LoadedDelivery {
    /// Position of its event in the log.
    pub(crate) seq: Option<i64>,
    pub(crate) state: Option<DeliveryState>,
    /// Its subject is cancelled, or being cancelled.
    pub(crate) subject_cancelled: bool,
    /// No event has to follow for its subject.
    pub(crate) subject_finished: bool,
}

/// Refers to a delivery by stage and event.
pub(crate) type DeliveryRef<'a> = (&'a str, &'a EventKey);

/// A delivery that the group settles, and the subject that its event belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveryLookup<'a> {
    pub(crate) key: DeliveryRef<'a>,
    pub(crate) subject: Option<&'a str>,
}

/// How much a group reads before it is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Everything that its decisions depend on.
    #[default]
    Complete,
    /// Only what the statements that write do not verify: subjects and events of callers count as new,
    /// and state keys have the versions that the batches read. Where that is wrong, a statement finds
    /// it, and the group is decided again from a complete read.
    Optimistic,
}

/// The keys to read.
#[derive(Default)]
pub(crate) struct ReadSet<'a> {
    reading: Reading,
    /// Subjects by key.
    pub(crate) subjects: Vec<&'a str>,
    /// Subjects by (kind, idempotency key).
    pub(crate) idempotency_keys: Vec<(&'a str, &'a str)>,
    /// Events by (source, id).
    pub(crate) events: Vec<(&'a str, &'a str)>,
    /// Deliveries that the group settles.
    pub(crate) deliveries: Vec<DeliveryLookup<'a>>,
    /// State keys (stage, key), sorted, with the highest version that a batch read, or 0.
    pub(crate) versions: Vec<(&'a str, &'a str, Version)>,
    /// Stages to which an event of a subject may be handed over: (subject, stage).
    pub(crate) hand_overs: Vec<(&'a str, &'a str)>,
    /// Versions of state keys that are not read.
    assumed: HashMap<(&'a str, &'a str), Version>,
}

impl<'a> ReadSet<'a> {
    /// What `operations` need to know.
    pub(crate) fn of(operations: &[Pending<'a>], reading: Reading) -> Self {
        let mut read_set = Self { reading, ..Self::default() };
        for operation in operations {
            operation.read(&mut read_set);
        }
        read_set.sorted()
    }

    /// Everything that one batch needs to know.
    pub(crate) fn of_batch(batch: &'a Batch) -> Self {
        let mut read_set = Self::default();
        read_set.batch(batch);
        read_set.sorted()
    }

    fn sorted(mut self) -> Self {
        // The highest version of each key: versions only grow, so a lower one is no longer current.
        self.versions.sort_unstable_by(|a, b| (a.0, a.1, b.2).cmp(&(b.0, b.1, a.2)));
        self.versions.dedup_by_key(|(stage, key, _)| (*stage, *key));
        self
    }

    pub(super) fn subject(&mut self, subject: &'a NewSubject) {
        if self.reading == Reading::Optimistic {
            return;
        }
        self.subjects.push(&subject.key);
        self.idempotency_keys.extend(idempotency_ref(subject));
        self.event(&subject.event);
    }

    pub(super) fn event(&mut self, event: &'a NewEvent) {
        if self.reading == Reading::Optimistic {
            return;
        }
        self.events.push(event_ref(event));
    }

    pub(super) fn cancel(&mut self, cancel: &'a NewCancel) {
        self.subjects.push(&cancel.subject_key);
    }

    pub(super) fn batch(&mut self, batch: &'a Batch) {
        self.deliveries.extend(batch.settlements.iter().map(|one| DeliveryLookup {
            key: (&*one.delivery.stage, &one.delivery.event),
            subject: one.envelope.subject_key.as_deref(),
        }));
        let emitted = batch.settlements.iter().flat_map(|one| one.verdict.emitted());
        self.hand_overs
            .extend(emitted.filter(|event| event.hand_over).flat_map(NewEvent::stages_of_subject));
        let stage = &*batch.stage;
        let read = batch.reads.iter().map(|(key, version)| (stage, key.as_str(), *version));
        let written = batch.writes.iter().map(|(key, _)| (stage, key.as_str(), 0));
        if self.reading == Reading::Complete {
            self.versions.extend(read.chain(written));
            return;
        }
        for (stage, key, version) in read {
            // Versions only grow: the lower one of two is no longer current.
            let assumed = self.assumed.entry((stage, key)).or_default();
            *assumed = version.max(*assumed);
        }
        let is_assumed = |stage, key| self.assumed.contains_key(&(stage, key));
        self.versions.extend(written.filter(|(stage, key, _)| !is_assumed(stage, key)));
    }
}

/// A subject's row, as far as a compare-and-set needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadedStatus {
    /// Position in the table.
    pub(crate) pos: i64,
    pub(crate) status: Arc<str>,
}

/// A subject whose key is in use.
#[derive(Debug, Clone)]
pub(crate) enum KnownSubject<'a> {
    /// It is stored, with this fingerprint.
    Stored(Box<Subject>, String),
    /// This group accepts it.
    New(&'a NewSubject),
}

impl KnownSubject<'_> {
    pub(super) fn fingerprint(&self) -> &str {
        match self {
            Self::Stored(_, fingerprint) => fingerprint,
            Self::New(new) => &new.fingerprint,
        }
    }

    /// As it is stored; a new one is stored at `now_ms`.
    pub(super) fn subject(&self, now_ms: u64) -> Subject {
        match self {
            Self::Stored(subject, _) => Subject::clone(subject),
            Self::New(new) => new.stored_at(now_ms),
        }
    }
}

/// What was read, and what the group's operations changed in it so far.
#[derive(Default)]
pub(crate) struct Loaded<'a> {
    /// Whether it is all that the decisions depend on.
    pub(crate) reading: Reading,
    /// Subjects by key.
    pub(crate) subjects: HashMap<&'a str, KnownSubject<'a>>,
    /// Subjects by (kind, idempotency key).
    pub(crate) idempotency_keys: HashMap<(&'a str, &'a str), KnownSubject<'a>>,
    /// Events by (source, id), those of this group included.
    pub(crate) events: HashMap<(&'a str, &'a str), Cow<'a, Event>>,
    /// Deliveries that the group settles.
    pub(crate) deliveries: HashMap<DeliveryRef<'a>, LoadedDelivery>,
    /// Subjects that this group cancels.
    pub(crate) cancelled: HashSet<&'a str>,
    /// Versions of state keys (stage, key); absent: 0.
    pub(crate) versions: HashMap<(&'a str, &'a str), Version>,
    /// Subjects and stages with an open delivery that came before, or a message of this group.
    pub(crate) waiting: HashSet<(&'a str, &'a str)>,
    /// The subjects of those deliveries, by key, as they are stored.
    pub(crate) statuses: HashMap<&'a str, LoadedStatus>,
}

impl<'a> Loaded<'a> {
    /// What is assumed without reading it, taken from the read set.
    pub(crate) fn assumed(read_set: &mut ReadSet<'a>) -> Self {
        let versions = std::mem::take(&mut read_set.assumed);
        Self { reading: read_set.reading, versions, ..Self::default() }
    }

    /// Adds a delivery that the group settles, and its subject: the position of its event, the
    /// delivery's row, and the subject's, as far as they are stored.
    pub(crate) fn add_delivery(
        &mut self,
        one: DeliveryLookup<'a>,
        (seq, state): (Option<i64>, Option<DeliveryState>),
        status: Option<LoadedStatus>,
        kinds: &SubjectKinds,
    ) {
        let subject = one.subject.zip(status);
        let is = |what: fn(&SubjectKinds, &str, &str) -> bool| {
            subject.as_ref().is_some_and(|(key, stored)| what(kinds, key, &stored.status))
        };
        let stored = LoadedDelivery {
            seq,
            state,
            subject_cancelled: is(SubjectKinds::is_cancelled),
            subject_finished: is(SubjectKinds::is_finished),
        };
        self.deliveries.insert(one.key, stored);
        self.statuses.extend(subject);
    }

    /// The subjects with these keys; none unless all of them were read.
    pub(crate) fn stored_subjects(
        &self,
        keys: &[&'a str],
    ) -> Option<HashMap<&'a str, StoredSubject<'_>>> {
        let stored = |key: &&'a str| {
            let LoadedStatus { pos, status } = self.statuses.get(*key)?;
            Some((*key, StoredSubject { pos: *pos, status }))
        };
        keys.iter().map(stored).collect()
    }
}

/// The key of a new event.
pub(super) fn event_ref(event: &NewEvent) -> (&str, &str) {
    (&event.envelope.event.source, &event.envelope.event.id)
}

/// The kind and idempotency key of a new subject: each kind has its own keys.
pub(super) fn idempotency_ref(subject: &NewSubject) -> Option<(&str, &str)> {
    Some((subject.key.kind(), subject.idempotency_key.as_deref()?))
}

/// The key of a read set that a row numbered `index` belongs to.
pub(crate) fn lookup<T: Copy>(keys: &[T], index: i64) -> Result<T, StoreError> {
    usize::try_from(index)
        .ok()
        .and_then(|index| keys.get(index).copied())
        .ok_or_else(|| StoreError::Corrupt(format!("no key belongs to row {index}")))
}
