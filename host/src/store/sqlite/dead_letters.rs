//! Dead letters, plugin loads and controls, written one at a time: these are rare and made by
//! people.
//!
//! Guarantee: a dead letter is replayed or discarded once; the check and the change are one
//! transaction.

use std::sync::Arc;

use sqlx::SqliteConnection;

use super::sql::{args, execute, fetch};
use super::{Context, write};
use crate::domain::event::Envelope;
use crate::store::decode::{self, Columns as _, envelope_columns};
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

/// The dead letter, or why nothing can be done with it.
async fn open_letter(
    conn: &mut SqliteConnection,
    id: i64,
) -> Result<Result<DeadLetter, DeadLetterAction>, StoreError> {
    let sql = concat!(
        "SELECT l.status, l.event_seq, l.stage, l.round, coalesce(d.status = 'dead' AND d.round = l.round, 0), ",
        envelope_columns!(),
        " FROM dead_letters l JOIN events e ON e.seq = l.event_seq \
         LEFT JOIN deliveries d ON d.event_seq = l.event_seq AND d.stage = l.stage WHERE l.id = ?1"
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
        )));
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
    at_ms: u64,
}

async fn close_letter(
    conn: &mut SqliteConnection,
    id: i64,
    end: End<'_>,
) -> Result<(), StoreError> {
    let (source, event) = end.replayed_as.unzip();
    let sql = "UPDATE dead_letters SET status = ?2, note = ?3, settled_ms = ?4, replayed_source = ?5, replayed_id = ?6 WHERE id = ?1";
    let status = decode::letter_status_name(end.status);
    execute(conn, sql, args![id, status, end.note, end.at_ms as i64, source, event]).await?;
    Ok(())
}

/// Opens the delivery again, a round further.
pub(super) async fn replay(
    conn: &mut SqliteConnection,
    context: &mut Context,
    now_ms: u64,
    (id, expires_at_ms): (i64, u64),
) -> Result<DeadLetterAction, StoreError> {
    let mut dead_letter = match open_letter(conn, id).await? {
        Ok(dead_letter) => dead_letter,
        Err(action) => return Ok(action),
    };
    close_letter(
        conn,
        id,
        End { status: DeadLetterStatus::Replayed, note: None, replayed_as: None, at_ms: now_ms },
    )
    .await?;
    dead_letter.envelope.expires_at_ms = expires_at_ms;
    let sql = "UPDATE events SET expires_ms = ?2 WHERE seq = ?1";
    execute(conn, sql, args![dead_letter.seq, expires_at_ms as i64]).await?;
    // What comes of the next round is recorded in its place.
    let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN \
               (SELECT stage, settled_ms, event_seq FROM deliveries WHERE event_seq = ?1 AND stage = ?2)";
    execute(conn, sql, args![dead_letter.seq, &*dead_letter.stage]).await?;
    let sql = "UPDATE deliveries SET status = 'open', round = ?3, attempt = 1, version = NULL, digest = NULL, duration_us = NULL, \
               settled_ms = NULL, queued_ms = ?4 WHERE event_seq = ?1 AND stage = ?2";
    let round = dead_letter.round + 1;
    execute(
        conn,
        sql,
        args![dead_letter.seq, &*dead_letter.stage, i64::from(round), now_ms as i64],
    )
    .await?;
    let direct = Direct { stage: dead_letter.stage, round, attempt: 1 };
    let mut numbers = context.numbers;
    let mut plan = context.plan(&mut numbers, now_ms);
    let sent = plan.send(dead_letter.seq, &Arc::new(dead_letter.envelope), Some(direct), now_ms);
    write::write(conn, context, plan).await?;
    context.numbers = numbers;
    Ok(DeadLetterAction::Done(sent.into_iter().collect()))
}

/// Puts an edited event in the place of the one that died, for the same stage alone.
pub(super) async fn replay_edited(
    conn: &mut SqliteConnection,
    context: &mut Context,
    now_ms: u64,
    (id, event): (i64, &NewEvent),
) -> Result<DeadLetterAction, StoreError> {
    let dead_letter = match open_letter(conn, id).await? {
        Ok(dead_letter) => dead_letter,
        Err(action) => return Ok(action),
    };
    let replayed_as =
        Some((event.envelope.event.source.as_str(), event.envelope.event.id.as_str()));
    close_letter(
        conn,
        id,
        End { status: DeadLetterStatus::Replayed, note: None, replayed_as, at_ms: now_ms },
    )
    .await?;
    let sql = "UPDATE deliveries SET status = 'replaced' WHERE event_seq = ?1 AND stage = ?2";
    execute(conn, sql, args![dead_letter.seq, &*dead_letter.stage]).await?;
    // Whatever the caller filled in: an edited event is for the stage that could not digest the old
    // one.
    let event = event.clone().only_for(dead_letter.stage);
    let mut numbers = context.numbers;
    let mut plan = context.plan(&mut numbers, now_ms);
    let sent = plan.event(&event);
    write::write(conn, context, plan).await?;
    context.numbers = numbers;
    Ok(DeadLetterAction::Done(sent.into_iter().collect()))
}

/// Closes it for good.
pub(super) async fn discard(
    conn: &mut SqliteConnection,
    now_ms: u64,
    (id, reason): (i64, &str),
) -> Result<DeadLetterAction, StoreError> {
    if let Err(action) = open_letter(conn, id).await? {
        return Ok(action);
    }
    let end = End {
        status: DeadLetterStatus::Discarded,
        note: Some(reason),
        replayed_as: None,
        at_ms: now_ms,
    };
    close_letter(conn, id, end).await?;
    Ok(DeadLetterAction::Done(Vec::new()))
}

/// Notes a load.
pub(super) async fn plugin_loaded(
    conn: &mut SqliteConnection,
    load: &PluginLoad,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO plugin_loads (stage, digest, version, host, loaded_ms) VALUES (?1, ?2, ?3, ?4, ?5)";
    let (stage, digest, version) =
        (load.stage.as_str(), load.digest.as_str(), load.version.as_str());
    execute(conn, sql, args![stage, digest, version, load.host.as_str(), load.loaded_at_ms as i64])
        .await?;
    Ok(())
}

/// Notes an operator's word about a stage.
pub(super) async fn set_stage_control(
    conn: &mut SqliteConnection,
    now_ms: u64,
    (stage, state, reason): (&str, ControlState, Option<&str>),
) -> Result<StageControl, StoreError> {
    let rows = fetch(
        conn,
        decode::SET_STAGE_CONTROL,
        args![stage, decode::control_name(state), reason, now_ms as i64],
    )
    .await?;
    rows.first().map_or_else(
        || Err(StoreError::Corrupt("no row where one belongs".to_owned())),
        decode::stage_control,
    )
}
