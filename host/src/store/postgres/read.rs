//! Queries on the pool's connections: they see the last commit and never wait.

use std::collections::BTreeMap;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Executor, Postgres};

use super::pool::Pool;
use super::sql::{args, columns, fetch, fetch_built, push, store_error};
use super::state_tables::StateTable;
use crate::domain::encryption::Encryption;
use crate::domain::event::without_nul;
use crate::store::decode::{self, Columns as _, columns_of};
use crate::store::queries::{Arg, Reader};
use crate::store::{AttemptKey, StateRow, StoreError};

columns_of!(PgRow, store_error);

impl Reader for Pool {
    type Row = PgRow;
    const NAMED: &'static str = "unnest($1::int8[], $2::text[]) k (number, name)";
    const NAMED_WIDTH: usize = 2;

    async fn rows(&self, sql: String, values: &[Arg<'_>]) -> Result<Vec<PgRow>, StoreError> {
        fetch_built(self, sql, bind(values)).await.map_err(|error| store_error(&error))
    }

    fn encryption(&self) -> &Encryption {
        Pool::encryption(self)
    }
}

/// Binds the values of a query.
pub(super) fn bind(values: &[Arg<'_>]) -> PgArguments {
    let mut args = args![];
    for value in values {
        match value {
            Arg::Int(value) => push(&mut args, *value),
            Arg::Text(value) => push(&mut args, as_kept(value)),
            Arg::Named(keys) => {
                push(&mut args, keys.iter().map(|key| key.0).collect::<Vec<_>>());
                push(&mut args, keys.iter().map(|key| as_kept(&key.1)).collect::<Vec<_>>());
            }
        }
    }
    args
}

/// Postgres accepts no NUL in text: it was removed before writing, and is removed before a search.
fn as_kept(text: &str) -> String {
    without_nul(text.to_owned())
}

pub(super) async fn state_folders(
    db: impl Executor<'_, Database = Postgres>,
    (table, encryption): (&StateTable, &Encryption),
    stage: &str,
    folders: &[String],
) -> Result<Vec<StateRow>, StoreError> {
    // '0' follows '/' in byte order: it ends the range of the keys in a folder.
    let end = |folder: &String| format!("{}0", folder.strip_suffix('/').unwrap_or(folder));
    // One range of the index after another: joined the plain way, the planner reads all keys of the
    // stage and compares them.
    let sql = "SELECT s.key, s.value, s.version FROM unnest($1::text[], $2::text[]) k (first, \
               last) CROSS JOIN LATERAL \
               (SELECT * FROM state AS s WHERE s.stage = $3 AND s.key >= k.first AND s.key < k.last \
               AND s.version > 0 OFFSET 0) s";
    let mut args = columns![folders; String::as_str, end];
    push(&mut args, stage);
    let rows = table.fetch(db, sql, args).await?;
    // A folder inside another one is found twice.
    let rows: Result<BTreeMap<String, StateRow>, StoreError> = rows
        .iter()
        .map(|row| decode::state_row(row, stage, encryption))
        .map(|row| row.map(|row| (row.key.clone(), row)))
        .collect();
    Ok(rows?.into_values().collect())
}

pub(super) async fn already_settled(
    db: &Pool,
    keys: &[AttemptKey],
) -> Result<Vec<AttemptKey>, StoreError> {
    let sql = "SELECT k.at FROM unnest($1::text[], $2::text[], $3::text[], $4::int8[], $5::int8[]) \
               WITH ORDINALITY k (stage, source, id, round, attempt, at) \
               JOIN events e ON e.id = k.id AND e.source = k.source \
               JOIN deliveries d ON d.event_seq = e.seq AND d.stage = k.stage \
               WHERE d.status <> 'open' OR (d.round, d.attempt) > (k.round, k.attempt)";
    let args = columns![keys;
        |key| &*key.delivery.stage,
        |key| key.delivery.event.source.as_str(),
        |key| key.delivery.event.id.as_str(),
        |key| i64::from(key.round),
        |key| i64::from(key.attempt),
    ];
    let rows = fetch(db, sql, args).await.map_err(|error| store_error(&error))?;
    let found = rows.iter().map(|row| Ok(keys.get(row.int(0)? as usize - 1).cloned()));
    found.filter_map(Result::transpose).collect()
}
