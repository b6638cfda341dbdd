//! Reads deliveries ahead from the store, for flows that wait behind the backlog of others.
//!
//! The messages that a host holds give way to each other; those behind them in the broker's queue, or
//! in the store only, come in their order. So while a stage is held up and more messages wait than it
//! holds, it looks into the store for flows that have less than their share of what it holds, and runs
//! their deliveries without waiting for the messages. It only saves waiting: the messages stay in the
//! queue, and are acknowledged when they come, because the store knows that the deliveries are settled.
//! A copy that another host receives costs a call at most.
//!
//! The oldest deliveries of a flow are read first, so a subject's events stay in their order. A flow
//! of which a delivery was queued before this consumer opened is left to the broker, which counts how
//! often a message was delivered to a host that failed. Bounds: a quarter of the stage's prefetch in
//! number and bytes, in addition to it; one query each [`CHECK_EVERY`], which takes at most a twentieth
//! of the time; [`COPIES_MAX`] hashes.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::{Incoming, Sender};
use crate::domain::event::{Envelope, EventKey};
use crate::domain::fair_queue::Flow;
use crate::pipeline::Stage;
use crate::services::Services;
use crate::stage::circuit_breaker::BreakerState;
use crate::store::{ControlState, OpenDelivery, Queued, StoreError};

/// Time between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Longest time between two checks.
const CHECK_EVERY_MAX: Duration = Duration::from_secs(30);
/// A stage that holds a message for so long is held up.
const HELD_UP: Duration = Duration::from_secs(1);
/// A delivery that no host holds was queued at least so long ago: hosts record what they hold.
const MIN_AGE_MS: u64 = 5_000;
/// Deliveries read for each one that may be run: most of them belong to flows that have their share.
const LOOKED_AT: usize = 4;
/// Events whose messages are recognised when they come.
const COPIES_MAX: usize = 10_000;
/// Tags from here on are not the broker's.
const FIRST_TAG: u64 = 1 << 63;

/// Whether a message was read ahead, so that the broker knows nothing of it.
pub(super) fn is_read_ahead(tag: u64) -> bool {
    tag >= FIRST_TAG
}

/// Reads ahead for one consumer.
pub(super) struct ReadAhead {
    stage: Arc<Stage>,
    services: Services,
    /// When the consumer opened, milliseconds since 1970-01-01 UTC.
    opened_ms: u64,
    next_tag: AtomicU64,
    copies: Mutex<Copies>,
}

/// Events that were read ahead and whose messages are still to come, by hash.
#[derive(Default)]
struct Copies {
    hashes: HashSet<u64>,
    /// In the order in which they were read; some of them have come.
    oldest_first: VecDeque<u64>,
}

impl Copies {
    fn add(&mut self, key: &EventKey) {
        let hash = hash(key);
        if self.hashes.insert(hash) {
            self.oldest_first.push_back(hash);
        }
        while self.oldest_first.len() > COPIES_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }
}

fn hash(key: &EventKey) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl ReadAhead {
    pub(super) fn new(stage: Arc<Stage>, services: Services) -> Self {
        let (opened_ms, next_tag) = (services.clock.now_ms(), AtomicU64::new(FIRST_TAG));
        Self { stage, services, opened_ms, next_tag, copies: Mutex::default() }
    }

    /// Reads ahead until it is dropped, and passes on what the stage shall run.
    pub(super) async fn run(&self, feed: impl Fn(Vec<Incoming>)) -> Infallible {
        let mut wait = CHECK_EVERY;
        loop {
            tokio::time::sleep(wait).await;
            let began = Instant::now();
            match self.tick().await {
                Ok(read) if read.is_empty() => {}
                Ok(read) => {
                    tracing::debug!(
                        stage = %self.stage.name, deliveries = read.len(),
                        "read deliveries ahead of the backlog of others"
                    );
                    feed(read);
                }
                Err(error) => {
                    tracing::debug!(stage = %self.stage.name, %error, "failed to read ahead");
                }
            }
            wait = (began.elapsed() * 20).clamp(CHECK_EVERY, CHECK_EVERY_MAX);
        }
    }

    /// Marks messages whose deliveries were read ahead: whether they are settled is checked before
    /// they are run.
    pub(super) fn mark_copies(&self, messages: &mut [Incoming]) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.hashes.is_empty() {
            return;
        }
        for message in messages {
            message.redelivered |= copies.hashes.remove(&hash(&message.envelope.key()));
        }
    }

    /// The deliveries to run now.
    async fn tick(&self) -> Result<Vec<Incoming>, StoreError> {
        if !self.is_held_up() {
            return Ok(Vec::new());
        }
        let held = self.stage.in_flight.held();
        let read = held.iter().filter(|(tag, _)| is_read_ahead(*tag)).count();
        let config = &self.stage.config;
        let room = (config.prefetch as usize / 4).max(1).saturating_sub(read);
        let queued = Queued {
            before_ms: self.services.clock.now_ms().saturating_sub(MIN_AGE_MS),
            limit: u32::try_from(room * LOOKED_AT).unwrap_or(u32::MAX),
            max_bytes: config.prefetch_max_bytes / 4,
        };
        let may_find = room > 0 && queued.before_ms >= self.opened_ms;
        if !may_find || !self.has_ready_messages().await {
            return Ok(Vec::new());
        }
        let found = self.services.store.deliveries_in_turn(&self.stage.name, queued).await?;
        let held: Vec<Arc<Envelope>> = held.into_iter().map(|(_, envelope)| envelope).collect();
        let chosen = choose(&held, found, self.opened_ms);
        Ok(chosen.into_iter().take(room).map(|delivery| self.incoming(delivery)).collect())
    }

    /// Whether messages wait here although the stage may run.
    fn is_held_up(&self) -> bool {
        let control = self.stage.control();
        control.is_none_or(|control| control.state == ControlState::Running)
            && self.stage.breaker().state() == BreakerState::Closed
            && self.stage.in_flight.holds_for(HELD_UP)
    }

    /// Whether messages are ready behind those that are held.
    async fn has_ready_messages(&self) -> bool {
        self.services.broker.depth(&self.stage.name).await.is_ok_and(|depth| depth > 0)
    }

    fn incoming(&self, delivery: OpenDelivery) -> Incoming {
        let OpenDelivery { envelope, round, attempt, .. } = delivery;
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).add(&envelope.key());
        Incoming {
            envelope,
            round,
            attempt,
            // Another host may have run it since.
            redelivered: true,
            deliveries: 1,
            sender: Sender::Host,
            received: Instant::now(),
            tag: self.next_tag.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// Those of the deliveries, which are listed in turn, that bring a flow to half of its share of what is
/// held.
fn choose(held: &[Arc<Envelope>], found: Vec<OpenDelivery>, opened_ms: u64) -> Vec<OpenDelivery> {
    let known: HashSet<EventKey> = held.iter().map(|envelope| envelope.key()).collect();
    let mut flows: HashMap<Flow, usize> = HashMap::new();
    for envelope in held {
        *flows.entry(Flow::of(envelope)).or_default() += 1;
    }
    let mut left_to_broker = HashSet::new();
    for delivery in &found {
        let flow = Flow::of(&delivery.envelope);
        flows.entry(flow).or_default();
        if delivery.queued_at_ms < opened_ms {
            left_to_broker.insert(flow);
        }
    }
    let enough = (held.len() / flows.len().max(1) / 2).max(1);
    let mut is_chosen = |delivery: &OpenDelivery| {
        let flow = Flow::of(&delivery.envelope);
        if left_to_broker.contains(&flow) || known.contains(&delivery.envelope.key()) {
            return false;
        }
        let held = flows.entry(flow).or_default();
        let is_short = *held < enough;
        *held += usize::from(is_short);
        is_short
    };
    found.into_iter().filter(|delivery| is_chosen(delivery)).collect()
}

#[cfg(test)]
mod tests;
