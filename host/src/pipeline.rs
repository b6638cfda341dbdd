//! The pipeline: the stages of this host, the versions that run them, the routes between them, and
//! the chains of events that pass through them.
//!
//! It is what the plugins describe, overridden by the operator's configuration. It does no I/O: the
//! supervisor loads plugins into it, and background tasks tell it about other hosts. Bounds: the
//! stages that are configured, loaded, or bound by other hosts.

pub mod hand_over;
mod in_flight;
mod stage;
pub mod chains;
pub mod routes;
mod topology;
pub mod metrics;
pub mod plugin_change;
pub mod turns;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use self::chains::Chains;
use self::hand_over::HandOver;
use self::routes::{RouteTable, Routes};
pub use self::stage::{Consumption, Running, Stage};
pub use self::topology::{Topology, TopologyStage};
use crate::config::{Config, StageConfig};
use crate::domain::subject_kind::SubjectKinds;
use crate::stage::handler::StageHandler;
use crate::stage::policy::StagePolicy;
use crate::store::StageBinding;

/// All stages of this host.
pub struct Pipeline {
    config: Config,
    kinds: Arc<SubjectKinds>,
    stages: RwLock<BTreeMap<Arc<str>, Arc<Stage>>>,
    routes: RouteTable,
    chains: Arc<Chains>,
    hand_over: HandOver,
}

impl Pipeline {
    /// A pipeline without stages.
    pub fn new(config: &Config, kinds: Arc<SubjectKinds>) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            kinds,
            stages: RwLock::default(),
            routes: RouteTable::default(),
            chains: Chains::new(config.events.chain_events_max),
            hand_over: HandOver::new(&config.broker),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kinds of subjects.
    pub fn kinds(&self) -> &Arc<SubjectKinds> {
        &self.kinds
    }

    /// The chains of events that pass through this host.
    pub fn chains(&self) -> &Arc<Chains> {
        &self.chains
    }

    /// Names of the stages that run the plugin `file`: those configured with it, or else the name in
    /// its description.
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

    /// The stage of this name. A new one has no routes and runs nothing yet.
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

    /// Names of the stages that run here.
    pub fn consuming(&self) -> Vec<Arc<str>> {
        self.stages()
            .into_iter()
            .filter(|stage| stage.is_running())
            .map(|stage| Arc::clone(&stage.name))
            .collect()
    }

    /// The operator's configuration of a stage.
    pub fn config_of(&self, name: &str) -> &StageConfig {
        self.config.stage(name)
    }

    /// Most open dead letters of refused messages that a stage may have.
    pub fn refused_max(&self) -> u64 {
        self.config.ingress.dead_letters_max
    }

    /// What decisions follow when `handler` runs the stage.
    pub fn policy(&self, stage: &Stage, handler: &dyn StageHandler) -> StagePolicy {
        self.config.stage_policy(&stage.name, handler.description())
    }

    /// Routes `patterns` to the stage from the next commit on.
    pub fn route(&self, stage: &Stage, patterns: &[String]) {
        self.routes.set(&stage.name, patterns);
    }

    /// Routes to stages as other hosts do, from the next commit on.
    pub fn set_remote_bindings(&self, bindings: Vec<StageBinding>) {
        self.routes.set_remote(bindings);
    }

    /// Every binding of a stage, here and on other hosts, sorted.
    pub fn bindings_of(&self, name: &str) -> Vec<StageBinding> {
        self.routes.bindings_of(name)
    }

    /// Names of the stages that events are routed to, here and on other hosts, sorted.
    pub fn bound_stages(&self) -> Vec<Arc<str>> {
        self.routes.bound_stages()
    }

    /// Bindings of the stages that run here.
    pub fn bindings(&self) -> Vec<StageBinding> {
        self.routes.local_bindings(&self.consuming())
    }

    /// Whether a stage of this name is declared here.
    pub fn is_declared(&self, stage: &str) -> bool {
        self.routes.is_declared(stage)
    }

    /// Whether a stage that is declared here consumes the event type.
    pub fn is_consumed(&self, event_type: &str) -> bool {
        self.routes.is_consumed(event_type)
    }

    /// Deletes a stage with its routes.
    pub fn delete(&self, name: &str) {
        self.routes.remove(name);
        self.stages.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Runs `handler` from the next batch on.
    pub fn swap(
        &self,
        stage: &Stage,
        handler: Arc<dyn StageHandler>,
        file: Option<String>,
        now_ms: u64,
    ) {
        let policy = self.policy(stage, &*handler);
        let digest = handler.digest().into();
        stage.replace(Running { handler, digest, policy, file, loaded_at_ms: now_ms });
    }

    /// The stage runs nothing from the next batch on; its queue and routes stay.
    pub fn stop(&self, stage: &Stage) {
        stage.stop();
    }

    /// The stages that run here and the event types between them, with warnings.
    pub fn topology(&self) -> Topology {
        let stages = self.stages();
        self.topology_with(stages.iter().filter_map(|stage| self.topology_of(stage)).collect())
    }

    /// The same, of these stages by name.
    pub fn topology_with(&self, stages: Vec<TopologyStage>) -> Topology {
        let external = self.config.events.external_event_types.iter().map(String::as_str);
        let cancels = self.kinds.iter().map(|kind| &*kind.cancel_event);
        let first_events = self.kinds.iter().map(|kind| kind.first_event.clone()).collect();
        let external = external.chain(cancels).collect::<Vec<_>>();
        let mut topology = Topology::of(first_events, stages, &external);
        let allowed = self.config.allow_list(&self.kinds);
        topology.warn_of_refused(&self.config.events.external_event_types, &allowed);
        topology
    }

    /// A stage of the topology; none while nothing runs it here.
    pub fn topology_of(&self, stage: &Stage) -> Option<TopologyStage> {
        Some(TopologyStage::of(&*stage.running()?, &stage.config))
    }
}

impl Routes for Pipeline {
    fn stages_for(&self, event_type: &str) -> Vec<Arc<str>> {
        self.routes.stages_for(event_type)
    }
}
