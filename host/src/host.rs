//! The host: builds everything that a configuration asks for, runs it, and stops it in two phases.
//!
//! Guarantee: whatever it starts, from the first task of [`HostBuilder::build`] on, ends when the
//! build fails, or the built host, its [`HostHandle`] or the future of [`Host::run_until`] is
//! dropped.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use postrider::{Config, Host};
//! let host = Host::builder().config(Config::load(None)?).build().await?;
//! let handle = host.start()?;
//! tokio::signal::ctrl_c().await?;
//! handle.shutdown().await?;
//! # Ok(())
//! # }
//! ```

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

#[cfg(feature = "http")]
use self::api::Api;
pub use self::builder::HostBuilder;
pub use self::error::{BuildError, RunError};
pub use self::handle::HostHandle;
use self::namespace::Namespace;
use crate::app::{App, SubmitError, Submitted};

mod builder;
mod namespace;
mod own_threads;
mod open;
mod plugins;
mod tasks;
#[cfg(feature = "http")]
mod api;
mod handle;
mod error;

/// A built host. Orders may be submitted at once; stages consume them once it is started.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use postrider::Host;
///
/// let host = Host::builder().build().await?;
/// let handle = host.start()?;
/// println!("ready: {}", handle.app().readiness().await.ready);
/// handle.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it stops the host"]
pub struct Host {
    first: Namespace,
    further: Vec<Namespace>,
    #[cfg(feature = "http")]
    api: Api,
}

impl Host {
    /// Starts building a host. Without anything added it keeps its data in `data/postrider.db`, has
    /// no stage, and serves no API.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// The address that the API listens on; none without a listener.
    #[cfg(feature = "http")]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.api.address()
    }

    /// What the API does, for callers in this process; also usable while the host runs.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.first.app)
    }

    /// The same for a namespace of the configuration; none if there is no such namespace.
    pub fn namespace(&self, name: &str) -> Option<Arc<App>> {
        let mut all = std::iter::once(&self.first).chain(&self.further);
        all.find(|one| one.config.namespace == name).map(|one| Arc::clone(&one.app))
    }

    /// Accepts a subject as a `POST` to the path of its kind does: when it returns, the subject is
    /// durable.
    ///
    /// # Errors
    /// See [`SubmitError`]: an unknown kind, an invalid body, a conflict with a stored subject, a reused
    /// idempotency key, or a store that failed.
    pub async fn submit(&self, kind: &str, body: impl Serialize) -> Result<Submitted, SubmitError> {
        self.first.app.submit(kind, body).await
    }

    /// Starts to consume, to send and to serve.
    ///
    /// # Errors
    /// A background task has failed too often since the host was built.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(self) -> Result<HostHandle, RunError> {
        let grace = Duration::from_millis(self.first.config.shutdown.grace_ms);
        let several = !self.further.is_empty();
        let first = self.first.start(several)?;
        let further =
            self.further.into_iter().map(|one| one.start(several)).collect::<Result<_, _>>()?;
        #[cfg(feature = "http")]
        let api = {
            let mut api = self.api;
            api.start(&first.tasks);
            api
        };
        Ok(HostHandle {
            first,
            further,
            #[cfg(feature = "http")]
            api,
            grace,
        })
    }

    /// Starts, runs until `shutdown` resolves or a background task has failed too often, and then
    /// stops as [`HostHandle::shutdown`] does. Dropping the future stops everything without a grace
    /// period.
    ///
    /// # Errors
    /// Which background task failed, and how.
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), RunError> {
        let handle = self.start()?;
        tokio::select! {
            biased;
            _ = handle.failed() => {}
            () = shutdown => {}
        }
        handle.shutdown().await
    }
}
