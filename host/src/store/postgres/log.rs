//! Up to where the log is complete, although hosts commit in another order than that in which
//! positions are given out.
//!
//! A writer takes a shared advisory lock, then a number; its events stand at positions that follow
//! from the number. So after the last number was read, whoever may still write at or below it is
//! among the holders of the lock. Once they have ended, everything up to that number is either
//! visible or will never be there. Readers never wait for a position, writers never wait for
//! anybody. Bounds: one question at a time, [`WAIT_MAX`]; after that the answer is the last one
//! that is certain.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::Mutex;

use super::sql::{script, store_error};
use crate::store::StoreError;
use crate::store::decode::Columns as _;

/// Longest wait for writers that are under way; most take a few milliseconds.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(2);

/// What is known of the end of the log.
#[derive(Default)]
pub(super) struct End(Mutex<Loaded>);

#[derive(Default)]
struct Loaded {
    /// Everything up to here is there.
    certain: i64,
    /// A position, and the writers that may still write at or below it.
    awaited: Option<(i64, HashSet<String>)>,
}

impl Loaded {
    /// Takes a look into account: the last position that was given out, and who wrote a moment
    /// later.
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
    pub(super) async fn find(&self, db: &PgPool) -> Result<i64, StoreError> {
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

/// The last position that was given out, then who holds the writers' lock. In this order: two
/// statements of one round trip.
async fn look(db: &PgPool) -> Result<(i64, HashSet<String>), StoreError> {
    let mut conn = db.acquire().await.map_err(|error| store_error(&error))?;
    let sql = "SELECT (CASE WHEN is_called THEN last_value + 1 ELSE last_value END << 20) - 1, NULL::text FROM numbers; \
               SELECT NULL::int8, pid || ' ' || virtualtransaction FROM pg_locks \
               WHERE locktype = 'advisory' AND classid = 1886352244 AND objid = 1 AND objsubid = 2 \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = script(&mut conn, sql).await.map_err(|error| store_error(&error))?;
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
    fn what_is_awaited_is_certain_when_its_writers_have_ended() {
        let mut known = Loaded { certain: 3, awaited: Some((10, writers(&["a", "b"]))) };
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
