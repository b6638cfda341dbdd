//! A running host: how a program uses it and stops it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;

use super::error::RunError;
use super::namespace::RunningNamespace;
use crate::app::{App, SubmitError, Submitted};

/// A running host. Dropping it stops everything without a grace period;
/// [`shutdown`](Self::shutdown) finishes the work in flight first.
///
/// ```no_run
/// # async fn example(host: postrider::Host) -> Result<(), Box<dyn std::error::Error>> {
/// let handle = host.start()?;
/// let order = serde_json::json!({ "order_id": "1", "items": ["Book"] });
/// let order = handle.submit("order", order).await?.into_subject();
/// tokio::signal::ctrl_c().await?;
/// handle.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it stops the host"]
pub struct HostHandle {
    pub(super) first: RunningNamespace,
    pub(super) further: Vec<RunningNamespace>,
    #[cfg(feature = "http")]
    pub(super) api: super::api::Api,
    pub(super) grace: Duration,
}

impl HostHandle {
    /// What the API does, for callers in this process.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.first.app)
    }

    /// The same for a namespace of the configuration; none if there is no such namespace.
    pub fn namespace(&self, name: &str) -> Option<Arc<App>> {
        self.all().find(|one| one.name == name).map(|one| Arc::clone(&one.app))
    }

    fn all(&self) -> impl Iterator<Item = &RunningNamespace> {
        std::iter::once(&self.first).chain(&self.further)
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

    /// The address on which the API is served; none without a listener.
    #[cfg(feature = "http")]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.api.address()
    }

    /// The API, to be nested into the program's own router at any prefix: `Location` headers, the
    /// types of problems and the OpenAPI document follow it.
    ///
    /// ```no_run
    /// # async fn example(handle: postrider::HostHandle) -> std::io::Result<()> {
    /// let router = axum::Router::new().nest("/pipeline", handle.router());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    /// axum::serve(listener, router).await
    /// # }
    /// ```
    #[cfg(feature = "http")]
    pub fn router(&self) -> axum::Router {
        self.api.mounted()
    }

    /// Waits until a background task has failed so often that the host cannot work. It completes
    /// only then; a program that waits for it stops the host, and says why.
    ///
    /// ```no_run
    /// # async fn example(handle: postrider::HostHandle) -> Result<(), postrider::RunError> {
    /// tokio::select! {
    ///     failure = handle.failed() => eprintln!("{failure}"),
    ///     _ = tokio::signal::ctrl_c() => {}
    /// }
    /// handle.shutdown().await
    /// # }
    /// ```
    pub async fn failed(&self) -> RunError {
        let failed = self.all().map(|namespace| Box::pin(namespace.failed()));
        futures::future::select_all(failed).await.0
    }

    /// Stops in two phases: no new work, then, when `shutdown.grace_ms` is over, whatever is still
    /// running. When it returns, nothing of the host is left: no task, thread, file or connection.
    ///
    /// # Errors
    /// A background task had failed too often.
    pub async fn shutdown(self) -> Result<(), RunError> {
        tracing::info!("stopping: finishing work in flight");
        self.all().for_each(|namespace| namespace.app.stopping());
        if !self.drain().await {
            let grace_ms = self.grace.as_millis() as u64;
            tracing::warn!(grace_ms, "grace period over; unfinished work runs again after restart");
        }
        let Self { first, further, .. } = self;
        let all = std::iter::once(first).chain(further);
        let closed = join_all(all.map(RunningNamespace::close)).await;
        closed.into_iter().collect()
    }

    /// Ends the intake, requests to nested routers, and the relay of all namespaces together; false
    /// when the grace period ends before.
    async fn drain(&self) -> bool {
        let drained = tokio::time::timeout(self.grace, async {
            join_all(self.all().map(|namespace| namespace.tasks.stop_intake())).await;
            #[cfg(feature = "http")]
            self.api.finish_requests().await;
            join_all(self.all().map(|namespace| namespace.tasks.stop_relay())).await;
        });
        let drained = drained.await.is_ok();
        self.all().for_each(|namespace| namespace.tasks.begin_stop());
        drained
    }
}
