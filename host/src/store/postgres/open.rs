//! Connects, and migrates the schema.
//!
//! Several hosts may start at the same time: migrations run under an advisory lock of the database,
//! and a host that has to wait says so. A namespace has a schema of its own, so hosts of different
//! namespaces share a database without seeing each other's rows. Bounds: a time-out of the
//! migrations' own, because the one for requests would interrupt a long migration.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, SqlSafeStr as _};
use tokio::time::timeout;

use super::connect::Target;
use super::open_error::{CONNECTIONS_MIN, OpenError, tls_reason};
use super::pool::Pool;
use super::sql::{args, execute, fetch};
use super::state_places::{MovedState, PlaceError, PlaceProblem, Wanted};
use crate::domain::encryption::{Encryption, SharedKey};
use crate::domain::name::DEFAULT_NAMESPACE;
use crate::domain::state_place::StatePlaces;
use crate::store::decode::Columns as _;
use crate::store::hosts::{self, HostReport};
use crate::store::unrouted::{self, count_unrouted};
use crate::store::{StoreError, UnroutedEvents, sealed};

/// Pause between two messages about another host's migration.
const WAIT_NOTICE: Duration = Duration::from_secs(5);
/// Of a pooler: Postgres itself accepts every parameter of the connection, and transactions.
const PROTOCOL_VIOLATION: &str = "08P01";
/// `query_canceled`.
const CANCELED: &str = "57014";

/// Everything that belongs to an open database.
pub(super) struct Opened {
    pub(super) target: Arc<Target>,
    pub(super) pool: Pool,
    /// The schema of the tables, quoted.
    pub(super) schema: String,
    /// The database's clock, milliseconds since 1970-01-01 UTC.
    pub(super) now_ms: u64,
}

/// How to connect.
#[derive(Clone, Copy)]
pub struct PostgresSettings<'a> {
    /// A connection string of libpq.
    pub url: &'a str,
    /// The namespace whose tables are used.
    pub namespace: &'a str,
    /// Stages whose state has a place of its own.
    pub places: &'a StatePlaces,
    /// Longest wait for a connection, and for a statement.
    pub timeout: Duration,
    /// Longest time for migrations, the wait for those of other hosts included.
    pub migration_timeout: Duration,
}

/// Where the connections come from.
pub(super) enum ConnectionSource {
    /// The connection string; so many beside the writer's.
    Url { connections: u32 },
    /// A pool of the embedding program.
    Pool(PgPool),
}

/// The schema of a namespace; none: the default one stays where the server or the URL says.
fn schema_of(namespace: &str) -> Option<String> {
    // Names of namespaces contain no `_`, so no two of them have the same schema.
    (namespace != DEFAULT_NAMESPACE).then(|| format!("postrider_{}", namespace.replace('-', "_")))
}

/// A database that is being opened.
struct Opening<'a> {
    settings: PostgresSettings<'a>,
    schema: Option<String>,
    target: Arc<Target>,
    /// Host, port and database.
    server: String,
}

/// Connects and migrates; otherwise an outdated schema is refused.
pub(super) async fn open(
    settings: PostgresSettings<'_>,
    (migrate, encryption): (bool, &Arc<Encryption>),
    source: ConnectionSource,
) -> Result<Opened, OpenError> {
    let (opening, connections) = match source {
        ConnectionSource::Url { connections } => (Opening::new(settings)?, connections),
        ConnectionSource::Pool(pool) => (Opening::of_pool(settings, pool)?, 0),
    };
    let mut writer = opening.connect().await?;
    if migrate {
        opening.migrate(&mut writer).await?;
    } else {
        opening.check(&mut writer).await?;
    }
    let target = opening.target;
    let failed = |source| OpenError::Connect { server: opening.server.clone(), source };
    target.prepare(&mut writer).await.map_err(failed)?;
    let now_ms = database_time_ms(&mut writer).await.map_err(failed)?;
    let schema = "SELECT quote_ident(current_schema()::text)";
    let (schema,) = sqlx::query_as(schema).fetch_one(&mut writer).await.map_err(failed)?;
    take_shared_keys(&mut writer, encryption, now_ms).await.map_err(failed)?;
    let pool = target.pool(connections).opening(Arc::clone(encryption));
    // Best effort: the server detects a closed connection on its own.
    let _ = writer.close().await;
    Ok(Opened { target, pool, schema, now_ms: now_ms as u64 })
}

/// Takes the keys for what belongs to no subject, and adds one if there is none.
async fn take_shared_keys(
    conn: &mut PgConnection,
    encryption: &Encryption,
    now_ms: i64,
) -> Result<(), sqlx::Error> {
    let Some(new) = encryption.take_shared(&shared_keys(conn).await?) else { return Ok(()) };
    let args = args![i64::from(new.number), new.wrapped, now_ms];
    execute(conn, sealed::ADD_SHARED_KEY, args).await?;
    // Another host may have added one before.
    let _ = encryption.take_shared(&shared_keys(conn).await?);
    Ok(())
}

async fn shared_keys(conn: &mut PgConnection) -> Result<Vec<SharedKey>, sqlx::Error> {
    let rows = fetch(conn, sealed::SHARED_KEYS, args![]).await?;
    sealed::shared_keys(&rows).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Migrates the schema of a database, and nothing else. Returns what was moved.
pub(super) async fn migrate_only(
    settings: PostgresSettings<'_>,
) -> Result<Vec<MovedState>, OpenError> {
    let opening = Opening::new(settings)?;
    let mut writer = opening.connect().await?;
    opening.migrate(&mut writer).await
}

/// The status of a database.
#[derive(Debug, Clone)]
pub struct DatabaseStatus {
    /// Host, port and database.
    pub server: String,
    /// The first missing migration.
    pub missing: Option<i64>,
    /// How far its clock is ahead of this machine's.
    pub clock_ahead_ms: i64,
    /// The live hosts of the namespace.
    pub hosts: Vec<HostReport>,
    /// Events that wait for a stage.
    pub unrouted: Vec<UnroutedEvents>,
    /// What prevents the state of stages from being where the configuration wants it.
    pub place_problems: Vec<PlaceProblem>,
    /// Places that a migration would change.
    pub place_changes: Vec<PlaceProblem>,
}

/// Inspects a database without changing it.
pub(super) async fn examine(
    settings: PostgresSettings<'_>,
    finished: &[String],
) -> Result<DatabaseStatus, OpenError> {
    let opening = Opening::new(settings)?;
    let silent = |_| opening.silent();
    timeout(settings.timeout, opening.examine(finished)).await.map_err(silent)?
}

/// Runs a query in the schema of a namespace.
pub(super) async fn query(
    settings: PostgresSettings<'_>,
    sql: &'static str,
) -> Result<Vec<PgRow>, OpenError> {
    let opening = Opening::new(settings)?;
    let rows = async {
        let mut conn = opening.target.connect().await?;
        fetch(&mut conn, sql, args![]).await
    };
    rows.await.map_err(|error| opening.failed(error))
}

/// Deletes the schema of a namespace that is not the default one, with everything in it.
pub(super) async fn drop_namespace(settings: PostgresSettings<'_>) -> Result<(), OpenError> {
    let opening = Opening::new(settings)?;
    let Some(schema) = &opening.schema else { return Ok(()) };
    let mut conn = opening.connect().await?;
    let sql = AssertSqlSafe(format!("DROP SCHEMA IF EXISTS {schema} CASCADE"));
    let dropped = sqlx::raw_sql(sql).execute(&mut conn).await;
    dropped.map(drop).map_err(|source| OpenError::Connect { server: opening.server, source })
}

impl<'a> Opening<'a> {
    fn new(settings: PostgresSettings<'a>) -> Result<Self, OpenError> {
        let schema = schema_of(settings.namespace);
        let target = Target::new(settings.url, schema.as_deref(), settings.timeout);
        let target = Arc::new(target.map_err(OpenError::Url)?);
        let server = target.name();
        Ok(Self { settings, schema, target, server })
    }

    /// The same on connections of a pool of the embedding program.
    fn of_pool(settings: PostgresSettings<'a>, pool: PgPool) -> Result<Self, OpenError> {
        let connections = pool.options().get_max_connections();
        let schema = schema_of(settings.namespace);
        let target = Arc::new(Target::given(pool, schema.as_deref(), settings.timeout));
        let server = target.name();
        if connections < CONNECTIONS_MIN {
            return Err(OpenError::SmallPool { server, connections });
        }
        Ok(Self { settings, schema, target, server })
    }

    fn silent(&self) -> OpenError {
        let timeout_ms = self.settings.timeout.as_millis() as u64;
        OpenError::Silent { server: self.server.clone(), timeout_ms }
    }

    fn failed(&self, source: sqlx::Error) -> OpenError {
        let server = self.server.clone();
        if let Some(reason) = tls_reason(&source) {
            return OpenError::Tls { server, reason };
        }
        match &source {
            sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => self.silent(),
            sqlx::Error::Database(error) if error.code().as_deref() == Some(PROTOCOL_VIOLATION) => {
                OpenError::RefusedParameter { server, source }
            }
            _ => OpenError::Connect { server, source },
        }
    }

    /// Connects to the server that accepts writes, unless a transaction pooler is in between. The
    /// session is not set up, so that a pooler's sessions stay as they are.
    async fn connect(&self) -> Result<PgConnection, OpenError> {
        let failed = |error| self.failed(error);
        let mut conn = self.target.connect_unprepared().await.map_err(failed)?;
        match self.target.is_pooled(&mut conn).await {
            Ok(false) => self.check_encoding(&mut conn).await.map(|()| conn),
            Ok(true) => Err(OpenError::TransactionPooler { server: self.server.clone() }),
            // One that allows no transactions at all.
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(PROTOCOL_VIOLATION) =>
            {
                Err(OpenError::TransactionPooler { server: self.server.clone() })
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn check_encoding(&self, conn: &mut PgConnection) -> Result<(), OpenError> {
        let rows = sqlx::raw_sql("SELECT current_setting('server_encoding')").fetch_all(conn);
        let rows = rows.await.map_err(|error| self.failed(error))?;
        let encoding = rows.first().and_then(|row| row.owned(0).ok()).unwrap_or_default();
        if encoding == "UTF8" {
            return Ok(());
        }
        Err(OpenError::Encoding { server: self.server.clone(), encoding })
    }

    fn migration(&self, source: MigrateError) -> OpenError {
        let server = self.server.clone();
        let code = match &source {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                error.as_database_error().and_then(sqlx::error::DatabaseError::code)
            }
            _ => None,
        };
        if code.as_deref() == Some(CANCELED) {
            return self.migration_timeout();
        }
        match source {
            MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
                OpenError::Newer { server, version }
            }
            source => OpenError::Migration { server, source: Box::new(source) },
        }
    }

    fn migration_timeout(&self) -> OpenError {
        let timeout_ms = self.settings.migration_timeout.as_millis() as u64;
        OpenError::MigrationTimeout { server: self.server.clone(), timeout_ms }
    }

    /// Migrates, one host after another.
    async fn migrate(&self, conn: &mut PgConnection) -> Result<Vec<MovedState>, OpenError> {
        let limit = self.settings.migration_timeout;
        let migrated = timeout(limit, async {
            self.begin_migration(conn).await?;
            self.lock(conn).await?;
            if let Some(schema) = &self.schema {
                create_schema(conn, schema).await?;
            }
            let mut migrator = migrator();
            migrator.set_locking(false);
            migrator.run(&mut *conn).await?;
            Ok::<_, MigrateError>(claim(conn, self.settings.namespace).await?)
        });
        let owner = migrated.await.map_err(|_| self.migration_timeout())?;
        self.check_owner(owner.map_err(|error| self.migration(error))?)?;
        // Still under the lock, which ends with this connection if anything fails.
        let wanted = self.wanted();
        let applied = timeout(limit, wanted.apply(conn));
        let moved = applied.await.map_err(|_| self.migration_timeout())?;
        let moved = moved.map_err(|error| self.place(error))?;
        conn.unlock().await.map_err(|error| self.migration(error))?;
        Ok(moved)
    }

    fn wanted(&self) -> Wanted<'a> {
        Wanted { namespace: self.settings.namespace, places: self.settings.places }
    }

    fn place(&self, error: PlaceError) -> OpenError {
        match error {
            PlaceError::Problems(problems) => OpenError::Places(problems),
            PlaceError::Database(error) => self.migration(MigrateError::Execute(error)),
        }
    }

    /// Sets up the session for migrations: any time-out of the server's is lifted.
    async fn begin_migration(&self, conn: &mut PgConnection) -> Result<(), MigrateError> {
        let timeout_ms = self.settings.migration_timeout.as_millis();
        let path = self.schema.as_deref().map(|schema| format!("SET search_path = {schema};"));
        let sql = format!(
            "SET statement_timeout = {timeout_ms}; SET lock_timeout = 0; SET \
             idle_in_transaction_session_timeout = 0; {}",
            path.unwrap_or_default()
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await?;
        Ok(())
    }

    /// Locks out the migrations of other hosts, of all namespaces.
    async fn lock(&self, conn: &mut PgConnection) -> Result<(), MigrateError> {
        let mut locked = pin!(conn.lock());
        loop {
            match timeout(WAIT_NOTICE, &mut locked).await {
                Ok(locked) => return locked,
                Err(_) => tracing::info!(
                    server = self.server,
                    "waiting for another host, which is migrating the schema"
                ),
            }
        }
    }

    /// Compares the schema without changing it.
    async fn check(&self, conn: &mut PgConnection) -> Result<(), OpenError> {
        let failed = |source| self.failed(source);
        self.target.prepare(conn).await.map_err(failed)?;
        if let Some(version) = self.missing(conn).await? {
            return Err(OpenError::Older { server: self.server.clone(), version });
        }
        let owner = claim(conn, self.settings.namespace).await;
        self.check_owner(owner.map_err(failed)?)?;
        self.wanted().check(conn).await.map_err(|error| self.place(error))
    }

    fn check_owner(&self, owner: String) -> Result<(), OpenError> {
        let (server, namespace) = (self.server.clone(), self.settings.namespace.to_owned());
        if owner == namespace {
            return Ok(());
        }
        Err(OpenError::OtherNamespace { server, owner, namespace })
    }

    /// The first migration that the database lacks.
    async fn missing(&self, conn: &mut PgConnection) -> Result<Option<i64>, OpenError> {
        let sql = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
        let (ours,): (bool,) =
            sqlx::query_as(sql).fetch_one(&mut *conn).await.map_err(|error| self.failed(error))?;
        let migrator = migrator();
        let applied = if ours {
            conn.list_applied_migrations(&migrator.table_name).await
        } else {
            Ok(Vec::new())
        };
        let applied = applied.map_err(|error| self.migration(error))?;
        let unknown = applied.iter().find(|applied| !migrator.version_exists(applied.version));
        if let Some(newer) = unknown {
            return Err(OpenError::Newer { server: self.server.clone(), version: newer.version });
        }
        let lacks = |migration: &&Migration| {
            !applied.iter().any(|applied| applied.version == migration.version)
        };
        Ok(migrator.iter().find(lacks).map(|migration| migration.version))
    }

    async fn examine(&self, finished: &[String]) -> Result<DatabaseStatus, OpenError> {
        let failed = |error| self.failed(error);
        let mut conn = self.connect().await?;
        self.target.prepare(&mut conn).await.map_err(failed)?;
        let asked = std::time::SystemTime::now();
        let theirs = database_time_ms(&mut conn).await.map_err(failed)?;
        // The server read its clock about half-way between query and reply.
        let middle = asked + asked.elapsed().unwrap_or_default() / 2;
        let here =
            middle.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let missing = self.missing(&mut conn).await?;
        let mut status = DatabaseStatus {
            server: self.server.clone(),
            missing,
            clock_ahead_ms: theirs - here,
            hosts: Vec::new(),
            unrouted: Vec::new(),
            place_problems: Vec::new(),
            place_changes: Vec::new(),
        };
        if missing.is_none() {
            let stored = |error: StoreError| failed(sqlx::Error::Io(std::io::Error::other(error)));
            let owner = fetch(&mut conn, "SELECT name FROM namespace", args![]).await;
            if let Some(row) = owner.map_err(failed)?.first() {
                self.check_owner(row.owned(0).map_err(stored)?)?;
            }
            let cut_ms = theirs - hosts::LIVE_MS as i64;
            let rows = fetch(&mut conn, hosts::LIVE, args![cut_ms]).await.map_err(failed)?;
            status.hosts = hosts::decode(&rows).map_err(stored)?;
            let sql = count_unrouted!("<> ALL($1)");
            let rows = fetch(&mut conn, sql, args![finished]).await.map_err(failed)?;
            status.unrouted = unrouted::decode(&rows).map_err(stored)?;
            let examined = self.wanted().examine(&mut conn).await;
            (status.place_problems, status.place_changes) =
                examined.map_err(|error| self.place(error))?;
        }
        Ok(status)
    }
}

/// The database's clock, milliseconds since 1970-01-01 UTC.
async fn database_time_ms(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
    let (now_ms,) = sqlx::query_as(sql).fetch_one(conn).await?;
    Ok(now_ms)
}

/// Creates a schema unless it exists: to create one takes a permission of its own.
async fn create_schema(conn: &mut PgConnection, schema: &str) -> Result<(), MigrateError> {
    let sql = "SELECT to_regnamespace($1) IS NOT NULL";
    let (exists,): (bool,) = sqlx::query_as(sql).bind(schema).fetch_one(&mut *conn).await?;
    if !exists {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(conn).await?;
    }
    Ok(())
}

/// Makes the tables those of the namespace, unless they have one; returns their namespace.
async fn claim(conn: &mut PgConnection, namespace: &str) -> Result<String, sqlx::Error> {
    execute(conn, hosts::CLAIM, args![namespace]).await?;
    let (owner,): (String,) =
        sqlx::query_as("SELECT name FROM namespace").fetch_one(&mut *conn).await?;
    Ok(owner)
}

fn migrator() -> Migrator {
    let migrations = [
        ("init", include_str!("../../../migrations/postgres/0001_init.sql").into_sql_str()),
        ("auth", include_str!("../../../migrations/postgres/0002_auth.sql").into_sql_str()),
        ("audit", include_str!("../../../migrations/postgres/0003_audit.sql").into_sql_str()),
        (
            "encryption",
            include_str!("../../../migrations/postgres/0004_encryption.sql").into_sql_str(),
        ),
        (
            "log_levels",
            include_str!("../../../migrations/postgres/0005_log_levels.sql").into_sql_str(),
        ),
        (
            "host_reports",
            include_str!("../../../migrations/postgres/0006_host_reports.sql").into_sql_str(),
        ),
        (
            "host_of_deliveries",
            include_str!("../../../migrations/postgres/0007_host_of_deliveries.sql").into_sql_str(),
        ),
    ];
    let numbered = (1..).zip(migrations).map(|(version, (name, sql))| {
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(numbered.collect())
}
