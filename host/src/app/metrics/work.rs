//! What a host does beside its stages: submissions, refused requests, background tasks, chains and
//! events that wait for a stage.

use std::fmt;

use super::{Metric, Table};

/// Writes those metrics.
pub(super) fn encode(table: &mut Table<'_, '_>) -> fmt::Result {
    let namespaces = table.namespaces;
    let metric = Metric(
        "postrider_subjects",
        "Subjects submitted to this host and cancelled on it, by kind and outcome",
        None,
    );
    let subjects = namespaces.iter().flat_map(|one| {
        let counts = one.app.subject_metrics().counts();
        counts.map(|(kind, outcome, count)| {
            (one.with(&[("kind", kind), ("outcome", outcome)]), count)
        })
    });
    table.counters(metric, subjects)?;
    #[cfg(feature = "http")]
    refusals(table)?;
    let restarts: Vec<_> = namespaces.iter().map(|one| (one, one.app.task_restarts())).collect();
    let metric = Metric(
        "postrider_task_restarts",
        "Restarts of background tasks that ended or panicked",
        None,
    );
    let restarts = restarts.iter().flat_map(|(one, restarts)| {
        restarts.iter().map(|(task, count)| (one.with(&[("task", task)]), *count))
    });
    table.counters(metric, restarts)?;
    let metric = Metric(
        "postrider_chain_limit_refusals",
        "Outcomes refused because their chain of events was at its limit",
        None,
    );
    let refused =
        namespaces.iter().map(|one| (one.with(&[]), one.app.services.pipeline.chains().refused()));
    table.counters(metric, refused)?;
    let unrouted: Vec<_> = namespaces.iter().map(|one| (one, one.app.unrouted_events())).collect();
    let metric = Metric(
        "postrider_unrouted_events",
        "Events of unfinished subjects that wait for a stage that consumes their type",
        None,
    );
    let unrouted = unrouted.iter().flat_map(|(one, all)| {
        all.iter().map(|events| (one.with(&[("type", &events.event_type)]), events.count as f64))
    });
    table.gauges(metric, unrouted)
}

/// Requests that the API refused.
#[cfg(feature = "http")]
fn refusals(table: &mut Table<'_, '_>) -> fmt::Result {
    let metric =
        Metric("postrider_refused_requests", "Requests refused because of a limit, by limit", None);
    let counts = table.namespaces.iter().flat_map(|one| {
        let counts = one.app.refusals().counts();
        counts.map(|(limit, count)| (one.with(&[("limit", limit)]), count))
    });
    table.counters(metric, counts)
}
