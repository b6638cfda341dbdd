//! The lease of a single-active stage: one host at a time consumes the stage's queue.
//!
//! The lease is a row in the store and uses the store's clock. A host that cannot renew it stops
//! consuming well before it ends. A call may still outlast the lease: that its effects happen once
//! is guaranteed by the commit's version check, not by the lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::pipeline::Stage;
use crate::store::Store;

/// Duration of a lease after it was acquired or renewed.
const TTL: Duration = Duration::from_secs(10);
/// How often the holder renews it, and standby hosts try to acquire it.
const INTERVAL: Duration = Duration::from_secs(1);
/// A host stops consuming this long after its last renewal.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(6);

pub(super) struct Lease {
    stage: Arc<Stage>,
    store: Arc<dyn Store>,
}

impl Lease {
    pub(super) fn new(stage: Arc<Stage>, store: Arc<dyn Store>) -> Self {
        Self { stage, store }
    }

    async fn try_acquire(&self) -> bool {
        match self.store.lease_stage(&self.stage.name, TTL.as_millis() as u64).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(stage = %self.stage.name, %error, "the lease could not be requested");
                false
            }
        }
    }

    /// Waits until this host holds the lease; false when cancelled.
    pub(super) async fn acquire(&self, cancel: &CancellationToken) -> bool {
        loop {
            if self.try_acquire().await {
                return true;
            }
            tokio::select! {
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Renews the lease; returns when it is lost or about to end.
    pub(super) async fn keep(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEWAL_TIMEOUT {
            tokio::time::sleep(INTERVAL).await;
            let requested = Instant::now();
            // The timeout: a store that hangs must not keep this host consuming.
            if tokio::time::timeout(
                RENEWAL_TIMEOUT.saturating_sub(renewed.elapsed()),
                self.try_acquire(),
            )
            .await
                == Ok(true)
            {
                renewed = requested;
            }
        }
        tracing::warn!(stage = %self.stage.name, "lease lost, the stage is on standby");
    }

    /// Releases the lease, so that another host need not wait for its end.
    pub(super) async fn release(&self) {
        if let Err(error) = self.store.release_stage(&self.stage.name).await {
            tracing::debug!(
                stage = %self.stage.name, %error,
                "the lease could not be released, it expires"
            );
        }
    }
}
