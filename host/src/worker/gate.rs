//! What a lane passes before it runs anything: the operators' word, the circuit breaker, the rate
//! limit.
//!
//! What waits here is held, not given back: nothing is attempted, and nothing moves towards the
//! broker's delivery limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::clock::Clock;
use crate::pipeline::Stage;
use crate::stage::circuit_breaker::Permit;
use crate::store::{ControlState, StageControl};

/// Longest wait before the breaker is asked again: the host's clock may be moved.
const ASK_AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Gate {
    stage: Arc<Stage>,
    clock: Arc<dyn Clock>,
    control: watch::Receiver<Option<StageControl>>,
}

impl Gate {
    pub(super) fn new(stage: Arc<Stage>, clock: Arc<dyn Clock>) -> Self {
        Self { control: stage.controls(), stage, clock }
    }

    /// Waits until something may run; none when the lane is being stopped.
    pub(super) async fn pass(&mut self, cancel: &CancellationToken) -> Option<Permit> {
        loop {
            let paused = |control: &Option<StageControl>| {
                control.as_ref().is_some_and(|control| control.state == ControlState::Paused)
            };
            if paused(&self.control.borrow()) {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return None,
                    resumed = self.control.wait_for(|control| !paused(control)) => drop(resumed.ok()?),
                }
            }
            let permit = self.stage.breaker().permit(self.clock.now_ms());
            let Permit::Wait { until_ms } = permit else { return Some(permit) };
            let wait =
                Duration::from_millis(until_ms.saturating_sub(self.clock.now_ms())).min(ASK_AGAIN);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Whether the batch under way may go on.
    pub(super) fn is_open(&self) -> bool {
        let held = self
            .control
            .borrow()
            .as_ref()
            .is_some_and(|control| control.state == ControlState::Paused);
        !held && self.stage.breaker().state() == crate::stage::circuit_breaker::BreakerState::Closed
    }

    /// Whether the rate lets one more message run now; one that `may_wait` waits for its turn.
    pub(super) async fn allows_rate(&self, may_wait: bool) -> bool {
        match &self.stage.rate {
            None => true,
            Some(rate) if may_wait => {
                rate.until_ready().await;
                true
            }
            Some(rate) => rate.check().is_ok(),
        }
    }
}
