//! The metrics of a host, read when they are collected: `GET /metrics` serves them, and a program
//! that embeds the host collects them in its own registry. [`encode_stages`] and [`encode_hosts`] are the
//! table of metrics. Those of several namespaces have a label `namespace`.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::App;
use crate::pipeline::metrics::OutcomeKind;
use crate::pipeline::{Consumption, Stage};
use crate::stage::circuit_breaker::BreakerState;
use crate::store::ControlState;

/// Upper bounds of the histograms' buckets, seconds.
const BOUNDS_S: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, f64::INFINITY];

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

/// Collects the metrics of a host, for as long as there is the host. It can be registered before
/// the host is built.
#[derive(Clone, Default)]
pub(crate) struct HostMetrics(Arc<OnceLock<Vec<Weak<App>>>>);

impl HostMetrics {
    /// Collects the metrics of a host's namespaces from now on.
    pub(crate) fn attach<'a>(&self, apps: impl IntoIterator<Item = &'a Arc<App>>) {
        // A host is built once.
        let _ = self.0.set(apps.into_iter().map(Arc::downgrade).collect());
    }

    /// The metrics of a host's namespaces in the OpenMetrics text format.
    pub(crate) fn text<'a>(
        apps: impl IntoIterator<Item = &'a Arc<App>>,
    ) -> Result<String, fmt::Error> {
        let metrics = Self::default();
        metrics.attach(apps);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl fmt::Debug for HostMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HostMetrics")
    }
}

impl Collector for HostMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(attached) = self.0.get() else { return Ok(()) };
        let several = attached.len() > 1;
        let namespaces: Vec<Labelled> = attached
            .iter()
            .filter_map(Weak::upgrade)
            .map(|app| Labelled { label: several.then(|| app.namespace.clone()), app })
            .collect();
        if namespaces.is_empty() {
            return Ok(());
        }
        encode_stages(&namespaces, &mut encoder)?;
        encode_hosts(&namespaces, &mut encoder)
    }
}

/// A namespace whose metrics are collected.
struct Labelled {
    /// The value of the label `namespace`, if there are several.
    label: Option<String>,
    app: Arc<App>,
}

impl Labelled {
    /// The labels of a metric.
    fn with<'a>(&'a self, own: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let namespace = self.label.as_deref().map(|name| ("namespace", name));
        namespace.into_iter().chain(own.iter().copied()).collect()
    }
}

/// Every stage, with its namespace.
fn stages(namespaces: &[Labelled]) -> Vec<(&Labelled, Arc<Stage>)> {
    let stages = |one: &Labelled| one.app.services.pipeline.stages();
    let pairs = namespaces.iter().map(|one| (one, stages(one)));
    pairs.flat_map(|(one, stages)| stages.into_iter().map(move |stage| (one, stage))).collect()
}

/// Encodes a gauge that is 1 for each stage to which it applies, else 0.
fn encode_flag(
    namespaces: &[Labelled],
    encoder: &mut DescriptorEncoder<'_>,
    flag: &Flag,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(flag.name, flag.help, None, MetricType::Gauge)?;
    for (namespace, stage) in stages(namespaces) {
        let labels = namespace.with(&[("stage", &stage.name)]);
        ConstGauge::new(i64::from((flag.applies)(&stage)))
            .encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// Metrics of the stages.
fn encode_stages(namespaces: &[Labelled], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let stages = stages(namespaces);
    let help = "Deliveries settled and acknowledged by this host, by outcome";
    let mut metric =
        encoder.encode_descriptor("postrider_deliveries", help, None, MetricType::Counter)?;
    for (namespace, stage) in &stages {
        for (settled, name) in OutcomeKind::ALL {
            let labels = namespace.with(&[("stage", &stage.name), ("outcome", name)]);
            ConstCounter::new(stage.metrics.count(settled))
                .encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Messages that this host handed over to the stage without RabbitMQ";
    let name = "postrider_handed_over";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (namespace, stage) in &stages {
        let labels = namespace.with(&[("stage", &stage.name)]);
        ConstCounter::new(stage.window.handed_over()).encode(metric.encode_family(&labels)?)?;
    }
    let help = "Messages in the local window of the stage: handed over, and not settled yet";
    let name = "postrider_local_window_messages";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (namespace, stage) in &stages {
        let labels = namespace.with(&[("stage", &stage.name)]);
        ConstGauge::new(i64::from(stage.window.messages()))
            .encode(metric.encode_family(&labels)?)?;
    }
    let help = "Time from the receipt of a message to its acknowledgement";
    let mut metric = encoder.encode_descriptor(
        "postrider_stage",
        help,
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for (namespace, stage) in &stages {
        let times = stage.metrics.times();
        let sum = stage.metrics.total_us() as f64 / 1e6;
        let labels = namespace.with(&[("stage", &stage.name)]);
        let mut family = metric.encode_family(&labels)?;
        family.encode_histogram::<NoLabelSet>(sum, times.len(), &buckets(&times), None)?;
    }
    FLAGS.iter().try_for_each(|flag| encode_flag(namespaces, encoder, flag))
}

/// What the task supervisor counts, chains at their limit, and events that wait for a stage.
fn encode_hosts(namespaces: &[Labelled], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Restarts of background tasks that ended or panicked";
    let name = "postrider_task_restarts";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for namespace in namespaces {
        for (task, restarts) in namespace.app.task_restarts() {
            let labels = namespace.with(&[("task", &task)]);
            ConstCounter::new(restarts).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Outcomes refused because their chain of events was at its limit";
    let name = "postrider_chain_limit_refusals";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    let refused = |one: &Labelled| ConstCounter::new(one.app.services.pipeline.chains().refused());
    match namespaces {
        // An empty set of labels would be written, too.
        [one] if one.label.is_none() => refused(one).encode(metric)?,
        all => {
            for namespace in all {
                let labels = namespace.with(&[]);
                refused(namespace).encode(metric.encode_family(&labels)?)?;
            }
        }
    }
    let help = "Subjects submitted to this host and cancelled on it, by kind and outcome";
    let name = "postrider_subjects";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for namespace in namespaces {
        for (kind, outcome, count) in namespace.app.subject_metrics().counts() {
            let labels = namespace.with(&[("kind", kind), ("outcome", outcome)]);
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Events of unfinished subjects that wait for a stage that consumes their type";
    let name = "postrider_unrouted_events";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for namespace in namespaces {
        for events in namespace.app.unrouted_events() {
            let labels = namespace.with(&[("type", &events.event_type)]);
            ConstGauge::new(events.count as i64).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// Counts per bucket of [`BOUNDS_S`], not cumulative, from a histogram of microseconds.
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
    fn each_duration_is_counted_in_its_bucket() {
        let metrics = StageMetrics::default();
        for micros in [10, 900, 30_000, 49_000, 7_000_000, 60_000_000] {
            metrics.record([(OutcomeKind::Done, Duration::from_micros(micros))]);
        }
        let filled: Vec<(f64, u64)> =
            buckets(&metrics.times()).into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.001, 2), (0.05, 2), (10.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(
            (metrics.count(OutcomeKind::Done), metrics.count(OutcomeKind::DeadLettered)),
            (6, 0)
        );
    }
}
