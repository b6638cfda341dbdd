//! A process with two namespaces.

use anyhow::Result;

use crate::support::harness::{Backend, Client, SHIPPED, TestEnv, guest};
use crate::support::load::AMPLE_STOCK;
use crate::support::servers::Servers;

/// A configuration with two namespaces, and the shipped stages in both.
pub(crate) struct TwoNamespaces {
    /// Dropped before the database that it is on.
    _beside: Option<Servers>,
    pub(crate) env: TestEnv,
    pub(crate) first: String,
    pub(crate) further: String,
}

impl TwoNamespaces {
    pub(crate) async fn create(backend: Backend) -> Result<Self> {
        let mut env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
        let beside = env.servers.as_ref().map(Servers::beside);
        let name = |servers: Option<&Servers>, embedded: &str| {
            servers.map_or(embedded, |servers| servers.namespace()).to_owned()
        };
        let first = name(env.servers.as_ref(), "orders");
        let further = name(beside.as_ref(), "shop");
        let stock = AMPLE_STOCK.replace("[stages.", &format!("[namespaces.{further}.stages."));
        env.toml.push_str(&stock);
        let folder = env.plugins().join(&further);
        std::fs::create_dir(&folder)?;
        for stage in SHIPPED {
            std::fs::copy(guest(stage)?, folder.join(format!("{stage}.wasm")))?;
        }
        Ok(Self { _beside: beside, env, first, further })
    }
}

/// A client of one of the namespaces of a host.
pub(crate) fn client_of(host: &Client, namespace: &str) -> Client {
    Client::new(format!("{}/namespaces/{namespace}", host.url))
}
