//! `serve`, `config check`, `migrate` and `topology`: the commands that only read a configuration.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::drawing;
use crate::offline_host::OfflineHost;
use crate::output::Output;
use crate::scope::{Scope, namespaces};
use crate::traces::Traces;
use postrider::internals::{Beside, PostgresSettings, PostgresStore, StatePlaces, StoreUrl};
use postrider::{Config, ConfigError, Host};
use serde_json::json;

/// Most open files that a host asks for.
const OPEN_FILES_MAX: u64 = 1 << 16;

/// Runs a host until SIGINT or SIGTERM.
pub(crate) async fn serve(scope: &Scope) -> Result<ExitCode> {
    // Before the build, which compiles plugins: as the first process of a container, the program
    // would otherwise ignore the signals until then.
    let stop = stop_signal()?;
    tokio::pin!(stop);
    raise_open_files();
    let config = scope.any(Config::load(scope.config.as_deref())?)?;
    let traces = Traces::from_environment()?;
    let building = traces.export(Host::builder()).config(config).listen().build();
    let host = tokio::select! {
        host = building => host?,
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    let ran = host.run_until(stop).await;
    traces.finish().await;
    ran?;
    Ok(ExitCode::SUCCESS)
}

/// Raises the limit on open files as far as a process may, within reason: the usual one is that of
/// programs that use `select`. Without success the host accepts fewer connections.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
}

/// Validates a configuration and reports every problem, as JSON too; as JSON, a valid one is printed
/// with every default, or that of the chosen namespace.
pub(crate) fn check_config(scope: &Scope, output: Output) -> Result<ExitCode> {
    let checked = Config::check(scope.config.as_deref());
    let (config, problems) = match checked {
        Ok(checked) => checked,
        Err(ConfigError(problems)) => (Config::default(), problems),
    };
    let warnings = config.warnings.clone();
    for warning in &warnings {
        errln!("warning: {warning}");
    }
    if problems.is_empty() {
        // Who can run this can read the file, but may show others what it prints.
        let beside = [Beside::SecretNames, Beside::StageSettings];
        let mut shown = scope.any(config)?.masked(&beside);
        shown["warnings"] = json!(warnings);
        output.print(&shown, |_| outln!("the configuration is valid"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let problem = |line: &String| {
        let (key, problem) = line.split_once(": ").unwrap_or(("", line));
        json!({ "key": key, "problem": problem })
    };
    let report = json!({
        "ok": false,
        "problems": problems.iter().map(problem).collect::<Vec<_>>(),
        "warnings": warnings,
    });
    output.print(&report, |_| errln!("postrider: {}", ConfigError(problems)))?;
    Ok(ExitCode::FAILURE)
}

/// Migrates the schema of every namespace. The embedded store migrates itself when it is opened.
pub(crate) async fn migrate(scope: &Scope) -> Result<ExitCode> {
    let config = scope.any(Config::load(scope.config.as_deref())?)?;
    for (label, config) in namespaces(config) {
        match StoreUrl::parse(&config.store.url) {
            Some(StoreUrl::Postgres(url)) => {
                let places = config.state_places();
                let migrated =
                    PostgresStore::migrate(postgres_settings(&config, url, &places)).await;
                for moved in migrated.with_context(|| format!("{label}store.url"))? {
                    outln!("{label}{moved}");
                }
                outln!("{label}the schema is up to date");
            }
            _ => outln!(
                "{label}nothing to do: the embedded store migrates its schema when it is opened"
            ),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How a command connects to Postgres at `url`.
pub(crate) fn postgres_settings<'a>(
    config: &'a Config,
    url: &'a str,
    places: &'a StatePlaces,
) -> PostgresSettings<'a> {
    PostgresSettings {
        url,
        namespace: &config.namespace,
        places,
        timeout: Duration::from_millis(config.store.timeout_ms),
        migration_timeout: Duration::from_millis(config.store.migration_timeout_ms),
    }
}

/// Prints the pipeline that the plugins folder makes, without serving it.
pub(crate) async fn topology(scope: &Scope, output: Output) -> Result<ExitCode> {
    let config = scope.one(Config::load(scope.config.as_deref())?)?;
    let offline = OfflineHost::load(config).await?;
    let topology = offline.host.app().services().pipeline.topology();
    output.print(&topology, |topology| out!("{}", drawing::draw(topology)))?;
    Ok(ExitCode::SUCCESS)
}

/// Completes on SIGINT or SIGTERM. From then on another one ends the process immediately: whatever
/// is unfinished runs again after the next start.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let _ = either(&mut terminate, &mut interrupt).await;
        tokio::spawn(async move {
            let kind = either(&mut terminate, &mut interrupt).await;
            tracing::warn!("a second signal: ending without finishing the work in flight");
            // As a shell reports a program that a signal ended.
            std::process::exit(128 + kind.as_raw_value());
        });
    })
}

/// Waits for one of the two; returns which.
async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}
