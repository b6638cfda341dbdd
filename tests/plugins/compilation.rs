//! Compilations are bounded, visible, and hold up nothing but their own file.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::support::harness::{TestEnv, eventually};

/// A component with functions that take a while to compile, each just within the limits: so many
/// branches over so many locals. It exports nothing, and is another file each time: tests share the
/// compiled code of files.
fn slow(functions: usize, branches: usize) -> Result<Vec<u8>> {
    let locals = "i32 ".repeat(40);
    let own: u32 = rand::random();
    let mut text = format!("(component (core module (func (drop (i32.const {own}))) ");
    for _ in 0..functions {
        write!(text, "(func (param i32) (local {locals})")?;
        for at in 0..branches {
            let (from, to) = (at % 40, (at * 7 + 1) % 40);
            write!(
                text,
                "(if (local.get {from}) (then (local.set {to} (i32.add (local.get {from}) (local.get {to})))))"
            )?;
        }
        text.push(')');
    }
    text.push_str("))");
    Ok(wat::parse_str(text)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_plugins_orders_and_the_end_wait_for_no_compilation() -> Result<()> {
    let env = TestEnv::shipped(
        "shutdown.grace_ms = 120000\n[stages.inventory.settings]\ndefault_stock = \"10\"\n",
    )?;
    let host = env.start().await?;
    // Tens of seconds on any machine.
    let slow = slow(40, 12_000)?;
    fs::write(env.plugins().join("slow.wasm"), &slow)?;
    let compiling = eventually("the compilation to be shown", || async {
        let plugin = host.client.plugin("slow.wasm").await?;
        Ok((plugin["state"] == "compiling" && plugin["compiling_since_ms"].is_u64())
            .then_some(plugin))
    })
    .await?;
    assert!(compiling["last_error"].is_null(), "{compiling}");
    env.add_plugin("fifth", "fifth")?;
    host.client.wait_until_serving("fifth.wasm").await?;
    let order = json!({ "order_id": "o", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("o", "ready").await?;
    assert_eq!(host.client.plugin("slow.wasm").await?["state"], "compiling");
    let began = std::time::Instant::now();
    host.stop().await?;
    assert!(began.elapsed() < std::time::Duration::from_secs(15), "the end waited");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_take_long_to_compile_is_refused_with_the_limit() -> Result<()> {
    let env = TestEnv::empty("")?;
    fs::write(env.plugins().join("branches.wasm"), slow(1, 25_000)?)?;
    let memories = "(component (core module (memory 1) (memory 1)))";
    fs::write(env.plugins().join("memories.wasm"), wat::parse_str(memories)?)?;
    let host = env.start().await?;
    for (file, expected) in [
        (
            "branches.wasm",
            "function 1 of module 1 has 25000 blocks and targets of branches; the limit of this host is 20000",
        ),
        ("memories.wasm", "module 1 has 2 memories of its own; the limit of this host is 1"),
    ] {
        let plugin = host.client.plugin(file).await?;
        assert_eq!(plugin["last_error"], expected);
        assert_eq!(plugin["waiting_for"], "other content of the file");
    }
    host.stop().await
}
