//! A queue that is fair to kinds of subjects and to customers: kinds take turns, and within a kind its
//! customers do. A turn is one message.
//!
//! With one flow it is first in, first out. In any case the messages of one subject stay in their
//! order: while one of them waits, the next ones join its flow, whatever flow they name. Pure. Bounds:
//! memory in proportion to the messages that wait, because an empty flow is forgotten; whoever pushes
//! bounds their number. A message takes constant time, and allocates only when more flows or messages
//! wait than before.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher as _};

use super::event::{self, Envelope};

/// Emptied queues that are kept for the next flows.
const SPARE_MAX: usize = 4;

/// Messages that have their turns together: those of one customer among those of one kind. Two flows
/// with equal hashes share their turns, which does no other harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Of the kind of the subject, or of no kind.
    kind: u64,
    /// Of the customer; without one, of the event's source.
    customer: u64,
}

impl Flow {
    /// The flow of an event.
    pub fn of(envelope: &Envelope) -> Self {
        let kind = envelope.subject_key.as_ref().map_or(0, |key| hash(key.kind()));
        let customer = match envelope.customer_hash {
            0 => hash(&envelope.event.source),
            customer => customer,
        };
        Self { kind, customer }
    }
}

/// Identifies a customer in messages, the same on every host; 0 stands for none.
pub fn customer_hash(customer: Option<&str>) -> u64 {
    let Some(customer) = customer else { return 0 };
    let hash = u128::from_be_bytes(event::hash(&["customer", customer]));
    (hash as u64).max(1)
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Where a message belongs in a [`FairQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Whose turns it takes.
    pub flow: Flow,
    /// Hash of the subject whose messages stay in their order; none: it has no subject.
    pub subject: Option<u64>,
}

impl Place {
    /// The place of an event. Two kinds may have subjects with the same id.
    pub fn of(envelope: &Envelope) -> Self {
        let (flow, subject) = (Flow::of(envelope), &envelope.event.subject);
        Self { flow, subject: (!subject.is_empty()).then(|| hash((flow.kind, subject))) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct FairQueue<T> {
    kinds: Turns<Turns<VecDeque<Waiting<T>>>>,
    /// Subjects that wait, by their hash.
    subjects: HashMap<u64, Subject>,
    len: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    subject: Option<u64>,
    item: T,
}

/// A subject of which messages wait.
#[derive(Debug)]
struct Subject {
    /// The flow in which they wait.
    flow: Flow,
    messages: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { kinds: Turns::default(), subjects: HashMap::new(), len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a message behind those of its flow.
    pub fn push(&mut self, place: Place, item: T) {
        let subject = place.subject;
        self.queue(place).push_back(Waiting { subject, item });
    }

    /// Returns a message that was taken from the queue: it is the next one of its flow. Those of one
    /// flow are returned in the reverse order.
    pub fn push_front(&mut self, place: Place, item: T) {
        let subject = place.subject;
        self.queue(place).push_front(Waiting { subject, item });
    }

    /// The queue that a message joins.
    fn queue(&mut self, place: Place) -> &mut VecDeque<Waiting<T>> {
        self.len += 1;
        let flow = match place.subject {
            None => place.flow,
            Some(subject) => {
                let new = Subject { flow: place.flow, messages: 0 };
                let waiting = self.subjects.entry(subject).or_insert(new);
                waiting.messages += 1;
                waiting.flow
            }
        };
        self.kinds.at(flow.kind).at(flow.customer)
    }

    /// The messages that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let queues = self.kinds.queues.values().flat_map(|customers| customers.queues.values());
        queues.flatten().map(|waiting| &waiting.item)
    }

    /// The message whose turn is next.
    pub fn peek(&self) -> Option<&T> {
        let waiting = self.kinds.next()?.next()?.front()?;
        Some(&waiting.item)
    }

    /// Takes the message whose turn is next.
    pub fn pop(&mut self) -> Option<T> {
        let customers = self.kinds.next_mut()?;
        let queue = customers.next_mut()?;
        let Waiting { subject, item } = queue.pop_front()?;
        let is_empty = queue.is_empty();
        customers.end_turn(is_empty);
        let is_empty = customers.queues.is_empty();
        self.kinds.end_turn(is_empty);
        self.len -= 1;
        if let Some(subject) = subject {
            self.leave(subject);
        }
        Some(item)
    }

    /// A message of this subject waits no more.
    fn leave(&mut self, subject: u64) {
        if let Entry::Occupied(mut waiting) = self.subjects.entry(subject) {
            waiting.get_mut().messages -= 1;
            if waiting.get().messages == 0 {
                waiting.remove();
            }
        }
    }
}

/// Queues that take turns, by hash. None of them is empty between two calls.
#[derive(Debug)]
struct Turns<Q> {
    queues: HashMap<u64, Q>,
    /// The next one is in front.
    next: VecDeque<u64>,
    /// Empty ones, which keep their memory.
    spare: Vec<Q>,
}

impl<Q> Default for Turns<Q> {
    fn default() -> Self {
        Self { queues: HashMap::new(), next: VecDeque::new(), spare: Vec::new() }
    }
}

impl<Q: Default> Turns<Q> {
    /// The queue with this hash; a new one has its turn after the others. Something is pushed to it.
    fn at(&mut self, hash: u64) -> &mut Q {
        match self.queues.entry(hash) {
            Entry::Occupied(queue) => queue.into_mut(),
            Entry::Vacant(free) => {
                self.next.push_back(hash);
                free.insert(self.spare.pop().unwrap_or_default())
            }
        }
    }

    fn next(&self) -> Option<&Q> {
        self.queues.get(self.next.front()?)
    }

    fn next_mut(&mut self) -> Option<&mut Q> {
        self.queues.get_mut(self.next.front()?)
    }

    /// The queue whose turn was next had it.
    fn end_turn(&mut self, is_empty: bool) {
        let Some(hash) = self.next.pop_front() else { return };
        if !is_empty {
            self.next.push_back(hash);
        } else if let Some(queue) = self.queues.remove(&hash)
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(queue);
        }
    }
}

#[cfg(test)]
mod tests;
