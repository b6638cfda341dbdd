//! Queries on dead letters: pages, groups, counts.
//!
//! A list of groups only reads an index; it costs in proportion to the dead letters that match the
//! filter, which retention bounds.

use std::collections::HashMap;

use super::conditions::Conditions;
use super::{Arg, Reader, attempts_of, page_rows};
use crate::store::decode::{self, Columns as _, envelope_columns};
use crate::store::sealed::Owner;
use crate::store::{
    DeadLetter, DeadLetterCount, DeadLetterFilter, DeadLetterGroup, DeadLetterStatus, Page,
    StoreError,
};

const DEAD_LETTERS: &str = concat!(
    "SELECT l.id, l.event_seq, l.stage, l.round, l.code, l.message, l.digest, l.dead_lettered_ms, \
     l.status, l.note, \
     l.fingerprint, l.group_id, l.settled_ms, l.replayed_source, l.replayed_id, ",
    envelope_columns!(),
    " FROM dead_letters l CROSS JOIN events e WHERE e.seq = l.event_seq"
);

/// Decodes dead letters and adds their failed attempts. One delivery may be dead-lettered in several
/// rounds: each dead letter shows all attempts.
async fn with_attempts<R: Reader>(db: &R, rows: &[R::Row]) -> Result<Vec<DeadLetter>, StoreError> {
    let keys = decode::delivery_keys(rows, 1)?;
    let failures = attempts_of(db, &keys).await?;
    let with_failures = |(row, key): (_, &_)| {
        decode::dead_letter(row, failures.get(key).cloned().unwrap_or_default(), db.encryption())
    };
    rows.iter().zip(&keys).map(with_failures).collect()
}

/// The size of a dead letter with its event and its failed attempts.
const SIZES: &str = "SELECT l.id, CAST(octet_length(e.data) + octet_length(l.message) + \
     coalesce((SELECT sum(octet_length(a.message) + coalesce(octet_length(a.backtrace), 0)) \
     FROM attempts a WHERE a.event_seq = l.event_seq AND a.stage = l.stage), 0) AS BIGINT) \
     FROM dead_letters l CROSS JOIN events e WHERE e.seq = l.event_seq";

/// The same filter, for a page that is also bounded in bytes.
async fn bounded(
    db: &impl Reader,
    filter: &DeadLetterFilter,
) -> Result<DeadLetterFilter, StoreError> {
    let mut query = Conditions::after(SIZES);
    pick(&mut query, filter, lead(filter));
    query.bound("l.id", "<", filter.before);
    let (sql, args) = query.newest_first("l.id", filter.limit);
    let rows = db.rows(sql, &args).await?;
    let sizes = rows.iter().map(|row| row.int(1)).collect::<Result<Vec<_>, _>>()?;
    // Newer ones, which were not measured, belong to no page of this cursor.
    let newest = rows.first().map(|row| row.int(0)).transpose()?;
    let before = newest.map(|id| id.saturating_add(1)).or(filter.before);
    let limit = page_rows(sizes, filter.limit);
    Ok(DeadLetterFilter { before, limit, ..filter.clone() })
}

pub(in crate::store) async fn dead_letters(
    db: &impl Reader,
    filter: &DeadLetterFilter,
) -> Result<Page<DeadLetter>, StoreError> {
    let filter = &bounded(db, filter).await?;
    let mut query = Conditions::after(DEAD_LETTERS);
    pick(&mut query, filter, lead(filter));
    query.bound("l.id", "<", filter.before);
    let (sql, args) = query.newest_first("l.id", filter.limit);
    let rows = db.rows(sql, &args).await?;
    let shown = &rows[..rows.len().min(filter.limit as usize)];
    let items = with_attempts(db, shown).await?;
    let next = items.last().filter(|_| rows.len() > shown.len()).map(|dead_letter| dead_letter.id);
    Ok(Page { items, next })
}

pub(in crate::store) async fn dead_letter(
    db: &impl Reader,
    id: i64,
) -> Result<Option<DeadLetter>, StoreError> {
    let rows = db.rows(format!("{DEAD_LETTERS} AND l.id = $1"), &[Arg::Int(id)]).await?;
    Ok(with_attempts(db, &rows).await?.into_iter().next())
}

/// The column whose index gives the rows of a filter in the order of their ids.
fn lead(filter: &DeadLetterFilter) -> Option<&'static str> {
    match filter {
        // A group is found by its own index, and sorted.
        DeadLetterFilter { group: Some(_), .. } => None,
        DeadLetterFilter { code: Some(_), .. } => Some("l.code"),
        DeadLetterFilter { stage: Some(_), .. } => Some("l.stage"),
        DeadLetterFilter { status: Some(_), .. } => Some("l.status"),
        _ => None,
    }
}

/// The conditions of a filter on `dead_letters l`, without the page, which is read by the index of `lead`.
fn pick<'a>(query: &mut Conditions<'a>, filter: &'a DeadLetterFilter, lead: Option<&str>) {
    let status = filter.status.map(|status| Arg::Text(decode::dead_letter_status_name(status)));
    query.equal(
        lead,
        [
            ("l.stage", filter.stage.as_deref().map(Arg::Text)),
            ("l.code", filter.code.as_deref().map(Arg::Text)),
            ("l.status", status),
            ("l.group_id", filter.group.as_deref().map(Arg::Text)),
        ],
    );
    query.and("l.dead_lettered_ms >=", filter.since_ms.map(|time| Arg::Int(time as i64)));
    query.and("l.dead_lettered_ms <", filter.until_ms.map(|time| Arg::Int(time as i64)));
    if let Some(subject) = &filter.subject {
        query.and(
            "l.event_seq IN (SELECT seq FROM events WHERE subject_key =",
            Some(Arg::Text(subject)),
        );
        query.sql.push(')');
    }
}

pub(in crate::store) async fn dead_letter_groups<R: Reader>(
    db: &R,
    filter: &DeadLetterFilter,
) -> Result<Page<DeadLetterGroup>, StoreError> {
    let mut query =
        Conditions::after("SELECT l.group_id, max(l.id) FROM dead_letters l WHERE TRUE");
    pick(&mut query, filter, None);
    query.sql.push_str(" GROUP BY l.group_id HAVING TRUE");
    query.and("max(l.id) <", filter.before.map(Arg::Int));
    let (sql, args) = query.newest_first("max(l.id)", filter.limit);
    let rows = db.rows(sql, &args).await?;
    let shown = &rows[..rows.len().min(filter.limit as usize)];
    let keys = shown
        .iter()
        .map(|row| Ok((row.int(1)?, row.owned(0)?)))
        .collect::<Result<Vec<(i64, String)>, StoreError>>()?;
    let next = keys.last().filter(|_| rows.len() > shown.len()).map(|(newest, _)| *newest);
    Ok(Page { items: groups(db, filter, &keys).await?, next })
}

/// These groups (newest dead letter, id), in their order.
async fn groups<R: Reader>(
    db: &R,
    filter: &DeadLetterFilter,
    keys: &[(i64, String)],
) -> Result<Vec<DeadLetterGroup>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT l.group_id, l.stage, l.code, l.fingerprint, l.id, e.subject_key, (SELECT c.data_key FROM \
         subjects c WHERE c.key = e.subject_key) FROM {} CROSS JOIN dead_letters l CROSS JOIN events e \
         WHERE l.id = k.number AND e.seq = l.event_seq",
        R::NAMED
    );
    let mut groups: HashMap<String, DeadLetterGroup> = HashMap::new();
    for row in &db.rows(sql, &[Arg::Named(keys)]).await? {
        let group = DeadLetterGroup {
            id: row.owned(0)?,
            stage: row.owned(1)?,
            code: row.owned(2)?,
            fingerprint: Owner::of(db.encryption(), row, (5, 6))?.fingerprint(row.text(3)?),
            example: row.int(4)?,
            open: 0,
            replayed: 0,
            discarded: 0,
            first_at_ms: u64::MAX,
            last_at_ms: 0,
            digests: Vec::new(),
        };
        groups.insert(group.id.clone(), group);
    }
    let counted = format!(
        "SELECT l.group_id, l.status, l.digest, count(*), min(l.dead_lettered_ms), \
         max(l.dead_lettered_ms) FROM {} CROSS JOIN dead_letters l \
         WHERE l.group_id = k.name",
        R::NAMED
    );
    let mut query = Conditions::after_named::<R>(&counted, keys);
    pick(&mut query, filter, None);
    query.sql.push_str(" GROUP BY l.group_id, l.status, l.digest");
    for row in &db.rows(query.sql, &query.args).await? {
        if let Some(group) = groups.get_mut(row.text(0)?) {
            let count = match decode::dead_letter_status(row.text(1)?)? {
                DeadLetterStatus::Open => &mut group.open,
                DeadLetterStatus::Replayed => &mut group.replayed,
                DeadLetterStatus::Discarded => &mut group.discarded,
            };
            *count += row.unsigned(3)?;
            let digest = row.owned(2)?;
            if !group.digests.contains(&digest) {
                group.digests.push(digest);
            }
            group.first_at_ms = group.first_at_ms.min(row.unsigned(4)?);
            group.last_at_ms = group.last_at_ms.max(row.unsigned(5)?);
        }
    }
    // Retention may have deleted a group between the queries.
    let found =
        keys.iter().filter_map(|(_, id)| groups.remove(id)).filter(|group| group.last_at_ms > 0);
    Ok(found
        .map(|mut group| {
            group.digests.sort_unstable();
            group
        })
        .collect())
}

pub(in crate::store) async fn count_dead_letters(
    db: &impl Reader,
    filter: &DeadLetterFilter,
) -> Result<DeadLetterCount, StoreError> {
    let mut query =
        Conditions::after("SELECT count(*), coalesce(max(l.id), 0) FROM dead_letters l WHERE TRUE");
    pick(&mut query, filter, None);
    let rows = db.rows(query.sql, &query.args).await?;
    rows.first().map_or(Ok(DeadLetterCount::default()), |row| {
        Ok(DeadLetterCount { count: row.unsigned(0)?, last: row.int(1)? })
    })
}

pub(in crate::store) async fn dead_letter_ids(
    db: &impl Reader,
    filter: &DeadLetterFilter,
    after: i64,
) -> Result<Vec<i64>, StoreError> {
    let mut query = Conditions::after("SELECT l.id FROM dead_letters l WHERE TRUE");
    pick(&mut query, filter, lead(filter));
    query.bound("l.id", ">", Some(after));
    query.bound("l.id", "<", filter.before);
    query.page("l.id", "ASC", filter.limit);
    db.rows(query.sql, &query.args).await?.iter().map(|row| row.int(0)).collect()
}
