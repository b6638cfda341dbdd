//! Postgres and RabbitMQ for a test: a database and a namespace of its own, gone at its end.
//!
//! The servers are those that `POSTRIDER_TEST_POSTGRES` and `POSTRIDER_TEST_AMQP` name, else those
//! on the default ports. A test that finds none fails; `cargo xtask test` sees to it that there are
//! some.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Stages whose queues tests make.
const STAGES: [&str; 9] = [
    "payment",
    "inventory",
    "shipping",
    "notification",
    "audit",
    "loyalty",
    "watcher",
    "burst",
    "picky",
];

/// The Postgres server; the database that is named is only used to make others.
pub(crate) fn postgres_url() -> String {
    std::env::var("POSTRIDER_TEST_POSTGRES")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into())
}

/// The broker and its vhost.
pub(crate) fn amqp_url() -> String {
    std::env::var("POSTRIDER_TEST_AMQP")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// A database and a namespace.
pub(crate) struct Servers {
    name: String,
    postgres: String,
    amqp: String,
    /// Servers of the test's own go away as a whole, and may be gone already.
    shared: (bool, bool),
    /// How hosts reach the servers, where that is not how the test does: through a proxy.
    pub(crate) host_urls: Option<(String, String)>,
}

impl Servers {
    pub(crate) async fn create() -> Result<Self> {
        Self::create_on(None, None).await
    }

    /// On servers of the test's own, where it names them.
    pub(crate) async fn create_on(postgres: Option<String>, amqp: Option<String>) -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("it-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let shared = (postgres.is_none(), amqp.is_none());
        let (postgres, amqp) =
            (postgres.unwrap_or_else(postgres_url), amqp.unwrap_or_else(amqp_url));
        let servers = Self { name, postgres, amqp, shared, host_urls: None };
        let mut connection = PgConnection::connect(&servers.postgres)
            .await
            .context("a Postgres server for tests: see docs/testing.md")?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {}", servers.database())))
            .execute(&mut connection)
            .await?;
        Ok(servers)
    }

    fn database(&self) -> String {
        database_of(&self.name)
    }

    /// The database, as the test reaches it.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&with_database(&self.postgres, &self.database())).await?)
    }

    /// A stage's queue.
    pub(crate) fn queue(&self, stage: &str) -> String {
        format!("{}.stage.{stage}", self.name)
    }

    /// The exchange of events.
    pub(crate) fn exchange(&self) -> String {
        format!("{}.events", self.name)
    }

    pub(crate) fn config_text(&self) -> String {
        let (postgres, amqp) =
            self.host_urls.clone().unwrap_or_else(|| (self.postgres.clone(), self.amqp.clone()));
        let store = with_database(&postgres, &self.database());
        format!("namespace = \"{}\"\nstore.url = \"{store}\"\nbroker.url = \"{amqp}\"\n", self.name)
    }
}

/// The same server, another database.
fn with_database(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap_or((url, ""));
    format!("{server}/{database}")
}

/// Also after a test that failed.
impl Drop for Servers {
    fn drop(&mut self) {
        let names = Names {
            name: self.name.clone(),
            postgres: self.shared.0.then(|| self.postgres.clone()),
            amqp: self.shared.1.then(|| self.amqp.clone()),
        };
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(names.delete())
        });
        let deleted = deleted.join().expect("the clean-up does not panic");
        assert!(
            deleted.is_ok() || std::thread::panicking(),
            "a database or queues were left behind: {deleted:?}"
        );
    }
}

/// What is to be deleted, and where.
struct Names {
    name: String,
    postgres: Option<String>,
    amqp: Option<String>,
}

impl Names {
    async fn delete(self) -> Result<()> {
        let name = &self.name;
        if let Some(amqp) = &self.amqp {
            let connection = Connection::connect(amqp, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            for stage in STAGES {
                for queue in [format!("{name}.stage.{stage}"), format!("{name}.stage.{stage}.dlq")]
                {
                    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
                }
            }
            for exchange in [format!("{name}.events"), format!("{name}.dlx")] {
                channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await?;
            }
            connection.close(200, "done".into()).await?;
        }
        if let Some(postgres) = &self.postgres {
            let mut connection = PgConnection::connect(postgres).await?;
            sqlx::raw_sql(AssertSqlSafe(format!(
                "DROP DATABASE {} WITH (FORCE)",
                database_of(name)
            )))
            .execute(&mut connection)
            .await?;
        }
        Ok(())
    }
}

fn database_of(name: &str) -> String {
    name.replace('-', "_")
}
