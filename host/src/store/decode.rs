//! Rows as values, for every database: the column lists of queries, and their decoding.
//!
//! A negative time or count, or invalid JSON, is `Corrupt`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::sealed::{self, Owner};
use super::{
    ControlState, DeadLetter, DeadLetterStatus, DeliveryRecord, DeliveryStatus, Direct,
    FailedAttempt, LoggedEvent, OutboxRow, Page, PluginLoad, RecordedDelivery, RecordingCursor,
    StageControl, StateRow, StoreError, Subject,
};
use crate::domain::encryption::{Encryption, unreadable};
use crate::domain::event::{Envelope, Event, EventKey};
use crate::domain::fair_queue::customer_hash;
use crate::domain::steps::count_json_read;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::transaction::{
    DeliveryLookup, DeliveryState, Loaded, LoadedStatus, StoredSubject,
};

/// The columns that [`envelope`] reads, of `events e`: sixteen. The customer and the data key are read from
/// the subject, as only rows on the slow paths are read back.
macro_rules! envelope_columns {
    () => {
        "e.source, e.id, e.type, e.subject, e.time_ms, e.content_type, e.data, e.attributes, \
         e.subject_key, e.correlation_id, \
         e.cause_source, e.cause_id, e.hops, e.expires_ms, \
         (SELECT c.customer FROM subjects c WHERE c.key = e.subject_key), \
         (SELECT c.data_key FROM subjects c WHERE c.key = e.subject_key)"
    };
}
pub(super) use envelope_columns;

/// The columns that [`logged_event`] reads, of `events e`.
macro_rules! logged_columns {
    () => {
        concat!(
            "e.seq, e.stage, e.digest, e.routed_to, e.logged_ms, e.due_ms, ",
            $crate::store::decode::envelope_columns!()
        )
    };
}
pub(super) use logged_columns;

/// The columns that [`subject`] reads, of `subjects sub`: nine, the seventh for the cursor.
macro_rules! subject_columns {
    () => {
        "sub.key, sub.customer, sub.status, sub.body, sub.created_ms, sub.updated_ms, sub.pos, \
         sub.owner, sub.data_key"
    };
}
pub(super) use subject_columns;

/// The columns that [`attempts`] reads, of `attempts a`.
macro_rules! attempt_columns {
    () => {
        "a.event_seq, a.stage, a.round, a.attempt, a.code, a.message, a.backtrace, a.digest, \
         a.duration_us, a.at_ms, a.host, (SELECT e.subject_key FROM events e WHERE e.seq = a.event_seq), \
         (SELECT c.data_key FROM events e JOIN subjects c ON c.key = e.subject_key WHERE e.seq = \
         a.event_seq)"
    };
}
pub(super) use attempt_columns;

/// The columns that [`outbox_row`] reads, of `outbox o` and `events e`.
macro_rules! outbox_columns {
    () => {
        concat!(
            "o.id, o.stage, o.round, o.attempt, e.routed_to IS NOT NULL, ",
            $crate::store::decode::envelope_columns!()
        )
    };
}
pub(super) use outbox_columns;

/// A row of any database.
pub(super) trait Columns {
    fn int(&self, at: usize) -> Result<i64, StoreError>;
    fn maybe_int(&self, at: usize) -> Result<Option<i64>, StoreError>;
    fn text(&self, at: usize) -> Result<&str, StoreError>;
    fn maybe_text(&self, at: usize) -> Result<Option<&str>, StoreError>;
    fn blob(&self, at: usize) -> Result<&[u8], StoreError>;
    fn maybe_blob(&self, at: usize) -> Result<Option<&[u8]>, StoreError>;
    fn flag(&self, at: usize) -> Result<bool, StoreError>;
    fn maybe_flag(&self, at: usize) -> Result<Option<bool>, StoreError>;

    fn owned(&self, at: usize) -> Result<String, StoreError> {
        self.text(at).map(str::to_owned)
    }

    fn maybe_owned(&self, at: usize) -> Result<Option<String>, StoreError> {
        Ok(self.maybe_text(at)?.map(str::to_owned))
    }

    /// A subject's key.
    fn subject(&self, at: usize) -> Result<SubjectKey, StoreError> {
        subject_key(self.text(at)?)
    }

    fn maybe_subject(&self, at: usize) -> Result<Option<SubjectKey>, StoreError> {
        self.maybe_text(at)?.map(subject_key).transpose()
    }

    /// A count or a time.
    fn unsigned(&self, at: usize) -> Result<u64, StoreError> {
        let value = self.int(at)?;
        u64::try_from(value)
            .map_err(|_| StoreError::Corrupt(format!("{value} is not a count or a time")))
    }

    /// A small count.
    fn small(&self, at: usize) -> Result<u32, StoreError> {
        let value = self.int(at)?;
        u32::try_from(value)
            .map_err(|_| StoreError::Corrupt(format!("{value} is not a small count")))
    }

    /// JSON, or nothing for an empty list.
    fn list<T: DeserializeOwned>(&self, at: usize) -> Result<Vec<T>, StoreError> {
        let text = self.maybe_text(at)?;
        text.map_or(Ok(Vec::new()), |text| {
            count_json_read();
            serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
        })
    }
}

fn subject_key(text: &str) -> Result<SubjectKey, StoreError> {
    SubjectKey::stored(text)
        .ok_or_else(|| StoreError::Corrupt(format!("`{text}` is not the key of a subject")))
}

/// Implements [`Columns`] for a row of sqlx, given how its errors are read.
macro_rules! columns_of {
    ($row:ty, $error:path) => {
        impl $crate::store::decode::Columns for $row {
            $crate::store::decode::columns_of!(@get $error; int -> i64, maybe_int -> Option<i64>, text -> &str, maybe_text -> Option<&str>,
                blob -> &[u8], maybe_blob -> Option<&[u8]>, flag -> bool, maybe_flag -> Option<bool>);
        }
    };
    (@get $error:path; $($name:ident -> $type:ty),*) => {
        $( fn $name(&self, at: usize) -> Result<$type, $crate::store::StoreError> {
            sqlx::Row::try_get(self, at).map_err(|error| $error(&error))
        } )*
    };
}
pub(super) use columns_of;

/// Decodes the envelope that begins at column `at`.
pub(super) fn envelope(
    row: &impl Columns,
    at: usize,
    encryption: &Encryption,
) -> Result<Envelope, StoreError> {
    let owner = owner(row, at, encryption)?;
    let (cause_source, cause_id) = (row.maybe_owned(at + 10)?, row.maybe_owned(at + 11)?);
    Ok(Envelope {
        event: Event {
            source: row.owned(at)?,
            id: row.owned(at + 1)?,
            event_type: row.owned(at + 2)?,
            subject: row.owned(at + 3)?,
            time_ms: row.unsigned(at + 4)?,
            content_type: row.owned(at + 5)?,
            data: owner.data(row.text(at + 1)?, row.blob(at + 6)?),
            attributes: row.list(at + 7)?,
        },
        subject_key: row.maybe_subject(at + 8)?,
        customer_hash: customer_hash(row.maybe_text(at + 14)?),
        correlation_id: row.owned(at + 9)?,
        cause: cause_source.zip(cause_id).map(|(source, id)| EventKey { source, id }),
        hops: row.small(at + 12)?,
        expires_at_ms: row.unsigned(at + 13)?,
        data_key: owner.into_data_key(),
    })
}

/// The subject of the envelope that begins at column `at`.
fn owner<'a>(
    row: &'a impl Columns,
    at: usize,
    encryption: &'a Encryption,
) -> Result<Owner<'a>, StoreError> {
    Owner::of(encryption, row, (at + 8, at + 15))
}

/// The columns of a subject that may change: key, position and status.
pub(super) fn stored_subject(row: &impl Columns) -> Result<(&str, StoredSubject<'_>), StoreError> {
    Ok((row.text(0)?, StoredSubject { pos: row.int(1)?, status: row.text(2)? }))
}

/// Adds a delivery that a group settles, and its subject: from the second column on, the position of
/// the event, whether the delivery is open, its round, attempt and times, then the subject's status and
/// position. What is not stored is NULL.
pub(super) fn loaded_delivery<'a>(
    loaded: &mut Loaded<'a>,
    one: DeliveryLookup<'a>,
    row: &impl Columns,
    kinds: &SubjectKinds,
) -> Result<(), StoreError> {
    let state = match row.maybe_flag(2)? {
        None => None,
        Some(open) => Some(DeliveryState {
            open,
            round: row.small(3)?,
            attempt: row.small(4)?,
            created_ms: row.unsigned(5)?,
            queued_ms: row.unsigned(6)?,
        }),
    };
    let status = match row.maybe_text(7)? {
        None => None,
        Some(status) => Some(LoadedStatus { pos: row.int(8)?, status: status.into() }),
    };
    loaded.add_delivery(one, (row.maybe_int(1)?, state), status, kinds);
    Ok(())
}

/// Decodes a subject.
pub(super) fn subject(row: &impl Columns, encryption: &Encryption) -> Result<Subject, StoreError> {
    count_json_read();
    let body = Owner::of(encryption, row, (0, 8))?.body(row.text(3)?);
    let unreadable = unreadable(body.as_bytes()).map(Cow::into_owned);
    Ok(Subject {
        key: row.subject(0)?,
        customer: row.maybe_owned(1)?,
        status: row.owned(2)?,
        body: match &unreadable {
            Some(_) => Value::Null,
            None => serde_json::from_str(&body)
                .map_err(|error| StoreError::Corrupt(error.to_string()))?,
        },
        created_at_ms: row.unsigned(4)?,
        updated_at_ms: row.unsigned(5)?,
        owner: row.maybe_owned(7)?,
        unreadable,
    })
}

/// Decodes an event of the log: position, producer's stage and digest, routes, when it was logged
/// and is due, envelope.
pub(super) fn logged_event(
    row: &impl Columns,
    encryption: &Encryption,
) -> Result<LoggedEvent, StoreError> {
    Ok(LoggedEvent {
        seq: row.int(0)?,
        stage: row.maybe_owned(1)?,
        digest: row.maybe_owned(2)?,
        routed_to: row.list(3)?,
        logged_at_ms: row.unsigned(4)?,
        due_at_ms: row.maybe_int(5)?.map(|value| value as u64),
        envelope: envelope(row, 6, encryption)?,
    })
}

/// Decodes an outbox row with its event.
pub(super) fn outbox_row(
    row: &impl Columns,
    encryption: &Encryption,
) -> Result<OutboxRow, StoreError> {
    let direct = match row.maybe_text(1)? {
        None => None,
        Some(stage) => {
            Some(Direct { stage: stage.into(), round: row.small(2)?, attempt: row.small(3)? })
        }
    };
    Ok(OutboxRow {
        id: Some(row.int(0)?),
        envelope: Arc::new(envelope(row, 5, encryption)?),
        direct,
        routed: row.flag(4)?,
    })
}

/// Decodes key, value and version of a stage's state.
pub(super) fn state_row(
    row: &impl Columns,
    stage: &str,
    encryption: &Encryption,
) -> Result<StateRow, StoreError> {
    let key = row.owned(0)?;
    let value = row.maybe_blob(1)?;
    Ok(StateRow {
        value: value.map(|value| sealed::state(encryption, (stage, &key), value)).transpose()?,
        key,
        version: row.int(2)?,
    })
}

/// Decodes stage, digest, version, host and time.
pub(super) fn plugin_load(row: &impl Columns) -> Result<PluginLoad, StoreError> {
    Ok(PluginLoad {
        stage: row.owned(0)?,
        digest: row.owned(1)?,
        version: row.owned(2)?,
        host: row.owned(3)?,
        loaded_at_ms: row.unsigned(4)?,
    })
}

/// Failed attempts by delivery (position of the event, stage), oldest first.
pub(super) type Failures = HashMap<(i64, String), Vec<FailedAttempt>>;

/// Decodes failed attempts.
pub(super) fn attempts(
    rows: &[impl Columns],
    encryption: &Encryption,
) -> Result<Failures, StoreError> {
    let mut failures = Failures::new();
    for row in rows {
        let owner = Owner::of(encryption, row, (11, 12))?;
        let failure = FailedAttempt {
            round: row.small(2)?,
            attempt: row.small(3)?,
            code: row.owned(4)?,
            message: owner.message(row.text(5)?),
            backtrace: row.maybe_text(6)?.map(|stored| owner.backtrace(stored)),
            digest: row.owned(7)?,
            duration_us: row.unsigned(8)?,
            at_ms: row.unsigned(9)?,
            host: row.maybe_text(10)?.map(Arc::from),
        };
        failures.entry((row.int(0)?, row.owned(1)?)).or_default().push(failure);
    }
    Ok(failures)
}

/// Position and stage of a delivery, in columns `at` and `at + 1`.
pub(super) fn delivery_keys(
    rows: &[impl Columns],
    at: usize,
) -> Result<Vec<(i64, String)>, StoreError> {
    rows.iter().map(|row| Ok((row.int(at)?, row.owned(at + 1)?))).collect()
}

/// Decodes a delivery: position, stage, source, id, type, status, round, attempt, version, digest,
/// duration, created, settled, emitted, host.
pub(super) fn delivery_record(
    row: &impl Columns,
    failures: Vec<FailedAttempt>,
) -> Result<DeliveryRecord, StoreError> {
    Ok(DeliveryRecord {
        failures,
        stage: row.owned(1)?,
        event: EventKey { source: row.owned(2)?, id: row.owned(3)? },
        event_type: row.owned(4)?,
        status: delivery_status(row.text(5)?)?,
        round: row.small(6)?,
        attempt: row.small(7)?,
        version: row.maybe_owned(8)?,
        digest: row.maybe_owned(9)?,
        duration_us: row.maybe_int(10)?.map(|value| value as u64),
        created_at_ms: row.unsigned(11)?,
        settled_at_ms: row.maybe_int(12)?.map(|value| value as u64),
        emitted: row.list(13)?,
        host: row.maybe_owned(14)?,
    })
}

/// Decodes a recording: settled, position, body, round, attempt, version, digest, ids emitted (not
/// read here), host, envelope.
pub(super) fn recorded_delivery(
    row: &impl Columns,
    emitted: Option<Vec<Event>>,
    encryption: &Encryption,
) -> Result<RecordedDelivery, StoreError> {
    Ok(RecordedDelivery {
        at: RecordingCursor { settled_ms: row.int(0)?, event_seq: row.int(1)? },
        settled_at_ms: row.unsigned(0)?,
        recording: owner(row, 9, encryption)?.recording(row.text(2)?),
        round: row.small(3)?,
        attempt: row.small(4)?,
        version: row.maybe_owned(5)?,
        digest: row.maybe_owned(6)?,
        host: row.maybe_owned(8)?,
        emitted,
        envelope: envelope(row, 9, encryption)?,
    })
}

/// Decodes a dead letter: id, position, stage, round, code, message, digest, dead-lettered, status,
/// note, fingerprint, group, settled, source and id of what it was replayed as, envelope.
pub(super) fn dead_letter(
    row: &impl Columns,
    attempts: Vec<FailedAttempt>,
    encryption: &Encryption,
) -> Result<DeadLetter, StoreError> {
    let owner = owner(row, 15, encryption)?;
    Ok(DeadLetter {
        id: row.int(0)?,
        attempts,
        stage: row.owned(2)?,
        round: row.small(3)?,
        code: row.owned(4)?,
        message: owner.message(row.text(5)?),
        digest: row.owned(6)?,
        dead_lettered_at_ms: row.unsigned(7)?,
        status: dead_letter_status(row.text(8)?)?,
        note: row.maybe_owned(9)?,
        fingerprint: owner.fingerprint(row.text(10)?),
        group: row.owned(11)?,
        settled_at_ms: row.maybe_int(12)?.map(|value| value as u64),
        replayed_as: row
            .maybe_owned(13)?
            .zip(row.maybe_owned(14)?)
            .map(|(source, id)| EventKey { source, id }),
        envelope: envelope(row, 15, encryption)?,
    })
}

/// Decodes stage, state, reason, since and held from.
pub(super) fn stage_control(row: &impl Columns) -> Result<StageControl, StoreError> {
    let state = match row.text(1)? {
        "running" => ControlState::Running,
        "paused" => ControlState::Paused,
        "draining" => ControlState::Draining,
        other => return Err(StoreError::Corrupt(format!("unknown stage control `{other}`"))),
    };
    let held_from_ms = row.maybe_int(4)?.map(|value| value as u64);
    Ok(StageControl {
        stage: row.owned(0)?,
        state,
        reason: row.maybe_owned(2)?,
        since_ms: row.unsigned(3)?,
        held_from_ms,
    })
}

/// How a control state is stored.
pub(super) fn control_name(state: ControlState) -> &'static str {
    match state {
        ControlState::Running => "running",
        ControlState::Paused => "paused",
        ControlState::Draining => "draining",
    }
}

/// Sets a control state and returns it: stage, state, reason, now.
pub(super) const SET_STAGE_CONTROL: &str = "INSERT INTO stage_controls AS c (stage, state, reason, since_ms, held_from_ms) \
     VALUES ($1, $2, $3, $4, CASE WHEN $2 = 'running' THEN NULL ELSE $4 END) ON CONFLICT (stage) DO UPDATE \
     SET state = excluded.state, reason = excluded.reason, since_ms = excluded.since_ms, \
     held_from_ms = CASE WHEN c.state = 'running' THEN excluded.held_from_ms ELSE c.held_from_ms END \
     RETURNING stage, state, reason, since_ms, held_from_ms";

/// A page; one extra row means that there is another one.
pub(super) fn page<R: Columns, T>(
    rows: &[R],
    limit: u32,
    decode: impl Fn(&R) -> Result<(i64, T), StoreError>,
) -> Result<Page<T>, StoreError> {
    let decoded = rows.iter().take(limit as usize).map(decode).collect::<Result<Vec<_>, _>>()?;
    let more = rows.len() > decoded.len();
    let next = decoded.last().filter(|_| more).map(|(cursor, _)| *cursor);
    Ok(Page { items: decoded.into_iter().map(|(_, item)| item).collect(), next })
}

/// Decodes a dead letter's status.
pub(super) fn dead_letter_status(name: &str) -> Result<DeadLetterStatus, StoreError> {
    match name {
        "open" => Ok(DeadLetterStatus::Open),
        "replayed" => Ok(DeadLetterStatus::Replayed),
        "discarded" => Ok(DeadLetterStatus::Discarded),
        _ => Err(StoreError::Corrupt(format!("unknown dead letter status `{name}`"))),
    }
}

/// How a dead letter's status is stored.
pub(super) fn dead_letter_status_name(status: DeadLetterStatus) -> &'static str {
    match status {
        DeadLetterStatus::Open => "open",
        DeadLetterStatus::Replayed => "replayed",
        DeadLetterStatus::Discarded => "discarded",
    }
}

/// How a delivery's status is stored.
pub(super) fn status_name(status: DeliveryStatus) -> &'static str {
    match status {
        DeliveryStatus::Open => "open",
        DeliveryStatus::Done => "done",
        DeliveryStatus::Skipped => "skipped",
        DeliveryStatus::Dead => "dead",
        DeliveryStatus::Replaced => "replaced",
    }
}

fn delivery_status(name: &str) -> Result<DeliveryStatus, StoreError> {
    match name {
        "open" => Ok(DeliveryStatus::Open),
        "done" => Ok(DeliveryStatus::Done),
        "skipped" => Ok(DeliveryStatus::Skipped),
        "dead" => Ok(DeliveryStatus::Dead),
        "replaced" => Ok(DeliveryStatus::Replaced),
        _ => Err(StoreError::Corrupt(format!("unknown delivery status `{name}`"))),
    }
}
