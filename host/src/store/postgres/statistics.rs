//! What the server counted: writes by table, and its write-ahead log. For measurements.
//!
//! A session reports its counts at most once a second, and when it ends. The log is that of the
//! whole server, with what other programs write.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::open::{self, PostgresSettings};
use super::open_error::OpenError;

/// Writes to a table since it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableWrites {
    /// Its name.
    pub table: String,
    /// Rows inserted.
    pub inserted: u64,
    /// Rows updated.
    pub updated: u64,
    /// Updates among them that added no index entry (heap-only tuples).
    pub hot_updated: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Indexes of the table.
    pub indexes: u64,
    /// Indexes among them that have entries for some rows only.
    pub partial_indexes: u64,
}

/// The server's write-ahead log since its statistics were reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteAheadLog {
    /// Bytes written.
    pub bytes: u64,
    /// Times that it was flushed to disk, which a server with `fsync = off` never does; none where the
    /// server counts that elsewhere (from version 18 on).
    pub syncs: Option<u64>,
    /// Whole pages in it.
    pub full_pages: u64,
}

const TABLES: &str = "SELECT t.relname::text, t.n_tup_ins, t.n_tup_upd, t.n_tup_hot_upd, \
    t.n_tup_del, count(i.indexrelid), count(i.indpred) FROM pg_stat_user_tables t \
    LEFT JOIN pg_index i ON i.indrelid = t.relid WHERE t.schemaname = current_schema() \
    GROUP BY 1, 2, 3, 4, 5 ORDER BY 1";

const LOG: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8, \
    (to_jsonb(w) ->> 'wal_sync')::int8, wal_fpi FROM pg_stat_wal w";

pub(super) async fn tables(settings: PostgresSettings<'_>) -> Result<Vec<TableWrites>, OpenError> {
    let rows = open::query(settings, TABLES).await?;
    let writes = |row: &PgRow| TableWrites {
        table: row.get(0),
        inserted: count(row, 1),
        updated: count(row, 2),
        hot_updated: count(row, 3),
        deleted: count(row, 4),
        indexes: count(row, 5),
        partial_indexes: count(row, 6),
    };
    Ok(rows.iter().map(writes).collect())
}

pub(super) async fn log(settings: PostgresSettings<'_>) -> Result<WriteAheadLog, OpenError> {
    let rows = open::query(settings, LOG).await?;
    let log = |row: &PgRow| WriteAheadLog {
        bytes: count(row, 0),
        syncs: row.get::<Option<i64>, _>(1).map(i64::unsigned_abs),
        full_pages: count(row, 2),
    };
    let none = WriteAheadLog { bytes: 0, syncs: None, full_pages: 0 };
    Ok(rows.first().map_or(none, log))
}

fn count(row: &PgRow, at: usize) -> u64 {
    row.get::<i64, _>(at).unsigned_abs()
}
