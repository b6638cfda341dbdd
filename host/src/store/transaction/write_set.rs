//! What a group of operations writes, collected row by row and then written in a constant number of
//! statements.
//!
//! The plan is only filled by operations whose checks have passed. It costs memory in proportion to
//! the group, which the committer bounds; it carries no check of its own but one: an event whose
//! key is known already keeps its old position in the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::rows::{
    AttemptRow, DeadRow, DeliveryRow, EventRow, Move, OpenedRow, OrderRow, OutboxInsert,
    RecordingRow, StateRow,
};
use crate::domain::event::{Envelope, ORDER_CANCELLED};
use crate::domain::order_status::StatusRules;
use crate::store::{Direct, NewEvent, OutboxRow};

/// The last numbers that were given out; a plan takes the next ones.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Numbers {
    /// Position in the event log.
    pub(in crate::store) event: i64,
    /// Outbox id.
    pub(in crate::store) outbox: i64,
}

/// When a plan is made.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Times {
    /// The store's clock: what is written, and what leases count by.
    pub(in crate::store) now_ms: u64,
    /// What fell due by then is sent at once. The host that asked may be ahead of the store's
    /// clock.
    pub(in crate::store) due_ms: u64,
}

/// Where locked orders stand: id → (position, status).
pub(in crate::store) type Standing<'a> = HashMap<&'a str, (i64, &'a str)>;

/// The rows.
pub(in crate::store) struct WriteSet<'a> {
    numbers: &'a mut Numbers,
    times: Times,
    /// Events that no stage consumes are sent too: other programs listen.
    publish_all: bool,
    pub(in crate::store) orders: Vec<OrderRow<'a>>,
    pub(in crate::store) events: Vec<EventRow<'a>>,
    pub(in crate::store) opened: Vec<OpenedRow<'a>>,
    pub(in crate::store) settled: Vec<DeliveryRow<'a>>,
    pub(in crate::store) outbox: Vec<OutboxInsert>,
    pub(in crate::store) state: Vec<StateRow<'a>>,
    /// Keys that a committed batch read and did not write, with the version it relied upon.
    pub(in crate::store) relied_upon: Vec<StateRow<'a>>,
    pub(in crate::store) attempts: Vec<AttemptRow<'a>>,
    pub(in crate::store) dead: Vec<DeadRow<'a>>,
    pub(in crate::store) recordings: Vec<RecordingRow<'a>>,
    pub(in crate::store) moves: Vec<Move<'a>>,
    /// Orders that must not be cancelled when this is written.
    pub(super) forward: Vec<&'a str>,
    /// Orders whose cancel may be through with this.
    pub(super) ending: Vec<&'a str>,
    pub(in crate::store) sent: Vec<i64>,
}

impl<'a> WriteSet<'a> {
    pub(in crate::store) fn new(numbers: &'a mut Numbers, times: Times, publish_all: bool) -> Self {
        Self {
            numbers,
            times,
            publish_all,
            orders: Vec::new(),
            events: Vec::new(),
            opened: Vec::new(),
            settled: Vec::new(),
            outbox: Vec::new(),
            state: Vec::new(),
            relied_upon: Vec::new(),
            attempts: Vec::new(),
            dead: Vec::new(),
            recordings: Vec::new(),
            moves: Vec::new(),
            forward: Vec::new(),
            ending: Vec::new(),
            sent: Vec::new(),
        }
    }

    pub(in crate::store) fn now_ms(&self) -> u64 {
        self.times.now_ms
    }

    /// Writes an event that came from elsewhere; its position in the log.
    pub(super) fn adopt(&mut self, envelope: &'a Envelope, stage: &'a str) -> i64 {
        self.log(envelope, vec![stage], None, None)
    }

    /// Writes an event that moves its order's status, opens its deliveries and sends it.
    pub(in crate::store) fn event(&mut self, new: &'a NewEvent) -> Option<OutboxRow> {
        let envelope: &'a Envelope = &new.envelope;
        // `first_event` gives this event the next position.
        let seq = self.numbers.event + 1;
        if let Some(order) = &envelope.order_id {
            let event_type: &'a str = &envelope.event.event_type;
            self.moves.push(Move { seq, order, event_type, must: false });
            if event_type == ORDER_CANCELLED {
                self.ending.push(order);
            }
        }
        self.first_event(new)
    }

    /// Writes the event that cancels an order; it must move the order's status.
    pub(super) fn cancel(&mut self, order: &'a str, new: &'a NewEvent) -> Option<OutboxRow> {
        self.moves.push(Move {
            seq: self.numbers.event + 1,
            order,
            event_type: &new.envelope.event.event_type,
            must: true,
        });
        // Nobody may have anything to undo.
        self.ending.push(order);
        self.first_event(new)
    }

    /// The same for an order's first event: the order is written with its status in the same plan.
    pub(super) fn first_event(&mut self, new: &'a NewEvent) -> Option<OutboxRow> {
        let routed_to: Vec<&'a str> = new.routed_to.iter().map(AsRef::as_ref).collect();
        let producer = new.producer.as_ref().map(|(stage, digest)| (&**stage, &**digest));
        let due_ms = Some(new.due_at_ms).filter(|due_ms| *due_ms > self.times.due_ms);
        let seq = self.log(&new.envelope, routed_to, producer, due_ms);
        let queued_ms = new.due_at_ms.max(self.times.now_ms);
        self.opened.extend(new.routed_to.iter().map(|stage| OpenedRow { seq, stage, queued_ms }));
        if new.routed_to.is_empty() && new.only_stage.is_none() && !self.publish_all {
            return None;
        }
        let direct = new.only_stage.as_ref().map(|stage| Direct {
            stage: Arc::clone(stage),
            round: 1,
            attempt: 1,
        });
        let row = self.send(seq, &new.envelope, direct, new.due_at_ms);
        row.map(|row| OutboxRow { routed: !new.routed_to.is_empty(), ..row })
    }

    fn log(
        &mut self,
        envelope: &'a Envelope,
        routed_to: Vec<&'a str>,
        producer: Option<(&'a str, &'a str)>,
        due_ms: Option<u64>,
    ) -> i64 {
        self.numbers.event += 1;
        let seq = self.numbers.event;
        self.events.push(EventRow { seq, envelope, routed_to, producer, due_ms });
        seq
    }

    /// Writes an outbox row. One that is due now is leased to this host and returned, to be handed
    /// to the relay.
    pub(in crate::store) fn send(
        &mut self,
        seq: i64,
        envelope: &Arc<Envelope>,
        direct: Option<Direct>,
        due_at_ms: u64,
    ) -> Option<OutboxRow> {
        self.numbers.outbox += 1;
        let id = self.numbers.outbox;
        let leased = due_at_ms <= self.times.due_ms;
        self.outbox.push(OutboxInsert {
            id,
            seq,
            due_ms: due_at_ms.max(self.times.now_ms),
            leased,
            direct: direct.clone(),
        });
        leased.then(|| OutboxRow { id, envelope: Arc::clone(envelope), direct, routed: true })
    }

    /// Puts everything that hangs on an event which was known before to its old position (planned →
    /// position in the log).
    pub(in crate::store) fn renumber(&mut self, known: &HashMap<i64, i64>) {
        let renumber = |seq: &mut i64| *seq = known.get(seq).copied().unwrap_or(*seq);
        self.opened.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.settled.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.outbox.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.attempts.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.dead.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.recordings.iter_mut().for_each(|row| renumber(&mut row.seq));
        // An event that was there before has moved its order before.
        self.moves.retain(|row| !known.contains_key(&row.seq));
    }

    /// Orders whose row must be locked: those that an event of this plan may move, and those whose
    /// cancel may be through.
    pub(in crate::store) fn orders_to_lock(&self, rules: &StatusRules) -> Vec<&'a str> {
        let moving = self
            .moves
            .iter()
            .filter(|row| rules.transitions.contains_key(row.event_type))
            .map(|row| row.order);
        moving.chain(self.ending.iter().copied()).collect()
    }

    /// The status of an order that stands at `present`, after the events of this plan so far.
    pub(super) fn status_of<'r>(
        &self,
        rules: &'r StatusRules,
        order: &str,
        present: &'r str,
    ) -> &'r str {
        let events = self.moves.iter().filter(|row| row.order == order);
        events.fold(present, |status, row| rules.next(status, row.event_type).unwrap_or(status))
    }

    /// The status of the orders that change, by position, given where they stand: id → (position,
    /// status). None when somebody was faster: an order was cancelled meanwhile, or can be no more.
    pub(in crate::store) fn moved<'r>(
        &self,
        rules: &'r StatusRules,
        standing: &Standing<'r>,
    ) -> Option<BTreeMap<i64, &'r str>> {
        if self
            .forward
            .iter()
            .any(|order| standing.get(order).is_some_and(|(_, status)| rules.is_cancelled(status)))
        {
            return None;
        }
        let mut moved: BTreeMap<i64, &'r str> = BTreeMap::new();
        for row in &self.moves {
            let Some((pos, before)) = standing.get(row.order) else { continue };
            let present = moved.get(pos).unwrap_or(before);
            match rules.next(present, row.event_type) {
                Some(next) => _ = moved.insert(*pos, next),
                None if row.must => return None,
                None => {}
            }
        }
        Some(moved)
    }

    /// Orders that are being cancelled, by position: their cancel is through when no compensation
    /// is left.
    pub(in crate::store) fn may_end(
        &self,
        rules: &StatusRules,
        standing: &Standing<'_>,
        moved: &BTreeMap<i64, &str>,
    ) -> BTreeMap<&'a str, i64> {
        let place = |order: &&'a str| {
            let (pos, before) = standing.get(order)?;
            let present = moved.get(pos).unwrap_or(before);
            (Some(*present) == rules.cancelling()).then_some((*order, *pos))
        };
        self.ending.iter().filter_map(place).collect()
    }
}
