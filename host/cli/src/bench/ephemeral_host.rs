//! A host that exists for one run: in a temporary folder, or in a Postgres schema and a RabbitMQ
//! namespace that are removed afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::oneshot;

use super::{BenchArgs, Instances, Report, load};
use crate::host::postgres_settings;
use crate::traces::Traces;
use postrider::internals::{
    InstanceMode, MessageKeys, PostgresSettings, PostgresStore, Rabbit, RabbitOptions,
    RabbitServer, StatePlaces,
};
use postrider::{App, Config, Host, SystemClock};
#[cfg(feature = "reference-stages")]
use postrider::{HostBuilder, SdkStage};

/// What a run uses and leaves behind.
pub(super) struct EphemeralHost<'a> {
    args: &'a BenchArgs,
    name: String,
    config: Config,
    /// Exists as long as the host does.
    _folder: tempfile::TempDir,
}

/// Measures a host in this process, and removes its data afterwards.
pub(super) async fn measure(config: Config, args: &BenchArgs) -> Result<Report> {
    let host = EphemeralHost::new(config, args)?;
    let measured = host
        .run(async |url, app| {
            load::measure(args, &[url.to_owned()], Some(&app.services().pipeline)).await
        })
        .await;
    host.remove().await?;
    measured
}

impl<'a> EphemeralHost<'a> {
    pub(super) fn new(config: Config, args: &'a BenchArgs) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let name = format!("bench-{}", std::process::id());
        let embedded = || format!("sqlite:{}/bench.db", folder.path().display());
        let store_url = args.store.clone().unwrap_or_else(embedded);
        let resources = Resources { name: &name, store_url, folder: folder.path() };
        let config = adapt(config, args, resources);
        Ok(Self { args, name, config, _folder: folder })
    }

    /// How to connect to its schema; none on the embedded store.
    pub(super) fn postgres<'s>(&'s self, places: &'s StatePlaces) -> Option<PostgresSettings<'s>> {
        let url = self.args.store.as_deref()?;
        Some(postgres_settings(&self.config, url, places))
    }

    /// Starts the host, measures it at its URL, and stops it.
    pub(super) async fn run<R>(
        &self,
        measure: impl AsyncFnOnce(&str, &App) -> Result<R>,
    ) -> Result<R> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let traces = Traces::from_environment()?;
        let builder = traces.export(Host::builder());
        let builder = builder.config(self.config.clone()).listener(listener);
        #[cfg(feature = "reference-stages")]
        let builder = if matches!(self.args.instances, Instances::Native) {
            with_reference_stages(builder)
        } else {
            builder
        };
        let host = builder.build().await?;
        let app = host.app();
        ensure!(
            !app.services().pipeline.consuming().is_empty(),
            "no plugins are loaded: build the shipped ones with `cargo xtask plugins`"
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(host.run_until(async { _ = stopped.await }));
        let limit = Duration::from_secs(self.args.time_limit_s);
        let measured = tokio::time::timeout(limit, measure(&url, &app)).await;
        drop(stop);
        serving.await??;
        traces.finish().await;
        measured.context("the run exceeded --time-limit-s")?
    }

    /// Removes its schema and queues.
    pub(super) async fn remove(self) -> Result<()> {
        let Self { args, name, config, .. } = self;
        if let Some(url) = &args.broker {
            let options = RabbitOptions {
                server: RabbitServer { url: url.clone(), tls: config.broker.tls.files() },
                namespace: name.clone(),
                host_name: name,
                clock: Arc::new(SystemClock),
                expiry_ms: 0,
                ingress: config.ingress(&config.kinds()?),
                encryption: config.encryption.encryption(),
                keys: MessageKeys::of_process(),
            };
            let stages = ["payment", "inventory", "shipping", "notification"].map(Arc::from);
            Box::pin(Rabbit::delete_namespace(options, &stages))
                .await
                .map_err(anyhow::Error::msg)
                .context("--broker: cannot remove the temporary queues")?;
        }
        if let Some(url) = &args.store {
            PostgresStore::drop_namespace(postgres_settings(&config, url, &config.state_places()))
                .await
                .context("--store: cannot remove the temporary schema")?;
        }
        Ok(())
    }
}

#[cfg(feature = "reference-stages")]
fn with_reference_stages(builder: HostBuilder) -> HostBuilder {
    builder
        .stage(SdkStage::<payment::Payment>::default())
        .stage(SdkStage::<inventory::Inventory>::default())
        .stage(SdkStage::<shipping::Shipping>::default())
        .stage(SdkStage::<notification::Notification>::default())
}

/// The name, store and folder of one run.
struct Resources<'a> {
    name: &'a str,
    store_url: String,
    folder: &'a Path,
}

fn adapt(mut config: Config, args: &BenchArgs, resources: Resources<'_>) -> Config {
    resources.name.clone_into(&mut config.namespace);
    config.store.url = resources.store_url;
    config.plugins.archive_dir = resources.folder.join("archive");
    config.broker.local_handover &= !args.no_handover;
    config.broker.url = args.broker.clone().unwrap_or_else(|| "embedded:".to_owned());
    // No other program subscribes to a namespace that exists for one run.
    config.broker.subscriptions = Some(Vec::new());
    if let Some(plugins) = &args.plugins {
        config.plugins.dir.clone_from(plugins);
    }
    let mode = match args.instances {
        Instances::Fresh => InstanceMode::Fresh,
        Instances::Warm => InstanceMode::Warm,
        #[cfg(feature = "reference-stages")]
        Instances::Native => {
            // A folder without plugins, because the native stages use the same names.
            resources.folder.clone_into(&mut config.plugins.dir);
            InstanceMode::Fresh
        }
    };
    config.defaults.instances = mode;
    config.stages.values_mut().for_each(|stage| stage.instances = mode);
    // A schema that is named belongs to the namespace of the configuration.
    config.clear_state_places();
    config
        .stages
        .entry("inventory".into())
        .or_default()
        .settings
        .insert("default_stock".into(), "1000000000".into());
    config
}
