//! `postrider plugin`: check, inspect and run a plugin file without any service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{read_json, text};
use crate::app::as_json;
use crate::clock::{Clock as _, SystemClock};
use crate::event::{DeliveryKey, Envelope, Event, idempotency_key};
use crate::handler::{Call, CallContext, Outcome, StageHandler as _};
use crate::runtime::{CONTRACT, InstancePolicy, Linked, Runtime, RuntimeSettings, StageLimits, WasmStage};
use crate::state::{BatchState, LaneCache};
use crate::store::memory::MemoryState;

/// Plugin files.
#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Say whether a host would take the file, and if not, why.
    Check {
        /// A component, or a core module that carries its component type.
        file: PathBuf,
        /// A configuration: show what the plugin asks for against what its stages are granted. Exit code 1 when something is missing.
        #[arg(long, value_name = "CONFIG")]
        grants: Option<PathBuf>,
        /// Only as this stage; default: every stage that the configuration lets run the file.
        #[arg(long, requires = "grants")]
        stage: Option<String>,
    },
    /// Show what the file says about itself and what it asks for.
    Inspect {
        /// A component, or a core module that carries its component type.
        file: PathBuf,
    },
    /// Run one event through it and show the outcome. Exit code 1 when it fails.
    Run(RunArgs),
}

/// One event through a plugin.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The plugin.
    file: PathBuf,
    /// The event: `{"type", "subject"?, "id"?, "data"}` as a JSON file, or - for standard input.
    #[arg(long)]
    event: String,
    /// The stage's state before: a JSON object of keys and values.
    #[arg(long)]
    state: Option<String>,
    /// A setting, as key=value; may be given often.
    #[arg(long = "config", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Run it so many times, each in a fresh instance on the same state, and say how long a call takes.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn run(command: PluginCommand, json: bool) -> Result<ExitCode> {
    match command {
        PluginCommand::Check { file, grants: Some(config), stage } => {
            super::grants::check(&load(&file).await?, &file, &config, stage.as_deref(), json)
        }
        PluginCommand::Check { file, .. } => {
            let linked = load(&file).await?;
            let said = json!({ "ok": true, "stage": linked.description.name, "version": linked.description.version, "contract": CONTRACT });
            show(&said, json, |said| println!("{} {} fits {CONTRACT}", text(&said["stage"]), text(&said["version"])));
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Inspect { file } => {
            let size = std::fs::metadata(&file)?.len();
            show(&inspect(&load(&file).await?, size), json, |said| println!("{said:#}"));
            Ok(ExitCode::SUCCESS)
        }
        PluginCommand::Run(args) => run_one(args, json).await,
    }
}

fn show(said: &Value, json: bool, text: impl Fn(&Value)) {
    if json { println!("{said:#}") } else { text(said) }
}

async fn load(file: &Path) -> Result<Linked> {
    let bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let runtime = Runtime::new(RuntimeSettings::default())?;
    runtime.load(bytes).await.with_context(|| format!("{} does not fit", file.display()))
}

fn inspect(linked: &Linked, size_bytes: u64) -> Value {
    json!({
        "digest": &*linked.digest,
        "size_bytes": size_bytes,
        "description": &*linked.description,
        "imports": linked.imports,
        "contract": CONTRACT,
    })
}

async fn run_one(args: RunArgs, json: bool) -> Result<ExitCode> {
    let stage = WasmStage::new(&load(&args.file).await?, StageLimits::default(), InstancePolicy::Fresh);
    let before: BTreeMap<String, Value> = match &args.state {
        Some(place) => serde_json::from_value(read_json(place)?).context("--state: expected a JSON object of keys and values")?,
        None => BTreeMap::new(),
    };
    let before = before.into_iter().map(|(key, value)| (key, value.to_string().into())).collect();
    let name: Arc<str> = stage.description().name.as_str().into();
    let limits = StageLimits::default().state_limits();
    let state = BatchState::new(Arc::clone(&name), Arc::new(MemoryState(before)), limits, LaneCache::placeholder());
    let envelope = Arc::new(envelope(&read_json(&args.event)?)?);
    let key = DeliveryKey { stage: Arc::clone(&name), event: envelope.key() };
    let context = CallContext {
        stage: name,
        attempt: 1,
        idempotency_key: idempotency_key(&key),
        now_ms: SystemClock.now_ms(),
        trace_headers: Vec::new(),
        settings: Arc::new(args.settings.into_iter().collect()),
    };
    let call = || Call { envelope: Arc::clone(&envelope), context: context.clone(), state: state.view() };
    let handled = stage.handle(call()).await;
    let mut durations = vec![handled.duration];
    for _ in 1..args.repeat {
        durations.push(stage.handle(call()).await.duration);
    }
    durations.sort_unstable();
    let quantile = |share: f64| durations[((durations.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
    let writes: BTreeMap<&String, Value> =
        handled.writes.iter().map(|(key, value)| (key, value.as_ref().map_or(Value::Null, |value| as_json(value)))).collect();
    let done = matches!(handled.outcome, Outcome::Done(_));
    let said = json!({
        "outcome": outcome(&handled.outcome),
        "state_changes": if done { json!(writes) } else { json!({}) },
        "duration_ms": { "p50": quantile(0.5), "p95": quantile(0.95), "calls": durations.len() },
    });
    show(&said, json, |said| println!("{said:#}"));
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn envelope(said: &Value) -> Result<Envelope> {
    let event_type = said["type"].as_str().context("--event: `type` is missing")?;
    let field = |key: &str, default: &str| said[key].as_str().unwrap_or(default).to_owned();
    let event = Event {
        id: field("id", "event-1"),
        event_type: event_type.to_owned(),
        source: field("source", "/cli"),
        subject: field("subject", "subject-1"),
        time_ms: SystemClock.now_ms(),
        content_type: "application/json".to_owned(),
        data: said["data"].to_string().into(),
        attributes: Vec::new(),
    };
    Ok(Envelope { order_id: None, correlation_id: event.id.clone(), cause: None, hops: 0, expires_at_ms: u64::MAX, event })
}

fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done(emitted) => {
            let events: Vec<Value> = emitted
                .iter()
                .map(|event| json!({ "type": event.event_type, "subject": event.subject, "delay_ms": event.delay_ms, "data": as_json(&event.data) }))
                .collect();
            json!({ "done": events })
        }
        Outcome::Failed(failure) => json!({ "failed": failure }),
        Outcome::Trapped { kind, message, backtrace } => {
            json!({ "trapped": { "kind": kind, "message": message, "backtrace": backtrace.as_ref().map(|text| text.lines().collect::<Vec<_>>()) } })
        }
        Outcome::LimitBroken { limit, message } => json!({ "limit": { "name": limit.code(), "message": message } }),
        Outcome::Unavailable(reason) => json!({ "unavailable": reason }),
    }
}
