//! `/health`, `/health/db`, `/health/queue` and `/ready`, for probes and people.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use crate::app::{FailingTask, Readiness, SkippedPlugin};
use crate::store::UnroutedEvents;

/// The process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Liveness {
    /// `ok`.
    status: &'static str,
    /// Version of the host.
    version: &'static str,
}

/// The health of the store or the broker.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServiceHealth {
    /// `ok` or `failing`.
    status: &'static str,
    /// Why it does not answer.
    error: Option<String>,
}

/// Whether the host can do its work.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Readiness)]
pub(crate) struct ReadinessView {
    #[serde(flatten)]
    own: FindingsView,
    /// The namespaces of the process, if there are several; only at its root, where `ready` covers all of
    /// them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    namespaces: Vec<NamespaceReadinessView>,
}

/// Whether a namespace can do its work.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NamespaceReadiness)]
pub(crate) struct NamespaceReadinessView {
    /// Its name.
    namespace: String,
    #[serde(flatten)]
    own: FindingsView,
}

/// Whether a host can do its work, and what is in the way.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = ReadinessFindings)]
pub(crate) struct FindingsView {
    /// The store and the broker answer, every stage has a plugin and is consumed, the start skipped
    /// no plugin, no critical task is failing, and the host is not stopping.
    ready: bool,
    /// Why the store does not answer.
    store: Option<String>,
    /// Why the broker does not answer.
    broker: Option<String>,
    /// Stages of this host without a plugin.
    stages_without_plugin: Vec<String>,
    /// Plugin files that were in the folder when the host started and do not serve, or the folder if
    /// it could not be read. A file that is refused later does not affect readiness.
    skipped_plugins: Vec<SkippedPluginView>,
    /// Stages that events are routed to and that no live host of the namespace runs; they do not affect the
    /// readiness of this host.
    stages_without_host: Vec<String>,
    /// Stages that operators paused or drain, on any host; they do not affect readiness.
    held: Vec<String>,
    /// Stages whose circuit breaker is not closed on some host; they do not affect readiness.
    breakers_open: Vec<String>,
    /// Stages whose queue this host should consume, but does not.
    not_consuming: Vec<String>,
    /// Background tasks that ended or panicked and have not recovered yet. The host restarts them,
    /// and stops when one keeps failing.
    failing_tasks: Vec<FailingTaskView>,
    /// Events of unfinished subjects that no stage consumes; they do not affect readiness. They are
    /// routed when a stage that consumes their type appears.
    unrouted: Vec<UnroutedEventsView>,
    /// The host is stopping.
    stopping: bool,
}

/// A plugin file that the start skipped.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = SkippedPlugin)]
pub(crate) struct SkippedPluginView {
    /// Its name, or the path of the folder.
    file: String,
    /// Why it does not serve.
    error: String,
    /// What has to change before it does.
    waiting_for: Option<String>,
}

impl From<SkippedPlugin> for SkippedPluginView {
    fn from(skipped: SkippedPlugin) -> Self {
        let SkippedPlugin { file, error, waiting_for } = skipped;
        Self { file, error, waiting_for }
    }
}

/// Events of one type that wait for a stage.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = UnroutedEvents)]
pub(crate) struct UnroutedEventsView {
    /// Their type.
    event_type: String,
    /// How many; not all of them are counted when there are more than 10,000.
    count: u64,
    /// Since when the first of them waits, milliseconds since 1970-01-01 UTC.
    since_ms: u64,
}

impl From<UnroutedEvents> for UnroutedEventsView {
    fn from(UnroutedEvents { event_type, count, since_ms }: UnroutedEvents) -> Self {
        Self { event_type, count, since_ms }
    }
}

/// A background task that is failing.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = FailingTask)]
pub(crate) struct FailingTaskView {
    /// Its name, such as `relay` or `stage-worker:payment`.
    task: String,
    /// How it ended last.
    reason: String,
}

impl From<FailingTask> for FailingTaskView {
    fn from(FailingTask { name, reason }: FailingTask) -> Self {
        Self { task: name.to_string(), reason }
    }
}

impl ReadinessView {
    /// The findings about the first namespace at the top, and about all by name.
    pub(super) fn of_all(all: Vec<(String, Readiness)>) -> (StatusCode, Json<Self>) {
        let namespaces: Vec<NamespaceReadinessView> = all
            .into_iter()
            .map(|(namespace, readiness)| NamespaceReadinessView {
                namespace,
                own: readiness.into(),
            })
            .collect();
        let ready = namespaces.iter().all(|namespace| namespace.own.ready);
        let first = namespaces.first().expect("a process has a namespace");
        let own = FindingsView { ready, ..first.own.clone() };
        (code_of(ready), Json(Self { own, namespaces }))
    }
}

fn code_of(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

impl From<Readiness> for FindingsView {
    fn from(readiness: Readiness) -> Self {
        Self {
            ready: readiness.ready,
            store: readiness.store,
            broker: readiness.broker,
            stages_without_plugin: readiness.stages_without_plugin,
            skipped_plugins: readiness.skipped_plugins.into_iter().map(Into::into).collect(),
            stages_without_host: readiness.stages_without_host,
            held: readiness.held,
            breakers_open: readiness.breakers_open,
            not_consuming: readiness.not_consuming,
            failing_tasks: readiness.failing_tasks.into_iter().map(Into::into).collect(),
            unrouted: readiness.unrouted.into_iter().map(Into::into).collect(),
            stopping: readiness.stopping,
        }
    }
}

/// Checks that the process answers.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Liveness)))]
pub(crate) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Checks that the store answers.
#[utoipa::path(get, path = "/health/db", tag = "health",
    responses(
        (status = 200, body = ServiceHealth),
        (status = 503, description = "It does not answer", body = ServiceHealth),
    ))]
pub(crate) async fn store(State(app): State<Shared>) -> (StatusCode, Json<ServiceHealth>) {
    answer(app.services().store.ping().await.err().map(|error| error.to_string()))
}

/// Checks that the broker answers.
#[utoipa::path(get, path = "/health/queue", tag = "health",
    responses(
        (status = 200, body = ServiceHealth),
        (status = 503, description = "It does not answer", body = ServiceHealth),
    ))]
pub(crate) async fn broker(State(app): State<Shared>) -> (StatusCode, Json<ServiceHealth>) {
    answer(app.services().broker.ping().await.err().map(|error| error.to_string()))
}

/// Checks that the host can do its work: the store and the broker answer, every stage has a plugin
/// and is consumed, the start skipped no plugin, and no critical background task is failing.
#[utoipa::path(get, path = "/ready", tag = "health",
    responses(
        (status = 200, body = ReadinessView),
        (status = 503, description = "Not ready", body = ReadinessView),
    ))]
pub(crate) async fn ready(State(app): State<Shared>) -> (StatusCode, Json<ReadinessView>) {
    let readiness = app.readiness().await;
    let code = code_of(readiness.ready);
    (code, Json(ReadinessView { own: readiness.into(), namespaces: Vec::new() }))
}

fn answer(error: Option<String>) -> (StatusCode, Json<ServiceHealth>) {
    let (code, status) = match error {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "failing"),
    };
    (code, Json(ServiceHealth { status, error }))
}
