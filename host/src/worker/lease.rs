//! The lease of a single-active stage: one host at a time consumes it.
//!
//! A lease in the store, by the store's clock, so that it can be switched on and off between two
//! starts. A host stops consuming well before its lease ends if it cannot renew it. What that
//! cannot exclude is a call that outlasts the rest of the lease: effects happen once all the same,
//! by the versions of what was read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::pipeline::Stage;
use crate::store::Store;

/// A lease holds this long after it was taken or renewed.
const TTL: Duration = Duration::from_secs(10);
/// How often it is renewed, and asked for by those that stand by.
const EVERY: Duration = Duration::from_secs(1);
/// Without a renewal for so long, the host stops consuming.
const GIVE_UP: Duration = Duration::from_secs(6);

pub(super) struct Lease {
    stage: Arc<Stage>,
    store: Arc<dyn Store>,
}

impl Lease {
    pub(super) fn new(stage: Arc<Stage>, store: Arc<dyn Store>) -> Self {
        Self { stage, store }
    }

    async fn ask(&self) -> bool {
        match self.store.lease_stage(&self.stage.name, TTL.as_millis() as u64).await {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(stage = %self.stage.name, %error, "the lease could not be asked for");
                false
            }
        }
    }

    /// Waits until this host has it; false when cancelled.
    pub(super) async fn take(&self, cancel: &CancellationToken) -> bool {
        loop {
            if self.ask().await {
                return true;
            }
            tokio::select! {
                () = cancel.cancelled() => return false,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Renews it; returns when it is lost or about to be.
    pub(super) async fn keep(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP {
            tokio::time::sleep(EVERY).await;
            let asked = Instant::now();
            // A store that hangs must not keep the host consuming.
            if tokio::time::timeout(GIVE_UP.saturating_sub(renewed.elapsed()), self.ask()).await
                == Ok(true)
            {
                renewed = asked;
            }
        }
        tracing::warn!(stage = %self.stage.name, "the lease of a single-active stage was lost: standing by");
    }

    /// Gives it back, so that another host need not wait for its end.
    pub(super) async fn release(&self) {
        if let Err(error) = self.store.release_stage(&self.stage.name).await {
            tracing::debug!(stage = %self.stage.name, %error, "the lease could not be given back; it ends by itself");
        }
    }
}
