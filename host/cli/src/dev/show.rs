//! What a person reads while developing: builds, reloads, outcomes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use console::style;

use super::locked;
use postrider::app::PluginStatus;
use postrider::store::{Settlement, Verdict};

/// Longest payload shown.
const DATA_MAX: usize = 300;

/// Prints; knows what was saved when.
#[derive(Default)]
pub(super) struct Show {
    /// By digest: when its source was saved, and how long the build took. Taken by its first
    /// outcome.
    saved: Mutex<HashMap<String, (Instant, Duration)>>,
}

impl Show {
    pub(super) fn serving(address: SocketAddr, plugins: &[PluginStatus]) {
        println!("{} http://{address}; stop with Ctrl-C", style("serving").green().bold());
        for plugin in plugins {
            let name = plugin.stage.as_deref().or(plugin.file.as_deref()).unwrap_or("?");
            match &plugin.last_error {
                None => println!(
                    "  {name} {} consumes {}",
                    plugin.version.as_deref().unwrap_or(""),
                    plugin.consumes.join(", ")
                ),
                Some(error) => Self::trouble(name, error),
            }
        }
    }

    pub(super) fn built(name: &str, took: Duration, bytes: usize) {
        println!("{} {name} in {} ({} kB)", style("built").green(), seconds(took), bytes / 1_000);
    }

    pub(super) fn serves(name: &str, since: Duration) {
        println!("{} {name}, {} after it was saved", style("reloaded").green(), seconds(since));
    }

    pub(super) fn trouble(name: &str, what: &str) {
        println!("{} {name}", style("failed").red().bold());
        println!("{}", indented(what));
    }

    /// The next outcome of this digest ends a measurement.
    pub(super) fn expect(&self, digest: &str, saved: Instant, build: Duration) {
        locked(&self.saved).insert(digest.to_owned(), (saved, build));
    }

    pub(super) fn settled(&self, settlement: &Settlement) {
        println!("{}", line(settlement));
        if let Some((saved, build)) = locked(&self.saved).remove(&*settlement.digest) {
            let whole = saved.elapsed();
            println!(
                "         {} after the save, {} of them the build",
                seconds(whole),
                seconds(build)
            );
        }
    }
}

/// One outcome, with the events that follow or the reason why none do.
fn line(settlement: &Settlement) -> String {
    let event = &settlement.envelope.event;
    let stage = style(format!("{}@{}", settlement.delivery.stage, settlement.version)).cyan();
    let took = Duration::from_micros(settlement.duration_us);
    let mut text = format!("{stage} {} {} ", event.event_type, style(&event.subject).bold());
    let _ = match &settlement.verdict {
        Verdict::Done(events) if events.is_empty() => write!(text, "→ nothing"),
        Verdict::Done(events) => {
            let types: Vec<&str> =
                events.iter().map(|event| event.envelope.event.event_type.as_str()).collect();
            write!(text, "→ {}", style(types.join(", ")).green())
        }
        Verdict::Retry { .. } => {
            write!(text, "{} try {}", style("failed").yellow(), settlement.attempt)
        }
        Verdict::Dead { code, .. } => write!(text, "{} {code}", style("dead").red().bold()),
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
