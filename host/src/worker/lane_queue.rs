//! What waits for a lane: the flows of a stage take turns, so that no customer and no kind of subjects
//! waits for the backlog of another.
//!
//! Bounds: what waits is not acknowledged, so the prefetch of the stage's consumer bounds it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::broker::Incoming;
use crate::domain::fair_queue::{FairQueue, Place};

/// Feeds a lane; the lane ends once it is dropped and nothing waits.
pub(super) struct LaneSender(Arc<Shared>);

/// The lane's end.
pub(super) struct LaneReceiver(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    queue: FairQueue<Incoming>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both ends of a lane's queue.
pub(super) fn lane_queue() -> (LaneSender, LaneReceiver) {
    let shared = Arc::new(Shared::default());
    (LaneSender(Arc::clone(&shared)), LaneReceiver(shared))
}

impl LaneSender {
    /// Adds a message.
    pub(super) fn send(&self, message: Incoming) {
        let place = Place::of(&message.envelope);
        self.0.lock().queue.push(place, message);
        self.0.changed.notify_one();
    }
}

impl Drop for LaneSender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl LaneReceiver {
    /// Waits for at least one message and takes at most `max`, in turn; none once the sender is gone
    /// and nothing waits. Nothing is lost when it is dropped before it returns.
    pub(super) async fn receive(&mut self, max: usize) -> Vec<Incoming> {
        loop {
            {
                let State { queue, closed } = &mut *self.0.lock();
                if !queue.is_empty() || *closed {
                    return std::iter::from_fn(|| queue.pop()).take(max).collect();
                }
            }
            self.0.changed.notified().await;
        }
    }
}
