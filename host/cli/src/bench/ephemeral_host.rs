//! A host of the bench's own: in a temporary folder, or in a schema and a namespace that are
//! removed afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::oneshot;

use super::{BenchArgs, Instances, Report, load};
use postrider::broker::rabbit::{Rabbit, RabbitOptions};
use postrider::config::Config;
use postrider::domain::clock::SystemClock;
use postrider::host::Host;
#[cfg(feature = "reference-stages")]
use postrider::host::HostBuilder;
use postrider::runtime::InstanceMode;
#[cfg(feature = "reference-stages")]
use postrider::stage::sdk::SdkStage;
use postrider::store::postgres::Scratch;

/// Measures a host of this process, and removes what it made.
pub(super) async fn measure(config: Config, args: &BenchArgs) -> Result<Report> {
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let name = format!("bench-{}", std::process::id());
    let scratch = match &args.store {
        Some(url) => Some(Scratch::create(url, &name.replace('-', "_")).await.context("--store")?),
        None => None,
    };
    let store_url = scratch
        .as_ref()
        .map_or_else(|| format!("sqlite:{}/bench.db", folder.path().display()), Scratch::url);
    let config = adapt(config, args, Place { name: &name, store_url, folder: folder.path() });
    let measured = host(args, config).await;
    if let Some(url) = &args.broker {
        let options = RabbitOptions {
            url: url.clone(),
            namespace: name.clone(),
            host_name: name,
            clock: Arc::new(SystemClock),
            expiry_ms: 0,
        };
        let stages = ["payment", "inventory", "shipping", "notification"].map(Arc::from);
        Rabbit::delete_namespace(options, &stages)
            .await
            .map_err(anyhow::Error::msg)
            .context("--broker: the queues were left behind")?;
    }
    if let Some(scratch) = scratch {
        scratch.remove().await.context("--store: the schema was left behind")?;
    }
    measured
}

/// Starts the host, measures it and stops it.
async fn host(args: &BenchArgs, config: Config) -> Result<Report> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let builder = Host::builder(config).listener(listener);
    #[cfg(feature = "reference-stages")]
    let builder = if matches!(args.instances, Instances::Native) {
        with_reference_stages(builder)
    } else {
        builder
    };
    let host = builder.build().await?;
    let app = host.app();
    ensure!(
        !app.services().pipeline.consuming().is_empty(),
        "no plugins are loaded: build them with `cargo xtask plugins`"
    );
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(host.run_until(async { _ = stopped.await }));
    let measured = tokio::time::timeout(
        Duration::from_secs(args.time_limit_s),
        load::measure(args, &[url], Some(&app.services().pipeline)),
    )
    .await;
    drop(stop);
    serving.await??;
    measured.context("the time limit is over")?
}

#[cfg(feature = "reference-stages")]
fn with_reference_stages(builder: HostBuilder) -> HostBuilder {
    builder
        .stage(SdkStage::<payment::Payment>::default())
        .stage(SdkStage::<inventory::Inventory>::default())
        .stage(SdkStage::<shipping::Shipping>::default())
        .stage(SdkStage::<notification::Notification>::default())
}

/// Where a run keeps what it makes.
struct Place<'a> {
    name: &'a str,
    store_url: String,
    folder: &'a Path,
}

fn adapt(mut config: Config, args: &BenchArgs, place: Place<'_>) -> Config {
    place.name.clone_into(&mut config.namespace);
    config.store.url = place.store_url;
    config.plugins.archive_dir = place.folder.join("kept");
    config.broker.url = args.broker.clone().unwrap_or_else(|| "embedded:".to_owned());
    if let Some(plugins) = &args.plugins {
        config.plugins.dir.clone_from(plugins);
    }
    let mode = match args.instances {
        Instances::Fresh => InstanceMode::Fresh,
        Instances::Warm => InstanceMode::Warm,
        #[cfg(feature = "reference-stages")]
        Instances::Native => {
            // An empty folder: the native stages have the names.
            place.folder.clone_into(&mut config.plugins.dir);
            InstanceMode::Fresh
        }
    };
    config.defaults.instances = mode;
    config.stages.values_mut().for_each(|stage| stage.instances = mode);
    config
        .stages
        .entry("inventory".into())
        .or_default()
        .settings
        .insert("default_stock".into(), "1000000000".into());
    config
}
