//! The output of `postrider dev`: builds, reloads and outcomes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use console::style;
use serde_json::Value;

use super::locked;
use crate::client::text;
use postrider::{PluginStatus, Settlement, Verdict};

/// Maximum number of characters printed of a payload.
const DATA_MAX: usize = 300;

/// Prints to standard output.
#[derive(Default)]
pub(super) struct Console {
    /// For each digest without an outcome yet: when its source was saved, and how long its build
    /// took.
    saved: Mutex<HashMap<String, (Instant, Duration)>>,
}

impl Console {
    pub(super) fn serving(address: SocketAddr, plugins: &[PluginStatus]) {
        outln!("{} http://{address}; stop with Ctrl-C", style("serving").green().bold());
        for plugin in plugins {
            let name = plugin.stage.as_deref().or(plugin.file.as_deref()).unwrap_or("?");
            match &plugin.last_error {
                None => outln!(
                    "  {name} {} consumes {}",
                    plugin.version.as_deref().unwrap_or(""),
                    plugin.consumes.join(", ")
                ),
                Some(error) => Self::failed(name, error),
            }
        }
    }

    pub(super) fn built(name: &str, took: Duration, bytes: usize) {
        outln!("{} {name} in {} ({} kB)", style("built").green(), seconds(took), bytes / 1_000);
    }

    pub(super) fn reloaded(name: &str, since: Duration) {
        outln!("{} {name}, {} after it was saved", style("reloaded").green(), seconds(since));
    }

    pub(super) fn failed(name: &str, reason: &str) {
        outln!("{} {name}", style("failed").red().bold());
        outln!("{}", indented(reason));
    }

    /// The log lines of a fixture's run.
    pub(super) fn guest_log(lines: &Value) {
        for line in lines.as_array().into_iter().flatten() {
            let level = text(&line["level"]).to_uppercase();
            outln!("         {} {}", style(level).dim(), text(&line["message"]));
        }
    }

    /// Why a host refuses what a fixture led to.
    pub(super) fn refused(code: &str, message: &str) {
        outln!("{}", indented(&format!("{}: {message}", style(code).red())));
    }

    /// Measures the time from the save until the first outcome of this digest.
    pub(super) fn expect(&self, digest: &str, saved: Instant, build: Duration) {
        locked(&self.saved).insert(digest.to_owned(), (saved, build));
    }

    pub(super) fn settled(&self, settlement: &Settlement) {
        outln!("{}", line(settlement));
        if let Some((saved, build)) = locked(&self.saved).remove(&*settlement.digest) {
            let whole = saved.elapsed();
            outln!(
                "         {} after the save, including a build of {}",
                seconds(whole),
                seconds(build)
            );
        }
    }
}

/// Formats an outcome with its events, or with the reason for the failure.
fn line(settlement: &Settlement) -> String {
    let event = &settlement.envelope.event;
    let stage = style(format!("{}@{}", settlement.delivery.stage, settlement.version)).cyan();
    let took = Duration::from_micros(settlement.duration_us);
    let mut text = format!("{stage} {} {} ", event.event_type, style(&event.subject).bold());
    let _ = match &settlement.verdict {
        Verdict::Done(events) if events.is_empty() => write!(text, "→ no events"),
        Verdict::Done(events) => {
            let types: Vec<&str> =
                events.iter().map(|event| event.envelope.event.event_type.as_str()).collect();
            write!(text, "→ {}", style(types.join(", ")).green())
        }
        Verdict::Retry { .. } => {
            write!(text, "{} attempt {}", style("failed").yellow(), settlement.attempt)
        }
        Verdict::Dead { code, .. } => {
            write!(text, "{} {code}", style("dead-lettered").red().bold())
        }
        Verdict::Skipped => write!(text, "skipped"),
        Verdict::Deferred { .. } => write!(text, "deferred"),
    };
    let _ = write!(text, " {}", style(format!("{:.2} ms", took.as_secs_f64() * 1_000.0)).dim());
    if let Verdict::Done(events) = &settlement.verdict {
        for event in events {
            let data = String::from_utf8_lossy(&event.envelope.event.data);
            let shown: String = data.chars().take(DATA_MAX).collect();
            let _ = write!(
                text,
                "\n         {shown}{}",
                if data.len() > shown.len() { "…" } else { "" }
            );
        }
    }
    if let Some(failure) = &settlement.failure {
        let _ = write!(text, "\n{}", indented(&format!("{}: {}", failure.code, failure.message)));
        if let Some(backtrace) = &failure.backtrace {
            let _ = write!(text, "\n{}", indented(backtrace));
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("         {line}")).collect::<Vec<_>>().join("\n")
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
