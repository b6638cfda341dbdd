//! The store: orders, events, outbox, deliveries, state and dead letters. One method is one
//! transaction.
//!
//! Guarantees carried here: an accepted order is durable when `accept` returns; every outcome of a
//! delivery is a compare-and-set on (round, attempt, open) in the transaction that also writes its
//! state and events; versions of all state read or written are checked in that transaction.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

pub use self::bindings::{KnownBindings, StageBinding};
pub use self::dead_letters::{
    DeadLetter, DeadLetterAction, DeadLetterCount, DeadLetterFilter, DeadLetterGroup,
    DeadLetterStatus,
};
pub use self::log::{EventFilter, LogRange, OrderCursor, SettledOrder};
pub use self::new_event::NewEvent;
pub use self::recordings::{RecordedDelivery, RecordingCursor, RecordingFilter};
use crate::domain::event::{DeliveryKey, Envelope, EventKey, LoggedEvent};

#[cfg(test)]
pub mod conformance;
mod bindings;
mod decode;
mod transaction;
mod dead_letters;
mod log;
pub mod memory;
mod new_event;
pub mod postgres;
mod queries;
mod recordings;
pub mod sqlite;

/// Version of a state key: 0 means that it never existed; versions grow for ever, also over a
/// removal.
pub type Version = i64;

/// Why the store did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full, is read-only or is being shut down: try again later, no
    /// attempt is burned.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood: a bug or a foreign file.
    #[error("the store holds something unexpected: {0}")]
    Corrupt(String),
}

/// What a relay sends: an outbox row with its event.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Row id.
    pub id: i64,
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Straight to one stage's queue with its round and attempt (retry, replay, reconciliation);
    /// none: published by its type.
    pub direct: Option<Direct>,
    /// A stage of ours consumes it: a broker that finds no queue for it has not delivered it.
    pub routed: bool,
}

/// Address of a delivery that is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// The stage.
    pub stage: Arc<str>,
    /// Replays so far, from 1.
    pub round: u32,
    /// Attempt that this sending is for, from 1.
    pub attempt: u32,
}

/// A new order.
#[derive(Debug, Clone)]
pub struct NewOrder {
    /// The id.
    pub id: String,
    /// Who ordered, where it was said.
    pub customer: Option<String>,
    /// The normalised body.
    pub body: Value,
    /// SHA-256 of the canonical submitted body, in hex: tells the same order from another with its
    /// id.
    pub fingerprint: String,
    /// Status at the beginning.
    pub status: String,
    /// What the sender named the request with: it stands for this body for ever.
    pub idempotency_key: Option<String>,
    /// Its first event.
    pub event: NewEvent,
}

/// What became of a new order.
#[derive(Debug, Clone, PartialEq)]
pub enum Accepted {
    /// Written now.
    New(Order),
    /// The same order was there already.
    Duplicate(Order),
    /// Another order has this id.
    Conflict,
    /// The idempotency key stands for another body.
    KeyReused,
}

/// The wish to cancel an order.
#[derive(Debug, Clone)]
pub struct NewCancel {
    /// The order.
    pub order_id: String,
    /// `order.cancelled`, written with the new status or not at all.
    pub event: NewEvent,
}

/// What became of the wish to cancel an order.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancelled {
    /// Its status and its event were written now.
    Begun(Order),
    /// It was being cancelled, or is cancelled: nothing was changed.
    Already(Order),
    /// Its status allows no cancel: nothing was changed.
    Refused(Order),
    /// There is none of this id.
    NotFound,
}

/// An order as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The id.
    pub id: String,
    /// Who ordered.
    pub customer: Option<String>,
    /// Status by the configured transitions.
    pub status: String,
    /// The normalised body.
    pub body: Value,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub updated_at_ms: u64,
}

/// Filters of the order list, newest first.
#[derive(Debug, Clone, Default)]
pub struct OrderFilter {
    /// Only this status.
    pub status: Option<String>,
    /// Only this customer.
    pub customer: Option<String>,
    /// Only those with a delivery at this stage that is open, or dead and waits for a person.
    pub stage: Option<String>,
    /// Only those created then or later, milliseconds since 1970-01-01 UTC.
    pub since_ms: Option<u64>,
    /// Only those created before then, milliseconds since 1970-01-01 UTC.
    pub until_ms: Option<u64>,
    /// Cursor: position (`rowid`-like, growing) of the last order seen; newest first.
    pub before: Option<i64>,
    /// Page size.
    pub limit: u32,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Cursor of the next page; none at the end.
    pub next: Option<i64>,
}

/// One failed try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Replays so far, from 1.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Short and stable.
    pub code: String,
    /// For people.
    pub message: String,
    /// Symbolised guest backtrace.
    pub backtrace: Option<String>,
    /// Digest of the plugin that failed.
    pub digest: String,
    /// Microseconds spent in the stage.
    pub duration_us: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// Not settled yet.
    Open,
    /// The stage decided.
    Done,
    /// Not for this version of the stage, or overtaken by a cancel.
    Skipped,
    /// Dead-lettered.
    Dead,
    /// Dead-lettered and replayed as an edited event.
    Replaced,
}

/// One event at one stage, with its story.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// The stage.
    pub stage: String,
    /// The event.
    pub event: EventKey,
    /// Its type.
    pub event_type: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Replays so far, from 1.
    pub round: u32,
    /// Attempt under way or last made, from 1.
    pub attempt: u32,
    /// Plugin version that settled it.
    pub version: Option<String>,
    /// Digest that settled it.
    pub digest: Option<String>,
    /// Microseconds spent in the stage on the settling try.
    pub duration_us: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub settled_at_ms: Option<u64>,
    /// Ids of the events it emitted.
    pub emitted: Vec<String>,
    /// Failed tries, oldest first.
    pub failures: Vec<FailedAttempt>,
}

/// A key of a stage's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The key.
    pub key: String,
    /// None: removed; the version lives on.
    pub value: Option<Bytes>,
    /// Its version.
    pub version: Version,
}

/// What one delivery came to.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The stage decided: these events follow.
    Done(Vec<NewEvent>),
    /// Try again at this time.
    Retry {
        /// Milliseconds since 1970-01-01 UTC.
        due_at_ms: u64,
    },
    /// Dead-lettered; the event announces it.
    Dead {
        /// Short and stable.
        code: String,
        /// For people.
        message: String,
        /// `postrider.dead-lettered`.
        announcement: NewEvent,
    },
    /// SettledOrder without running.
    Skipped,
    /// Back to the queue later, the same attempt again: nothing was tried.
    Deferred {
        /// Milliseconds since 1970-01-01 UTC.
        due_at_ms: u64,
    },
}

/// One delivery's part of a batch.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which delivery.
    pub delivery: DeliveryKey,
    /// Its event: written if the store has not seen it (published by another program).
    pub envelope: Arc<Envelope>,
    /// Round that was run.
    pub round: u32,
    /// Attempt that was run.
    pub attempt: u32,
    /// What it came to.
    pub verdict: Verdict,
    /// Version of the plugin that ran.
    pub version: String,
    /// Digest of the plugin that ran.
    pub digest: Arc<str>,
    /// Time spent in the stage.
    pub duration_us: u64,
    /// The failed try, for `Retry` and for a death with a try behind it.
    pub failure: Option<FailedAttempt>,
    /// What the stage was given and decided, in JSON; kept when this settles the delivery.
    pub recording: Option<String>,
}

/// All outcomes of a lane's batch: committed together or not at all.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The stage.
    pub stage: Arc<str>,
    /// Its deliveries, each at most once.
    pub settlements: Vec<Settlement>,
    /// Versions that the batch relied upon.
    pub reads: Vec<(String, Version)>,
    /// Final state writes; `None` removes.
    pub writes: Vec<(String, Option<Bytes>)>,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Commit {
    /// Written and durable.
    Done {
        /// Versions assigned to the written keys, in the order of the batch's writes.
        versions: Vec<Version>,
        /// Outbox rows that are due now and leased to this host: hand them to the relay.
        outbox: Vec<OutboxRow>,
    },
    /// Nothing was written: run the batch again without `stale`, with `conflicts` read anew.
    Conflict {
        /// Deliveries that were settled, or moved on, by somebody else.
        stale: Vec<DeliveryKey>,
        /// Keys whose version was no longer the one relied upon.
        conflicts: Vec<String>,
    },
    /// Nothing was written: the orders of these deliveries are cancelled. Run the batch again with
    /// them skipped.
    OrderCancelled(Vec<DeliveryKey>),
}

/// A load of a plugin on this host.
#[derive(Debug, Clone)]
pub struct PluginLoad {
    /// The stage.
    pub stage: String,
    /// SHA-256 of the file.
    pub digest: String,
    /// What it calls itself.
    pub version: String,
    /// The host.
    pub host: String,
    /// Milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: u64,
}

/// What an operator wants of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlState {
    /// It works.
    Running,
    /// It finishes what is under way and holds the rest.
    Paused,
    /// It finishes what its hosts hold and takes nothing more.
    Draining,
}

/// An operator's word about a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageControl {
    /// The stage.
    pub stage: String,
    /// What it shall do.
    pub state: ControlState,
    /// Why.
    pub reason: Option<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub since_ms: u64,
    /// When it was held last: events that expired since then have until a whole expiry after it was
    /// resumed.
    pub held_from_ms: Option<u64>,
}

/// What a batch of retention removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Orders, with all that hung on them.
    pub orders: u64,
    /// Events without an order.
    pub events: u64,
}

/// Deliveries of a stage that are not settled, by what the reconciler asks.
#[derive(Debug, Clone, Copy)]
pub struct LostDeliveries {
    /// Only those handed over for sending before then.
    pub queued_before_ms: u64,
    /// At most so many.
    pub limit: u32,
}

/// Where a stage's state is read.
#[async_trait]
pub trait StateSource: Send + Sync + 'static {
    /// One key.
    async fn state_get(&self, stage: &str, key: &str) -> Result<Option<StateRow>, StoreError>;
    /// All keys (removed ones included) under any of the folders, each ending in `/`.
    async fn state_folders(
        &self,
        stage: &str,
        folders: &[String],
    ) -> Result<Vec<StateRow>, StoreError>;
    /// Present keys with `prefix` after `after`, in byte order.
    async fn state_keys(
        &self,
        stage: &str,
        prefix: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError>;
}

/// Keys of a stage's state that nobody else writes until the batch which needs them is committed,
/// or this is dropped.
#[async_trait]
pub trait LockedState: Send {
    /// The locked keys as they stand; version 0: absent.
    fn rows(&self) -> &[StateRow];
    /// Settles the batch, as [`Store::commit`] does.
    async fn commit(self: Box<Self>, batch: Batch) -> Result<Commit, StoreError>;
}

/// The database. Postgres and `SQLite` implement it; a conformance suite runs the same exercises on
/// both.
#[async_trait]
pub trait Store: StateSource {
    /// Writes an order, its first event, its open deliveries and an outbox row. Returns the rows
    /// for the relay when new.
    async fn accept_order(&self, order: NewOrder)
    -> Result<(Accepted, Vec<OutboxRow>), StoreError>;
    /// Writes an event that does not come from a stage. `false` when its key was known: nothing
    /// changed.
    async fn accept_event(&self, event: NewEvent) -> Result<(bool, Vec<OutboxRow>), StoreError>;
    /// Moves an order to its cancelling status and writes the event that says so, under the order's
    /// lock.
    async fn cancel_order(
        &self,
        cancel: NewCancel,
    ) -> Result<(Cancelled, Vec<OutboxRow>), StoreError>;
    /// Settles a batch: every compare-and-set and version check, then every write, in one
    /// transaction.
    async fn commit(&self, batch: Batch) -> Result<Commit, StoreError>;
    /// Locks keys that several hosts write all the time, so that a batch need not be run again.
    /// None: there is only one host.
    async fn lock_state(
        &self,
        stage: &str,
        keys: &[String],
    ) -> Result<Option<Box<dyn LockedState>>, StoreError>;

    /// Leases up to `limit` due outbox rows that nobody holds.
    async fn claim_outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError>;
    /// Deletes rows whose sending was confirmed.
    async fn outbox_sent(&self, ids: Vec<i64>) -> Result<(), StoreError>;
    /// Gives rows back, to be claimed again at `due_at_ms`.
    async fn outbox_postponed(&self, ids: Vec<i64>, due_at_ms: u64) -> Result<(), StoreError>;

    /// Writes outbox rows (leased to this host, returned) for open deliveries of `stage` that have
    /// none; marks them as queued now.
    async fn requeue_lost(
        &self,
        stage: &str,
        lost: LostDeliveries,
    ) -> Result<Vec<OutboxRow>, StoreError>;

    /// Deliveries among `keys` that are settled, or past the given round and attempt.
    async fn already_settled(
        &self,
        keys: Vec<(DeliveryKey, u32, u32)>,
    ) -> Result<Vec<DeliveryKey>, StoreError>;

    /// One order.
    async fn order(&self, id: &str) -> Result<Option<Order>, StoreError>;
    /// Orders, newest first.
    async fn orders(&self, filter: OrderFilter) -> Result<Page<Order>, StoreError>;
    /// The position up to which the log is complete: whatever is committed later stands after it,
    /// and whatever was committed before this was asked stands before it, unless a writer is under
    /// way for longer than the store waits.
    async fn log_end(&self) -> Result<i64, StoreError>;
    /// Events of the log, oldest first, and where the next page begins; none: there is nothing more
    /// in the range. A page may be short, or empty, before the end of the range: only so much of
    /// the log is looked at for one.
    async fn events(
        &self,
        filter: EventFilter,
        range: LogRange,
    ) -> Result<Page<LoggedEvent>, StoreError>;
    /// Events of these orders after a position of each, oldest first, at most `limit` in all.
    async fn events_of_orders(
        &self,
        orders: &[OrderCursor],
        limit: u32,
    ) -> Result<Vec<LoggedEvent>, StoreError>;
    /// The events of this id, one per source.
    async fn events_by_id(&self, id: &str) -> Result<Vec<LoggedEvent>, StoreError>;
    /// Those of the orders of which every delivery is settled.
    async fn settled_orders(&self, orders: &[String]) -> Result<Vec<SettledOrder>, StoreError>;
    /// An order's deliveries in the order of their creation, with failed tries.
    async fn order_deliveries(&self, order_id: &str) -> Result<Vec<DeliveryRecord>, StoreError>;

    /// One delivery, with failed tries.
    async fn delivery(&self, key: &DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;

    /// A page of a stage's recordings, oldest first, and where the next page begins; none at the
    /// end.
    async fn recordings(
        &self,
        filter: RecordingFilter,
    ) -> Result<(Vec<RecordedDelivery>, Option<RecordingCursor>), StoreError>;

    /// Dead letters, newest first.
    async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Page<DeadLetter>, StoreError>;
    /// One dead letter.
    async fn dead_letter(&self, id: i64) -> Result<Option<DeadLetter>, StoreError>;
    /// Groups of dead letters that died of the same, by their newest dead letter; `before` is that of
    /// the last group of the page before.
    async fn dead_letter_groups(
        &self,
        filter: DeadLetterFilter,
    ) -> Result<Page<DeadLetterGroup>, StoreError>;
    /// How many dead letters there are; page and cursor of the filter do not count.
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
    /// Reopens the delivery with round + 1, attempt 1. Harmless when done twice.
    async fn replay(&self, id: i64, expires_at_ms: u64) -> Result<DeadLetterAction, StoreError>;
    /// Replaces the delivery by `event`, sent to the same stage only.
    async fn replay_edited(&self, id: i64, event: NewEvent)
    -> Result<DeadLetterAction, StoreError>;
    /// Closes it for good.
    async fn discard(&self, id: i64, reason: String) -> Result<DeadLetterAction, StoreError>;

    /// Notes that this host serves a stage with a digest.
    async fn record_plugin_load(&self, load: PluginLoad) -> Result<(), StoreError>;
    /// Load history of a stage, newest first.
    async fn plugin_loads(&self, stage: &str, limit: u32) -> Result<Vec<PluginLoad>, StoreError>;

    /// The operators' word about stages; a stage that is not listed runs.
    async fn stage_controls(&self) -> Result<Vec<StageControl>, StoreError>;
    /// Notes an operator's word.
    async fn set_stage_control(
        &self,
        stage: &str,
        state: ControlState,
        reason: Option<String>,
    ) -> Result<StageControl, StoreError>;

    /// Notes the bindings that this host uses, and learns which all hosts do; one that said nothing
    /// for `live_ms` is gone.
    async fn record_bindings(
        &self,
        used: Vec<StageBinding>,
        live_ms: u64,
    ) -> Result<KnownBindings, StoreError>;
    /// Forgets a binding that no live host uses; false when one does again, and nothing was
    /// changed.
    async fn delete_binding(&self, binding: StageBinding, live_ms: u64)
    -> Result<bool, StoreError>;
    /// Takes or renews this host's lease of a stage, for `ttl_ms` from now; false when another host
    /// has it.
    async fn lease_stage(&self, stage: &str, ttl_ms: u64) -> Result<bool, StoreError>;
    /// Gives this host's lease of a stage back.
    async fn release_stage(&self, stage: &str) -> Result<(), StoreError>;

    /// Looks at the next `limit` orders, and as many events without an order, that were last
    /// changed before then, and removes those of which nothing is open. Called again and again it
    /// comes to all. An order's id and fingerprint stay.
    async fn prune(&self, before_ms: u64, limit: u32) -> Result<Pruned, StoreError>;

    /// Whether it can be written to now.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Finishes what is under way and closes.
    async fn close(&self);
}
