//! Settles dead letters one at a time: people do this, and rarely.
//!
//! Guarantee: a dead letter is replayed or discarded once; its row is locked from the check to the
//! commit.

use std::sync::Arc;

use sqlx::PgConnection;

use super::pool::Pool;
use super::sql::{TransactionError, args, execute, fetch};
use super::transaction::PooledTransaction;
use super::{Context, write};
use crate::domain::actor::Actor;
use crate::domain::encryption::Encryption;
use crate::domain::event::Envelope;
use crate::store::dead_letters::{audited, audited_edit};
use crate::store::decode::{self, Columns as _, envelope_columns};
use crate::store::transaction::{IMMEDIATELY, SubjectProgress};
use crate::store::{AuditEntry, DeadLetterAction, DeadLetterStatus, Direct, NewEvent, StoreError};

/// A dead letter that can be settled.
struct OpenDeadLetter {
    seq: i64,
    stage: Arc<str>,
    round: u32,
    envelope: Envelope,
}

/// How to settle a dead letter.
pub(super) enum Action<'a> {
    /// Run its delivery again, unchanged.
    Replay { expires_at_ms: u64 },
    /// Send an edited event to the same stage instead.
    ReplayEdited(&'a NewEvent),
    /// Close it without another attempt.
    Discard { reason: &'a str },
}

impl Action<'_> {
    fn audited(&self, id: i64, actor: &Actor) -> AuditEntry {
        match self {
            Self::Replay { .. } => audited(actor, "dead-letter.replay", id),
            Self::ReplayEdited(event) => audited_edit(actor, id, event),
            Self::Discard { reason } => {
                let reason = Some((*reason).to_owned());
                audited(actor, "dead-letter.discard", id).because(reason)
            }
        }
    }

    fn status(&self) -> DeadLetterStatus {
        match self {
            Self::Replay { .. } | Self::ReplayEdited(_) => DeadLetterStatus::Replayed,
            Self::Discard { .. } => DeadLetterStatus::Discarded,
        }
    }
}

/// Locks the dead letter; the error says why it cannot be settled.
async fn lock_open(
    conn: &mut PgConnection,
    encryption: &Encryption,
    id: i64,
) -> Result<Result<OpenDeadLetter, DeadLetterAction>, TransactionError> {
    let sql = concat!(
        "SELECT l.status, l.event_seq, l.stage, l.round, \
         coalesce(d.status = 'dead' AND d.round = l.round, FALSE), ",
        envelope_columns!(),
        " FROM dead_letters l JOIN events e ON e.seq = l.event_seq \
         LEFT JOIN deliveries d ON d.event_seq = l.event_seq AND d.stage = l.stage \
         WHERE l.id = $1 FOR UPDATE OF l"
    );
    let rows = fetch(conn, sql, args![id]).await?;
    let Some(row) = rows.first() else {
        return Ok(Err(DeadLetterAction::NotFound));
    };
    let status = decode::dead_letter_status(row.text(0)?)?;
    if status != DeadLetterStatus::Open {
        return Ok(Err(DeadLetterAction::AlreadySettled(status)));
    }
    if !row.flag(4)? {
        let error = format!("dead letter {id} is open but its delivery is not dead");
        return Err(StoreError::Corrupt(error).into());
    }
    Ok(Ok(OpenDeadLetter {
        seq: row.int(1)?,
        stage: row.text(2)?.into(),
        round: row.small(3)?,
        envelope: decode::envelope(row, 5, encryption)?,
    }))
}

/// Updates the dead letter's own row.
async fn close(
    conn: &mut PgConnection,
    id: i64,
    action: &Action<'_>,
    now_ms: u64,
) -> Result<(), TransactionError> {
    let (note, replayed_as) = match action {
        Action::Replay { .. } => (None, None),
        Action::ReplayEdited(event) => (None, Some(&event.envelope.event)),
        Action::Discard { reason } => (Some(*reason), None),
    };
    let source = replayed_as.map(|event| event.source.as_str());
    let event_id = replayed_as.map(|event| event.id.as_str());
    let status = decode::dead_letter_status_name(action.status());
    let sql = "UPDATE dead_letters SET status = $2, note = $3, settled_ms = $4, \
               replayed_source = $5, replayed_id = $6 WHERE id = $1";
    execute(conn, sql, args![id, status, note, now_ms as i64, source, event_id]).await?;
    Ok(())
}

/// Settles a dead letter if it is open.
pub(super) async fn settle(
    db: &Pool,
    context: &Context,
    id: i64,
    (action, actor): (Action<'_>, &Actor),
) -> Result<DeadLetterAction, TransactionError> {
    let mut transaction = PooledTransaction::begin(db, context).await?;
    let now_ms = transaction.now_ms();
    let dead_letter = match lock_open(&mut transaction, &context.encryption, id).await? {
        Ok(dead_letter) => dead_letter,
        Err(refused) => return Ok(refused),
    };
    close(&mut transaction, id, &action, now_ms).await?;
    let entry = action.audited(id, actor);
    let event;
    let mut write_set = transaction.started.write_set(context);
    let sent = match action {
        Action::Replay { expires_at_ms } => {
            let (direct, envelope) =
                reopen(&mut transaction, &dead_letter, expires_at_ms, now_ms).await?;
            write_set.send(dead_letter.seq, &Arc::new(envelope), Some(direct), IMMEDIATELY)
        }
        Action::ReplayEdited(edited) => {
            let sql =
                "UPDATE deliveries SET status = 'replaced' WHERE event_seq = $1 AND stage = $2";
            execute(&mut transaction, sql, args![dead_letter.seq, &*dead_letter.stage]).await?;
            // Whatever the caller's routes: only the stage that failed gets the edited event.
            event = edited.clone().only_for(dead_letter.stage);
            write_set.event(&event, SubjectProgress::Unfinished)
        }
        Action::Discard { .. } => None,
    };
    write::write(&mut transaction, context, write_set).await?;
    transaction.commit_with(context, entry).await?;
    Ok(DeadLetterAction::Done(sent.into_iter().collect()))
}

/// Opens the delivery in its next round; its address, and its event with the new expiry.
async fn reopen(
    conn: &mut PgConnection,
    dead_letter: &OpenDeadLetter,
    expires_at_ms: u64,
    now_ms: u64,
) -> Result<(Direct, Envelope), TransactionError> {
    let OpenDeadLetter { seq, stage, round, envelope } = dead_letter;
    let sql = "UPDATE events SET expires_ms = $2 WHERE seq = $1";
    execute(conn, sql, args![*seq, expires_at_ms as i64]).await?;
    // The next round gets a recording of its own.
    let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN \
               (SELECT stage, settled_ms, event_seq FROM deliveries \
               WHERE event_seq = $1 AND stage = $2)";
    execute(conn, sql, args![*seq, &**stage]).await?;
    let sql = "UPDATE deliveries SET status = 'open', round = $3, attempt = 1, version = NULL, \
               digest = NULL, host = NULL, duration_us = NULL, settled_ms = NULL, queued_ms = $4 \
               WHERE event_seq = $1 AND stage = $2";
    let round = round + 1;
    execute(conn, sql, args![*seq, &**stage, i64::from(round), now_ms as i64]).await?;
    let direct = Direct { stage: Arc::clone(stage), round, attempt: 1 };
    Ok((direct, Envelope { expires_at_ms, ..envelope.clone() }))
}
