//! The port's methods: each forwards to the module that holds its statements.

use async_trait::async_trait;

use super::sql::{args, fetch};
use super::{
    SqliteStore, api_keys, audit, chains, commands, data_keys, dead_letters, hosts, message_keys,
    outbox, read,
};
use crate::domain::actor::Actor;
use crate::domain::event::{DeliveryKey, EventKey, LoggedEvent};
use crate::domain::subject::SubjectKey;
use crate::store::decode::Columns as _;
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
impl StateSource for SqliteStore {
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError> {
        queries::state_get(&self.readers, "state", stage, key).await
    }

    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError> {
        read::state_folders(&self.readers, stage, folders).await
    }

    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let range = KeyRange { table: "state", stage, prefix, after };
        queries::state_keys(&self.readers, range, limit).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn accept_subject(
        &self,
        subject: NewSubject,
    ) -> Result<(Accepted, Vec<OutboxRow>), StoreError> {
        self.submit(sealed::give_key(&self.readers.encryption, subject)).await
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
        self.submit(batch).await
    }

    /// There is one host: a batch that conflicts reads again and commits.
    async fn lock_state(
        &self,
        _: &str,
        _: &[String],
    ) -> Result<Option<Box<dyn LockedState>>, StoreError> {
        Ok(None)
    }

    async fn claim_outbox(&self, limit: u32, max_bytes: u64) -> Result<Vec<OutboxRow>, StoreError> {
        if limit == 0 || !outbox::claimable(&self.readers, self.clock.now_ms()).await? {
            return Ok(Vec::new());
        }
        self.run(outbox::Claim { limit, max_bytes }).await
    }

    async fn outbox_sent(&self, ids: Vec<i64>) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.submit(SentRows(ids)).await
    }

    async fn outbox_postponed(&self, ids: Vec<i64>, delay_ms: u64) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.run(outbox::Postpone { ids, delay_ms }).await
    }

    async fn outbox_narrowed(
        &self,
        rows: Vec<NarrowedRow>,
        delay_ms: u64,
    ) -> Result<(), StoreError> {
        self.run(outbox::Narrow { rows, delay_ms }).await
    }

    fn writer_bytes(&self) -> (u64, u64) {
        self.writer.bytes()
    }

    async fn unrouted_events(&self) -> Result<Vec<UnroutedEvents>, StoreError> {
        outbox::unrouted(&self.readers, &self.kinds).await
    }

    async fn route_unrouted(&self, routing: Routing) -> Result<Routed, StoreError> {
        self.run(routing).await
    }

    async fn open_deliveries(
        &self,
        stage: &str,
        limit: u32,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        queries::open_deliveries(&self.readers, stage, limit).await
    }

    async fn deliveries_in_turn(
        &self,
        stage: &str,
        queued: Queued,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        queries::deliveries_in_turn(&self.readers, stage, queued).await
    }

    async fn requeue_lost(
        &self,
        stage: &str,
        lost: LostDeliveries,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let queued_before_ms = lost.queued_before_ms(self.clock.now_ms());
        let events = outbox::lost(&self.readers, stage, queued_before_ms, lost).await?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let stage = stage.into();
        self.run(outbox::RequeueLost { stage, events, queued_before_ms }).await
    }

    async fn requeue(&self, stage: &str, events: Vec<EventKey>) -> Result<(), StoreError> {
        self.run(outbox::Requeue { stage: stage.into(), events }).await
    }

    async fn mark_held(&self, stage: &str, held: Vec<EventKey>) -> Result<(), StoreError> {
        if held.is_empty() {
            return Ok(());
        }
        self.run(outbox::MarkHeld { stage: stage.into(), held }).await
    }

    async fn already_settled(&self, keys: Vec<AttemptKey>) -> Result<Vec<AttemptKey>, StoreError> {
        read::already_settled(&self.readers, &keys).await
    }

    async fn subject(&self, key: &SubjectKey) -> Result<Option<Subject>, StoreError> {
        queries::subject(&self.readers, key).await
    }

    async fn subjects(&self, filter: SubjectFilter) -> Result<Page<Subject>, StoreError> {
        queries::subjects(&self.readers, &filter).await
    }

    /// There is one writer, so positions are committed in their order.
    async fn log_end(&self) -> Result<i64, StoreError> {
        let rows =
            fetch(&*self.readers, "SELECT coalesce(max(seq), 0) FROM events", args![]).await?;
        rows.first().map_or(Ok(0), |row| row.int(0))
    }

    async fn events(
        &self,
        filter: EventFilter,
        range: LogRange,
    ) -> Result<Page<LoggedEvent>, StoreError> {
        queries::log::events(&self.readers, &filter, range).await
    }

    async fn events_of_subjects(
        &self,
        subjects: &[SubjectCursor],
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        queries::log::events_of_subjects(&self.readers, subjects, limit).await
    }

    async fn events_by_id(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError> {
        queries::log::events_by_id(&self.readers, id).await
    }

    async fn settled_subjects(
        &self,
        subjects: &[SubjectKey],
    ) -> Result<Vec<SettledSubject>, StoreError> {
        queries::log::settled_subjects(&self.readers, subjects).await
    }

    async fn subject_deliveries(
        &self,
        key: &SubjectKey,
        after: i64,
        limit: u32,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        queries::subject_deliveries(&self.readers, key, after, limit).await
    }

    async fn figures(&self, now_ms: u64) -> Result<StoreFigures, StoreError> {
        queries::figures(&self.readers, now_ms).await
    }

    async fn finished_subjects(
        &self,
        kind: &str,
        after_ms: u64,
        until_ms: u64,
        limit: u32,
    ) -> Result<Vec<FinishedSubject>, StoreError> {
        queries::finished_subjects(&self.readers, kind, (after_ms, until_ms), limit).await
    }

    fn connections(&self) -> (u32, u32) {
        let pool = &self.readers.pool;
        (pool.size(), pool.num_idle() as u32)
    }

    fn commits(&self) -> &CommitMetrics {
        self.writer.commits()
    }

    async fn backlog(&self, now_ms: u64) -> Result<Vec<StageBacklog>, StoreError> {
        queries::backlog(&self.readers, now_ms).await
    }

    async fn delivery(&self, key: &DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        queries::delivery(&self.readers, key).await
    }

    async fn recordings(
        &self,
        filter: RecordingFilter,
    ) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError> {
        queries::recordings(&self.readers, &filter).await
    }

    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError> {
        queries::dead_letters(&self.readers, &filter).await
    }

    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        queries::dead_letter(&self.readers, id).await
    }

    async fn dead_letter_groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError> {
        queries::dead_letter_groups(&self.readers, &filter).await
    }

    async fn count_dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<DeadLetterCount, StoreError> {
        queries::count_dead_letters(&self.readers, &filter).await
    }

    async fn dead_letter_ids(
        &self,
        filter: DeadLetterFilter,
        after: i64,
    ) -> Result<Vec<i64>, StoreError> {
        queries::dead_letter_ids(&self.readers, &filter, after).await
    }

    async fn replay(
        &self,
        id: i64,
        expires_at_ms: u64,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError> {
        self.run(dead_letters::Replay { id, expires_at_ms, actor: actor.clone() }).await
    }

    async fn replay_edited(
        &self,
        id: i64,
        event: NewEvent,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError> {
        self.run(dead_letters::ReplayEdited { id, event, actor: actor.clone() }).await
    }

    async fn discard(
        &self,
        id: i64,
        reason: String,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError> {
        self.run(dead_letters::Discard { id, reason, actor: actor.clone() }).await
    }

    async fn erase(&self, erasure: Erasure) -> Result<Erased, StoreError> {
        self.run(erasure).await
    }

    async fn rewrap_keys(&self, after: i64, actor: &Actor) -> Result<Rewrapped, StoreError> {
        self.run(data_keys::Rewrap { after, actor: actor.clone() }).await
    }

    async fn data_keys(&self) -> Result<Vec<DataKeyCount>, StoreError> {
        data_keys::counts(&self.readers).await
    }

    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError> {
        self.run(load).await
    }

    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError> {
        queries::plugin_loads(&self.readers, stage, limit).await
    }

    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError> {
        queries::stage_controls(&self.readers).await
    }

    async fn set_stage_control(&self, change: ControlChange) -> Result<StageControl, StoreError> {
        self.run(change).await
    }

    async fn stage_log_levels(&self) -> Result<Vec<StageLogLevel>, StoreError> {
        log_levels::list(&self.readers).await
    }

    async fn set_stage_log_level(
        &self,
        change: LogLevelChange,
    ) -> Result<Option<StageLogLevel>, StoreError> {
        self.run(change).await
    }

    async fn count_chains(&self, counts: Vec<ChainCount>) -> Result<(), StoreError> {
        self.run(chains::CountChains { counts }).await
    }

    async fn chains(&self, changed_since_ms: u64) -> Result<Vec<ChainRecord>, StoreError> {
        queries::chains(&self.readers, changed_since_ms).await
    }

    async fn stop_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<ChainRecord, StoreError> {
        let (correlation_id, actor) = (correlation_id.to_owned(), actor.clone());
        self.run(chains::StopChain { correlation_id, reason, actor }).await
    }

    async fn resume_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<ChainRecord, StoreError> {
        let (correlation_id, actor) = (correlation_id.to_owned(), actor.clone());
        self.run(chains::ResumeChain { correlation_id, reason, actor }).await
    }

    async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.run(entry).await
    }

    async fn audit_once(&self, entry: AuditEntry) -> Result<bool, StoreError> {
        self.run(audit::Once(entry)).await
    }

    async fn audit_records(&self, filter: AuditFilter) -> Result<AuditPage, StoreError> {
        queries::audit_records(&self.readers, &filter).await
    }

    async fn prune_audit(&self, before_ms: u64) -> Result<u64, StoreError> {
        self.run(audit::Prune { before_ms }).await
    }

    async fn record_bindings(
        &self,
        used: Vec<StageBinding>,
        live_ms: u64,
    ) -> Result<KnownBindings, StoreError> {
        self.run(hosts::RecordBindings { used, live_ms }).await
    }

    async fn delete_binding(
        &self,
        binding: StageBinding,
        live_ms: u64,
    ) -> Result<bool, StoreError> {
        self.run(hosts::DeleteBinding { binding, live_ms }).await
    }

    async fn message_keys(&self) -> Result<Vec<MessageKey>, StoreError> {
        queries::message_keys(&self.readers).await
    }

    async fn message_keys_or(&self, first: MessageKey) -> Result<Vec<MessageKey>, StoreError> {
        self.run(message_keys::AddFirst(first)).await
    }

    async fn add_message_key(
        &self,
        key: MessageKey,
        actor: &Actor,
    ) -> Result<KeyAdded, StoreError> {
        self.run(message_keys::Add { key, actor: actor.clone() }).await
    }

    async fn remove_message_key(&self, id: &str, actor: &Actor) -> Result<KeyRemoved, StoreError> {
        self.run(message_keys::Remove { id: id.to_owned(), actor: actor.clone() }).await
    }

    async fn record_host(&self, settings: &SharedSettings, report: &str) -> Result<(), StoreError> {
        let (settings, report) = (settings.clone(), report.to_owned());
        self.run(hosts::RecordHost { settings, report }).await
    }

    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError> {
        hosts::live_hosts(&self.readers, self.clock.now_ms()).await
    }

    async fn send_commands(&self, commands: Vec<NewCommand>) -> Result<Vec<i64>, StoreError> {
        self.run(commands::Send(commands)).await
    }

    async fn take_commands(&self) -> Result<Vec<TakenCommand>, StoreError> {
        self.run(commands::Take).await
    }

    async fn answer_command(&self, id: i64, answer: &str) -> Result<(), StoreError> {
        self.run(commands::Answer { id, answer: answer.to_owned() }).await
    }

    async fn command_answers(&self, ids: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
        commands::answers(&self.readers, ids).await
    }

    /// There is one host, which holds every lease.
    async fn lease_stage(&self, _: &str, _: u64) -> Result<bool, StoreError> {
        Ok(true)
    }

    async fn release_stage(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        queries::api_keys(&self.readers).await
    }

    async fn create_api_key(
        &self,
        new: NewApiKey,
        actor: &Actor,
    ) -> Result<CreatedKey, StoreError> {
        self.run(api_keys::CreateKey { new, actor: actor.clone() }).await
    }

    async fn revoke_api_key(
        &self,
        id: &str,
        now_ms: u64,
        actor: &Actor,
    ) -> Result<Option<ApiKey>, StoreError> {
        let (id, actor) = (id.to_owned(), actor.clone());
        self.run(api_keys::RevokeKey { id, now_ms, actor }).await
    }

    async fn api_keys_used(&self, used: Vec<(String, u64)>) -> Result<(), StoreError> {
        self.run(api_keys::KeysUsed(used)).await
    }

    async fn create_session(&self, session: Session) -> Result<(), StoreError> {
        self.run(session).await
    }

    async fn session(&self, digest: &str) -> Result<Option<Session>, StoreError> {
        queries::session(&self.readers, digest).await
    }

    async fn delete_session(&self, digest: &str) -> Result<bool, StoreError> {
        self.run(api_keys::DeleteSession(digest.to_owned())).await
    }

    async fn prune(&self, request: PruneRequest) -> Result<Pruned, StoreError> {
        self.run(request).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let read = async { fetch(&*self.readers, "SELECT 1", args![]).await };
        tokio::try_join!(read, self.run(hosts::Probe)).map(drop)
    }

    async fn close(&self) {
        // The writer ends when the last sender is gone: calls in progress drop theirs once they are
        // answered.
        self.writer.close();
        // Readers first: an open one would block the final checkpoint.
        self.readers.close().await;
        self.writers.close();
        self.writers.wait().await;
    }
}
