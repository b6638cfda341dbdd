//! The thin layer over sqlx: binding, multi-row statements, and what a database error means to a
//! caller.
//!
//! Bounds: a multi-row statement has room for one of the numbers of rows in [`SIZES`], so that every
//! statement is prepared once per connection. Guarantee: an error is `Rejected` or `Corrupt` only when
//! trying again cannot help.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Executor, Sqlite, SqliteConnection, Type};

use crate::domain::steps::count_json_written;
use crate::store::StoreError;
use crate::store::costs::count_statement;

/// Rows that multi-row statements have room for. Each size of each table is a statement of its own,
/// which is kept prepared.
const SIZES: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
/// Most arguments of a multi-row statement: `SQLite` takes 32,766, but a list that is larger than this
/// is memory that the allocator gets from the kernel, and gives back.
const ARGUMENTS_MAX: usize = 1_344;

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

/// A statement that takes any number of rows: `head SELECT … tail`.
pub(super) struct Shape {
    /// Up to the values.
    pub(super) head: &'static str,
    /// Placeholders of one row. The first one is never NULL.
    pub(super) columns: usize,
    /// After the values.
    pub(super) tail: &'static str,
}

/// Arguments of one row after another. A text that is also in the row before is not copied again: rows of
/// a group have many texts in common.
pub(super) struct RowArgs {
    args: SqliteArguments,
    columns: usize,
    /// The last text of each column.
    texts: Vec<Option<Arc<str>>>,
}

impl RowArgs {
    fn new(rows: usize, columns: usize) -> Self {
        let mut args = SqliteArguments::default();
        args.reserve(rows * columns, 0);
        Self { args, columns, texts: vec![None; columns] }
    }

    /// Binds the next placeholder.
    pub(super) fn push<T: Encode<'static, Sqlite> + Type<Sqlite>>(&mut self, value: T) {
        push(&mut self.args, value);
    }

    /// Binds the next placeholder to a text.
    pub(super) fn text<'t>(&mut self, text: impl Into<Option<&'t str>>) {
        let Some(text) = text.into() else { return self.push(None::<Arc<str>>) };
        let last = &mut self.texts[self.args.len() % self.columns];
        let same = last.as_ref().filter(|last| ***last == *text).cloned();
        let text = same.unwrap_or_else(|| last.insert(text.into()).clone());
        self.push(text);
    }

    /// Binds the next placeholder to bytes.
    pub(super) fn bytes<'t>(&mut self, bytes: impl Into<Option<&'t [u8]>>) {
        self.push(bytes.into().map(<[u8]>::to_vec));
    }
}

/// Texts of statements, by the head of their shape and their size.
type Texts = HashMap<(&'static str, usize), Arc<str>>;

impl Shape {
    /// What takes `size` rows or fewer: placeholders without an argument are NULL, and a row of them is
    /// not written.
    fn sql(&self, size: usize) -> Arc<str> {
        static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);
        let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        let text = texts.entry((self.head, size)).or_insert_with(|| {
            let row = format!("({}?)", "?, ".repeat(self.columns - 1));
            let values = format!("{}{row}", format!("{row}, ").repeat(size - 1));
            let Self { head, tail, .. } = self;
            format!("{head} SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL {tail}")
                .into()
        });
        Arc::clone(text)
    }

    /// Statements that write all rows: one, unless there are many. Each is built when it is asked for.
    pub(super) fn statements<'r, T>(
        self,
        rows: &'r [T],
        bind: impl Fn(&T, &mut RowArgs) + 'r,
    ) -> impl Iterator<Item = Statement> + 'r {
        let fits = |size: &usize| size * self.columns <= ARGUMENTS_MAX;
        let most = SIZES.into_iter().rfind(fits).unwrap_or(1);
        rows.chunks(most).map(move |rows| {
            let size = SIZES.into_iter().find(|size| *size >= rows.len()).unwrap_or(most);
            let mut bound = RowArgs::new(rows.len(), self.columns);
            for row in rows {
                bind(row, &mut bound);
            }
            Statement { sql: self.sql(size), args: bound.args }
        })
    }
}

/// A statement ready to run.
pub(super) struct Statement {
    sql: Arc<str>,
    args: SqliteArguments,
}

impl Statement {
    async fn execute(self, conn: &mut SqliteConnection) -> Result<u64, StoreError> {
        let done = sqlx::query_with(AssertSqlSafe(self.sql), self.args).execute(conn).await;
        let changed = done.map_err(|error| store_error(&error))?.rows_affected();
        count_statement(0, changed);
        Ok(changed)
    }
}

/// Runs statements one after another, and builds the next one meanwhile; returns the number of rows
/// that they changed.
pub(super) async fn execute_all(
    conn: &mut SqliteConnection,
    mut statements: impl Iterator<Item = Statement>,
) -> Result<u64, StoreError> {
    let mut changed = 0;
    let mut next = statements.next();
    while let Some(statement) = next {
        // The connection's thread has the statement once it was polled.
        let building = async { statements.next() };
        let (done, following) = tokio::join!(biased; statement.execute(conn), building);
        changed += done?;
        next = following;
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
