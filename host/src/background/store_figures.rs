//! Counts what waits in the store and what finished, for metrics.
//!
//! Bounds: every [`EVERY`], or so seldom that counting takes a twentieth of the time, but at least every
//! [`EVERY_MAX`]; [`PAGE`] subjects that finished are read at a time. Every host counts the whole store, so its figures are those of
//! all hosts.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::services::Services;
use crate::store::StoreError;

/// Time between two counts.
const EVERY: Duration = Duration::from_secs(5);
/// Longest time between two counts: one that waited for a busy store says little about the next.
const EVERY_MAX: Duration = Duration::from_secs(30);
/// Counting takes at most this part of the time.
const SHARE: u32 = 20;
/// Subjects that are read together.
const PAGE: u32 = 5_000;
/// A transaction that commits later than this after its time is not counted.
const LATE_MS: u64 = 2_000;

/// Counts, from now on.
pub struct StoreCounter {
    services: Services,
    /// Subjects that finished after this are not counted yet, milliseconds since 1970-01-01 UTC.
    counted_ms: tokio::sync::Mutex<u64>,
}

impl StoreCounter {
    /// Counts the subjects that finish from now on.
    pub fn new(services: Services) -> Self {
        let counted_ms = tokio::sync::Mutex::new(services.clock.now_ms().saturating_sub(LATE_MS));
        Self { services, counted_ms }
    }

    /// Counts until cancelled.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            let began = Instant::now();
            if let Err(error) = self.tick().await {
                tracing::debug!(%error, "what waits in the store could not be counted, retrying");
            }
            let pause = (began.elapsed() * SHARE).clamp(EVERY, EVERY_MAX);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Counts once.
    pub async fn tick(&self) -> Result<(), StoreError> {
        let Services { store, counted, clock, .. } = &self.services;
        let now_ms = clock.now_ms();
        counted.set(store.figures(now_ms).await?);
        let mut counted_ms = self.counted_ms.lock().await;
        let until_ms = now_ms.saturating_sub(LATE_MS);
        if until_ms <= *counted_ms {
            return Ok(());
        }
        for kind in self.services.pipeline.kinds().iter() {
            self.count_finished(&kind.name, (*counted_ms, until_ms)).await?;
        }
        *counted_ms = until_ms;
        Ok(())
    }

    async fn count_finished(
        &self,
        kind: &str,
        (mut after_ms, until_ms): (u64, u64),
    ) -> Result<(), StoreError> {
        loop {
            let mut page =
                self.services.store.finished_subjects(kind, after_ms, until_ms, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            if let Some(last_ms) = page.last().map(|last| last.finished_ms).filter(|_| !is_last) {
                // More may have finished in the same millisecond: they are read together, unless they
                // are more than a page.
                if page[0].finished_ms < last_ms {
                    page.retain(|subject| subject.finished_ms < last_ms);
                    after_ms = last_ms - 1;
                } else {
                    after_ms = last_ms;
                }
            }
            self.services.counted.add_finished(kind, &page);
            if is_last {
                return Ok(());
            }
        }
    }
}
