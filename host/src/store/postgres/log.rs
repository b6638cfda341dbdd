//! The position up to which the log is complete, although hosts commit in another subject than they
//! take positions.
//!
//! A transaction takes a shared advisory lock, then a number; the positions of its events follow
//! from the number. So once the last number has been read, every transaction that may still write at
//! or below it is among the holders of the lock. When they have ended, everything up to that number
//! is either visible or will never exist. Readers never wait for a position, writers never wait.
//! Bounds: one search at a time, [`WAIT_MAX`]; after that the last certain position is returned.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::pool::Pool;
use super::sql::{script, store_error};
use crate::store::StoreError;
use crate::store::decode::Columns as _;

/// Longest wait for transactions in progress; most take a few milliseconds.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Pause between two looks at them.
const LOOK: Duration = Duration::from_millis(2);

/// The known end of the log.
#[derive(Default)]
pub(super) struct End(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    /// The log is complete up to here.
    certain: i64,
    /// A position, and the transactions that may still write at or below it.
    awaited: Option<(i64, HashSet<String>)>,
}

impl Progress {
    /// Processes a look: the last position that was given out, and the transactions in progress right
    /// after.
    fn look(&mut self, end: i64, writers: &HashSet<String>) {
        if writers.is_empty() {
            self.settle(end);
        } else if let Some((awaited, before)) = &self.awaited
            && before.is_disjoint(writers)
        {
            let awaited = *awaited;
            self.settle(awaited);
        }
    }

    fn settle(&mut self, end: i64) {
        self.certain = self.certain.max(end);
        self.awaited = None;
    }
}

impl End {
    /// See [`crate::store::Store::log_end`].
    pub(super) async fn find(&self, db: &Pool) -> Result<i64, StoreError> {
        let mut known = self.0.lock().await;
        let began = Instant::now();
        let (wanted, writers) = look(db).await?;
        known.look(wanted, &writers);
        if known.certain >= wanted {
            return Ok(known.certain);
        }
        let mut awaited = writers.clone();
        known.awaited.get_or_insert((wanted, writers));
        while began.elapsed() < WAIT_MAX {
            tokio::time::sleep(LOOK).await;
            let (end, writers) = look(db).await?;
            known.look(end, &writers);
            awaited.retain(|writer| writers.contains(writer));
            if awaited.is_empty() {
                known.certain = known.certain.max(wanted);
            }
            if known.certain >= wanted {
                break;
            }
            known.awaited.get_or_insert((end, writers));
        }
        Ok(known.certain)
    }
}

/// The last position that was given out, then the holders of the writers' lock: two statements in
/// this subject, in one round trip.
async fn look(db: &Pool) -> Result<(i64, HashSet<String>), StoreError> {
    let mut conn = db.acquire().await.map_err(|error| store_error(&error))?;
    let sql = "SELECT (CASE WHEN is_called THEN last_value + 1 ELSE last_value END << 20) - 1, \
               NULL::text FROM numbers; \
               SELECT NULL::int8, pid || ' ' || virtualtransaction FROM pg_locks \
               WHERE locktype = 'advisory' AND classid = 1886352244 AND objsubid = 2 \
               AND objid = to_regnamespace(current_schema()::text)::oid AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = script(&mut conn, sql).await.map_err(|error| store_error(&error))?;
    conn.give_back().await;
    let mut end = 0;
    let mut writers = HashSet::new();
    for row in &rows {
        match row.maybe_text(1)? {
            None => end = row.int(0)?,
            Some(writer) => _ = writers.insert(writer.to_owned()),
        }
    }
    Ok((end, writers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_position_is_certain_when_its_writers_have_ended() {
        let mut known = Progress { certain: 3, awaited: Some((10, writers(&["a", "b"]))) };
        known.look(20, &writers(&["b", "c"]));
        assert_eq!(known.certain, 3, "b may still write below 10");
        known.look(30, &writers(&["c"]));
        assert_eq!(
            (known.certain, known.awaited.is_none()),
            (10, true),
            "c began after 10 was given out"
        );
        known.look(40, &writers(&[]));
        assert_eq!(known.certain, 40);
    }
}
