//! The metrics of a host, read when they are collected: `GET /metrics` serves them, and a program
//! that embeds the host collects them in its own registry. One file per subject; `docs/metrics.md` lists
//! them, and a test compares it with what a host serves. Those of several namespaces have a label
//! `namespace`.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{self, DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::App;
use crate::domain::distribution::Recorded;

mod process;
mod stages;
mod store;
mod work;

/// Upper bounds of the buckets of times, microseconds; a last one has none.
const TIMES_US: [u64; 16] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    120_000_000,
    600_000_000,
];
/// Upper bounds of the buckets of counts; a last one has none.
const COUNTS: [u64; 10] = [1, 2, 3, 5, 10, 20, 50, 100, 200, 500];

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// As OpenMetrics 1.0.
    OpenMetrics,
    /// As Prometheus' text format 0.0.4.
    Prometheus,
}

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

    /// The metrics of a host's namespaces as text.
    pub(crate) fn text<'a>(
        apps: impl IntoIterator<Item = &'a Arc<App>>,
        format: Format,
    ) -> Result<String, fmt::Error> {
        let metrics = Self::default();
        metrics.attach(apps);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        match format {
            Format::OpenMetrics => encoding::text::encode(&mut text, &registry)?,
            Format::Prometheus => encoding::prometheus_text::encode(&mut text, &registry)?,
        }
        Ok(text)
    }
}

impl fmt::Debug for HostMetrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HostMetrics")
    }
}

impl Collector for HostMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
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
        let mut table = Table { namespaces: &namespaces, encoder };
        stages::encode(&mut table)?;
        store::encode(&mut table)?;
        work::encode(&mut table)?;
        process::encode(&mut table)
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

/// The labels of a value.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// A metric: its name without unit and suffix, what it means, and its unit.
#[derive(Clone, Copy)]
struct Metric(&'static str, &'static str, Option<&'static Unit>);

/// What is collected, and where it is written.
struct Table<'a, 'e> {
    namespaces: &'a [Labelled],
    encoder: DescriptorEncoder<'e>,
}

impl Table<'_, '_> {
    /// Writes counters: totals since the host started, whole numbers or seconds.
    fn counters<'l, N>(
        &mut self,
        metric: Metric,
        values: impl IntoIterator<Item = (Labels<'l>, N)>,
    ) -> fmt::Result
    where
        ConstCounter<N>: EncodeMetric,
    {
        let values = values.into_iter().map(|(labels, total)| (labels, ConstCounter::new(total)));
        self.write(metric, MetricType::Counter, values)
    }

    /// Writes gauges: how it is now.
    fn gauges<'l>(
        &mut self,
        metric: Metric,
        values: impl IntoIterator<Item = (Labels<'l>, f64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.write(metric, MetricType::Gauge, values)
    }

    /// Writes what something is, in labels.
    fn info<'l>(
        &mut self,
        metric: Metric,
        values: impl IntoIterator<Item = Labels<'l>>,
    ) -> fmt::Result {
        self.gauges(metric, values.into_iter().map(|labels| (labels, 1.0)))
    }

    fn write<'l, V: EncodeMetric>(
        &mut self,
        Metric(name, help, unit): Metric,
        kind: MetricType,
        values: impl Iterator<Item = (Labels<'l>, V)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in values {
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// Writes distributions of times.
    fn times<'l>(
        &mut self,
        Metric(name, help, _): Metric,
        values: impl IntoIterator<Item = (Labels<'l>, Recorded)>,
    ) -> fmt::Result {
        let metric = Metric(name, help, Some(&Unit::Seconds));
        self.distributions(metric, (&TIMES_US, 1e6), values)
    }

    /// Writes distributions of counts.
    fn counts<'l>(
        &mut self,
        metric: Metric,
        values: impl IntoIterator<Item = (Labels<'l>, Recorded)>,
    ) -> fmt::Result {
        self.distributions(metric, (&COUNTS, 1.0), values)
    }

    /// Writes distributions, with values that are `scale` times as large as what is written.
    fn distributions<'l>(
        &mut self,
        Metric(name, help, unit): Metric,
        (bounds, scale): (&[u64], f64),
        values: impl IntoIterator<Item = (Labels<'l>, Recorded)>,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, recorded) in values {
            let counts = recorded.counts_within(bounds);
            let total = recorded.values.len();
            let above = total - counts.iter().sum::<u64>();
            let scaled = bounds.iter().map(|bound| *bound as f64 / scale);
            let buckets: Vec<(f64, u64)> =
                scaled.zip(counts).chain([(f64::INFINITY, above)]).collect();
            let sum = recorded.sum as f64 / scale;
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, total, &buckets, None)?;
        }
        Ok(())
    }
}
