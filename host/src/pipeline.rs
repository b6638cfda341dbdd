//! The pipeline: which stages there are, what runs them now, and which event types reach them.
//!
//! It is what the plugins say, overridden by what the operator says. Swapping a handler is atomic:
//! a batch takes one handler and keeps it, so a message in flight finishes on the version it began
//! with.

pub mod metrics;
pub mod plugin_change;
pub mod routes;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::config::{Config, RecordingConfig, StageConfig};
use crate::domain::event::{
    BREAKER_CHANGED, DEAD_LETTERED, ORDER_CANCELLED, ORDER_CREATED, PLUGIN_ROLLED_BACK,
    PRODUCT_STOCKED, topic_matches,
};
use crate::pipeline::metrics::StageMetrics;
use crate::pipeline::routes::Routes;
use crate::runtime::egress::Egress;
use crate::stage::circuit_breaker::CircuitBreaker;
use crate::stage::handler::StageHandler;
use crate::stage::outcome::Outcome;
use crate::stage::policy::StagePolicy;
use crate::stage::rate_limit::{self, RateLimit};
use crate::stage::recording::Recorder;
use crate::stage::rollout_guard::{CallEnd, Finding, RolloutGuard};
use crate::stage::settings::Settings;
use crate::store::{ControlState, StageBinding, StageControl};

/// Event types that the host itself publishes.
const HOST_EVENTS: [&str; 6] = [
    ORDER_CREATED,
    ORDER_CANCELLED,
    PRODUCT_STOCKED,
    DEAD_LETTERED,
    BREAKER_CHANGED,
    PLUGIN_ROLLED_BACK,
];

/// What runs a stage now.
pub struct Running {
    /// The handler.
    pub handler: Arc<dyn StageHandler>,
    /// What decisions need to know.
    pub policy: StagePolicy,
    /// Plugin file; none for a native stage.
    pub file: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: u64,
}

/// Whether a host consumes a stage's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Consumption {
    /// Nothing runs the stage here.
    #[default]
    Idle,
    /// It should, and the broker does not let it yet.
    Connecting,
    /// It does.
    Consuming,
    /// An operator drains the stage.
    Drained,
    /// Another host has the lease of a single-active stage.
    Standby,
}

/// A stage of the pipeline.
pub struct Stage {
    /// The name under which the operator runs it.
    pub name: Arc<str>,
    /// The operator's configuration of it.
    pub config: StageConfig,
    /// Settings as a guest asks for them.
    pub settings: Arc<Settings>,
    /// Its calls to the outside; none: nothing was granted.
    pub egress: Option<Arc<Egress>>,
    recording: RecordingConfig,
    running: ArcSwapOption<Running>,
    /// The operators' word; none: it runs.
    control: watch::Sender<Option<StageControl>>,
    breaker: Mutex<CircuitBreaker>,
    /// Messages per second, shared by its lanes; none: as fast as it goes.
    pub rate: Option<RateLimit>,
    /// What it does here, counted.
    pub meter: StageMetrics,
    consumption: Mutex<Consumption>,
    trust: Mutex<Trust>,
}

/// What is known of the versions that ran here.
#[derive(Default)]
struct Trust {
    /// The version under watch.
    guard: Option<RolloutGuard<Running>>,
    /// Digests that have shown themselves.
    proven: HashSet<String>,
    /// Digests that trapped too often.
    distrusted: HashSet<String>,
}

impl Stage {
    fn new(name: Arc<str>, config: StageConfig, recording: RecordingConfig) -> Self {
        let settings = Arc::new(Settings::new(&config.settings, &config.secret_values));
        let egress = Egress::new(&config.grants);
        let breaker = Mutex::new(CircuitBreaker::new(config.breaker));
        let rate = config.rate_per_s.and_then(rate_limit::per_second);
        Self {
            name,
            config,
            settings,
            recording,
            egress,
            running: ArcSwapOption::empty(),
            control: watch::Sender::new(None),
            breaker,
            rate,
            meter: StageMetrics::default(),
            consumption: Mutex::default(),
            trust: Mutex::default(),
        }
    }

    /// Notes what one call is given, unless the operator wants none of it.
    pub fn recorder(&self) -> Recorder {
        if self.recording.enabled {
            Recorder::new(self.recording.max_bytes)
        } else {
            Recorder::default()
        }
    }

    /// Takes the operators' word.
    pub fn apply_control(&self, control: Option<StageControl>) {
        self.control.send_if_modified(|present| {
            let changed = *present != control;
            if changed {
                let state = control.as_ref().map_or(ControlState::Running, |control| control.state);
                tracing::info!(stage = %self.name, ?state, "an operator spoke");
                *present = control;
            }
            changed
        });
    }

    /// What operators want of it.
    pub fn control(&self) -> Option<StageControl> {
        self.control.borrow().clone()
    }

    /// Follows what operators want of it.
    pub fn controls(&self) -> watch::Receiver<Option<StageControl>> {
        self.control.subscribe()
    }

    /// Its circuit breaker on this host.
    pub fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When an event of this stage expires: one that did while the stage was held has a whole life
    /// more from the moment it was resumed.
    pub fn expires_at_ms(&self, envelope_expires_at_ms: u64, expiry_ms: u64) -> u64 {
        let control = self.control.borrow();
        let held =
            control.as_ref().and_then(|control| Some((control.held_from_ms?, control.since_ms)));
        match held {
            Some((from_ms, until_ms)) if (from_ms..=until_ms).contains(&envelope_expires_at_ms) => {
                until_ms + expiry_ms
            }
            _ => envelope_expires_at_ms,
        }
    }

    /// Whether this host consumes its queue.
    pub fn consumption(&self) -> Consumption {
        *self.consumption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether this host consumes its queue.
    pub fn set_consumption(&self, consumption: Consumption) {
        *self.consumption.lock().unwrap_or_else(PoisonError::into_inner) = consumption;
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a call of the version `digest`. When the rollout guard rolls that version back, the
    /// previous one runs from the next batch on; returns the reason.
    pub fn report_call(&self, digest: &str, outcome: &Outcome) -> Option<String> {
        let mut trust = self.trust();
        match trust.guard.as_mut()?.report(digest, CallEnd::of(outcome)) {
            Finding::Watching => None,
            Finding::Passed => {
                trust.guard = None;
                trust.proven.insert(digest.to_owned());
                None
            }
            Finding::RolledBack { previous, why } => {
                trust.guard = None;
                trust.distrusted.insert(digest.to_owned());
                self.run(previous);
                Some(why)
            }
        }
    }

    /// Lets `next` run from the next batch on; a version that is new here is watched at first.
    fn run_from_now(&self, next: Running) {
        let mut trust = self.trust();
        let before = self.running.load_full();
        let watched = trust.guard.take().map(|guard| Arc::clone(guard.previous()));
        let digest = next.handler.digest().to_owned();
        // Of several unproven versions in a row, the last proven one is what to go back to.
        let previous = watched.or(before).filter(|previous| {
            let known = previous.handler.digest();
            next.file.is_some() && known != digest && !trust.distrusted.contains(known)
        });
        match previous {
            Some(previous) if self.config.guard.messages > 0 && !trust.proven.contains(&digest) => {
                trust.guard = Some(RolloutGuard::new(self.config.guard, &digest, previous));
            }
            _ => _ = trust.proven.insert(digest),
        }
        self.run(Arc::new(next));
    }

    fn run(&self, next: Arc<Running>) {
        self.running.store(Some(next));
        self.breaker().renew();
    }

    /// What runs it now; none after its plugin was removed.
    pub fn running(&self) -> Option<Arc<Running>> {
        self.running.load_full()
    }
}

type RouteTable = Vec<(Arc<str>, Vec<String>)>;

/// All stages of this host.
pub struct Pipeline {
    config: Config,
    stages: RwLock<BTreeMap<Arc<str>, Arc<Stage>>>,
    /// By what runs here.
    routes: ArcSwap<RouteTable>,
    /// By what other hosts run, or ran: sorted.
    elsewhere: ArcSwap<Vec<StageBinding>>,
}

impl Pipeline {
    /// A pipeline without stages.
    pub fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            stages: RwLock::default(),
            routes: ArcSwap::default(),
            elsewhere: ArcSwap::default(),
        })
    }

    /// Configured stages that run `file`; when there is none, the stage is the one the plugin
    /// names.
    pub fn names_for(&self, file: &str, described: &str) -> Vec<String> {
        let configured: Vec<String> = self
            .config
            .stages
            .iter()
            .filter(|(_, stage)| stage.plugin.as_deref() == Some(file))
            .map(|(name, _)| name.clone())
            .collect();
        if configured.is_empty() { vec![described.to_owned()] } else { configured }
    }

    /// The stage of this name, known or new; a new one has no routes and runs nothing yet.
    pub fn stage(&self, name: &str) -> Arc<Stage> {
        if let Some(stage) = self.find(name) {
            return stage;
        }
        let mut stages = self.stages.write().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = name.into();
        let stage = stages.entry(Arc::clone(&name)).or_insert_with(|| {
            let config = self.config.stage(&name).clone();
            Arc::new(Stage::new(name, config, self.config.recording))
        });
        Arc::clone(stage)
    }

    /// A known stage.
    pub fn find(&self, name: &str) -> Option<Arc<Stage>> {
        self.stages.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All known stages by name.
    pub fn stages(&self) -> Vec<Arc<Stage>> {
        self.stages.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Stages that have something to run.
    pub fn consuming(&self) -> Vec<Arc<str>> {
        self.stages()
            .into_iter()
            .filter(|stage| stage.running.load().is_some())
            .map(|stage| Arc::clone(&stage.name))
            .collect()
    }

    /// The operator's configuration of a stage.
    pub fn config_of(&self, name: &str) -> &StageConfig {
        self.config.stage(name)
    }

    /// What decisions need to know of a stage that `handler` runs.
    pub fn policy(&self, stage: &Stage, handler: &dyn StageHandler) -> StagePolicy {
        self.config.stage_policy(&stage.name, handler.description())
    }

    /// Routes `patterns` to the stage from the next commit on.
    pub fn route(&self, stage: &Stage, patterns: Vec<String>) {
        self.routes.rcu(|routes| {
            let mut routes: RouteTable =
                routes.iter().filter(|(name, _)| *name != stage.name).cloned().collect();
            routes.push((Arc::clone(&stage.name), patterns.clone()));
            routes
        });
    }

    /// Routes to stages as other hosts do, from the next commit on.
    pub fn learn(&self, bindings: Vec<StageBinding>) {
        if **self.elsewhere.load() != bindings {
            self.elsewhere.store(Arc::new(bindings));
        }
    }

    /// Everything that reaches a stage, here or elsewhere.
    pub fn bindings_of(&self, name: &str) -> Vec<StageBinding> {
        let routes = self.routes.load();
        let here = routes
            .iter()
            .filter(|(stage, _)| **stage == *name)
            .flat_map(|(stage, patterns)| StageBinding::all(stage, patterns));
        let elsewhere = self.elsewhere.load();
        here.chain(elsewhere.iter().filter(|binding| *binding.stage == *name).cloned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Routes nothing to a stage any more, and does not know it.
    pub fn forget(&self, name: &str) {
        self.routes.rcu(|routes| {
            routes.iter().filter(|(stage, _)| **stage != *name).cloned().collect::<RouteTable>()
        });
        self.elsewhere.rcu(|elsewhere| {
            elsewhere.iter().filter(|binding| *binding.stage != *name).cloned().collect::<Vec<_>>()
        });
        self.stages.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Whether a stage that is declared here takes an event type: a certain one, or any.
    pub fn takes(&self, stage: Option<&Arc<str>>, event_type: &str) -> bool {
        let routes = self.routes.load();
        match stage {
            Some(stage) => routes.iter().any(|(name, _)| name == stage),
            None => routes
                .iter()
                .flat_map(|(_, patterns)| patterns)
                .any(|pattern| topic_matches(pattern, event_type)),
        }
    }

    /// Bindings of the stages that run here.
    pub fn bindings(&self) -> Vec<StageBinding> {
        let running = self.consuming();
        let routes = self.routes.load();
        let here = routes.iter().filter(|(stage, _)| running.contains(stage));
        here.flat_map(|(stage, patterns)| StageBinding::all(stage, patterns)).collect()
    }

    /// Lets `handler` run the stage from the next batch on.
    pub fn swap(
        &self,
        stage: &Stage,
        handler: Arc<dyn StageHandler>,
        file: Option<String>,
        now_ms: u64,
    ) {
        let policy = self.policy(stage, &*handler);
        stage.run_from_now(Running { handler, policy, file, loaded_at_ms: now_ms });
    }

    /// The stage runs nothing from the next batch on; its queue and routes stay.
    pub fn clear(&self, stage: &Stage) {
        stage.running.store(None);
    }

    /// The pipeline as a drawing needs it, with what looks wrong about it.
    pub fn topology(&self) -> Topology {
        let nodes: Vec<TopologyStage> = self
            .stages()
            .iter()
            .filter_map(|stage| Some(TopologyStage::of(&*stage.running()?)))
            .collect();
        let outside = self.config.orders.external_event_types.iter().map(String::as_str);
        let sources: Vec<&str> = HOST_EVENTS.into_iter().chain(outside).collect();
        let emitted = |pattern: &str| {
            sources.iter().any(|event_type| topic_matches(pattern, event_type))
                || nodes
                    .iter()
                    .flat_map(|node| &node.emits)
                    .any(|event_type| topic_matches(pattern, event_type))
        };
        let warnings = nodes
            .iter()
            .flat_map(|node| node.consumes.iter().map(move |pattern| (node, pattern)))
            .filter(|(_, pattern)| !emitted(pattern))
            .map(|(node, pattern)| {
                format!("stage `{}` consumes `{pattern}`, which nobody here emits", node.name)
            })
            .collect();
        Topology { stages: nodes, warnings }
    }
}

impl Routes for Pipeline {
    fn stages_for(&self, event_type: &str) -> Vec<Arc<str>> {
        let routes = self.routes.load();
        let reached = |(_, patterns): &&(Arc<str>, Vec<String>)| {
            patterns.iter().any(|pattern| topic_matches(pattern, event_type))
        };
        let mut stages: Vec<Arc<str>> =
            routes.iter().filter(reached).map(|(stage, _)| Arc::clone(stage)).collect();
        for binding in self.elsewhere.load().iter() {
            if !stages.contains(&binding.stage) && topic_matches(&binding.pattern, event_type) {
                stages.push(Arc::clone(&binding.stage));
            }
        }
        stages
    }
}

/// The pipeline as stages and the event types between them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Topology {
    /// Stages by name.
    pub stages: Vec<TopologyStage>,
    /// What cannot be reached.
    pub warnings: Vec<String>,
}

/// A stage of a drawing.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopologyStage {
    /// Its name.
    pub name: String,
    /// Version of its plugin.
    pub version: String,
    /// Topic patterns.
    pub consumes: Vec<String>,
    /// Event types.
    pub emits: Vec<String>,
}

impl TopologyStage {
    fn of(running: &Running) -> Self {
        Self {
            name: running.policy.name.to_string(),
            version: running.handler.description().version.clone(),
            consumes: running.policy.consumes.clone(),
            emits: running.policy.emits.clone(),
        }
    }
}
