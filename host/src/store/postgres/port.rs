//! The port's methods: each forwards to the module that holds its statements.

use std::sync::PoisonError;

use async_trait::async_trait;

use super::dead_letters::Action;
use super::locked::Locks;
use super::{FAREWELL, PostgresStore, chains, controls, dead_letters, hosts, outbox, prune, read};
use crate::domain::event::{DeliveryKey, EventKey, LoggedEvent};
use crate::domain::subject::SubjectKey;
use crate::store::queries::{self, KeyRange};
use crate::store::transaction::SentRows;
use crate::store::{
    Accepted, AcceptedEvent, AttemptKey, Batch, Cancelled, ChainCount, ChainRecord, Commit,
    ControlState, DeadLetter, DeadLetterAction, DeadLetterCount, DeadLetterFilter, DeadLetterGroup,
    DeliveryRecord, EventFilter, HostReport, KnownBindings, LockedState, LogRange, LostDeliveries,
    NarrowedRow, NewCancel, NewEvent, NewSubject, OpenDelivery, OutboxRow, Page, PluginLoad,
    PruneRequest, Pruned, Queued, RecordedDelivery, RecordingCursor, RecordingFilter, Routed,
    Routing, SettledSubject, SharedSettings, StageBacklog, StageBinding, StageControl, StateRow,
    StateSource, Store, StoreError, Subject, SubjectCursor, SubjectFilter, UnroutedEvents,
};

#[async_trait]
impl StateSource for PostgresStore {
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        let table = self.table(stage)?.name();
        self.within(queries::state_get(&self.pool, table, stage, key)).await
    }

    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError> {
        self.within(read::state_folders(&self.pool, self.table(stage)?, stage, folders)).await
    }

    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let range = KeyRange { table: self.table(stage)?.name(), stage, prefix, after };
        self.within(queries::state_keys(&self.pool, range, limit)).await
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn accept_subject(
        &self,
        subject: NewSubject,
    ) -> Result<(Accepted, Vec<OutboxRow>), StoreError> {
        self.submit(subject).await
    }

    async fn accept_event(
        &self,
        event: NewEvent,
    ) -> Result<(AcceptedEvent, Vec<OutboxRow>), StoreError> {
        self.submit(event).await
    }

    async fn cancel_subject(
        &self,
        cancel: NewCancel,
    ) -> Result<(Cancelled, Vec<OutboxRow>), StoreError> {
        self.submit(cancel).await
    }

    async fn commit(&self, batch: Batch) -> Result<Commit, StoreError> {
        self.table(&batch.stage)?;
        self.submit(batch).await
    }

    async fn lock_state(
        &self,
        stage: &str,
        keys: &[String],
    ) -> Result<Option<Box<dyn LockedState>>, StoreError> {
        self.table(stage)?;
        let locks = Locks {
            pool: &self.pool,
            context: &self.context,
            slots: &self.lock_slots,
            timeout: self.timeout,
        };
        Ok(Some(Box::new(self.within(locks.lock(stage, keys)).await?)))
    }

    async fn claim_outbox(&self, limit: u32, max_bytes: u64) -> Result<Vec<OutboxRow>, StoreError> {
        self.within(outbox::claim(&self.pool, &self.context, (limit, max_bytes))).await
    }

    async fn outbox_sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.submit(SentRows(ids)).await
    }

    async fn outbox_postponed(&self, ids: Vec<i64>, delay_ms: u64) -> Result<(), StoreError> {
        self.within(outbox::postpone(&self.pool, &self.context, &ids, delay_ms)).await
    }

    async fn outbox_narrowed(
        &self,
        rows: Vec<NarrowedRow>,
        delay_ms: u64,
    ) -> Result<(), StoreError> {
        self.within(outbox::narrow(&self.pool, &self.context, &rows, delay_ms)).await
    }

    async fn unrouted_events(&self) -> Result<Vec<UnroutedEvents>, StoreError> {
        self.within(outbox::unrouted(&self.pool, &self.context)).await
    }

    async fn route_unrouted(&self, routing: Routing) -> Result<Routed, StoreError> {
        self.within(outbox::route(&self.pool, &self.context, &routing)).await
    }

    async fn open_deliveries(
        &self,
        stage: &str,
        limit: u32,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        self.within(queries::open_deliveries(&self.pool, stage, limit)).await
    }

    async fn deliveries_in_turn(
        &self,
        stage: &str,
        queued: Queued,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        self.within(queries::deliveries_in_turn(&self.pool, stage, queued)).await
    }

    async fn requeue_lost(
        &self,
        stage: &str,
        lost: LostDeliveries,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.within(outbox::requeue_lost(&self.pool, &self.context, stage, lost)).await
    }

    async fn requeue(&self, stage: &str, events: Vec<EventKey>) -> Result<(), StoreError> {
        self.within(outbox::requeue(&self.pool, &self.context, stage, &events)).await
    }

    async fn mark_held(&self, stage: &str, held: Vec<EventKey>) -> Result<(), StoreError> {
        if held.is_empty() {
            return Ok(());
        }
        self.within(outbox::mark_held(&self.pool, &self.context, stage, &held)).await
    }

    async fn already_settled(&self, keys: Vec<AttemptKey>) -> Result<Vec<AttemptKey>, StoreError> {
        self.within(read::already_settled(&self.pool, &keys)).await
    }

    async fn subject(&self, key: &SubjectKey) -> Result<Option<Subject>, StoreError> {
        self.within(queries::subject(&self.pool, key)).await
    }

    async fn subjects(&self, filter: SubjectFilter) -> Result<Page<Subject>, StoreError> {
        self.within(queries::subjects(&self.pool, &filter)).await
    }

    async fn log_end(&self) -> Result<i64, StoreError> {
        self.within(self.log_end.find(&self.pool)).await
    }

    async fn events(
        &self,
        filter: EventFilter,
        range: LogRange,
    ) -> Result<Page<LoggedEvent>, StoreError> {
        self.within(queries::log::events(&self.pool, &filter, range)).await
    }

    async fn events_of_subjects(
        &self,
        subjects: &[SubjectCursor],
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        self.within(queries::log::events_of_subjects(&self.pool, subjects, limit)).await
    }

    async fn events_by_id(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError> {
        self.within(queries::log::events_by_id(&self.pool, id)).await
    }

    async fn settled_subjects(
        &self,
        subjects: &[SubjectKey],
    ) -> Result<Vec<SettledSubject>, StoreError> {
        self.within(queries::log::settled_subjects(&self.pool, subjects)).await
    }

    async fn subject_deliveries(
        &self,
        key: &SubjectKey,
        after: i64,
        limit: u32,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        self.within(queries::subject_deliveries(&self.pool, key, after, limit)).await
    }

    async fn backlog(&self, now_ms: u64) -> Result<Vec<StageBacklog>, StoreError> {
        self.within(queries::backlog(&self.pool, now_ms)).await
    }

    async fn delivery(&self, key: &DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        self.within(queries::delivery(&self.pool, key)).await
    }

    async fn recordings(
        &self,
        filter: RecordingFilter,
    ) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError> {
        self.within(queries::recordings(&self.pool, &filter)).await
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError> {
        self.within(queries::dead_letters(&self.pool, &filter)).await
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        self.within(queries::dead_letter(&self.pool, id)).await
    }

    async fn dead_letter_groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError> {
        self.within(queries::dead_letter_groups(&self.pool, &filter)).await
    }

    async fn count_dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<DeadLetterCount, StoreError> {
        self.within(queries::count_dead_letters(&self.pool, &filter)).await
    }

    async fn dead_letter_ids(
        &self,
        filter: DeadLetterFilter,
        after: i64,
    ) -> Result<Vec<i64>, StoreError> {
        self.within(queries::dead_letter_ids(&self.pool, &filter, after)).await
    }

    async fn replay(&self, id: i64, expires_at_ms: u64) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::settle(
            &self.pool,
            &self.context,
            id,
            Action::Replay { expires_at_ms },
        ))
        .await
    }

    async fn replay_edited(
        &self,
        id: i64,
        event: NewEvent,
    ) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::settle(
            &self.pool,
            &self.context,
            id,
            Action::ReplayEdited(&event),
        ))
        .await
    }

    async fn discard(&self, id: i64, reason: String) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::settle(
            &self.pool,
            &self.context,
            id,
            Action::Discard { reason: &reason },
        ))
        .await
    }

    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError> {
        self.within(controls::record_plugin_load(&self.pool, &load)).await
    }

    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError> {
        self.within(queries::plugin_loads(&self.pool, stage, limit)).await
    }

    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError> {
        self.within(queries::stage_controls(&self.pool)).await
    }

    async fn set_stage_control(
        &self,
        stage: &str,
        state: ControlState,
        reason: Option<String>,
    ) -> Result<StageControl, StoreError> {
        let (reason, now_ms) = (reason.as_deref(), self.context.clock.now_ms());
        self.within(controls::set_stage_control(&self.pool, stage, state, reason, now_ms)).await
    }

    async fn count_chains(&self, counts: Vec<ChainCount>) -> Result<(), StoreError> {
        self.within(chains::count(&self.pool, &self.context, &counts)).await
    }

    async fn chains(&self, changed_since_ms: u64) -> Result<Vec<ChainRecord>, StoreError> {
        self.within(queries::chains(&self.pool, changed_since_ms)).await
    }

    async fn stop_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
    ) -> Result<ChainRecord, StoreError> {
        let reason = reason.as_deref();
        self.within(chains::stop(&self.pool, &self.context, correlation_id, reason)).await
    }

    async fn resume_chain(&self, correlation_id: &str) -> Result<ChainRecord, StoreError> {
        self.within(chains::resume(&self.pool, &self.context, correlation_id)).await
    }

    async fn record_bindings(
        &self,
        used: Vec<StageBinding>,
        live_ms: u64,
    ) -> Result<KnownBindings, StoreError> {
        self.within(hosts::record_bindings(&self.pool, &self.context, &used, live_ms)).await
    }

    async fn delete_binding(
        &self,
        binding: StageBinding,
        live_ms: u64,
    ) -> Result<bool, StoreError> {
        self.within(hosts::delete_binding(&self.pool, &self.context, &binding, live_ms)).await
    }

    async fn record_host(&self, settings: &SharedSettings) -> Result<Vec<HostReport>, StoreError> {
        self.within(hosts::record_host(&self.pool, &self.context, settings)).await
    }

    async fn lease_stage(&self, stage: &str, ttl_ms: u64) -> Result<bool, StoreError> {
        self.within(hosts::lease_stage(&self.pool, &self.context, stage, ttl_ms)).await
    }

    async fn release_stage(&self, stage: &str) -> Result<(), StoreError> {
        self.within(hosts::release_stage(&self.pool, &self.context, stage)).await
    }

    async fn prune(&self, request: PruneRequest) -> Result<Pruned, StoreError> {
        self.within(prune::prune(&self.pool, &self.context, &request)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // Both the writer's connection and the pool's: a row that does not exist, and this host's.
        self.within(self.submit(SentRows(vec![-1]))).await?;
        self.within(hosts::probe(&self.pool, &self.context)).await
    }

    fn postgres(&self) -> Option<&PostgresStore> {
        Some(self)
    }

    async fn close(&self) {
        // The writer ends when the last sender is gone: calls in progress drop theirs once they are
        // answered.
        drop(self.writer.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.writers.close();
        self.writers.wait().await;
        // It does not count as live for longer than it lives.
        // Best effort: otherwise they notice after a while.
        let deleted = hosts::delete_host(&self.pool, &self.context);
        let _ = tokio::time::timeout(FAREWELL.min(self.timeout), deleted).await;
        if tokio::time::timeout(self.timeout, self.pool.close()).await.is_err() {
            tracing::warn!("timed out closing connections");
        }
    }
}
