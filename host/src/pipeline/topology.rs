//! The topology: the stages that run here and the event types between them.

use serde::Serialize;

use super::stage::Running;
use crate::domain::event::{
    BREAKER_CHANGED, DEAD_LETTERED, ORDER_CANCELLED, ORDER_CREATED, PLUGIN_ROLLED_BACK,
    PRODUCT_STOCKED, topic_matches,
};

/// Event types that the host itself publishes.
const HOST_EVENTS: [&str; 6] = [
    ORDER_CREATED,
    ORDER_CANCELLED,
    PRODUCT_STOCKED,
    DEAD_LETTERED,
    BREAKER_CHANGED,
    PLUGIN_ROLLED_BACK,
];

/// The pipeline as stages and the event types between them.
#[derive(Debug, Serialize)]
pub struct Topology {
    /// Stages by name.
    pub stages: Vec<TopologyStage>,
    /// Patterns that no event matches, in words.
    pub warnings: Vec<String>,
}

/// A stage and the event types that it consumes and emits.
#[derive(Debug, Serialize)]
pub struct TopologyStage {
    /// Name under which the operator runs it.
    pub name: String,
    /// Version of its plugin.
    pub version: String,
    /// Topic patterns.
    pub consumes: Vec<String>,
    /// Event types.
    pub emits: Vec<String>,
}

impl TopologyStage {
    pub(super) fn of(running: &Running) -> Self {
        Self {
            name: running.policy.name.to_string(),
            version: running.handler.description().version.clone(),
            consumes: running.policy.consumes.clone(),
            emits: running.policy.emits.clone(),
        }
    }
}

impl Topology {
    /// The topology of stages by name, on a host that also accepts `external` event types.
    pub(super) fn of(stages: Vec<TopologyStage>, external: &[String]) -> Self {
        let emitted = |pattern: &str| {
            let external = external.iter().map(String::as_str);
            let emitted = stages.iter().flat_map(|stage| &stage.emits).map(String::as_str);
            HOST_EVENTS
                .into_iter()
                .chain(external)
                .chain(emitted)
                .any(|event_type| topic_matches(pattern, event_type))
        };
        let warnings = stages
            .iter()
            .flat_map(|stage| stage.consumes.iter().map(move |pattern| (stage, pattern)))
            .filter(|(_, pattern)| !emitted(pattern))
            .map(|(stage, pattern)| {
                format!("stage `{}` consumes `{pattern}`, which no stage here emits", stage.name)
            })
            .collect();
        Self { stages, warnings }
    }
}
