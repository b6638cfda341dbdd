//! Opens the database file: one host per file, migrations, and errors that say what to do.
//!
//! Guarantee: while the returned lock is held, no other host opens the file, under whatever name: the
//! lock goes by the path without symbolic links, and by the file itself, which covers hard links and
//! mounts.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqliteConnection};

use super::sql::{args, execute, fetch, json, result_code};
use crate::store::decode::Columns as _;
use crate::store::hosts;
use crate::store::unrouted::{self, count_unrouted};
use crate::store::{StoreError, UnroutedEvents};

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
    /// The file belongs to another namespace.
    #[error("{} belongs to the namespace `{owner}`, not `{namespace}`; give each namespace a file \
             of its own", path.display())]
    OtherNamespace {
        /// The database file.
        path: PathBuf,
        /// The namespace of the file.
        owner: String,
        /// The namespace of this host.
        namespace: String,
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
    pub(super) lock: FileLock,
    pub(super) writer: SqliteConnection,
    pub(super) writer_options: SqliteConnectOptions,
    pub(super) readers: SqlitePool,
}

/// Locks, creates, migrates, connects.
pub(super) async fn open(path: &Path, namespace: &str) -> Result<Opened, OpenError> {
    let (path, lock) = lock(path)?;
    let path = path.as_path();
    let writer_options = writer_options(path);
    let mut writer = writer_options.connect().await.map_err(|error| failed(path, error))?;
    check_ours(&mut writer, path).await?;
    migrator().run(&mut writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            OpenError::Newer { path: path.to_owned(), version }
        }
        other => database(path, other),
    })?;
    let claimed = execute(&mut writer, hosts::CLAIM, args![namespace]).await;
    claimed.map_err(|error| database(path, error))?;
    check_owner(&mut writer, path, namespace).await?;
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

/// A database file, its hosts and what waits in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// The schema.
    pub schema: SchemaStatus,
    /// Events that wait for a stage.
    pub unrouted: Vec<UnroutedEvents>,
}

/// Inspects a database file without changing it.
pub(super) async fn examine(
    path: &Path,
    namespace: &str,
    finished: &[String],
) -> Result<FileStatus, OpenError> {
    let schema = examine_schema(path).await?;
    let mut status = FileStatus { schema, unrouted: Vec::new() };
    if matches!(schema, SchemaStatus::New | SchemaStatus::Older) {
        return Ok(status);
    }
    let mut reader =
        base_options(path).read_only(true).connect().await.map_err(|error| failed(path, error))?;
    check_owner(&mut reader, path, namespace).await?;
    let sql = count_unrouted!("NOT IN (SELECT value FROM json_each($1))");
    let rows = fetch(&mut reader, sql, args![json(finished)]).await;
    let unrouted = rows.and_then(|rows| unrouted::decode(&rows));
    status.unrouted = unrouted.map_err(|error| database(path, error))?;
    Ok(status)
}

/// Refuses the file of another namespace. One that no host has claimed yet is accepted.
async fn check_owner(
    conn: &mut SqliteConnection,
    path: &Path,
    namespace: &str,
) -> Result<(), OpenError> {
    let rows = fetch(conn, "SELECT name FROM namespace", args![]).await;
    let owner = rows.and_then(|rows| rows.first().map(|row| row.owned(0)).transpose());
    match owner.map_err(|error| database(path, error))? {
        Some(owner) if owner != namespace => Err(OpenError::OtherNamespace {
            path: path.to_owned(),
            owner,
            namespace: namespace.to_owned(),
        }),
        _ => Ok(()),
    }
}

async fn examine_schema(path: &Path) -> Result<SchemaStatus, OpenError> {
    let not_writable = |source| OpenError::NotWritable { path: path.to_owned(), source };
    if !path.exists() {
        let folder =
            path.ancestors().skip(1).find(|folder| folder.exists()).unwrap_or(Path::new("."));
        tempfile::tempfile_in(folder).map_err(not_writable)?;
        return Ok(SchemaStatus::New);
    }
    if File::open(lock_path(&real_path(path)))
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

/// The path without symbolic links. The last part may be a link to a file that does not exist yet.
fn real_path(path: &Path) -> PathBuf {
    /// As many links as Linux follows.
    const LINKS_MAX: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(link) = std::fs::read_link(&path) else { break };
        // An absolute link replaces the whole path.
        path = path.parent().unwrap_or(Path::new("")).join(link);
    }
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match (folder.unwrap_or(Path::new(".")).canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// Keeps other hosts off a file.
pub(super) struct FileLock {
    /// A file of its own, which exists before the database.
    _beside: File,
    /// The database file itself: it has one lock, whatever its names.
    _itself: File,
}

/// Locks the database and creates it; returns its path without symbolic links.
fn lock(path: &Path) -> Result<(PathBuf, FileLock), OpenError> {
    let not_writable = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::NotWritable { path, source }
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(not_writable(folder))?;
    }
    let real = real_path(path);
    let take = |file: &Path| {
        let mut options = OpenOptions::new();
        // `SQLite` would open a file that it may not write read-only, and fail at the first subject.
        let opened = options.create(true).truncate(false).read(true).write(true).open(file);
        let opened = opened.map_err(not_writable(file))?;
        match opened.try_lock() {
            Ok(()) => Ok(opened),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(not_writable(file)(source)),
        }
    };
    let beside = take(&lock_path(&real))?;
    // Locks of whole files do not affect the ones of byte ranges that `SQLite` takes.
    let itself = take(&real)?;
    Ok((real, FileLock { _beside: beside, _itself: itself }))
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
        // The rows of a group's queries, so that the thread of the connection rarely waits for its task.
        .row_buffer_size(1_024)
        // 64 MB of pages.
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
}

fn migrator() -> Migrator {
    let migrations = [
        ("init", include_str!("../../../migrations/sqlite/0001_init.sql").into_sql_str()),
        ("auth", include_str!("../../../migrations/sqlite/0002_auth.sql").into_sql_str()),
        ("audit", include_str!("../../../migrations/sqlite/0003_audit.sql").into_sql_str()),
        (
            "encryption",
            include_str!("../../../migrations/sqlite/0004_encryption.sql").into_sql_str(),
        ),
        (
            "log_levels",
            include_str!("../../../migrations/sqlite/0005_log_levels.sql").into_sql_str(),
        ),
        (
            "host_reports",
            include_str!("../../../migrations/sqlite/0006_host_reports.sql").into_sql_str(),
        ),
        (
            "host_of_deliveries",
            include_str!("../../../migrations/sqlite/0007_host_of_deliveries.sql").into_sql_str(),
        ),
    ];
    let numbered = (1..).zip(migrations).map(|(version, (name, sql))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(numbered.collect())
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
        let first = open(&path, "orders").await.unwrap();
        let Err(OpenError::InUse { path: named }) = open(&path, "orders").await else {
            panic!("a second host got in");
        };
        assert_eq!(named, path);
        drop(first);
        open(&path, "orders").await.unwrap();
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_with_several_names_is_opened_by_one_host() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let path = at("postrider.db");
        // A link to a file that does not exist yet, and one over a folder.
        std::fs::create_dir(at("elsewhere")).unwrap();
        symlink("../postrider.db", at("elsewhere/early.db")).unwrap();
        symlink("elsewhere", at("folder")).unwrap();
        let first = open(&at("folder/early.db"), "orders").await.unwrap();
        assert!(path.is_file(), "the link's target was created");
        symlink(&path, at("late.db")).unwrap();
        symlink("late.db", at("twice.db")).unwrap();
        std::fs::hard_link(&path, at("elsewhere/hard.db")).unwrap();
        let names = [
            "postrider.db",
            "late.db",
            "twice.db",
            "elsewhere/early.db",
            "folder/early.db",
            "folder/../postrider.db",
            "elsewhere/hard.db",
        ];
        for name in names {
            let second = open(&at(name), "orders").await.err();
            assert!(matches!(second, Some(OpenError::InUse { .. })), "{name}: {second:?}");
        }
        assert_eq!(examine_schema(&at("twice.db")).await.unwrap(), SchemaStatus::InUse);
        drop(first);
        for name in names {
            open(&at(name), "orders").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_of_another_namespace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.db");
        drop(open(&path, "shop").await.unwrap());
        let Err(OpenError::OtherNamespace { owner, namespace, .. }) = open(&path, "orders").await
        else {
            panic!("two namespaces in one file");
        };
        assert_eq!((owner.as_str(), namespace.as_str()), ("shop", "orders"));
        assert!(matches!(
            examine(&path, "orders", &[]).await,
            Err(OpenError::OtherNamespace { .. })
        ));
        drop(open(&path, "shop").await.unwrap());
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
        assert!(matches!(open(&text, "orders").await.err(), Some(OpenError::NotADatabase { .. })));
        assert!(matches!(
            open(&text.join("below.db"), "orders").await.err(),
            Some(OpenError::NotWritable { .. })
        ));

        let foreign = folder.path().join("foreign.db");
        let mut conn = writer_options(&foreign).create_if_missing(true).connect().await.unwrap();
        super::super::sql::execute(&mut conn, "CREATE TABLE recipes (id)", args![]).await.unwrap();
        assert!(matches!(open(&foreign, "orders").await.err(), Some(OpenError::Foreign { .. })));
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postrider.db");
        let mut opened = open(&path, "orders").await.unwrap();
        let sql = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', 1, x'00', 0)";
        super::super::sql::execute(&mut opened.writer, sql, args![]).await.unwrap();
        drop(opened);
        assert!(matches!(
            open(&path, "orders").await.err(),
            Some(OpenError::Newer { version: 99, .. })
        ));
    }
}
