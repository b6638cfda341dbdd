//! The store: subjects, events, outbox, deliveries, state and dead letters. One method is one
//! transaction.
//!
//! Guarantees carried here: an accepted subject is durable when `accept_subject` returns; every outcome
//! of a delivery is a compare-and-set on (round, attempt, open) in the transaction that also writes
//! its state and events; versions of all state read or written are checked in that transaction.

use async_trait::async_trait;

mod audit;
mod api_keys;
mod bindings;
mod chains;
mod commands;
mod commit;
mod costs;
#[cfg(test)]
pub mod conformance;
mod data_keys;
mod dead_letters;
mod decode;
mod deliveries;
mod erasure;
mod error;
mod events;
mod figures;
pub(crate) mod hosts;
mod log_levels;
pub mod memory;
mod message_keys;
mod new_event;
mod subjects;
mod outbox;
#[cfg(feature = "postgres")]
pub mod postgres;
mod queries;
mod recordings;
mod sealed;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod stages;
mod state;
mod transaction;
pub(crate) mod unrouted;
mod upkeep;

pub use self::api_keys::{ApiKey, CreatedKey, NewApiKey, Session};
pub use self::audit::{
    AuditEntry, AuditFilter, AuditOutcome, AuditPage, AuditPosition, AuditRecord, RecordedActor,
};
pub use self::bindings::{KnownBindings, StageBinding};
pub use self::chains::{CHAINS_MAX, ChainCount, ChainRecord, ChainStop};
pub use self::commands::{NewCommand, TakenCommand};
pub use self::commit::{Batch, Commit, Settlement, Verdict};
pub use self::data_keys::{DataKeyCount, Rewrapped};
pub use self::dead_letters::{
    DeadLetter, DeadLetterAction, DeadLetterCount, DeadLetterFilter, DeadLetterGroup,
    DeadLetterStatus,
};
pub use self::deliveries::{
    AttemptKey, DeliveryRecord, DeliveryStatus, Direct, FailedAttempt, LostDeliveries,
    OpenDelivery, Queued,
};
pub use self::erasure::{Erased, Erasure};
pub use self::error::StoreError;
pub use self::events::{Direction, EventFilter, LogRange, SettledSubject, SubjectCursor};
pub use self::figures::{CommitMetrics, Counted, FinishedSubject, StoreFigures};
pub use self::hosts::{HostReport, LiveHost, SharedSettings};
pub use self::log_levels::{LogLevelChange, StageLogLevel};
pub use self::message_keys::{KeyAdded, KeyRemoved, MessageKey};
pub use self::new_event::{AcceptedEvent, NewEvent};
pub use self::outbox::{Listeners, NarrowedRow, OutboxRow, Publishing};
pub use self::recordings::{RecordedDelivery, RecordingCursor, RecordingFilter};
pub use self::stages::{ControlChange, ControlState, PluginLoad, StageBacklog, StageControl};
pub use self::state::{LockedState, StateRow, StateSource, Version};
pub use self::subjects::{
    Accepted, Cancelled, NewCancel, NewSubject, PruneRequest, Pruned, Subject, SubjectFilter,
};
pub use self::unrouted::{Routed, Routing, UnroutedEvents};
use crate::domain::actor::Actor;
use crate::domain::event::{DeliveryKey, EventKey, LoggedEvent};
use crate::domain::subject::SubjectKey;

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Cursor of the next page; none at the end.
    pub next: Option<i64>,
}

/// The database. Postgres and `SQLite` implement it; a conformance suite runs the same exercises on
/// both.
#[async_trait]
pub trait Store: StateSource {
    /// Writes a subject, its first event, its open deliveries and an outbox row. Returns the rows
    /// for the relay when new.
    async fn accept_subject(
        &self,
        subject: NewSubject,
    ) -> Result<(Accepted, Vec<OutboxRow>), StoreError>;
    /// Writes an event that does not come from a stage. Returns the rows for the relay when new.
    async fn accept_event(
        &self,
        event: NewEvent,
    ) -> Result<(AcceptedEvent, Vec<OutboxRow>), StoreError>;
    /// Changes a subject's status to cancelling and writes the cancellation event, under the subject's
    /// lock.
    async fn cancel_subject(
        &self,
        cancel: NewCancel,
    ) -> Result<(Cancelled, Vec<OutboxRow>), StoreError>;
    /// Settles a batch in one transaction: all compare-and-sets and version checks, then all writes.
    async fn commit(&self, batch: Batch) -> Result<Commit, StoreError>;
    /// Locks keys that several hosts write often, so that a batch is not run again after a conflict.
    /// None: there is only one host.
    async fn lock_state(
        &self,
        stage: &str,
        keys: &[String],
    ) -> Result<Option<Box<dyn LockedState>>, StoreError>;

    /// Leases up to `limit` due outbox rows that are not leased, no further ones once the data of
    /// their events has `max_bytes`.
    async fn claim_outbox(&self, limit: u32, max_bytes: u64) -> Result<Vec<OutboxRow>, StoreError>;
    /// Deletes rows whose sending was confirmed.
    async fn outbox_sent(&self, ids: Vec<i64>) -> Result<(), StoreError>;
    /// Releases rows; they can be claimed again after `delay_ms`.
    async fn outbox_postponed(&self, ids: Vec<i64>, delay_ms: u64) -> Result<(), StoreError>;

    /// Replaces rows that are published by type with a row for each of the given stages, which can be
    /// claimed after `delay_ms`.
    async fn outbox_narrowed(
        &self,
        rows: Vec<NarrowedRow>,
        delay_ms: u64,
    ) -> Result<(), StoreError>;

    /// Bytes of what waits for the writer or is being committed, and the most that it may have.
    fn writer_bytes(&self) -> (u64, u64);

    /// The events that wait for a stage, by type; at most 10,000 are counted.
    async fn unrouted_events(&self) -> Result<Vec<UnroutedEvents>, StoreError>;
    /// Routes waiting events of one type, oldest first: opens their deliveries and sends them. Those
    /// of finished subjects no longer wait.
    async fn route_unrouted(&self, routing: Routing) -> Result<Routed, StoreError>;
    /// Open deliveries of a stage, the longest queued first.
    async fn open_deliveries(
        &self,
        stage: &str,
        limit: u32,
    ) -> Result<Vec<OpenDelivery>, StoreError>;

    /// Open deliveries of a stage that wait in its queue, as if kinds of subjects took turns, and within
    /// a kind customers: the longest queued of each first.
    async fn deliveries_in_turn(
        &self,
        stage: &str,
        queued: Queued,
    ) -> Result<Vec<OpenDelivery>, StoreError>;

    /// Writes outbox rows (leased to this host, returned) for open deliveries of `stage` that have
    /// none; marks them as queued now.
    async fn requeue_lost(
        &self,
        stage: &str,
        lost: LostDeliveries,
    ) -> Result<Vec<OutboxRow>, StoreError>;

    /// Writes an outbox row, which any host sends, for each of these deliveries of `stage` that is open
    /// and has none.
    async fn requeue(&self, stage: &str, events: Vec<EventKey>) -> Result<(), StoreError>;

    /// Records that this host holds the messages of these events, so that no host takes them for
    /// lost: open deliveries of `stage` count as queued now.
    async fn mark_held(&self, stage: &str, held: Vec<EventKey>) -> Result<(), StoreError>;

    /// Those of the attempts whose delivery is settled, or past them.
    async fn already_settled(&self, keys: Vec<AttemptKey>) -> Result<Vec<AttemptKey>, StoreError>;

    /// One subject.
    async fn subject(&self, key: &SubjectKey) -> Result<Option<Subject>, StoreError>;
    /// Subjects, newest first.
    async fn subjects(&self, filter: SubjectFilter) -> Result<Page<Subject>, StoreError>;
    /// The position up to which the log is complete: everything committed later is after it, and
    /// everything committed before this call is at or before it, unless a transaction runs for
    /// longer than the store waits.
    async fn log_end(&self) -> Result<i64, StoreError>;
    /// Events of the log, oldest first, and the start of the next page; none at the end of the
    /// range. A page may be short, or empty, before the end of the range, because one call reads a
    /// bounded part of the log.
    async fn events(
        &self,
        filter: EventFilter,
        range: LogRange,
    ) -> Result<Page<LoggedEvent>, StoreError>;
    /// Events of these subjects after a position of each, oldest first, at most `limit` in all.
    async fn events_of_subjects(
        &self,
        subjects: &[SubjectCursor],
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError>;
    /// The events of this id, one per source.
    async fn events_by_id(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError>;
    /// Those of the subjects whose deliveries are all settled.
    async fn settled_subjects(
        &self,
        subjects: &[SubjectKey],
    ) -> Result<Vec<SettledSubject>, StoreError>;
    /// A subject's deliveries with failed attempts, by the position of their events in the log: those
    /// of the `limit` events after the position `after`.
    async fn subject_deliveries(
        &self,
        key: &SubjectKey,
        after: i64,
        limit: u32,
    ) -> Result<Page<DeliveryRecord>, StoreError>;

    /// What waits in the store. The cost grows with it.
    async fn figures(&self, now_ms: u64) -> Result<StoreFigures, StoreError>;
    /// Subjects of a kind that finished after `after_ms` and not after `until_ms`, in the order in which
    /// they did.
    async fn finished_subjects(
        &self,
        kind: &str,
        after_ms: u64,
        until_ms: u64,
        limit: u32,
    ) -> Result<Vec<FinishedSubject>, StoreError>;
    /// Connections beside the writer's: those that are open, and those of them that are idle.
    fn connections(&self) -> (u32, u32);
    /// The groups that this host committed.
    fn commits(&self) -> &CommitMetrics;

    /// Open deliveries by stage; those that fall due after `now_ms` are scheduled.
    async fn backlog(&self, now_ms: u64) -> Result<Vec<StageBacklog>, StoreError>;

    /// One delivery, with failed attempts.
    async fn delivery(&self, key: &DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;

    /// A page of a stage's recordings, oldest first, and the start of the next page; none at the end.
    async fn recordings(
        &self,
        filter: RecordingFilter,
    ) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError>;
    /// One dead letter.
    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError>;
    /// Groups of dead letters with the same fingerprint, by their newest dead letter; `before` is that
    /// of the last group of the previous page.
    async fn dead_letter_groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError>;
    /// Number of dead letters; the filter's page size and cursor are ignored.
    async fn count_dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<DeadLetterCount, StoreError>;
    /// Ids of the next dead letters after `after`, oldest first.
    async fn dead_letter_ids(
        &self,
        filter: DeadLetterFilter,
        after: i64,
    ) -> Result<Vec<i64>, StoreError>;
    /// Reopens the delivery with round + 1, attempt 1. A second call changes nothing.
    async fn replay(
        &self,
        id: i64,
        expires_at_ms: u64,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError>;
    /// Replaces the delivery by `event`, sent to the same stage only.
    async fn replay_edited(
        &self,
        id: i64,
        event: NewEvent,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError>;
    /// Closes the dead letter without another attempt.
    async fn discard(
        &self,
        id: i64,
        reason: String,
        actor: &Actor,
    ) -> Result<DeadLetterAction, StoreError>;

    /// Erases finished subjects of a customer, in one transaction.
    async fn erase(&self, erasure: Erasure) -> Result<Erased, StoreError>;
    /// Wraps keys of subjects after a position with the primary key, a bounded number in one
    /// transaction; from 0 on, the shared keys as well.
    async fn rewrap_keys(&self, after: i64, actor: &Actor) -> Result<Rewrapped, StoreError>;
    /// Which keys wrap the keys of subjects and the shared ones, and how many. Reads all of them.
    async fn data_keys(&self) -> Result<Vec<DataKeyCount>, StoreError>;

    /// Records that this host serves a stage with a digest.
    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError>;
    /// Load history of a stage, newest first.
    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError>;

    /// The control states of stages; a stage that is not listed runs.
    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError>;
    /// Sets the control state of a stage.
    async fn set_stage_control(&self, change: ControlChange) -> Result<StageControl, StoreError>;
    /// The log levels of stages, those that have ended included; a stage that is not listed has that of
    /// the process.
    async fn stage_log_levels(&self) -> Result<Vec<StageLogLevel>, StoreError>;
    /// Sets or removes the log level of a stage; returns the one that holds.
    async fn set_stage_log_level(
        &self,
        change: LogLevelChange,
    ) -> Result<Option<StageLogLevel>, StoreError>;

    /// Adds to the recorded numbers of events of chains.
    async fn count_chains(&self, counts: Vec<ChainCount>) -> Result<(), StoreError>;
    /// The stopped chains, and those that were counted, stopped or resumed at or after that time; at
    /// most 4,096.
    async fn chains(&self, changed_since_ms: u64) -> Result<Vec<ChainRecord>, StoreError>;
    /// Stops a chain.
    async fn stop_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<ChainRecord, StoreError>;
    /// Lets a chain run again, and counts its events from zero.
    async fn resume_chain(
        &self,
        correlation_id: &str,
        reason: Option<String>,
        actor: &Actor,
    ) -> Result<ChainRecord, StoreError>;

    /// Records what no other method does.
    async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError>;
    /// The same, unless the log has a record of this action on this object with the same result; false
    /// if it has.
    async fn audit_once(&self, entry: AuditEntry) -> Result<bool, StoreError>;
    /// A page of the audit log, oldest record first.
    async fn audit_records(&self, filter: AuditFilter) -> Result<AuditPage, StoreError>;
    /// Deletes the oldest records from before a time, up to a number; returns how many.
    async fn prune_audit(&self, before_ms: u64) -> Result<u64, StoreError>;

    /// Records the bindings that this host uses and returns those of all hosts; a host that recorded
    /// nothing for `live_ms` is gone.
    async fn record_bindings(
        &self,
        used: Vec<StageBinding>,
        live_ms: u64,
    ) -> Result<KnownBindings, StoreError>;
    /// Deletes a binding that no live host uses; false when one does, and nothing was changed.
    async fn delete_binding(&self, binding: StageBinding, live_ms: u64)
    -> Result<bool, StoreError>;
    /// The keys with which the hosts of this namespace sign their messages, the newest first.
    async fn message_keys(&self) -> Result<Vec<MessageKey>, StoreError>;
    /// The same, after `first` was added if there was none.
    async fn message_keys_or(&self, first: MessageKey) -> Result<Vec<MessageKey>, StoreError>;
    /// Adds a key, which is the newest one from now on.
    async fn add_message_key(&self, key: MessageKey, actor: &Actor)
    -> Result<KeyAdded, StoreError>;
    /// Removes a key that is not the newest.
    async fn remove_message_key(&self, id: &str, actor: &Actor) -> Result<KeyRemoved, StoreError>;

    /// Records that this host is live, its settings, and its report: what it runs, as JSON.
    async fn record_host(&self, settings: &SharedSettings, report: &str) -> Result<(), StoreError>;
    /// The live hosts with their reports, by name.
    async fn live_hosts(&self) -> Result<Vec<LiveHost>, StoreError>;
    /// Asks other hosts to do something; returns the ids of the commands in their order.
    async fn send_commands(&self, commands: Vec<NewCommand>) -> Result<Vec<i64>, StoreError>;
    /// Takes what other hosts asked this one to do in the last minute, in its order. No command is
    /// taken twice.
    async fn take_commands(&self) -> Result<Vec<TakenCommand>, StoreError>;
    /// Answers a command that this host took.
    async fn answer_command(&self, id: i64, answer: &str) -> Result<(), StoreError>;
    /// The answers to these commands, as far as there are any.
    async fn command_answers(&self, ids: &[i64]) -> Result<Vec<(i64, String)>, StoreError>;
    /// Acquires or renews this host's lease of a stage for `ttl_ms`; false when another host holds it.
    async fn lease_stage(&self, stage: &str, ttl_ms: u64) -> Result<bool, StoreError>;
    /// Releases this host's lease of a stage.
    async fn release_stage(&self, stage: &str) -> Result<(), StoreError>;

    /// Every API key, the newest first; at most 1,000.
    async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError>;
    /// Writes a key unless its principal, or the store, has too many.
    async fn create_api_key(&self, key: NewApiKey, actor: &Actor)
    -> Result<CreatedKey, StoreError>;
    /// Revokes a key and returns it; none if there is no such key. A second call changes nothing.
    async fn revoke_api_key(
        &self,
        id: &str,
        now_ms: u64,
        actor: &Actor,
    ) -> Result<Option<ApiKey>, StoreError>;
    /// Records when keys were last used, milliseconds since 1970-01-01 UTC.
    async fn api_keys_used(&self, used: Vec<(String, u64)>) -> Result<(), StoreError>;
    /// Writes a session.
    async fn create_session(&self, session: Session) -> Result<(), StoreError>;
    /// The session with this digest of its id, whether or not it has expired.
    async fn session(&self, digest: &str) -> Result<Option<Session>, StoreError>;
    /// Deletes a session; false if there is none.
    async fn delete_session(&self, digest: &str) -> Result<bool, StoreError>;

    /// Examines the next subjects of each kind, and events without a subject, that were last changed
    /// before a time, and deletes those that are finished. Repeated calls reach all of them. A
    /// subject's key and fingerprint stay.
    async fn prune(&self, request: PruneRequest) -> Result<Pruned, StoreError>;

    /// Writes something: the store accepts writes.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Finishes queued operations and closes.
    async fn close(&self);

    /// The store itself, when it is Postgres: it can take part in transactions of the embedding
    /// program.
    #[cfg(feature = "postgres")]
    fn postgres(&self) -> Option<&postgres::PostgresStore> {
        None
    }
}
