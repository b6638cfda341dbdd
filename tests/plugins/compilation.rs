//! Compilations are bounded, visible, and hold up nothing but their own file.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::support::harness::{Client, TestEnv, eventually};
use crate::support::process::HostProcess;

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

/// Waits until the file is refused; returns why.
async fn refusal(client: &Client, file: &str) -> Result<String> {
    let refused = eventually(&format!("{file} to be refused"), || async {
        let plugin = client.plugin(file).await?;
        Ok(plugin["last_error"].is_string().then_some(plugin))
    })
    .await?;
    assert_eq!(refused["waiting_for"], "other content of the file");
    Ok(refused["last_error"].as_str().unwrap_or_default().to_owned())
}

/// Waits until the program compiles in a process of its own; returns its id.
async fn compiler_of(host: &HostProcess) -> Result<u32> {
    eventually("a compiler", || async { Ok(host.children()?.first().copied()) }).await
}

async fn has_ended(process: u32) -> Result<()> {
    eventually("the compiler to end", || async {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        Ok(status.map_or(true, |status| status.contains("State:\tZ")).then_some(()))
    })
    .await
}

/// Files that cost more than the host allows are refused one after another, and meanwhile an order
/// passes and another plugin is loaded.
async fn are_refused(limit: &str, expected: &str) -> Result<()> {
    let stock = "[stages.inventory.settings]\ndefault_stock = \"10\"\n";
    let env = TestEnv::shipped(&format!("runtime.{limit}\n{stock}"))?;
    let (host, client) = HostProcess::start_ready(&env).await?;
    for file in ["one.wasm", "two.wasm"] {
        fs::write(env.plugins().join(file), slow(40, 12_000)?)?;
    }
    compiler_of(&host).await?;
    env.add_plugin("fifth", "fifth")?;
    client.wait_until_serving("fifth.wasm").await?;
    let order = json!({ "order_id": "o", "user_id": "1", "items": ["Book"], "total": 1 });
    client.post("/orders", &order).await?;
    client.wait_for_status("o", "ready").await?;
    for file in ["one.wasm", "two.wasm"] {
        let why = refusal(&client, file).await?;
        assert!(why.contains(expected), "{file}: {why}");
    }
    assert!(host.children()?.is_empty(), "a compiler is left behind");
    host.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compilation_that_takes_too_much_processor_time_is_refused() -> Result<()> {
    let expected =
        "its compilation takes more than 5000 ms of processor time: runtime.compile_time_max_ms";
    are_refused("compile_time_max_ms = 5000", expected).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compilation_that_takes_too_much_memory_is_refused() -> Result<()> {
    let expected = "needed more than 300000000 bytes of memory (runtime.compile_memory_max_bytes)";
    are_refused("compile_memory_max_bytes = 300000000", expected).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compiler_ends_with_the_need_for_it() -> Result<()> {
    let env = TestEnv::empty("")?;
    for signal in ["-TERM", "-KILL"] {
        let (mut host, client) = HostProcess::start_ready(&env).await?;
        let file = env.plugins().join("slow.wasm");
        fs::write(&file, slow(40, 12_000)?)?;
        let compiler = compiler_of(&host).await?;
        // Nobody waits for the result any more.
        fs::remove_file(&file)?;
        has_ended(compiler).await?;
        eventually("the removal", || async {
            Ok((client.plugin("slow.wasm").await?["state"] != "compiling").then_some(()))
        })
        .await?;
        fs::write(&file, slow(40, 12_000)?)?;
        let compiler = compiler_of(&host).await?;
        host.signal(signal)?;
        host.wait().await?;
        has_ended(compiler).await?;
        fs::remove_file(&file)?;
    }
    Ok(())
}
