//! `GET /stages`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::control::ControlStateView;
use super::log_level::LogLevelView;
use crate::app::StageStatus;
use crate::domain::access::{Permission, Requester, Target};
use crate::http::Shared;
use crate::http::pages::Items;
use crate::pipeline::Consumption;
use crate::stage::circuit_breaker::BreakerState;

/// The state of a stage on this host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StageStatus)]
pub(crate) struct StageStatusView {
    /// Its name.
    stage: String,
    /// Version that runs here; none when no plugin serves the stage.
    version: Option<String>,
    /// Whether operators paused or drain it.
    control: ControlStateView,
    /// Why, as they gave it.
    reason: Option<String>,
    /// When the control was last set, milliseconds since 1970-01-01 UTC.
    since_ms: Option<u64>,
    /// The log level that operators set; none: the filter of each process decides.
    log_level: Option<LogLevelView>,
    /// When the log level ends, milliseconds since 1970-01-01 UTC; none: when an operator ends it.
    log_level_until_ms: Option<u64>,
    /// Its circuit breaker on this host.
    breaker: BreakerStateView,
    /// Why the breaker is open.
    breaker_reason: Option<String>,
    /// When the breaker opened, milliseconds since 1970-01-01 UTC.
    breaker_opened_at_ms: Option<u64>,
    /// When the next message probes the stage's dependency, milliseconds since 1970-01-01 UTC; none
    /// when the breaker is closed.
    next_probe_at_ms: Option<u64>,
    /// Whether this host consumes its queue.
    consumption: ConsumptionView,
    /// Deliveries that are not settled, on all hosts; none when the store does not answer.
    waiting: Option<u64>,
    /// Those of them that fall due later: retries and scheduled events.
    scheduled: Option<u64>,
    /// Those of them that this host holds: they run, or wait for one that runs.
    held: u64,
    /// Messages that this host handed over to the stage without RabbitMQ since it started.
    handed_over: u64,
}

impl From<StageStatus> for StageStatusView {
    fn from(status: StageStatus) -> Self {
        Self {
            stage: status.stage,
            version: status.version,
            control: status.control.into(),
            reason: status.reason,
            since_ms: status.since_ms,
            log_level: status.log_level.map(Into::into),
            log_level_until_ms: status.log_level_until_ms,
            breaker: status.breaker.state.into(),
            breaker_reason: status.breaker.reason,
            breaker_opened_at_ms: status.breaker.opened_at_ms,
            next_probe_at_ms: status.breaker.next_probe_at_ms,
            consumption: status.consumption.into(),
            waiting: status.waiting,
            scheduled: status.scheduled,
            held: status.held,
            handed_over: status.handed_over,
        }
    }
}

/// The state of a circuit breaker.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = BreakerState)]
pub(crate) enum BreakerStateView {
    /// The stage runs.
    Closed,
    /// The stage does not run.
    Open,
    /// One message probes the stage.
    HalfOpen,
}

impl From<BreakerState> for BreakerStateView {
    fn from(state: BreakerState) -> Self {
        match state {
            BreakerState::Closed => Self::Closed,
            BreakerState::Open => Self::Open,
            BreakerState::HalfOpen => Self::HalfOpen,
        }
    }
}

/// Whether a host consumes a stage's queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = Consumption)]
pub(crate) enum ConsumptionView {
    /// No plugin serves the stage on this host.
    Idle,
    /// It should, but the broker does not deliver yet.
    Connecting,
    /// It does.
    Consuming,
    /// The stage is drained.
    Drained,
    /// Another host holds the lease of a single-active stage.
    Standby,
}

impl From<Consumption> for ConsumptionView {
    fn from(consumption: Consumption) -> Self {
        match consumption {
            Consumption::Idle => Self::Idle,
            Consumption::Connecting => Self::Connecting,
            Consumption::Consuming => Self::Consuming,
            Consumption::Drained => Self::Drained,
            Consumption::Standby => Self::Standby,
        }
    }
}

/// Lists every stage that this host knows, with its state: those that the principal may see.
#[utoipa::path(get, path = "/stages", tag = "stages",
    responses((status = 200, body = Items<StageStatusView>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    requester: Requester,
) -> Json<Items<StageStatusView>> {
    let visible =
        |stage: &StageStatus| requester.may(Permission::Read, Target::Stage(&stage.stage));
    Json(Items::of(app.stages().await.into_iter().filter(visible)))
}
