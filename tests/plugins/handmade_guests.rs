//! Guests that no compiler would make: they misuse the calls of WASI and the memory through which
//! they answer. Each harms its own message only, within its limits on time and memory.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::support::guests::{LOOP, SLEEP, WatStage};
use crate::support::harness::{TestEnv, eventually};

const IMPORTS: &str = r#"
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environment (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get" (func $folder (param i32 i32) (result i32)))
    (table $table 1 funcref)
    (func $recurse (call $recurse))"#;

/// What a guest does, and the beginning of the code of its dead letter; none: it does no harm, and
/// its message is done.
const MISDEEDS: [(&str, &str, Option<&str>); 20] = [
    ("sleeps", SLEEP, Some("trap:timeout")),
    ("loops", LOOP, Some("trap:timeout")),
    (
        "random",
        "(loop (drop (call $random (i32.const 65536) (i32.const 4000000))) (br 0))",
        Some("trap:"),
    ),
    (
        "clock",
        "(loop (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 704))) (br 0))",
        Some("trap:timeout"),
    ),
    (
        "stderr",
        "(i32.store (i32.const 700) (i32.const 1024)) (i32.store (i32.const 704) (i32.const 60000))
         (loop (drop (call $write (i32.const 2) (i32.const 700) (i32.const 1) (i32.const 720))) (br 0))",
        Some("trap:"),
    ),
    (
        "stdout",
        "(i32.store (i32.const 700) (i32.const 65536)) (i32.store (i32.const 704) (i32.const 4000000))
         (loop (drop (call $write (i32.const 1) (i32.const 700) (i32.const 1) (i32.const 720))) (br 0))",
        Some("trap:"),
    ),
    (
        "stdin",
        "(i32.store (i32.const 700) (i32.const 65536)) (i32.store (i32.const 704) (i32.const 60000))
         (drop (call $read (i32.const 0) (i32.const 700) (i32.const 1) (i32.const 720)))",
        None,
    ),
    ("memory", "(loop (drop (memory.grow (i32.const 16))) (br 0))", Some("limit:memory")),
    (
        "fill",
        "(loop (memory.fill (i32.const 65536) (i32.const 1) (i32.const 4000000)) (br 0))",
        Some("trap:timeout"),
    ),
    (
        "table",
        "(loop (drop (table.grow $table (ref.null func) (i32.const 1000))) (br 0))",
        Some("limit:memory"),
    ),
    ("recursion", "(call $recurse)", Some("trap:stack-overflow")),
    ("exit", "(call $exit (i32.const 3))", Some("trap:exit")),
    ("outside", "(return (i32.const -16))", Some("trap:")),
    ("huge-list", "(i32.store (i32.const 648) (i32.const -1))", Some("trap:")),
    (
        "long-list",
        "(drop (memory.grow (i32.const 800))) (i32.store (i32.const 644) (i32.const 65536))
         (i32.store (i32.const 648) (i32.const 1000000))",
        Some(""),
    ),
    (
        "long-message",
        "(drop (memory.grow (i32.const 900)))
         (memory.fill (i32.const 65536) (i32.const 97) (i32.const 60000000))
         (i32.store8 (i32.const 640) (i32.const 1))
         (i32.store (i32.const 648) (i32.const 1200)) (i32.store (i32.const 652) (i32.const 5))
         (i32.store (i32.const 656) (i32.const 65536)) (i32.store (i32.const 660) (i32.const 60000000))",
        Some(""),
    ),
    (
        "not-text",
        "(i32.store8 (i32.const 640) (i32.const 1)) (i32.store8 (i32.const 700) (i32.const 255))
         (i32.store (i32.const 648) (i32.const 1200)) (i32.store (i32.const 652) (i32.const 5))
         (i32.store (i32.const 656) (i32.const 700)) (i32.store (i32.const 660) (i32.const 1))",
        Some("trap:"),
    ),
    ("variant", "(i32.store8 (i32.const 640) (i32.const 9))", Some("trap:")),
    // It sees no folder, no argument and no variable of the host.
    (
        "folder",
        "(if (i32.ne (call $folder (i32.const 3) (i32.const 720)) (i32.const 8)) (then unreachable))",
        None,
    ),
    (
        "environment",
        "(drop (call $environment (i32.const 720) (i32.const 724)))
         (if (i32.load (i32.const 720)) (then unreachable))",
        None,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misuse_of_memory_and_of_wasi_harms_one_message() -> Result<()> {
    let limited = |(name, _, _): &(&str, &str, Option<&str>)| {
        format!(
            "[stages.{name}]\nretry = {{ max_attempts = 1 }}\nlimits = {{ deadline_ms = 1500 }}\n"
        )
    };
    let stages: String = MISDEEDS.iter().map(limited).collect();
    let toml = format!("[stages.inventory.settings]\ndefault_stock = \"10\"\n{stages}");
    let env = TestEnv::shipped(&toml)?;
    for (name, handle, _) in MISDEEDS {
        let stage = WatStage { imports: IMPORTS, handle, ..WatStage::named(name) };
        fs::write(env.plugins().join(format!("{name}.wasm")), stage.build().context(name)?)?;
    }
    let host = env.start().await?;
    for (name, _, _) in MISDEEDS {
        host.client.wait_until_serving(&format!("{name}.wasm")).await?;
        let (status, answer) =
            host.client.post(&format!("/events/{name}.poke"), &json!({})).await?;
        assert!(status.is_success(), "{answer}");
    }
    let order = json!({ "order_id": "o", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("o", "ready").await?;
    let mut unexpected = Vec::new();
    for (name, _, expected) in MISDEEDS {
        let code = eventually(&format!("the message of `{name}` to be settled"), || async {
            // Read first: a message that no longer waits has its dead letter.
            let waiting = host.client.stage(name).await?["waiting"].as_u64();
            let (_, list) = host.client.get(&format!("/dead-letters?stage={name}")).await?;
            if let Some(code) = list["items"][0]["code"].as_str() {
                return Ok(Some(Some(code.to_owned())));
            }
            Ok((waiting == Some(0)).then_some(None))
        })
        .await?;
        match (&code, expected) {
            (None, None) => {}
            (Some(code), Some(expected)) if code.starts_with(expected) => {}
            _ => unexpected.push(format!("`{name}`: {code:?} instead of {expected:?}")),
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("; "));
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_an_instance_is_no_attempt() -> Result<()> {
    // Both instances of the pool sleep most of the time.
    let naps = "(i32.store (i32.const 272) (i32.const 1)) (i64.store (i32.const 280) (i64.const 300000000))
                (drop (call $poll (i32.const 256) (i32.const 700) (i32.const 1) (i32.const 768)))";
    let env = TestEnv::shipped(
        "runtime.instances_max = 2\n[defaults]\nretry = { max_attempts = 1 }\n\
         [stages.inventory.settings]\ndefault_stock = \"10\"\n[stages.naps]\nlanes = 2\n",
    )?;
    let stage = WatStage { imports: IMPORTS, handle: naps, ..WatStage::named("naps") };
    fs::write(env.plugins().join("naps.wasm"), stage.build()?)?;
    let host = env.start().await?;
    for id in 0..12 {
        let subject = ("ce-subject", format!("s{id}"));
        host.client
            .post_with_header("/events/naps.poke", &json!({}), (subject.0, &subject.1))
            .await?;
    }
    let order = json!({ "order_id": "o", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    host.client.wait_for_status("o", "ready").await?;
    eventually("every nap to end", || async {
        let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
        Ok((env.query_count(open).await? == 0).then_some(()))
    })
    .await?;
    for table in ["SELECT count(*) FROM attempts", "SELECT count(*) FROM dead_letters"] {
        assert_eq!(env.query_count(table).await?, 0, "{table}");
    }
    host.stop().await
}
