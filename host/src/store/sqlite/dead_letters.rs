//! Settles dead letters one at a time: people do this, and rarely.
//!
//! Guarantee: a dead letter is replayed or discarded once; the check and the change are one
//! transaction.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::SqliteConnection;

use super::operation::{SingleOperation, Writer};
use super::sql::{args, execute, fetch};
use crate::domain::actor::Actor;
use crate::domain::encryption::Encryption;
use crate::domain::event::Envelope;
use crate::store::dead_letters::{audited, audited_edit};
use crate::store::decode::{self, Columns as _, envelope_columns};
use crate::store::transaction::{IMMEDIATELY, Operation, SubjectProgress};
use crate::store::{DeadLetterAction, DeadLetterStatus, Direct, NewEvent, StoreError};

/// A dead letter that can be settled.
struct OpenDeadLetter {
    seq: i64,
    stage: Arc<str>,
    round: u32,
    envelope: Envelope,
}

/// Reads the dead letter; the error says why it cannot be settled.
async fn find_open(
    conn: &mut SqliteConnection,
    encryption: &Encryption,
    id: i64,
) -> Result<Result<OpenDeadLetter, DeadLetterAction>, StoreError> {
    let sql = concat!(
        "SELECT l.status, l.event_seq, l.stage, l.round, \
         coalesce(d.status = 'dead' AND d.round = l.round, 0), ",
        envelope_columns!(),
        " FROM dead_letters l JOIN events e ON e.seq = l.event_seq \
         LEFT JOIN deliveries d ON d.event_seq = l.event_seq AND d.stage = l.stage WHERE l.id = ?1"
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
        return Err(StoreError::Corrupt(error));
    }
    Ok(Ok(OpenDeadLetter {
        seq: row.int(1)?,
        stage: row.text(2)?.into(),
        round: row.small(3)?,
        envelope: decode::envelope(row, 5, encryption)?,
    }))
}

/// How a dead letter is closed.
struct Closed<'a> {
    status: DeadLetterStatus,
    note: Option<&'a str>,
    /// The event that an edited replay created.
    replayed_as: Option<&'a NewEvent>,
}

async fn close(writer: &mut Writer<'_>, id: i64, closed: Closed<'_>) -> Result<(), StoreError> {
    let event = closed.replayed_as.map(|event| &event.envelope.event);
    let (source, event_id) = event.map(|event| (event.source.as_str(), event.id.as_str())).unzip();
    let status = decode::dead_letter_status_name(closed.status);
    let sql = "UPDATE dead_letters SET status = ?2, note = ?3, settled_ms = ?4, \
               replayed_source = ?5, replayed_id = ?6 WHERE id = ?1";
    let args = args![id, status, closed.note, writer.now_ms as i64, source, event_id];
    execute(writer.conn, sql, args).await?;
    Ok(())
}

/// Runs the dead letter's delivery again, unchanged, in its next round.
pub(super) struct Replay {
    pub(super) id: i64,
    pub(super) expires_at_ms: u64,
    pub(super) actor: Actor,
}

impl Operation for Replay {
    type Reply = DeadLetterAction;
}

#[async_trait]
impl SingleOperation for Replay {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<DeadLetterAction, StoreError> {
        let dead_letter = match find_open(writer.conn, &writer.context.encryption, self.id).await? {
            Ok(dead_letter) => dead_letter,
            Err(refused) => return Ok(refused),
        };
        let closed = Closed { status: DeadLetterStatus::Replayed, note: None, replayed_as: None };
        close(writer, self.id, closed).await?;
        let OpenDeadLetter { seq, stage, round, mut envelope } = dead_letter;
        envelope.expires_at_ms = self.expires_at_ms;
        let sql = "UPDATE events SET expires_ms = ?2 WHERE seq = ?1";
        execute(writer.conn, sql, args![seq, self.expires_at_ms as i64]).await?;
        // The next round gets a recording of its own.
        let sql = "DELETE FROM recordings WHERE (stage, settled_ms, event_seq) IN \
                   (SELECT stage, settled_ms, event_seq FROM deliveries \
                   WHERE event_seq = ?1 AND stage = ?2)";
        execute(writer.conn, sql, args![seq, &*stage]).await?;
        let sql = "UPDATE deliveries SET status = 'open', round = ?3, attempt = 1, version = NULL, \
                   digest = NULL, host = NULL, duration_us = NULL, settled_ms = NULL, \
                   queued_ms = ?4 \
                   WHERE event_seq = ?1 AND stage = ?2";
        let (round, now_ms) = (round + 1, writer.now_ms);
        execute(writer.conn, sql, args![seq, &*stage, i64::from(round), now_ms as i64]).await?;
        let mut write_set = writer.write_set();
        let direct = Direct { stage, round, attempt: 1 };
        let sent = write_set.send(seq, &Arc::new(envelope), Some(direct), IMMEDIATELY);
        writer.write(write_set).await?;
        writer.audit(audited(&self.actor, "dead-letter.replay", self.id)).await?;
        Ok(DeadLetterAction::Done(sent.into_iter().collect()))
    }
}

/// Sends an edited event to the same stage instead.
pub(super) struct ReplayEdited {
    pub(super) id: i64,
    pub(super) event: NewEvent,
    pub(super) actor: Actor,
}

impl Operation for ReplayEdited {
    type Reply = DeadLetterAction;
}

#[async_trait]
impl SingleOperation for ReplayEdited {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<DeadLetterAction, StoreError> {
        let dead_letter = match find_open(writer.conn, &writer.context.encryption, self.id).await? {
            Ok(dead_letter) => dead_letter,
            Err(refused) => return Ok(refused),
        };
        let replayed_as = Some(&self.event);
        let closed = Closed { status: DeadLetterStatus::Replayed, note: None, replayed_as };
        close(writer, self.id, closed).await?;
        let sql = "UPDATE deliveries SET status = 'replaced' WHERE event_seq = ?1 AND stage = ?2";
        execute(writer.conn, sql, args![dead_letter.seq, &*dead_letter.stage]).await?;
        // Whatever the caller's routes: only the stage that failed gets the edited event.
        let event = self.event.clone().only_for(dead_letter.stage);
        let mut write_set = writer.write_set();
        let sent = write_set.event(&event, SubjectProgress::Unfinished);
        writer.write(write_set).await?;
        writer.audit(audited_edit(&self.actor, self.id, &self.event)).await?;
        Ok(DeadLetterAction::Done(sent.into_iter().collect()))
    }
}

/// Closes the dead letter without another attempt.
pub(super) struct Discard {
    pub(super) id: i64,
    pub(super) reason: String,
    pub(super) actor: Actor,
}

impl Operation for Discard {
    type Reply = DeadLetterAction;
}

#[async_trait]
impl SingleOperation for Discard {
    async fn run(&self, writer: &mut Writer<'_>) -> Result<DeadLetterAction, StoreError> {
        if let Err(refused) = find_open(writer.conn, &writer.context.encryption, self.id).await? {
            return Ok(refused);
        }
        let note = Some(self.reason.as_str());
        let closed = Closed { status: DeadLetterStatus::Discarded, note, replayed_as: None };
        close(writer, self.id, closed).await?;
        let entry = audited(&self.actor, "dead-letter.discard", self.id);
        writer.audit(entry.because(Some(self.reason.clone()))).await?;
        Ok(DeadLetterAction::Done(Vec::new()))
    }
}
