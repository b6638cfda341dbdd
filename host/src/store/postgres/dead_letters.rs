//! Dead letters, plugin loads and controls, written one at a time: these are rare and made by
//! people.
//!
//! Guarantee: a dead letter is replayed or discarded once; its row is locked from the check to the
//! commit.

use std::sync::Arc;

use sqlx::{PgConnection, PgPool};

use super::Context;
use super::sql::{Refused, args, execute, fetch, store_error};
use super::{committer, write};
use crate::domain::event::Envelope;
use crate::store::decode::{self, Columns as _, envelope_columns};
use crate::store::transaction::WriteSet;
use crate::store::{
    ControlState, DeadLetterAction, DeadLetterStatus, Direct, NewEvent, PluginLoad, StageControl,
    StoreError,
};

/// A dead letter that may be settled.
struct DeadLetter {
    seq: i64,
    stage: Arc<str>,
    round: u32,
    envelope: Envelope,
}

/// What is to be done with a dead letter.
pub(super) enum Action<'a> {
    /// Run it again as it was.
    Replay { expires_at_ms: u64 },
    /// Put an edited event in its place, for the same stage alone.
    ReplayEdited(&'a NewEvent),
    /// Close it for good.
    Discard { reason: &'a str },
}

/// The dead letter, or why nothing can be done with it.
async fn open_letter(
    conn: &mut PgConnection,
    id: i64,
) -> Result<Result<DeadLetter, DeadLetterAction>, Refused> {
    let sql = concat!(
        "SELECT l.status, l.event_seq, l.stage, l.round, coalesce(d.status = 'dead' AND d.round = l.round, FALSE), ",
        envelope_columns!(),
        " FROM dead_letters l JOIN events e ON e.seq = l.event_seq \
         LEFT JOIN deliveries d ON d.event_seq = l.event_seq AND d.stage = l.stage WHERE l.id = $1 FOR UPDATE OF l"
    );
    let rows = fetch(conn, sql, args![id]).await?;
    let Some(row) = rows.first() else {
        return Ok(Err(DeadLetterAction::NotFound));
    };
    let status = decode::letter_status(row.text(0)?)?;
    if status != DeadLetterStatus::Open {
        return Ok(Err(DeadLetterAction::AlreadySettled(status)));
    }
    if !row.flag(4)? {
        return Err(StoreError::Corrupt(format!(
            "dead letter {id} is open but its delivery is not dead"
        ))
        .into());
    }
    Ok(Ok(DeadLetter {
        seq: row.int(1)?,
        stage: row.text(2)?.into(),
        round: row.small(3)?,
        envelope: decode::envelope(row, 5)?,
    }))
}

/// How a dead letter ends.
struct End<'a> {
    status: DeadLetterStatus,
    note: Option<&'a str>,
    /// Source and id of the event in its place.
    replayed_as: Option<(&'a str, &'a str)>,
}

async fn close_letter(
    conn: &mut PgConnection,
    id: i64,
    end: End<'_>,
    at_ms: u64,
) -> Result<(), Refused> {
    let (source, event) = end.replayed_as.unzip();
    let sql = "UPDATE dead_letters SET status = $2, note = $3, settled_ms = $4, replayed_source = $5, replayed_id = $6 WHERE id = $1";
    let status = decode::letter_status_name(end.status);
    execute(conn, sql, args![id, status, end.note, at_ms as i64, source, event]).await?;
    Ok(())
}

/// Does it, if the dead letter is still open.
pub(super) async fn act(
    db: &PgPool,
    context: &Context,
    id: i64,
    action: Action<'_>,
) -> Result<DeadLetterAction, StoreError> {
    Ok(act_or_race(db, context, id, action).await?)
}

async fn act_or_race(
    db: &PgPool,
    context: &Context,
    id: i64,
    action: Action<'_>,
) -> Result<DeadLetterAction, Refused> {
    let mut conn = super::begin_on(db).await?;
    let (times, mut numbers) = committer::begin(&mut conn, context).await?;
    let dead_letter = match open_letter(&mut conn, id).await? {
        Ok(dead_letter) => dead_letter,
        Err(action) => return Ok(action),
    };
    let event;
    let mut plan = WriteSet::new(&mut numbers, times, context.publish_all);
    let sent = match action {
        Action::Replay { expires_at_ms } => {
            let end = End { status: DeadLetterStatus::Replayed, note: None, replayed_as: None };
            close_letter(&mut conn, id, end, times.now_ms).await?;
            let (seq, direct, envelope) =
                reopen(&mut conn, dead_letter, expires_at_ms, times.now_ms).await?;
            plan.send(seq, &Arc::new(envelope), Some(direct), times.now_ms)
        }
        Action::ReplayEdited(edited) => {
            let replayed_as =
                Some((edited.envelope.event.source.as_str(), edited.envelope.event.id.as_str()));
            close_letter(
                &mut conn,
                id,
                End { status: DeadLetterStatus::Replayed, note: None, replayed_as },
                times.now_ms,
            )
            .await?;
            let sql =
                "UPDATE deliveries SET status = 'replaced' WHERE event_seq = $1 AND stage = $2";
            execute(&mut conn, sql, args![dead_letter.seq, &*dead_letter.stage]).await?;
            // Whatever the caller filled in: an edited event is for the stage that could not digest
            // the old one.
            event = edited.clone().only_for(dead_letter.stage);
            plan.event(&event)
        }
        Action::Discard { reason } => {
            let end =
                End { status: DeadLetterStatus::Discarded, note: Some(reason), replayed_as: None };
            close_letter(&mut conn, id, end, times.now_ms).await?;
            None
        }
    };
    write::write(&mut conn, context, plan).await?;
    execute(&mut conn, "COMMIT", args![]).await?;
    conn.keep();
    Ok(DeadLetterAction::Done(sent.into_iter().collect()))
}

/// Opens the delivery again, a round further.
async fn reopen(
    conn: &mut PgConnection,
    mut dead_letter: DeadLetter,
    expires_at_ms: u64,
    now_ms: u64,
) -> Result<(i64, Direct, Envelope), Refused> {
    dead_letter.envelope.expires_at_ms = expires_at_ms;
    execute(
        conn,
        "UPDATE events SET expires_ms = $2 WHERE seq = $1",
        args![dead_letter.seq, expires_at_ms as i64],
    )
    .await?;
    // What comes of the next round is recorded in its place.
    let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN \
               (SELECT stage, settled_ms, event_seq FROM deliveries WHERE event_seq = $1 AND stage = $2)";
    execute(conn, sql, args![dead_letter.seq, &*dead_letter.stage]).await?;
    let sql = "UPDATE deliveries SET status = 'open', round = $3, attempt = 1, version = NULL, digest = NULL, duration_us = NULL, \
               settled_ms = NULL, queued_ms = $4 WHERE event_seq = $1 AND stage = $2";
    let round = dead_letter.round + 1;
    execute(
        conn,
        sql,
        args![dead_letter.seq, &*dead_letter.stage, i64::from(round), now_ms as i64],
    )
    .await?;
    Ok((
        dead_letter.seq,
        Direct { stage: dead_letter.stage, round, attempt: 1 },
        dead_letter.envelope,
    ))
}

/// Notes a load.
pub(super) async fn plugin_loaded(db: &PgPool, load: &PluginLoad) -> Result<(), StoreError> {
    let sql = "INSERT INTO plugin_loads (stage, digest, version, host, loaded_ms) VALUES ($1, $2, $3, $4, $5)";
    let (stage, digest, version) =
        (load.stage.as_str(), load.digest.as_str(), load.version.as_str());
    let args = args![stage, digest, version, load.host.as_str(), load.loaded_at_ms as i64];
    fetch(db, sql, args).await.map(|_| ()).map_err(|error| store_error(&error))
}

/// Notes an operator's word about a stage.
pub(super) async fn set_stage_control(
    db: &PgPool,
    now_ms: u64,
    (stage, state, reason): (&str, ControlState, Option<&str>),
) -> Result<StageControl, StoreError> {
    let args = args![stage, decode::control_name(state), reason, now_ms as i64];
    let rows =
        fetch(db, decode::SET_STAGE_CONTROL, args).await.map_err(|error| store_error(&error))?;
    rows.first().map_or_else(
        || Err(StoreError::Corrupt("no row where one belongs".to_owned())),
        decode::stage_control,
    )
}
