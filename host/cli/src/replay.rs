//! `postrider replay`: runs recorded events through another version of their stage and compares the
//! decisions.
//!
//! The recordings come from a running host or from a file of JSON lines; the replay changes neither.
//! It is bounded by `--limit` events, one call per core, and one prefetched page of recordings.

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
use crate::client::Target;
use crate::output::Output;
use crate::progress;
use crate::value_parsers::{setting, time_ms};
use postrider::Config;
use postrider::internals::{
    InstancePolicy, Recorded, Replay, ReplayVerdict, Runtime, RuntimeSettings, StageHandler as _,
    WasmStage,
};

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    target: Target,
    /// Stage whose recordings are replayed.
    #[arg(long)]
    stage: String,
    /// Plugin file to replay them with.
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// Replay the events settled at or after this time: a duration ago (90s, 30m, 1h, 2d), or RFC
    /// 3339 [default: 1h].
    #[arg(
        long,
        value_name = "TIME",
        value_parser = time_ms,
        conflicts_with_all = ["subject", "recordings"]
    )]
    since: Option<u64>,
    /// Replay the events of one subject, such as order/123.
    #[arg(long, value_name = "KIND/ID", conflicts_with = "recordings")]
    subject: Option<String>,
    /// Replay a file written by --save instead of a running host's recordings; - for standard input.
    #[arg(long, value_name = "FILE")]
    recordings: Option<String>,
    /// Maximum number of events, oldest first.
    #[arg(long, default_value_t = 100_000)]
    limit: u64,
    /// Override a recorded setting; repeat the option for several.
    #[arg(long = "setting", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Save the recordings to a file, one JSON document per line.
    #[arg(long, value_name = "FILE", conflicts_with = "recordings")]
    save: Option<PathBuf>,
    /// Maximum number of differences, and of unknown decisions, to print.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    show: usize,
    /// Also fail if a decision is unknown or there is nothing to replay.
    #[arg(long)]
    strict: bool,
}

pub(crate) async fn run(config: Config, args: ReplayArgs, output: Output) -> Result<ExitCode> {
    let replay = Arc::new(load(&config, &args).await?);
    let mut source = Source::open(&args)?;
    let progress =
        ProgressBar::new_spinner().with_style(progress::style("{spinner} {pos} events, {rate}")?);
    let mut report = Report::new(args.show);
    let mut page = source.next().await?;
    while !page.is_empty() {
        // Fetch the next page while this one runs.
        let (verdicts, next) = tokio::join!(decide(&replay, page, &progress), source.next());
        for (recorded, verdict) in verdicts {
            report.note(&recorded, verdict);
        }
        page = next?;
    }
    progress.finish_and_clear();
    source.finish()?;
    report.set_more(source.has_more());
    output.print(&report.json(), |_| out!("{}", report.text()))?;
    let clean = if args.strict { report.is_strictly_clean() } else { report.is_clean() };
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn load(config: &Config, args: &ReplayArgs) -> Result<Replay> {
    let bytes = std::fs::read(&args.plugin)
        .with_context(|| format!("cannot read {}", args.plugin.display()))?;
    // The compile cache belongs to the host, so a replay does not write to it.
    let runtime = Runtime::new(RuntimeSettings { cache_dir: None, ..config.runtime.clone() })?;
    let linked = runtime
        .load(bytes)
        .await
        .with_context(|| format!("{} is not a valid plugin", args.plugin.display()))?;
    let limits = config.stage(&args.stage).limits;
    let settings: BTreeMap<String, String> = args.settings.iter().cloned().collect();
    let handler = WasmStage::new(&linked, limits, InstancePolicy::Fresh);
    let policy = config.stage_policy(&args.stage.as_str().into(), handler.description());
    Ok(Replay::new(Arc::new(handler), policy, limits.state_limits(), settings))
}

/// Runs a page of events, one per core at a time; returns the verdicts in the order of the page.
async fn decide(
    replay: &Arc<Replay>,
    page: Vec<Recorded>,
    progress: &ProgressBar,
) -> Vec<(Recorded, ReplayVerdict)> {
    let concurrency = std::thread::available_parallelism().map_or(1, usize::from);
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
    let mut runs = futures::stream::iter(runs).buffered(concurrency);
    while let Some(run) = runs.next().await {
        progress.inc(1);
        verdicts.push(run.expect("a call neither panics nor is aborted"));
    }
    verdicts
}
