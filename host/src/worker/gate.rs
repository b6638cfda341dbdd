//! The gate that a lane passes before it runs a batch: stage control, circuit breaker, rate limit.
//!
//! A message that waits here stays with the lane: it is no attempt, and does not count towards the
//! broker's delivery limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::clock::Clock;
use crate::pipeline::Stage;
use crate::stage::circuit_breaker::{BreakerState, Permit};
use crate::store::{ControlState, StageControl};

/// Longest wait before the breaker is asked again: the host's clock may jump.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Shortest such wait: another lane may have to probe first.
const POLL_MIN: Duration = Duration::from_millis(5);

pub(super) struct Gate {
    stage: Arc<Stage>,
    /// The lane's number at the circuit breaker.
    lane: u64,
    clock: Arc<dyn Clock>,
    control: watch::Receiver<Option<StageControl>>,
}

impl Gate {
    pub(super) fn new(stage: Arc<Stage>, clock: Arc<dyn Clock>) -> Self {
        let lane = stage.breaker().register_lane();
        Self { control: stage.watch_control(), stage, lane, clock }
    }

    /// Waits until a batch may run; none when the lane is being stopped. `since`: when the lane's
    /// longest-waiting message arrived.
    pub(super) async fn pass(
        &mut self,
        since: Instant,
        cancel: &CancellationToken,
    ) -> Option<Permit> {
        loop {
            if is_paused(self.control.borrow().as_ref()) {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return None,
                    resumed = self.control.wait_for(|control| !is_paused(control.as_ref())) => drop(resumed.ok()?),
                }
            }
            let permit = self.stage.breaker().permit(self.lane, since, self.clock.now_ms());
            let Permit::Wait { until_ms } = permit else { return Some(permit) };
            let wait = Duration::from_millis(until_ms.saturating_sub(self.clock.now_ms()))
                .clamp(POLL_MIN, POLL_INTERVAL);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether the batch under way may run another message.
    pub(super) fn is_open(&self) -> bool {
        !is_paused(self.control.borrow().as_ref())
            && self.stage.breaker().state() == BreakerState::Closed
    }

    /// Waits until the rate limit allows a message.
    pub(super) async fn wait_for_rate(&self) {
        if let Some(rate) = &self.stage.rate {
            let began = Instant::now();
            rate.until_ready().await;
            self.stage.metrics.count_rate_wait(began.elapsed());
        }
    }

    /// Whether the rate limit allows another message now.
    pub(super) fn allows_rate(&self) -> bool {
        self.stage.rate.as_ref().is_none_or(|rate| rate.check().is_ok())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stage.breaker().leave(self.lane);
    }
}

fn is_paused(control: Option<&StageControl>) -> bool {
    control.is_some_and(|control| control.state == ControlState::Paused)
}
