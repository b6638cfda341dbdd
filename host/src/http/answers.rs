//! Bounds the bytes of large answers that wait for their readers: beyond that, 503. Small answers are
//! exempt, so that readers of large ones do not hold up those who send orders. A reader that takes
//! nothing is cut off, which returns its bytes.

use std::sync::Arc;

use axum::response::Response;
use http_body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::held_body::holding;
use crate::app::Load;

/// Answers up to this size are not counted.
const SMALL_BYTES: u64 = 64 << 10;
/// Most bytes of the others together.
const LARGE_MAX_BYTES: u32 = 128 << 20;

/// The bytes of large answers that were not sent yet.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_MAX_BYTES as usize)))
    }

    /// Counts a large answer until it was sent or dropped. None: others hold its bytes.
    pub(super) fn bound(&self, answer: Response) -> Option<Response> {
        // One that is made while it is sent has no size; its parts are bounded.
        let size = answer.body().size_hint().exact();
        let Some(bytes) = size.filter(|bytes| *bytes > SMALL_BYTES) else { return Some(answer) };
        self.take(bytes).map(|permit| holding(answer, permit))
    }

    /// How much of it is used.
    pub(super) fn load(&self) -> Load {
        let max = u64::from(LARGE_MAX_BYTES);
        Load { used: max.saturating_sub(self.0.available_permits() as u64), max }
    }

    /// Takes the bytes of an answer, all of them if it is larger; none while others hold them.
    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(LARGE_MAX_BYTES);
        Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_answers_share_their_bytes() {
        let budget = Budget::new();
        let half = u64::from(LARGE_MAX_BYTES / 2);
        let (one, other) = (budget.take(half), budget.take(half));
        assert!(one.is_some() && other.is_some() && budget.take(1).is_none());
        assert_eq!(budget.load().used, 2 * half);
        drop(one);
        assert_eq!(budget.load().used, half);
        assert!(budget.take(half + 1).is_none() && budget.take(half).is_some());
        drop(other);
        // One that is larger than all of them needs all of them.
        assert!(budget.take(u64::MAX).is_some());
    }
}
