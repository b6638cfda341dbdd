//! Queries, the same for every database: they see the last commit and never wait for a writer.
//!
//! Bounded by the caller's page sizes; a subject's own events and deliveries are bounded by its
//! hops. A page of what holds payloads also ends once it has [`PAGE_MAX_BYTES`], so that large ones do
//! not make large pages.

mod conditions;
mod dead_letters;
pub(super) mod log;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use self::conditions::Conditions;
pub(super) use self::dead_letters::{
    count_dead_letters, dead_letter, dead_letter_groups, dead_letter_ids, dead_letters,
};
use self::log::SUBJECTS;
use super::api_keys::{self, ApiKey, Session};
use super::decode::{self, Columns, attempt_columns, envelope_columns, subject_columns};
use super::{
    AuditFilter, AuditPage, CHAINS_MAX, ChainRecord, DeliveryRecord, FinishedSubject, MessageKey,
    OpenDelivery, Page, PluginLoad, Queued, RecordedDelivery, RecordingCursor, RecordingFilter,
    StageBacklog, StageControl, StateRow, StoreError, StoreFigures, Subject, SubjectFilter,
};
use super::{audit, chains, message_keys};
use crate::domain::encryption::Encryption;
use crate::domain::event::{DeliveryKey, Event};
use crate::domain::subject::SubjectKey;

/// Bytes after which a page of events, dead letters or recordings ends; it has one row at least.
const PAGE_MAX_BYTES: i64 = 1 << 20;

/// How many rows of these sizes, in their order, make a page of at most `limit` rows.
fn page_rows(sizes: impl IntoIterator<Item = i64>, limit: u32) -> u32 {
    let (mut rows, mut room) = (0, PAGE_MAX_BYTES);
    for size in sizes.into_iter().take(limit as usize) {
        if room <= 0 {
            break;
        }
        (rows, room) = (rows + 1, room - size);
    }
    rows
}

/// A value for a placeholder; those of a query are `$1`, `$2`, ….
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Int(i64),
    Text(&'a str),
    /// Numbers and names, for a `FROM` item of the database's own.
    Named(&'a [(i64, String)]),
}

/// Runs queries.
pub(super) trait Reader: Sync {
    /// A row of a result.
    type Row: Columns + Send + Sync;
    /// A `FROM` item that makes a table `k (number, name)` of the first argument, an
    /// [`Arg::Named`].
    const NAMED: &'static str;
    /// Placeholders that such an argument takes.
    const NAMED_WIDTH: usize;
    /// Runs a query.
    fn rows(
        &self,
        sql: String,
        args: &[Arg<'_>],
    ) -> impl Future<Output = Result<Vec<Self::Row>, StoreError>> + Send;
    /// Opens what is sealed.
    fn encryption(&self) -> &Encryption;
}

pub(super) async fn state_get(
    db: &impl Reader,
    table: &str,
    stage: &str,
    key: &str,
) -> Result<Option<StateRow>, StoreError> {
    let sql = format!("SELECT key, value, version FROM {table} WHERE stage = $1 AND key = $2");
    let rows = db.rows(sql, &[Arg::Text(stage), Arg::Text(key)]).await?;
    let row = rows.first().map(|row| decode::state_row(row, stage, db.encryption())).transpose()?;
    // Version 0 is a key that was only ever locked.
    Ok(row.filter(|row| row.version > 0))
}

/// Keys of a stage's state with a prefix, after one of them.
pub(super) struct KeyRange<'a> {
    /// The table of the state, as SQL.
    pub(super) table: &'a str,
    pub(super) stage: &'a str,
    pub(super) prefix: &'a str,
    pub(super) after: &'a str,
}

pub(super) async fn state_keys(
    db: &impl Reader,
    KeyRange { table, stage, prefix, after }: KeyRange<'_>,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    // The last code point, which no text uses, ends the range of any prefix.
    let end = format!("{prefix}\u{10ffff}");
    let sql = format!(
        "SELECT key FROM {table} WHERE stage = $1 AND key >= $2 AND key < $3 AND key > $4 AND \
         value IS NOT NULL ORDER BY key LIMIT $5"
    );
    let args = [
        Arg::Text(stage),
        Arg::Text(prefix),
        Arg::Text(&end),
        Arg::Text(after),
        Arg::Int(i64::from(limit)),
    ];
    db.rows(sql, &args).await?.iter().map(|row| row.owned(0)).collect()
}

pub(super) async fn subject(
    db: &impl Reader,
    key: &SubjectKey,
) -> Result<Option<Subject>, StoreError> {
    let sql = concat!("SELECT ", subject_columns!(), " FROM subjects sub WHERE sub.key = $1");
    let rows = db.rows(sql.to_owned(), &[Arg::Text(key)]).await?;
    rows.first().map(|row| decode::subject(row, db.encryption())).transpose()
}

/// Events with an open delivery or an open dead letter at a stage, given the number of its
/// placeholder.
fn waiting_at(stage: usize) -> String {
    format!(
        "SELECT d.event_seq FROM deliveries d WHERE d.stage = ${stage} AND d.status = 'open' \
         UNION SELECT l.event_seq FROM dead_letters l WHERE l.stage = ${stage} AND l.status = \
         'open'"
    )
}

pub(super) async fn subjects(
    db: &impl Reader,
    filter: &SubjectFilter,
) -> Result<Page<Subject>, StoreError> {
    let mut positions = Positions { before: filter.before, ..Positions::default() };
    // Times grow with positions: the positions bound the search, the times decide.
    if let Some(since_ms) = filter.since_ms {
        positions.since = Some((SUBJECTS.before(db, since_ms).await?, since_ms as i64));
    }
    if let Some(until_ms) = filter.until_ms {
        positions.until = Some((SUBJECTS.after(db, until_ms).await?, until_ms as i64));
    }
    let mut query = Conditions::after("");
    if filter.status.is_some() {
        // Each half has an index; an unfinished subject may have a status that is final by now.
        query.sql.push_str("SELECT * FROM (");
        query.subjects(filter, positions, "sub.finished_status");
        query.sql.push_str(") finished UNION ALL SELECT * FROM (");
        query.subjects(filter, positions, "sub.finished_status IS NULL AND sub.status");
        query.sql.push_str(") unfinished");
        query.forget_lead();
    } else {
        query.subjects(filter, positions, "");
    }
    // The seventh column is the position.
    let (sql, args) = query.newest_first("7", filter.limit);
    let rows = db.rows(sql, &args).await?;
    decode::page(&rows, filter.limit, |row| {
        Ok((row.int(6)?, decode::subject(row, db.encryption())?))
    })
}

/// Positions that bound a search for subjects.
#[derive(Clone, Copy, Default)]
struct Positions {
    /// After this position, and not created before this time.
    since: Option<(i64, i64)>,
    /// Up to this position, and created before this time.
    until: Option<(i64, i64)>,
    before: Option<i64>,
}

impl<'a> Conditions<'a> {
    /// Selects the newest subjects of a filter, whose status is in the column `status`.
    fn subjects(&mut self, filter: &'a SubjectFilter, positions: Positions, status: &'static str) {
        self.sql.push_str(concat!("SELECT ", subject_columns!(), " FROM subjects sub WHERE TRUE"));
        // Every index begins with the kind.
        let lead = match filter {
            SubjectFilter { kind: None, .. } => None,
            SubjectFilter { customer: Some(_), .. } => Some("sub.customer"),
            SubjectFilter { owner: Some(_), .. } => Some("sub.owner"),
            _ => Some("sub.finished_status"),
        };
        self.equal(
            lead,
            [
                ("sub.kind", filter.kind.as_deref().map(Arg::Text)),
                (status, filter.status.as_deref().map(Arg::Text)),
                ("sub.customer", filter.customer.as_deref().map(Arg::Text)),
                ("sub.owner", filter.owner.as_deref().map(Arg::Text)),
            ],
        );
        if let Some(stage) = &filter.stage {
            let waiting = waiting_at(self.bind(Arg::Text(stage)));
            let _ = write!(
                self.sql,
                " AND sub.key IN (SELECT e.subject_key FROM ({waiting}) k CROSS JOIN events e WHERE e.seq = k.event_seq)"
            );
        }
        self.bound("sub.pos", ">", positions.since.map(|since| since.0));
        self.and("sub.created_ms >=", positions.since.map(|since| Arg::Int(since.1)));
        self.bound("sub.pos", "<=", positions.until.map(|until| until.0));
        self.and("sub.created_ms <", positions.until.map(|until| Arg::Int(until.1)));
        self.bound("sub.pos", "<", positions.before);
        if filter.status.is_some() {
            self.page("sub.pos", "DESC", filter.limit + 1);
        }
    }
}

async fn attempts_of<R: Reader>(
    db: &R,
    deliveries: &[(i64, String)],
) -> Result<decode::Failures, StoreError> {
    if deliveries.is_empty() {
        return Ok(decode::Failures::new());
    }
    let sql = format!(
        "SELECT DISTINCT {} FROM {} CROSS JOIN attempts a WHERE a.event_seq = k.number AND a.stage = k.name \
         ORDER BY a.event_seq, a.stage, a.round, a.attempt",
        attempt_columns!(),
        R::NAMED
    );
    decode::attempts(&db.rows(sql, &[Arg::Named(deliveries)]).await?, db.encryption())
}

const DELIVERY: &str = "SELECT d.event_seq, d.stage, e.source, e.id, e.type, d.status, d.round, d.attempt, d.version, d.digest, \
     d.duration_us, d.created_ms, d.settled_ms, d.emitted, d.host FROM";

/// Positions of a subject's events after one.
const EVENT_POSITIONS: &str =
    "SELECT e.seq FROM events e WHERE e.subject_key = $1 AND e.seq > $2 ORDER BY e.seq LIMIT $3";

pub(super) async fn subject_deliveries<R: Reader>(
    db: &R,
    key: &SubjectKey,
    after: i64,
    limit: u32,
) -> Result<Page<DeliveryRecord>, StoreError> {
    let events = [Arg::Text(key), Arg::Int(after), Arg::Int(i64::from(limit) + 1)];
    let rows = db.rows(EVENT_POSITIONS.to_owned(), &events).await?;
    let positions = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<i64>, _>>()?;
    let size = limit as usize;
    let next = (positions.len() > size).then(|| positions[size - 1]);
    let Some(last) = next.or(positions.last().copied()) else {
        return Ok(Page { items: Vec::new(), next: None });
    };
    // By position: of a join with the events by subject, Postgres may read all deliveries first.
    let events = positions.into_iter().filter(|position| *position <= last);
    let events: Vec<_> = events.map(|position| (position, String::new())).collect();
    let sql = format!(
        "{DELIVERY} {} CROSS JOIN events e CROSS JOIN deliveries d WHERE e.seq = k.number AND \
         d.event_seq = k.number ORDER BY e.seq, d.stage",
        R::NAMED
    );
    let rows = db.rows(sql, &[Arg::Named(&events)]).await?;
    Ok(Page { items: deliveries(db, rows).await?, next })
}

pub(super) async fn delivery(
    db: &impl Reader,
    key: &DeliveryKey,
) -> Result<Option<DeliveryRecord>, StoreError> {
    let sql = format!(
        "{DELIVERY} events e CROSS JOIN deliveries d WHERE d.event_seq = e.seq AND e.id = $1 AND \
         e.source = $2 AND d.stage = $3"
    );
    let rows = db
        .rows(sql, &[Arg::Text(&key.event.id), Arg::Text(&key.event.source), Arg::Text(&key.stage)])
        .await?;
    Ok(deliveries(db, rows).await?.into_iter().next())
}

pub(super) async fn open_deliveries(
    db: &impl Reader,
    stage: &str,
    limit: u32,
) -> Result<Vec<OpenDelivery>, StoreError> {
    let sql = format!(
        "SELECT d.round, d.attempt, d.queued_ms, {} FROM (SELECT * FROM deliveries WHERE stage = $1 AND status = 'open' \
         ORDER BY queued_ms LIMIT $2) d CROSS JOIN events e WHERE e.seq = d.event_seq",
        envelope_columns!()
    );
    let rows = db.rows(sql, &[Arg::Text(stage), Arg::Int(i64::from(limit))]).await?;
    rows.iter().map(|row| open_delivery(row, db.encryption())).collect()
}

/// Open deliveries of a stage (`$1`), queued before a time (`$2`): the longest queued of each kind,
/// and within a kind of each customer, then the next of each. Without a customer, those from one source
/// belong together. At most [`IN_TURN_MAX`] are considered.
const IN_TURN: &str = "SELECT f.event_seq, f.round, f.attempt, f.queued_ms, row_number() OVER \
     (PARTITION BY f.kind ORDER BY f.nth, f.queued_ms, f.event_seq) AS turn FROM \
     (SELECT w.*, sub.kind, row_number() OVER (PARTITION BY sub.kind, sub.customer, \
     CASE WHEN sub.customer IS NULL THEN e.source END ORDER BY w.queued_ms, w.event_seq) AS nth FROM \
     (SELECT event_seq, round, attempt, queued_ms FROM deliveries WHERE stage = $1 AND \
     status = 'open' AND queued_ms < $2 ORDER BY queued_ms LIMIT $3) w \
     JOIN events e ON e.seq = w.event_seq LEFT JOIN subjects sub ON sub.key = e.subject_key) f \
     ORDER BY turn, f.event_seq LIMIT $4";
const IN_TURN_MAX: i64 = 100_000;

pub(super) async fn deliveries_in_turn(
    db: &impl Reader,
    stage: &str,
    queued: Queued,
) -> Result<Vec<OpenDelivery>, StoreError> {
    let sql = format!(
        "SELECT d.round, d.attempt, d.queued_ms, {} FROM (SELECT t.*, sum(length(e.data)) OVER \
         (ORDER BY t.turn, t.event_seq) - length(e.data) AS bytes_before FROM ({IN_TURN}) t \
         JOIN events e ON e.seq = t.event_seq) d CROSS JOIN events e WHERE e.seq = d.event_seq AND \
         d.bytes_before < $5 ORDER BY d.turn, d.event_seq",
        envelope_columns!()
    );
    let number = |number: u64| Arg::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let args = [
        Arg::Text(stage),
        number(queued.before_ms),
        Arg::Int(IN_TURN_MAX),
        Arg::Int(i64::from(queued.limit)),
        number(queued.max_bytes),
    ];
    let rows = db.rows(sql, &args).await?;
    rows.iter().map(|row| open_delivery(row, db.encryption())).collect()
}

fn open_delivery(row: &impl Columns, encryption: &Encryption) -> Result<OpenDelivery, StoreError> {
    Ok(OpenDelivery {
        round: row.small(0)?,
        attempt: row.small(1)?,
        queued_at_ms: row.unsigned(2)?,
        envelope: Arc::new(decode::envelope(row, 3, encryption)?),
    })
}

/// Decodes deliveries and adds their failed attempts.
async fn deliveries<R: Reader>(
    db: &R,
    rows: Vec<R::Row>,
) -> Result<Vec<DeliveryRecord>, StoreError> {
    let keys = decode::delivery_keys(&rows, 0)?;
    let mut failures = attempts_of(db, &keys).await?;
    let with_failures =
        |(row, key)| decode::delivery_record(row, failures.remove(&key).unwrap_or_default());
    rows.iter().zip(keys).map(with_failures).collect()
}

/// A stage's recordings after a cursor: a range of their key.
const RECORDINGS: &str = "SELECT r.* FROM recordings r WHERE r.stage = $1 AND (r.settled_ms, r.event_seq) > ($2, $3) \
     ORDER BY r.settled_ms, r.event_seq LIMIT $4";
/// The same, of one subject.
const RECORDINGS_OF_SUBJECT: &str = "SELECT r.* FROM events e CROSS JOIN deliveries d CROSS JOIN recordings r \
     WHERE e.subject_key = $5 AND d.event_seq = e.seq AND d.stage = $1 \
     AND r.stage = d.stage AND r.settled_ms = d.settled_ms AND r.event_seq = d.event_seq \
     AND (r.settled_ms, r.event_seq) > ($2, $3) ORDER BY r.settled_ms, r.event_seq LIMIT $4";

/// Columns of the first `limit` recordings of a filter, with their deliveries and events.
async fn recorded<R: Reader>(
    db: &R,
    filter: &RecordingFilter,
    columns: &str,
    limit: u32,
) -> Result<Vec<R::Row>, StoreError> {
    let mut args = vec![
        Arg::Text(&filter.stage),
        Arg::Int(filter.after.settled_ms),
        Arg::Int(filter.after.event_seq),
        Arg::Int(i64::from(limit)),
    ];
    args.extend(filter.subject.as_deref().map(Arg::Text));
    let picked = if filter.subject.is_some() { RECORDINGS_OF_SUBJECT } else { RECORDINGS };
    let sql = format!(
        "SELECT {columns} FROM ({picked}) r CROSS JOIN deliveries d CROSS JOIN events e \
         WHERE d.event_seq = r.event_seq AND d.stage = r.stage AND e.seq = r.event_seq \
         ORDER BY r.settled_ms, r.event_seq"
    );
    db.rows(sql, &args).await
}

/// How many recordings make a page: with the events that they received and emitted.
async fn recordings_in_page<R: Reader>(
    db: &R,
    filter: &RecordingFilter,
) -> Result<u32, StoreError> {
    let sizes = "CAST(octet_length(r.body) + octet_length(e.data) AS BIGINT), d.emitted";
    let rows = recorded(db, filter, sizes, filter.limit).await?;
    let mut named: Vec<(i64, String)> = Vec::new();
    let mut bytes = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        bytes.push(row.int(0)?);
        let emitted: Vec<String> = row.list(1)?;
        named.extend(emitted.into_iter().map(|id| (at as i64, id)));
    }
    if !named.is_empty() {
        let sql = format!(
            "SELECT k.number, CAST(octet_length(e.data) AS BIGINT) FROM {} CROSS JOIN events e \
             WHERE e.id = k.name AND e.stage IS NOT NULL",
            R::NAMED
        );
        for row in &db.rows(sql, &[Arg::Named(&named)]).await? {
            if let Some(sum) = bytes.get_mut(row.int(0)? as usize) {
                *sum += row.int(1)?;
            }
        }
    }
    Ok(page_rows(bytes, filter.limit))
}

pub(super) async fn recordings<R: Reader>(
    db: &R,
    filter: &RecordingFilter,
) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError> {
    let columns = concat!(
        "r.settled_ms, r.event_seq, r.body, d.round, d.attempt, d.version, d.digest, d.emitted, \
         d.host, ",
        envelope_columns!()
    );
    let limit = recordings_in_page(db, filter).await?;
    let rows = recorded(db, filter, columns, limit + 1).await?;
    let limit = limit as usize;
    let shown = &rows[..rows.len().min(limit)];
    let mut named: Vec<(i64, String)> = Vec::new();
    let mut ids = Vec::with_capacity(shown.len());
    for (at, row) in shown.iter().enumerate() {
        let emitted: Vec<String> = row.list(7)?;
        ids.push(emitted.len());
        named.extend(emitted.into_iter().map(|id| (at as i64, id)));
    }
    let mut emitted = emitted_by(db, &named).await?.into_iter();
    let mut items = Vec::with_capacity(shown.len());
    for (row, count) in shown.iter().zip(ids) {
        let events: Vec<Option<Event>> = emitted.by_ref().take(count).collect();
        let emitted = events.into_iter().collect();
        items.push(decode::recorded_delivery(row, emitted, db.encryption())?);
    }
    let next = items.last().filter(|_| rows.len() > shown.len()).map(|item| item.at);
    Ok((items, next))
}

/// Events by id, in the order of `named`: the id of an emitted event is unique.
async fn emitted_by<R: Reader>(
    db: &R,
    named: &[(i64, String)],
) -> Result<Vec<Option<Event>>, StoreError> {
    if named.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {} FROM {} CROSS JOIN events e WHERE e.id = k.name AND e.stage IS NOT NULL",
        envelope_columns!(),
        R::NAMED
    );
    let mut found = HashMap::new();
    for row in &db.rows(sql, &[Arg::Named(named)]).await? {
        let event = decode::envelope(row, 0, db.encryption())?.event;
        found.insert(event.id.clone(), event);
    }
    Ok(named.iter().map(|(_, id)| found.remove(id)).collect())
}

pub(super) async fn plugin_loads(
    db: &impl Reader,
    stage: &str,
    limit: u32,
) -> Result<Vec<PluginLoad>, StoreError> {
    let sql = "SELECT stage, digest, version, host, loaded_ms FROM plugin_loads WHERE stage = $1 ORDER BY id DESC LIMIT $2";
    let rows = db.rows(sql.to_owned(), &[Arg::Text(stage), Arg::Int(i64::from(limit))]).await?;
    rows.iter().map(decode::plugin_load).collect()
}

pub(super) async fn stage_controls(db: &impl Reader) -> Result<Vec<StageControl>, StoreError> {
    let sql =
        "SELECT stage, state, reason, since_ms, held_from_ms FROM stage_controls ORDER BY stage";
    db.rows(sql.to_owned(), &[]).await?.iter().map(decode::stage_control).collect()
}

/// A page of the audit log. The head is read first, so the page has nothing that is newer.
pub(super) async fn audit_records(
    db: &impl Reader,
    filter: &AuditFilter,
) -> Result<AuditPage, StoreError> {
    let ends = db.rows(audit::ENDS.to_owned(), &[]).await?;
    let ends = ends.first().ok_or_else(StoreError::missing_row)?;
    let (head, anchor) = (audit::position(ends, 0)?, audit::position(ends, 2)?);
    let select = format!("SELECT {} FROM audit WHERE pos > 0", audit::COLUMNS);
    let mut query = Conditions::after(&select);
    let time = |value: Option<u64>| value.map(|at_ms| Arg::Int(at_ms as i64));
    query.and(filter.beyond(), filter.after.map(Arg::Int));
    query.and("pos <=", Some(Arg::Int(head.pos)));
    query.and("actor_id =", filter.actor.as_deref().map(Arg::Text));
    query.and("action =", filter.action.as_deref().map(Arg::Text));
    query.and("object =", filter.object.as_deref().map(Arg::Text));
    query.and("at_ms >=", time(filter.since_ms));
    query.and("at_ms <", time(filter.until_ms));
    let Conditions { mut sql, args, .. } = query;
    let _ = write!(sql, " ORDER BY pos {} LIMIT {}", filter.direction.sql(), filter.limit + 1);
    let rows = db.rows(sql, &args).await?;
    let numbered = |row: &_| audit::record(row).map(|record| (record.pos, record));
    let Page { items: records, next } = decode::page(&rows, filter.limit, numbered)?;
    Ok(AuditPage { records, next, anchor, head })
}

/// Every API key, the newest first.
pub(super) async fn api_keys(db: &impl Reader) -> Result<Vec<ApiKey>, StoreError> {
    db.rows(api_keys::ALL.to_owned(), &[]).await?.iter().map(api_keys::decode).collect()
}

/// The session with this digest.
pub(super) async fn session(db: &impl Reader, digest: &str) -> Result<Option<Session>, StoreError> {
    let rows = db.rows(api_keys::SESSION.to_owned(), &[Arg::Text(digest)]).await?;
    rows.first().map(api_keys::decode_session).transpose()
}

pub(super) async fn chains(
    db: &impl Reader,
    changed_since_ms: u64,
) -> Result<Vec<ChainRecord>, StoreError> {
    let args = [Arg::Int(changed_since_ms as i64), Arg::Int(CHAINS_MAX as i64)];
    db.rows(chains::CHANGED.to_owned(), &args).await?.iter().map(chains::decode).collect()
}

pub(super) async fn message_keys(db: &impl Reader) -> Result<Vec<MessageKey>, StoreError> {
    message_keys::decode(&db.rows(message_keys::ALL.to_owned(), &[]).await?)
}

pub(super) async fn backlog(
    db: &impl Reader,
    now_ms: u64,
) -> Result<Vec<StageBacklog>, StoreError> {
    let sql = "SELECT stage, count(*), count(CASE WHEN queued_ms > $1 THEN 1 END), min(CASE WHEN \
               queued_ms <= $1 THEN created_ms END) FROM deliveries WHERE status = 'open' GROUP BY \
               stage";
    let rows = db.rows(sql.to_owned(), &[Arg::Int(now_ms as i64)]).await?;
    let backlog = rows.iter().map(|row| {
        let (stage, waiting, scheduled) = (row.owned(0)?, row.unsigned(1)?, row.unsigned(2)?);
        Ok(StageBacklog { stage, waiting, scheduled, oldest_ms: time(row, 3)? })
    });
    backlog.collect()
}

/// A time that may be missing.
fn time(row: &impl Columns, at: usize) -> Result<Option<u64>, StoreError> {
    row.maybe_int(at)?.map(|_| row.unsigned(at)).transpose()
}

pub(super) async fn figures(db: &impl Reader, now_ms: u64) -> Result<StoreFigures, StoreError> {
    let now = Arg::Int(now_ms as i64);
    let sql = "SELECT count(*), min(due_ms) FROM outbox WHERE due_ms <= $1";
    let outbox = db.rows(sql.to_owned(), &[now]).await?;
    let outbox = outbox.first().ok_or_else(StoreError::missing_row)?;
    let sql = "SELECT stage, count(*) FROM dead_letters WHERE status = 'open' GROUP BY stage";
    let dead_letters = db.rows(sql.to_owned(), &[]).await?;
    let count = |row: &_| Ok((Columns::owned(row, 0)?, Columns::unsigned(row, 1)?));
    Ok(StoreFigures {
        backlog: backlog(db, now_ms).await?,
        outbox: outbox.unsigned(0)?,
        outbox_oldest_ms: time(outbox, 1)?,
        dead_letters: dead_letters.iter().map(count).collect::<Result<_, StoreError>>()?,
    })
}

pub(super) async fn finished_subjects(
    db: &impl Reader,
    kind: &str,
    (after_ms, until_ms): (u64, u64),
    limit: u32,
) -> Result<Vec<FinishedSubject>, StoreError> {
    let sql = "SELECT finished_status, created_ms, finished_ms FROM subjects WHERE kind = $1 AND \
               finished_ms > $2 AND finished_ms <= $3 ORDER BY finished_ms LIMIT $4";
    let times = [after_ms, until_ms].map(|at_ms| Arg::Int(at_ms as i64));
    let args = [Arg::Text(kind), times[0], times[1], Arg::Int(i64::from(limit))];
    let rows = db.rows(sql.to_owned(), &args).await?;
    let finished = rows.iter().map(|row| {
        let (status, created_ms) = (row.owned(0)?, row.unsigned(1)?);
        Ok(FinishedSubject { status, created_ms, finished_ms: row.unsigned(2)? })
    });
    finished.collect()
}
