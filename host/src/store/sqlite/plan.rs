//! What a group of operations writes, collected row by row and then written in a constant number of statements.
//!
//! The plan is only filled by operations whose checks have passed. It costs memory in proportion to the group, which the committer
//! bounds; it carries no check of its own but one: an event whose key is known already keeps its old position in the log.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::SqliteConnection;

use super::rows::{self, AttemptRow, DeadRow, DeliveryRow, EventRow, Move, OpenedRow, OrderRow, OutboxInsert, StateRow};
use super::sql::{args, column, execute, execute_all, fetch, json};
use crate::event::Envelope;
use crate::store::status::StatusRules;
use crate::store::{Direct, NewEvent, OutboxRow, StoreError};

/// Who writes, and when.
pub(super) struct Context {
    /// Owner of the leases.
    pub(super) host: String,
    /// Length of a lease.
    pub(super) lease_ms: u64,
    /// Order status by events.
    pub(super) status: Arc<StatusRules>,
    /// Last position used in the event log.
    pub(super) last_event: i64,
    /// Last outbox id used.
    pub(super) last_outbox: i64,
}

/// The rows.
pub(super) struct Plan<'a> {
    context: &'a mut Context,
    now_ms: u64,
    pub(super) orders: Vec<OrderRow<'a>>,
    events: Vec<EventRow<'a>>,
    opened: Vec<OpenedRow<'a>>,
    pub(super) settled: Vec<DeliveryRow<'a>>,
    outbox: Vec<OutboxInsert>,
    pub(super) state: Vec<StateRow<'a>>,
    pub(super) attempts: Vec<AttemptRow<'a>>,
    pub(super) dead: Vec<DeadRow<'a>>,
    moves: Vec<Move<'a>>,
    pub(super) sent: Vec<i64>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(context: &'a mut Context, now_ms: u64) -> Self {
        Self {
            context,
            now_ms,
            orders: Vec::new(),
            events: Vec::new(),
            opened: Vec::new(),
            settled: Vec::new(),
            outbox: Vec::new(),
            state: Vec::new(),
            attempts: Vec::new(),
            dead: Vec::new(),
            moves: Vec::new(),
            sent: Vec::new(),
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Writes an event that came from elsewhere; its position in the log.
    pub(super) fn adopt(&mut self, envelope: &'a Envelope, stage: &'a str) -> i64 {
        self.log(envelope, vec![stage], None)
    }

    /// Writes an event that moves its order's status, opens its deliveries and sends it.
    pub(super) fn event(&mut self, new: &'a NewEvent) -> Option<OutboxRow> {
        let envelope: &'a Envelope = &new.envelope;
        // `first_event` gives this event the next position.
        let seq = self.context.last_event + 1;
        if let Some(order) = &envelope.order_id {
            self.moves.push(Move { seq, order, event_type: &envelope.event.event_type });
        }
        self.first_event(new)
    }

    /// The same for an order's first event: the order is written with its status in the same plan.
    pub(super) fn first_event(&mut self, new: &'a NewEvent) -> Option<OutboxRow> {
        let routed_to: Vec<&'a str> = new.routed_to.iter().map(AsRef::as_ref).collect();
        let producer = new.producer.as_ref().map(|(stage, digest)| (&**stage, &**digest));
        let seq = self.log(&new.envelope, routed_to, producer);
        let queued_ms = new.due_at_ms.max(self.now_ms);
        self.opened.extend(new.routed_to.iter().map(|stage| OpenedRow { seq, stage, queued_ms }));
        if new.routed_to.is_empty() && new.only_stage.is_none() {
            return None;
        }
        let direct = new.only_stage.as_ref().map(|stage| Direct { stage: Arc::clone(stage), round: 1, attempt: 1 });
        self.send(seq, &new.envelope, direct, new.due_at_ms)
    }

    fn log(&mut self, envelope: &'a Envelope, routed_to: Vec<&'a str>, producer: Option<(&'a str, &'a str)>) -> i64 {
        self.context.last_event += 1;
        let seq = self.context.last_event;
        self.events.push(EventRow { seq, envelope, routed_to, producer });
        seq
    }

    /// Writes an outbox row. One that is due now is leased to this host and returned, to be handed to the relay.
    pub(super) fn send(&mut self, seq: i64, envelope: &Arc<Envelope>, direct: Option<Direct>, due_at_ms: u64) -> Option<OutboxRow> {
        self.context.last_outbox += 1;
        let id = self.context.last_outbox;
        let leased = due_at_ms <= self.now_ms;
        self.outbox.push(OutboxInsert { id, seq, due_ms: due_at_ms.max(self.now_ms), leased, direct: direct.clone() });
        leased.then(|| OutboxRow { id, envelope: Arc::clone(envelope), direct })
    }

    /// Writes everything.
    pub(super) async fn flush(mut self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let written = execute_all(conn, rows::events(&self.events)).await?;
        if written < self.events.len() as u64 {
            let known = self.known_positions(conn).await?;
            self.renumber(&known);
        }
        let now_ms = self.now_ms;
        execute_all(conn, rows::orders(&self.orders, now_ms)).await?;
        execute_all(conn, rows::opened(&self.opened, now_ms)).await?;
        execute_all(conn, rows::deliveries(&self.settled)).await?;
        let lease = (self.context.host.as_str(), now_ms + self.context.lease_ms);
        execute_all(conn, rows::outbox(&self.outbox, lease)).await?;
        execute_all(conn, rows::state(&self.state)).await?;
        execute_all(conn, rows::attempts(&self.attempts)).await?;
        execute_all(conn, rows::dead(&self.dead, now_ms)).await?;
        self.move_orders(conn).await?;
        if !self.sent.is_empty() {
            let sql = "DELETE FROM outbox WHERE id IN (SELECT value FROM json_each(?1))";
            execute(conn, sql, args![json(&self.sent)]).await?;
        }
        Ok(())
    }

    /// Planned position → position in the log, for the events that were known before.
    async fn known_positions(&self, conn: &mut SqliteConnection) -> Result<HashMap<i64, i64>, StoreError> {
        let keys: Vec<(&str, &str, i64)> =
            self.events.iter().map(|row| (row.envelope.event.source.as_str(), row.envelope.event.id.as_str(), row.seq)).collect();
        let sql = "SELECT k.value ->> 2, e.seq FROM json_each(?1) k CROSS JOIN events e \
                   ON e.id = k.value ->> 1 AND e.source = k.value ->> 0";
        let rows = fetch(conn, sql, args![json(&keys)]).await?;
        let mut known = HashMap::new();
        for row in &rows {
            let (planned, seq): (i64, i64) = (column(row, 0)?, column(row, 1)?);
            if planned != seq {
                known.insert(planned, seq);
            }
        }
        Ok(known)
    }

    fn renumber(&mut self, known: &HashMap<i64, i64>) {
        let renumber = |seq: &mut i64| *seq = known.get(seq).copied().unwrap_or(*seq);
        self.opened.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.settled.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.outbox.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.attempts.iter_mut().for_each(|row| renumber(&mut row.seq));
        self.dead.iter_mut().for_each(|row| renumber(&mut row.seq));
        // An event that was there before has moved its order before.
        self.moves.retain(|row| !known.contains_key(&row.seq));
    }

    /// Brings the status of all concerned orders up to date: one query, the table of rules, one update.
    async fn move_orders(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let rules = &self.context.status;
        let relevant = |row: &&Move<'a>| rules.transitions.contains_key(row.event_type);
        let ids: Vec<&str> = self.moves.iter().filter(relevant).map(|row| row.order).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let sql = "SELECT o.id, o.pos, o.status FROM json_each(?1) k CROSS JOIN orders o ON o.id = k.value";
        let rows = fetch(&mut *conn, sql, args![json(&ids)]).await?;
        let mut present: HashMap<&str, (i64, &str, bool)> = HashMap::new();
        for row in &rows {
            present.insert(column(row, 0)?, (column(row, 1)?, column(row, 2)?, false));
        }
        for row in &self.moves {
            if let Some((_, status, changed)) = present.get_mut(row.order)
                && let Some(next) = rules.next(status, row.event_type)
            {
                (*status, *changed) = (next, true);
            }
        }
        let changed: Vec<(i64, &str)> = present.values().filter(|(_, _, changed)| *changed).map(|row| (row.0, row.1)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let sql = "UPDATE orders SET status = k.value ->> 1, updated_ms = ?2 FROM json_each(?1) k WHERE orders.pos = k.value ->> 0";
        execute(conn, sql, args![json(&changed), self.now_ms as i64]).await?;
        Ok(())
    }
}
