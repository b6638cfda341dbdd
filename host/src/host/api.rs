//! The HTTP API of a host: bound while the host is built, served while it runs.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::tasks::HostTasks;
use crate::app::App;
use crate::config::Config;
use crate::http::{self, RequestsInProgress, Server};

/// A bound listener.
pub(super) struct Api(TcpListener);

impl Api {
    /// Takes `listener`, or binds the configured address.
    pub(super) async fn bind(
        listener: Option<TcpListener>,
        config: &Config,
    ) -> anyhow::Result<Self> {
        if let Some(listener) = listener {
            return Ok(Self(listener));
        }
        let listener = TcpListener::bind(&config.http.listen)
            .await
            .with_context(|| format!("http.listen: cannot bind {}", config.http.listen))?;
        Ok(Self(listener))
    }

    pub(super) fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }

    pub(super) fn start(
        self,
        app: &Arc<App>,
        config: &Config,
        tasks: &HostTasks,
    ) -> anyhow::Result<()> {
        let address = self.address()?;
        let work = RequestsInProgress::new();
        let router = http::router(Arc::clone(app), &config.http, &work);
        tasks.start_server(Server::new(self.0, router, work)?);
        tracing::info!(%address, "serving");
        Ok(())
    }
}
