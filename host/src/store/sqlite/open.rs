//! Opens the database file: one host per file, migrations, and errors that say what to do.
//!
//! Guarantee: while the returned lock is held, no other host opens the file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqliteConnection};

use super::sql::{args, fetch, result_code};
use crate::store::StoreError;
use crate::store::decode::Columns as _;

/// Connections that read at the same time.
const READERS: u32 = 4;
/// How long a connection waits for another program (a backup, a shell) to unlock the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a query waits for a reader.
const READER_TIMEOUT: Duration = Duration::from_secs(10);
/// Prepared statements a connection keeps: every statement of this module in every size.
const STATEMENTS: usize = 256;

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A second host on the same file.
    #[error("{} is in use by another Postrider host; stop that host, or give this one a database \
             file of its own", path.display())]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The folder or file cannot be written.
    #[error("{} cannot be created or written; check that its folder exists and is writable by this user", path.display())]
    NotWritable {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// It is a file of another kind.
    #[error("{} is not an SQLite database; choose another path, or move that file \
             away", path.display())]
    NotADatabase {
        /// The database file.
        path: PathBuf,
    },
    /// It is another program's database.
    #[error("{} is an SQLite database, but not Postrider's; choose another path", path.display())]
    Foreign {
        /// The database file.
        path: PathBuf,
    },
    /// It was written by a newer Postrider.
    #[error("{} has schema {version}, which this version of Postrider does not know; run a newer \
             one", path.display())]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The first unknown migration.
        version: i64,
    },
    /// Anything else.
    #[error("{} cannot be opened", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// The database's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Everything that belongs to an open file.
pub(super) struct Opened {
    pub(super) lock: File,
    pub(super) writer: SqliteConnection,
    pub(super) writer_options: SqliteConnectOptions,
    pub(super) readers: SqlitePool,
}

/// Locks, creates, migrates, connects.
pub(super) async fn open(path: &Path) -> Result<Opened, OpenError> {
    let lock = lock(path)?;
    let writer_options = writer_options(path);
    let mut writer = writer_options.connect().await.map_err(|error| failed(path, error))?;
    check_ours(&mut writer, path).await?;
    migrator().run(&mut writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            OpenError::Newer { path: path.to_owned(), version }
        }
        other => database(path, other),
    })?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(READER_TIMEOUT)
        .test_before_acquire(false)
        .connect_with(base_options(path).read_only(true))
        .await
        .map_err(|error| failed(path, error))?;
    Ok(Opened { lock, writer, writer_options, readers })
}

/// The status of a database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaStatus {
    /// It does not exist, and can be created.
    New,
    /// A host uses it.
    InUse,
    /// It has the schema of this program.
    Current,
    /// It is of an older program.
    Older,
}

/// Inspects a database file without changing it.
pub(super) async fn examine(path: &Path) -> Result<SchemaStatus, OpenError> {
    let not_writable = |source| OpenError::NotWritable { path: path.to_owned(), source };
    if !path.exists() {
        let folder =
            path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
        tempfile::tempfile_in(folder).map_err(not_writable)?;
        return Ok(SchemaStatus::New);
    }
    if File::open(lock_path(path))
        .is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)))
    {
        return Ok(SchemaStatus::InUse);
    }
    OpenOptions::new().write(true).open(path).map_err(not_writable)?;
    let mut reader =
        base_options(path).read_only(true).connect().await.map_err(|error| failed(path, error))?;
    check_ours(&mut reader, path).await?;
    let migrator = migrator();
    let applied = reader
        .list_applied_migrations(&migrator.table_name)
        .await
        .map_err(|error| database(path, error))?;
    if let Some(newer) = applied.iter().find(|applied| !migrator.version_exists(applied.version)) {
        return Err(OpenError::Newer { path: path.to_owned(), version: newer.version });
    }
    Ok(if applied.len() < migrator.iter().count() {
        SchemaStatus::Older
    } else {
        SchemaStatus::Current
    })
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// The lock is a file of its own: `SQLite` locks and unlocks the database file as it works.
fn lock(path: &Path) -> Result<File, OpenError> {
    let not_writable = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::NotWritable { path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(not_writable(folder))?;
    }
    let lock_path = lock_path(path);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&lock_path);
    let file = file.map_err(not_writable(&lock_path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(not_writable(&lock_path)(source)),
    }
    // `SQLite` would open a file that it may not write read-only, and fail at the first order.
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).open(path).map_err(not_writable(path))?;
    Ok(file)
}

fn base_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(false)
        .statement_cache_capacity(STATEMENTS)
        .disable_statement_logging()
}

fn writer_options(path: &Path) -> SqliteConnectOptions {
    base_options(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        // A checkpoint every 16 MB of log, and no more than 64 MB of it left on disk after a long
        // read held it up.
        .pragma("wal_autocheckpoint", "4000")
        .pragma("journal_size_limit", "67108864")
        // 64 MB of pages.
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
}

fn migrator() -> Migrator {
    let init = include_str!("../../../migrations/sqlite/0001_init.sql").into_sql_str();
    Migrator::with_migrations(vec![Migration::new(
        1,
        "init".into(),
        MigrationType::Simple,
        init,
        false,
    )])
}

/// Refuses a database that has tables but no migrations of Postrider.
async fn check_ours(writer: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE name = '_sqlx_migrations') FROM \
               sqlite_master WHERE type = 'table'";
    let rows = fetch(writer, sql, args![]).await.map_err(|error| database(path, error))?;
    let count = |index| rows.first().map_or(Ok(0), |row| row.int(index));
    let (tables, ours) = (
        count(0).map_err(|error: StoreError| database(path, error))?,
        count(1).map_err(|error: StoreError| database(path, error))?,
    );
    if tables > 0 && ours == 0 {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    Ok(())
}

/// `SQLITE_NOTADB`.
const NOT_A_DATABASE: u32 = 26;

fn failed(path: &Path, error: sqlx::Error) -> OpenError {
    match result_code(&error) {
        Some(NOT_A_DATABASE) => OpenError::NotADatabase { path: path.to_owned() },
        _ => database(path, error),
    }
}

pub(super) fn database(
    path: &Path,
    source: impl std::error::Error + Send + Sync + 'static,
) -> OpenError {
    OpenError::Database { path: path.to_owned(), source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_opened_by_one_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/postrider.db");
        let first = open(&path).await.unwrap();
        let Err(OpenError::InUse { path: named }) = open(&path).await else {
            panic!("a second host got in");
        };
        assert_eq!(named, path);
        drop(first);
        open(&path).await.unwrap();
    }

    #[tokio::test]
    async fn other_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.db");
        std::fs::write(
            &text,
            "not a database, whatever its name says, and longer than a header: ".repeat(20),
        )
        .unwrap();
        assert!(matches!(open(&text).await.err(), Some(OpenError::NotADatabase { .. })));
        assert!(matches!(
            open(&text.join("below.db")).await.err(),
            Some(OpenError::NotWritable { .. })
        ));

        let foreign = folder.path().join("foreign.db");
        let mut conn = writer_options(&foreign).create_if_missing(true).connect().await.unwrap();
        super::super::sql::execute(&mut conn, "CREATE TABLE recipes (id)", args![]).await.unwrap();
        assert!(matches!(open(&foreign).await.err(), Some(OpenError::Foreign { .. })));
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.db");
        let mut opened = open(&path).await.unwrap();
        let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', 1, x'00', 0)";
        super::super::sql::execute(&mut opened.writer, sql, args![]).await.unwrap();
        drop(opened);
        assert!(matches!(open(&path).await.err(), Some(OpenError::Newer { version: 99, .. })));
    }
}
