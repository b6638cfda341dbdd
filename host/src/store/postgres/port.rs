//! The port's methods: each forwards to the module that holds its statements.

use async_trait::async_trait;

use super::dead_letters::Action;
use super::locked::Locks;
use super::{
    FAREWELL, PostgresStore, api_keys, audit, chains, commands, controls, data_keys, dead_letters,
    erasure, hosts, message_keys, outbox, prune, read,
};
use crate::domain::actor::Actor;
use crate::domain::event::{DeliveryKey, EventKey, LoggedEvent};
use crate::domain::subject::SubjectKey;
use crate::store::queries::{self, KeyRange};
use crate::store::transaction::SentRows;
use crate::store::{
    Accepted, AcceptedEvent, ApiKey, AttemptKey, AuditEntry, AuditFilter, AuditPage, Batch,
    Cancelled, ChainCount, ChainRecord, Commit, CommitMetrics, ControlChange, CreatedKey,
    DataKeyCount, DeadLetter, DeadLetterAction, DeadLetterCount, DeadLetterFilter, DeadLetterGroup,
    DeliveryRecord, Erased, Erasure, EventFilter, FinishedSubject, KeyAdded, KeyRemoved,
    KnownBindings, LiveHost, LockedState, LogLevelChange, LogRange, LostDeliveries, MessageKey,
    NarrowedRow, NewApiKey, NewCancel, NewCommand, NewEvent, NewSubject, OpenDelivery, OutboxRow,
    Page, PluginLoad, PruneRequest, Pruned, Queued, RecordedDelivery, RecordingCursor,
    RecordingFilter, Rewrapped, Routed, Routing, Session, SettledSubject, SharedSettings,
    StageBacklog, StageBinding, StageControl, StageLogLevel, StateRow, StateSource, Store,
    StoreError, StoreFigures, Subject, SubjectCursor, SubjectFilter, TakenCommand, UnroutedEvents,
    log_levels, sealed,
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
        let table = (self.table(stage)?, self.pool.encryption());
        self.within(read::state_folders(&self.pool, table, stage, folders)).await
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
        self.submit(sealed::give_key(&self.context.encryption, subject)).await
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

    fn writer_bytes(&self) -> (u64, u64) {
        self.writer.bytes()
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

    async fn figures(&self, now_ms: u64) -> Result<StoreFigures, StoreError> {
        self.within(queries::figures(&self.pool, now_ms)).await
    }

    async fn finished_subjects(
        &self,
        kind: &str,
        after_ms: u64,
        until_ms: u64,
        limit: u32,
    ) -> Result<Vec<FinishedSubject>, StoreError> {
        let range = (after_ms, until_ms);
        self.within(queries::finished_subjects(&self.pool, kind, range, limit)).await
    }

    fn connections(&self) -> (u32, u32) {
        self.pool.load()
    }

    fn commits(&self) -> &CommitMetrics {
        self.writer.commits()
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

    async fn replay(
        &self,
        id: i64,
        expires_at_ms: u64,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::settle(
            &self.pool,
            &self.context,
            id,
            (Action::Replay { expires_at_ms }, actor),
        ))
        .await
    }

    async fn replay_edited(
        &self,
        id: i64,
        event: NewEvent,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::settle(
            &self.pool,
            &self.context,
            id,
            (Action::ReplayEdited(&event), actor),
        ))
        .await
    }

    async fn discard(
        &self,
        id: i64,
        reason: String,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError> {
        self.within(dead_letters::settle(
            &self.pool,
            &self.context,
            id,
            (Action::Discard { reason: &reason }, actor),
        ))
        .await
    }

    async fn erase(&self, erasure: Erasure) -> Result<Erased, StoreError> {
        self.within(erasure::erase(&self.pool, &self.context, &erasure)).await
    }

    async fn rewrap_keys(&self, after: i64, actor: &Actor) -> Result<Rewrapped, StoreError> {
        self.within(data_keys::rewrap(&self.pool, &self.context, after, actor)).await
    }

    async fn data_keys(&self) -> Result<Vec<DataKeyCount>, StoreError> {
        self.within(data_keys::counts(&self.pool)).await
    }

    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError> {
        self.within(controls::record_plugin_load(&self.pool, &self.context, &load)).await
    }

    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError> {
        self.within(queries::plugin_loads(&self.pool, stage, limit)).await
    }

    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError> {
        self.within(queries::stage_controls(&self.pool)).await
    }

    async fn set_stage_control(&self, change: ControlChange) -> Result<StageControl, StoreError> {
        self.within(controls::set_stage_control(&self.pool, &self.context, &change)).await
    }

    async fn stage_log_levels(&self) -> Result<Vec<StageLogLevel>, StoreError> {
        self.within(log_levels::list(&self.pool)).await
    }

    async fn set_stage_log_level(
        &self,
        change: LogLevelChange,
    ) -> Result<Option<StageLogLevel>, StoreError> {
        self.within(controls::set_log_level(&self.pool, &self.context, &change)).await
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
        actor: &Actor,
    ) -> Result<ChainRecord, StoreError> {
        let given = (reason.as_deref(), actor);
        self.within(chains::stop(&self.pool, &self.context, correlation_id, given)).await
    }

    async fn resume_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<ChainRecord, StoreError> {
        let given = (reason.as_deref(), actor);
        self.within(chains::resume(&self.pool, &self.context, correlation_id, given)).await
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.within(audit::write(&self.pool, &self.context, entry)).await
    }

    async fn audit_once(&self, entry: AuditEntry) -> Result<bool, StoreError> {
        self.within(audit::write_once(&self.pool, &self.context, entry)).await
    }

    async fn audit_records(&self, filter: AuditFilter) -> Result<AuditPage, StoreError> {
        self.within(queries::audit_records(&self.pool, &filter)).await
    }

    async fn prune_audit(&self, before_ms: u64) -> Result<u64, StoreError> {
        self.within(audit::prune(&self.pool, &self.context, before_ms)).await
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

    async fn message_keys(&self) -> Result<Vec<MessageKey>, StoreError> {
        self.within(queries::message_keys(&self.pool)).await
    }

    async fn message_keys_or(&self, first: MessageKey) -> Result<Vec<MessageKey>, StoreError> {
        self.within(message_keys::all_or(&self.pool, &first)).await
    }

    async fn add_message_key(
        &self,
        key: MessageKey,
        actor: &Actor,
    ) -> Result<KeyAdded, StoreError> {
        self.within(message_keys::add(&self.pool, &self.context, &key, actor)).await
    }

    async fn remove_message_key(&self, id: &str, actor: &Actor) -> Result<KeyRemoved, StoreError> {
        self.within(message_keys::remove(&self.pool, &self.context, id, actor)).await
    }

    async fn record_host(&self, settings: &SharedSettings, report: &str) -> Result<(), StoreError> {
        self.within(hosts::record_host(&self.pool, &self.context, settings, report)).await
    }

    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError> {
        self.within(hosts::live_hosts(&self.pool, &self.context)).await
    }

    async fn send_commands(&self, commands: Vec<NewCommand>) -> Result<Vec<i64>, StoreError> {
        self.within(commands::send(&self.pool, &self.context, &commands)).await
    }

    async fn take_commands(&self) -> Result<Vec<TakenCommand>, StoreError> {
        self.within(commands::take(&self.pool, &self.context)).await
    }

    async fn answer_command(&self, id: i64, answer: &str) -> Result<(), StoreError> {
        self.within(commands::answer(&self.pool, &self.context, id, answer)).await
    }

    async fn command_answers(&self, ids: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
        self.within(commands::answers(&self.pool, ids)).await
    }

    async fn lease_stage(&self, stage: &str, ttl_ms: u64) -> Result<bool, StoreError> {
        self.within(hosts::lease_stage(&self.pool, &self.context, stage, ttl_ms)).await
    }

    async fn release_stage(&self, stage: &str) -> Result<(), StoreError> {
        self.within(hosts::release_stage(&self.pool, &self.context, stage)).await
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.within(queries::api_keys(&self.pool)).await
    }

    async fn create_api_key(
        &self,
        key: NewApiKey,
        actor: &Actor,
    ) -> Result<CreatedKey, StoreError> {
        self.within(api_keys::create(&self.pool, &self.context, &key, actor)).await
    }

    async fn revoke_api_key(
        &self,
        id: &str,
        now_ms: u64,
        actor: &Actor,
    ) -> Result<Option<ApiKey>, StoreError> {
        self.within(api_keys::revoke(&self.pool, &self.context, (id, now_ms), actor)).await
    }

    async fn api_keys_used(&self, used: Vec<(String, u64)>) -> Result<(), StoreError> {
        self.within(api_keys::used(&self.pool, &used)).await
    }

    async fn create_session(&self, session: Session) -> Result<(), StoreError> {
        let now_ms = self.context.clock.now_ms();
        self.within(api_keys::create_session(&self.pool, &session, now_ms)).await
    }

    async fn session(&self, digest: &str) -> Result<Option<Session>, StoreError> {
        self.within(queries::session(&self.pool, digest)).await
    }

    async fn delete_session(&self, digest: &str) -> Result<bool, StoreError> {
        self.within(api_keys::delete_session(&self.pool, digest)).await
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
        self.writer.close();
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
