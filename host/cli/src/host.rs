//! `serve`, `config check`, `migrate` and `topology`: the commands that only read a configuration.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::offline_host::OfflineHost;
use crate::output::Output;
use postrider::internals::{PostgresSettings, PostgresStore, StoreUrl, Topology, mask_password};
use postrider::{Config, Host};

/// Runs a host until SIGINT or SIGTERM.
pub(crate) async fn serve(config: Option<&Path>) -> Result<ExitCode> {
    let host = Host::builder(Config::load(config)?).build().await?;
    host.run_until(stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// Validates a configuration; as JSON, prints it with every default.
pub(crate) fn check_config(config: Option<&Path>, output: Output) -> Result<ExitCode> {
    let mut config = Config::load(config)?;
    // The output may end up in logs or tickets.
    for url in [&mut config.store.url, &mut config.broker.url] {
        *url = mask_password(url);
    }
    output.print(&config, |_| println!("the configuration is valid"))?;
    Ok(ExitCode::SUCCESS)
}

/// Migrates the schema. The embedded store migrates itself when it is opened.
pub(crate) async fn migrate(config: Option<&Path>) -> Result<ExitCode> {
    let config = Config::load(config)?;
    match StoreUrl::parse(&config.store.url) {
        Some(StoreUrl::Postgres(url)) => {
            PostgresStore::migrate(postgres_settings(&config, url)).await.context("store.url")?;
            println!("the schema is up to date");
        }
        _ => println!("nothing to do: the embedded store migrates its schema when it is opened"),
    }
    Ok(ExitCode::SUCCESS)
}

/// How a command connects to Postgres at `url`.
pub(crate) fn postgres_settings<'a>(config: &'a Config, url: &'a str) -> PostgresSettings<'a> {
    PostgresSettings {
        url,
        namespace: &config.namespace,
        timeout: Duration::from_millis(config.store.timeout_ms),
        migration_timeout: Duration::from_millis(config.store.migration_timeout_ms),
    }
}

/// Prints the pipeline that the plugins folder makes, without serving it.
pub(crate) async fn topology(config: Option<&Path>, output: Output) -> Result<ExitCode> {
    let offline = OfflineHost::load(Config::load(config)?).await?;
    let topology = offline.host.app().services().pipeline.topology();
    output.print(&topology, |topology| print!("{}", draw(topology)))?;
    Ok(ExitCode::SUCCESS)
}

fn draw(topology: &Topology) -> String {
    let line = |stage: &postrider::internals::TopologyStage| {
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

/// Completes on SIGINT or SIGTERM.
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
