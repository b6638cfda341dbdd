//! `kill -9` at random times under load: every accepted order reaches exactly one terminal status,
//! and every effect happens once.
//!
//! `POSTRIDER_CRASHES` sets how many kills (default 6; the acceptance run uses 50).

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;

use crate::support::harness::{Backend, Client, TestEnv, on_both_back_ends};
use crate::support::load::{AMPLE_STOCK, Load, assert_nothing_lost_or_duplicated};
use crate::support::process::{HostProcess, unused_port};

on_both_back_ends![kill_nine_loses_and_duplicates_nothing];

pub(crate) fn crash_count() -> u32 {
    std::env::var("POSTRIDER_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

async fn kill_nine_loses_and_duplicates_nothing(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let port = unused_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let mut process = HostProcess::start(&env, port, None)?;
    process.wait_until_ready(&client, &env).await?;
    let load = Load::start(std::slice::from_ref(&client), 8, Duration::ZERO);
    for _ in 0..crash_count() {
        load.wait_for_accepted(rand::rng().random_range(1..200)).await?;
        process.kill()?;
        process = HostProcess::start(&env, port, None)?;
        process.wait_until_ready(&client, &env).await?;
    }
    let accepted = load.stop().await?;
    let orders = assert_nothing_lost_or_duplicated(&env, &client, &accepted).await?;
    println!(
        "{backend:?}: {} kills, {orders} orders, nothing lost, nothing doubled",
        crash_count()
    );
    process.kill()
}
