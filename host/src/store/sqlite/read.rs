//! Queries, on the readers' connections: they see the last commit and never wait for the writer.
//!
//! Bounded by the caller's page sizes; an order's own events and deliveries are bounded by its hops.

use std::collections::HashMap;

use bytes::Bytes;
use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::sql::{args, column, fetch, fetch_built, json, list, push, small, unsigned};
use crate::event::{DeliveryKey, Envelope, Event, EventKey};
use crate::store::{
    DeadLetter, DeadLetterFilter, DeadLetterStatus, DeliveryRecord, DeliveryStatus, FailedAttempt, LoggedEvent, Order, OrderFilter, Page,
    PluginLoad, StateRow, StoreError,
};

/// The columns that [`envelope`] reads, of `events e`: fourteen.
macro_rules! envelope_columns {
    () => {
        "e.source, e.id, e.type, e.subject, e.time_ms, e.content_type, e.data, e.attributes, e.order_id, e.correlation_id, \
         e.cause_source, e.cause_id, e.hops, e.expires_ms"
    };
}
pub(super) use envelope_columns;

/// The columns that [`order`] reads, of `orders o`: seven, the last for the cursor.
macro_rules! order_columns {
    () => {
        "o.id, o.customer, o.status, o.body, o.created_ms, o.updated_ms, o.pos"
    };
}
pub(super) use order_columns;

/// The columns that [`attempt`] reads, of `attempts a`.
macro_rules! attempt_columns {
    () => {
        "a.event_seq, a.stage, a.round, a.attempt, a.code, a.message, a.backtrace, a.digest, a.duration_us, a.at_ms"
    };
}

/// Decodes the envelope that begins at column `at`.
pub(super) fn envelope(row: &SqliteRow, at: usize) -> Result<Envelope, StoreError> {
    let cause_source: Option<String> = column(row, at + 10)?;
    let cause_id: Option<String> = column(row, at + 11)?;
    Ok(Envelope {
        event: Event {
            source: column(row, at)?,
            id: column(row, at + 1)?,
            event_type: column(row, at + 2)?,
            subject: column(row, at + 3)?,
            time_ms: unsigned(row, at + 4)?,
            content_type: column(row, at + 5)?,
            data: Bytes::from(column::<Vec<u8>, _>(row, at + 6)?),
            attributes: list(row, at + 7)?,
        },
        order_id: column(row, at + 8)?,
        correlation_id: column(row, at + 9)?,
        cause: cause_source.zip(cause_id).map(|(source, id)| EventKey { source, id }),
        hops: small(row, at + 12)?,
        expires_at_ms: unsigned(row, at + 13)?,
    })
}

/// Decodes an order.
pub(super) fn order(row: &SqliteRow) -> Result<Order, StoreError> {
    let body: &str = column(row, 3)?;
    Ok(Order {
        id: column(row, 0)?,
        customer: column(row, 1)?,
        status: column(row, 2)?,
        body: serde_json::from_str(body).map_err(|error| StoreError::Corrupt(error.to_string()))?,
        created_at_ms: unsigned(row, 4)?,
        updated_at_ms: unsigned(row, 5)?,
    })
}

/// Decodes a dead letter's status.
pub(super) fn letter_status(name: &str) -> Result<DeadLetterStatus, StoreError> {
    match name {
        "open" => Ok(DeadLetterStatus::Open),
        "replayed" => Ok(DeadLetterStatus::Replayed),
        "discarded" => Ok(DeadLetterStatus::Discarded),
        _ => Err(StoreError::Corrupt(format!("dead letter status {name}"))),
    }
}

fn letter_status_name(status: DeadLetterStatus) -> &'static str {
    match status {
        DeadLetterStatus::Open => "open",
        DeadLetterStatus::Replayed => "replayed",
        DeadLetterStatus::Discarded => "discarded",
    }
}

fn delivery_status(name: &str) -> Result<DeliveryStatus, StoreError> {
    match name {
        "open" => Ok(DeliveryStatus::Open),
        "done" => Ok(DeliveryStatus::Done),
        "skipped" => Ok(DeliveryStatus::Skipped),
        "dead" => Ok(DeliveryStatus::Dead),
        "replaced" => Ok(DeliveryStatus::Replaced),
        _ => Err(StoreError::Corrupt(format!("delivery status {name}"))),
    }
}

fn state_row(row: &SqliteRow) -> Result<StateRow, StoreError> {
    let value: Option<Vec<u8>> = column(row, 1)?;
    Ok(StateRow { key: column(row, 0)?, value: value.map(Bytes::from), version: column(row, 2)? })
}

pub(super) async fn state_get(db: &SqlitePool, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
    let sql = "SELECT key, value, version FROM state WHERE stage = ?1 AND key = ?2";
    fetch(db, sql, args![stage, key]).await?.first().map(state_row).transpose()
}

pub(super) async fn state_folders(db: &SqlitePool, stage: &str, folders: &[String]) -> Result<Vec<StateRow>, StoreError> {
    // '0' follows '/' in byte order: it ends the range of the keys in a folder.
    let mut ranges: Vec<(&str, String)> = Vec::with_capacity(folders.len());
    for folder in folders {
        let name = folder.strip_suffix('/').unwrap_or(folder);
        ranges.push((folder, format!("{name}0")));
    }
    let sql = "SELECT DISTINCT s.key, s.value, s.version FROM json_each(?2) k CROSS JOIN state s \
               ON s.stage = ?1 AND s.key >= k.value ->> 0 AND s.key < k.value ->> 1 ORDER BY s.key";
    let rows = fetch(db, sql, args![stage, json(&ranges)]).await?;
    rows.iter().map(state_row).collect()
}

pub(super) async fn state_keys(db: &SqlitePool, stage: &str, prefix: &str, after: &str, limit: u32) -> Result<Vec<String>, StoreError> {
    // The byte FF is in no UTF-8 text, so it ends the range of any prefix.
    let sql = "SELECT key FROM state WHERE stage = ?1 AND key >= ?2 AND key < ?2 || CAST(X'FF' AS TEXT) AND key > ?3 \
               AND value IS NOT NULL ORDER BY key LIMIT ?4";
    let rows = fetch(db, sql, args![stage, prefix, after, i64::from(limit)]).await?;
    rows.iter().map(|row| column(row, 0)).collect()
}

pub(super) async fn already_settled(db: &SqlitePool, keys: &[(DeliveryKey, u32, u32)]) -> Result<Vec<DeliveryKey>, StoreError> {
    let asked: Vec<_> = keys.iter().map(|(key, round, attempt)| (&*key.stage, &key.event.source, &key.event.id, round, attempt)).collect();
    let sql = "SELECT k.key FROM json_each(?1) k \
               CROSS JOIN events e ON e.id = k.value ->> 2 AND e.source = k.value ->> 1 \
               CROSS JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.value ->> 0 \
               WHERE d.status <> 'open' OR (d.round, d.attempt) > (k.value ->> 3, k.value ->> 4)";
    let rows = fetch(db, sql, args![json(&asked)]).await?;
    let indexes = rows.iter().map(|row| column::<i64, _>(row, 0));
    let found = indexes.map(|index| Ok(keys.get(index? as usize).map(|(key, _, _)| key.clone())));
    found.filter_map(Result::transpose).collect()
}

pub(super) async fn order_by_id(db: &SqlitePool, id: &str) -> Result<Option<Order>, StoreError> {
    let sql = concat!("SELECT ", order_columns!(), " FROM orders o WHERE o.id = ?1");
    fetch(db, sql, args![id]).await?.first().map(order).transpose()
}

/// A page, and one row more to know whether there is another.
fn page<T>(rows: &[SqliteRow], limit: u32, decode: impl Fn(&SqliteRow) -> Result<(i64, T), StoreError>) -> Result<Page<T>, StoreError> {
    let decoded = rows.iter().take(limit as usize).map(decode).collect::<Result<Vec<_>, _>>()?;
    let more = rows.len() > decoded.len();
    let next = decoded.last().filter(|_| more).map(|(cursor, _)| *cursor);
    Ok(Page { items: decoded.into_iter().map(|(_, item)| item).collect(), next })
}

pub(super) async fn orders(db: &SqlitePool, filter: &OrderFilter) -> Result<Page<Order>, StoreError> {
    let mut sql = concat!("SELECT ", order_columns!(), " FROM orders o WHERE TRUE").to_owned();
    let mut args = args![];
    if let Some(status) = &filter.status {
        sql += " AND o.status = ?";
        push(&mut args, status.as_str());
    }
    if let Some(customer) = &filter.customer {
        sql += " AND o.customer = ?";
        push(&mut args, customer.as_str());
    }
    if let Some(before) = filter.before {
        sql += " AND o.pos < ?";
        push(&mut args, before);
    }
    sql += " ORDER BY o.pos DESC LIMIT ?";
    push(&mut args, i64::from(filter.limit) + 1);
    let rows = fetch_built(db, sql, args).await?;
    page(&rows, filter.limit, |row| Ok((column(row, 6)?, order(row)?)))
}

pub(super) async fn order_events(db: &SqlitePool, order_id: &str, after: i64, limit: u32) -> Result<Vec<LoggedEvent>, StoreError> {
    let sql = concat!(
        "SELECT e.seq, e.stage, e.digest, e.routed_to, ",
        envelope_columns!(),
        " FROM events e WHERE e.order_id = ?1 AND e.seq > ?2 ORDER BY e.seq LIMIT ?3"
    );
    let rows = fetch(db, sql, args![order_id, after, i64::from(limit)]).await?;
    let decode = |row: &SqliteRow| {
        Ok(LoggedEvent {
            seq: column(row, 0)?,
            stage: column(row, 1)?,
            digest: column(row, 2)?,
            routed_to: list(row, 3)?,
            envelope: envelope(row, 4)?,
        })
    };
    rows.iter().map(decode).collect()
}

/// Failed tries by delivery (position of the event, stage), oldest first.
type Failures = HashMap<(i64, String), Vec<FailedAttempt>>;

fn attempts(rows: &[SqliteRow]) -> Result<Failures, StoreError> {
    let mut failures = Failures::new();
    for row in rows {
        let failure = FailedAttempt {
            round: small(row, 2)?,
            attempt: small(row, 3)?,
            code: column(row, 4)?,
            message: column(row, 5)?,
            backtrace: column(row, 6)?,
            digest: column(row, 7)?,
            duration_us: unsigned(row, 8)?,
            at_ms: unsigned(row, 9)?,
        };
        failures.entry((column(row, 0)?, column(row, 1)?)).or_default().push(failure);
    }
    Ok(failures)
}

async fn attempts_of(db: &SqlitePool, deliveries: &[(i64, String)]) -> Result<Failures, StoreError> {
    if deliveries.is_empty() {
        return Ok(Failures::new());
    }
    let sql = concat!(
        "SELECT DISTINCT ",
        attempt_columns!(),
        " FROM json_each(?1) k CROSS JOIN attempts a ON a.event_seq = k.value ->> 0 AND a.stage = k.value ->> 1 \
         ORDER BY a.event_seq, a.stage, a.round, a.attempt"
    );
    attempts(&fetch(db, sql, args![json(deliveries)]).await?)
}

pub(super) async fn order_deliveries(db: &SqlitePool, order_id: &str) -> Result<Vec<DeliveryRecord>, StoreError> {
    let sql = "SELECT d.event_seq, d.stage, e.source, e.id, e.type, d.status, d.round, d.attempt, d.version, d.digest, d.duration_us, \
               d.created_ms, d.settled_ms, d.emitted FROM events e CROSS JOIN deliveries d ON d.event_seq = e.seq \
               WHERE e.order_id = ?1 ORDER BY d.created_ms, d.event_seq, d.stage";
    let rows = fetch(db, sql, args![order_id]).await?;
    let keys = rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect::<Result<Vec<(i64, String)>, StoreError>>()?;
    let mut failures = attempts_of(db, &keys).await?;
    let mut records = Vec::with_capacity(rows.len());
    for (row, key) in rows.iter().zip(keys) {
        records.push(DeliveryRecord {
            failures: failures.remove(&key).unwrap_or_default(),
            stage: key.1,
            event: EventKey { source: column(row, 2)?, id: column(row, 3)? },
            event_type: column(row, 4)?,
            status: delivery_status(column(row, 5)?)?,
            round: small(row, 6)?,
            attempt: small(row, 7)?,
            version: column(row, 8)?,
            digest: column(row, 9)?,
            duration_us: column::<Option<i64>, _>(row, 10)?.map(|value| value as u64),
            created_at_ms: unsigned(row, 11)?,
            settled_at_ms: column::<Option<i64>, _>(row, 12)?.map(|value| value as u64),
            emitted: list(row, 13)?,
        });
    }
    Ok(records)
}

/// The columns that [`letters`] reads.
macro_rules! letter_columns {
    () => {
        concat!(
            "SELECT l.id, l.event_seq, l.stage, l.round, l.code, l.message, l.digest, l.died_ms, l.status, l.note, ",
            envelope_columns!(),
            " FROM dead_letters l CROSS JOIN events e ON e.seq = l.event_seq WHERE TRUE"
        )
    };
}

/// Decodes dead letters and adds their failed tries.
async fn letters(db: &SqlitePool, rows: &[SqliteRow]) -> Result<Vec<DeadLetter>, StoreError> {
    let mut keys: Vec<(i64, String)> = Vec::with_capacity(rows.len());
    for row in rows {
        keys.push((column(row, 1)?, column(row, 2)?));
    }
    let failures = attempts_of(db, &keys).await?;
    let mut letters = Vec::with_capacity(rows.len());
    for (row, key) in rows.iter().zip(keys) {
        letters.push(DeadLetter {
            id: column(row, 0)?,
            // One delivery may have died in several rounds: each letter shows all tries.
            attempts: failures.get(&key).cloned().unwrap_or_default(),
            stage: key.1,
            round: small(row, 3)?,
            code: column(row, 4)?,
            message: column(row, 5)?,
            digest: column(row, 6)?,
            died_at_ms: unsigned(row, 7)?,
            status: letter_status(column(row, 8)?)?,
            note: column(row, 9)?,
            envelope: envelope(row, 10)?,
        });
    }
    Ok(letters)
}

pub(super) async fn dead_letters(db: &SqlitePool, filter: &DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError> {
    let mut sql = letter_columns!().to_owned();
    let mut args = args![];
    if let Some(stage) = &filter.stage {
        sql += " AND l.stage = ?";
        push(&mut args, stage.as_str());
    }
    if let Some(code) = &filter.code {
        sql += " AND l.code = ?";
        push(&mut args, code.as_str());
    }
    if let Some(status) = filter.status {
        sql += " AND l.status = ?";
        push(&mut args, letter_status_name(status));
    }
    if let Some(before) = filter.before {
        sql += " AND l.id < ?";
        push(&mut args, before);
    }
    sql += " ORDER BY l.id DESC LIMIT ?";
    push(&mut args, i64::from(filter.limit) + 1);
    let rows = fetch_built(db, sql, args).await?;
    let shown = &rows[..rows.len().min(filter.limit as usize)];
    let items = letters(db, shown).await?;
    let next = items.last().filter(|_| rows.len() > shown.len()).map(|letter| letter.id);
    Ok(Page { items, next })
}

pub(super) async fn dead_letter(db: &SqlitePool, id: i64) -> Result<Option<DeadLetter>, StoreError> {
    let sql = concat!(letter_columns!(), " AND l.id = ?1");
    let rows = fetch(db, sql, args![id]).await?;
    Ok(letters(db, &rows).await?.into_iter().next())
}

pub(super) async fn plugin_loads(db: &SqlitePool, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError> {
    let sql = "SELECT stage, digest, version, host, loaded_ms FROM plugin_loads WHERE stage = ?1 ORDER BY id DESC LIMIT ?2";
    let rows = fetch(db, sql, args![stage, i64::from(limit)]).await?;
    let decode = |row: &SqliteRow| {
        Ok(PluginLoad {
            stage: column(row, 0)?,
            digest: column(row, 1)?,
            version: column(row, 2)?,
            host: column(row, 3)?,
            loaded_at_ms: unsigned(row, 4)?,
        })
    };
    rows.iter().map(decode).collect()
}
