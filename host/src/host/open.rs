//! Opens the store and the broker that the configuration names, and starts their tasks.

use std::sync::Arc;

use anyhow::Context as _;
#[cfg(not(all(feature = "postgres", feature = "rabbitmq", feature = "sqlite")))]
use anyhow::bail;

use super::tasks::HostTasks;
use crate::broker::Broker;
use crate::broker::embedded::Embedded;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbit::{Rabbit, RabbitOptions};
use crate::config::{BrokerUrl, Config, StoreUrl};
use crate::domain::clock::{Clock, SteadyClock};
use crate::domain::subject_kind::SubjectKinds;
use crate::store::Store;
#[cfg(feature = "postgres")]
use crate::store::postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// What the store and the broker know of the host.
pub(super) struct HostIdentity<'a> {
    pub(super) config: &'a Config,
    pub(super) kinds: &'a Arc<SubjectKinds>,
    /// Owner of leases, and name of connections.
    pub(super) name: &'a str,
    pub(super) clock: &'a Arc<dyn Clock>,
    /// The same, when it follows the store's.
    pub(super) steady: Option<&'a Arc<SteadyClock>>,
}

pub(super) fn open_broker(
    host: &HostIdentity<'_>,
    tasks: &HostTasks,
) -> anyhow::Result<Arc<dyn Broker>> {
    match BrokerUrl::parse(&host.config.broker.url).context("broker.url: unknown scheme")? {
        BrokerUrl::Embedded => {
            Ok(Embedded::new(host.config.broker.queue_capacity, Arc::clone(host.clock)))
        }
        #[cfg(feature = "rabbitmq")]
        BrokerUrl::Amqp(url) => {
            let options = RabbitOptions {
                url: url.to_owned(),
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                expiry_ms: host.config.events.expiry_ms,
                ingress: host.config.ingress(host.kinds),
            };
            let (rabbit, links) =
                Rabbit::new(options).map_err(anyhow::Error::msg).context("broker.url")?;
            tasks.start_rabbit(links);
            Ok(rabbit)
        }
        #[cfg(not(feature = "rabbitmq"))]
        BrokerUrl::Amqp(_) => bail!("broker.url: enable the cargo feature `rabbitmq`"),
    }
}

pub(super) async fn open_store(
    host: &HostIdentity<'_>,
    tasks: &HostTasks,
    publish_all: bool,
) -> anyhow::Result<Arc<dyn Store>> {
    let store = &host.config.store;
    let kinds = Arc::clone(host.kinds);
    let failed = "store.url: the store could not be opened";
    match StoreUrl::parse(&store.url).context("store.url: unknown scheme")? {
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => {
            let options = SqliteOptions {
                path: path.into(),
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                steady: host.steady.cloned(),
                kinds,
                lease_ms: store.lease_ms,
                group_max_ops: store.group_max_ops,
                publish_all,
            };
            let (store, writer) = SqliteStore::open(options).await.context(failed)?;
            tasks.start_sqlite(writer);
            Ok(store)
        }
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(url) => {
            let options = PostgresOptions {
                url: url.to_owned(),
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                steady: host.steady.cloned(),
                host_time: false,
                kinds,
                lease_ms: store.lease_ms,
                group_max_ops: store.group_max_ops,
                publish_all,
                connections: store.connections,
                timeout_ms: store.timeout_ms,
                migration_timeout_ms: store.migration_timeout_ms,
                migrate: store.migrate,
            };
            let (store, writer) = PostgresStore::open(options).await.context(failed)?;
            tasks.start_postgres(writer);
            Ok(store)
        }
        #[cfg(not(feature = "sqlite"))]
        StoreUrl::Sqlite(_) => bail!("store.url: enable the cargo feature `sqlite`"),
        #[cfg(not(feature = "postgres"))]
        StoreUrl::Postgres(_) => bail!("store.url: enable the cargo feature `postgres`"),
    }
}
