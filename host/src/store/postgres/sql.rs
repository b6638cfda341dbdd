//! The thin layer over sqlx: binding, and what a database error means to a caller.
//!
//! Guarantee: an error is `Rejected` only when the values are at fault, `Corrupt` only when a retry
//! cannot help, and `Conflict` only when the transaction left nothing behind.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Encode, Executor, PgConnection, Postgres, SqlSafeStr, Type,
};

use crate::domain::steps::count_json_written;
use crate::store::StoreError;
use crate::store::costs::{count_script, count_statement};

/// Arguments in the order of the placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut args = sqlx::postgres::PgArguments::default();
        $( $crate::store::postgres::sql::push(&mut args, $value); )*
        args
    }};
}
pub(super) use args;

/// One argument for each column: an array of that column over all rows.
macro_rules! columns {
    ($rows:expr; $($column:expr),* $(,)?) => {{
        let rows = $rows;
        $crate::store::postgres::sql::args![$( rows.iter().map($column).collect::<Vec<_>>() ),*]
    }};
}
pub(super) use columns;

/// Why a transaction was not committed.
#[derive(Debug)]
pub(super) enum TransactionError {
    /// Another transaction changed the same rows, or a deadlock was resolved: run it again.
    Conflict,
    /// Anything else.
    Store(StoreError),
}

impl From<StoreError> for TransactionError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for TransactionError {
    fn from(error: sqlx::Error) -> Self {
        if is_conflict(&error) { Self::Conflict } else { Self::Store(store_error(&error)) }
    }
}

impl From<TransactionError> for StoreError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Conflict => Self::Contended,
            TransactionError::Store(error) => error,
        }
    }
}

/// Binds the next placeholder.
pub(super) fn push<'t, T: Encode<'t, Postgres> + Type<Postgres>>(args: &mut PgArguments, value: T) {
    args.add(value).expect("integers, text, blobs and arrays of them always encode");
}

/// Runs a statement; returns the number of rows that it changed.
pub(super) async fn execute(
    conn: &mut PgConnection,
    sql: impl SqlSafeStr,
    args: PgArguments,
) -> Result<u64, sqlx::Error> {
    let changed = sqlx::query_with(sql, args).execute(conn).await?.rows_affected();
    count_statement(0, changed);
    Ok(changed)
}

/// Runs a query.
pub(super) async fn fetch<'e, E>(
    executor: E,
    sql: impl SqlSafeStr,
    args: PgArguments,
) -> Result<Vec<PgRow>, sqlx::Error>
where
    E: Executor<'e, Database = Postgres>,
{
    let rows = sqlx::query_with(sql, args).fetch_all(executor).await?;
    count_statement(rows.len(), 0);
    Ok(rows)
}

/// Runs a query built from constant parts.
pub(super) async fn fetch_built<'e, E>(
    executor: E,
    sql: String,
    args: PgArguments,
) -> Result<Vec<PgRow>, sqlx::Error>
where
    E: Executor<'e, Database = Postgres>,
{
    fetch(executor, AssertSqlSafe(sql), args).await
}

/// Runs statements without arguments in one round trip; returns all their rows.
pub(super) async fn script(
    conn: &mut PgConnection,
    sql: &'static str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let rows = sqlx::raw_sql(sql).fetch_all(conn).await?;
    count_script(sql, rows.len());
    Ok(rows)
}

/// JSON for a column that holds a list; none for an empty one.
pub(super) fn list<T: serde::Serialize>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| {
        count_json_written();
        serde_json::to_string(items).expect("lists of strings always serialise")
    })
}

/// Class 40 is a transaction that was rolled back in favour of another one, and 55P03 one that would wait
/// for a lock for too long.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|state| state.starts_with("40") || state == "55P03")
}

/// The error's code: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
pub(super) fn sql_state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

/// The database's own words.
pub(super) fn database_message(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Classifies an error by whether a retry can help.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    /// Connection, transaction rollback, insufficient resources, not in a usable state, operator
    /// intervention, system error. And what an operator has to repair, whatever the values: invalid
    /// transaction state (a standby is read-only), unknown statement (a pooler), authorization,
    /// database or schema missing, tables or permissions missing.
    const TRANSIENT: [&str; 12] =
        ["08", "40", "53", "55", "57", "58", "25", "26", "28", "3D", "3F", "42"];
    /// Cardinality, data exception, integrity constraint, view constraint, program limit (an index
    /// row is too long), an exception that a trigger raised.
    const REJECTED: [&str; 6] = ["21", "22", "23", "44", "54", "P0"];
    let is_in =
        |state: &str, classes: &[&str]| classes.iter().any(|class| state.starts_with(class));
    match (sql_state(error), error) {
        (Some(state), _) if is_in(&state, &TRANSIENT) => StoreError::Unavailable(error.to_string()),
        (Some(code), _) if is_in(&code, &REJECTED) => {
            StoreError::Rejected { code, message: database_message(error) }
        }
        (Some(_), _)
        | (
            None,
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. },
        ) => StoreError::Corrupt(error.to_string()),
        (None, _) => StoreError::Unavailable(error.to_string()),
    }
}
