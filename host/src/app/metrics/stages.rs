//! Metrics of the stages on this host.

use std::fmt;
use std::sync::Arc;

use prometheus_client::registry::Unit;

use super::{Labelled, Labels, Metric, Table};
use crate::pipeline::metrics::OutcomeKind;
use crate::pipeline::{Consumption, Stage};
use crate::stage::circuit_breaker::BreakerState;
use crate::store::ControlState;

/// A gauge per stage that is 1 or 0.
struct Flag {
    name: &'static str,
    help: &'static str,
    applies: fn(&Stage) -> bool,
}

const FLAGS: [Flag; 3] = [
    Flag {
        name: "postrider_breaker_open",
        help: "Whether the stage's circuit breaker on this host is open or half-open",
        applies: |stage| stage.breaker().state() != BreakerState::Closed,
    },
    Flag {
        name: "postrider_stage_held",
        help: "Whether an operator paused or drains the stage",
        applies: |stage| {
            stage.control().is_some_and(|control| control.state != ControlState::Running)
        },
    },
    Flag {
        name: "postrider_stage_consuming",
        help: "Whether this host consumes the stage's queue",
        applies: |stage| stage.consumption() == Consumption::Consuming,
    },
];

/// Every stage, with its namespace.
fn all(namespaces: &[Labelled]) -> Vec<(&Labelled, Arc<Stage>)> {
    let stages = |one: &Labelled| one.app.services.pipeline.stages();
    let pairs = namespaces.iter().map(|one| (one, stages(one)));
    pairs.flat_map(|(one, stages)| stages.into_iter().map(move |stage| (one, stage))).collect()
}

/// Writes the metrics of every stage.
pub(super) fn encode(table: &mut Table<'_, '_>) -> fmt::Result {
    let stages = all(table.namespaces);
    deliveries(table, &stages)?;
    calls(table, &stages)?;
    lanes(table, &stages)?;
    versions(table, &stages)?;
    #[cfg(feature = "wasm")]
    egress(table, &stages)?;
    FLAGS.iter().try_for_each(|flag| {
        let applies = |stage: &Stage| f64::from(u8::from((flag.applies)(stage)));
        table.gauges(Metric(flag.name, flag.help, None), each(&stages, applies))
    })
}

/// A value of each stage.
fn each<'a, V>(
    stages: &'a [(&Labelled, Arc<Stage>)],
    value: impl Fn(&Stage) -> V + 'a,
) -> impl Iterator<Item = (Labels<'a>, V)> {
    stages
        .iter()
        .map(move |(namespace, stage)| (namespace.with(&[("stage", &*stage.name)]), value(stage)))
}

fn deliveries(table: &mut Table<'_, '_>, stages: &[(&Labelled, Arc<Stage>)]) -> fmt::Result {
    let metric = Metric(
        "postrider_deliveries",
        "Deliveries settled and acknowledged by this host, by outcome",
        None,
    );
    let outcomes = stages.iter().flat_map(|(namespace, stage)| {
        OutcomeKind::ALL.into_iter().map(|(outcome, name)| {
            let labels = namespace.with(&[("stage", &*stage.name), ("outcome", name)]);
            (labels, stage.metrics.count(outcome))
        })
    });
    table.counters(metric, outcomes)?;
    let metric = Metric(
        "postrider_delivery_duration",
        "Time from the receipt of a message to its acknowledgement",
        None,
    );
    table.times(metric, each(stages, |stage| stage.metrics.deliveries.recorded()))?;
    let metric =
        Metric("postrider_delivery_attempts", "Attempts that it took to complete a delivery", None);
    table.counts(metric, each(stages, |stage| stage.metrics.attempts.recorded()))?;
    let metric = Metric(
        "postrider_handed_over",
        "Messages that this host handed over to the stage without RabbitMQ",
        None,
    );
    table.counters(metric, each(stages, |stage| stage.window.handed_over()))?;
    let metric = Metric(
        "postrider_local_window_messages",
        "Messages in the local window of the stage: handed over, and not settled yet",
        None,
    );
    table.gauges(metric, each(stages, |stage| f64::from(stage.window.messages())))?;
    let metric = Metric(
        "postrider_refused_messages",
        "Forged and unreadable messages without a dead letter, because there are too many",
        None,
    );
    table.counters(metric, each(stages, |stage| stage.metrics.refused()))
}

fn calls(table: &mut Table<'_, '_>, stages: &[(&Labelled, Arc<Stage>)]) -> fmt::Result {
    let metric = Metric(
        "postrider_queue_wait",
        "Time for which a message waited for the stage: since its event was written, on a later attempt \
         since this host received it",
        None,
    );
    table.times(metric, each(stages, |stage| stage.metrics.waits.recorded()))?;
    let metric = Metric(
        "postrider_call_duration",
        "Time of a call of the stage, one for each attempt",
        None,
    );
    table.times(metric, each(stages, |stage| stage.metrics.calls.recorded()))?;
    let metric = Metric(
        "postrider_guest_memory_peak",
        "Most memory that a guest of the stage had after a call; 0 for a native stage",
        Some(&Unit::Bytes),
    );
    table.gauges(metric, each(stages, |stage| stage.metrics.memory_bytes() as f64))
}

fn lanes(table: &mut Table<'_, '_>, stages: &[(&Labelled, Arc<Stage>)]) -> fmt::Result {
    let metric = Metric("postrider_lanes", "Lanes of the stage on this host", None);
    table.gauges(metric, each(stages, |stage| stage.metrics.lanes() as f64))?;
    let metric = Metric(
        "postrider_lane_busy",
        "Time for which lanes ran and committed batches; by the number of lanes, their utilisation",
        Some(&Unit::Seconds),
    );
    table.counters(metric, each(stages, |stage| stage.metrics.busy().as_secs_f64()))?;
    let metric = Metric(
        "postrider_rate_limit_wait",
        "Time for which lanes waited for the rate limit of the stage",
        Some(&Unit::Seconds),
    );
    table.counters(metric, each(stages, |stage| stage.metrics.rate_wait().as_secs_f64()))
}

fn versions(table: &mut Table<'_, '_>, stages: &[(&Labelled, Arc<Stage>)]) -> fmt::Result {
    let running: Vec<_> = stages
        .iter()
        .filter_map(|(namespace, stage)| Some((*namespace, stage, stage.running()?)))
        .collect();
    let metric = Metric("postrider_stage_info", "The version of the stage that runs here", None);
    let versions = running.iter().map(|(namespace, stage, running)| {
        namespace.with(&[
            ("stage", &*stage.name),
            ("version", &running.handler.description().version),
            ("digest", &*running.digest),
        ])
    });
    table.info(metric, versions)?;
    let metric = Metric(
        "postrider_stage_loaded_timestamp",
        "When that version began to serve here, since 1970-01-01 UTC",
        Some(&Unit::Seconds),
    );
    let loaded = running.iter().map(|(namespace, stage, running)| {
        (namespace.with(&[("stage", &*stage.name)]), running.loaded_at_ms as f64 / 1e3)
    });
    table.gauges(metric, loaded)
}

/// Outgoing calls of stages.
#[cfg(feature = "wasm")]
fn egress(table: &mut Table<'_, '_>, stages: &[(&Labelled, Arc<Stage>)]) -> fmt::Result {
    let calls: Vec<_> = stages
        .iter()
        .filter_map(|(namespace, stage)| Some((*namespace, stage, stage.egress.as_ref()?.counts())))
        .collect();
    let metric = Metric(
        "postrider_egress_calls",
        "Calls of the stage to other services, by host and whether it answered",
        None,
    );
    let counts = calls.iter().flat_map(|(namespace, stage, counts)| {
        counts.iter().map(|((host, outcome), count)| {
            let own = [("stage", &*stage.name), ("host", host.as_str()), ("outcome", *outcome)];
            (namespace.with(&own), *count)
        })
    });
    table.counters(metric, counts)
}
