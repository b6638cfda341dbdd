//! `serve`, `config check` and `topology`: the commands that read a configuration.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::config::Config;
use crate::host::Host;
use crate::pipeline::Topology;

/// Runs a host until it is told to stop (SIGINT or SIGTERM).
pub(super) async fn serve(config: Option<&Path>) -> Result<ExitCode> {
    let host = Host::builder(Config::load(config)?).build().await?;
    host.run_until(stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Says whether a configuration is valid, or prints it with every default.
pub(super) fn check_config(config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let config = Config::load(config)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&config)?);
    } else {
        println!("the configuration is valid");
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the pipeline that the plugins folder makes, without serving it.
pub(super) async fn topology(config: Option<&Path>, json: bool) -> Result<ExitCode> {
    let mut config = Config::load(config)?;
    let scratch = tempfile::tempdir().context("no temporary folder")?;
    config.store.url = format!("sqlite:{}/topology.db", scratch.path().display());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let host = Host::builder(config).listener(listener).build().await?;
    let topology = host.app().services().pipeline.topology();
    if json {
        println!("{}", serde_json::to_string_pretty(&topology)?);
    } else {
        print!("{}", draw(&topology));
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(topology: &Topology) -> String {
    let line = |stage: &crate::pipeline::TopologyStage| {
        format!("{} {}\n  consumes {}\n  emits    {}\n", stage.name, stage.version, stage.consumes.join(", "), stage.emits.join(", "))
    };
    let stages: String = topology.stages.iter().map(line).collect();
    let warnings: String = topology.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    stages + &warnings
}

fn stop_signal() -> Result<impl Future<Output = ()> + Send> {
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
