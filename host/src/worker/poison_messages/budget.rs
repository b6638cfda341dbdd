//! How many dead letters of refused messages a stage may have, so that a flood of them cannot fill the
//! store: `ingress.dead_letters_max`.
//!
//! The store counts the open ones of all hosts; between two counts, each host counts its own. So
//! several hosts together exceed the bound by what each wrote since it counted. A refused message
//! beyond the bound is only counted.

use std::time::{Duration, Instant};

use crate::store::{DeadLetterFilter, DeadLetterStatus, Store, StoreError};

/// The codes of refused messages.
const CODES: [&str; 2] = ["forged", "unreadable"];
/// Time between two counts while there is no room.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Dead letters that a host writes at most before it counts again.
const AT_ONCE: u64 = 1_000;

/// What is left of the bound.
pub(super) struct Budget {
    max: u64,
    left: u64,
    /// When the last count found no room.
    full_at: Option<Instant>,
}

impl Budget {
    pub(super) fn new(max: u64) -> Self {
        Self { max, left: 0, full_at: None }
    }

    /// Whether one more may be written.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn allows(
        &mut self,
        store: &dyn Store,
        stage: &str,
    ) -> Result<bool, StoreError> {
        if self.left == 0 && self.full_at.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
            let free = self.max.saturating_sub(count(store, stage).await?);
            self.left = free.min(AT_ONCE);
            self.full_at = (free == 0).then(Instant::now);
            if free == 0 {
                tracing::error!(
                    stage,
                    "so many messages were refused that further ones get no dead letter: find their \
                     sender, and discard the dead letters (`ingress.dead_letters_max`)"
                );
            }
        }
        let allows = self.left > 0;
        self.left = self.left.saturating_sub(1);
        Ok(allows)
    }
}

/// The open dead letters of refused messages of a stage.
async fn count(store: &dyn Store, stage: &str) -> Result<u64, StoreError> {
    let mut count = 0;
    for code in CODES {
        let filter = DeadLetterFilter {
            stage: Some(stage.to_owned()),
            code: Some(code.to_owned()),
            status: Some(DeadLetterStatus::Open),
            ..DeadLetterFilter::default()
        };
        count += store.count_dead_letters(filter).await?.count;
    }
    Ok(count)
}
