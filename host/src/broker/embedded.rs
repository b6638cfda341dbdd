//! The embedded broker: queues in memory, made durable by the store.
//!
//! A queue is a window over the open deliveries of its stage, bounded in messages and in bytes. It
//! reports missing messages (after a restart, or because it was full) as a gap, and the reconciler
//! refills it from the store, as it refills a wiped `RabbitMQ`. So nothing is written twice, and a
//! backlog of any length takes a bounded amount of memory. While older messages wait in the store
//! only, newer ones stay out of the queue, so that a busy queue does not starve them. In the queue
//! kinds of subjects and customers take turns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Acker, Binding, Broker, BrokerError, Capacity, Consumer, Gap, Incoming, Outgoing,
    RejectedConsumer, Sender,
};
use crate::domain::clock::Clock;
use crate::domain::event::topic_matches;
use crate::domain::fair_queue::{FairQueue, Place};

/// Queues in this process.
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    /// Of one queue, including unacknowledged messages.
    capacity: Capacity,
    state: Mutex<State>,
    gap: Notify,
}

#[derive(Default)]
struct State {
    queues: HashMap<Arc<str>, Queue>,
    gaps: Vec<Gap>,
}

struct Queue {
    stage: Arc<str>,
    patterns: Vec<String>,
    ready: FairQueue<Incoming>,
    unacked: HashMap<u64, Incoming>,
    /// Messages in the queue, unacknowledged ones included.
    held: Capacity,
    /// The unacknowledged ones of them.
    held_unacked: Capacity,
    next_tag: u64,
    overflow: Overflow,
    arrived: Arc<Notify>,
}

/// Whether messages of a queue are in the store only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    /// All of them are in the queue.
    None,
    /// A message did not fit: the queue is refilled once half of it is free.
    Overflowed,
    /// A refill was requested.
    Refilling {
        /// A message stayed out since.
        again: bool,
    },
}

impl Embedded {
    /// Queues of this capacity each.
    pub fn new(capacity: Capacity, clock: Arc<dyn Clock>) -> Arc<Self> {
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
            capacity: Some(self.capacity),
        });
        self.gap.notify_one();
    }

    fn ack(&self, stage: &Arc<str>, tags: &[u64]) {
        let mut state = self.lock();
        let Some(queue) = state.queues.get_mut(stage) else { return };
        for tag in tags {
            if let Some(message) = queue.unacked.remove(tag) {
                let bytes = message.envelope.bytes();
                queue.held.remove(bytes);
                queue.held_unacked.remove(bytes);
            }
        }
        if queue.overflow == Overflow::Overflowed && self.capacity.half().covers(queue.held) {
            queue.overflow = Overflow::Refilling { again: false };
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
                queue.held_unacked.remove(message.envelope.bytes());
                queue.ready.push_front(Place::of(&message.envelope), message);
            }
        }
        queue.arrived.notify_one();
    }
}

impl Queue {
    /// Whether a message goes to it.
    fn receives(&self, message: &Outgoing) -> bool {
        let event_type = &message.envelope.event.event_type;
        match &message.direct {
            Some(direct) => direct.stage == self.stage,
            None => self.patterns.iter().any(|pattern| topic_matches(pattern, event_type)),
        }
    }

    /// A message stays out. Whether a refill has to be requested now: nothing is acknowledged in an
    /// empty queue.
    fn leave_out(&mut self) -> bool {
        let asks =
            self.held == Capacity::NONE && !matches!(self.overflow, Overflow::Refilling { .. });
        self.overflow = match self.overflow {
            _ if asks => Overflow::Refilling { again: false },
            Overflow::None | Overflow::Overflowed => Overflow::Overflowed,
            Overflow::Refilling { .. } => Overflow::Refilling { again: true },
        };
        asks
    }

    /// Adds a message, or leaves it out. Whether a refill has to be requested now.
    fn push(&mut self, message: &Outgoing, capacity: Capacity) -> bool {
        // What is sent to one stage is a refill or a retry: older than what is published.
        let is_late = message.direct.is_none() && self.overflow != Overflow::None;
        let bytes = message.envelope.bytes();
        if is_late || !capacity.fits(self.held, bytes) {
            return self.leave_out();
        }
        let (round, attempt) =
            message.direct.as_ref().map_or((1, 1), |direct| (direct.round, direct.attempt));
        self.next_tag += 1;
        self.held.add(bytes);
        let envelope = Arc::clone(&message.envelope);
        let received = Instant::now();
        let incoming = Incoming {
            envelope,
            round,
            attempt,
            redelivered: message.direct.is_some(),
            deliveries: 1,
            sender: Sender::Host,
            received,
            tag: self.next_tag,
        };
        self.ready.push(Place::of(&message.envelope), incoming);
        self.arrived.notify_one();
        false
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
            stage: Arc::clone(&binding.stage),
            patterns: binding.patterns,
            ready: FairQueue::default(),
            unacked: HashMap::new(),
            held: Capacity::NONE,
            held_unacked: Capacity::NONE,
            next_tag: 0,
            overflow: Overflow::None,
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
        let mut asking = Vec::new();
        for message in &messages {
            // A queue that is not declared yet is filled from the store once it is.
            for queue in state.queues.values_mut().filter(|queue| queue.receives(message)) {
                if queue.push(message, self.shared.capacity) {
                    asking.push(Arc::clone(&queue.stage));
                }
            }
        }
        for stage in asking {
            self.shared.report(&mut state, &stage);
        }
        messages.iter().map(|_| Ok(())).collect()
    }

    async fn consume(
        &self,
        stage: &Arc<str>,
        prefetch: Capacity,
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
            prefetch,
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

    fn missed(&self, messages: &[Outgoing]) {
        let mut state = self.shared.lock();
        let mut reported = Vec::new();
        for (stage, queue) in &mut state.queues {
            if messages.iter().any(|message| queue.receives(message)) && queue.leave_out() {
                reported.push(Arc::clone(stage));
            }
        }
        for stage in reported {
            self.shared.report(&mut state, &stage);
        }
    }

    async fn gap(&self) {
        self.shared.gap.notified().await;
    }

    async fn refilled(&self, gap: &Gap) {
        let mut state = self.shared.lock();
        let Some(queue) = state.queues.get_mut(&gap.stage) else { return };
        match queue.overflow {
            Overflow::Refilling { again: true } => {
                queue.overflow = Overflow::Refilling { again: false };
                self.shared.report(&mut state, &gap.stage);
            }
            Overflow::Refilling { again: false } => queue.overflow = Overflow::None,
            // The gap of a queue that was just declared.
            Overflow::None | Overflow::Overflowed => {}
        }
    }

    fn room(&self, stage: &str) -> Capacity {
        let held = self.shared.lock().queues.get(stage).map(|queue| queue.held);
        self.shared.capacity.without(held.unwrap_or(Capacity::NONE))
    }

    fn held(&self, stage: &str) -> Option<(Capacity, Capacity)> {
        let held = self.shared.lock().queues.get(stage)?.held;
        Some((held, self.shared.capacity))
    }

    fn longest_wait(&self, stage: &str) -> Option<Duration> {
        let state = self.shared.lock();
        let ready = state.queues.get(stage)?.ready.iter();
        ready.map(|message| message.received.elapsed()).max()
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
    prefetch: Capacity,
    arrived: Arc<Notify>,
    settled: Arc<Notify>,
}

impl EmbeddedConsumer {
    fn take(&self, max: usize) -> Option<Vec<Incoming>> {
        let mut state = self.acker.shared.lock();
        let queue = state.queues.get_mut(&self.acker.stage)?;
        let received = Instant::now();
        let mut messages = Vec::new();
        while messages.len() < max
            && let Some(next) = queue.ready.peek()
            && self.prefetch.fits(queue.held_unacked, next.envelope.bytes())
            && let Some(message) = queue.ready.pop()
        {
            queue.held_unacked.add(message.envelope.bytes());
            queue.unacked.insert(message.tag, message.clone());
            messages.push(Incoming { received, ..message });
        }
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
    use crate::domain::event::Envelope;
    use crate::store::Direct;

    #[tokio::test]
    async fn it_conforms() {
        conformance::run(async |_| {
            let broker: Arc<dyn Broker> = Embedded::new(LARGE, Arc::new(SystemClock));
            broker
        })
        .await;
    }

    const LARGE: Capacity = Capacity { messages: 10_000, bytes: 64 << 20 };

    fn message(number: usize, direct: bool) -> Outgoing {
        let stage: Arc<str> = "payment".into();
        let direct = direct.then_some(Direct { stage, round: 1, attempt: 1 });
        Outgoing { direct, ..conformance::event("order.created", number) }
    }

    fn ids(messages: &[Incoming]) -> Vec<&str> {
        messages.iter().map(|message| message.envelope.event.id.as_str()).collect()
    }

    #[tokio::test]
    async fn messages_that_did_not_fit_keep_their_order() {
        let broker = Embedded::new(Capacity { messages: 4, ..LARGE }, Arc::new(SystemClock));
        let stage: Arc<str> = "payment".into();
        let patterns = vec!["#".to_owned()];
        broker.declare(Binding { stage: Arc::clone(&stage), patterns }).await.unwrap();
        let declared = broker.take_gaps();
        broker.refilled(&declared[0]).await;
        let mut consumer = broker.consume(&stage, LARGE).await.unwrap();
        broker.publish((1..=5).map(|number| message(number, false)).collect()).await;
        let received = consumer.receive(4).await.unwrap();
        assert_eq!(ids(&received), ["1", "2", "3", "4"]);
        // Half of the queue is free: it is refilled, and what is new waits its turn in the store.
        let tags: Vec<u64> = received.iter().map(|message| message.tag).collect();
        consumer.acker().ack(&tags[..2]).await;
        let gaps = broker.take_gaps();
        assert_eq!(gaps.len(), 1, "the queue is not empty, and has room");
        broker.publish(vec![message(6, false), message(5, true)]).await;
        assert_eq!(ids(&consumer.receive(4).await.unwrap()), ["5"], "the new one overtook it");
        // A message stayed out since: there is another gap.
        broker.refilled(&gaps[0]).await;
        let gaps = broker.take_gaps();
        assert_eq!(gaps.len(), 1);
        broker.publish(vec![message(6, true)]).await;
        broker.refilled(&gaps[0]).await;
        assert!(broker.take_gaps().is_empty());
        consumer.acker().ack(&tags[2..]).await;
        broker.publish(vec![message(7, false)]).await;
        assert_eq!(ids(&consumer.receive(4).await.unwrap()), ["6", "7"]);
    }

    #[tokio::test]
    async fn a_queue_is_bounded_in_bytes() {
        let large = |number: usize, direct: bool| {
            let mut message = message(number, direct);
            let mut envelope = Envelope::clone(&message.envelope);
            envelope.event.data = vec![b'x'; 1_000].into();
            message.envelope = Arc::new(envelope);
            message
        };
        let bytes = 4 * large(1, false).envelope.bytes();
        let broker = Embedded::new(Capacity { bytes, ..LARGE }, Arc::new(SystemClock));
        let stage = conformance::bound(&(Arc::clone(&broker) as _), "payment", &["#"]).await;
        let declared = broker.take_gaps();
        broker.refilled(&declared[0]).await;
        let mut consumer = broker.consume(&stage, LARGE).await.unwrap();
        broker.publish((1..=6).map(|number| large(number, false)).collect()).await;
        let received = consumer.receive(100).await.unwrap();
        assert_eq!(ids(&received), ["1", "2", "3", "4"]);
        assert_eq!(broker.room(&stage), Capacity { messages: 10_000 - 4, bytes: 0 });
        let (held, most) = broker.held(&stage).unwrap();
        assert_eq!((held, most.bytes), (Capacity { messages: 4, bytes }, bytes));
        assert_eq!(broker.held("unknown"), None);
        let tags: Vec<u64> = received.iter().map(|message| message.tag).collect();
        consumer.acker().ack(&tags[..1]).await;
        assert!(broker.take_gaps().is_empty(), "less than half of it is free");
        consumer.acker().ack(&tags[1..2]).await;
        let gaps = broker.take_gaps();
        assert_eq!(gaps.len(), 1);
        broker.publish(vec![large(5, true), large(6, true)]).await;
        broker.refilled(&gaps[0]).await;
        consumer.acker().ack(&tags[2..]).await;
        assert_eq!(ids(&consumer.receive(100).await.unwrap()), ["5", "6"]);
        // One that is larger than the queue is held alone.
        let small = Embedded::new(Capacity { bytes: 10, ..LARGE }, Arc::new(SystemClock));
        let stage = conformance::bound(&(Arc::clone(&small) as _), "payment", &["#"]).await;
        let mut consumer = small.consume(&stage, LARGE).await.unwrap();
        small.publish(vec![large(1, false), message(2, false)]).await;
        assert_eq!(ids(&consumer.receive(100).await.unwrap()), ["1"]);
    }

    #[tokio::test]
    async fn messages_that_nobody_publishes_are_asked_for() {
        let broker = Embedded::new(LARGE, Arc::new(SystemClock));
        let stage: Arc<str> = "payment".into();
        let patterns = vec!["order.created".to_owned()];
        broker.declare(Binding { stage: Arc::clone(&stage), patterns }).await.unwrap();
        broker.refilled(&broker.take_gaps()[0]).await;
        // Of another type, and for another stage.
        let to_other = Direct { stage: "other".into(), round: 1, attempt: 1 };
        let other = Outgoing { direct: Some(to_other), ..message(1, false) };
        broker.missed(&[conformance::event("order.cancelled", 1), other]);
        assert!(broker.take_gaps().is_empty());
        // Nothing is in the queue, so nothing would be acknowledged.
        broker.missed(&[message(1, false)]);
        let gaps = broker.take_gaps();
        assert_eq!(gaps.len(), 1);
        // While it is being filled, one more is missed.
        broker.missed(&[message(2, false)]);
        assert!(broker.take_gaps().is_empty());
        broker.refilled(&gaps[0]).await;
        assert_eq!(broker.take_gaps().len(), 1, "it has to be filled again");
    }

    #[tokio::test]
    async fn customers_take_turns_in_a_queue() {
        let broker = Embedded::new(LARGE, Arc::new(SystemClock));
        let stage = conformance::bound(&(Arc::clone(&broker) as _), "payment", &["#"]).await;
        let of = |number: usize, customer: u64| {
            let mut message = message(number, false);
            let mut envelope = Envelope::clone(&message.envelope);
            envelope.event.subject = number.to_string();
            envelope.customer_hash = customer;
            message.envelope = Arc::new(envelope);
            message
        };
        broker.publish((1..=1_000).map(|number| of(number, 1)).collect()).await;
        broker.publish(vec![of(2_001, 2), of(2_002, 2)]).await;
        let mut consumer = broker.consume(&stage, LARGE).await.unwrap();
        let received = consumer.receive(4).await.unwrap();
        assert_eq!(ids(&received), ["1", "2001", "2", "2002"]);
        // What a consumer leaves behind is next, in its order.
        drop(consumer);
        let mut consumer = broker.consume(&stage, LARGE).await.unwrap();
        let received = consumer.receive(5).await.unwrap();
        let own = |customer: u64| {
            received.iter().filter(move |one| one.envelope.customer_hash == customer)
        };
        let ids =
            |customer: u64| own(customer).map(|one| &*one.envelope.event.id).collect::<Vec<_>>();
        assert_eq!((ids(1), ids(2)), (vec!["1", "2", "3"], vec!["2001", "2002"]));
        assert!(received[..4].iter().all(|one| one.redelivered));
    }
}
