//! What a host does for its callers, whether they come over HTTP or from the embedding program.
//!
//! Writes go through the store and, once committed, to the relay. Nothing here keeps state of its
//! own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::dead_letters::DeadLetterService;
use crate::app::event_feed::EventFeed;
use crate::background::binding_sync::LIVE_MS;
use crate::config::Config;
use crate::domain::event::{Envelope, Event, ORDER_CREATED, PRODUCT_STOCKED, without_nul};
use crate::domain::field_error::FieldError;
use crate::domain::order::{ParsedOrder, ParsedStock, parse_order};
use crate::domain::order_status::StatusRules;
use crate::domain::trace_context::TraceContext;
use crate::pipeline::routes::Routes as _;
use crate::pipeline::{Consumption, Stage};
use crate::plugins::supervisor::{Files, PluginPlaces};
use crate::services::Services;
use crate::stage::circuit_breaker::BreakerState;
use crate::store::{
    Accepted, ControlState, DeliveryRecord, NewEvent, NewOrder, Order, PluginLoad, StageControl,
    StoreError,
};

pub mod dead_letters;
pub mod event_feed;
mod ingest;
mod cancel;

/// Why an order was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The body is no order; every problem.
    #[error("not an order: {}", .0.iter().map(|problem| format!("{} {}", problem.pointer, problem.detail)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An order with everything that happened to it.
pub struct OrderHistory {
    /// The order.
    pub order: Order,
    /// Its deliveries, oldest first.
    pub deliveries: Vec<DeliveryRecord>,
}

/// A stage, or a file that serves none, for whoever operates the host.
#[derive(Debug, Serialize, ToSchema)]
pub struct PluginStatus {
    /// The stage; none for a file that was refused before it had one.
    pub stage: Option<String>,
    /// Plugin file; none for a native stage.
    pub file: Option<String>,
    /// Version that serves.
    pub version: Option<String>,
    /// Digest that serves.
    pub digest: Option<String>,
    /// `serving`, `removed` or `failed`.
    pub state: &'static str,
    /// Why the newest content of the file does not serve.
    pub last_error: Option<String>,
    /// Why this version serves in the place of a newer one.
    pub put_back: Option<String>,
    /// Since when this version serves, milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: Option<u64>,
    /// Topic patterns.
    pub consumes: Vec<String>,
    /// Event types.
    pub emits: Vec<String>,
}

/// How a stage stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct StageStatus {
    /// Its name.
    pub stage: String,
    /// Version of what runs it here; none when nothing does.
    pub version: Option<String>,
    /// What operators want of it.
    pub control: ControlState,
    /// Why.
    pub reason: Option<String>,
    /// When they said so, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Its circuit breaker on this host.
    pub breaker: BreakerState,
    /// Whether this host consumes its queue.
    pub consumption: Consumption,
    /// Messages in its queue; none when the broker does not say.
    pub waiting: Option<u64>,
}

/// What became of a roll-back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RollBack {
    /// This digest serves.
    Done(String),
    /// No plugin file runs such a stage here.
    NotFound,
    /// No such earlier version is kept, or several begin so.
    NoSuchVersion,
    /// The earlier version does not serve: why.
    Refused(String),
}

/// Loads that are looked through for an earlier version.
const HISTORY_MAX: u32 = 1_000;
/// How long a file that was replaced may take to serve: the largest are compiled for half a minute.
const TAKEN_MAX: Duration = Duration::from_mins(2);
const TAKEN_POLL: Duration = Duration::from_millis(2);

/// What became of the wish to forget a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageDeletion {
    /// Nothing is routed to it any more.
    Done,
    /// A live host runs it.
    InUse,
    /// Nobody knows it.
    NotFound,
}

/// Whether a host can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// All of the below.
    pub ready: bool,
    /// What is wrong with the store.
    pub store: Option<String>,
    /// What is wrong with the broker.
    pub broker: Option<String>,
    /// Stages that have nothing to run.
    pub stages_without_plugin: Vec<String>,
    /// Stages that an operator holds; the host is ready all the same.
    pub held: Vec<String>,
    /// Stages whose circuit breaker is not closed; the host is ready all the same.
    pub breakers_open: Vec<String>,
    /// Stages whose queue this host should consume and does not.
    pub not_consuming: Vec<String>,
    /// The host is stopping.
    pub stopping: bool,
}

/// What an order is sent with, beside its body.
#[derive(Debug)]
pub struct Submission {
    /// Where it stands in its caller's trace.
    pub trace: TraceContext,
    /// Names the request: the same key stands for the same body for ever.
    pub idempotency_key: Option<String>,
    /// When its journey begins, milliseconds since 1970-01-01 UTC; none: at once.
    pub due_at_ms: Option<u64>,
}

/// What became of stock that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stocked {
    /// It counts, or did so before.
    Done,
    /// The idempotency key stands for another announcement.
    KeyReused,
}

/// An event that the API writes.
struct Draft<'a> {
    id: String,
    event_type: &'a str,
    subject: &'a str,
    data: Bytes,
    order_id: Option<String>,
    trace: TraceContext,
    due_at_ms: Option<u64>,
}

/// What the API does.
pub struct App {
    services: Services,
    dead_letters: Arc<DeadLetterService>,
    files: Arc<Files>,
    places: PluginPlaces,
    /// CloudEvents source of what comes in through the API.
    source: String,
    initial_status: String,
    status: StatusRules,
    expiry_ms: u64,
    schedule_max_ms: u64,
    event_feed: Arc<EventFeed>,
    products_stage: String,
    products_prefix: String,
    stopping: AtomicBool,
}

impl App {
    pub(crate) fn new(
        config: &Config,
        services: Services,
        files: Arc<Files>,
        places: PluginPlaces,
    ) -> Self {
        let source = format!("/{}/api", config.namespace);
        let dead_letters =
            DeadLetterService::new(services.clone(), source.clone(), config.orders.expiry_ms);
        let terminal = config.orders.status.terminal.clone();
        Self {
            dead_letters: Arc::new(dead_letters),
            event_feed: EventFeed::new(
                Arc::clone(&services.store),
                terminal,
                config.http.streams_max,
            ),
            schedule_max_ms: config.orders.schedule_max_ms,
            services,
            files,
            places,
            source,
            initial_status: config
                .orders
                .status
                .initial(ORDER_CREATED)
                .unwrap_or("received")
                .to_owned(),
            status: config.orders.status.clone(),
            expiry_ms: config.orders.expiry_ms,
            products_stage: config.products.stage.clone(),
            products_prefix: config.products.prefix.clone(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Store, broker and the rest.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The live end of the event log.
    pub fn event_feed(&self) -> &Arc<EventFeed> {
        &self.event_feed
    }

    /// The status of an order at its beginning.
    pub fn initial_status(&self) -> &str {
        &self.initial_status
    }

    /// What is asked of events that come in.
    pub fn ingress_rules(&self) -> crate::domain::cloud_events::http_binding::Rules<'_> {
        crate::domain::cloud_events::http_binding::Rules {
            now_ms: self.services.clock.now_ms(),
            schedule_max_ms: self.schedule_max_ms,
            source: &self.source,
        }
    }

    /// From now on the host is not ready.
    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Accepts an order as `POST /orders` does.
    pub async fn submit(&self, order: Value) -> Result<Accepted, SubmitError> {
        let order = parse_order(order, None).map_err(SubmitError::Invalid)?;
        Ok(self.accept(order, TraceContext::begin()).await?)
    }

    /// Accepts a parsed order: when it returns, the order is durable.
    pub async fn accept(
        &self,
        order: ParsedOrder,
        trace: TraceContext,
    ) -> Result<Accepted, StoreError> {
        self.accept_with(order, Submission { trace, idempotency_key: None, due_at_ms: None }).await
    }

    /// The same for an order that is sent with more than its body.
    pub async fn accept_with(
        &self,
        order: ParsedOrder,
        submission: Submission,
    ) -> Result<Accepted, StoreError> {
        let Submission { trace, idempotency_key, due_at_ms } = submission;
        let ParsedOrder { id, customer, body, fingerprint } = order;
        let event = self.new_event(Draft {
            id: format!("order-{id}"),
            event_type: ORDER_CREATED,
            subject: &id,
            data: body.to_string().into(),
            order_id: Some(id.clone()),
            trace,
            due_at_ms,
        });
        let order = NewOrder {
            id,
            customer,
            body,
            fingerprint,
            status: self.initial_status.clone(),
            idempotency_key,
            event,
        };
        let (accepted, rows) = self.services.store.accept_order(order).await?;
        self.services.relay.enqueue(rows);
        Ok(accepted)
    }

    /// Announces stock that arrived; the same `idempotency_key` counts once.
    pub async fn stock(
        &self,
        stock: ParsedStock,
        idempotency_key: Option<&str>,
        trace: TraceContext,
    ) -> Result<Stocked, StoreError> {
        let id = idempotency_key
            .map_or_else(|| uuid::Uuid::now_v7().to_string(), |key| format!("stock-{key}"));
        let data = stock.body.to_string().into();
        let draft = Draft {
            id,
            event_type: PRODUCT_STOCKED,
            subject: &stock.sku,
            data,
            order_id: None,
            trace,
            due_at_ms: None,
        };
        let event = self.new_event(draft);
        if self.services.publish(event.clone()).await? {
            return Ok(Stocked::Done);
        }
        let known = self.event(&event.envelope.key()).await?;
        let same = known.is_none_or(|known| known.envelope.event.data == event.envelope.event.data);
        Ok(if same { Stocked::Done } else { Stocked::KeyReused })
    }

    fn new_event(&self, draft: Draft<'_>) -> NewEvent {
        let Draft { id, event_type, subject, data, order_id, trace, due_at_ms } = draft;
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
        let envelope = Envelope::first(event, order_id, due_at_ms + self.expiry_ms);
        let routed_to = self.services.pipeline.stages_for(event_type);
        NewEvent::new(envelope, due_at_ms, routed_to)
    }

    /// Sends an event to one stage alone, whatever else consumes its type; under a new id each
    /// time.
    pub async fn send_to(&self, stage: &str, event: Event) -> Result<(), StoreError> {
        let data = event.data.clone();
        let id = uuid::Uuid::now_v7().to_string();
        let (event_type, subject) = (event.event_type.as_str(), event.subject.as_str());
        let sent = self.new_event(Draft {
            id,
            event_type,
            subject,
            data,
            order_id: None,
            trace: TraceContext::begin(),
            due_at_ms: None,
        });
        self.services.publish(sent.only_for(stage.into())).await.map(|_| ())
    }

    /// The status of an order.
    pub async fn status(&self, id: &str) -> Result<Option<String>, StoreError> {
        Ok(self.services.store.order(id).await?.map(|order| order.status))
    }

    /// An order with everything that happened to it.
    pub async fn history(&self, id: &str) -> Result<Option<OrderHistory>, StoreError> {
        let Some(order) = self.services.store.order(id).await? else {
            return Ok(None);
        };
        Ok(Some(OrderHistory {
            order,
            deliveries: self.services.store.order_deliveries(id).await?,
        }))
    }

    /// A product as its stage keeps it.
    pub async fn product(&self, sku: &str) -> Result<Option<Value>, StoreError> {
        let row = self
            .services
            .store
            .state_get(&self.products_stage, &format!("{}{sku}", self.products_prefix))
            .await?;
        Ok(row.and_then(|row| row.value).map(|bytes| as_json(&bytes)))
    }

    /// Products by SKU after `after`.
    pub async fn products(&self, after: &str, limit: u32) -> Result<Vec<Value>, StoreError> {
        let after = if after.is_empty() {
            String::new()
        } else {
            format!("{}{after}", self.products_prefix)
        };
        let keys = self
            .services
            .store
            .state_keys(&self.products_stage, &self.products_prefix, &after, limit)
            .await?;
        let mut products = Vec::with_capacity(keys.len());
        for key in keys {
            products.extend(
                self.product(key.strip_prefix(&self.products_prefix).unwrap_or(&key)).await?,
            );
        }
        Ok(products)
    }

    /// Dead letters: looked at, mended, run again, closed; one or many.
    pub fn dead_letters(&self) -> &Arc<DeadLetterService> {
        &self.dead_letters
    }

    /// Every stage that this host knows, and how it stands.
    pub async fn stages(&self) -> Vec<StageStatus> {
        let mut stages = Vec::new();
        for stage in self.services.pipeline.stages() {
            let waiting = self.services.broker.depth(&stage.name).await.ok();
            let control = stage.control();
            stages.push(StageStatus {
                stage: stage.name.to_string(),
                version: stage
                    .running()
                    .map(|running| running.handler.description().version.clone()),
                control: control.as_ref().map_or(ControlState::Running, |control| control.state),
                reason: control.as_ref().and_then(|control| control.reason.clone()),
                since_ms: control.map(|control| control.since_ms),
                breaker: stage.breaker().state(),
                consumption: stage.consumption(),
                waiting,
            });
        }
        stages
    }

    /// Pauses, drains or resumes a stage on every host; none when this host does not know it.
    pub async fn control(
        &self,
        stage: &str,
        state: ControlState,
        reason: Option<String>,
    ) -> Result<Option<StageControl>, StoreError> {
        let Some(stage) = self.services.pipeline.find(stage) else { return Ok(None) };
        let control = self
            .services
            .store
            .set_stage_control(&stage.name, state, reason.map(without_nul))
            .await?;
        stage.apply_control(Some(control.clone()));
        Ok(Some(control))
    }

    /// Takes a stage out of the pipeline for good: nothing is routed to it any more. What is in its
    /// queue stays there.
    pub async fn forget(&self, name: &str) -> anyhow::Result<StageDeletion> {
        let Services { store, broker, pipeline, .. } = &self.services;
        let bindings = pipeline.bindings_of(name);
        if bindings.is_empty() {
            return Ok(StageDeletion::NotFound);
        }
        if pipeline.find(name).is_some_and(|stage| stage.running().is_some()) {
            return Ok(StageDeletion::InUse);
        }
        for binding in bindings {
            if !store.forget_binding(binding.clone(), LIVE_MS).await? {
                return Ok(StageDeletion::InUse);
            }
            broker.unbind(&binding.stage, &binding.pattern).await?;
        }
        pipeline.forget(name);
        Ok(StageDeletion::Done)
    }

    /// Which digests served a stage, newest first.
    pub async fn plugin_history(
        &self,
        stage: &str,
        limit: u32,
    ) -> Result<Vec<PluginLoad>, StoreError> {
        self.services.store.plugin_loads(stage, limit).await
    }

    /// Puts an earlier version of a stage's plugin back on this host: the one with this digest (or
    /// the only one that begins so), or the last one that was another.
    pub async fn roll_back(
        &self,
        stage: &str,
        digest: Option<&str>,
    ) -> Result<RollBack, StoreError> {
        let running = self.services.pipeline.find(stage).and_then(|stage| stage.running());
        let Some((running, file)) =
            running.and_then(|running| running.file.clone().map(|file| (running, file)))
        else {
            return Ok(RollBack::NotFound);
        };
        let present = running.handler.digest();
        let loads = self.services.store.plugin_loads(stage, HISTORY_MAX).await?;
        let mut known: Vec<String> = Vec::new();
        for load in loads {
            let wanted = digest.is_none_or(|wanted| load.digest.starts_with(wanted));
            if wanted
                && load.digest != present
                && !known.contains(&load.digest)
                && self.places.kept.has(&load.digest)
            {
                known.push(load.digest);
            }
        }
        let ambiguous = digest.is_some() && known.len() > 1;
        let Some(chosen) = known.into_iter().next().filter(|_| !ambiguous) else {
            return Ok(RollBack::NoSuchVersion);
        };
        let reload_count = self.reload_count(&file);
        if let Err(error) = self.places.put_back(&chosen, &file).await {
            return Ok(RollBack::Refused(format!("{file} could not be replaced: {error}")));
        }
        Ok(match self.wait_until_loaded(&file, &chosen, reload_count).await {
            Ok(_) => RollBack::Done(chosen),
            Err(why) => RollBack::Refused(why),
        })
    }

    /// How many times the host looked at new content of a plugin file: to be asked before the file
    /// is replaced, for [`App::wait_until_loaded`].
    pub fn reload_count(&self, file: &str) -> u64 {
        self.files.all().get(file).map_or(0, |status| status.reload_count)
    }

    /// Waits until the host serves the new content of a file, with this digest; gives the stages
    /// that it serves, or why it serves none.
    pub async fn wait_until_loaded(
        &self,
        file: &str,
        digest: &str,
        reload_count_before: u64,
    ) -> Result<Vec<String>, String> {
        let took = async {
            loop {
                let plugins: Vec<PluginStatus> = self
                    .plugins()
                    .into_iter()
                    .filter(|plugin| plugin.file.as_deref() == Some(file))
                    .collect();
                let serving =
                    plugins.iter().filter(|plugin| plugin.digest.as_deref() == Some(digest));
                let stages: Vec<String> =
                    serving.filter_map(|plugin| plugin.stage.clone()).collect();
                if !stages.is_empty() {
                    return Ok(stages);
                }
                if self.reload_count(file) > reload_count_before
                    && let Some(error) = plugins.into_iter().find_map(|plugin| plugin.last_error)
                {
                    return Err(error);
                }
                tokio::time::sleep(TAKEN_POLL).await;
            }
        };
        let late =
            || Err(format!("{file} was replaced, and is not loaded yet: look at GET /plugins"));
        tokio::time::timeout(TAKEN_MAX, took).await.unwrap_or_else(|_| late())
    }

    /// Stages and refused files.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let files = self.files.all();
        let mut plugins: Vec<PluginStatus> = Vec::new();
        for stage in self.services.pipeline.stages() {
            let Some(running) = stage.running() else { continue };
            let description = running.handler.description();
            let file_status = running.file.as_ref().and_then(|file| files.get(file));
            plugins.push(PluginStatus {
                stage: Some(stage.name.to_string()),
                file: running.file.clone(),
                version: Some(description.version.clone()),
                digest: Some(running.handler.digest().to_owned()),
                state: "serving",
                last_error: file_status.and_then(|status| status.error.clone()),
                put_back: file_status
                    .and_then(|status| status.put_back.as_ref().map(|(_, note)| note.clone())),
                loaded_at_ms: Some(running.loaded_at_ms),
                consumes: running.policy.consumes.clone(),
                emits: running.policy.emits.clone(),
            });
        }
        for (file, status) in files {
            if plugins.iter().any(|plugin| plugin.file.as_ref() == Some(&file)) {
                continue;
            }
            let state = if status.removed { "removed" } else { "failed" };
            let stages: Vec<Option<String>> = if status.stages.is_empty() {
                vec![None]
            } else {
                status.stages.into_iter().map(Some).collect()
            };
            plugins.extend(stages.into_iter().map(|stage| PluginStatus {
                stage,
                file: Some(file.clone()),
                version: None,
                digest: None,
                state,
                last_error: status.error.clone(),
                put_back: None,
                loaded_at_ms: None,
                consumes: Vec::new(),
                emits: Vec::new(),
            }));
        }
        plugins
    }

    /// Whether this host can do its work.
    pub async fn readiness(&self) -> Readiness {
        let store = self.services.store.ping().await.err().map(|error| error.to_string());
        let broker = self.services.broker.ping().await.err().map(|error| error.to_string());
        let without =
            self.services.pipeline.stages().into_iter().filter(|stage| stage.running().is_none());
        let stages_without_plugin: Vec<String> =
            without.map(|stage| stage.name.to_string()).collect();
        let named = |pick: fn(&Stage) -> bool| {
            let stages = self.services.pipeline.stages();
            stages
                .iter()
                .filter(|stage| pick(stage))
                .map(|stage| stage.name.to_string())
                .collect::<Vec<_>>()
        };
        let held = named(|stage| {
            stage.control().is_some_and(|control| control.state != ControlState::Running)
        });
        let breakers_open = named(|stage| stage.breaker().state() != BreakerState::Closed);
        let not_consuming = named(|stage| stage.consumption() == Consumption::Connecting);
        let stopping = self.stopping.load(Ordering::SeqCst);
        let complete = stages_without_plugin.is_empty() && not_consuming.is_empty();
        let ready = store.is_none() && broker.is_none() && complete && !stopping;
        Readiness {
            ready,
            store,
            broker,
            stages_without_plugin,
            held,
            breakers_open,
            not_consuming,
            stopping,
        }
    }
}

/// JSON as it is; anything else as text.
pub fn as_json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
}
