//! Postgres and RabbitMQ for a test: a database and a namespace of its own, deleted at its end.
//!
//! `POSTRIDER_TEST_POSTGRES` and `POSTRIDER_TEST_AMQP` name the servers; the default is the usual
//! ports on this machine. A test without servers fails; `cargo xtask test` provides them.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use lapin::options::{
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Stages whose queues tests create.
const STAGES: [&str; 14] = [
    "payment",
    "inventory",
    "shipping",
    "notification",
    "audit",
    "loyalty",
    "watcher",
    "burst",
    "picky",
    "bank",
    "approve",
    "stuck",
    "busy",
    "failing",
];

/// The Postgres server. Its database is used only to create others.
pub(crate) fn postgres_url() -> String {
    std::env::var("POSTRIDER_TEST_POSTGRES")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".into())
}

/// The broker and its virtual host.
pub(crate) fn amqp_url() -> String {
    std::env::var("POSTRIDER_TEST_AMQP")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// A database and a namespace.
pub(crate) struct Servers {
    name: String,
    /// The namespace whose database this is; a namespace beside it uses it too.
    database_owner: String,
    postgres: String,
    amqp: String,
    /// Whether Postgres and RabbitMQ are shared. Private servers disappear as a whole, and may have
    /// stopped already.
    shared: (bool, bool),
    /// The URLs for hosts when they connect through a proxy.
    pub(crate) host_urls: Option<(String, String)>,
}

impl Servers {
    pub(crate) async fn create() -> Result<Self> {
        Self::create_on(None, None).await
    }

    /// Uses the given private servers, or the shared ones for `None`.
    pub(crate) async fn create_on(postgres: Option<String>, amqp: Option<String>) -> Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("it-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let shared = (postgres.is_none(), amqp.is_none());
        let (postgres, amqp) =
            (postgres.unwrap_or_else(postgres_url), amqp.unwrap_or_else(amqp_url));
        let servers =
            Self { database_owner: name.clone(), name, postgres, amqp, shared, host_urls: None };
        let mut connection = PgConnection::connect(&servers.postgres)
            .await
            .context("a Postgres server for tests: see docs/testing.md")?;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {}", servers.database())))
            .execute(&mut connection)
            .await?;
        Ok(servers)
    }

    /// Another namespace on the same database and broker. It must be dropped first.
    pub(crate) fn beside(&self) -> Self {
        Self {
            name: format!("{}-beside", self.name),
            database_owner: self.database_owner.clone(),
            postgres: self.postgres.clone(),
            amqp: self.amqp.clone(),
            shared: self.shared,
            host_urls: self.host_urls.clone(),
        }
    }

    /// A queue of the channel's connection that receives a copy of each event whose type matches.
    pub(crate) async fn receive_events(&self, channel: &Channel, pattern: &str) -> Result<String> {
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
        let (queue, exchange) = (queue.name().to_string(), self.exchange());
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                pattern.into(),
                options,
                none,
            )
            .await?;
        Ok(queue)
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.name
    }

    fn database(&self) -> String {
        database_of(&self.database_owner)
    }

    /// Connects to the database directly, without a proxy, and to the namespace's tables.
    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        let mut connection = PgConnection::connect(&self.database_url()).await?;
        let path = AssertSqlSafe(format!("SET search_path = {}", schema_of(&self.name)));
        sqlx::raw_sql(path).execute(&mut connection).await?;
        Ok(connection)
    }

    /// The database's URL, without a proxy.
    pub(crate) fn database_url(&self) -> String {
        with_database(&self.postgres, &self.database())
    }

    /// A stage's queue.
    pub(crate) fn queue(&self, stage: &str) -> String {
        format!("{}.stage.{stage}", self.name)
    }

    /// The exchange for events.
    pub(crate) fn exchange(&self) -> String {
        format!("{}.events", self.name)
    }

    pub(crate) fn config_text(&self) -> String {
        let (postgres, amqp) =
            self.host_urls.clone().unwrap_or_else(|| (self.postgres.clone(), self.amqp.clone()));
        let store = with_database(&postgres, &self.database());
        // No other program subscribes, so hosts hand events over to their own stages.
        format!(
            "namespace = \"{}\"\nstore.url = \"{store}\"\nbroker.url = \"{amqp}\"\n\
             broker.subscriptions = []\n",
            self.name
        )
    }
}

/// The same server, another database.
fn with_database(url: &str, database: &str) -> String {
    let (location, query) =
        url.split_once('?').map_or((url, None), |(at, query)| (at, Some(query)));
    let (server, _) = location.rsplit_once('/').unwrap_or((location, ""));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{server}/{database}{query}")
}

/// Deletes database and namespace, also after a failed test.
impl Drop for Servers {
    fn drop(&mut self) {
        let names = Names {
            name: self.name.clone(),
            postgres: (self.shared.0 && self.name == self.database_owner)
                .then(|| self.postgres.clone()),
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

/// The database and the broker objects to delete.
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

/// The schema of a namespace that is not the default one.
pub(crate) fn schema_of(namespace: &str) -> String {
    format!("postrider_{}", namespace.replace('-', "_"))
}

fn database_of(name: &str) -> String {
    name.replace('-', "_")
}
