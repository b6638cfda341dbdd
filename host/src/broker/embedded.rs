//! The embedded broker: queues in memory, made durable by the store.
//!
//! A queue is a bounded window over the open deliveries of its stage. It reports missing messages
//! (after a restart, or because it was full) as a gap, and the reconciler refills it from the
//! store, as it refills a wiped `RabbitMQ`. So nothing is written twice, and a backlog of any length
//! takes a bounded amount of memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Acker, Binding, Broker, BrokerError, Consumer, Gap, Incoming, Outgoing, RejectedConsumer,
};
use crate::domain::clock::Clock;
use crate::domain::event::topic_matches;

/// Queues in this process.
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    /// Maximum number of messages in one queue, including unacknowledged ones.
    capacity: u32,
    state: Mutex<State>,
    gap: Notify,
}

#[derive(Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    gaps: Vec<Gap>,
}

struct Queue {
    patterns: Vec<String>,
    ready: VecDeque<Incoming>,
    unacked: HashMap<u64, Incoming>,
    next_tag: u64,
    /// A message did not fit: the queue is refilled from the store once it is empty.
    overflowed: bool,
    arrived: Arc<Notify>,
}

impl Embedded {
    /// Queues of at most `capacity` messages each.
    pub fn new(capacity: u32, clock: Arc<dyn Clock>) -> Arc<Self> {
        let shared = Shared { clock, capacity, state: Mutex::default(), gap: Notify::new() };
        Arc::new(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, state: &mut State, stage: &Arc<str>) {
        state.gaps.push(Gap {
            stage: Arc::clone(stage),
            before_ms: self.clock.now_ms() + 1,
            room: Some(self.capacity),
        });
        self.gap.notify_one();
    }

    fn ack(&self, stage: &Arc<str>, tags: &[u64]) {
        let mut state = self.lock();
        let Some(queue) = state.queues.get_mut(stage) else { return };
        for tag in tags {
            queue.unacked.remove(tag);
        }
        if queue.overflowed && queue.ready.is_empty() && queue.unacked.is_empty() {
            queue.overflowed = false;
            self.report(&mut state, stage);
        }
    }

    fn requeue(&self, stage: &Arc<str>, tags: &[u64]) {
        let mut state = self.lock();
        let Some(queue) = state.queues.get_mut(stage) else { return };
        for tag in tags {
            if let Some(mut message) = queue.unacked.remove(tag) {
                message.redelivered = true;
                message.deliveries += 1;
                queue.ready.push_front(message);
            }
        }
        queue.arrived.notify_one();
    }
}

impl Queue {
    fn push(&mut self, message: &Outgoing, capacity: u32) {
        if self.ready.len() + self.unacked.len() >= capacity as usize {
            self.overflowed = true;
            return;
        }
        let (round, attempt) =
            message.direct.as_ref().map_or((1, 1), |direct| (direct.round, direct.attempt));
        self.next_tag += 1;
        let envelope = Arc::clone(&message.envelope);
        let received = Instant::now();
        self.ready.push_back(Incoming {
            envelope,
            round,
            attempt,
            redelivered: false,
            deliveries: 1,
            received,
            tag: self.next_tag,
        });
        self.arrived.notify_one();
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn declare(&self, binding: Binding) -> Result<(), BrokerError> {
        let mut state = self.shared.lock();
        if let Some(queue) = state.queues.get_mut(&binding.stage) {
            queue.patterns = binding.patterns;
            return Ok(());
        }
        let queue = Queue {
            patterns: binding.patterns,
            ready: VecDeque::new(),
            unacked: HashMap::new(),
            next_tag: 0,
            overflowed: false,
            arrived: Arc::new(Notify::new()),
        };
        state.queues.insert(Arc::clone(&binding.stage), queue);
        self.shared.report(&mut state, &binding.stage);
        Ok(())
    }

    async fn bind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError> {
        if let Some(queue) = self.shared.lock().queues.get_mut(stage)
            && !queue.patterns.iter().any(|bound| bound == pattern)
        {
            queue.patterns.push(pattern.to_owned());
        }
        Ok(())
    }

    async fn unbind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError> {
        if let Some(queue) = self.shared.lock().queues.get_mut(stage) {
            queue.patterns.retain(|bound| bound != pattern);
        }
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), BrokerError>> {
        let mut state = self.shared.lock();
        for message in &messages {
            match &message.direct {
                // A queue that is not declared yet is filled from the store once it is.
                Some(direct) => {
                    if let Some(queue) = state.queues.get_mut(&direct.stage) {
                        queue.push(message, self.shared.capacity);
                    }
                }
                None => {
                    let event_type = &message.envelope.event.event_type;
                    for queue in state.queues.values_mut() {
                        if queue.patterns.iter().any(|pattern| topic_matches(pattern, event_type)) {
                            queue.push(message, self.shared.capacity);
                        }
                    }
                }
            }
        }
        messages.iter().map(|_| Ok(())).collect()
    }

    async fn consume(
        &self,
        stage: &Arc<str>,
        prefetch: u32,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        let state = self.shared.lock();
        let queue = state
            .queues
            .get(stage)
            .ok_or_else(|| BrokerError::Unavailable(format!("queue `{stage}` is not declared")))?;
        let settled = Arc::new(Notify::new());
        let acker = Arc::new(EmbeddedAcker {
            stage: Arc::clone(stage),
            shared: Arc::clone(&self.shared),
            settled: Arc::clone(&settled),
        });
        Ok(Box::new(EmbeddedConsumer {
            acker,
            prefetch: prefetch as usize,
            arrived: Arc::clone(&queue.arrived),
            settled,
        }))
    }

    async fn consume_rejected(
        &self,
        _: &Arc<str>,
    ) -> Result<Option<Box<dyn RejectedConsumer>>, BrokerError> {
        Ok(None)
    }

    fn take_gaps(&self) -> Vec<Gap> {
        std::mem::take(&mut self.shared.lock().gaps)
    }

    async fn gap(&self) {
        self.shared.gap.notified().await;
    }

    async fn depth(&self, stage: &str) -> Result<u64, BrokerError> {
        Ok(self.shared.lock().queues.get(stage).map_or(0, |queue| queue.ready.len() as u64))
    }

    fn has_outside_consumers(&self) -> bool {
        false
    }

    async fn up(&self) {}

    async fn ping(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) {}
}

struct EmbeddedConsumer {
    acker: Arc<EmbeddedAcker>,
    prefetch: usize,
    arrived: Arc<Notify>,
    settled: Arc<Notify>,
}

impl EmbeddedConsumer {
    fn take(&self, max: usize) -> Option<Vec<Incoming>> {
        let mut state = self.acker.shared.lock();
        let queue = state.queues.get_mut(&self.acker.stage)?;
        let room =
            self.prefetch.saturating_sub(queue.unacked.len()).min(max).min(queue.ready.len());
        let received = Instant::now();
        let messages: Vec<Incoming> =
            queue.ready.drain(..room).map(|message| Incoming { received, ..message }).collect();
        queue.unacked.extend(messages.iter().map(|message| (message.tag, message.clone())));
        Some(messages)
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn receive(&mut self, max: usize) -> Option<Vec<Incoming>> {
        loop {
            let received = self.take(max)?;
            if !received.is_empty() {
                return Some(received);
            }
            tokio::select! {
                () = self.arrived.notified() => {}
                () = self.settled.notified() => {}
            }
        }
    }

    fn acker(&self) -> Arc<dyn Acker> {
        Arc::clone(&self.acker) as Arc<dyn Acker>
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        let tags: Vec<u64> = {
            let state = self.acker.shared.lock();
            let Some(queue) = state.queues.get(&self.acker.stage) else { return };
            let mut tags: Vec<u64> = queue.unacked.keys().copied().collect();
            tags.sort_unstable_by(|a, b| b.cmp(a));
            tags
        };
        self.acker.shared.requeue(&self.acker.stage, &tags);
    }
}

struct EmbeddedAcker {
    stage: Arc<str>,
    shared: Arc<Shared>,
    settled: Arc<Notify>,
}

#[async_trait]
impl Acker for EmbeddedAcker {
    async fn ack(&self, tags: &[u64]) {
        self.shared.ack(&self.stage, tags);
        self.settled.notify_one();
    }

    async fn requeue(&self, tags: &[u64]) {
        self.shared.requeue(&self.stage, tags);
        self.settled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::conformance;
    use crate::domain::clock::SystemClock;

    #[tokio::test]
    async fn it_conforms() {
        conformance::run(async |_| {
            let broker: Arc<dyn Broker> = Embedded::new(10_000, Arc::new(SystemClock));
            broker
        })
        .await;
    }
}
