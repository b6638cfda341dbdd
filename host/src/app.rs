//! What a host does for its callers, whether they come over HTTP or from the embedding program:
//! one file per resource.
//!
//! Writes go through the store and, once committed, to the relay. Apart from the readers of the
//! event feed and the dead-letter jobs, nothing here keeps state of its own.

use std::sync::Arc;

use bytes::Bytes;
#[cfg(feature = "http")]
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::cluster::Cluster;
use self::dead_letters::DeadLetterService;
use self::event_feed::EventFeed;
use self::keys::Keys;
use self::sessions::Sessions;
use self::subject_metrics::SubjectMetrics;
use crate::background::health::TaskHealth;
use crate::config::Config;
use crate::domain::cloud_events::ingress::{IngressSettings, Rules};
use crate::domain::event::{Envelope, Event};
use crate::domain::fair_queue::customer_hash;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKinds;
use crate::domain::trace_context::TraceContext;
use crate::pipeline::routes::Routes as _;
use crate::plugins::{Candidates, PluginFiles, PluginPlaces};
use crate::services::Services;
use crate::store::NewEvent;

pub(crate) mod audit;
mod chains;
pub(crate) mod cluster;
pub mod keys;
pub mod sessions;
mod subject_metrics;
mod subjects;
mod products;
mod stages;
mod plugins;
#[cfg(feature = "http")]
mod comparison;
mod readiness;
mod ingest;
#[cfg(feature = "http")]
mod encryption;
#[cfg(feature = "http")]
mod limits;
#[cfg(feature = "http")]
mod message_keys;
#[cfg(feature = "metrics")]
mod metrics;
pub mod event_feed;
mod event_stream;
pub mod dead_letters;

pub use self::chains::ChainControl;
#[cfg(feature = "http")]
pub(crate) use self::cluster::{
    ClusterPlugin, ClusterStage, ClusterTopology, HostAnswer, HostStatus, OnHost, RolledBackStage,
    StageRates,
};
#[cfg(feature = "http")]
pub(crate) use self::comparison::{
    COMPARED, COMPARED_MAX, ComparedVersion, ComparisonError, ComparisonFilter, ComparisonReport,
};
#[cfg(feature = "http")]
pub(crate) use self::encryption::{EncryptionReport, ErasureRequest};
pub use self::event_stream::{EventQuery, EventStream, StreamedEvent, TooManyStreams};
#[cfg(feature = "http")]
pub(crate) use self::limits::{Load, Refusal, Refusals};
#[cfg(feature = "http")]
pub(crate) use self::message_keys::{KeyRotation, MessageKeyInfo};
#[cfg(feature = "metrics")]
pub(crate) use self::metrics::{Format as MetricsFormat, HostMetrics};
pub use self::plugins::{PluginState, PluginStatus, RollBack};
pub use self::products::{StockError, as_json};
pub use self::readiness::{FailingTask, Readiness, SkippedPlugin};
pub use self::stages::{StageDeletion, StageStatus};
pub use self::subjects::{SubjectHistory, Submission, SubmitError, Submitted, why_not_cancelled};
#[cfg(feature = "http")]
pub(crate) use crate::plugins::{CandidateError, FILE_MAX_BYTES as COMPONENT_MAX_BYTES};
#[cfg(feature = "http")]
pub(crate) use crate::worker::replay::{Change, Differences, Reason, ReplayedEvent};

/// What the API and the embedding program call: subjects, products, stages, plugins, dead letters,
/// the event feed and readiness. Cheap to share in an `Arc`, and usable while the host runs.
///
/// ```no_run
/// # async fn example(host: postrider::Host) -> anyhow::Result<()> {
/// let app = host.app();
/// let order = serde_json::json!({ "order_id": "1", "items": ["Book"] });
/// let subject = app.submit("order", order).await?.into_subject();
/// assert_eq!(app.status(&subject.key).await?, Some(subject.status));
/// # Ok(())
/// # }
/// ```
pub struct App {
    services: Services,
    cluster: Cluster,
    dead_letters: Arc<DeadLetterService>,
    files: Arc<PluginFiles>,
    places: PluginPlaces,
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "only the API compares"))]
    candidates: Candidates,
    /// Of the only comparison.
    #[cfg(feature = "http")]
    comparing: Arc<Semaphore>,
    tasks: Arc<TaskHealth>,
    namespace: String,
    /// CloudEvents source of the events that the API writes.
    source: String,
    kinds: Arc<SubjectKinds>,
    subject_metrics: SubjectMetrics,
    #[cfg(feature = "http")]
    refusals: Arc<Refusals>,
    expiry_ms: u64,
    ingress: IngressSettings,
    event_feed: Arc<EventFeed>,
    keys: Arc<Keys>,
    sessions: Arc<Sessions>,
    own_subjects_only: bool,
    products_stage: String,
    products_prefix: String,
    stopping: CancellationToken,
}

/// The plugins of a host, beside those that serve.
pub(crate) struct OwnPlugins {
    pub(crate) files: Arc<PluginFiles>,
    pub(crate) places: PluginPlaces,
    pub(crate) candidates: Candidates,
}

/// An event that the API writes.
struct Draft<'a> {
    id: String,
    event_type: &'a str,
    subject: &'a str,
    data: Bytes,
    subject_key: Option<SubjectKey>,
    customer: Option<&'a str>,
    trace: TraceContext,
    due_at_ms: Option<u64>,
}

impl App {
    pub(crate) fn new(
        config: &Config,
        services: Services,
        own_plugins: OwnPlugins,
        tasks: Arc<TaskHealth>,
    ) -> Self {
        let OwnPlugins { files, places, candidates } = own_plugins;
        let source = format!("/{}/api", config.namespace);
        let dead_letters =
            DeadLetterService::new(services.clone(), source.clone(), config.events.expiry_ms);
        let kinds = Arc::clone(services.pipeline.kinds());
        let (store, clock) = (&services.store, &services.clock);
        let keys = Arc::new(Keys::new(Arc::clone(store), Arc::clone(clock)));
        let sessions = Sessions::new(Arc::clone(store), Arc::clone(clock), Arc::clone(&keys));
        Self {
            keys,
            sessions: Arc::new(sessions),
            own_subjects_only: config.auth.own_subjects_only,
            dead_letters: Arc::new(dead_letters),
            event_feed: EventFeed::new(
                Arc::clone(&services.store),
                Arc::clone(&kinds),
                config.http.streams_max,
            ),
            ingress: config.ingress(&kinds),
            cluster: Cluster::new(services.clock.now_ms(), config.http.request_timeout_ms),
            services,
            files,
            places,
            candidates,
            #[cfg(feature = "http")]
            comparing: Arc::new(Semaphore::new(1)),
            tasks,
            namespace: config.namespace.clone(),
            source,
            subject_metrics: SubjectMetrics::of(&kinds),
            #[cfg(feature = "http")]
            refusals: Arc::default(),
            kinds: Arc::clone(&kinds),
            expiry_ms: config.events.expiry_ms,
            products_stage: config.products.stage.clone(),
            products_prefix: config.products.prefix.clone(),
            stopping: CancellationToken::new(),
        }
    }

    /// Submissions and cancellations on this host, by kind.
    pub(crate) fn subject_metrics(&self) -> &SubjectMetrics {
        &self.subject_metrics
    }

    /// The kinds of subjects of this host.
    pub fn kinds(&self) -> &Arc<SubjectKinds> {
        &self.kinds
    }

    /// The store, the broker, the relay and the pipeline of this host.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The live end of the event log; its reader runs while the host runs.
    pub fn event_feed(&self) -> &Arc<EventFeed> {
        &self.event_feed
    }

    /// Whether a principal that may submit but not read sees only what it submitted.
    pub(crate) fn own_subjects_only(&self) -> bool {
        self.own_subjects_only
    }

    /// The API keys.
    pub(crate) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The sessions of browsers.
    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Lists, replays and discards dead letters, one or many.
    pub fn dead_letters(&self) -> &Arc<DeadLetterService> {
        &self.dead_letters
    }

    /// The limits and defaults for events of other programs, now.
    pub fn ingress_rules(&self) -> Rules<'_> {
        self.ingress.rules(self.services.clock.now_ms())
    }

    /// The broker's limit on the data of an event, if it is known and exceeded.
    pub(crate) fn exceeded_limit(&self, data_bytes: usize) -> Option<usize> {
        self.services.broker.data_max_bytes().filter(|limit| data_bytes > *limit)
    }

    /// Marks the host as stopping: from now on it is not ready.
    pub(crate) fn stopping(&self) {
        self.stopping.cancel();
    }

    fn new_event(&self, draft: Draft<'_>) -> NewEvent {
        let Draft { id, event_type, subject, data, subject_key, customer, trace, due_at_ms } =
            draft;
        let now_ms = self.services.clock.now_ms();
        let due_at_ms = due_at_ms.unwrap_or(now_ms);
        let event = Event {
            event_type: event_type.to_owned(),
            source: self.source.clone(),
            subject: subject.to_owned(),
            time_ms: now_ms,
            content_type: "application/json".to_owned(),
            data,
            attributes: trace.headers(),
            id,
        };
        let mut envelope = Envelope::first(event, subject_key, due_at_ms + self.expiry_ms);
        envelope.customer_hash = customer_hash(customer);
        let routed_to = self.services.pipeline.stages_for(event_type);
        NewEvent::new(envelope, due_at_ms, routed_to)
    }
}
