//! `kill -9` at random moments under load: every accepted order ends in exactly one final status,
//! every effect once.
//!
//! `POSTRIDER_CRASHES` sets how many kills (default 6; the acceptance run uses 50).

use std::time::Duration;

use anyhow::Result;
use rand::RngExt as _;

use crate::support::harness::{Backend, Client, Site, on_both_back_ends};
use crate::support::load::{Load, PLENTY, nothing_lost_nothing_doubled};
use crate::support::process::{Process, free_port};

on_both_back_ends![kill_nine_loses_nothing_and_doubles_nothing];

pub(crate) fn crashes() -> u32 {
    std::env::var("POSTRIDER_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(6)
}

async fn kill_nine_loses_nothing_and_doubles_nothing(backend: Backend) -> Result<()> {
    let site = Site::shipped_on(backend, PLENTY).await?;
    let port = free_port()?;
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let mut process = Process::start(&site, port, None)?;
    process.ready(&client, &site).await?;
    let load = Load::start(std::slice::from_ref(&client), 8, Duration::ZERO);
    for _ in 0..crashes() {
        load.flows(rand::rng().random_range(1..200)).await?;
        process.kill()?;
        process = Process::start(&site, port, None)?;
        process.ready(&client, &site).await?;
    }
    let accepted = load.stop().await?;
    let orders = nothing_lost_nothing_doubled(&site, &client, &accepted).await?;
    println!("{backend:?}: {} kills, {orders} orders, nothing lost, nothing doubled", crashes());
    process.kill()
}
