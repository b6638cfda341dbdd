//! The memory of guests that are written with the Rust SDK: a call for an ordinary order needs only
//! what an instance begins with, because growing it is the most expensive part of a short call, and
//! calls of a warm instance leave nothing behind.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use wasmparser::{Parser, Payload};

use crate::support::harness::guest;
use crate::support::process::postrider;

/// What a module declares for its memory.
fn declared_bytes(module: &[u8]) -> Result<u64> {
    let mut bytes = 0;
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::MemorySection(memories) = payload? {
            for memory in memories {
                bytes += memory?.initial * (64 << 10);
            }
        }
    }
    Ok(bytes)
}

/// The memory that calls of a stage needed: their most, and what its module declares.
async fn memory_of(stage: &str, event: &Value, more: &[&str]) -> Result<(u64, u64)> {
    let folder = tempfile::tempdir()?;
    let case = folder.path().join("event.json");
    std::fs::write(&case, event.to_string())?;
    let (file, case) = (guest(stage)?, case.to_string_lossy().into_owned());
    let mut args = vec!["--json", "plugin", "run", file.to_str().context("a path")?];
    args.extend(["--event", &case, "--setting", "default_stock=1000000"]);
    args.extend(more);
    let (code, said, errors) = postrider(&args).await?;
    ensure!(code == 0, "{stage}: {said} {errors}");
    let report: Value = serde_json::from_str(&said)?;
    let used = report["cost"]["memory_bytes"].as_u64().context("its memory")?;
    Ok((used, declared_bytes(&std::fs::read(&file)?)?))
}

/// An order with so many items.
fn order(items: usize) -> Value {
    let item = |number| {
        json!({
            "sku": format!("sku-{number}"), "name": "Lamp with a long name",
            "quantity": 2, "unit_price": 12.5,
        })
    };
    json!({
        "order_id": "order-7", "user_id": "user-7", "total": 25.0, "currency": "EUR",
        "items": (0..items).map(item).collect::<Vec<_>>(),
    })
}

#[tokio::test]
async fn an_ordinary_order_fits_into_the_memory_that_a_guest_begins_with() -> Result<()> {
    for (stage, event_type) in [
        ("payment", "order.created"),
        ("inventory", "payment.authorized"),
        ("shipping", "inventory.reserved"),
        ("notification", "shipping.ready"),
    ] {
        let event = json!({ "type": event_type, "data": order(20) });
        let (used, declared) = memory_of(stage, &event, &[]).await?;
        // Tables count as memory, too: a few hundred bytes.
        let tables = used.checked_sub(declared).context("less than the module declares")?;
        assert!(tables < 4 << 10, "{stage}: the memory grew from {declared} to {used} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn a_warm_guest_frees_what_large_orders_needed() -> Result<()> {
    let event = json!({ "type": "order.created", "data": order(12_000) });
    let few = memory_of("payment", &event, &["--warm", "--repeat", "5"]).await?.0;
    let many = memory_of("payment", &event, &["--warm", "--repeat", "60"]).await?.0;
    assert_eq!(many, few, "60 calls for an order of {} bytes", event.to_string().len());
    Ok(())
}
