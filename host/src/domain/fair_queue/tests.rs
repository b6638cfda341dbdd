//! Generated pushes and pops, against what a fair queue promises.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Unstructured;

use super::*;
use crate::domain::event::Event;

fn flow(kind: u64, customer: u64) -> Flow {
    Flow { kind, customer }
}

fn place(kind: u64, customer: u64, subject: u64) -> Place {
    Place { flow: flow(kind, customer), subject: Some(subject) }
}

fn drained<T>(queue: &mut FairQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn one_flow_is_first_in_first_out() {
    let mut queue = FairQueue::default();
    for number in 0..1_000 {
        queue.push(place(1, 1, number % 7), number);
    }
    assert_eq!(drained(&mut queue), (0..1_000).collect::<Vec<u64>>());
}

#[test]
fn a_few_messages_pass_the_backlog_of_another_customer_and_kind() {
    let mut queue = FairQueue::default();
    for number in 0..5_000 {
        queue.push(place(1, 1, number), (1, 1));
    }
    for number in 0..3 {
        queue.push(place(1, 2, 10_000 + number), (1, 2));
        queue.push(place(2, 1, 20_000 + number), (2, 1));
    }
    let taken: Vec<(u64, u64)> = (0..12).filter_map(|_| queue.pop()).collect();
    let count = |wanted| taken.iter().filter(|flow| **flow == wanted).count();
    // Every other turn is one of the second kind; the rest alternates between two customers.
    assert_eq!((count((2, 1)), count((1, 2))), (3, 3), "{taken:?}");
}

#[test]
fn a_kind_with_many_customers_has_no_more_turns_than_one_with_a_single_customer() {
    let mut queue = FairQueue::default();
    for number in 0..100 {
        queue.push(place(1, number, number), 1);
    }
    for number in 0..10 {
        queue.push(place(2, 1, 1_000 + number), 2);
    }
    let taken: Vec<i32> = (0..20).filter_map(|_| queue.pop()).collect();
    assert_eq!(taken.iter().filter(|kind| **kind == 2).count(), 10, "{taken:?}");
}

#[test]
fn messages_of_one_subject_keep_their_order_in_two_flows() {
    let mut queue = FairQueue::default();
    for number in 0..10 {
        queue.push(place(1, 1, number), number);
    }
    queue.push(place(1, 1, 77), 100);
    // Another flow would be served first.
    queue.push(place(1, 2, 77), 101);
    let taken = drained(&mut queue);
    assert_eq!(taken[10..], [100, 101]);
    // Nothing is remembered of a subject that does not wait.
    queue.push(place(1, 1, 1), 1);
    queue.push(place(1, 1, 2), 2);
    queue.push(place(1, 2, 77), 3);
    assert_eq!(drained(&mut queue), [1, 3, 2]);
}

#[test]
fn returned_messages_are_the_next_of_their_flow() {
    let mut queue = FairQueue::default();
    for number in 0..6 {
        queue.push(place(1, number % 2, number), number);
    }
    let taken: Vec<u64> = (0..4).filter_map(|_| queue.pop()).collect();
    assert_eq!(taken, [0, 1, 2, 3]);
    for number in taken.into_iter().rev() {
        queue.push_front(place(1, number % 2, number), number);
    }
    assert_eq!(queue.peek(), Some(&0));
    assert_eq!(drained(&mut queue), [0, 1, 2, 3, 4, 5]);
}

/// A message of a generated run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Message {
    number: usize,
    subject: Option<u64>,
}

/// What has to hold while messages are pushed and popped.
#[derive(Default)]
struct Model {
    queue: FairQueue<Message>,
    /// Messages that wait, in the order in which they came, with the flow that they joined.
    waiting: Vec<(Flow, Message)>,
    /// Turns since each flow that waits was served, or began to wait.
    turns: BTreeMap<(u64, u64), usize>,
    /// The most kinds, and the most customers of its kind, that waited at a time since then.
    most: BTreeMap<(u64, u64), (usize, usize)>,
}

impl Model {
    fn push(&mut self, place: Place, number: usize) {
        let message = Message { number, subject: place.subject };
        self.queue.push(place, message);
        let joined = self
            .waiting
            .iter()
            .find(|(_, other)| message.subject.is_some() && other.subject == message.subject);
        let flow = joined.map_or(place.flow, |(flow, _)| *flow);
        self.waiting.push((flow, message));
        self.turns.entry((flow.kind, flow.customer)).or_insert(0);
    }

    fn pop(&mut self) {
        for (flow, (kinds, customers)) in self.waiting_flows() {
            let most = self.most.entry(flow).or_default();
            *most = (kinds.max(most.0), customers.max(most.1));
        }
        let peeked = self.queue.peek().copied();
        let popped = self.queue.pop();
        assert_eq!(peeked, popped);
        let Some(popped) = popped else { return assert!(self.waiting.is_empty()) };
        let found = self.waiting.iter().position(|(_, message)| *message == popped);
        let at = found.expect("nothing is taken twice, or was never pushed");
        let (flow, _) = self.waiting.remove(at);
        let is_earlier = |(of, other): &(Flow, Message)| {
            *of == flow || popped.subject.is_some() && other.subject == popped.subject
        };
        assert!(!self.waiting[..at].iter().any(is_earlier), "it passed one of its flow or subject");
        for turns in self.turns.values_mut() {
            *turns += 1;
        }
        let served = (flow.kind, flow.customer);
        self.turns.insert(served, 0);
        self.most.remove(&served);
        if !self.waiting.iter().any(|(of, _)| *of == flow) {
            self.turns.remove(&served);
        }
        for (flow, turns) in &self.turns {
            let (kinds, customers) = self.most.get(flow).copied().unwrap_or((1, 1));
            assert!(*turns < kinds * customers, "{flow:?} waits for {turns} turns");
        }
    }

    /// Each flow that waits, with the number of kinds and of customers of its kind that do.
    fn waiting_flows(&self) -> Vec<((u64, u64), (usize, usize))> {
        let flows: BTreeSet<(u64, u64)> =
            self.waiting.iter().map(|(flow, _)| (flow.kind, flow.customer)).collect();
        let kinds: BTreeSet<u64> = flows.iter().map(|(kind, _)| *kind).collect();
        let customers = |kind: u64| flows.iter().filter(|flow| flow.0 == kind).count();
        flows.iter().map(|flow| (*flow, (kinds.len(), customers(flow.0)))).collect()
    }

    /// Memory is in proportion to what waits.
    fn check_size(&self) {
        let FairQueue { kinds, subjects, len } = &self.queue;
        assert_eq!(*len, self.waiting.len());
        let flows: BTreeSet<(u64, u64)> =
            self.waiting.iter().map(|(flow, _)| (flow.kind, flow.customer)).collect();
        let kept: usize = kinds.queues.values().map(|customers| customers.queues.len()).sum();
        assert_eq!(kept, flows.len(), "an empty flow is forgotten");
        let ordered: usize = kinds.queues.values().map(|customers| customers.next.len()).sum();
        assert_eq!((ordered, kinds.next.len()), (kept, kinds.queues.len()));
        let waiting: BTreeSet<u64> =
            self.waiting.iter().filter_map(|(_, message)| message.subject).collect();
        assert_eq!(subjects.len(), waiting.len(), "a subject that does not wait is forgotten");
        assert!(kinds.spare.len() <= SPARE_MAX);
    }
}

fn run(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut model = Model::default();
    let (kinds, customers, subjects) =
        (u.int_in_range(1..=4)?, u.int_in_range(1..=6)?, u.int_in_range(1..=20)?);
    let mut number = 0;
    while !u.is_empty() && number < 300 {
        if u.ratio(3, 5)? {
            // Mostly of one customer, as in a flood.
            let customer = if u.ratio(1, 2)? { 1 } else { u.int_in_range(1..=customers)? };
            let flow = flow(u.int_in_range(1..=kinds)?, customer);
            let subject = if u.ratio(1, 8)? { None } else { Some(u.int_in_range(1..=subjects)?) };
            model.push(Place { flow, subject }, number);
            number += 1;
        } else {
            model.pop();
        }
        model.check_size();
    }
    while !model.waiting.is_empty() {
        model.pop();
        model.check_size();
    }
    assert!(model.queue.is_empty() && model.queue.pop().is_none());
    Ok(())
}

#[test]
fn every_flow_is_served_in_turn_and_nothing_is_lost() {
    arbtest::arbtest(run).size_min(64).size_max(4_096);
}

#[test]
fn the_flow_of_an_event_is_its_kind_and_customer_or_source() {
    let event = |source: &str, subject: &str| Event {
        id: "1".into(),
        event_type: "a.b".into(),
        source: source.into(),
        subject: subject.into(),
        time_ms: 0,
        content_type: String::new(),
        data: bytes::Bytes::new(),
        attributes: Vec::new(),
    };
    let envelope = |source: &str, key: Option<&str>, customer: Option<&str>| Envelope {
        customer_hash: customer_hash(customer),
        ..Envelope::first(event(source, "7"), key.and_then(|key| key.parse().ok()), 0)
    };
    let of = |source, key, customer| Flow::of(&envelope(source, key, customer));
    let ann = of("/a", Some("order/1"), Some("ann"));
    assert_eq!(ann, of("/b", Some("order/2"), Some("ann")));
    assert_ne!(ann, of("/a", Some("order/1"), Some("bob")));
    assert_ne!(ann, of("/a", Some("document/1"), Some("ann")));
    let anonymous = of("/a", Some("order/1"), None);
    assert_eq!(anonymous, of("/a", Some("order/2"), None));
    assert_ne!(anonymous, of("/b", Some("order/1"), None));
    assert_ne!(anonymous, of("/a", None, None));
    let subject = |key, customer| Place::of(&envelope("/a", key, customer)).subject;
    assert_eq!(subject(Some("order/7"), Some("ann")), subject(Some("order/7"), None));
    assert_ne!(subject(Some("order/7"), None), subject(Some("document/7"), None));
    assert_eq!(Place::of(&Envelope::first(event("/a", ""), None, 0)).subject, None);
    assert_eq!((customer_hash(None), customer_hash(Some("")) == 0), (0, false));
}
