//! A stage's worker: consumes the stage's queue and feeds its lanes.
//!
//! Bounds: at most `prefetch` messages of at most `prefetch_max_bytes` are held, and what
//! [`read_ahead`] adds; each lane has one batch in flight. Messages are split by subject, so two events
//! of one (stage, subject) never run concurrently in this host. Among the messages that are held, kinds
//! and customers take turns. The broker redelivers the messages of a lane that stops; they lose no
//! attempt.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::lane_queue::{LaneSender, lane_queue};
use self::lease::Lease;
use self::read_ahead::{ReadAhead, is_read_ahead};
use crate::broker::{Acker, BrokerError, Capacity, Consumer, Incoming};
use crate::domain::event::{Envelope, EventKey};
use crate::domain::steps::STEPS;
use crate::pipeline::hand_over::is_handed_over;
use crate::pipeline::{Consumption, Stage};
use crate::services::Services;
use crate::store::{ControlState, StageControl};

mod alone;
pub mod decide;
mod delivery_log;
mod foreign;
mod gate;
mod lane;
mod lane_queue;
mod lease;
pub mod poison_messages;
mod read_ahead;
pub mod replay;

/// Pause before a consumer that failed to open, or ended, is opened again.
const REOPEN: Duration = Duration::from_millis(200);

/// Consumes one stage's queue.
pub struct StageWorker {
    /// The stage to run.
    pub stage: Arc<Stage>,
    /// Shared by all workers.
    pub services: Services,
}

impl StageWorker {
    /// Consumes until cancelled; a lost consumer is always opened again.
    pub async fn run(&self, cancel: CancellationToken) {
        let _idle = IdleOnDrop(&self.stage);
        if self.stage.config.single_active {
            self.run_single_active(&cancel).await;
        } else {
            self.run_active(&cancel).await;
        }
    }

    /// Consumes while this host holds the stage's lease.
    async fn run_single_active(&self, cancel: &CancellationToken) {
        let lease = Lease::new(Arc::clone(&self.stage), Arc::clone(&self.services.store));
        while !cancel.is_cancelled() {
            self.stage.set_consumption(Consumption::Standby);
            if !lease.acquire(cancel).await {
                return;
            }
            let held = cancel.child_token();
            let keeping = async {
                lease.keep().await;
                held.cancel();
                // The lanes finish their batches first.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = keeping => {}
                () = self.run_active(&held) => {}
            }
            lease.release().await;
        }
    }

    /// Consumes until cancelled.
    async fn run_active(&self, cancel: &CancellationToken) {
        let mut control = self.stage.watch_control();
        // An outage is logged once.
        let mut logged: Option<BrokerError> = None;
        while !cancel.is_cancelled() {
            if drains(control.borrow().as_ref()) {
                self.stage.set_consumption(Consumption::Drained);
            }
            // The lanes of a draining stage have finished their batches by now.
            tokio::select! {
                () = cancel.cancelled() => return,
                waited = control.wait_for(|control| !drains(control.as_ref())) => drop(waited),
            }
            self.stage.set_consumption(Consumption::Connecting);
            match self.services.broker.consume(&self.stage.name, self.prefetch()).await {
                Ok(consumer) => {
                    logged = None;
                    self.stage.set_consumption(Consumption::Consuming);
                    let step = tracing::trace_span!(target: STEPS, "consume");
                    self.consume(consumer, cancel).instrument(step).await;
                }
                Err(error) => {
                    if logged.as_ref() != Some(&error) {
                        tracing::warn!(
                            stage = %self.stage.name, %error,
                            "the queue cannot be consumed, retrying"
                        );
                    }
                    logged = Some(error);
                }
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(REOPEN) => {}
            }
        }
    }

    fn prefetch(&self) -> Capacity {
        let config = &self.stage.config;
        Capacity { messages: config.prefetch, bytes: config.prefetch_max_bytes }
    }

    async fn consume(&self, mut consumer: Box<dyn Consumer>, cancel: &CancellationToken) {
        let in_flight = InFlightGuard(&self.stage);
        let acker: Arc<dyn Acker> =
            Arc::new(TrackingAcker { stage: Arc::clone(&self.stage), inner: consumer.acker() });
        let mut lanes = JoinSet::new();
        let queues = Arc::new(self.spawn_lanes(&mut lanes, &acker, cancel));
        let handed_over = Arc::clone(&queues);
        self.stage.window.open(Box::new(move |tag, envelope| {
            handed_over.feed(vec![Incoming::handed_over(tag, envelope)]);
        }));
        let mut control = self.stage.watch_control();
        let ahead = ReadAhead::new(Arc::clone(&self.stage), self.services.clone());
        let mut reading = Box::pin(ahead.run(|messages| queues.feed(messages)));
        loop {
            let received = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                draining = control.wait_for(|control| drains(control.as_ref())) => {
                    drop(draining);
                    break;
                }
                // A lane ends after its sender unless it panicked. Then the task supervisor restarts
                // the worker, and the dropped consumer gives every message back.
                Some(ended) = lanes.join_next() => match ended.map_err(JoinError::try_into_panic) {
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    _ => return,
                },
                never = &mut reading => match never {},
                received = consumer.receive(self.stage.config.prefetch as usize) => received,
            };
            let Some(mut messages) = received else { break };
            ahead.mark_copies(&mut messages);
            queues.feed(messages);
        }
        drop(reading);
        self.stage.window.close();
        drop(queues);
        while lanes.join_next().await.is_some() {}
        self.give_back().await;
        drop(in_flight);
    }

    /// Sends what was handed over and not run to the stage's queue: no message of it is there.
    async fn give_back(&self) {
        let held = self.stage.in_flight.held().into_iter();
        let left: Vec<EventKey> = held
            .filter(|(tag, _)| is_handed_over(*tag))
            .map(|(_, envelope)| envelope.key())
            .collect();
        if left.is_empty() {
            return;
        }
        tracing::debug!(stage = %self.stage.name, messages = left.len(), "giving back what was handed over");
        if let Err(error) = self.services.store.requeue(&self.stage.name, left).await {
            tracing::warn!(
                stage = %self.stage.name, %error,
                "what was handed over could not be sent to the queue: the reconciler will do so"
            );
        }
    }

    fn spawn_lanes(
        &self,
        lanes: &mut JoinSet<()>,
        acker: &Arc<dyn Acker>,
        cancel: &CancellationToken,
    ) -> LaneQueues {
        let senders = (0..self.stage.config.at_once())
            .map(|_| {
                let (sender, messages) = lane_queue();
                let lane = lane::Lane::new(
                    Arc::clone(&self.stage),
                    self.services.clone(),
                    Arc::clone(acker),
                );
                lanes.spawn(lane.run(messages, cancel.clone()).in_current_span());
                sender
            })
            .collect();
        LaneQueues { stage: Arc::clone(&self.stage), senders }
    }
}

/// What waits for the lanes; they end once it is dropped.
struct LaneQueues {
    stage: Arc<Stage>,
    senders: Vec<LaneSender>,
}

impl LaneQueues {
    /// Queues messages, each for the lane of its subject.
    fn feed(&self, messages: Vec<Incoming>) {
        let held =
            |message: &Incoming| (message.tag, message.received, Arc::clone(&message.envelope));
        self.stage.in_flight.receive(messages.iter().map(held));
        for message in messages {
            let lane = lane_of(&message.envelope.event.subject, self.senders.len());
            self.senders[lane].send(message);
        }
    }
}

/// Acknowledges messages, and records that this host no longer holds them.
struct TrackingAcker {
    stage: Arc<Stage>,
    inner: Arc<dyn Acker>,
}

impl TrackingAcker {
    /// Records that these messages are not held any more; returns those of the broker.
    fn of_broker(&self, tags: &[u64]) -> Vec<u64> {
        free(&self.stage, self.stage.in_flight.release(tags));
        tags.iter().copied().filter(|tag| is_of_broker(*tag)).collect()
    }
}

#[async_trait]
impl Acker for TrackingAcker {
    async fn ack(&self, tags: &[u64]) {
        self.inner.ack(&self.of_broker(tags)).await;
    }

    async fn requeue(&self, tags: &[u64]) {
        // What was read ahead is in the broker's queue as well.
        self.inner.requeue(&self.of_broker(tags)).await;
    }
}

/// Forgets the messages of a consumer that is gone, also when the worker panics.
struct InFlightGuard<'a>(&'a Stage);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.window.close();
        free(self.0, self.0.in_flight.clear());
    }
}

/// Marks the stage as not consumed, also when the worker panics.
struct IdleOnDrop<'a>(&'a Stage);

impl Drop for IdleOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set_consumption(Consumption::Idle);
    }
}

/// Runs one message in a lane of its own, until it is settled.
pub(crate) async fn run_isolated(
    stage: &Arc<Stage>,
    services: &Services,
    acker: &Arc<dyn Acker>,
    message: Incoming,
) {
    let (sender, messages) = lane_queue();
    sender.send(message);
    drop(sender);
    lane::Lane::new(Arc::clone(stage), services.clone(), Arc::clone(acker))
        .run(messages, CancellationToken::new())
        .await;
}

/// Frees the room of those messages that were handed over: they are not held any more.
fn free(stage: &Stage, released: Vec<(u64, Instant, Arc<Envelope>)>) {
    for (tag, received, envelope) in released {
        if is_handed_over(tag) {
            stage.window.release(envelope.bytes(), received);
        }
    }
}

/// Whether the broker has a message for this tag.
fn is_of_broker(tag: u64) -> bool {
    !is_handed_over(tag) && !is_read_ahead(tag)
}

fn drains(control: Option<&StageControl>) -> bool {
    control.is_some_and(|control| control.state == ControlState::Draining)
}

fn lane_of(subject: &str, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}
