//! The thin layer over sqlx: binding, multi-row statements, and what a database error means to a
//! caller.
//!
//! Bounds: a multi-row statement has at most [`CHUNKS`]`[0]` rows, and there are few sizes, so that
//! every statement is prepared once per connection. Guarantee: an error is `Rejected` or `Corrupt`
//! only when
//! trying again cannot help.

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Executor, Sqlite, SqliteConnection, Type};

use crate::domain::steps::count_json_written;
use crate::store::StoreError;
use crate::store::costs::count_statement;

/// Rows per multi-row statement, largest first: two statements for most groups. Each size of each
/// table is a statement of its own, which is kept prepared.
const CHUNKS: [usize; 14] = [64, 48, 32, 24, 16, 12, 8, 7, 6, 5, 4, 3, 2, 1];

/// Arguments in the order of the placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut args = sqlx::sqlite::SqliteArguments::default();
        $( $crate::store::sqlite::sql::push(&mut args, $value); )*
        args
    }};
}
pub(super) use args;

/// Binds the next placeholder.
pub(super) fn push<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(args: &mut SqliteArguments, value: T) {
    args.add(value).expect("integers, text and blobs always encode");
}

/// Runs a statement; returns the number of rows that it changed.
pub(super) async fn execute(
    conn: &mut SqliteConnection,
    sql: &'static str,
    args: SqliteArguments,
) -> Result<u64, StoreError> {
    let done =
        sqlx::query_with(sql, args).execute(conn).await.map_err(|error| store_error(&error))?;
    count_change(sql, done.rows_affected());
    Ok(done.rows_affected())
}

/// Counts a statement, for measurements. After one that changes no rows, such as BEGIN, `SQLite`
/// repeats the number of the one before.
fn count_change(sql: &str, changed: u64) {
    let changes = ["INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb));
    count_statement(0, if changes { changed } else { 0 });
}

/// Runs a query.
pub(super) async fn fetch<'e, E>(
    executor: E,
    sql: &'static str,
    args: SqliteArguments,
) -> Result<Vec<SqliteRow>, StoreError>
where
    E: Executor<'e, Database = Sqlite>,
{
    let rows = sqlx::query_with(sql, args).fetch_all(executor).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    count_statement(rows.len(), 0);
    Ok(rows)
}

/// Runs a query built from constant parts.
pub(super) async fn fetch_built<'e, E>(
    executor: E,
    sql: String,
    args: SqliteArguments,
) -> Result<Vec<SqliteRow>, StoreError>
where
    E: Executor<'e, Database = Sqlite>,
{
    let rows = sqlx::query_with(AssertSqlSafe(sql), args).fetch_all(executor).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    count_statement(rows.len(), 0);
    Ok(rows)
}

/// JSON for `json_each`.
pub(super) fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    count_json_written();
    serde_json::to_string(value).expect("lists of strings and numbers always serialise")
}

/// A statement that takes any number of rows: `head VALUES (…), (…) tail`.
pub(super) struct Shape {
    /// Up to the values.
    pub(super) head: &'static str,
    /// Placeholders of one row.
    pub(super) columns: usize,
    /// After the values.
    pub(super) tail: &'static str,
}

impl Shape {
    fn sql(&self, rows: usize) -> String {
        let row = format!("({}?)", "?, ".repeat(self.columns - 1));
        let values = format!("{}{row}", format!("{row}, ").repeat(rows - 1));
        format!("{} VALUES {values} {}", self.head, self.tail)
    }

    /// Splits rows into statements of the sizes of [`CHUNKS`].
    pub(super) fn statements<T>(
        &self,
        rows: &[T],
        bind: impl Fn(&T, &mut SqliteArguments),
    ) -> Vec<Statement> {
        let mut statements = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let size = CHUNKS.into_iter().find(|size| *size <= rest.len()).unwrap_or(1);
            let (chunk, after) = rest.split_at(size);
            let mut args = SqliteArguments::default();
            args.reserve(size * self.columns, 0);
            for row in chunk {
                bind(row, &mut args);
            }
            statements.push(Statement { sql: self.sql(size), args });
            rest = after;
        }
        statements
    }
}

/// A statement ready to run.
pub(super) struct Statement {
    sql: String,
    args: SqliteArguments,
}

/// Runs statements one after another; returns the number of rows that they changed.
pub(super) async fn execute_all(
    conn: &mut SqliteConnection,
    statements: Vec<Statement>,
) -> Result<u64, StoreError> {
    let mut changed = 0;
    for Statement { sql, args } in statements {
        let done = sqlx::query_with(AssertSqlSafe(sql), args).execute(&mut *conn).await;
        let done = done.map_err(|error| store_error(&error))?.rows_affected();
        count_statement(0, done);
        changed += done;
    }
    Ok(changed)
}

/// `SQLite`'s primary result code of an error, where it has one: <https://sqlite.org/rescode.html>.
pub(super) fn result_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|extended| extended & 0xff)
}

/// Classifies an error by whether a retry can help.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    /// Busy, locked, out of memory, read-only, interrupted, I/O, full, cannot open, locking
    /// protocol.
    const TRANSIENT: [u32; 9] = [5, 6, 7, 8, 9, 10, 13, 14, 15];
    /// Too large, constraint (a trigger's exception, too), type mismatch.
    const REJECTED: [u32; 3] = [18, 19, 20];
    match result_code(error) {
        Some(code) if TRANSIENT.contains(&code) => StoreError::Unavailable(error.to_string()),
        Some(code) if REJECTED.contains(&code) => StoreError::Rejected {
            code: code.to_string(),
            message: error
                .as_database_error()
                .map_or_else(|| error.to_string(), |error| error.message().to_owned()),
        },
        Some(_) => StoreError::Corrupt(error.to_string()),
        None => match error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. } => StoreError::Corrupt(error.to_string()),
            _ => StoreError::Unavailable(error.to_string()),
        },
    }
}
