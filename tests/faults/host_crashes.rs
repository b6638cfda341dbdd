//! Hosts that are killed (`kill -9`), suspended (`SIGSTOP`) and whose clocks jump, at random times
//! under load: every accepted order reaches exactly one terminal status, and every effect happens
//! once.
//!
//! On Postgres and RabbitMQ two hosts share the work. Stages have three lanes, and deliveries are
//! recorded. `POSTRIDER_CRASHES` sets how many kills (default 6; the acceptance run uses 300). For
//! every three kills there is one pause, and one clock jump of an hour to a day.

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;

use crate::support::harness::{Backend, Client, TestEnv, on_both_back_ends};
use crate::support::load::{AMPLE_STOCK, Load, assert_every_effect_happened_once};
use crate::support::process::{HostProcess, unused_port};
use crate::support::shifted_clock::ShiftedClock;

on_both_back_ends![kills_pauses_and_clock_jumps_lose_and_duplicate_nothing];

pub(crate) fn crash_count() -> u32 {
    std::env::var("POSTRIDER_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

/// Kills for each pause, and for each clock jump.
const KILLS_PER_PAUSE: u32 = 3;
const HOUR_S: u64 = 60 * 60;
/// Longer than the deadline of a call, and than the poll of any task.
const PAUSE: Duration = Duration::from_millis(1_500);
/// Orders that one sender posts a second, at most.
const SENDER_PAUSE: Duration = Duration::from_millis(5);

/// A host that is started again after each kill.
struct Victim<'a> {
    env: &'a TestEnv,
    clock: ShiftedClock,
    port: u16,
    client: Client,
    process: HostProcess,
}

impl<'a> Victim<'a> {
    async fn start(env: &'a TestEnv, number: usize) -> Result<Self> {
        let folder = env.folder.path().join(format!("host-{number}"));
        std::fs::create_dir(&folder)?;
        let clock = ShiftedClock::create(&folder)?;
        let port = unused_port()?;
        let client = Client::new(format!("http://127.0.0.1:{port}"));
        let process = HostProcess::start_with(env, port, None, &clock.environment()?)?;
        process.wait_until_ready(&client, env).await?;
        Ok(Self { env, clock, port, client, process })
    }

    async fn kill_and_restart(self) -> Result<Self> {
        let Self { env, clock, port, client, process } = self;
        process.kill()?;
        let process = HostProcess::start_with(env, port, None, &clock.environment()?)?;
        process.wait_until_ready(&client, env).await?;
        Ok(Self { env, clock, port, client, process })
    }

    /// Sets the clock ahead or back by an hour, a day, or something in between.
    fn jump_clock(&self) -> Result<()> {
        let mut rng = rand::rng();
        let by = Duration::from_secs(rng.random_range(HOUR_S..=24 * HOUR_S));
        if rng.random() { self.clock.set_ahead(by) } else { self.clock.set_back(by) }
    }
}

async fn kills_pauses_and_clock_jumps_lose_and_duplicate_nothing(backend: Backend) -> Result<()> {
    let lanes = ["payment", "inventory", "shipping", "notification"]
        .map(|stage| format!("[stages.{stage}]\nlanes = 3\n"))
        .concat();
    // Clocks that differ by two days must not make an event expire.
    let expiry_ms = Duration::from_hours(4 * 24).as_millis();
    let toml = format!(
        "events.expiry_ms = {expiry_ms}\n[recording]\nenabled = true\n{AMPLE_STOCK}{lanes}"
    );
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let hosts = if backend == Backend::Servers { 2 } else { 1 };
    let mut victims = Vec::new();
    for number in 0..hosts {
        victims.push(Victim::start(&env, number).await?);
    }
    let clients: Vec<Client> = victims.iter().map(|victim| victim.client.clone()).collect();
    let load = Load::start(&clients, 8, SENDER_PAUSE);
    for kill in 1..=crash_count() {
        load.wait_for_accepted(rand::rng().random_range(1..200)).await?;
        let picked = rand::rng().random_range(0..victims.len());
        let victim = victims.swap_remove(picked);
        victims.push(victim.kill_and_restart().await?);
        if kill % KILLS_PER_PAUSE == 0 {
            let victim = &victims[rand::rng().random_range(0..victims.len())];
            victim.process.suspend_for(PAUSE).await?;
            let victim = &victims[rand::rng().random_range(0..victims.len())];
            victim.jump_clock()?;
        }
    }
    let accepted = load.stop().await?;
    // A call that was suspended has timed out, which is an attempt.
    let orders = assert_every_effect_happened_once(&env, &victims[0].client, &accepted).await?;
    println!(
        "{backend:?}: {} kills, {orders} orders, nothing lost, nothing doubled",
        crash_count()
    );
    for victim in victims {
        victim.process.kill()?;
    }
    Ok(())
}
