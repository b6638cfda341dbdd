//! Stages: their state, pause, drain and resume, and deletion.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::audit::actor;
use super::cluster::StageRates;
use super::{App, Draft};
use crate::background::binding_sync::LIVE_MS;
use crate::domain::event::{Event, without_nul};
use crate::domain::log_level::LogLevel;
use crate::pipeline::{Consumption, Stage};
use crate::services::Services;
use crate::stage::circuit_breaker::{BreakerState, BreakerStatus};
use crate::store::{
    AuditEntry, Batch, Commit, ControlChange, ControlState, LogLevelChange, StageBacklog,
    StageControl, StageLogLevel, StoreError,
};
use crate::worker::decide;

/// The state of a stage on this host.
///
/// ```no_run
/// # async fn example(app: &postrider::App) {
/// for stage in app.stages().await {
///     println!("{}: {}", stage.stage, stage.version.as_deref().unwrap_or("no plugin"));
/// }
/// # }
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageStatus {
    /// Its name.
    pub stage: String,
    /// Version that runs here; none when no plugin serves the stage.
    pub version: Option<String>,
    /// Digest of that version.
    pub digest: Option<String>,
    /// When that version was loaded, milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: Option<u64>,
    /// Whether operators paused or drain it.
    pub control: ControlState,
    /// Why, as they gave it.
    pub reason: Option<String>,
    /// When the control was last set, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// The log level that operators set; none: the filter of each process decides.
    pub log_level: Option<LogLevel>,
    /// When the log level ends, milliseconds since 1970-01-01 UTC; none: when an operator ends it.
    pub log_level_until_ms: Option<u64>,
    /// Its circuit breaker on this host.
    pub breaker: BreakerStatus,
    /// Whether this host consumes its queue.
    pub consumption: Consumption,
    /// Deliveries that are not settled, on all hosts; none when the store does not answer.
    pub waiting: Option<u64>,
    /// Those of them that fall due later: retries and scheduled events.
    pub scheduled: Option<u64>,
    /// Those of them that this host holds: they run, or wait for one that runs.
    pub held: u64,
    /// Messages that this host handed over to the stage without RabbitMQ since it started.
    pub handed_over: u64,
    /// How much it does on this host.
    #[serde(default)]
    pub(crate) rates: StageRates,
}

impl StageStatus {
    /// A stage that nothing is known of.
    pub(super) fn named(name: &str) -> Self {
        Self {
            stage: name.to_owned(),
            version: None,
            digest: None,
            loaded_at_ms: None,
            control: ControlState::Running,
            reason: None,
            since_ms: None,
            log_level: None,
            log_level_until_ms: None,
            breaker: BreakerStatus::default(),
            consumption: Consumption::Idle,
            waiting: None,
            scheduled: None,
            held: 0,
            handed_over: 0,
            rates: StageRates::default(),
        }
    }

    /// Sets the control; none: the stage runs.
    pub(super) fn set_control(&mut self, control: Option<&StageControl>) {
        self.control = control.map_or(ControlState::Running, |control| control.state);
        self.reason = control.and_then(|control| control.reason.clone());
        self.since_ms = control.map(|control| control.since_ms);
    }

    /// Sets the log level; none: the filter of each process decides.
    pub(super) fn set_log_level(&mut self, level: Option<&StageLogLevel>) {
        self.log_level = level.map(|level| level.level);
        self.log_level_until_ms = level.and_then(|level| level.until_ms);
    }

    /// Sets what waits for it; none: it is not known.
    pub(super) fn set_backlog(&mut self, backlog: Option<&[StageBacklog]>) {
        // A stage without open deliveries is not in the list.
        let count = |of: fn(&StageBacklog) -> u64| {
            let backlog = backlog?.iter().find(|backlog| backlog.stage == self.stage);
            Some(backlog.map_or(0, of))
        };
        let waiting = count(|backlog| backlog.waiting);
        self.scheduled = count(|backlog| backlog.scheduled);
        self.waiting = waiting;
    }
}

/// The texts of a stage that quote an error or an operator.
pub(super) fn texts(stage: &mut StageStatus) -> [&mut Option<String>; 2] {
    [&mut stage.reason, &mut stage.breaker.reason]
}

/// Deliveries of a deleted stage that are settled in one transaction.
const SETTLE_BATCH: u32 = 500;

/// The result of deleting a stage.
///
/// ```no_run
/// # async fn example(app: &postrider::App) -> anyhow::Result<()> {
/// use postrider::StageDeletion;
///
/// if app.delete_stage("fraud").await? == StageDeletion::InUse {
///     eprintln!("remove the plugin from every host first");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum StageDeletion {
    /// Nothing is routed to it any more, and nothing waits for it.
    Deleted {
        /// Deliveries that waited for it: they are skipped.
        skipped: u64,
    },
    /// A live host runs it; nothing was changed.
    InUse,
    /// Nothing is routed to such a stage.
    NotFound,
}

impl App {
    /// Returns every stage that this host knows, with its control, its breaker and its backlog.
    pub async fn stages(&self) -> Vec<StageStatus> {
        let backlog = self.backlog().await;
        let mut stages = self.own_stages();
        for stage in &mut stages {
            stage.set_backlog(backlog.as_deref());
        }
        stages
    }

    /// The same, without what the store knows.
    pub(super) fn own_stages(&self) -> Vec<StageStatus> {
        self.services.pipeline.stages().iter().map(|stage| self.own_stage(stage)).collect()
    }

    fn own_stage(&self, stage: &Stage) -> StageStatus {
        let mut status = StageStatus::named(&stage.name);
        if let Some(running) = stage.running() {
            status.version = Some(running.handler.description().version.clone());
            status.digest = Some(running.digest.to_string());
            status.loaded_at_ms = Some(running.loaded_at_ms);
        }
        status.set_control(stage.control().as_ref());
        status.set_log_level(stage.log_level().as_ref());
        status.breaker = stage.breaker().status();
        status.consumption = stage.consumption();
        status.held = stage.in_flight.len() as u64;
        status.handed_over = stage.window.handed_over();
        status.rates = self.cluster.rates_of(&stage.name);
        status
    }

    /// Closes the circuit breaker of a stage on this host. Returns the state of the stage; none when
    /// this host does not know it.
    pub async fn close_breaker(&self, stage: &str, reason: Option<&str>) -> Option<StageStatus> {
        let stage = self.services.pipeline.find(stage)?;
        let was_open = stage.breaker().close();
        if was_open {
            let entry = AuditEntry::new(&actor(), "breaker.close", format!("stage/{}", stage.name));
            let entry = entry.change(json!({ "state": "open" }), json!({ "state": "closed" }));
            let reason = reason.map(|reason| without_nul(reason.to_owned()));
            self.record(entry.because(reason)).await;
        }
        if let Some(running) = stage.running().filter(|_| was_open) {
            self.services.announce_breaker(&stage, &running, BreakerState::Closed).await;
        }
        let mut status = self.own_stage(&stage);
        status.set_backlog(self.backlog().await.as_deref());
        Some(status)
    }

    async fn backlog(&self) -> Option<Vec<StageBacklog>> {
        let now_ms = self.services.clock.now_ms();
        match self.services.store.backlog(now_ms).await {
            Ok(backlog) => Some(backlog),
            Err(error) => {
                tracing::debug!(%error, "the backlog of the stages could not be counted");
                None
            }
        }
    }

    /// Pauses, drains or resumes a stage on every host; none when no live host knows the stage and no
    /// events are routed to it.
    pub async fn set_control(
        &self,
        stage: &str,
        state: ControlState,
        reason: Option<String>,
    ) -> Result<Option<StageControl>, StoreError> {
        if !self.is_known(stage) {
            return Ok(None);
        }
        let control = self
            .services
            .store
            .set_stage_control(ControlChange {
                stage: stage.to_owned(),
                state,
                reason: reason.map(without_nul),
                actor: actor(),
                action: match state {
                    ControlState::Running => "stage.resume",
                    ControlState::Paused => "stage.pause",
                    ControlState::Draining => "stage.drain",
                },
            })
            .await?;
        if let Some(stage) = self.services.pipeline.find(stage) {
            stage.apply_control(Some(control.clone()));
        }
        Ok(Some(control))
    }

    /// Sets how much is logged about the deliveries of a stage and by the stage itself, on every host,
    /// for `duration` or until it is set again; `level` none: what the filter of each process says.
    /// Returns false when no live host knows the stage and no events are routed to it.
    pub async fn set_log_level(
        &self,
        stage: &str,
        level: Option<LogLevel>,
        duration: Option<Duration>,
        reason: Option<String>,
    ) -> Result<bool, StoreError> {
        if !self.is_known(stage) {
            return Ok(false);
        }
        let now_ms = self.services.clock.now_ms();
        let until_ms = duration.map(|duration| now_ms.saturating_add(duration.as_millis() as u64));
        let (stage_name, reason) = (stage.to_owned(), reason.map(without_nul));
        let change = LogLevelChange { stage: stage_name, level, until_ms, reason, actor: actor() };
        let level = self.services.store.set_stage_log_level(change).await?;
        if let Some(stage) = self.services.pipeline.find(stage) {
            stage.apply_log_level(level, now_ms);
        }
        Ok(true)
    }

    /// Deletes a stage from the pipeline: nothing is routed to it any more, and the deliveries that
    /// wait for it are skipped, so that no subject waits for it. Messages that are in its queue stay
    /// there; a later stage of this name ignores them.
    ///
    /// # Errors
    /// When the store or the broker fails. The stage may then be deleted in part: delete it again.
    pub async fn delete_stage(&self, name: &str) -> anyhow::Result<StageDeletion> {
        let Services { store, broker, pipeline, .. } = &self.services;
        let bindings = pipeline.bindings_of(name);
        let waits = !store.open_deliveries(name, 1).await?.is_empty();
        if bindings.is_empty() && !waits {
            return Ok(StageDeletion::NotFound);
        }
        if pipeline.find(name).is_some_and(|stage| stage.running().is_some()) {
            return Ok(StageDeletion::InUse);
        }
        for binding in bindings {
            if !store.delete_binding(binding.clone(), LIVE_MS).await? {
                return Ok(StageDeletion::InUse);
            }
            broker.unbind(&binding.stage, &binding.pattern).await?;
        }
        pipeline.delete(name);
        let skipped = self.skip_open_deliveries(name).await?;
        let deleted = ControlChange {
            stage: name.to_owned(),
            state: ControlState::Running,
            reason: None,
            actor: actor(),
            action: "stage.delete",
        };
        store.set_stage_control(deleted).await?;
        let stage = name.to_owned();
        let (level, until_ms, reason) = (None, None, None);
        let change = LogLevelChange { stage, level, until_ms, reason, actor: actor() };
        store.set_stage_log_level(change).await?;
        Ok(StageDeletion::Deleted { skipped })
    }

    /// Settles every open delivery of a stage without running it.
    async fn skip_open_deliveries(&self, stage: &str) -> anyhow::Result<u64> {
        let Services { store, relay, .. } = &self.services;
        let stage: Arc<str> = stage.into();
        let mut skipped = 0;
        loop {
            let open = store.open_deliveries(&stage, SETTLE_BATCH).await?;
            if open.is_empty() {
                return Ok(skipped);
            }
            let settlements: Vec<_> =
                open.into_iter().map(|one| decide::deleted_stage(&stage, one)).collect();
            let count = settlements.len() as u64;
            let batch =
                Batch { stage: Arc::clone(&stage), settlements, reads: vec![], writes: vec![] };
            match store.commit(batch).await? {
                Commit::Done { outbox, .. } => {
                    skipped += count;
                    relay.enqueue(outbox);
                }
                // Another host settles them as well: look again.
                Commit::Conflict { .. } | Commit::SubjectCancelled(_) => {}
            }
        }
    }

    /// Sends an event to one stage only, even if others consume its type. Every call sends it
    /// under a new id.
    pub async fn send_to(&self, stage: &str, event: Event) -> Result<(), StoreError> {
        let sent = self.new_event(Draft {
            id: uuid::Uuid::now_v7().to_string(),
            event_type: &event.event_type,
            subject: &event.subject,
            data: event.data.clone(),
            subject_key: None,
            customer: None,
            trace: self.services.spans.begin(),
            due_at_ms: None,
        });
        self.services.publish(sent.only_for(stage.into())).await.map(|_| ())
    }
}
