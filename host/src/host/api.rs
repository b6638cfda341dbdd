//! The HTTP API of a host: off, on a listener that is bound while the host is built, or a router
//! that the embedding program serves.
//!
//! Several namespaces share the listener. Their server runs on the threads of the program, and each
//! request on those of its namespace.

use std::net::SocketAddr;
use std::sync::OnceLock;

use axum::Router;
use tokio::net::TcpListener;

use super::error::BuildError;
use super::namespace::Namespace;
use super::tasks::HostTasks;
use crate::config::Config;
use crate::http::{self, RequestsInProgress, ServedNamespace, Server};

/// Where the API is served.
#[derive(Default)]
pub(super) enum Listen {
    /// Nowhere, unless the embedding program serves the router.
    #[default]
    Off,
    /// On the configured address.
    Configured,
    /// On a listener that is bound already.
    Bound(TcpListener),
}

/// The API, and the requests to it.
pub(super) struct Api {
    address: Option<SocketAddr>,
    /// Until it is served.
    listener: Option<std::net::TcpListener>,
    requests: RequestsInProgress,
    namespaces: Vec<ServedNamespace>,
    router: OnceLock<Router>,
}

impl Api {
    pub(super) async fn bind(listen: Listen, config: &Config) -> Result<Self, BuildError> {
        let failed = |source| BuildError::Listen { address: config.http.listen.clone(), source };
        let listener = match listen {
            Listen::Off => None,
            Listen::Bound(listener) => Some(listener),
            Listen::Configured => {
                Some(TcpListener::bind(&config.http.listen).await.map_err(failed)?)
            }
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose();
        Ok(Self {
            address: address.map_err(failed)?,
            listener: listener.map(TcpListener::into_std).transpose().map_err(failed)?,
            requests: RequestsInProgress::new(),
            namespaces: Vec::new(),
            router: OnceLock::new(),
        })
    }

    /// Takes the namespaces whose API it is.
    pub(super) fn serve<'a>(&mut self, namespaces: impl Iterator<Item = &'a Namespace>) {
        self.namespaces = namespaces
            .map(|namespace| ServedNamespace {
                name: namespace.config.namespace.clone(),
                app: std::sync::Arc::clone(&namespace.app),
                settings: namespace.config.http.clone(),
                runtime: namespace.runtime.clone(),
                span: namespace.span.clone(),
            })
            .collect();
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Serves on the listener, if there is one, as a task of the first namespace.
    pub(super) fn start(&mut self, tasks: &HostTasks) {
        let Some(listener) = self.listener.take() else { return };
        tasks.start_server(Server::new(listener, self.router(), self.requests.clone()));
        tracing::info!(address = ?self.address, "serving");
    }

    /// The API for the router of the embedding program.
    pub(super) fn mounted(&self) -> Router {
        http::mounted(self.router())
    }

    /// The router of this host: all servers share its limits.
    fn router(&self) -> Router {
        let build = || http::router(&self.namespaces, &self.requests);
        self.router.get_or_init(build).clone()
    }

    /// Waits for the requests in progress, whichever server received them.
    pub(super) async fn finish_requests(&self) {
        self.requests.close();
        self.requests.wait().await;
    }
}
