//! Several hosts in one process, each with its own configuration.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use postrider::{Host, ManualClock, Submitted};

use super::{approving, order};
use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![hosts_in_one_process_are_independent];

/// 2096: no host's own clock shows it.
const LATER_MS: u64 = 4_000_000_000_000;

async fn hosts_in_one_process_are_independent(backend: Backend) -> Result<()> {
    // In the first one the stage consumes something else; the second has a clock of its own.
    let other = "[stages.approve]\nconsumes = [\"order.checked\"]\n";
    let one = TestEnv::empty_on(backend, other).await?;
    let two = TestEnv::empty_on(backend, "").await?;
    let clock = Arc::new(ManualClock::at(LATER_MS));
    let first = approving(Host::builder().config(one.config()?)).build().await?.start()?;
    let builder = approving(Host::builder().config(two.config()?)).clock(clock);
    let second = builder.build().await?.start()?;
    for (host, is_later) in [(&first, false), (&second, true)] {
        let Submitted::New(order) = host.submit("order", order("1")).await? else {
            anyhow::bail!("an order of one host is known to the other");
        };
        let by_its_clock = order.created_at_ms >= LATER_MS;
        // On Postgres an order is dated by the database's clock.
        assert!(backend == Backend::Servers || by_its_clock == is_later, "{order:?}");
    }
    let app = second.app();
    eventually("the second host to approve", || async {
        Ok((app.status(&"order/1".parse()?).await?.as_deref() == Some("authorized")).then_some(()))
    })
    .await?;
    let patterns = |host: &postrider::HostHandle| host.app().plugins()[0].consumes.clone();
    assert_eq!(patterns(&first), ["order.checked"]);
    assert_eq!(patterns(&second), ["order.created"]);
    // One stops, the other keeps running.
    second.shutdown().await?;
    let app = first.app();
    assert_eq!(app.status(&"order/1".parse()?).await?.as_deref(), Some("received"));
    assert!(app.readiness().await.ready);
    let late = first.submit("order", order("2")).await?.into_subject();
    let history = app.history(&late.key, 0, 10).await?.context("no such order")?;
    assert_eq!(history.deliveries.len(), 0, "its stage does not consume orders");
    Ok(first.shutdown().await?)
}
