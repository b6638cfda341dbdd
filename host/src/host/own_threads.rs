//! A Tokio runtime of its own: threads that the operating system schedules apart from those of every
//! other namespace.
//!
//! Guarantee: dropping it ends its tasks and threads, wherever it is dropped; a thread that is blocked
//! ends when what blocks it does.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// Longest wait for threads that are blocked.
const END_MAX: Duration = Duration::from_secs(1);

pub(super) struct OwnThreads {
    /// Until it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl OwnThreads {
    /// Starts `workers` threads. Operating systems show the first 15 letters of their name.
    pub(super) fn start(name: &str, workers: usize) -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        let runtime = builder.worker_threads(workers).thread_name(name).enable_all().build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs there the future that `make` makes, until it is done or the returned one is dropped.
    pub(super) async fn run<F: Future>(
        &self,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> F::Output
    where
        F::Output: Send + 'static,
    {
        let dropped = CancellationToken::new();
        let _guard = dropped.clone().drop_guard();
        let (handle, span) = (self.handle.clone(), Span::current());
        let run = move || {
            let _entered = span.entered();
            handle.block_on(dropped.run_until_cancelled_owned(make()))
        };
        match self.handle.spawn_blocking(run).await {
            Ok(Some(output)) => output,
            // Only a drop of this future cancels it.
            Ok(None) => std::future::pending().await,
            // A blocking call cannot be aborted once it runs, so it panicked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Drops what still runs, and waits until the threads have ended.
    pub(super) async fn end(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(END_MAX));
            let _ = ended.await;
        }
    }
}

impl Drop for OwnThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Anything else blocks, which an async context does not allow.
            runtime.shutdown_background();
        }
    }
}
