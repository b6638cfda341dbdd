//! Claims positions in the log: inserts the events, which makes their positions final.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::domain::encryption::Encryption;
use crate::store::decode::Columns as _;
use crate::store::postgres::sql::{TransactionError, columns, execute, fetch, list, push};
use crate::store::transaction::{EventRow, NumberedWriteSet, WriteSet};

/// Inserts the events. One that is in the log already keeps its old position, which costs a query
/// only when it happens.
pub(super) async fn claim<'a>(
    conn: &mut PgConnection,
    encryption: &Encryption,
    write_set: WriteSet<'a>,
) -> Result<NumberedWriteSet<'a>, TransactionError> {
    let known = if insert(conn, encryption, &write_set).await? < write_set.events.len() as u64 {
        known_positions(conn, &write_set).await?
    } else {
        HashMap::new()
    };
    // Another transaction took the key since this one was decided.
    let is_taken = |row: &EventRow<'_>| row.must_be_new && known.contains_key(&row.seq);
    if !known.is_empty() && write_set.events.iter().any(is_taken) {
        return Err(TransactionError::Conflict);
    }
    Ok(write_set.number(&known))
}

/// The number of events that were not in the log.
async fn insert(
    conn: &mut PgConnection,
    encryption: &Encryption,
    write_set: &WriteSet<'_>,
) -> Result<u64, TransactionError> {
    if write_set.events.is_empty() {
        return Ok(0);
    }
    let sql = "INSERT INTO events (seq, id, source, type, subject, time_ms, content_type, data, \
               attributes, subject_key, correlation_id, \
               cause_source, cause_id, hops, expires_ms, stage, digest, routed_to, due_ms, \
               unrouted_ms, logged_ms) \
               SELECT k.*, $21 FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], \
               $5::text[], $6::int8[], $7::text[], $8::bytea[], \
               $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::int8[], \
               $15::int8[], $16::text[], $17::text[], \
               $18::text[], $19::int8[], $20::int8[]) k ON CONFLICT (id, source) DO NOTHING";
    let now_ms = write_set.now_ms() as i64;
    let data: Vec<_> = write_set.events.iter().map(|row| row.stored_data(encryption)).collect();
    let rows: Vec<_> = write_set.events.iter().zip(&data).collect();
    let mut args = columns![&rows;
        |(row, _)| row.seq,
        |(row, _)| row.envelope.event.id.as_str(),
        |(row, _)| row.envelope.event.source.as_str(),
        |(row, _)| row.envelope.event.event_type.as_str(),
        |(row, _)| row.envelope.event.subject.as_str(),
        |(row, _)| row.envelope.event.time_ms as i64,
        |(row, _)| row.envelope.event.content_type.as_str(),
        |(_, data)| &***data,
        |(row, _)| list(&row.envelope.event.attributes),
        |(row, _)| row.envelope.subject_key.as_deref(),
        |(row, _)| row.envelope.correlation_id.as_str(),
        |(row, _)| row.envelope.cause.as_ref().map(|cause| cause.source.as_str()),
        |(row, _)| row.envelope.cause.as_ref().map(|cause| cause.id.as_str()),
        |(row, _)| i64::from(row.envelope.hops),
        |(row, _)| row.envelope.expires_at_ms as i64,
        |(row, _)| row.producer.map(|producer| producer.0),
        |(row, _)| row.producer.map(|producer| producer.1),
        |(row, _)| list(&row.routed_to),
        |(row, _)| row.due_ms.map(|due_ms| due_ms as i64),
        |(row, _)| row.unrouted.then_some(now_ms),
    ];
    push(&mut args, now_ms);
    Ok(execute(conn, sql, args).await?)
}

/// Planned position → position in the log, of the events that were in the log already.
async fn known_positions(
    conn: &mut PgConnection,
    write_set: &WriteSet<'_>,
) -> Result<HashMap<i64, i64>, TransactionError> {
    let sql = "SELECT k.seq, e.seq FROM unnest($1::text[], $2::text[], $3::int8[]) k (source, id, \
               seq) \
               JOIN events e ON e.id = k.id AND e.source = k.source WHERE e.seq <> k.seq";
    let args = columns![&write_set.events; |row| row.envelope.event.source.as_str(), |row| row.envelope.event.id.as_str(), |row| row.seq];
    let rows = fetch(conn, sql, args).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}
