//! `GET /stages`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::control::ControlStateView;
use super::log_level::LogLevelView;
use crate::app::{ClusterStage, OnHost, StageRates, StageStatus};
use crate::domain::access::{Permission, Requester, Target};
use crate::http::Shared;
use crate::http::pages::Items;
use crate::pipeline::Consumption;
use crate::stage::circuit_breaker::BreakerState;

/// The state of a stage on all live hosts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StageStatus)]
pub(crate) struct StageStatusView {
    /// Its name.
    stage: String,
    /// Version that runs; of several, the one that was loaded last. None when no live host runs the stage.
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
    /// Its circuit breaker: `open` if it is on any host, else `half-open` if it is on any.
    breaker: BreakerStateView,
    /// Why the breaker is open, on the host where it is.
    breaker_reason: Option<String>,
    /// When the breaker opened, milliseconds since 1970-01-01 UTC.
    breaker_opened_at_ms: Option<u64>,
    /// When the next message probes the stage's dependency, milliseconds since 1970-01-01 UTC; none
    /// when the breaker is closed.
    next_probe_at_ms: Option<u64>,
    /// Whether a host consumes its queue: the state of the host that comes closest to it.
    consumption: ConsumptionView,
    /// Deliveries that are not settled, on all hosts; none when the store does not answer.
    waiting: Option<u64>,
    /// Those of them that fall due later: retries and scheduled events.
    scheduled: Option<u64>,
    /// Those of them that hosts hold: they run, or wait for one that runs.
    held: u64,
    /// Messages that the live hosts handed over to the stage without RabbitMQ since they started.
    handed_over: u64,
    /// How much the live hosts do, and the slowest of them.
    rates: StageRatesView,
    /// The live hosts that know the stage, by name.
    hosts: Vec<StageOnHostView>,
}

/// How much a stage does, over the last seconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StageRates)]
pub(crate) struct StageRatesView {
    /// Deliveries that were settled, per second.
    per_second: f64,
    /// Dead letters and retries, per second.
    failed_per_second: f64,
    /// 95 % of the deliveries took at most this from the receipt of their message to its acknowledgement,
    /// milliseconds; none without deliveries.
    p95_ms: Option<f64>,
}

impl From<StageRates> for StageRatesView {
    fn from(rates: StageRates) -> Self {
        let StageRates { per_second, failed_per_second, p95_ms } = rates;
        Self { per_second, failed_per_second, p95_ms }
    }
}

/// The state of a stage on one host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StageOnHost)]
pub(crate) struct StageOnHostView {
    /// Name of the host.
    host: String,
    /// Version that runs there; none when no plugin serves the stage there.
    version: Option<String>,
    /// SHA-256 of the file of that version.
    digest: Option<String>,
    /// When that version was loaded, milliseconds since 1970-01-01 UTC.
    loaded_at_ms: Option<u64>,
    /// The control that the host follows: it reads the store twice a second.
    control: ControlStateView,
    /// Its circuit breaker there.
    breaker: BreakerStateView,
    /// Why the breaker is open.
    breaker_reason: Option<String>,
    /// Whether the host consumes the stage's queue.
    consumption: ConsumptionView,
    /// Deliveries that the host holds.
    held: u64,
    /// Messages that the host handed over to the stage without RabbitMQ since it started.
    handed_over: u64,
    /// How much the stage does there.
    rates: StageRatesView,
}

impl From<OnHost<StageStatus>> for StageOnHostView {
    fn from(OnHost { host, status }: OnHost<StageStatus>) -> Self {
        Self {
            host,
            version: status.version,
            digest: status.digest,
            loaded_at_ms: status.loaded_at_ms,
            control: status.control.into(),
            breaker: status.breaker.state.into(),
            breaker_reason: status.breaker.reason,
            consumption: status.consumption.into(),
            held: status.held,
            handed_over: status.handed_over,
            rates: status.rates.into(),
        }
    }
}

impl From<ClusterStage> for StageStatusView {
    fn from(ClusterStage { status, hosts }: ClusterStage) -> Self {
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
            rates: status.rates.into(),
            hosts: hosts.into_iter().map(Into::into).collect(),
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

/// Lists every stage of the live hosts, and those that events are routed to although no host runs them,
/// with their state: those that the principal may see. Other hosts report theirs about every second.
#[utoipa::path(get, path = "/stages", tag = "stages",
    responses((status = 200, body = Items<StageStatusView>)))]
pub(crate) async fn list(
    State(app): State<Shared>,
    requester: Requester,
) -> Json<Items<StageStatusView>> {
    let visible =
        |stage: &ClusterStage| requester.may(Permission::Read, Target::Stage(&stage.status.stage));
    Json(Items::of(app.cluster_stages().await.into_iter().filter(visible)))
}
