//! What a host reports of itself, as it is stored: versioned JSON, so that hosts of different versions
//! of the program can read each other's.
//!
//! Bounds: [`TEXT_MAX`] for each text that quotes an error, and [`MAX_BYTES`] in all. A report that is
//! longer has the names and versions of the stages only.

use serde::{Deserialize, Serialize};

use super::StageRates;
use crate::app::plugins::PluginStatus;
use crate::app::stages::StageStatus;
use crate::app::{App, plugins, stages};
use crate::pipeline::TopologyStage;
use crate::store::LiveHost;

/// The format of a report. A host that writes fields that older ones do not need keeps it.
const FORMAT: u32 = 1;
/// Most bytes of a report.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Most characters of a reason or an error.
const TEXT_MAX: usize = 500;

/// A live host, and what it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HostStatus {
    /// Its name.
    pub(crate) host: String,
    /// When it reported last, milliseconds since 1970-01-01 UTC.
    pub(crate) seen_at_ms: u64,
    /// Whether what follows is known: it has reported, in a format that this host can read.
    pub(crate) is_readable: bool,
    /// Version of the program.
    pub(crate) version: String,
    /// When it started, milliseconds since 1970-01-01 UTC.
    pub(crate) started_at_ms: u64,
    /// The address on which it serves its API, if it serves one itself.
    pub(crate) api: Option<String>,
    /// The stages that it knows.
    pub(crate) stages: Vec<StageStatus>,
    /// Its plugins.
    pub(crate) plugins: Vec<PluginStatus>,
    /// The stages that it runs, and the event types between them.
    #[serde(default)]
    pub(crate) topology: Vec<TopologyStage>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Report {
    format: u32,
    of: HostStatus,
}

impl HostStatus {
    /// A stage that it knows.
    pub(crate) fn stage(&self, name: &str) -> Option<&StageStatus> {
        self.stages.iter().find(|stage| stage.stage == name)
    }

    pub(super) fn from_store(live: LiveHost) -> Self {
        let report = live.report.as_deref().unwrap_or_default();
        let read = serde_json::from_str::<Format>(report)
            .ok()
            .filter(|one| one.format == FORMAT)
            .and_then(|_| serde_json::from_str::<Report>(report).ok());
        let mut status = read.map_or_else(|| Self::unreadable(&live.host), |report| report.of);
        status.host = live.host;
        status.seen_at_ms = live.seen_at_ms;
        status
    }

    fn unreadable(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            seen_at_ms: 0,
            is_readable: false,
            version: String::new(),
            started_at_ms: 0,
            api: None,
            stages: Vec::new(),
            plugins: Vec::new(),
            topology: Vec::new(),
        }
    }

    /// The report, as it is stored.
    pub(super) fn to_report(&self) -> String {
        let mut of = self.clone();
        of.shorten_texts();
        let mut report = Report { format: FORMAT, of };
        let text = to_json(&report);
        if text.len() <= MAX_BYTES {
            return text;
        }
        report.of.plugins.clear();
        report.of.topology.clear();
        let text = to_json(&report);
        if text.len() <= MAX_BYTES {
            return text;
        }
        report.of.stages.clear();
        report.of.is_readable = false;
        to_json(&report)
    }

    /// What changes only when something happens to a stage or a plugin.
    pub(super) fn without_figures(&self) -> String {
        let mut still = self.clone();
        still.seen_at_ms = 0;
        for stage in &mut still.stages {
            (stage.held, stage.handed_over, stage.rates) = (0, 0, StageRates::default());
            stage.breaker.next_probe_at_ms = None;
        }
        to_json(&still)
    }

    fn shorten_texts(&mut self) {
        for stage in &mut self.stages {
            for text in stages::texts(stage) {
                shorten(text);
            }
        }
        for plugin in &mut self.plugins {
            for text in plugins::texts(plugin) {
                shorten(text);
            }
        }
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists of them always serialise")
}

fn shorten(text: &mut Option<String>) {
    if let Some(text) = text
        && let Some((end, _)) = text.char_indices().nth(TEXT_MAX)
    {
        text.truncate(end);
        text.push('…');
    }
}

impl App {
    /// What this host runs, now.
    pub(super) fn own_status(&self) -> HostStatus {
        HostStatus {
            host: self.services.host.to_string(),
            seen_at_ms: self.services.clock.now_ms(),
            is_readable: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.cluster.started_at_ms,
            api: self.cluster.api.get().map(ToString::to_string),
            stages: self.own_stages(),
            plugins: self.plugins(),
            topology: self.services.pipeline.topology().stages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str, emits: usize) -> HostStatus {
        let mut plugin = PluginStatus::named("payment", "1.0.0");
        plugin.last_error = Some(reason.to_owned());
        plugin.emits = vec!["an.event-type".repeat(10); emits];
        let mut status = HostStatus::unreadable("here");
        status.is_readable = true;
        status.stages = vec![StageStatus::named("payment")];
        status.plugins = vec![plugin];
        status
    }

    fn read(report: String) -> HostStatus {
        let live = LiveHost { host: "here".to_owned(), seen_at_ms: 7, report: Some(report) };
        HostStatus::from_store(live)
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let read = read(status("no such import", 2).to_report());
        assert_eq!((read.is_readable, read.seen_at_ms), (true, 7));
        assert_eq!(read.plugins[0].last_error.as_deref(), Some("no such import"));
        assert_eq!(read.stages[0].stage, "payment");
    }

    #[test]
    fn a_report_is_bounded() {
        let long = status(&"é".repeat(10_000), 1).to_report();
        assert_eq!(read(long).plugins[0].last_error.as_ref().unwrap().chars().count(), 501);
        let large = status("", 10_000).to_report();
        assert!(large.len() <= MAX_BYTES, "{}", large.len());
        let read = read(large);
        assert_eq!((read.stages.len(), read.plugins.len()), (1, 0));
    }

    #[test]
    fn a_report_in_another_format_is_not_read() {
        let newer = status("", 0).to_report().replace(r#""format":1"#, r#""format":2"#);
        for report in [newer, "{}".to_owned(), "no JSON".to_owned()] {
            let read = read(report);
            assert_eq!((read.host.as_str(), read.is_readable), ("here", false));
        }
    }

    #[test]
    fn figures_are_no_change() {
        let before = status("", 0);
        let mut after = before.clone();
        (after.stages[0].held, after.seen_at_ms) = (3, 9);
        assert_eq!(before.without_figures(), after.without_figures());
        after.stages[0].version = Some("2.0.0".to_owned());
        assert_ne!(before.without_figures(), after.without_figures());
    }
}
