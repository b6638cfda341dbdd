//! Queries on the readers' connections: they see the last commit and never wait for the writer.

use std::ops::Deref;
use std::sync::Arc;

use sqlx::sqlite::{SqlitePool, SqliteRow};

use super::sql::{args, fetch, fetch_built, json, push, store_error};
use crate::domain::encryption::Encryption;
use crate::store::decode::{self, Columns as _, columns_of};
use crate::store::queries::{Arg, Reader};
use crate::store::{AttemptKey, StateRow, StoreError};

columns_of!(SqliteRow, store_error);

/// The readers' connections.
pub(super) struct Readers {
    pub(super) pool: SqlitePool,
    pub(super) encryption: Arc<Encryption>,
}

impl Deref for Readers {
    type Target = SqlitePool;

    fn deref(&self) -> &SqlitePool {
        &self.pool
    }
}

impl Reader for Readers {
    type Row = SqliteRow;
    const NAMED: &'static str =
        "(SELECT value ->> 0 AS number, value ->> 1 AS name FROM json_each($1)) k";
    const NAMED_WIDTH: usize = 1;

    async fn rows(&self, sql: String, values: &[Arg<'_>]) -> Result<Vec<SqliteRow>, StoreError> {
        let mut args = args![];
        for value in values {
            match value {
                Arg::Int(value) => push(&mut args, *value),
                Arg::Text(value) => push(&mut args, *value),
                Arg::Named(keys) => push(&mut args, json(keys)),
            }
        }
        fetch_built(&**self, sql, args).await
    }

    fn encryption(&self) -> &Encryption {
        &self.encryption
    }
}

pub(super) async fn state_folders(
    db: &Readers,
    stage: &str,
    folders: &[String],
) -> Result<Vec<StateRow>, StoreError> {
    // '0' follows '/' in byte order: it ends the range of the keys in a folder.
    let mut ranges: Vec<(&str, String)> = Vec::with_capacity(folders.len());
    for folder in folders {
        let name = folder.strip_suffix('/').unwrap_or(folder);
        ranges.push((folder, format!("{name}0")));
    }
    let sql = "SELECT DISTINCT s.key, s.value, s.version FROM json_each(?2) k CROSS JOIN state s \
               ON s.stage = ?1 AND s.key >= k.value ->> 0 AND s.key < k.value ->> 1 ORDER BY s.key";
    let rows = fetch(&**db, sql, args![stage, json(&ranges)]).await?;
    rows.iter().map(|row| decode::state_row(row, stage, db.encryption())).collect()
}

pub(super) async fn already_settled(
    db: &Readers,
    keys: &[AttemptKey],
) -> Result<Vec<AttemptKey>, StoreError> {
    let asked: Vec<_> = keys
        .iter()
        .map(|AttemptKey { delivery, round, attempt }| {
            (&*delivery.stage, &delivery.event.source, &delivery.event.id, round, attempt)
        })
        .collect();
    let sql = "SELECT k.key FROM json_each(?1) k \
               CROSS JOIN events e ON e.id = k.value ->> 2 AND e.source = k.value ->> 1 \
               CROSS JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.value ->> 0 \
               WHERE d.status <> 'open' OR (d.round, d.attempt) > (k.value ->> 3, k.value ->> 4)";
    let rows = fetch(&**db, sql, args![json(&asked)]).await?;
    let found = rows.iter().map(|row| Ok(keys.get(row.int(0)? as usize).cloned()));
    found.filter_map(Result::transpose).collect()
}
