//! The environment of the simulations: a store, the shipped stages in one of their orders, and the
//! policies that a configuration gives them.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use postrider::internals::{
    Listeners, Native, PostgresOptions, PostgresStore, Publishing, Routes, Settings, SqliteOptions,
    SqliteStore, StageHandler, StagePolicy, Store, topic_matches,
};
use postrider::{
    Config, Description, Emitted, Event, ManualClock, NativeContext, NativeError, NativeStage,
    SdkStage,
};

use crate::support::harness::{Backend, root};
use crate::support::servers::Servers;

/// Lease of an outbox row.
pub(super) const LEASE_MS: u64 = 2_000;
/// Several attempts with short delays: the schedules advance the clock.
const CONFIG: &str = "[defaults.retry]\nmax_attempts = 3\ninitial_ms = 100\nmax_ms = 400\n";

/// A shipped order of the stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StageOrder {
    PaymentFirst,
    InventoryFirst,
}

impl StageOrder {
    /// The shipped configuration.
    fn file(self) -> &'static str {
        match self {
            Self::PaymentFirst => "config/postrider.toml",
            Self::InventoryFirst => "config/inventory-first.toml",
        }
    }

    /// The statuses in which an order that is not fulfilled may end.
    pub(super) fn unfulfilled(self) -> &'static [&'static str] {
        match self {
            Self::PaymentFirst => &["declined", "refunded", "cancelled"],
            Self::InventoryFirst => &["declined", "rejected", "cancelled"],
        }
    }

    /// With the retries of [`CONFIG`], and no stock but what the schedules bring in.
    fn config(self) -> Result<Config> {
        let text = std::fs::read_to_string(root().join(self.file()))?;
        let mut config = Config::from_toml(&text)?;
        config.defaults = Config::from_toml(CONFIG)?.defaults;
        for stage in config.stages.values_mut() {
            stage.retry = config.defaults.retry;
            stage.settings.remove("default_stock");
        }
        Ok(config)
    }
}

/// A missing or repeated compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    InventoryKeepsStock,
    InventoryKeepsDeclined,
    PaymentKeepsMoney,
    ShippingRecallsTwice,
}

/// A shipped stage with a fault.
struct Sabotaged<S> {
    stage: S,
    sabotage: Sabotage,
}

#[async_trait]
impl<S: NativeStage> NativeStage for Sabotaged<S> {
    fn describe(&self) -> Description {
        self.stage.describe()
    }

    async fn handle(
        &self,
        cx: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        match (self.sabotage, event.event_type.as_str()) {
            (Sabotage::InventoryKeepsStock | Sabotage::PaymentKeepsMoney, "order.cancelled") => {
                Ok(Vec::new())
            }
            (Sabotage::InventoryKeepsDeclined, "payment.declined") => Ok(Vec::new()),
            (Sabotage::ShippingRecallsTwice, "order.cancelled") => {
                let recalled = self.stage.handle(cx, event).await?;
                Ok([recalled.clone(), recalled].concat())
            }
            _ => self.stage.handle(cx, event).await,
        }
    }
}

/// A stage as a lane sees it.
pub(super) struct Stage {
    pub(super) policy: StagePolicy,
    pub(super) handler: Arc<dyn StageHandler>,
    pub(super) settings: Arc<Settings>,
}

pub(super) struct Fixture {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) config: Config,
    pub(super) stages: Vec<Stage>,
    pub(super) order: StageOrder,
    _place: Place,
}

/// Where the store is: a folder or a database, deleted at the end.
type Place = (Option<tempfile::TempDir>, Option<Servers>);

impl Fixture {
    pub(super) async fn open(
        backend: Backend,
        order: StageOrder,
        sabotage: Sabotage,
    ) -> Result<Self> {
        let config = order.config()?;
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let (store, place) = open_store(backend, &config, &clock).await?;
        let sabotage_outcome =
            |with: Sabotage| if with == sabotage { with } else { Sabotage::None };
        let handlers: [Arc<dyn StageHandler>; 4] = [
            native(
                SdkStage::<payment::Payment>::default(),
                sabotage_outcome(Sabotage::PaymentKeepsMoney),
            ),
            native(
                SdkStage::<inventory::Inventory>::default(),
                match sabotage {
                    Sabotage::InventoryKeepsStock | Sabotage::InventoryKeepsDeclined => sabotage,
                    _ => Sabotage::None,
                },
            ),
            native(
                SdkStage::<shipping::Shipping>::default(),
                sabotage_outcome(Sabotage::ShippingRecallsTwice),
            ),
            native(SdkStage::<notification::Notification>::default(), Sabotage::None),
        ];
        let stage = |handler: Arc<dyn StageHandler>| {
            let name: Arc<str> = handler.description().name.as_str().into();
            let settings = config.stage(&name).settings.clone().into_iter().collect();
            Stage {
                policy: config.stage_policy(&name, handler.description()),
                handler,
                settings: Arc::new(settings),
            }
        };
        let stages = handlers.into_iter().map(stage).collect();
        Ok(Self { store, clock, config, stages, order, _place: place })
    }
}

/// To stages only, through the outbox.
fn through_outbox() -> Publishing {
    Publishing { listeners: Listeners::Patterns(Arc::default()), from_outbox: true }
}

async fn open_store(
    backend: Backend,
    config: &Config,
    clock: &Arc<ManualClock>,
) -> Result<(Arc<dyn Store>, Place)> {
    let (namespace, host_name) = (config.namespace.clone(), "here".to_owned());
    let kinds = config.kinds()?;
    let (clock, group_max_ops) = (Arc::clone(clock) as _, config.store.group_max_ops);
    match backend {
        Backend::Embedded => {
            let folder = tempfile::tempdir()?;
            let path = folder.path().join("worlds.db");
            let options = SqliteOptions {
                path,
                namespace,
                host_name,
                clock,
                steady: None,
                kinds,
                lease_ms: LEASE_MS,
                group_max_ops,
                publishing: through_outbox(),
                encryption: config.encryption.encryption(),
            };
            let (store, writer) = SqliteStore::open(options).await?;
            tokio::spawn(async move { writer.run().await });
            Ok((store, (Some(folder), None)))
        }
        Backend::Servers => {
            let servers = Servers::create().await?;
            let options = PostgresOptions {
                url: servers.database_url(),
                namespace,
                host_name,
                clock,
                steady: None,
                host_time: true,
                places: config.state_places(),
                kinds,
                lease_ms: LEASE_MS,
                group_max_ops,
                publishing: through_outbox(),
                encryption: config.encryption.encryption(),
                connections: config.store.connections,
                pool: None,
                timeout_ms: 60_000,
                migration_timeout_ms: 60_000,
                migrate: true,
            };
            let (store, writer) = PostgresStore::open(options).await?;
            tokio::spawn(async move { writer.run().await });
            Ok((store, (None, Some(servers))))
        }
    }
}

fn native(stage: impl NativeStage, sabotage: Sabotage) -> Arc<dyn StageHandler> {
    Arc::new(Native::new(Sabotaged { stage, sabotage }))
}

impl Routes for Fixture {
    fn stages_for(&self, event_type: &str) -> Vec<Arc<str>> {
        let reached = self.stages.iter().filter(|stage| {
            stage.policy.consumes.iter().any(|pattern| topic_matches(pattern, event_type))
        });
        reached.map(|stage| Arc::clone(&stage.policy.name)).collect()
    }
}
