//! Opens the store and the broker that the configuration names, and starts their tasks.

use std::sync::Arc;

use super::error::BuildError;
use super::tasks::HostTasks;
use crate::broker::embedded::Embedded;
#[cfg(feature = "rabbitmq")]
use crate::broker::rabbit::{MessageKeys, Rabbit, RabbitOptions, RabbitServer};
use crate::broker::{Broker, Capacity};
use crate::config::{BrokerConfig, BrokerUrl, Config, StoreUrl};
use crate::domain::clock::{Clock, SteadyClock};
use crate::domain::encryption::Encryption;
use crate::domain::subject_kind::SubjectKinds;
#[cfg(feature = "postgres")]
use crate::store::postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Publishing, Store};

/// What the store and the broker know of the host.
pub(super) struct HostIdentity<'a> {
    pub(super) config: &'a Config,
    pub(super) kinds: &'a Arc<SubjectKinds>,
    /// Owner of leases, and name of connections.
    pub(super) name: &'a str,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) encryption: &'a Arc<Encryption>,
    /// The same, when it follows the store's.
    pub(super) steady: Option<&'a Arc<SteadyClock>>,
    /// The pool of the embedding program.
    #[cfg(feature = "postgres")]
    pub(super) pool: Option<&'a sqlx::PgPool>,
}

pub(super) async fn open_broker(
    host: &HostIdentity<'_>,
    tasks: &HostTasks,
    store: &Arc<dyn Store>,
) -> Result<Arc<dyn Broker>, BuildError> {
    // A valid configuration names one that this build has.
    match BrokerUrl::parse(&host.config.broker.url) {
        None => Err(BuildError::Broker("unknown scheme".to_owned())),
        Some(BrokerUrl::Embedded) => {
            let BrokerConfig { queue_capacity: messages, queue_max_bytes: bytes, .. } =
                host.config.broker;
            Ok(Embedded::new(Capacity { messages, bytes }, Arc::clone(host.clock)))
        }
        #[cfg(feature = "rabbitmq")]
        Some(BrokerUrl::Amqp(url)) => {
            let keys = MessageKeys::open(Arc::clone(store), host.clock.now_ms()).await;
            let options = RabbitOptions {
                server: RabbitServer {
                    url: url.to_owned(),
                    #[cfg(feature = "tls")]
                    tls: host.config.broker.tls.files(),
                },
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                expiry_ms: host.config.events.expiry_ms,
                ingress: host.config.ingress(host.kinds),
                encryption: Arc::clone(host.encryption),
                keys: keys.map_err(|error| BuildError::Store(error.into()))?,
            };
            let (rabbit, links) = Rabbit::new(options).map_err(BuildError::Broker)?;
            tasks.start_rabbit(links);
            Ok(rabbit)
        }
        #[cfg(not(feature = "rabbitmq"))]
        Some(BrokerUrl::Amqp(_)) => {
            Err(BuildError::Broker("enable the cargo feature `rabbitmq`".to_owned()))
        }
    }
}

pub(super) async fn open_store(
    host: &HostIdentity<'_>,
    tasks: &HostTasks,
    publishing: Publishing,
) -> Result<Arc<dyn Store>, BuildError> {
    let store = &host.config.store;
    let kinds = Arc::clone(host.kinds);
    match StoreUrl::parse(&store.url) {
        None => Err(BuildError::Store("unknown scheme".into())),
        #[cfg(feature = "sqlite")]
        Some(StoreUrl::Sqlite(path)) => {
            let options = SqliteOptions {
                path: path.into(),
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                steady: host.steady.cloned(),
                kinds,
                lease_ms: store.lease_ms,
                group_max_ops: store.group_max_ops,
                publishing,
                encryption: Arc::clone(host.encryption),
            };
            let opened = SqliteStore::open(options).await;
            let (store, writer) = opened.map_err(|error| BuildError::Store(error.into()))?;
            tasks.start_sqlite(writer);
            Ok(store)
        }
        #[cfg(feature = "postgres")]
        Some(StoreUrl::Postgres(url)) => {
            let options = PostgresOptions {
                url: url.to_owned(),
                namespace: host.config.namespace.clone(),
                host_name: host.name.to_owned(),
                clock: Arc::clone(host.clock),
                steady: host.steady.cloned(),
                host_time: false,
                places: host.config.state_places(),
                kinds,
                lease_ms: store.lease_ms,
                group_max_ops: store.group_max_ops,
                publishing,
                encryption: Arc::clone(host.encryption),
                connections: store.connections,
                pool: host.pool.cloned(),
                timeout_ms: store.timeout_ms,
                migration_timeout_ms: store.migration_timeout_ms,
                migrate: store.migrate,
            };
            let opened = PostgresStore::open(options).await;
            let (store, writer) = opened.map_err(|error| BuildError::Store(error.into()))?;
            tasks.start_postgres(writer);
            Ok(store)
        }
        #[cfg(not(feature = "sqlite"))]
        Some(StoreUrl::Sqlite(_)) => {
            Err(BuildError::Store("enable the cargo feature `sqlite`".into()))
        }
        #[cfg(not(feature = "postgres"))]
        Some(StoreUrl::Postgres(_)) => {
            Err(BuildError::Store("enable the cargo feature `postgres`".into()))
        }
    }
}
