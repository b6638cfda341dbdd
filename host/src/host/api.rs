//! The HTTP API of a host: off, on a listener that is bound while the host is built, or a router
//! that the embedding program serves.
//!
//! Several namespaces share the listener. Their server runs on the threads of the program, and each
//! request on those of its namespace.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use super::error::BuildError;
use super::namespace::Namespace;
use super::tasks::HostTasks;
use crate::config::{Config, ConfigError, HttpSettings};
use crate::http::{
    self, OpenConnections, RequestsInProgress, ServedNamespace, Server, Timeouts, places,
};
#[cfg(feature = "tls")]
use crate::tls::ReloadedTls;

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
    connections: Arc<OpenConnections>,
    namespaces: Vec<ServedNamespace>,
    router: OnceLock<Router>,
    settings: HttpSettings,
    /// Connections to the stores of all namespaces.
    store_connections: usize,
    /// None: the listener is not encrypted.
    #[cfg(feature = "tls")]
    tls: Option<Arc<ReloadedTls>>,
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
        #[cfg(feature = "tls")]
        let tls = match config.http.tls.files().filter(|_| listener.is_some()) {
            Some(files) => Some(Arc::new(ReloadedTls::load(files).map_err(ConfigError)?)),
            None => None,
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose();
        Ok(Self {
            address: address.map_err(failed)?,
            listener: listener.map(TcpListener::into_std).transpose().map_err(failed)?,
            requests: RequestsInProgress::new(),
            connections: Arc::default(),
            namespaces: Vec::new(),
            router: OnceLock::new(),
            settings: config.http.clone(),
            store_connections: 0,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// Refuses to let everyone in who can reach the address that is bound: that of a listener of the
    /// program, or what a name stands for.
    pub(super) fn check<'a>(
        &self,
        configs: impl Iterator<Item = &'a Config>,
    ) -> Result<(), ConfigError> {
        let Some(address) = self.address else { return Ok(()) };
        let problems = configs.filter_map(|config| config.anonymous_problem(&address.to_string()));
        let problems: Vec<String> = problems.collect();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError(problems)) }
    }

    /// Takes the namespaces whose API it is.
    pub(super) fn serve<'a>(&mut self, namespaces: impl Iterator<Item = &'a Namespace>) {
        let connections = &mut self.store_connections;
        let address = self.address;
        self.namespaces = namespaces
            .inspect(|namespace| *connections += namespace.config.store.connections as usize)
            .inspect(|namespace| {
                if let Some(address) = address {
                    namespace.app.serves_at(address);
                }
            })
            .map(|namespace| ServedNamespace {
                name: namespace.config.namespace.clone(),
                app: Arc::clone(&namespace.app),
                settings: namespace.config.http.clone(),
                access: std::sync::Arc::clone(&namespace.access),
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
        let Some(first) = self.namespaces.first() else { return };
        let router = http::under_names(self.router(), first);
        let HttpSettings { connections_max, .. } = self.settings;
        let server = Server::new(listener, router, self.requests.clone())
            .counted(Arc::clone(&self.connections))
            .bounded(places(connections_max, self.store_connections), self.timeouts());
        #[cfg(feature = "tls")]
        let server = server.encrypted(self.tls.clone());
        tasks.start_server(server);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tasks.start_certificates(Arc::clone(tls));
        }
        tracing::info!(address = self.address.map(tracing::field::display), "serving");
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts {
            head: Duration::from_millis(self.settings.head_timeout_ms),
            idle: Duration::from_millis(self.settings.idle_timeout_ms),
            stall: Duration::from_millis(self.settings.stall_timeout_ms),
        }
    }

    /// The API for the router of the embedding program.
    pub(super) fn mounted(&self) -> Router {
        http::mounted(self.router())
    }

    /// The router of this host: all servers share its limits.
    fn router(&self) -> Router {
        let build = || http::router(&self.namespaces, &self.requests, &self.connections);
        self.router.get_or_init(build).clone()
    }

    /// Waits for the requests in progress, whichever server received them.
    pub(super) async fn finish_requests(&self) {
        self.requests.close();
        self.requests.wait().await;
    }
}
