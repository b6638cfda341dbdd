//! What of a row is sealed, and where: the one list for writing and reading, and for every database.
//!
//! The key of a subject, the types, times and ids of events, codes of failures, keys of state and what
//! operators write are not sealed: the store searches by them.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::StoreError;
use super::transaction::{
    AttemptRow, DeadLetterRow, EventRow, RecordingRow, StateWrite, SubjectRow,
};
use crate::domain::encryption::{DataKey, Encryption, Place, SharedKey, StoredKey, unreadable};
use crate::domain::event::Envelope;
use crate::store::NewSubject;
use crate::store::decode::Columns;

const BODY: &str = "subjects.body";
const DATA: &str = "events.data";
const STATE: &str = "state.value";
const RECORDING: &str = "recordings.body";
const MESSAGE: &str = "failure.message";
const BACKTRACE: &str = "failure.backtrace";
const FINGERPRINT: &str = "failure.fingerprint";
const REPORT: &str = "hosts.report";

/// Gives a new subject the key that its values are sealed with.
pub(super) fn give_key(encryption: &Encryption, mut subject: NewSubject) -> NewSubject {
    if let Some(key) = encryption.new_data_key(&subject.key) {
        Arc::make_mut(&mut subject.event.envelope).data_key = Some(key);
    }
    subject
}

fn subject(envelope: &Envelope) -> &str {
    envelope.subject_key.as_deref().unwrap_or_default()
}

fn key(envelope: &Envelope) -> Option<&DataKey> {
    envelope.data_key.as_deref()
}

/// A text of an event's delivery.
fn text<'a>(
    encryption: &Encryption,
    envelope: &Envelope,
    column: &'static str,
    plain: &'a str,
) -> Cow<'a, str> {
    encryption.seal_text(key(envelope), Place::of(column, subject(envelope)), plain)
}

impl SubjectRow<'_> {
    pub(super) fn stored_body(&self, encryption: &Encryption) -> String {
        let body = self.0.body.to_string();
        match encryption.seal_text(key(&self.0.event.envelope), Place::of(BODY, &self.0.key), &body)
        {
            Cow::Borrowed(_) => body,
            Cow::Owned(sealed) => sealed,
        }
    }

    pub(super) fn data_key(&self) -> Option<&str> {
        key(&self.0.event.envelope).map(DataKey::wrapped)
    }
}

impl<'a> EventRow<'a> {
    pub(super) fn stored_data(&self, encryption: &Encryption) -> Cow<'a, [u8]> {
        let envelope = self.envelope;
        let place = Place { column: DATA, owner: subject(envelope), name: &envelope.event.id };
        encryption.seal(key(envelope), place, &envelope.event.data)
    }
}

impl<'a> StateWrite<'a> {
    pub(super) fn stored_value(&self, encryption: &Encryption) -> Option<Cow<'a, [u8]>> {
        let place = Place { column: STATE, owner: self.stage, name: self.key };
        self.value.map(|value| encryption.seal(None, place, value))
    }
}

impl<'a> AttemptRow<'a> {
    pub(super) fn stored_message(&self, encryption: &Encryption) -> Cow<'a, str> {
        text(encryption, self.envelope, MESSAGE, &self.failure.message)
    }

    pub(super) fn stored_backtrace(&self, encryption: &Encryption) -> Option<Cow<'a, str>> {
        let backtrace = self.failure.backtrace.as_deref();
        backtrace.map(|backtrace| text(encryption, self.envelope, BACKTRACE, backtrace))
    }
}

impl<'a> RecordingRow<'a> {
    pub(super) fn stored_body(&self, encryption: &Encryption) -> Cow<'a, str> {
        text(encryption, self.envelope, RECORDING, self.body)
    }
}

impl<'a> DeadLetterRow<'a> {
    pub(super) fn stored_message(&self, encryption: &Encryption) -> Cow<'a, str> {
        text(encryption, self.envelope, MESSAGE, self.message)
    }

    pub(super) fn stored_fingerprint(&self, encryption: &Encryption) -> Cow<'_, str> {
        text(encryption, self.envelope, FINGERPRINT, &self.fingerprint.text)
    }
}

/// The subject that values of a row belong to, and its key.
pub(super) struct Owner<'a> {
    encryption: &'a Encryption,
    /// Empty: none.
    subject: &'a str,
    key: StoredKey,
}

impl<'a> Owner<'a> {
    /// The subject's key and its data key are in these columns.
    pub(super) fn of(
        encryption: &'a Encryption,
        row: &'a impl Columns,
        (subject, wrapped): (usize, usize),
    ) -> Result<Self, StoreError> {
        let subject = row.maybe_text(subject)?.unwrap_or_default();
        let key = encryption.key_of(subject, row.maybe_text(wrapped)?);
        Ok(Self { encryption, subject, key })
    }

    fn open_text(&self, column: &'static str, stored: &str) -> String {
        let place = Place::of(column, self.subject);
        self.encryption.open_text(&self.key, place, stored).into_owned()
    }

    /// A text for people.
    fn shown(&self, column: &'static str, stored: &str) -> String {
        let opened = self.open_text(column, stored);
        match unreadable(opened.as_bytes()) {
            Some(why) => format!("(this text cannot be read: {why})"),
            None => opened,
        }
    }

    pub(super) fn body(&self, stored: &str) -> String {
        self.open_text(BODY, stored)
    }

    pub(super) fn data(&self, event_id: &str, stored: &[u8]) -> Bytes {
        let place = Place { column: DATA, owner: self.subject, name: event_id };
        let opened = self.encryption.open(&self.key, place, stored);
        Bytes::copy_from_slice(&opened)
    }

    pub(super) fn recording(&self, stored: &str) -> String {
        self.open_text(RECORDING, stored)
    }

    pub(super) fn message(&self, stored: &str) -> String {
        self.shown(MESSAGE, stored)
    }

    pub(super) fn backtrace(&self, stored: &str) -> String {
        self.shown(BACKTRACE, stored)
    }

    pub(super) fn fingerprint(&self, stored: &str) -> String {
        self.shown(FINGERPRINT, stored)
    }

    /// What follows from the row's event is sealed with it.
    pub(super) fn into_data_key(self) -> Option<Arc<DataKey>> {
        self.key.ok()
    }
}

/// The value of a stage's key.
pub(super) fn state(
    encryption: &Encryption,
    (stage, key): (&str, &str),
    stored: &[u8],
) -> Result<Bytes, StoreError> {
    let place = Place { column: STATE, owner: stage, name: key };
    let opened = encryption.open(&encryption.key_of("", None), place, stored);
    match unreadable(&opened) {
        None => Ok(Bytes::copy_from_slice(&opened)),
        Some(why) => Err(StoreError::StateUnavailable {
            stage: stage.to_owned(),
            problem: format!("the value of `{key}` cannot be read: {why}"),
        }),
    }
}

/// What a host reports of itself: it may quote failures.
pub(super) fn report<'a>(encryption: &Encryption, host: &str, plain: &'a str) -> Cow<'a, str> {
    encryption.seal_text(None, Place::of(REPORT, host), plain)
}

/// The report of a host; none if it cannot be read.
pub(super) fn open_report(encryption: &Encryption, host: &str, stored: &str) -> Option<String> {
    let key = encryption.key_of("", None);
    let opened = encryption.open_text(&key, Place::of(REPORT, host), stored).into_owned();
    unreadable(opened.as_bytes()).is_none().then_some(opened)
}

/// All shared keys, for [`shared_keys`].
pub(super) const SHARED_KEYS: &str = "SELECT number, wrapped FROM shared_keys ORDER BY number";
/// Adds one, unless another host has added it: number, wrapped, time.
pub(super) const ADD_SHARED_KEY: &str = "INSERT INTO shared_keys (number, wrapped, created_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

pub(super) fn shared_keys(rows: &[impl Columns]) -> Result<Vec<SharedKey>, StoreError> {
    rows.iter().map(|row| Ok(SharedKey { number: row.small(0)?, wrapped: row.owned(1)? })).collect()
}
