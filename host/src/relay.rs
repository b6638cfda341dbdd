//! The relay: everything that leaves the process leaves through the outbox, and the relay is what empties it.
//!
//! The outbox row carries the guarantee (at-least-once, with a stable message id); the hand-over in memory only saves reading it
//! back. What does not fit into the hand-over stays leased until the lease ends and is then claimed like any other row.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Outgoing};
use crate::clock::Clock;
use crate::store::{OutboxRow, Store};

/// Groups of rows that wait for the relay.
const HAND_OVER_MAX: usize = 1_024;
/// Rows sent at once.
const SEND_MAX: usize = 1_000;
/// How often rows that fell due are looked for.
const POLL: Duration = Duration::from_millis(100);
/// A row that the broker did not take is tried again after this long.
const POSTPONE_MS: u64 = 500;
/// Pause after the store did not answer.
const STORE_BACKOFF: Duration = Duration::from_millis(250);

/// Where committed rows are handed over.
#[derive(Clone)]
pub struct RelayHandle(mpsc::Sender<Vec<OutboxRow>>);

impl RelayHandle {
    /// Hands committed rows to the relay; never waits.
    pub fn hand_over(&self, rows: Vec<OutboxRow>) {
        if !rows.is_empty() && self.0.try_send(rows).is_err() {
            tracing::debug!("the relay is behind; rows are claimed again when their lease ends");
        }
    }
}

/// Sends outbox rows.
pub struct Relay {
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    rows: mpsc::Receiver<Vec<OutboxRow>>,
}

impl Relay {
    /// A relay and the handle that feeds it.
    pub fn new(store: Arc<dyn Store>, broker: Arc<dyn Broker>, clock: Arc<dyn Clock>) -> (Self, RelayHandle) {
        let (sender, rows) = mpsc::channel(HAND_OVER_MAX);
        (Self { store, broker, clock, rows }, RelayHandle(sender))
    }

    /// Sends until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (sent, confirmed) = mpsc::channel(HAND_OVER_MAX);
        let deleting = delete_sent(Arc::clone(&self.store), confirmed);
        let sending = async {
            let mut poll = tokio::time::interval(POLL);
            poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => break,
                    Some(rows) = self.rows.recv() => {
                        let rows = self.gather(rows);
                        self.send(rows, &sent).await;
                    }
                    _ = poll.tick() => self.tick(&sent).await,
                }
            }
            drop(sent);
        };
        tokio::join!(sending, deleting);
    }

    /// Claims what is due and sends it, until nothing more is due.
    async fn tick(&self, sent: &mpsc::Sender<Vec<i64>>) {
        loop {
            match self.store.claim_outbox(SEND_MAX as u32).await {
                Ok(rows) if rows.is_empty() => return,
                Ok(rows) => self.send(rows, sent).await,
                Err(error) => {
                    tracing::warn!(%error, "the outbox could not be read");
                    tokio::time::sleep(STORE_BACKOFF).await;
                    return;
                }
            }
        }
    }

    fn gather(&mut self, mut rows: Vec<OutboxRow>) -> Vec<OutboxRow> {
        while rows.len() < SEND_MAX {
            match self.rows.try_recv() {
                Ok(more) => rows.extend(more),
                Err(_) => break,
            }
        }
        rows
    }

    async fn send(&self, rows: Vec<OutboxRow>, sent: &mpsc::Sender<Vec<i64>>) {
        let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
        let messages = rows.into_iter().map(|row| Outgoing { envelope: row.envelope, direct: row.direct }).collect();
        let answers = self.broker.publish(messages).await;
        let (mut confirmed, mut refused) = (Vec::with_capacity(ids.len()), Vec::new());
        for (id, answer) in ids.into_iter().zip(answers) {
            match answer {
                Ok(()) => confirmed.push(id),
                Err(_) => refused.push(id),
            }
        }
        if !confirmed.is_empty() {
            // A full or closed channel costs nothing but a second sending when the lease ends.
            let _ = sent.send(confirmed).await;
        }
        if !refused.is_empty() {
            tracing::warn!(rows = refused.len(), "the broker did not take some messages; they are sent again");
            if let Err(error) = self.store.outbox_postponed(refused, self.clock.now_ms() + POSTPONE_MS).await {
                tracing::warn!(%error, "rows could not be postponed; they are claimed again when their lease ends");
            }
        }
    }
}

/// Deletes confirmed rows beside the sending, in as few transactions as the store's pace asks for.
async fn delete_sent(store: Arc<dyn Store>, mut confirmed: mpsc::Receiver<Vec<i64>>) {
    let mut groups = Vec::new();
    while confirmed.recv_many(&mut groups, HAND_OVER_MAX).await > 0 {
        let ids: Vec<i64> = groups.drain(..).flatten().collect();
        if let Err(error) = store.outbox_sent(ids).await {
            tracing::warn!(%error, "sent rows could not be deleted; they are sent again when their lease ends");
        }
    }
}
