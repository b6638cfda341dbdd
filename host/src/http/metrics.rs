//! `/metrics`: what this host counts, in the `OpenMetrics` text format.

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Shared;
use super::problem::{Answer, Problem};
use crate::pipeline::metrics::OutcomeKind;
use crate::pipeline::{Consumption, Pipeline, Stage};
use crate::stage::circuit_breaker::BreakerState;
use crate::store::ControlState;

/// Upper bounds of the histograms' buckets, seconds.
const BOUNDS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, f64::INFINITY];

/// What this host counts, in the `OpenMetrics` text format.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text")))]
pub(super) async fn show(State(app): State<Shared>) -> Answer<Response> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Stages(Arc::clone(&app.services().pipeline))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|_| Problem::internal())?;
    Ok((
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        text,
    )
        .into_response())
}

/// What stages count themselves, read when it is asked for.
struct Stages(Arc<Pipeline>);

impl fmt::Debug for Stages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Stages")
    }
}

impl Stages {
    /// A gauge per stage that is 1 or 0.
    fn flag(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        is: fn(&Stage) -> bool,
    ) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for stage in self.0.stages() {
            ConstGauge::new(i64::from(is(&stage)))
                .encode(metric.encode_family(&[("stage", &*stage.name)])?)?;
        }
        Ok(())
    }
}

impl Collector for Stages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stages = self.0.stages();
        let help = "Deliveries settled and acknowledged by this host, by outcome";
        let mut metric =
            encoder.encode_descriptor("postrider_deliveries", help, None, MetricType::Counter)?;
        for stage in &stages {
            for (settled, name) in OutcomeKind::ALL {
                let count = ConstCounter::new(stage.metrics.count(settled));
                count
                    .encode(metric.encode_family(&[("stage", &*stage.name), ("outcome", name)])?)?;
            }
        }
        let help = "Time from the receipt of a message to its acknowledgement";
        let mut metric = encoder.encode_descriptor(
            "postrider_stage",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for stage in &stages {
            let times = stage.metrics.times();
            let sum = stage.metrics.total_us() as f64 / 1e6;
            let labels = [("stage", &*stage.name)];
            let mut family = metric.encode_family(&labels)?;
            family.encode_histogram::<NoLabelSet>(sum, times.len(), &buckets(&times), None)?;
        }
        let open = (
            "postrider_breaker_open",
            "Whether the circuit breaker of the stage on this host is not closed",
        );
        self.flag(&mut encoder, open, |stage| stage.breaker().state() != BreakerState::Closed)?;
        let held = ("postrider_stage_held", "Whether an operator paused or drains the stage");
        self.flag(&mut encoder, held, |stage| {
            stage.control().is_some_and(|control| control.state != ControlState::Running)
        })?;
        let consuming =
            ("postrider_stage_consuming", "Whether this host consumes the stage's queue");
        self.flag(&mut encoder, consuming, |stage| stage.consumption() == Consumption::Consuming)
    }
}

/// Counts per bucket of [`BOUNDS_S`], not cumulated, from a histogram of microseconds.
fn buckets(times: &Histogram<u64>) -> Vec<(f64, u64)> {
    let mut buckets = BOUNDS_S.map(|bound| (bound, 0));
    for recorded in times.iter_recorded() {
        let seconds = recorded.value_iterated_to() as f64 / 1e6;
        let place = BOUNDS_S.partition_point(|bound| *bound < seconds);
        buckets[place].1 += recorded.count_at_value();
    }
    buckets.to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pipeline::metrics::StageMetrics;

    #[test]
    fn a_time_is_counted_in_its_bucket() {
        let meter = StageMetrics::default();
        for micros in [10, 900, 30_000, 49_000, 7_000_000, 60_000_000] {
            meter.record([(OutcomeKind::Done, Duration::from_micros(micros))]);
        }
        let filled: Vec<(f64, u64)> =
            buckets(&meter.times()).into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.001, 2), (0.05, 2), (10.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(
            (meter.count(OutcomeKind::Done), meter.count(OutcomeKind::DeadLettered)),
            (6, 0)
        );
    }
}
