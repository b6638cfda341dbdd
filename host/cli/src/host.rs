//! `serve`, `config check` and `topology`: the commands that read a configuration.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::doctor::checks::Rehearsal;
use postrider::config::{Config, StoreUrl};
use postrider::host::Host;
use postrider::pipeline::Topology;
use postrider::store::postgres::PostgresStore;

/// Runs a host until it is told to stop (SIGINT or SIGTERM).
pub(crate) async fn serve(config: Option<&Path>) -> Result<ExitCode> {
    let host = Host::builder(Config::load(config)?).build().await?;
    host.run_until(stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Says whether a configuration is valid, or prints it with every default.
pub(crate) fn check_config(config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let mut config = Config::load(config)?;
    if json {
        for url in [&mut config.store.url, &mut config.broker.url] {
            *url = without_password(url);
        }
        println!("{}", serde_json::to_string_pretty(&config)?);
    } else {
        println!("the configuration is valid");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is printed may be kept: a password is not printed.
fn without_password(url: &str) -> String {
    match reqwest::Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            // It cannot fail: a URL with a password has a host.
            let _ = parsed.set_password(Some("***"));
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

/// Brings the schema up to date. The embedded store does that whenever it is opened.
pub(crate) async fn migrate(config: Option<&Path>) -> Result<ExitCode> {
    let config = Config::load(config)?;
    match StoreUrl::parse(&config.store.url) {
        Some(StoreUrl::Postgres(url)) => {
            PostgresStore::migrate(url, Duration::from_millis(config.store.timeout_ms))
                .await
                .context("store.url")?;
            println!("the schema is up to date");
        }
        _ => println!(
            "the embedded store brings its schema up to date when it is opened: nothing to do"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the pipeline that the plugins folder makes, without serving it.
pub(crate) async fn topology(config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let rehearsal = Rehearsal::of(Config::load(config)?).await?;
    let topology = rehearsal.host.app().services().pipeline.topology();
    if json {
        println!("{}", serde_json::to_string_pretty(&topology)?);
    } else {
        print!("{}", draw(&topology));
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(topology: &Topology) -> String {
    let line = |stage: &postrider::pipeline::TopologyStage| {
        format!(
            "{} {}\n  consumes {}\n  emits    {}\n",
            stage.name,
            stage.version,
            stage.consumes.join(", "),
            stage.emits.join(", ")
        )
    };
    let stages: String = topology.stages.iter().map(line).collect();
    let warnings: String =
        topology.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    stages + &warnings
}

pub(crate) fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
