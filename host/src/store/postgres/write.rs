//! Writes a write set: a constant number of statements, whatever the size of the group, tables
//! always in the same order.
//!
//! Guarantee carried here: every row that a decision depends on is verified by the statement that
//! writes or locks it. A statement that does not find what it expects is a conflict: the whole group
//! is rolled back and decided again from what is stored then. Each statement takes its rows in the
//! order of their keys, so two groups rarely deadlock; when they do, the database aborts one of
//! them, which runs again.

mod deliveries;
mod log;
mod subjects;
mod state;

use sqlx::PgConnection;

use super::Context;
use super::audit;
use super::sql::{TransactionError, args, columns, execute, push};
use crate::domain::encryption::Encryption;
use crate::store::transaction::{Loaded, NumberedWriteSet, WriteSet};

pub(super) use self::state::lock_keys;

/// Writes what was decided without the rows of a group, see [`write_group`].
pub(super) async fn write(
    conn: &mut PgConnection,
    context: &Context,
    write_set: WriteSet<'_>,
) -> Result<(), TransactionError> {
    write_group(conn, context, &Loaded::default(), write_set).await
}

/// Claims the positions in the log, then writes everything else.
pub(super) async fn write_group<'a>(
    conn: &mut PgConnection,
    context: &Context,
    loaded: &Loaded<'a>,
    write_set: WriteSet<'a>,
) -> Result<(), TransactionError> {
    let encryption = &*context.encryption;
    let write_set = log::claim(conn, encryption, write_set).await?;
    subjects::insert(conn, (&context.kinds, encryption), &write_set).await?;
    deliveries::open(conn, &write_set).await?;
    deliveries::settle(conn, &write_set).await?;
    state::verify_reads(conn, &context.state, &write_set).await?;
    state::write(conn, (&context.state, encryption), &write_set.state, write_set.now_ms()).await?;
    outbox(conn, context, &write_set).await?;
    attempts(conn, encryption, &write_set).await?;
    dead_letters(conn, encryption, &write_set).await?;
    recordings(conn, encryption, &write_set).await?;
    subjects::update_status(conn, &context.kinds, loaded, &write_set).await?;
    if !write_set.sent.is_empty() {
        let sql = "DELETE FROM outbox WHERE id = ANY($1)";
        execute(conn, sql, args![&write_set.sent]).await?;
    }
    audit::append(conn, &context.host, write_set.now_ms(), &write_set.audit).await
}

/// Fails with a conflict unless a statement found all rows that it expects.
fn expect(found: u64, expected: usize) -> Result<(), TransactionError> {
    if found == expected as u64 { Ok(()) } else { Err(TransactionError::Conflict) }
}

async fn outbox(
    conn: &mut PgConnection,
    context: &Context,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.outbox.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO outbox (id, event_seq, due_ms, owner, lease_until_ms, stage, round, \
               attempt) \
               SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::text[], $5::int8[], \
               $6::text[], $7::int8[], $8::int8[])";
    let lease_until_ms = (write_set.now_ms() + context.lease_ms) as i64;
    let args = columns![&write_set.outbox;
        |row| row.id,
        |row| row.seq,
        |row| row.due_ms as i64,
        |row| row.leased.then_some(context.host.as_str()),
        |row| row.leased.then_some(lease_until_ms),
        |row| row.direct.as_ref().map(|direct| &*direct.stage),
        |row| row.direct.as_ref().map(|direct| i64::from(direct.round)),
        |row| row.direct.as_ref().map(|direct| i64::from(direct.attempt)),
    ];
    execute(conn, sql, args).await?;
    Ok(())
}

async fn attempts(
    conn: &mut PgConnection,
    encryption: &Encryption,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.attempts.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO attempts (event_seq, stage, round, attempt, code, message, backtrace, \
               digest, duration_us, at_ms, host) \
               SELECT * FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int8[], $5::text[], \
               $6::text[], $7::text[], $8::text[], \
               $9::int8[], $10::int8[], $11::text[]) ON CONFLICT DO NOTHING";
    let args = columns![&write_set.attempts;
        |row| row.seq,
        |row| row.stage,
        |row| i64::from(row.failure.round),
        |row| i64::from(row.failure.attempt),
        |row| row.failure.code.as_str(),
        |row| row.stored_message(encryption),
        |row| row.stored_backtrace(encryption),
        |row| row.failure.digest.as_str(),
        |row| row.failure.duration_us as i64,
        |row| row.failure.at_ms as i64,
        |row| row.failure.host.as_deref(),
    ];
    execute(conn, sql, args).await?;
    Ok(())
}

async fn dead_letters(
    conn: &mut PgConnection,
    encryption: &Encryption,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.dead_letters.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO dead_letters (event_seq, stage, round, code, message, digest, \
               fingerprint, group_id, dead_lettered_ms, status) \
               SELECT k.*, $9, 'open' FROM unnest($1::int8[], $2::text[], $3::int8[], $4::text[], \
               $5::text[], $6::text[], $7::text[], \
               $8::text[]) k";
    let mut args = columns![&write_set.dead_letters;
        |row| row.seq,
        |row| row.stage,
        |row| i64::from(row.round),
        |row| row.code,
        |row| row.stored_message(encryption),
        |row| row.digest,
        |row| row.stored_fingerprint(encryption),
        |row| row.fingerprint.group.as_str(),
    ];
    push(&mut args, write_set.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}

async fn recordings(
    conn: &mut PgConnection,
    encryption: &Encryption,
    write_set: &NumberedWriteSet<'_>,
) -> Result<(), TransactionError> {
    if write_set.recordings.is_empty() {
        return Ok(());
    }
    let sql = "INSERT INTO recordings (stage, event_seq, body, settled_ms) \
               SELECT k.*, $4 FROM unnest($1::text[], $2::int8[], $3::text[]) k ON CONFLICT DO \
               NOTHING";
    let mut args = columns![&write_set.recordings; |row| row.stage, |row| row.seq, |row| row.stored_body(encryption)];
    push(&mut args, write_set.now_ms() as i64);
    execute(conn, sql, args).await?;
    Ok(())
}
