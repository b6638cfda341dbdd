//! The topology: the stages that run here and the event types between them.

use serde::{Deserialize, Serialize};

use super::stage::Running;
use crate::config::StageConfig;
use crate::domain::cloud_events::allow_list::AllowList;
use crate::domain::event::{
    BREAKER_CHANGED, DEAD_LETTERED, PLUGIN_ROLLED_BACK, PRODUCT_STOCKED, topic_covers,
    topic_matches,
};
use crate::stage::event_settings;

/// Event types that the host itself publishes, beside those of subjects.
const HOST_EVENTS: [&str; 4] =
    [PRODUCT_STOCKED, DEAD_LETTERED, BREAKER_CHANGED, PLUGIN_ROLLED_BACK];

/// The pipeline as stages and the event types between them.
#[derive(Debug, Serialize)]
pub struct Topology {
    /// Types of the first events of subjects, which begin a pipeline.
    pub first_events: Vec<String>,
    /// Stages by name.
    pub stages: Vec<TopologyStage>,
    /// Patterns that no event matches or that a stage does not handle, in words.
    pub warnings: Vec<String>,
}

/// A stage and the event types that it consumes and emits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TopologyStage {
    /// Name under which the operator runs it.
    pub name: String,
    /// Version of its plugin.
    pub version: String,
    /// Topic patterns.
    pub consumes: Vec<String>,
    /// Topic patterns that its code handles with the operator's settings.
    pub handles: Vec<String>,
    /// Event types.
    pub emits: Vec<String>,
}

impl TopologyStage {
    pub(super) fn of(running: &Running, config: &StageConfig) -> Self {
        let description = running.handler.description();
        Self {
            name: running.policy.name.to_string(),
            version: description.version.clone(),
            consumes: running.policy.consumes.clone(),
            handles: event_settings::handles(description, &config.settings),
            emits: running.policy.emits.clone(),
        }
    }

    /// Patterns that the operator routes to the stage although its code does not handle them.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let covered =
            |by: &[String], pattern: &str| by.iter().any(|one| topic_covers(one, pattern));
        let unhandled = self.consumes.iter().filter(move |one| !covered(&self.handles, one));
        unhandled.map(move |pattern| {
            format!(
                "stage `{}` consumes `{pattern}`, which its plugin does not handle (it handles {}): \
                 its settings and its `consumes` disagree",
                self.name,
                self.handles.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ")
            )
        })
    }
}

impl Topology {
    /// The topology of stages by name, on a host that also publishes or accepts `external` event types.
    pub(super) fn of(
        first_events: Vec<String>,
        stages: Vec<TopologyStage>,
        external: &[&str],
    ) -> Self {
        let emitted = |pattern: &str| {
            let external = first_events.iter().map(String::as_str).chain(external.iter().copied());
            let emitted = stages.iter().flat_map(|stage| &stage.emits).map(String::as_str);
            HOST_EVENTS
                .into_iter()
                .chain(external)
                .chain(emitted)
                .any(|event_type| topic_matches(pattern, event_type))
        };
        let warnings: Vec<String> = stages
            .iter()
            .flat_map(|stage| stage.consumes.iter().map(move |pattern| (stage, pattern)))
            .filter(|(_, pattern)| !emitted(pattern))
            .map(|(stage, pattern)| {
                format!("stage `{}` consumes `{pattern}`, which no stage emits", stage.name)
            })
            .collect();
        let warnings = stages.iter().flat_map(TopologyStage::warnings).chain(warnings).collect();
        Self { first_events, stages, warnings }
    }

    /// Warns of types that a stage expects of other programs, and that they may not send.
    pub(super) fn warn_of_refused(&mut self, external: &[String], allowed: &AllowList) {
        let is_consumed = |event_type: &str| {
            let mut patterns = self.stages.iter().flat_map(|stage| &stage.consumes);
            patterns.any(|pattern| topic_matches(pattern, event_type))
        };
        let refused = external
            .iter()
            .filter(|one| !one.contains(['*', '#']) && is_consumed(one) && !allowed.has_type(one));
        let warnings: Vec<String> = refused
            .map(|event_type| {
                format!(
                    "other programs may not send `{event_type}`, which \
                     `events.external_event_types` expects of them: add it to `ingress.allow`"
                )
            })
            .collect();
        self.warnings.extend(warnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn stage(consumes: &[&str], handles: &[&str]) -> TopologyStage {
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        TopologyStage {
            name: "payment".into(),
            version: "1".into(),
            consumes: texts(consumes),
            handles: texts(handles),
            emits: Vec::new(),
        }
    }

    fn topology(stage: TopologyStage) -> Topology {
        Topology::of(vec!["order.created".to_owned()], vec![stage], &["order.cancelled"])
    }

    #[test]
    fn types_that_a_stage_cannot_handle_are_reported() {
        let fits = stage(&["order.created", "order.cancelled"], &["order.*"]);
        assert_eq!(topology(fits).warnings, Vec::<String>::new());
        let odd = stage(&["order.created", "order.#"], &["order.created", "order.*"]);
        let warnings = topology(odd).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("consumes `order.#`, which its plugin does not handle"));
    }

    #[test]
    fn expected_types_that_other_programs_may_not_send_are_reported() {
        let warnings = |consumes: &[&str], allow: &str| {
            let config = Config::from_toml(&format!("ingress.allow = {allow}")).unwrap();
            let mut topology = topology(stage(consumes, &["#"]));
            topology.warnings.clear();
            let allowed = config.allow_list(&config.kinds().unwrap());
            topology.warn_of_refused(&config.events.external_event_types, &allowed);
            topology.warnings
        };
        assert_eq!(warnings(&["carrier.*"], "[\"#\"]"), Vec::<String>::new());
        assert_eq!(warnings(&["order.created"], "[]"), Vec::<String>::new());
        let found = warnings(&["carrier.*"], "[\"desk.*\"]");
        assert!(found.len() == 1 && found[0].contains("`carrier.collected`"), "{found:?}");
    }
}
