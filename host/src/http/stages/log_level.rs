//! `POST /stages/{stage}/log-level`, on every host.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::control::unknown_stage;
use super::list::StageStatusView;
use crate::domain::json::whole;
use crate::domain::log_level::LogLevel;
use crate::http::Shared;
use crate::http::problem::{Answer, Problem};
use crate::http::request::{Fields, Parsed, RequestBody, StageName};

/// The level that stands for the filter of each process.
const DEFAULT: &str = "default";
/// Longest time for which a level may be set: a year.
pub(crate) const DURATION_MAX_MS: u64 = 365 * 24 * 60 * 60 * 1_000;

/// How much is logged.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = LogLevel)]
pub(crate) enum LogLevelView {
    /// Failures that need an operator.
    Error,
    /// Failures that are retried, too.
    Warn,
    /// What happens in ordinary operation, too.
    Info,
    /// Each step, too.
    Debug,
    /// Every detail.
    Trace,
}

impl From<LogLevel> for LogLevelView {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

/// A level, for how long, and why; without a level what the filter of each process says.
pub(crate) struct LevelRequest {
    level: Option<LogLevel>,
    duration: Option<Duration>,
    reason: Option<String>,
}

impl RequestBody for LevelRequest {
    const NAME: &'static str = "log level";
    const FIELDS: &'static [&'static str] = &["level", "duration_ms", "reason"];

    fn take(fields: &mut Fields) -> Self {
        Self { level: level(fields), duration: duration(fields), reason: fields.reason() }
    }
}

/// What a level may be.
const EXPECTED: &str = "must be error, warn, info, debug, trace or default";

fn level(fields: &mut Fields) -> Option<LogLevel> {
    let name = fields.text("level");
    if name.as_deref() == Some(DEFAULT) {
        return None;
    }
    let level = name.and_then(|name| name.parse().ok());
    // What is no string was reported.
    if level.is_none() && fields.is_valid() {
        fields.problem("/level", EXPECTED);
    }
    level
}

fn duration(fields: &mut Fields) -> Option<Duration> {
    let given = fields.take("duration_ms")?;
    match whole(&given).filter(|ms| (1..=DURATION_MAX_MS).contains(ms)) {
        Some(ms) => Some(Duration::from_millis(ms)),
        None => {
            let why = format!("must be a whole number from 1 to {DURATION_MAX_MS}");
            fields.problem("/duration_ms", why);
            None
        }
    }
}

/// Sets how much is logged about the deliveries of a stage and by the stage itself, on every host: for a
/// time, or until it is set again.
#[utoipa::path(post, path = "/stages/{stage}/log-level", tag = "stages", params(StageName),
    request_body = ref("#/components/schemas/LogLevelRequest"),
    responses(
        (status = 200, body = StageStatusView),
        (status = 404, description = "No host knows such a stage", body = Problem),
    ))]
pub(crate) async fn set_log_level(
    State(app): State<Shared>,
    Path(StageName(stage)): Path<StageName>,
    Parsed(LevelRequest { level, duration, reason }): Parsed<LevelRequest>,
) -> Answer<Json<StageStatusView>> {
    let is_known = app.set_log_level(&stage, level, duration, reason).await?;
    let status = if is_known { app.cluster_stage(&stage).await } else { None };
    Ok(Json(status.ok_or_else(|| unknown_stage(&stage))?.into()))
}
