//! Why a database was not opened, and what to do.

use sqlx::migrate::MigrateError;

use super::state_places::PlaceProblem;
use crate::domain::connection_string::UrlError;

/// What is wrong with the encryption of a connection; none if it is something else.
pub(super) fn tls_reason(error: &sqlx::Error) -> Option<String> {
    #[cfg(feature = "tls")]
    if let Some(reason) = crate::tls::explain(error) {
        return Some(reason);
    }
    match error {
        sqlx::Error::Tls(why) if why.to_string().contains("does not support TLS") => Some(
            "the server does not offer it: set `ssl = on` there, or remove sslmode from the URL"
                .to_owned(),
        ),
        sqlx::Error::Tls(why) => Some(why.to_string()),
        _ => None,
    }
}

/// Fewest connections of a pool: one for a batch that holds locks, one for readers.
pub(super) const CONNECTIONS_MIN: u32 = 2;

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is invalid.
    #[error("not a Postgres URL")]
    Url(#[source] UrlError),
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
    /// The connection could not be encrypted as the URL demands.
    #[error("cannot encrypt the connection to Postgres at {server}: {reason}")]
    Tls {
        /// Host, port and database.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// A pooler refused a parameter of the connection.
    #[error(
        "{server} is a connection pooler that refuses parameters of the connection; remove \
         `options` from the URL, or connect to Postgres itself"
    )]
    RefusedParameter {
        /// Host, port and database.
        server: String,
        /// The pooler's error.
        #[source]
        source: sqlx::Error,
    },
    /// The pool of the embedding program is too small.
    #[error(
        "the pool to {server} has at most {connections} connection(s); the host needs \
         {CONNECTIONS_MIN} beside those that the program itself holds"
    )]
    SmallPool {
        /// Host, port and database.
        server: String,
        /// Its limit.
        connections: u32,
    },
    /// Statements of one connection run in different sessions.
    #[error(
        "{server} is a transaction pooler, which mixes the sessions of its clients; connect to \
         Postgres itself, or use session mode (PgBouncer: pool_mode = session)"
    )]
    TransactionPooler {
        /// Host, port and database.
        server: String,
    },
    /// The database cannot store every text.
    #[error(
        "the database {server} has the encoding {encoding}, which cannot store every text; create \
         one with ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding {
        /// Host, port and database.
        server: String,
        /// Its encoding.
        encoding: String,
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
    /// The tables belong to another namespace.
    #[error(
        "the tables in {server} belong to the namespace `{owner}`, not `{namespace}`; give each \
         namespace a database or a schema of its own"
    )]
    OtherNamespace {
        /// Host, port and database.
        server: String,
        /// The namespace of the tables.
        owner: String,
        /// The namespace of this host.
        namespace: String,
    },
    /// A migration, or the wait for another host's, took too long.
    #[error(
        "the schema of {server} was not migrated within {timeout_ms} ms; another host may be \
         migrating it. Raise store.migration_timeout_ms"
    )]
    MigrationTimeout {
        /// Host, port and database.
        server: String,
        /// The limit.
        timeout_ms: u64,
    },
    /// The state of stages cannot be where the configuration wants it.
    #[error(
        "the state of stages cannot be used as configured:\n{}",
        .0.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
    )]
    Places(Vec<PlaceProblem>),
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
