//! Draws a pipeline as a tree: under each event type the stages that consume it, under each stage the
//! event types that it emits. A stage is drawn in full once, so a cycle ends.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use postrider::internals::{Topology, TopologyStage, topic_matches};

/// The tree, from the event types that no stage emits, and the warnings.
pub(crate) fn draw(topology: &Topology) -> String {
    let mut drawing = Drawing { topology, drawn: BTreeSet::new(), out: String::new() };
    for root in roots(topology) {
        let _ = writeln!(drawing.out, "{root}");
        drawing.consumers(root, "");
    }
    // A cycle has no beginning.
    for stage in &topology.stages {
        if !drawing.drawn.contains(stage.name.as_str()) {
            let pattern = stage.consumes.first().map_or("", String::as_str);
            let _ = writeln!(drawing.out, "{pattern}");
            drawing.consumers(pattern, "");
        }
    }
    for warning in &topology.warnings {
        let _ = writeln!(drawing.out, "warning: {warning}");
    }
    drawing.out
}

/// The patterns that no emitted event type matches, each once, in the order of the stages that need
/// them first.
fn roots(topology: &Topology) -> Vec<&str> {
    let emitted = |pattern: &str| {
        let mut all = topology.stages.iter().flat_map(|stage| &stage.emits);
        all.any(|event_type| topic_matches(pattern, event_type))
    };
    let mut roots: Vec<&str> = Vec::new();
    for pattern in topology.stages.iter().flat_map(|stage| &stage.consumes) {
        if !emitted(pattern) && !roots.contains(&pattern.as_str()) {
            roots.push(pattern);
        }
    }
    // What begins a subject comes first.
    let begins = |root: &str| topology.first_events.iter().any(|first| topic_matches(root, first));
    roots.sort_by_key(|root| !begins(root));
    roots
}

struct Drawing<'a> {
    topology: &'a Topology,
    drawn: BTreeSet<&'a str>,
    out: String,
}

impl<'a> Drawing<'a> {
    fn consumers(&mut self, event_type: &str, indent: &str) {
        let consumes = |stage: &&TopologyStage| {
            let mut patterns = stage.consumes.iter();
            patterns.any(|pattern| pattern == event_type || topic_matches(pattern, event_type))
        };
        let stages: Vec<&'a TopologyStage> = self.topology.stages.iter().filter(consumes).collect();
        for (at, stage) in stages.iter().enumerate() {
            let (branch, below) = branches(at + 1 == stages.len());
            if self.drawn.insert(&stage.name) {
                let _ = writeln!(self.out, "{indent}{branch}{} {}", stage.name, stage.version);
                self.emitted(stage, &format!("{indent}{below}"));
            } else {
                let _ = writeln!(self.out, "{indent}{branch}{} ↑", stage.name);
            }
        }
    }

    fn emitted(&mut self, stage: &'a TopologyStage, indent: &str) {
        for (at, event_type) in stage.emits.iter().enumerate() {
            let (branch, below) = branches(at + 1 == stage.emits.len());
            let _ = writeln!(self.out, "{indent}{branch}{event_type}");
            self.consumers(event_type, &format!("{indent}{below}"));
        }
    }
}

/// What stands before an entry, and before those below it.
fn branches(is_last: bool) -> (&'static str, &'static str) {
    if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, consumes: &[&str], emits: &[&str]) -> TopologyStage {
        let texts = |all: &[&str]| -> Vec<String> { all.iter().map(ToString::to_string).collect() };
        TopologyStage {
            name: name.into(),
            version: "1".into(),
            consumes: texts(consumes),
            handles: texts(consumes),
            emits: texts(emits),
        }
    }

    #[test]
    fn a_pipeline_is_drawn_from_what_begins_it() {
        let stages = vec![
            stage("inventory", &["payment.authorized", "order.cancelled"], &["stock.reserved"]),
            stage("payment", &["order.created", "order.cancelled"], &["payment.authorized"]),
            stage("watcher", &["stock.*"], &["watch.again"]),
            stage("retry", &["watch.again"], &["stock.again"]),
        ];
        let topology = Topology {
            first_events: vec!["order.created".into()],
            stages,
            warnings: vec!["doubtful".into()],
        };
        let expected = "\
order.created
└─ payment 1
   └─ payment.authorized
      └─ inventory 1
         └─ stock.reserved
            └─ watcher 1
               └─ watch.again
                  └─ retry 1
                     └─ stock.again
                        └─ watcher ↑
order.cancelled
├─ inventory ↑
└─ payment ↑
warning: doubtful
";
        assert_eq!(draw(&topology), expected);
    }

    #[test]
    fn a_cycle_without_a_beginning_is_drawn_once() {
        let stages = vec![stage("a", &["x"], &["y"]), stage("b", &["y"], &["x"])];
        let topology = Topology { first_events: Vec::new(), stages, warnings: Vec::new() };
        let drawn = draw(&topology);
        assert_eq!(drawn, "x\n└─ a 1\n   └─ y\n      └─ b 1\n         └─ x\n            └─ a ↑\n");
    }
}
