//! The order saga under generated schedules. Orders, stock, cancels and the carrier act at random
//! moments, over the host's own decision function, the shipped stages in both shipped orders, and
//! both stores.
//! Messages are duplicated, lost, delayed and reordered; attempts fail; hosts lose their memory.
//!
//! Each case is one simulation whose orders share products, and is determined by its seed:
//! `POSTRIDER_SAGA_SEED` runs one alone and prints its trace. `POSTRIDER_SAGA_CASES` sets the
//! number of cases for each order of stages (default 5,000 on the embedded store, 500 on Postgres).
//! Bounds: faults per simulation, rounds per batch.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use postrider::internals::{DeliveryStatus, SubjectCursor};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use self::fixture::{Fixture, Sabotage, StageOrder};
use self::simulation::{Simulation, key};
use crate::support::harness::Backend;

mod fixture;
mod simulation;

/// Simulations that share one store.
const SIMULATIONS_PER_BATCH: u64 = 500;
/// A fault must be detected within this many simulations.
const SABOTAGED: u64 = 200;
/// Batches that run concurrently, each on its own store.
const CONCURRENT_BATCHES: usize = 2;
/// A batch of simulations must be idle after this many rounds.
const ROUNDS_MAX: u32 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_and_stock_balance_under_any_interleaving() -> Result<()> {
    simulate(Backend::Embedded, StageOrder::PaymentFirst).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_and_stock_balance_when_inventory_is_first() -> Result<()> {
    simulate(Backend::Embedded, StageOrder::InventoryFirst).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_and_stock_balance_on_postgres() -> Result<()> {
    simulate(Backend::Servers, StageOrder::PaymentFirst).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_and_stock_balance_when_inventory_is_first_on_postgres() -> Result<()> {
    simulate(Backend::Servers, StageOrder::InventoryFirst).await
}

async fn simulate(backend: Backend, order: StageOrder) -> Result<()> {
    if let Some(seed) = number("POSTRIDER_SAGA_SEED") {
        return batch(backend, order, seed..seed + 1, Sabotage::None)
            .await
            .map(|simulations| println!("{:#?}", simulations[0].trace));
    }
    let default = if backend == Backend::Embedded { 5_000 } else { 500 };
    let cases = number("POSTRIDER_SAGA_CASES").unwrap_or(default);
    let began = Instant::now();
    let first = u64::from(rand::random::<u32>());
    let per_batch = SIMULATIONS_PER_BATCH.min(cases.div_ceil(CONCURRENT_BATCHES as u64));
    let mut starts = (first..first + cases).step_by(per_batch as usize);
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut batches = JoinSet::new();
    loop {
        let next = starts.by_ref().take(CONCURRENT_BATCHES - batches.len());
        for start in next {
            let seeds = start..(start + per_batch).min(first + cases);
            // Simulations borrow from their batch, so a batch stays on one thread.
            batches.spawn_blocking(move || {
                Handle::current().block_on(batch(backend, order, seeds, Sabotage::None))
            });
        }
        let Some(done) = batches.join_next().await else { break };
        for status in done??.into_iter().flat_map(|simulation| simulation.ended) {
            *statuses.entry(status).or_default() += 1;
        }
    }
    println!(
        "{backend:?}, {order:?}: {cases} cases in {:.1} s, from seed {first}; orders ended as \
         {statuses:?}",
        began.elapsed().as_secs_f64()
    );
    for status in order.unfulfilled().iter().chain(&["ready", "dispatched"]) {
        ensure!(statuses.contains_key(*status), "no schedule led to `{status}`: {statuses:?}");
    }
    Ok(())
}

/// The checks detect a missing or repeated compensation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_compensation_is_detected() -> Result<()> {
    use StageOrder::{InventoryFirst, PaymentFirst};
    for (order, sabotage, expected) in [
        (PaymentFirst, Sabotage::InventoryKeepsStock, "stock of"),
        (PaymentFirst, Sabotage::PaymentKeepsMoney, "money:"),
        (PaymentFirst, Sabotage::ShippingRecallsTwice, "twice"),
        (InventoryFirst, Sabotage::InventoryKeepsStock, "stock of"),
        (InventoryFirst, Sabotage::InventoryKeepsDeclined, "stock of"),
        (InventoryFirst, Sabotage::PaymentKeepsMoney, "money:"),
    ] {
        let found = batch(Backend::Embedded, order, 0..SABOTAGED, sabotage).await;
        let found = found.err().map(|error| format!("{error:#}"));
        let found = found
            .ok_or_else(|| anyhow::anyhow!("{sabotage:?} was not found in {SABOTAGED} cases"))?;
        ensure!(found.contains(expected), "{sabotage:?} was found as: {found}");
        println!("{sabotage:?}: {}", found.lines().next().unwrap_or_default());
    }
    Ok(())
}

/// Runs simulations concurrently until all are idle, and checks each.
async fn batch(
    backend: Backend,
    order: StageOrder,
    seeds: std::ops::Range<u64>,
    sabotage: Sabotage,
) -> Result<Vec<Simulation>> {
    let fixture = Fixture::open(backend, order, sabotage).await?;
    let mut simulations: Vec<Simulation> = seeds.map(Simulation::new).collect();
    for round in 0.. {
        ensure!(round < ROUNDS_MAX, "some worlds never come to rest");
        let busy = simulation::round(&fixture, &mut simulations).await?;
        if !busy && !simulation::wake(&fixture, &mut simulations).await? {
            break;
        }
    }
    for (checked, simulation) in simulations.iter_mut().enumerate() {
        if let Err(error) = check(&fixture, simulation).await {
            let (seed, trace) = (simulation.seed, simulation.trace.join("\n  "));
            bail!(
                "case {} of a batch (POSTRIDER_SAGA_SEED={seed}): {error:#}\n  {trace}",
                checked + 1
            );
        }
    }
    fixture.store.close().await;
    Ok(simulations)
}

/// The final state of an order.
struct Ended {
    status: String,
    events: BTreeMap<String, Vec<Value>>,
}

async fn ended(fixture: &Fixture, id: &str) -> Result<Ended> {
    let order = fixture
        .store
        .subject(&key(id))
        .await?
        .ok_or_else(|| anyhow::anyhow!("order {id} is lost"))?;
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for logged in fixture
        .store
        .events_of_subjects(&[SubjectCursor { subject: key(id), after: 0 }], 1_000)
        .await?
    {
        let event = logged.envelope.event;
        events.entry(event.event_type).or_default().push(serde_json::from_slice(&event.data)?);
    }
    let deliveries = fixture.store.subject_deliveries(&key(id), 0, 200).await?.items;
    let left = deliveries
        .iter()
        .find(|one| matches!(one.status, DeliveryStatus::Open | DeliveryStatus::Dead));
    ensure!(left.is_none(), "order {id}: left to do: {left:?}");
    Ok(Ended { status: order.status, events })
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
async fn check(fixture: &Fixture, simulation: &mut Simulation) -> Result<()> {
    let (mut money, mut owed) = (0, 0);
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    for (id, order) in &simulation.orders {
        let Ended { status, events } = ended(fixture, id).await?;
        let count = |event_type: &str| events.get(event_type).map_or(0, Vec::len);
        let sum = |event_type: &str, place: &str| -> i64 {
            let amounts = events
                .get(event_type)
                .into_iter()
                .flatten()
                .filter_map(|data| data.pointer(place)?.as_f64());
            amounts.map(|amount| amount as i64).sum()
        };
        let fulfilled = match status.as_str() {
            "ready" | "dispatched" => true,
            status if fixture.order.unfulfilled().contains(&status) => false,
            other => bail!("order {id} stopped in status `{other}`"),
        };
        ensure!(
            order.cancelled == (status == "cancelled"),
            "order {id} is `{status}`; its cancel was accepted: {}",
            order.cancelled
        );
        // A rejected order whose refund was dead-lettered can still be cancelled.
        ensure!(
            !order.refused || status != "ready",
            "order {id} is `{status}`; its cancel was refused"
        );
        ensure!(
            (count("shipping.dispatched") == 1) == (status == "dispatched"),
            "order {id} is `{status}`: {events:?}"
        );
        let twice = events.iter().find(|(event_type, all)| {
            *event_type != "notification.sent"
                && !event_type.starts_with("postrider.")
                && all.len() > 1
        });
        ensure!(twice.is_none(), "order {id}: twice: {twice:?}");
        let notices = events
            .get("notification.sent")
            .into_iter()
            .flatten()
            .filter(|data| data["kind"] == "cancellation")
            .count();
        ensure!(
            notices == usize::from(order.cancelled),
            "order {id} is `{status}`: {notices} cancellation notices"
        );
        money += sum("payment.authorized", "/payment/amount") - sum("payment.refunded", "/amount");
        if fulfilled {
            owed += order.total;
            for (sku, quantity) in &order.items {
                *taken.entry(sku.clone()).or_default() += quantity;
            }
        }
        simulation.ended.push(status);
    }
    ensure!(money == owed, "money: {money} was taken and kept, {owed} is owed");
    for (sku, stocked) in &simulation.stocked {
        let row = fixture.store.state_get("inventory", &format!("stock/{sku}")).await?;
        let left = match row.and_then(|row| row.value) {
            Some(value) => {
                serde_json::from_slice::<Value>(&value)?["available"].as_u64().unwrap_or_default()
            }
            None => 0,
        };
        let out = taken.get(sku).copied().unwrap_or_default();
        ensure!(
            *stocked == out + left,
            "stock of {sku}: {stocked} came in, {out} went out, {left} is left"
        );
    }
    Ok(())
}
