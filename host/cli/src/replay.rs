//! `postrider replay`: recorded events through another build of their stage, and what it would have
//! decided otherwise.
//!
//! The recordings come from a running host or from a file of JSON lines. Nothing is written there
//! and nothing is sent. Bounds: at most `--limit` events, as many calls at once as there are cores,
//! one page of recordings ahead.

mod engine;
mod report;
mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use futures::StreamExt as _;
use indicatif::ProgressBar;
use tokio_util::task::AbortOnDropHandle;

use self::report::Report;
use self::source::Source;
pub(crate) use self::source::milliseconds;
use crate::client::Target;
use crate::progress;
use crate::replay::engine::{Replay, Verdict};
use postrider::config::Config;
use postrider::runtime::{InstancePolicy, Runtime, RuntimeSettings, WasmStage};
use postrider::stage::recording::Recorded;

/// Another build of a stage, and the events that it is asked about.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    target: Target,
    /// The stage whose recordings are used.
    #[arg(long)]
    stage: String,
    /// The other build: a plugin file.
    #[arg(long)]
    plugin: PathBuf,
    /// Events that were settled in the last while: 90s, 30m, 1h, 2d. [default: 1h]
    #[arg(long, value_parser = source::milliseconds, conflicts_with_all = ["order", "events"])]
    since: Option<u64>,
    /// Events of one order.
    #[arg(long, conflicts_with = "events")]
    order: Option<String>,
    /// Events that --save wrote before, instead of a running host's; - for standard input.
    #[arg(long)]
    events: Option<String>,
    /// At most so many events, the oldest first.
    #[arg(long, default_value_t = 100_000)]
    limit: u64,
    /// A setting that counts instead of the recorded one, as key=value; may be given often.
    #[arg(long = "setting", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Write the events with their recordings to this file, one JSON document a line.
    #[arg(long, conflicts_with = "events")]
    save: Option<PathBuf>,
    /// Show so many differences, and so many unknowns, one by one.
    #[arg(long, default_value_t = 20)]
    show: usize,
    /// What cannot be known counts as different.
    #[arg(long)]
    strict: bool,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(config: Config, args: ReplayArgs, json: bool) -> Result<ExitCode> {
    let replay = Arc::new(load(&config, &args).await?);
    let mut source = Source::open(&args)?;
    let progress =
        ProgressBar::new_spinner().with_style(progress::style("{spinner} {pos} events, {rate}")?);
    let mut report = Report::new(args.show);
    let mut page = source.next().await?;
    while !page.is_empty() {
        // The next page is fetched while this one runs.
        let (verdicts, next) = tokio::join!(decide(&replay, page, &progress), source.next());
        for (recorded, verdict) in verdicts {
            report.note(&recorded, verdict);
        }
        page = next?;
    }
    progress.finish_and_clear();
    source.finish()?;
    report.more = source.has_more();
    if json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.text());
    }
    Ok(if report.is_clean(args.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn load(config: &Config, args: &ReplayArgs) -> Result<Replay> {
    let bytes = std::fs::read(&args.plugin)
        .with_context(|| format!("{} cannot be read", args.plugin.display()))?;
    // Not even compiled code is kept: the cache is the host's.
    let runtime = Runtime::new(RuntimeSettings { cache_dir: None, ..config.runtime.clone() })?;
    let linked = runtime
        .load(bytes)
        .await
        .with_context(|| format!("{} does not fit", args.plugin.display()))?;
    let limits = config.stage(&args.stage).limits;
    let settings: BTreeMap<String, String> = args.settings.iter().cloned().collect();
    Ok(Replay::new(
        Arc::new(WasmStage::new(&linked, limits, InstancePolicy::Fresh)),
        &args.stage,
        config,
        settings,
    ))
}

/// Runs a page of events, as many at once as there are cores; in their order.
async fn decide(
    replay: &Arc<Replay>,
    page: Vec<Recorded>,
    progress: &ProgressBar,
) -> Vec<(Recorded, Verdict)> {
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let runs = page.into_iter().map(|recorded| {
        let replay = Arc::clone(replay);
        async move {
            let call = AbortOnDropHandle::new(tokio::spawn(async move {
                let verdict = replay.run(&recorded).await;
                (recorded, verdict)
            }));
            call.await
        }
    });
    let mut verdicts = Vec::new();
    let mut runs = futures::stream::iter(runs).buffered(at_once);
    while let Some(run) = runs.next().await {
        progress.inc(1);
        verdicts.push(run.expect("a call neither panics nor is aborted"));
    }
    verdicts
}
