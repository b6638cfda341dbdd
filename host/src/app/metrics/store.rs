//! Metrics of the store. What waits and what finished is that of all hosts, as each of them counts it;
//! the rest is this host's.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use prometheus_client::registry::Unit;

use super::{Labelled, Labels, Metric, Table};
use crate::store::{StageBacklog, StoreFigures};

/// Writes the metrics of the store.
pub(super) fn encode(table: &mut Table<'_, '_>) -> fmt::Result {
    waiting(table)?;
    outbox(table)?;
    finished(table)?;
    commits(table)
}

/// What waits for each stage of this host, and for each other one that something waits for.
fn waiting(table: &mut Table<'_, '_>) -> fmt::Result {
    let namespaces = table.namespaces;
    let counted: Vec<Backlog<'_>> = namespaces.iter().filter_map(Backlog::of).collect();
    let metric = Metric(
        "postrider_waiting_deliveries",
        "Deliveries that are due and not settled, on all hosts",
        None,
    );
    let due = |stage: &StageBacklog| (stage.waiting - stage.scheduled) as f64;
    table.gauges(metric, counted.iter().flat_map(|one| one.each(due)))?;
    let metric = Metric(
        "postrider_scheduled_deliveries",
        "Deliveries that fall due later, on all hosts: retries and scheduled events",
        None,
    );
    let later = |stage: &StageBacklog| stage.scheduled as f64;
    table.gauges(metric, counted.iter().flat_map(|one| one.each(later)))?;
    let metric = Metric(
        "postrider_oldest_waiting_delivery_age",
        "Age of the oldest delivery that is due and not settled; 0 if there is none",
        Some(&Unit::Seconds),
    );
    let ages = counted
        .iter()
        .flat_map(|one| one.each(|stage: &StageBacklog| age_s(stage.oldest_ms, one.now_ms)));
    table.gauges(metric, ages)?;
    let metric = Metric("postrider_dead_letters", "Dead letters that wait for a decision", None);
    table.gauges(metric, counted.iter().flat_map(Backlog::dead_letters))
}

/// What waits in the store of a namespace.
struct Backlog<'a> {
    namespace: &'a Labelled,
    figures: Arc<StoreFigures>,
    /// Those that run here, and those that something waits for: they may have lost their plugins.
    stages: BTreeSet<Arc<str>>,
    now_ms: u64,
}

impl<'a> Backlog<'a> {
    fn of(namespace: &'a Labelled) -> Option<Self> {
        let services = &namespace.app.services;
        let figures = services.counted.figures()?;
        let waiting = figures.backlog.iter().map(|backlog| &*backlog.stage);
        let waiting = waiting.chain(figures.dead_letters.iter().map(|(stage, _)| &**stage));
        let running = services.pipeline.stages().into_iter().map(|stage| Arc::clone(&stage.name));
        let stages = waiting.map(Arc::from).chain(running).collect();
        Some(Self { namespace, figures, stages, now_ms: services.clock.now_ms() })
    }

    fn each<V: Default>(
        &self,
        value: impl Fn(&StageBacklog) -> V,
    ) -> impl Iterator<Item = (Labels<'_>, V)> {
        self.stages.iter().map(move |stage| {
            let backlog = self.figures.backlog.iter().find(|backlog| backlog.stage == **stage);
            (self.namespace.with(&[("stage", &**stage)]), backlog.map(&value).unwrap_or_default())
        })
    }

    fn dead_letters(&self) -> impl Iterator<Item = (Labels<'_>, f64)> {
        let open = &self.figures.dead_letters;
        self.stages.iter().map(move |stage| {
            let count = open.iter().find(|(of, _)| **of == **stage).map_or(0, |(_, count)| *count);
            (self.namespace.with(&[("stage", &**stage)]), count as f64)
        })
    }
}

/// Seconds since then; 0 without a time.
fn age_s(since_ms: Option<u64>, now_ms: u64) -> f64 {
    since_ms.map_or(0.0, |since_ms| now_ms.saturating_sub(since_ms) as f64 / 1e3)
}

fn outbox(table: &mut Table<'_, '_>) -> fmt::Result {
    let counted: Vec<_> = table
        .namespaces
        .iter()
        .filter_map(|one| Some((one, one.app.services.counted.figures()?)))
        .collect();
    let metric =
        Metric("postrider_outbox_events", "Events in the outbox that are due, on all hosts", None);
    let counts = counted.iter().map(|(one, figures)| (one.with(&[]), figures.outbox as f64));
    table.gauges(metric, counts)?;
    let metric = Metric(
        "postrider_oldest_outbox_event_age",
        "Time since the oldest of them was due; 0 if there is none",
        Some(&Unit::Seconds),
    );
    let ages = counted.iter().map(|(one, figures)| {
        let now_ms = one.app.services.clock.now_ms();
        (one.with(&[]), age_s(figures.outbox_oldest_ms, now_ms))
    });
    table.gauges(metric, ages)
}

fn finished(table: &mut Table<'_, '_>) -> fmt::Result {
    let finished: Vec<_> = table
        .namespaces
        .iter()
        .flat_map(|one| {
            let times = one.app.services.counted.finished();
            times.into_iter().map(move |(key, times)| (one, key, times.recorded()))
        })
        .collect();
    let metric = Metric(
        "postrider_subject_duration",
        "Time from the submission of a subject to its last status, on all hosts; counted by each of \
         them since it started",
        None,
    );
    let times = finished.iter().map(|(one, (kind, status), times)| {
        (one.with(&[("kind", kind), ("status", status)]), times.clone())
    });
    table.times(metric, times)
}

fn commits(table: &mut Table<'_, '_>) -> fmt::Result {
    let namespaces = table.namespaces;
    let metric = Metric(
        "postrider_commit_duration",
        "Time of a transaction of the store's writer, with all its operations",
        None,
    );
    let commits = |one: &Labelled| one.app.services.store.commits().times.recorded();
    table.times(metric, namespaces.iter().map(|one| (one.with(&[]), commits(one))))?;
    let metric = Metric(
        "postrider_commit_operations",
        "Operations that the store's writer committed together",
        None,
    );
    let operations = |one: &Labelled| one.app.services.store.commits().operations.recorded();
    table.counts(metric, namespaces.iter().map(|one| (one.with(&[]), operations(one))))?;
    let metric = Metric(
        "postrider_writer_queue",
        "Events and state that wait for the store's writer or are being committed",
        Some(&Unit::Bytes),
    );
    let waiting = |one: &Labelled| one.app.services.store.writer_bytes().0 as f64;
    table.gauges(metric, namespaces.iter().map(|one| (one.with(&[]), waiting(one))))?;
    let metric = Metric(
        "postrider_store_connections",
        "Connections to the store beside the writer's, by what they do",
        None,
    );
    let connections = namespaces.iter().flat_map(|one| {
        let (open, idle) = one.app.services.store.connections();
        let used = open.saturating_sub(idle);
        [("used", used), ("idle", idle)]
            .map(|(state, count)| (one.with(&[("state", state)]), f64::from(count)))
    });
    table.gauges(metric, connections)
}
