//! A running host: how a program uses it and stops it.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::DropGuard;

use super::error::RunError;
use super::tasks::HostTasks;
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
    pub(super) app: Arc<App>,
    pub(super) grace: Duration,
    pub(super) tasks: HostTasks,
    #[cfg(feature = "http")]
    pub(super) api: super::api::Api,
    /// Ends the event streams, also those that the embedding program holds.
    pub(super) _close_streams: DropGuard,
}

impl HostHandle {
    /// What the API does, for callers in this process.
    pub fn app(&self) -> Arc<App> {
        Arc::clone(&self.app)
    }

    /// Accepts a subject as a `POST` to the path of its kind does: when it returns, the subject is
    /// durable.
    ///
    /// # Errors
    /// See [`SubmitError`]: an unknown kind, an invalid body, a conflict with a stored subject, a reused
    /// idempotency key, or a store that failed.
    pub async fn submit(&self, kind: &str, body: impl Serialize) -> Result<Submitted, SubmitError> {
        self.app.submit(kind, body).await
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
        self.api.mounted(&self.app)
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
        self.tasks.failed().await.into()
    }

    /// Stops in two phases: no new work, then, when `shutdown.grace_ms` is over, whatever is still
    /// running. When it returns, nothing of the host is left: no task, thread, file or connection.
    ///
    /// # Errors
    /// A background task had failed too often.
    pub async fn shutdown(self) -> Result<(), RunError> {
        tracing::info!("stopping: finishing work in flight");
        self.app.stopping();
        if !self.drain().await {
            let grace_ms = self.grace.as_millis() as u64;
            tracing::warn!(grace_ms, "grace period over; unfinished work runs again after restart");
        }
        self.tasks.begin_close();
        let services = self.app.services();
        services.broker.close().await;
        services.store.close().await;
        let failure = self.tasks.failure();
        self.tasks.end().await;
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Ends the intake, requests to nested routers, and the relay; false when the grace period ends
    /// before.
    async fn drain(&self) -> bool {
        let drained = tokio::time::timeout(self.grace, async {
            self.tasks.stop_intake().await;
            #[cfg(feature = "http")]
            self.api.finish_requests().await;
            self.tasks.stop_relay().await;
        });
        let drained = drained.await.is_ok();
        self.tasks.begin_stop();
        drained
    }
}
