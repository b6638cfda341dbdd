//! A stage's worker: it consumes the stage's queue and feeds lanes.
//!
//! Bounds: at most `prefetch` messages are held; each lane has one batch in flight. Messages are
//! split by subject, so two events of one (stage, subject) never run at once in this host. A lane
//! that stops gives its messages back: no attempt is burned.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::lease::Lease;
use crate::broker::{Acker, Broker, BrokerError, Consumer, Incoming};
use crate::clock::Clock;
use crate::decide::{Routes as _, StagePolicy};
use crate::event::{Envelope, Event};
use crate::pipeline::{Consumption, Pipeline, Stage};
use crate::plugins::PluginChange;
use crate::relay::RelayHandle;
use crate::store::{ControlState, NewEvent, Settlement, StageControl, Store, StoreError};

mod gate;
mod lane;
mod lease;

/// Pause before a consumer that could not be opened, or ended, is opened again.
const REOPEN: Duration = Duration::from_millis(200);

/// Hears of deliveries as they are settled. It is called by the lanes: it must be quick.
pub type Observer = Arc<dyn Fn(&Settlement) + Send + Sync>;

/// What every worker of the host shares.
#[derive(Clone)]
pub struct Services {
    /// Truth.
    pub store: Arc<dyn Store>,
    /// Queues.
    pub broker: Arc<dyn Broker>,
    /// Sends what was committed.
    pub relay: RelayHandle,
    /// Routes of emitted events.
    pub pipeline: Arc<Pipeline>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This host's name.
    pub host: Arc<str>,
    /// Where a plugin that traps is reported; weak, so that the supervisor sees when the folder is
    /// followed no more.
    pub plugins: mpsc::WeakSender<PluginChange>,
    /// Told of every delivery that was settled here, after its commit.
    pub observer: Option<Observer>,
}

impl Services {
    /// Publishes an event of the host's own about a stage. It is news, not part of anybody's work:
    /// without the store it is not told.
    pub(crate) async fn announce(
        &self,
        policy: &StagePolicy,
        event_type: &str,
        data: &serde_json::Value,
    ) {
        let now_ms = self.clock.now_ms();
        let event = Event {
            id: uuid::Uuid::now_v7().to_string(),
            event_type: event_type.to_owned(),
            source: policy.source.clone(),
            subject: policy.name.to_string(),
            time_ms: now_ms,
            content_type: "application/json".to_owned(),
            data: data.to_string().into(),
            attributes: vec![("stage".to_owned(), policy.name.to_string())],
        };
        let envelope = Envelope::first(event, None, now_ms + policy.expiry_ms);
        let routed_to = self.pipeline.stages_for(event_type);
        let event = NewEvent {
            envelope: Arc::new(envelope),
            routed_to,
            due_at_ms: now_ms,
            producer: None,
            only_stage: None,
        };
        if let Err(error) = self.publish(event).await {
            tracing::warn!(%error, event_type, "the event could not be published");
        }
    }

    /// Writes an event that no stage emitted, and has it sent; false when it was known already.
    pub(crate) async fn publish(&self, event: NewEvent) -> Result<bool, StoreError> {
        let (new, rows) = self.store.accept_event(event).await?;
        self.relay.hand_over(rows);
        Ok(new)
    }
}

/// Consumes one stage's queue.
pub struct StageWorker {
    /// The stage.
    pub stage: Arc<Stage>,
    /// Shared by all workers.
    pub services: Services,
}

impl StageWorker {
    /// Consumes until cancelled; a lost consumer is opened again, for ever.
    pub async fn run(self, cancel: CancellationToken) {
        if self.stage.config.single_active {
            self.run_alone(&cancel).await;
        } else {
            self.run_here(&cancel).await;
        }
        self.stage.set_consumption(Consumption::Idle);
    }

    /// Consumes while this host has the stage's lease.
    async fn run_alone(&self, cancel: &CancellationToken) {
        let lease = Lease::new(Arc::clone(&self.stage), Arc::clone(&self.services.store));
        while !cancel.is_cancelled() {
            self.stage.set_consumption(Consumption::Standby);
            if !lease.take(cancel).await {
                return;
            }
            let held = cancel.child_token();
            let keeping = async {
                lease.keep().await;
                held.cancel();
                // The lanes finish their batch.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = keeping => {}
                () = self.run_here(&held) => {}
            }
            lease.release().await;
        }
    }

    /// Consumes until cancelled.
    async fn run_here(&self, cancel: &CancellationToken) {
        let mut control = self.stage.controls();
        // An outage is said once.
        let mut said: Option<BrokerError> = None;
        while !cancel.is_cancelled() {
            if drains(control.borrow().as_ref()) {
                self.stage.set_consumption(Consumption::Drained);
            }
            // A stage that drains takes nothing more; its lanes have finished what they held.
            tokio::select! {
                () = cancel.cancelled() => return,
                waited = control.wait_for(|control| !drains(control.as_ref())) => drop(waited),
            }
            self.stage.set_consumption(Consumption::Connecting);
            match self.services.broker.consume(&self.stage.name, self.stage.config.prefetch).await {
                Ok(consumer) => {
                    said = None;
                    self.stage.set_consumption(Consumption::Consuming);
                    self.consume(consumer, cancel).await;
                }
                Err(error) => {
                    if said.as_ref() != Some(&error) {
                        tracing::warn!(stage = %self.stage.name, %error, "the queue cannot be consumed; trying again");
                    }
                    said = Some(error);
                }
            }
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(REOPEN) => {}
            }
        }
    }

    async fn consume(&self, mut consumer: Box<dyn Consumer>, cancel: &CancellationToken) {
        let mut lanes = JoinSet::new();
        let senders = self.spawn_lanes(&mut lanes, &consumer.acker(), cancel);
        let mut control = self.stage.controls();
        loop {
            let received = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                draining = control.wait_for(|control| drains(control.as_ref())) => {
                    drop(draining);
                    break;
                }
                received = consumer.receive(self.stage.config.prefetch as usize) => received,
            };
            let Some(messages) = received else { break };
            for message in messages {
                let lane = &senders[lane_of(&message.envelope.event.subject, senders.len())];
                if lane.send(message).await.is_err() {
                    // The lane died of a host bug: start all over with a new consumer, which gives
                    // every message back.
                    return;
                }
            }
        }
        drop(senders);
        while lanes.join_next().await.is_some() {}
    }

    fn spawn_lanes(
        &self,
        lanes: &mut JoinSet<()>,
        acker: &Arc<dyn Acker>,
        cancel: &CancellationToken,
    ) -> Vec<mpsc::Sender<Incoming>> {
        (0..self.stage.config.at_once())
            .map(|_| {
                let (sender, messages) = mpsc::channel(self.stage.config.prefetch.max(1) as usize);
                let lane = lane::Lane::new(
                    Arc::clone(&self.stage),
                    self.services.clone(),
                    Arc::clone(acker),
                );
                lanes.spawn(lane.run(messages, cancel.clone()));
                sender
            })
            .collect()
    }
}

/// Runs one message in a batch of its own, until it is settled.
pub(crate) async fn run_alone(
    stage: &Arc<Stage>,
    services: &Services,
    acker: &Arc<dyn Acker>,
    message: Incoming,
) {
    let (sender, messages) = mpsc::channel(1);
    // There is room for it.
    let _ = sender.try_send(message);
    drop(sender);
    lane::Lane::new(Arc::clone(stage), services.clone(), Arc::clone(acker))
        .run(messages, CancellationToken::new())
        .await;
}

fn drains(control: Option<&StageControl>) -> bool {
    control.is_some_and(|control| control.state == ControlState::Draining)
}

fn lane_of(subject: &str, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    subject.hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}
