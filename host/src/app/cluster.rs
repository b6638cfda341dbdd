//! The hosts of a namespace, and one picture of all of them that any of them can show.
//!
//! Each host reports to the store what it runs ([`sync`]) and reads what the others report; a request
//! reads that copy, and its own host's state as it is now. Pictures of two hosts differ for as long as a
//! report takes: about two seconds. A host that did not report for 30 seconds is not live. Bounds: a
//! report has at most [`report::MAX_BYTES`]. Nothing depends on reports but what is shown, and whom a
//! command is sent to.

#[cfg(feature = "http")]
mod ask;
mod commands;
#[cfg(feature = "http")]
mod merge;
mod report;
pub(crate) mod sync;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

#[cfg(feature = "http")]
pub(crate) use self::ask::{HostAnswer, RolledBackStage};
#[cfg(feature = "http")]
pub(crate) use self::merge::{ClusterPlugin, ClusterStage, ClusterTopology, OnHost};
pub(crate) use self::report::HostStatus;
use super::App;
use super::plugins::LOAD_TIMEOUT;
use crate::background::binding_sync::LIVE_MS;
use crate::store::StoreError;

/// How much a stage does on a host, over the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct StageRates {
    /// Deliveries that were settled, per second.
    pub(crate) per_second: f64,
    /// Dead letters and retries, per second.
    pub(crate) failed_per_second: f64,
    /// 95 % of the deliveries took at most this from the receipt of their message to its acknowledgement,
    /// milliseconds; none without deliveries.
    pub(crate) p95_ms: Option<f64>,
}

/// What this host knows of the others.
#[derive(Default)]
struct OtherHosts {
    hosts: Arc<Vec<HostStatus>>,
    /// None: never.
    read_at: Option<Instant>,
}

/// What this host knows of the hosts of its namespace.
pub(crate) struct Cluster {
    others: ArcSwap<OtherHosts>,
    rates: ArcSwap<HashMap<Arc<str>, StageRates>>,
    api: OnceLock<SocketAddr>,
    started_at_ms: u64,
    /// How long a request may wait for other hosts.
    patience: Duration,
}

impl Cluster {
    /// Of a host that starts now and whose API answers within `request_timeout_ms`.
    pub(super) fn new(started_at_ms: u64, request_timeout_ms: u64) -> Self {
        Self {
            others: ArcSwap::default(),
            rates: ArcSwap::default(),
            api: OnceLock::new(),
            started_at_ms,
            patience: Duration::from_millis(request_timeout_ms / 5 * 4).min(LOAD_TIMEOUT),
        }
    }

    /// The other live hosts. Those that were read before the store stopped to answer stay for as long as
    /// they count as live.
    fn others(&self) -> Arc<Vec<HostStatus>> {
        let known = self.others.load();
        let live = Duration::from_millis(LIVE_MS);
        let is_current = known.read_at.is_some_and(|read_at| read_at.elapsed() < live);
        if is_current { Arc::clone(&known.hosts) } else { Arc::default() }
    }

    pub(super) fn rates_of(&self, stage: &str) -> StageRates {
        self.rates.load().get(stage).copied().unwrap_or_default()
    }
}

impl App {
    /// Sets where the API is served.
    #[cfg(feature = "http")]
    pub(crate) fn serves_at(&self, address: SocketAddr) {
        let _ = self.cluster.api.set(address);
    }

    /// Returns the live hosts of the namespace by name, with what each runs. The others are as they
    /// reported last: every five seconds, and when something changes.
    pub(crate) fn hosts(&self) -> Vec<HostStatus> {
        let mut hosts = self.cluster.others().to_vec();
        hosts.push(self.own_status());
        hosts.sort_by(|one, other| one.host.cmp(&other.host));
        hosts
    }

    /// The name of this host.
    #[cfg(feature = "http")]
    pub(crate) fn host_name(&self) -> &str {
        &self.services.host
    }

    /// Reads what the other hosts reported.
    async fn refresh_hosts(&self) -> Result<(), StoreError> {
        let live = self.services.store.live_hosts().await?;
        let others = live.into_iter().filter(|host| *host.host != *self.services.host);
        let hosts = Arc::new(others.map(HostStatus::from_store).collect());
        self.cluster.others.store(Arc::new(OtherHosts { hosts, read_at: Some(Instant::now()) }));
        Ok(())
    }

    /// Returns every stage of the namespace as all live hosts run it, by name; stages that no host runs,
    /// but that events are routed to, too.
    #[cfg(feature = "http")]
    pub(crate) async fn cluster_stages(&self) -> Vec<ClusterStage> {
        let store = &self.services.store;
        let now_ms = self.services.clock.now_ms();
        let (backlog, controls, levels) =
            tokio::join!(store.backlog(now_ms), store.stage_controls(), store.stage_log_levels());
        let unanswered = |error: &StoreError| {
            tracing::debug!(%error, "what the store knows of the stages could not be read");
        };
        let backlog = backlog.inspect_err(unanswered).ok();
        let controls = controls.inspect_err(unanswered).ok();
        let levels = levels.inspect_err(unanswered).ok();
        let mut stages = merge::stages(&self.hosts(), &self.services.pipeline.bound_stages());
        for stage in &mut stages {
            if let Some(controls) = &controls {
                let control = controls.iter().find(|one| one.stage == stage.status.stage);
                stage.status.set_control(control);
            }
            if let Some(levels) = &levels {
                let level = levels.iter().find(|one| one.stage == stage.status.stage);
                stage.status.set_log_level(level.filter(|level| level.holds(now_ms)));
            }
            stage.status.set_backlog(backlog.as_deref());
        }
        stages
    }

    /// The same for one stage; none when there is no such stage.
    #[cfg(feature = "http")]
    pub(crate) async fn cluster_stage(&self, name: &str) -> Option<ClusterStage> {
        self.cluster_stages().await.into_iter().find(|stage| stage.status.stage == name)
    }

    /// Whether a live host knows the stage, or events are routed to it.
    pub(super) fn is_known(&self, stage: &str) -> bool {
        self.services.pipeline.find(stage).is_some()
            || !self.services.pipeline.bindings_of(stage).is_empty()
            || self.cluster.others().iter().any(|host| host.stage(stage).is_some())
    }

    /// Returns every plugin of the live hosts: one entry for each stage and file, with the hosts that have
    /// it.
    #[cfg(feature = "http")]
    pub(crate) fn cluster_plugins(&self) -> Vec<ClusterPlugin> {
        merge::plugins(&self.hosts())
    }

    /// Returns the stages that live hosts run, and the event types between them.
    #[cfg(feature = "http")]
    pub(crate) fn cluster_topology(&self) -> ClusterTopology {
        let (stages, hosts) = merge::topology(&self.hosts());
        ClusterTopology { topology: self.services.pipeline.topology_with(stages), hosts }
    }

    /// Stages that events are routed to and that no live host runs.
    pub(super) fn stages_without_host(hosts: &[HostStatus], bound: &[Arc<str>]) -> Vec<String> {
        let runs = |name: &str| {
            let mut stages = hosts.iter().filter_map(|host| host.stage(name));
            stages.any(|stage| stage.version.is_some())
        };
        bound.iter().filter(|name| !runs(name)).map(ToString::to_string).collect()
    }
}
