//! Routes: which stages an event reaches, on this host and on the others.
//!
//! A commit routes its events by the table of the moment, so a change applies from the next commit
//! on. Readers take no lock.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::event::topic_matches;
use crate::store::StageBinding;

/// Which stages consume an event type.
pub trait Routes {
    /// Names of the stages, by the topology of the moment.
    fn stages_for(&self, event_type: &str) -> Vec<Arc<str>>;
}

type LocalRoutes = Vec<(Arc<str>, Vec<String>)>;

/// The routes that this host knows.
#[derive(Default)]
pub(super) struct RouteTable {
    /// Topic patterns of the stages that are declared here.
    local: ArcSwap<LocalRoutes>,
    /// Bindings that other hosts use, or used: sorted.
    remote: ArcSwap<Vec<StageBinding>>,
}

impl RouteTable {
    /// Routes `patterns` to the stage, and nothing else.
    pub(super) fn set(&self, stage: &Arc<str>, patterns: &[String]) {
        self.local.rcu(|routes| {
            let mut routes: LocalRoutes =
                routes.iter().filter(|(name, _)| name != stage).cloned().collect();
            routes.push((Arc::clone(stage), patterns.to_vec()));
            routes
        });
    }

    pub(super) fn set_remote(&self, bindings: Vec<StageBinding>) {
        if **self.remote.load() != bindings {
            self.remote.store(Arc::new(bindings));
        }
    }

    pub(super) fn remove(&self, name: &str) {
        self.local.rcu(|routes| {
            routes.iter().filter(|(stage, _)| **stage != *name).cloned().collect::<LocalRoutes>()
        });
        self.remote.rcu(|remote| {
            remote.iter().filter(|binding| *binding.stage != *name).cloned().collect::<Vec<_>>()
        });
    }

    /// Every binding of a stage, here and on other hosts, sorted.
    pub(super) fn bindings_of(&self, name: &str) -> Vec<StageBinding> {
        let routes = self.local.load();
        let local = routes
            .iter()
            .filter(|(stage, _)| **stage == *name)
            .flat_map(|(stage, patterns)| StageBinding::all(stage, patterns));
        let remote = self.remote.load();
        local
            .chain(remote.iter().filter(|binding| *binding.stage == *name).cloned())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Names of the stages with a binding, here or on other hosts, sorted.
    pub(super) fn bound_stages(&self) -> Vec<Arc<str>> {
        let (local, remote) = (self.local.load(), self.remote.load());
        let local = local.iter().filter(|(_, patterns)| !patterns.is_empty());
        let names = local.map(|(stage, _)| stage).chain(remote.iter().map(|one| &one.stage));
        names.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Bindings of these stages on this host.
    pub(super) fn local_bindings(&self, stages: &[Arc<str>]) -> Vec<StageBinding> {
        let routes = self.local.load();
        let local = routes.iter().filter(|(stage, _)| stages.contains(stage));
        local.flat_map(|(stage, patterns)| StageBinding::all(stage, patterns)).collect()
    }

    /// Whether this stage is declared here.
    pub(super) fn is_declared(&self, stage: &str) -> bool {
        self.local.load().iter().any(|(name, _)| **name == *stage)
    }

    /// Whether a stage that is declared here consumes the event type.
    pub(super) fn is_consumed(&self, event_type: &str) -> bool {
        let routes = self.local.load();
        let mut patterns = routes.iter().flat_map(|(_, patterns)| patterns);
        patterns.any(|pattern| topic_matches(pattern, event_type))
    }
}

impl Routes for RouteTable {
    fn stages_for(&self, event_type: &str) -> Vec<Arc<str>> {
        let routes = self.local.load();
        let reached = |(_, patterns): &&(Arc<str>, Vec<String>)| {
            patterns.iter().any(|pattern| topic_matches(pattern, event_type))
        };
        let mut stages: Vec<Arc<str>> =
            routes.iter().filter(reached).map(|(stage, _)| Arc::clone(stage)).collect();
        for binding in self.remote.load().iter() {
            if !stages.contains(&binding.stage) && topic_matches(&binding.pattern, event_type) {
                stages.push(Arc::clone(&binding.stage));
            }
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(stage: &str, pattern: &str) -> StageBinding {
        StageBinding { stage: stage.into(), pattern: pattern.to_owned() }
    }

    #[test]
    fn an_event_reaches_local_and_remote_stages_once() {
        let routes = RouteTable::default();
        routes.set(&"payment".into(), &["order.created".to_owned()]);
        routes.set_remote(vec![binding("payment", "order.#"), binding("shipping", "order.*")]);
        assert_eq!(routes.stages_for("order.created"), ["payment".into(), "shipping".into()]);
        assert_eq!(routes.stages_for("order.created.late"), ["payment".into()]);
        assert!(routes.is_consumed("order.created") && !routes.is_consumed("order.cancelled"));
        assert!(routes.is_declared("payment") && !routes.is_declared("shipping"));
    }

    #[test]
    fn a_removed_stage_has_no_bindings() {
        let routes = RouteTable::default();
        routes.set(&"payment".into(), &["order.created".to_owned()]);
        routes.set_remote(vec![binding("payment", "a"), binding("shipping", "a")]);
        let expected = [binding("payment", "a"), binding("payment", "order.created")];
        assert_eq!(routes.bindings_of("payment"), expected);
        routes.remove("payment");
        assert_eq!(routes.bindings_of("payment"), []);
        assert_eq!(routes.stages_for("a"), ["shipping".into()]);
    }
}
