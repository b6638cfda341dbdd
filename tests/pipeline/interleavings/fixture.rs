//! The environment of the simulations: the embedded store, the shipped stages, and the policies
//! that a configuration gives them.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use postrider::internals::{
    Native, Routes, SqliteOptions, SqliteStore, StageHandler, StagePolicy, topic_matches,
};
use postrider::{
    Config, Description, Emitted, Event, ManualClock, NativeContext, NativeError, NativeStage,
    SdkStage,
};

/// Lease of an outbox row.
pub(super) const LEASE_MS: u64 = 2_000;
/// Several attempts with short delays: the schedules advance the clock.
const CONFIG: &str = "[defaults.retry]\nmax_attempts = 3\ninitial_ms = 100\nmax_ms = 400\n";

/// A missing or repeated compensation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    InventoryKeepsStock,
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
}

pub(super) struct Fixture {
    pub(super) store: Arc<SqliteStore>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) config: Config,
    pub(super) stages: Vec<Stage>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn open(sabotage: Sabotage) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = Config::from_toml(CONFIG)?;
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let options = SqliteOptions {
            path: folder.path().join("worlds.db"),
            namespace: "orders".to_owned(),
            host_name: "here".to_owned(),
            clock: Arc::clone(&clock) as _,
            steady: None,
            status: Arc::new(config.orders.status.clone()),
            lease_ms: LEASE_MS,
            group_max_ops: config.store.group_max_ops,
            publish_all: false,
        };
        let (store, writer) = SqliteStore::open(options).await?;
        tokio::spawn(async move { writer.run().await });
        let sabotage_outcome =
            |with: Sabotage| if with == sabotage { with } else { Sabotage::None };
        let handlers: [Arc<dyn StageHandler>; 4] = [
            native(
                SdkStage::<payment::Payment>::default(),
                sabotage_outcome(Sabotage::PaymentKeepsMoney),
            ),
            native(
                SdkStage::<inventory::Inventory>::default(),
                sabotage_outcome(Sabotage::InventoryKeepsStock),
            ),
            native(
                SdkStage::<shipping::Shipping>::default(),
                sabotage_outcome(Sabotage::ShippingRecallsTwice),
            ),
            native(SdkStage::<notification::Notification>::default(), Sabotage::None),
        ];
        let stage = |handler: Arc<dyn StageHandler>| {
            let name: Arc<str> = handler.description().name.as_str().into();
            Stage { policy: config.stage_policy(&name, handler.description()), handler }
        };
        let stages = handlers.into_iter().map(stage).collect();
        Ok(Self { store, clock, config, stages, _folder: folder })
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
