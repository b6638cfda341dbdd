//! Queries on the event log.
//!
//! Bounds: one page reads [`WINDOW`] events at most [`WINDOWS_MAX`] times, so a rare event costs no
//! more than a frequent one; the caller continues where the page ended. A page also ends once its
//! events have [`PAGE_MAX_BYTES`]. No query needs an index
//! that only serves it: times grow with positions, so a binary search finds a time.

use super::conditions::Conditions;
use super::{Arg, PAGE_MAX_BYTES, Reader};
use crate::domain::event::topic_matches;
use crate::domain::subject::SubjectKey;
use crate::store::decode::{self, Columns as _, logged_columns};
use crate::store::{
    Direction, EventFilter, LogRange, LoggedEvent, Page, SettledSubject, StoreError, SubjectCursor,
};

/// Events that one query reads.
const WINDOW: i64 = 2_000;
/// Queries for one page.
const WINDOWS_MAX: usize = 25;
/// How far the clocks of writers may differ before a filter by time misses an event.
const SKEW_MS: u64 = 60_000;

/// A table whose times grow with its positions, apart from [`SKEW_MS`].
pub(in crate::store) struct Timed {
    /// First and last position.
    ends: &'static str,
    /// Time of the first row at or after a position.
    probe: &'static str,
}

/// The log: when events entered it.
const LOG: Timed = Timed {
    ends: "SELECT min(seq), max(seq) FROM events",
    probe: "SELECT logged_ms FROM events WHERE seq >= $1 ORDER BY seq LIMIT 1",
};
/// Subjects: when they were created.
pub(in crate::store) const SUBJECTS: Timed = Timed {
    ends: "SELECT min(pos), max(pos) FROM subjects",
    probe: "SELECT created_ms FROM subjects WHERE pos >= $1 ORDER BY pos LIMIT 1",
};

impl Timed {
    /// A position before everything from `since_ms` on.
    pub(in crate::store) async fn before(
        &self,
        db: &impl Reader,
        since_ms: u64,
    ) -> Result<i64, StoreError> {
        Ok(self.first_at(db, since_ms.saturating_sub(SKEW_MS)).await?.saturating_sub(1))
    }

    /// A position at or after everything before `until_ms`.
    pub(in crate::store) async fn after(
        &self,
        db: &impl Reader,
        until_ms: u64,
    ) -> Result<i64, StoreError> {
        self.first_at(db, until_ms.saturating_add(SKEW_MS)).await
    }

    /// The first position with a row of this time or later; after the last one when there is none.
    async fn first_at(&self, db: &impl Reader, at_ms: u64) -> Result<i64, StoreError> {
        let rows = db.rows(self.ends.to_owned(), &[]).await?;
        let ends = rows.first().map_or(Ok((None, None)), |row| {
            Ok::<_, StoreError>((row.maybe_int(0)?, row.maybe_int(1)?))
        })?;
        let (Some(mut low), Some(last)) = ends else { return Ok(1) };
        let mut high = last.saturating_add(1);
        while low < high {
            let middle = low + (high - low) / 2;
            let rows = db.rows(self.probe.to_owned(), &[Arg::Int(middle)]).await?;
            let earlier = rows
                .first()
                .map_or(Ok(false), |row| Ok::<_, StoreError>(row.unsigned(0)? < at_ms))?;
            if earlier { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

/// A page of the log.
pub(in crate::store) async fn events(
    db: &impl Reader,
    filter: &EventFilter,
    range: LogRange,
) -> Result<Page<LoggedEvent>, StoreError> {
    let Some(mut scan) = Scan::begin(db, filter, range).await? else {
        return Ok(Page { items: Vec::new(), next: None });
    };
    let limit = range.limit as usize;
    let (mut items, mut room) = (Vec::new(), PAGE_MAX_BYTES);
    for _ in 0..WINDOWS_MAX {
        let Some(end) = scan.window(db).await? else { return Ok(Page { items, next: None }) };
        let part = scan.part(db, end, limit - items.len(), &mut room).await?;
        items.extend(part.events.into_iter().filter(|event| filter.matches(event)));
        scan.move_on(part.end);
        if items.len() == limit || room <= 0 {
            break;
        }
    }
    Ok(Page { items, next: Some(scan.cursor()) })
}

/// Events of a window, up to a position.
struct Part {
    events: Vec<LoggedEvent>,
    /// Nothing up to it, in the order of the list, remains to be read.
    end: i64,
}

/// A scan of the log.
struct Scan<'a> {
    filter: &'a EventFilter,
    /// The only subject whose events can match, if there is one.
    subject: Option<SubjectKey>,
    after: i64,
    up_to: i64,
    direction: Direction,
}

impl<'a> Scan<'a> {
    /// None when nothing in the range can match.
    async fn begin(
        db: &impl Reader,
        filter: &'a EventFilter,
        range: LogRange,
    ) -> Result<Option<Self>, StoreError> {
        let LogRange { mut after, mut up_to, direction, .. } = range;
        let mut subject = filter.subject.clone();
        if let Some(first) = &filter.correlation {
            // A chain follows its first event, and nearly always stays within its subject.
            let sql = "SELECT min(seq), count(*), min(subject_key) FROM events WHERE id = $1";
            let rows = db.rows(sql.to_owned(), &[Arg::Text(first)]).await?;
            if let Some(row) = rows.first()
                && let Some(seq) = row.maybe_int(0)?
            {
                after = after.max(seq - 1);
                if row.int(1)? == 1 && subject.is_none() {
                    subject = row.maybe_subject(2)?;
                }
            }
        }
        if subject.is_none() {
            if let Some(since_ms) = filter.since_ms {
                after = after.max(LOG.before(db, since_ms).await?);
            }
            if let Some(until_ms) = filter.until_ms {
                up_to = up_to.min(LOG.after(db, until_ms).await?);
            }
        }
        Ok((after < up_to).then_some(Self { filter, subject, after, up_to, direction }))
    }

    /// Leaves what was read, up to a position.
    fn move_on(&mut self, end: i64) {
        match self.direction {
            Direction::Oldest => self.after = end,
            Direction::Newest => self.up_to = end - 1,
        }
    }

    /// The cursor of what remains.
    fn cursor(&self) -> i64 {
        match self.direction {
            Direction::Oldest => self.after,
            Direction::Newest => self.up_to + 1,
        }
    }

    /// The end of the next window; none: the range ends here.
    async fn window(&self, db: &impl Reader) -> Result<Option<i64>, StoreError> {
        let last = match self.direction {
            Direction::Oldest => "max",
            Direction::Newest => "min",
        };
        let direction = self.direction.sql();
        let subject = self.subject.as_ref();
        let of_subject = subject.map_or("", |_| "AND subject_key = $4 ");
        let sql = format!(
            "SELECT {last}(k.seq) FROM (SELECT seq FROM events WHERE seq > $1 AND seq <= $2 \
             {of_subject}ORDER BY seq {direction} LIMIT $3) k"
        );
        let mut args = vec![Arg::Int(self.after), Arg::Int(self.up_to), Arg::Int(WINDOW)];
        args.extend(subject.map(|subject| Arg::Text(subject)));
        let rows = db.rows(sql, &args).await?;
        rows.first().map_or(Ok(None), |row| row.maybe_int(0))
    }

    /// The first events of a window that may match: at most `limit`, and as many as there is room for.
    async fn part(
        &self,
        db: &impl Reader,
        window: i64,
        limit: usize,
        room: &mut i64,
    ) -> Result<Part, StoreError> {
        let sizes = self.query(db, "e.seq, CAST(length(e.data) AS BIGINT)", window, limit).await?;
        let mut end = if sizes.len() == limit { None } else { Some(window) };
        let mut last = None;
        for row in &sizes {
            if *room <= 0 {
                end = None;
                break;
            }
            *room -= row.int(1)?;
            last = Some(row.int(0)?);
        }
        let Some(last) = last else { return Ok(Part { events: Vec::new(), end: window }) };
        let rows = self.query(db, logged_columns!(), last, limit).await?;
        let events = rows
            .iter()
            .map(|row| decode::logged_event(row, db.encryption()))
            .collect::<Result<_, _>>()?;
        Ok(Part { events, end: end.unwrap_or(last) })
    }

    /// Columns of the first events up to `end` that may match: the database filters what it can.
    async fn query<R: Reader>(
        &self,
        db: &R,
        columns: &str,
        end: i64,
        limit: usize,
    ) -> Result<Vec<R::Row>, StoreError> {
        let prefix = self.filter.event_type.as_deref().map(literal);
        let last = prefix.as_ref().map(|prefix| format!("{prefix}\u{10ffff}"));
        let mut query = Conditions::after(&format!("SELECT {columns} FROM events e WHERE TRUE"));
        query.and("e.subject_key =", self.subject.as_deref().map(Arg::Text));
        let (after, up_to) = match self.direction {
            Direction::Oldest => (self.after, end),
            Direction::Newest => (end - 1, self.up_to),
        };
        query.and("e.seq >", Some(Arg::Int(after)));
        query.and("e.seq <=", Some(Arg::Int(up_to)));
        query.and("e.source =", self.filter.source.as_deref().map(Arg::Text));
        query.and("e.stage =", self.filter.stage.as_deref().map(Arg::Text));
        query.and("e.correlation_id =", self.filter.correlation.as_deref().map(Arg::Text));
        query.and("e.type >=", prefix.as_deref().map(Arg::Text));
        query.and("e.type <", last.as_deref().map(Arg::Text));
        query.and("e.logged_ms >=", self.filter.since_ms.map(|at_ms| Arg::Int(at_ms as i64)));
        query.and("e.logged_ms <", self.filter.until_ms.map(|at_ms| Arg::Int(at_ms as i64)));
        query.page("e.seq", self.direction.sql(), limit as u32);
        db.rows(query.sql, &query.args).await
    }
}

/// The common prefix of all types that a topic pattern covers.
fn literal(pattern: &str) -> String {
    let words: Vec<&str> =
        pattern.split('.').take_while(|word| !matches!(*word, "*" | "#")).collect();
    let literal = words.join(".");
    debug_assert!(
        !topic_matches(pattern, pattern) || pattern.starts_with(&literal),
        "a prefix of the pattern"
    );
    literal
}

pub(in crate::store) async fn events_of_subjects<R: Reader>(
    db: &R,
    subjects: &[SubjectCursor],
    limit: u32,
) -> Result<Vec<LoggedEvent>, StoreError> {
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let named: Vec<(i64, String)> =
        subjects.iter().map(|cursor| (cursor.after, cursor.subject.to_string())).collect();
    let sql = format!(
        "SELECT {} FROM {} CROSS JOIN events e WHERE e.subject_key = k.name AND e.seq > k.number \
         ORDER BY e.seq LIMIT {limit}",
        logged_columns!(),
        R::NAMED
    );
    let rows = db.rows(sql, &[Arg::Named(&named)]).await?;
    rows.iter().map(|row| decode::logged_event(row, db.encryption())).collect()
}

pub(in crate::store) async fn events_by_id(
    db: &impl Reader,
    id: &str,
) -> Result<Vec<LoggedEvent>, StoreError> {
    let sql = concat!(
        "SELECT ",
        logged_columns!(),
        " FROM events e WHERE e.id = $1 ORDER BY e.seq LIMIT 100"
    );
    let rows = db.rows(sql.to_owned(), &[Arg::Text(id)]).await?;
    rows.iter().map(|row| decode::logged_event(row, db.encryption())).collect()
}

pub(in crate::store) async fn settled_subjects<R: Reader>(
    db: &R,
    subjects: &[SubjectKey],
) -> Result<Vec<SettledSubject>, StoreError> {
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let named: Vec<(i64, String)> =
        subjects.iter().map(|subject| (0, subject.to_string())).collect();
    let sql = format!(
        "SELECT sub.key, sub.status FROM {} CROSS JOIN subjects sub WHERE sub.key = k.name AND NOT EXISTS \
         (SELECT 1 FROM events e CROSS JOIN deliveries d WHERE e.subject_key = sub.key AND d.event_seq \
         = e.seq AND d.settled_ms IS NULL)",
        R::NAMED
    );
    let rows = db.rows(sql, &[Arg::Named(&named)]).await?;
    rows.iter()
        .map(|row| Ok(SettledSubject { subject: row.subject(0)?, status: row.owned(1)? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn the_prefix_of_a_pattern_ends_at_its_first_wildcard() {
        for (pattern, expected) in
            [("a.b", "a.b"), ("a.*.c", "a"), ("a.#", "a"), ("#", ""), ("*.b", ""), ("a.b.#", "a.b")]
        {
            assert_eq!(literal(pattern), expected, "{pattern}");
        }
    }
}
