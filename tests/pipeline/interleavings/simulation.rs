//! One generated schedule: the requests of its clients, its messages in flight, and the choice of
//! which comes next.
//!
//! A step either processes messages as a lane does (duplicates, a cache that may be stale, one
//! commit for all), or acts as a client. Up to three steps of a simulation commit concurrently.
//! The relay and the broker are a bag of messages; any of them may come next.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use postrider::internals::{
    Attempt, Batch, BatchState, Call, Cancelled, ChainStatus, Commit, DeadLetterAction,
    DeadLetterFilter, DeadLetterStatus, Decision, DecisionInputs, LaneCache, LostDeliveries,
    NewCancel, NewEvent, NewSubject, OutboxRow, Outcome, PRODUCT_STOCKED, Progress, Routes as _,
    StateSource, decide,
};
use postrider::{
    Actor, CallContext, Clock as _, DeliveryKey, Envelope, Event, Failure, Settlement, StoreError,
    SubjectKey, Verdict,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::fixture::{Fixture, LEASE_MS, Stage};

/// Faults injected into one simulation: failed attempts, lost and duplicated messages.
const FAULTS: u32 = 6;
/// Most messages in one step.
const BATCH_MAX: usize = 3;

/// A message in flight to a stage.
#[derive(Clone)]
struct Message {
    stage: usize,
    envelope: Arc<Envelope>,
    round: u32,
    attempt: u32,
    subject_cancelled: bool,
}

/// A client's request.
#[derive(Debug, Clone)]
enum Action {
    Order(String),
    Stock(String, u64),
    Cancel(String),
    Collect(String),
}

/// The client's view of an order.
pub(super) struct Ordered {
    pub(super) total: i64,
    pub(super) items: BTreeMap<String, u64>,
    body: Value,
    /// A cancel was accepted.
    pub(super) cancelled: bool,
    pub(super) refused: bool,
}

pub(super) struct Simulation {
    pub(super) seed: u64,
    rng: StdRng,
    bag: Vec<Message>,
    actions: Vec<Action>,
    faults: u32,
    /// Two lanes for each stage.
    caches: BTreeMap<(usize, bool), LaneCache>,
    pub(super) orders: BTreeMap<String, Ordered>,
    pub(super) stocked: BTreeMap<String, u64>,
    pub(super) ended: Vec<String>,
    pub(super) trace: Vec<String>,
}

/// A step that has read everything and is ready to commit.
enum Step {
    Client(Action),
    Lane { lane: (usize, bool), work: Vec<Message>, batch: Batch, cache: LaneCache },
}

enum Answer {
    Told,
    /// The store was busy. The step may have taken effect all the same, and is repeated.
    Unavailable {
        action: Option<Action>,
        work: Vec<Message>,
    },
    Cancelled(String, Cancelled),
    Committed {
        lane: (usize, bool),
        work: Vec<Message>,
        batch: Batch,
        cache: LaneCache,
        commit: Commit,
    },
}

impl Simulation {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut simulation = Self {
            seed,
            bag: Vec::new(),
            actions: Vec::new(),
            faults: FAULTS,
            caches: BTreeMap::new(),
            orders: BTreeMap::new(),
            stocked: BTreeMap::new(),
            ended: Vec::new(),
            trace: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        let skus = [format!("{seed}-a"), format!("{seed}-b")];
        for sku in &skus {
            let quantity = rng.random_range(0..6);
            simulation.stocked.insert(sku.clone(), quantity);
            if quantity > 0 {
                simulation.actions.push(Action::Stock(sku.clone(), quantity));
            }
        }
        for number in 0..rng.random_range(1..=3) {
            let id = format!("{seed}-{number}");
            simulation.actions.push(Action::Order(id.clone()));
            for _ in 0..*[0, 0, 1, 2].choose(&mut rng).unwrap_or(&1) {
                simulation.actions.push(Action::Cancel(id.clone()));
            }
            let items: BTreeMap<String, u64> = skus
                .iter()
                .map(|sku| (sku.clone(), rng.random_range(0..3)))
                .filter(|one| one.1 > 0)
                .collect();
            let total = rng.random_range(1..100);
            let lines: Vec<Value> = items
                .iter()
                .map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity }))
                .collect();
            let decline = rng.random_ratio(1, 10);
            let body =
                json!({ "order_id": id, "items": lines, "total": total, "decline": decline });
            simulation
                .orders
                .insert(id, Ordered { total, items, body, cancelled: false, refused: false });
        }
        simulation.rng = rng;
        simulation
    }

    fn fault(&mut self, one_in: u32) -> bool {
        let faulty = self.faults > 0 && self.rng.random_ratio(1, one_in);
        self.faults -= u32::from(faulty);
        faulty
    }

    /// Puts the messages of an outbox row into the bag.
    fn take(&mut self, fixture: &Fixture, row: &OutboxRow) {
        let reached = match &row.direct {
            Some(direct) => vec![(Arc::clone(&direct.stage), direct.round, direct.attempt)],
            None => fixture
                .stages_for(&row.envelope.event.event_type)
                .into_iter()
                .map(|stage| (stage, 1, 1))
                .collect(),
        };
        for (name, round, attempt) in reached {
            let Some(stage) = fixture.stages.iter().position(|stage| stage.policy.name == name)
            else {
                continue;
            };
            self.bag.push(Message {
                stage,
                envelope: Arc::clone(&row.envelope),
                round,
                attempt,
                subject_cancelled: false,
            });
        }
        if row.envelope.event.event_type == "shipping.ready"
            && row.direct.is_none()
            && self.rng.random_bool(0.6)
        {
            self.actions.push(Action::Collect(row.envelope.event.subject.clone()));
        }
    }

    /// Draws a message from the bag. A fault leaves a duplicate behind, or loses the message.
    fn draw(&mut self, at: usize) -> Option<Message> {
        if self.fault(25) {
            self.trace.push(format!("a copy of {}", self.bag[at].envelope.event.event_type));
            return Some(self.bag[at].clone());
        }
        let message = self.bag.swap_remove(at);
        if self.fault(40) {
            self.trace.push(format!("lost: {}", message.envelope.event.event_type));
            return None;
        }
        Some(message)
    }

    /// The next steps, with everything they have read.
    async fn steps(&mut self, fixture: &Fixture) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for _ in 0..self.rng.random_range(1..=3) {
            let choices = self.actions.len() + self.bag.len();
            if choices == 0 {
                break;
            }
            let chosen = self.rng.random_range(0..choices);
            if chosen < self.actions.len() {
                steps.push(Step::Client(self.actions.swap_remove(chosen)));
                continue;
            }
            let mut at = Some(chosen - self.actions.len());
            let stage = self.bag[chosen - self.actions.len()].stage;
            let (most, mut work) = (self.rng.random_range(1..=BATCH_MAX), Vec::<Message>::new());
            while let Some(next) = at.filter(|_| work.len() < most) {
                // A lane merges duplicates: each delivery is in a batch once.
                let same =
                    |one: &Message, other: &Message| one.envelope.key() == other.envelope.key();
                work.extend(
                    self.draw(next).filter(|drawn| !work.iter().any(|one| same(one, drawn))),
                );
                at = self.bag.iter().position(|one| {
                    one.stage == stage && !work.iter().any(|drawn| same(one, drawn))
                });
            }
            if !work.is_empty() {
                let lane = (stage, self.rng.random());
                steps.push(self.run(fixture, lane, work).await?);
            }
        }
        Ok(steps)
    }

    /// Runs messages one after another as a lane does.
    async fn run(
        &mut self,
        fixture: &Fixture,
        lane: (usize, bool),
        work: Vec<Message>,
    ) -> Result<Step> {
        let stage = &fixture.stages[lane.0];
        let entries = NonZeroUsize::new(100).expect("not zero");
        let cache = self.caches.remove(&lane).unwrap_or_else(|| LaneCache::new(entries));
        let limits = fixture.config.defaults.limits.state_limits();
        let state = |cache| {
            BatchState::new(
                Arc::clone(&stage.policy.name),
                Arc::clone(&fixture.store) as Arc<dyn StateSource>,
                limits,
                cache,
            )
        };
        // A stage's reads must hit the lane's cache: simulations share a thread, which a native
        // stage would block.
        let warm = state(cache);
        if &*stage.policy.name == "inventory" {
            for sku in self.stocked.keys() {
                warm.view().get(&format!("stock/{sku}")).await?;
            }
        }
        let state = state(warm.finish().2);
        let subjects: BTreeSet<SubjectKey> =
            work.iter().filter_map(|message| message.envelope.subject_key.clone()).collect();
        state.prefetch(&subjects).await?;
        let mut settlements = Vec::new();
        for message in &work {
            settlements.push(self.run_one(fixture, stage, message, &state).await);
        }
        // Some events are handed over, without a message that a broker could send again.
        for settlement in &mut settlements {
            if let Verdict::Done(events) = &mut settlement.verdict {
                for event in events {
                    event.hand_over = self.rng.random_ratio(1, 2);
                }
            }
        }
        let (reads, writes, cache) = state.finish();
        let (reads, writes) = (reads.into_iter().collect(), writes.into_iter().collect());
        let batch = Batch { stage: Arc::clone(&stage.policy.name), settlements, reads, writes };
        Ok(Step::Lane { lane, work, batch, cache })
    }

    async fn run_one(
        &mut self,
        fixture: &Fixture,
        stage: &Stage,
        message: &Message,
        state: &Arc<BatchState>,
    ) -> Settlement {
        let delivery =
            DeliveryKey { stage: Arc::clone(&stage.policy.name), event: message.envelope.key() };
        let (round, number, envelope) = (message.round, message.attempt, &message.envelope);
        let digest = stage.handler.digest().into();
        let mut attempt = Attempt::new(delivery, round, number, digest);
        (attempt.host, attempt.duration_us) = (Some("here".into()), 1);
        let random = self.rng.random();
        let (mut progress, mut writes) = (Progress::NotCalled, None);
        let ruling = loop {
            let decision = decide(DecisionInputs {
                policy: &stage.policy,
                routes: fixture,
                envelope,
                attempt: &attempt,
                subject_cancelled: message.subject_cancelled,
                chain: ChainStatus::default(),
                expires_at_ms: envelope.expires_at_ms,
                progress,
                now_ms: fixture.clock.now_ms(),
                random,
            });
            match decision {
                Decision::Settle(ruling) => break ruling,
                Decision::Call => {
                    let handled = stage.handler.handle(call(fixture, stage, message, state)).await;
                    let outcome = self.sabotage_outcome(handled.outcome);
                    progress = Progress::Called { outcome, uncounted: false };
                    writes = Some(handled.writes);
                }
            }
        };
        if let (Verdict::Done(_), Some(writes)) = (ruling.verdict(), writes) {
            state.merge(writes);
        }
        let (name, kind, subject) =
            (&stage.policy.name, &envelope.event.event_type, &envelope.event.subject);
        self.trace.push(format!(
            "{name} {kind} {subject} round {round} attempt {number}: {}",
            short(ruling.verdict())
        ));
        ruling.into_settlement(attempt, Arc::clone(envelope), "1".to_owned(), None)
    }

    /// Replaces an outcome with a failure now and then.
    fn sabotage_outcome(&mut self, outcome: Outcome) -> Outcome {
        if !self.fault(12) {
            return outcome;
        }
        match self.rng.random_range(0..4) {
            0 => Outcome::Failed(Failure::reject("x", "x")),
            1 => Outcome::Unavailable("x".into()),
            2 => Outcome::Trapped {
                kind: "unreachable".into(),
                message: "x".into(),
                backtrace: None,
            },
            _ => Outcome::Failed(Failure::retry("x", "x")),
        }
    }

    /// Applies the result of a step.
    fn learn(&mut self, fixture: &Fixture, (answer, rows): (Answer, Vec<OutboxRow>)) {
        match answer {
            Answer::Told => {}
            Answer::Unavailable { action, work } => {
                self.trace.push("the store was unavailable".to_owned());
                self.actions.extend(action);
                self.bag.extend(work);
            }
            Answer::Cancelled(id, cancelled) => {
                self.trace.push(format!(
                    "cancel of {id}: {}",
                    format!("{cancelled:?}").split(['(', ' ']).next().unwrap_or_default()
                ));
                let order = self.orders.get_mut(&id).expect("an order of this world");
                match cancelled {
                    Cancelled::Begun(_) | Cancelled::Already(_) => order.cancelled = true,
                    Cancelled::Refused(_) => order.refused = true,
                    // The cancel precedes its order.
                    Cancelled::NotFound => self.actions.push(Action::Cancel(id)),
                }
            }
            Answer::Committed { lane, mut work, batch, mut cache, commit } => {
                let mut kept = true;
                match commit {
                    Commit::Done { versions, .. } => {
                        let written = batch.writes.into_iter().zip(versions);
                        cache.store(written.map(|((key, value), version)| (key, value, version)));
                        work.clear();
                    }
                    Commit::Conflict { stale, conflicts } => {
                        self.trace.push(format!(
                            "again: {} stale, {} conflicts",
                            stale.len(),
                            conflicts.len()
                        ));
                        cache.remove(&conflicts);
                        work.retain(|message| {
                            !stale.iter().any(|key| {
                                key.delivery.event == message.envelope.key()
                                    && (key.round, key.attempt) == (message.round, message.attempt)
                            })
                        });
                        kept = !conflicts.is_empty() || !stale.is_empty();
                    }
                    Commit::SubjectCancelled(keys) => {
                        self.trace.push(format!("cancelled: {}", keys.len()));
                        for message in &mut work {
                            message.subject_cancelled |=
                                keys.iter().any(|key| key.event == message.envelope.key());
                        }
                    }
                }
                self.bag.extend(work);
                if kept {
                    self.caches.insert(lane, cache);
                }
            }
        }
        for row in &rows {
            // The host that took the event over may stop.
            if row.id.is_some() || !self.fault(40) {
                self.take(fixture, row);
            }
        }
    }
}

fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Done(events) => events
            .iter()
            .map(|event| event.envelope.event.event_type.as_str())
            .collect::<Vec<_>>()
            .join(", "),
        Verdict::Retry { .. } => "retry".into(),
        Verdict::Dead { .. } => "dead".into(),
        Verdict::Skipped => "skipped".into(),
        Verdict::Deferred { .. } => "deferred".into(),
    }
}

fn call(fixture: &Fixture, stage: &Stage, message: &Message, state: &Arc<BatchState>) -> Call {
    let delivery =
        DeliveryKey { stage: Arc::clone(&stage.policy.name), event: message.envelope.key() };
    let mut context = CallContext::new(&delivery, message.attempt, fixture.clock.now_ms());
    context.settings = Arc::clone(&stage.settings);
    Call { envelope: Arc::clone(&message.envelope), context, state: state.view() }
}

/// An event as the API builds it from a client's request.
fn event(
    fixture: &Fixture,
    event_type: &str,
    id: &str,
    (subject, order): (&str, Option<&str>),
    data: &Value,
) -> NewEvent {
    let now_ms = fixture.clock.now_ms();
    let event = Event {
        id: format!("{event_type}-{id}"),
        event_type: event_type.to_owned(),
        source: "/orders/api".to_owned(),
        subject: subject.to_owned(),
        time_ms: now_ms,
        content_type: "application/json".to_owned(),
        data: data.to_string().into(),
        attributes: Vec::new(),
    };
    let envelope = Envelope::first(event, order.map(key), now_ms + fixture.config.events.expiry_ms);
    NewEvent::new(envelope, now_ms, fixture.stages_for(event_type))
}

/// The key of an order.
pub(super) fn key(id: &str) -> SubjectKey {
    format!("order/{id}").parse().expect("a valid id")
}

type Committed = Result<(Answer, Vec<OutboxRow>), StoreError>;

/// Commits a step to the store, or repeats it later, as clients and lanes do.
async fn commit(fixture: &Fixture, orders: &BTreeMap<String, Ordered>, step: Step) -> Committed {
    let again = match &step {
        Step::Client(action) => {
            Answer::Unavailable { action: Some(action.clone()), work: Vec::new() }
        }
        Step::Lane { work, .. } => Answer::Unavailable { action: None, work: work.clone() },
    };
    match apply(fixture, orders, step).await {
        Err(StoreError::Unavailable(_)) => Ok((again, Vec::new())),
        committed => committed,
    }
}

fn apply<'a>(
    fixture: &'a Fixture,
    orders: &'a BTreeMap<String, Ordered>,
    step: Step,
) -> BoxFuture<'a, Committed> {
    let store = &fixture.store;
    async move {
        Ok(match step {
            Step::Client(Action::Order(id)) => {
                let body = orders[&id].body.clone();
                let created = event(fixture, "order.created", &id, (&id, Some(&id)), &body);
                let (fingerprint, status) = (id.clone(), "received".to_owned());
                let order = NewSubject {
                    key: key(&id),
                    customer: None,
                    body,
                    fingerprint,
                    status,
                    idempotency_key: None,
                    owner: None,
                    event: created,
                };
                let (_, rows) = store.accept_subject(order).await?;
                (Answer::Told, rows)
            }
            Step::Client(Action::Stock(sku, quantity)) => {
                let data = json!({ "sku": sku, "quantity": quantity });
                let (_, rows) = store
                    .accept_event(event(fixture, PRODUCT_STOCKED, &sku, (&sku, None), &data))
                    .await?;
                (Answer::Told, rows)
            }
            Step::Client(Action::Collect(id)) => {
                let (_, rows) = store
                    .accept_event(event(
                        fixture,
                        "carrier.collected",
                        &id,
                        (&id, Some(&id)),
                        &json!({}),
                    ))
                    .await?;
                (Answer::Told, rows)
            }
            Step::Client(Action::Cancel(id)) => {
                let cancelled = event(
                    fixture,
                    "order.cancelled",
                    &id,
                    (&id, Some(&id)),
                    &json!({ "reason": null }),
                );
                let (cancelled, rows) = store
                    .cancel_subject(NewCancel {
                        subject_key: key(&id),
                        event: cancelled,
                        reason: None,
                        actor: Actor::new("key", "key/ada"),
                    })
                    .await?;
                (Answer::Cancelled(id, cancelled), rows)
            }
            Step::Lane { lane, work, batch, cache } => {
                let commit = store.commit(batch.clone()).await?;
                let rows = if let Commit::Done { outbox, .. } = &commit {
                    outbox.clone()
                } else {
                    Vec::new()
                };
                (Answer::Committed { lane, work, batch, cache, commit }, rows)
            }
        })
    }
    .boxed()
}

/// One round: every simulation takes its next steps, all of them commit concurrently, and the
/// relay sends the new outbox rows. Returns false when every simulation is idle.
pub(super) async fn round(fixture: &Fixture, simulations: &mut [Simulation]) -> Result<bool> {
    fixture.clock.advance(50);
    let steps: Vec<Vec<Step>> =
        join_all(simulations.iter_mut().map(|simulation| simulation.steps(fixture)))
            .await
            .into_iter()
            .collect::<Result<_>>()?;
    let busy = steps.iter().any(|steps| !steps.is_empty())
        || simulations.iter().any(|simulation| !simulation.bag.is_empty());
    let orders: Vec<&BTreeMap<String, Ordered>> =
        simulations.iter().map(|simulation| &simulation.orders).collect();
    let commits = steps.into_iter().zip(&orders).map(|(steps, orders)| {
        join_all(steps.into_iter().map(|step| commit(fixture, orders, step)))
    });
    let answers: Vec<Vec<Committed>> = join_all(commits).await;
    let mut sent = Vec::new();
    for (simulation, answers) in simulations.iter_mut().zip(answers) {
        for answer in answers {
            let (answer, rows) = answer?;
            // A row whose confirm was lost is sent again when its lease expires.
            sent.extend(rows.iter().filter(|_| !simulation.fault(40)).filter_map(|row| row.id));
            simulation.learn(fixture, (answer, rows));
        }
    }
    claim(fixture, simulations, &mut sent).await?;
    fixture.store.outbox_sent(sent).await?;
    Ok(busy)
}

/// Sends the outbox rows that are due.
async fn claim(
    fixture: &Fixture,
    simulations: &mut [Simulation],
    sent: &mut Vec<i64>,
) -> Result<bool> {
    let rows = fixture.store.claim_outbox(10_000, u64::MAX).await?;
    for row in &rows {
        hand_to(fixture, simulations, row)?;
        sent.extend(row.id);
    }
    Ok(!rows.is_empty())
}

fn hand_to(fixture: &Fixture, simulations: &mut [Simulation], row: &OutboxRow) -> Result<()> {
    // Every subject begins with the seed of its simulation, and seeds are consecutive.
    let subject = &row.envelope.event.subject;
    let seed: u64 = subject
        .split('-')
        .next()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("an event about `{subject}`"))?;
    let at = (seed - simulations[0].seed) as usize;
    simulations[at].take(fixture, row);
    Ok(())
}

/// Runs when every simulation is idle: advances the clock to the next due row, redelivers lost
/// messages, replays dead letters. Returns false when there was nothing to do.
pub(super) async fn wake(fixture: &Fixture, simulations: &mut [Simulation]) -> Result<bool> {
    fixture.clock.advance(LEASE_MS + 1);
    let mut sent = Vec::new();
    let mut woken = claim(fixture, simulations, &mut sent).await?;
    for stage in &fixture.stages {
        let lost = LostDeliveries {
            queued_before_ms: fixture.clock.now_ms(),
            min_age_ms: 0,
            limit: 10_000,
            max_bytes: u64::MAX,
        };
        for row in fixture.store.requeue_lost(&stage.policy.name, lost).await? {
            hand_to(fixture, simulations, &row)?;
            sent.extend(row.id);
            woken = true;
        }
    }
    let open = DeadLetterFilter {
        status: Some(DeadLetterStatus::Open),
        limit: 1_000,
        ..DeadLetterFilter::default()
    };
    for dead_letter in fixture.store.dead_letters(open).await?.items {
        let expires_at_ms = fixture.clock.now_ms() + fixture.config.events.expiry_ms;
        let DeadLetterAction::Done(rows) = fixture
            .store
            .replay(dead_letter.id, expires_at_ms, &Actor::new("key", "key/ada"))
            .await?
        else {
            continue;
        };
        for row in &rows {
            hand_to(fixture, simulations, row)?;
            sent.extend(row.id);
        }
        woken = true;
    }
    fixture.store.outbox_sent(sent).await?;
    Ok(woken)
}
