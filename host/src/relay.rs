//! The relay: publishes the rows of the outbox to the broker.
//!
//! The outbox row carries the guarantee (at least once, with a stable message id); the queue in
//! memory only saves reading the row back. A row that does not fit into that queue is released, and
//! then claimed like any other; one that was in flight when the relay failed, once its lease ends.
//! After a refusal by one of several queues, only those that did not confirm receive the event again.
//! Bounds: [`IN_FLIGHT_MAX`] batches of at most [`SEND_MAX`] rows in flight; the events that wait and
//! those in flight together have at most `broker.relay_max_bytes`, or are a single one ([`budget`]).
//! While the broker is unavailable, nothing is claimed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::budget::{Budget, Reserved};
use crate::broker::{Broker, BrokerError, Outgoing};
use crate::domain::spans::Spans;
use crate::domain::steps::STEPS;
use crate::pipeline::Pipeline;
use crate::pipeline::routes::Routes as _;
use crate::store::{Direct, NarrowedRow, OutboxRow, Store};

mod budget;
mod spans;
#[cfg(test)]
mod tests;

/// Groups of committed rows that wait for the relay.
const QUEUE_MAX: usize = 1_024;
/// Most rows in one batch.
const SEND_MAX: usize = 1_000;
/// Batches that wait for their confirms.
const IN_FLIGHT_MAX: usize = 8;
/// Time between two claims of rows that are due.
const POLL: Duration = Duration::from_millis(100);
/// A row that the broker did not accept is due again after this long.
const POSTPONE_MS: u64 = 500;
/// Pause after the store did not answer.
const STORE_BACKOFF: Duration = Duration::from_millis(250);

/// Committed rows, whose bytes are reserved for as long as they are held.
struct Group {
    rows: Vec<OutboxRow>,
    reserved: Reserved,
}

/// Hands committed rows to the relay.
#[derive(Clone)]
pub struct RelayHandle {
    groups: mpsc::Sender<Group>,
    /// Ids of rows that did not fit.
    excess: mpsc::Sender<Vec<i64>>,
    budget: Budget,
    broker: Arc<dyn Broker>,
}

impl RelayHandle {
    /// Queues committed rows; never waits.
    pub fn enqueue(&self, rows: Vec<OutboxRow>) {
        if rows.is_empty() {
            return;
        }
        let Some(reserved) = self.budget.reserve(bytes_of(&rows)) else {
            return self.leave(&rows);
        };
        let group = Group { rows, reserved };
        if let Err(TrySendError::Full(group) | TrySendError::Closed(group)) =
            self.groups.try_send(group)
        {
            self.leave(&group.rows);
        }
    }

    /// Leaves rows that do not fit to the outbox, or to the broker, which asks for them later.
    fn leave(&self, rows: &[OutboxRow]) {
        let unrecorded: Vec<Outgoing> =
            rows.iter().filter(|row| row.id.is_none()).map(|row| outgoing(row, true)).collect();
        if !unrecorded.is_empty() {
            self.broker.missed(&unrecorded);
        }
        let ids: Vec<i64> = rows.iter().filter_map(|row| row.id).collect();
        if !ids.is_empty() && self.excess.try_send(ids).is_err() {
            tracing::debug!("the relay is behind; rows are claimed again when their lease ends");
        }
    }
}

fn outgoing(row: &OutboxRow, mandatory: bool) -> Outgoing {
    Outgoing { mandatory, envelope: Arc::clone(&row.envelope), direct: row.direct.clone() }
}

fn bytes_of(rows: &[OutboxRow]) -> u64 {
    rows.iter().map(|row| row.envelope.bytes()).sum()
}

/// Publishes outbox rows.
pub struct Relay {
    outlet: Outlet,
    budget: Budget,
    /// Survive a restart of the task.
    queues: Mutex<Queues>,
}

struct Queues {
    groups: mpsc::Receiver<Group>,
    excess: mpsc::Receiver<Vec<i64>>,
}

impl Relay {
    /// A relay that holds at most `max_bytes` of events, and the handle that feeds it.
    pub fn new(
        store: Arc<dyn Store>,
        broker: Arc<dyn Broker>,
        pipeline: Arc<Pipeline>,
        max_bytes: u64,
    ) -> (Self, RelayHandle) {
        let (sender, groups) = mpsc::channel(QUEUE_MAX);
        let (released, excess) = mpsc::channel(QUEUE_MAX);
        let budget = Budget::new(max_bytes);
        let queues = Mutex::new(Queues { groups, excess });
        let handle = RelayHandle {
            groups: sender,
            excess: released,
            budget: budget.clone(),
            broker: Arc::clone(&broker),
        };
        let outlet = Outlet { store, broker, pipeline, spans: Spans::default() };
        (Self { outlet, budget, queues }, handle)
    }

    /// Records a span for each message that the broker confirmed.
    #[must_use]
    pub fn with_spans(mut self, spans: Spans) -> Self {
        self.outlet.spans = spans;
        self
    }

    /// Publishes until cancelled, then waits for the confirms of what is in flight.
    pub async fn run(&self, cancel: CancellationToken) {
        let (outlet, queues) = (&self.outlet, &mut *self.queues.lock().await);
        let Queues { groups, excess } = queues;
        let (sent, confirmed) = mpsc::channel(QUEUE_MAX);
        let deleting = delete_sent(Arc::clone(&outlet.store), confirmed);
        let sending = async {
            let mut poll = tokio::time::interval(POLL);
            poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut in_flight = FuturesUnordered::new();
            let publish = |group| {
                let step = tracing::trace_span!(target: STEPS, "publish");
                outlet.send(group, &sent).instrument(step)
            };
            loop {
                let room = in_flight.len() < IN_FLIGHT_MAX;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    Some::<bool>(taken) = in_flight.next(), if !in_flight.is_empty() => {
                        if !taken {
                            tokio::select! {
                                () = cancel.cancelled() => break,
                                () = outlet.broker.up() => {}
                            }
                        }
                    }
                    Some(group) = groups.recv(), if room => {
                        in_flight.push(publish(gather(group, groups)));
                    }
                    Some(ids) = excess.recv(), if room => outlet.release(ids).await,
                    _ = poll.tick(), if room => {
                        let (due, is_full) = outlet.claim(&self.budget).await;
                        // A full claim is followed by another one without a pause.
                        if is_full {
                            poll.reset_immediately();
                        }
                        if let Some(due) = due {
                            in_flight.push(publish(due));
                        }
                    }
                }
            }
            while in_flight.next().await.is_some() {}
            drop(in_flight);
            drop(sent);
        };
        tokio::join!(sending, deleting);
    }
}

/// Adds the groups that have been queued meanwhile, up to the size of a batch.
fn gather(mut batch: Group, groups: &mut mpsc::Receiver<Group>) -> Group {
    while batch.rows.len() < SEND_MAX {
        match groups.try_recv() {
            Ok(more) => {
                batch.rows.extend(more.rows);
                batch.reserved.join(more.reserved);
            }
            Err(_) => break,
        }
    }
    batch
}

/// Publishes single batches.
struct Outlet {
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    pipeline: Arc<Pipeline>,
    spans: Spans,
}

impl Outlet {
    /// Claims rows that are due, as many as the budget allows; and whether more may be due.
    async fn claim(&self, budget: &Budget) -> (Option<Group>, bool) {
        let Some(free) = budget.free() else { return (None, false) };
        let rows = match self.store.claim_outbox(SEND_MAX as u32, free).await {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(%error, "the outbox could not be read, retrying");
                tokio::time::sleep(STORE_BACKOFF).await;
                return (None, false);
            }
        };
        if rows.is_empty() {
            return (None, false);
        }
        let bytes = bytes_of(&rows);
        let is_full = rows.len() == SEND_MAX || bytes >= free;
        (Some(Group { rows, reserved: budget.take(bytes) }), is_full)
    }

    /// Releases rows that did not fit into the queue, so that they can be claimed.
    async fn release(&self, ids: Vec<i64>) {
        if let Err(error) = self.store.outbox_postponed(ids, 0).await {
            tracing::warn!(%error, "rows could not be released; they are due again when their lease ends");
        }
    }

    /// Whether a stage that runs here consumes it. The queue of a stage that runs nowhere may be
    /// gone; the reconciler refills it once the stage is back.
    fn must_arrive(&self, row: &OutboxRow) -> bool {
        row.routed
            && match &row.direct {
                Some(direct) => self.pipeline.is_declared(&direct.stage),
                None => self.pipeline.is_consumed(&row.envelope.event.event_type),
            }
    }

    /// Publishes rows and waits for their confirms; false when the broker is unavailable.
    async fn send(&self, group: Group, sent: &mpsc::Sender<Vec<i64>>) -> bool {
        // Released once everything is confirmed.
        let Group { rows, reserved: _reserved } = group;
        let start = SystemTime::now();
        let messages = rows.iter().map(|row| outgoing(row, self.must_arrive(row))).collect();
        let answers = self.broker.publish(messages).await;
        let (mut confirmed, mut refused, mut in_part, mut why) =
            (Vec::with_capacity(rows.len()), Vec::new(), Vec::new(), None);
        for (row, answer) in rows.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    self.record_sent(&row, start);
                    confirmed.extend(row.id);
                }
                Err(error) => {
                    match &error {
                        BrokerError::Refused(_) if self.has_several_queues(&row) => {
                            in_part.push(row);
                        }
                        _ => refused.extend(row.id),
                    }
                    why = Some(error);
                }
            }
        }
        if !confirmed.is_empty() {
            // A closed channel only costs a second publish when the lease ends.
            let _ = sent.send(confirmed).await;
        }
        let Some(why) = why else { return true };
        let count = refused.len() + in_part.len();
        tracing::warn!(rows = count, error = %why, "the broker did not accept some messages, retrying");
        if !in_part.is_empty() {
            self.send_to_each_stage(in_part).await;
        }
        if !refused.is_empty()
            && let Err(error) = self.store.outbox_postponed(refused, POSTPONE_MS).await
        {
            tracing::warn!(%error, "rows could not be postponed; they are due again when their lease ends");
        }
        !matches!(why, BrokerError::Unavailable(_))
    }

    /// Whether a row is published to the queues of several stages, some of which may have confirmed.
    fn has_several_queues(&self, row: &OutboxRow) -> bool {
        row.direct.is_none() && self.pipeline.stages_for(&row.envelope.event.event_type).len() > 1
    }

    /// Sends events whose publication some queue refused to each stage by itself, so that each queue
    /// confirms for itself: from now on, only those that did not receive the event again.
    async fn send_to_each_stage(&self, rows: Vec<OutboxRow>) {
        let mut copies: Vec<(usize, Arc<str>)> = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let stages = self.pipeline.stages_for(&row.envelope.event.event_type);
            copies.extend(stages.into_iter().map(|stage| (at, stage)));
        }
        let outgoing = |(at, stage): &(usize, Arc<str>)| Outgoing {
            mandatory: self.pipeline.is_declared(stage),
            envelope: Arc::clone(&rows[*at].envelope),
            direct: Some(Direct { stage: Arc::clone(stage), round: 1, attempt: 1 }),
        };
        let answers = self.broker.publish(copies.iter().map(outgoing).collect()).await;
        let mut unconfirmed: Vec<Vec<Arc<str>>> = vec![Vec::new(); rows.len()];
        for ((at, stage), answer) in copies.into_iter().zip(answers) {
            if answer.is_err() {
                unconfirmed[at].push(stage);
            }
        }
        let narrowed = |(row, stages): (OutboxRow, Vec<Arc<str>>)| {
            Some(NarrowedRow { id: row.id?, envelope: row.envelope, stages })
        };
        let narrowed = rows.into_iter().zip(unconfirmed).filter_map(narrowed).collect();
        if let Err(error) = self.store.outbox_narrowed(narrowed, POSTPONE_MS).await {
            tracing::warn!(%error, "rows could not be narrowed; they are due again when their lease ends");
        }
    }
}

/// Deletes confirmed rows, those that arrive during one transaction together in the next.
async fn delete_sent(store: Arc<dyn Store>, mut confirmed: mpsc::Receiver<Vec<i64>>) {
    let mut groups = Vec::new();
    while confirmed.recv_many(&mut groups, QUEUE_MAX).await > 0 {
        let ids: Vec<i64> = groups.drain(..).flatten().collect();
        let step = tracing::trace_span!(target: STEPS, "outbox");
        if let Err(error) = store.outbox_sent(ids).instrument(step).await {
            tracing::warn!(%error, "published rows could not be deleted; they are published again when their lease ends");
        }
    }
}
