//! Connects, and migrates the schema.
//!
//! Several hosts may start at the same time: migrations run under an advisory lock of the database.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgConnection, SqlSafeStr as _};
use tokio::time::timeout;

/// Prepared statements a connection keeps: every statement of this module.
const STATEMENTS: usize = 128;

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is invalid.
    #[error("not a Postgres URL; expected postgres://user:password@host:5432/database")]
    Url(#[source] sqlx::Error),
    /// The server is unreachable, or refuses the user.
    #[error(
        "cannot connect to Postgres at {server}; check that it runs, and the user, password and \
         database of the URL"
    )]
    Connect {
        /// Host, port and database.
        server: String,
        /// The database's error.
        #[source]
        source: sqlx::Error,
    },
    /// It did not answer in time.
    #[error("Postgres at {server} did not answer within {timeout_ms} ms")]
    Silent {
        /// Host, port and database.
        server: String,
        /// The limit.
        timeout_ms: u64,
    },
    /// It was written by a newer Postrider.
    #[error(
        "{server} has schema {version}, which this version of Postrider does not know; run a \
         newer one"
    )]
    Newer {
        /// Host, port and database.
        server: String,
        /// The first unknown migration.
        version: i64,
    },
    /// The schema is older than this program, and the host was told not to change it.
    #[error(
        "{server} lacks schema {version}; run `postrider migrate`, or set store.migrate = true"
    )]
    Older {
        /// Host, port and database.
        server: String,
        /// The first missing migration.
        version: i64,
    },
    /// A migration failed.
    #[error(
        "failed to migrate the schema of {server}; if the database belongs to another program, \
         give Postrider one of its own"
    )]
    Migration {
        /// Host, port and database.
        server: String,
        /// The database's error.
        #[source]
        source: Box<MigrateError>,
    },
}

/// Everything that belongs to an open database.
pub(super) struct Opened {
    pub(super) options: PgConnectOptions,
    pub(super) writer: PgConnection,
    pub(super) pool: PgPool,
}

/// How to connect.
pub(super) struct Settings<'a> {
    pub(super) url: &'a str,
    pub(super) connections: u32,
    pub(super) timeout: Duration,
    pub(super) migrate: bool,
}

/// Connects and migrates.
pub(super) async fn open(settings: &Settings<'_>) -> Result<Opened, OpenError> {
    let options = options(settings)?;
    let server = server(&options);
    let silent = |_| OpenError::Silent {
        server: server.clone(),
        timeout_ms: settings.timeout.as_millis() as u64,
    };
    let connect = |source| OpenError::Connect { server: server.clone(), source };
    let mut writer =
        timeout(settings.timeout, options.connect()).await.map_err(silent)?.map_err(connect)?;
    if settings.migrate {
        migrate(&mut writer, &server).await?;
    } else {
        check(&mut writer, &server).await?;
    }
    let pool = PgPoolOptions::new()
        .max_connections(settings.connections)
        .acquire_timeout(settings.timeout)
        .connect_lazy_with(options.clone());
    Ok(Opened { options, writer, pool })
}

/// The status of a database.
#[derive(Debug, Clone)]
pub struct SchemaStatus {
    /// Host, port and database.
    pub server: String,
    /// The first missing migration.
    pub missing: Option<i64>,
    /// How far its clock is ahead of this machine's.
    pub clock_ahead_ms: i64,
}

/// Inspects a database without changing it.
pub(super) async fn examine(settings: &Settings<'_>) -> Result<SchemaStatus, OpenError> {
    let options = options(settings)?;
    let server = server(&options);
    let look = async {
        let connect = |source| OpenError::Connect { server: server.clone(), source };
        let mut connection = options.connect().await.map_err(connect)?;
        let asked = std::time::SystemTime::now();
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8, \
                   to_regclass('_sqlx_migrations') IS NOT NULL";
        let (theirs, ours): (i64, bool) =
            sqlx::query_as(sql).fetch_one(&mut connection).await.map_err(connect)?;
        // The server read its clock about half-way between query and reply.
        let middle = asked + asked.elapsed().unwrap_or_default() / 2;
        let here =
            middle.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let missing = if ours { missing(&mut connection, &server).await? } else { Some(1) };
        Ok(SchemaStatus { server: server.clone(), missing, clock_ahead_ms: theirs - here })
    };
    let silent = |_| OpenError::Silent {
        server: server.clone(),
        timeout_ms: settings.timeout.as_millis() as u64,
    };
    timeout(settings.timeout, look).await.map_err(silent)?
}

/// Migrates the schema of a database, and nothing else.
pub(super) async fn migrate_only(settings: &Settings<'_>) -> Result<(), OpenError> {
    open(&Settings { migrate: true, ..*settings }).await.map(|_| ())
}

fn options(settings: &Settings<'_>) -> Result<PgConnectOptions, OpenError> {
    let timeout_ms = settings.timeout.as_millis().to_string();
    let options = PgConnectOptions::from_str(settings.url).map_err(OpenError::Url)?;
    Ok(options
        .application_name("postrider")
        .statement_cache_capacity(STATEMENTS)
        // The server aborts a statement when this host stops waiting for it.
        .options([
            ("statement_timeout", timeout_ms.as_str()),
            ("idle_in_transaction_session_timeout", timeout_ms.as_str()),
        ])
        // Every statement of this module finds its rows by key: a plan made while the tables were
        // small must not scan them when they are large.
        .options([
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("enable_memoize", "off"),
            ("jit", "off"),
        ])
        .disable_statement_logging())
}

/// The server's address without the password.
pub(super) fn server(options: &PgConnectOptions) -> String {
    format!(
        "{}:{}/{}",
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap_or(options.get_username())
    )
}

fn migrator() -> Migrator {
    let init = include_str!("../../../migrations/postgres/0001_init.sql").into_sql_str();
    Migrator::with_migrations(vec![Migration::new(
        1,
        "init".into(),
        MigrationType::Simple,
        init,
        false,
    )])
}

async fn migrate(writer: &mut PgConnection, server: &str) -> Result<(), OpenError> {
    migrator().run(writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
            OpenError::Newer { server: server.to_owned(), version }
        }
        source => OpenError::Migration { server: server.to_owned(), source: Box::new(source) },
    })
}

/// Compares without changing anything.
async fn check(writer: &mut PgConnection, server: &str) -> Result<(), OpenError> {
    let failed =
        |source| OpenError::Migration { server: server.to_owned(), source: Box::new(source) };
    writer.ensure_migrations_table(&migrator().table_name).await.map_err(failed)?;
    match missing(writer, server).await? {
        None => Ok(()),
        Some(version) => Err(OpenError::Older { server: server.to_owned(), version }),
    }
}

/// The first migration that a database of ours lacks.
async fn missing(connection: &mut PgConnection, server: &str) -> Result<Option<i64>, OpenError> {
    let failed =
        |source| OpenError::Migration { server: server.to_owned(), source: Box::new(source) };
    let migrator = migrator();
    let applied = connection.list_applied_migrations(&migrator.table_name).await.map_err(failed)?;
    if let Some(newer) = applied.iter().find(|applied| !migrator.version_exists(applied.version)) {
        return Err(OpenError::Newer { server: server.to_owned(), version: newer.version });
    }
    let lacks = |migration: &&Migration| {
        !applied.iter().any(|applied| applied.version == migration.version)
    };
    Ok(migrator.iter().find(lacks).map(|migration| migration.version))
}
