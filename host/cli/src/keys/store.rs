//! The store of a configuration, opened for its API keys alone. Schema migrations are those of a host.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use postrider::internals::{
    ApiKey, IssuedKey, Keys, Listeners, PostgresOptions, PostgresStore, Publishing, SqliteOptions,
    SqliteStore, Store, StoreUrl,
};
use postrider::{Clock, Config, SystemClock};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A name for what is written.
const HOST_NAME: &str = "postrider-keys";

/// An open store.
pub(super) struct OpenStore {
    store: Arc<dyn Store>,
    writer: JoinHandle<()>,
    keys: Keys,
}

impl OpenStore {
    pub(super) async fn open(config: Config) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let kinds = config.kinds()?;
        let publishing = Publishing { listeners: Listeners::of(None), from_outbox: true };
        let settings = &config.store;
        let namespace = config.namespace.clone();
        let (store, writer): (Arc<dyn Store>, JoinHandle<()>) = match StoreUrl::parse(&settings.url)
        {
            Some(StoreUrl::Sqlite(path)) => {
                let options = SqliteOptions {
                    path: path.into(),
                    namespace,
                    host_name: HOST_NAME.to_owned(),
                    clock: Arc::clone(&clock),
                    steady: None,
                    kinds,
                    lease_ms: settings.lease_ms,
                    group_max_ops: settings.group_max_ops,
                    publishing,
                    encryption: config.encryption.encryption(),
                };
                let (store, writer) = SqliteStore::open(options).await.context("store.url")?;
                (store, tokio::spawn(async move { writer.run().await }))
            }
            Some(StoreUrl::Postgres(url)) => {
                let options = PostgresOptions {
                    url: url.to_owned(),
                    namespace,
                    host_name: HOST_NAME.to_owned(),
                    clock: Arc::clone(&clock),
                    steady: None,
                    host_time: false,
                    places: config.state_places(),
                    kinds,
                    lease_ms: settings.lease_ms,
                    group_max_ops: settings.group_max_ops,
                    publishing,
                    encryption: config.encryption.encryption(),
                    connections: settings.connections,
                    pool: None,
                    timeout_ms: settings.timeout_ms,
                    migration_timeout_ms: settings.migration_timeout_ms,
                    migrate: settings.migrate,
                };
                let opened = PostgresStore::open(options).await;
                let (store, writer) = opened.context("store.url")?;
                (store, tokio::spawn(async move { writer.run().await }))
            }
            None => bail!("store.url: unknown scheme"),
        };
        let keys = Keys::new(Arc::clone(&store), clock);
        Ok(Self { store, writer, keys })
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) async fn close(self) {
        self.store.close().await;
        self.writer.abort();
    }
}

/// A key, as the API shows it.
pub(super) fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "principal": key.principal,
        "description": key.description,
        "roles": key.roles,
        "created_at_ms": key.created_at_ms,
        "created_by": key.created_by,
        "expires_at_ms": key.expires_at_ms,
        "revoked_at_ms": key.revoked_at_ms,
        "last_used_at_ms": key.last_used_at_ms,
    })
}

/// A new key with its secret, as the API shows it.
pub(super) fn issued(issued: &IssuedKey) -> Value {
    let mut shown = shown(&issued.key);
    shown["token"] = issued.token().into();
    shown
}
