//! One picture from the reports of all hosts. Pure: the same reports make the same picture, in whatever
//! order they come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::HostStatus;
use crate::app::plugins::{PluginState, PluginStatus};
use crate::app::stages::StageStatus;
use crate::pipeline::{Consumption, Topology, TopologyStage};
use crate::stage::circuit_breaker::BreakerState;

/// Something as one host has it.
#[derive(Debug, Clone)]
pub(crate) struct OnHost<T> {
    /// The host.
    pub(crate) host: String,
    /// What it has.
    pub(crate) status: T,
}

/// A stage as all live hosts run it.
#[derive(Debug, Clone)]
pub(crate) struct ClusterStage {
    /// Of the version that was loaded last, wherever it runs; of the breaker that is open, if one is; how
    /// much all hosts hold.
    pub(crate) status: StageStatus,
    /// By host.
    pub(crate) hosts: Vec<OnHost<StageStatus>>,
}

/// A plugin file, or a native stage, as all live hosts have it.
#[derive(Debug, Clone)]
pub(crate) struct ClusterPlugin {
    /// Of the host that serves it since last; else of the first one by name.
    pub(crate) status: PluginStatus,
    /// By host.
    pub(crate) hosts: Vec<OnHost<PluginStatus>>,
}

/// The stages that live hosts run, and the event types between them.
#[derive(Debug)]
pub(crate) struct ClusterTopology {
    /// A stage that hosts run in several versions consumes and emits what any of these does.
    pub(crate) topology: Topology,
    /// The hosts that run each stage, by name.
    pub(crate) hosts: BTreeMap<String, Vec<String>>,
}

/// Every stage that a host knows or that is bound, by name.
pub(super) fn stages(hosts: &[HostStatus], bound: &[Arc<str>]) -> Vec<ClusterStage> {
    let known = hosts.iter().flat_map(|host| &host.stages).map(|stage| stage.stage.as_str());
    let names: BTreeSet<&str> = known.chain(bound.iter().map(|name| &**name)).collect();
    let merged = names.into_iter().map(|name| {
        let on_host = |host: &HostStatus| {
            let status = host.stage(name)?.clone();
            Some(OnHost { host: host.host.clone(), status })
        };
        let mut hosts: Vec<_> = hosts.iter().filter_map(on_host).collect();
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        ClusterStage { status: stage(name, &hosts), hosts }
    });
    merged.collect()
}

fn stage(name: &str, hosts: &[OnHost<StageStatus>]) -> StageStatus {
    // Hosts are in order, so of equal ones the first by name counts.
    let newest = hosts
        .iter()
        .filter(|host| host.status.version.is_some())
        .min_by_key(|host| Reverse(host.status.loaded_at_ms));
    let mut merged = newest
        .or(hosts.first())
        .map_or_else(|| StageStatus::named(name), |host| host.status.clone());
    let statuses = || hosts.iter().map(|host| &host.status);
    let severity = |stage: &&StageStatus| match stage.breaker.state {
        BreakerState::Open => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Closed => 2,
    };
    if let Some(worst) = statuses().min_by_key(severity) {
        merged.breaker = worst.breaker.clone();
    }
    let activity = |stage: &&StageStatus| match stage.consumption {
        Consumption::Consuming => 0,
        Consumption::Connecting => 1,
        Consumption::Drained => 2,
        Consumption::Standby => 3,
        Consumption::Idle => 4,
    };
    if let Some(most) = statuses().min_by_key(activity) {
        merged.consumption = most.consumption;
    }
    if let Some(latest) = statuses().max_by_key(|stage| stage.since_ms) {
        (merged.control, merged.since_ms) = (latest.control, latest.since_ms);
        merged.reason.clone_from(&latest.reason);
    }
    merged.held = statuses().map(|stage| stage.held).sum();
    merged.handed_over = statuses().map(|stage| stage.handed_over).sum();
    merged.rates.per_second = statuses().map(|stage| stage.rates.per_second).sum();
    merged.rates.failed_per_second = statuses().map(|stage| stage.rates.failed_per_second).sum();
    // That of the slowest host: quantiles cannot be added.
    merged.rates.p95_ms = statuses().filter_map(|stage| stage.rates.p95_ms).reduce(f64::max);
    merged
}

/// One entry for each stage and file.
pub(super) fn plugins(hosts: &[HostStatus]) -> Vec<ClusterPlugin> {
    type Place = (bool, Option<String>, Option<String>);
    let mut places: BTreeMap<Place, Vec<OnHost<PluginStatus>>> = BTreeMap::new();
    for host in hosts {
        for plugin in &host.plugins {
            let place = (plugin.stage.is_none(), plugin.stage.clone(), plugin.file.clone());
            let on_host = OnHost { host: host.host.clone(), status: plugin.clone() };
            places.entry(place).or_default().push(on_host);
        }
    }
    let merged = places.into_values().map(|mut hosts| {
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        let newest = hosts.iter().min_by_key(|host| Reverse(host.status.loaded_at_ms));
        let mut status = newest.expect("a place has a host").status.clone();
        let other = |of: fn(&PluginStatus) -> &Option<String>| {
            hosts.iter().find_map(|host| of(&host.status).clone())
        };
        status.last_error = status.last_error.or_else(|| other(|plugin| &plugin.last_error));
        status.waiting_for = status.waiting_for.or_else(|| other(|plugin| &plugin.waiting_for));
        status.rolled_back = status.rolled_back.or_else(|| other(|plugin| &plugin.rolled_back));
        ClusterPlugin { status, hosts }
    });
    let mut merged: Vec<ClusterPlugin> = merged.collect();
    // What serves a stage comes before files that served it once.
    merged.sort_by_key(|plugin| {
        let status = &plugin.status;
        (status.stage.is_none(), status.stage.clone(), status.state != PluginState::Serving)
    });
    merged
}

/// The stages that hosts run by name, and by which hosts.
pub(super) fn topology(
    hosts: &[HostStatus],
) -> (Vec<TopologyStage>, BTreeMap<String, Vec<String>>) {
    let mut stages: BTreeMap<&str, TopologyStage> = BTreeMap::new();
    let mut running: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // What was loaded last comes first.
    let mut loaded: Vec<(Reverse<Option<u64>>, &str, &TopologyStage)> = Vec::new();
    for host in hosts {
        for stage in &host.topology {
            let since_ms = host.stage(&stage.name).and_then(|known| known.loaded_at_ms);
            loaded.push((Reverse(since_ms), &host.host, stage));
        }
    }
    loaded.sort_by_key(|(since_ms, host, _)| (*since_ms, *host));
    for (_, host, stage) in loaded {
        running.entry(stage.name.clone()).or_default().push(host.to_owned());
        match stages.get_mut(&*stage.name) {
            None => _ = stages.insert(&stage.name, stage.clone()),
            Some(merged) => {
                add(&mut merged.consumes, &stage.consumes);
                add(&mut merged.handles, &stage.handles);
                add(&mut merged.emits, &stage.emits);
            }
        }
    }
    for hosts in running.values_mut() {
        hosts.sort();
    }
    (stages.into_values().collect(), running)
}

fn add(to: &mut Vec<String>, more: &[String]) {
    for one in more {
        if !to.contains(one) {
            to.push(one.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ControlState, LiveHost};

    fn host(name: &str, stages: Vec<StageStatus>) -> HostStatus {
        let live = LiveHost { host: name.to_owned(), seen_at_ms: 1, report: None };
        let mut host = HostStatus::from_store(live);
        host.topology = stages
            .iter()
            .filter_map(|stage| {
                let version = stage.version.clone()?;
                let emits = vec![format!("{}.{version}", stage.stage)];
                let name = stage.stage.clone();
                Some(TopologyStage { name, version, consumes: vec![], handles: vec![], emits })
            })
            .collect();
        host.stages = stages;
        host
    }

    fn running(name: &str, version: &str, loaded_at_ms: u64) -> StageStatus {
        let mut stage = StageStatus::named(name);
        stage.version = Some(version.to_owned());
        stage.loaded_at_ms = Some(loaded_at_ms);
        stage.consumption = Consumption::Consuming;
        stage.held = 2;
        stage
    }

    /// Two hosts in both orders.
    fn both(one: HostStatus, other: HostStatus) -> [[HostStatus; 2]; 2] {
        [[one.clone(), other.clone()], [other, one]]
    }

    #[test]
    fn a_stage_shows_the_version_that_was_loaded_last_and_the_sum_of_its_hosts() {
        let (old, new) = (running("payment", "1", 5), running("payment", "2", 6));
        for hosts in both(host("a", vec![new]), host("b", vec![old])) {
            let merged = stages(&hosts, &[]);
            let [payment] = &merged[..] else { panic!("{merged:?}") };
            assert_eq!(payment.status.version.as_deref(), Some("2"));
            assert_eq!((payment.status.held, payment.hosts.len()), (4, 2));
            assert_eq!(payment.hosts[1].status.version.as_deref(), Some("1"));
        }
    }

    #[test]
    fn an_open_breaker_and_the_latest_control_of_any_host_are_shown() {
        let mut broken = running("payment", "1", 5);
        broken.breaker.state = BreakerState::Open;
        broken.breaker.reason = Some("the bank is down".to_owned());
        let mut paused = running("payment", "1", 6);
        (paused.control, paused.since_ms) = (ControlState::Paused, Some(9));
        for hosts in both(host("a", vec![broken]), host("b", vec![paused])) {
            let status = stages(&hosts, &[]).remove(0).status;
            assert_eq!(status.breaker.reason.as_deref(), Some("the bank is down"));
            assert_eq!(status.control, ControlState::Paused);
        }
    }

    #[test]
    fn stages_of_other_hosts_and_of_none_are_listed() {
        let hosts = [host("a", vec![StageStatus::named("payment")]), host("b", vec![])];
        let merged = stages(&hosts, &["payment".into(), "shipping".into()]);
        let names: Vec<_> = merged.iter().map(|stage| stage.status.stage.as_str()).collect();
        assert_eq!(names, ["payment", "shipping"]);
        assert!(merged[1].hosts.is_empty() && merged[1].status.version.is_none());
    }

    #[test]
    fn versions_of_a_stage_are_one_in_the_topology() {
        let (old, new) = (running("payment", "1", 5), running("payment", "2", 6));
        for hosts in both(host("a", vec![old]), host("b", vec![new])) {
            let (stages, running) = topology(&hosts);
            let [payment] = &stages[..] else { panic!("{stages:?}") };
            assert_eq!(payment.version, "2");
            assert_eq!(payment.emits, ["payment.2", "payment.1"]);
            assert_eq!(running["payment"], ["a", "b"]);
        }
    }

    #[test]
    fn a_plugin_that_one_host_refuses_shows_its_error() {
        let serving = PluginStatus::named("payment", "1");
        let mut refused = PluginStatus::named("payment", "1");
        (refused.version, refused.loaded_at_ms) = (None, None);
        refused.last_error = Some("no such import".to_owned());
        let mut one = host("a", vec![]);
        one.plugins = vec![refused];
        let mut other = host("b", vec![]);
        other.plugins = vec![serving];
        for hosts in both(one, other) {
            let merged = plugins(&hosts);
            let [payment] = &merged[..] else { panic!("{merged:?}") };
            assert_eq!(payment.status.version.as_deref(), Some("1"));
            assert_eq!(payment.status.last_error.as_deref(), Some("no such import"));
            assert_eq!(payment.hosts[0].host, "a");
        }
    }
}
