//! Hostile guests in JavaScript, Python and C are contained like those in Rust, in time and memory,
//! whatever the language's runtime does.
//!
//! [`crate::plugins::languages`] builds them with the tools of their languages; their sources are
//! in `fixtures/hostile`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::plugins::languages::{built, new_stage};
use crate::support::harness::{Client, SHIPPED, TestEnv, eventually, root};
use crate::support::load::{AMPLE_STOCK, assert_rate_is_kept, measure_ready_rate};
use crate::support::process::HostProcess;

/// A language, the folder of its tools, and the misbehaviour its guests are incapable of.
struct Language {
    name: &'static str,
    source: &'static str,
    /// The function that fails in `throw`.
    thrower: &'static str,
    tools: &'static [&'static str],
    cannot: &'static [&'static str],
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "js",
        source: "stage.js",
        thrower: "throw",
        tools: &["node_modules"],
        cannot: &[],
    },
    Language {
        name: "python",
        source: "stage.py",
        thrower: "throw",
        tools: &[".venv"],
        cannot: &[],
    },
    // The C library of the sandbox has no sockets: such a guest does not link.
    Language {
        name: "c",
        source: "stage.c",
        thrower: "pr_handle",
        tools: &[".venv", "vendor"],
        cannot: &["http"],
    },
];

/// Every kind of misbehaviour, and the possible codes of its dead letter.
const MISDEEDS: [(&str, &[&str]); 12] = [
    ("throw", &["trap:"]),
    ("loop", &["trap:timeout"]),
    ("recurse", &["trap:"]),
    ("eat-memory", &["limit:memory"]),
    ("log", &["limit:log"]),
    // Output is discarded or truncated: only the deadline ends it.
    ("print", &["trap:timeout", "limit:log"]),
    // On a busy machine the deadline may end it first.
    ("many-events", &["limit:", "trap:timeout"]),
    ("big-output", &["limit:", "trap:timeout"]),
    ("bad-json", &["invalid-event"]),
    ("undeclared", &["undeclared-event"]),
    ("http", &["trap:"]),
    ("reject", &["rejected"]),
];

/// The hostile guest of a language; tests share one build of it.
fn hostile(language: &'static Language) -> Result<PathBuf> {
    static GUESTS: Mutex<BTreeMap<&str, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut guests = GUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(guest) = guests.get(language.name) {
        return Ok(guest.clone());
    }
    let guest = built(&hostile_stage(language, "hostile", "")?, true)?;
    guests.insert(language.name, guest.clone());
    Ok(guest)
}

/// Makes a stage of the hostile source, after `prefix`, with the tools that the language's template
/// fetches.
fn hostile_stage(language: &Language, suffix: &str, prefix: &str) -> Result<PathBuf> {
    let check = new_stage(language.name, &format!("{}-check", language.name))?;
    built(&check, true)?;
    let dir = new_stage(language.name, &format!("{}-{suffix}", language.name))?;
    for tool in language.tools {
        let link = dir.join(tool);
        if !link.exists() {
            std::os::unix::fs::symlink(check.join(tool), link)?;
        }
    }
    let source = root().join("tests/fixtures/hostile").join(language.source);
    let source = std::fs::read_to_string(source)?;
    std::fs::write(dir.join(language.source), format!("{prefix}{source}"))?;
    Ok(dir)
}

/// The hostile guest beside the healthy pipeline, with memory for a language runtime.
fn config() -> String {
    format!(
        "{AMPLE_STOCK}[stages.hostile]\nplugin = \"hostile.wasm\"\nretry = {{ max_attempts = 1 }}\n\
         limits = {{ deadline_ms = 2000, memory_max_bytes = 134217728 }}\nbreaker = {{ min_calls = 0 }}\n"
    )
}

/// A host in a separate process, with the hostile guest in its folder.
async fn start(guest: &Path) -> Result<(TestEnv, HostProcess, Client)> {
    let env = TestEnv::shipped(&config())?;
    std::fs::copy(guest, env.plugins().join("hostile.wasm"))?;
    let (process, client) = HostProcess::start_ready(&env).await?;
    client.wait_until_serving("hostile.wasm").await?;
    Ok((env, process, client))
}

fn body(id: &str, misdeed: &str) -> Value {
    json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1, "misdeed": misdeed })
}

async fn order(client: &Client, id: &str, misdeed: &str) -> Result<()> {
    let (status, answer) = client.post("/orders", &body(id, misdeed)).await?;
    ensure!(status.is_success(), "{status}: {answer}");
    Ok(())
}

/// Waits until every stage has settled an order. Returns the hostile stage's delivery.
async fn settled(client: &Client, id: &str) -> Result<Value> {
    eventually(&format!("all of order {id}"), || async {
        let (_, history) = client.get(&format!("/orders/{id}")).await?;
        let entry = |stage: &str| {
            history["timeline"].as_array()?.iter().find(|entry| entry["stage"] == stage).cloned()
        };
        let healthy =
            SHIPPED.iter().all(|stage| entry(stage).is_some_and(|entry| entry["status"] == "done"));
        Ok(entry("hostile").filter(|entry| healthy && entry["status"] != "open"))
    })
    .await
}

/// Asserts that the failure has the thrown message and its function, file and line.
fn assert_names_its_location(language: &Language, failure: &Value) {
    let told = format!(
        "{}\n{}",
        failure["message"].as_str().unwrap_or_default(),
        failure["backtrace"].as_str().unwrap_or_default()
    );
    let named = told.split(language.source).skip(1).any(|after| {
        let line = after.trim_start_matches(['"', ':', ',', ' ']).trim_start_matches("line ");
        line.starts_with(|first: char| first.is_ascii_digit())
    });
    assert!(named && told.contains("deliberate") && told.contains(language.thrower), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds with the tools of several languages: `cargo xtask test` runs it alone, after the others"]
async fn hostile_guests_of_every_language_are_contained() -> Result<()> {
    for language in &LANGUAGES {
        let guest = hostile(language)?;
        let (env, process, client) = start(&guest).await?;
        let misdeeds = MISDEEDS.iter().filter(|(misdeed, _)| !language.cannot.contains(misdeed));
        let mut base = 0;
        for round in 0..3 {
            for (misdeed, expected) in misdeeds.clone() {
                let id = format!("{misdeed}-{round}");
                order(&client, &id, misdeed).await?;
                let entry = settled(&client, &id).await?;
                let code = entry["failures"][0]["code"].as_str().unwrap_or_default();
                let as_expected = expected.iter().any(|expected| code.starts_with(expected));
                assert!(
                    entry["status"] == "dead" && as_expected,
                    "{} {misdeed}: {entry:#}",
                    language.name
                );
                if *misdeed == "throw" {
                    assert_names_its_location(language, &entry["failures"][0]);
                }
            }
            // The first round fills caches and pools; later rounds add nothing.
            let bytes = process.memory_bytes()?;
            println!("{}: {} MB after round {round}", language.name, bytes >> 20);
            base = if round == 0 { bytes } else { base };
            assert!(
                bytes < base + (48 << 20),
                "{}: the host grew from {} to {} MB",
                language.name,
                base >> 20,
                bytes >> 20
            );
        }
        order(&client, "fine", "").await?;
        assert_eq!(settled(&client, "fine").await?["status"], "done");
        process.kill()?;
        drop(env);
    }
    Ok(())
}

/// The rate of the healthy stages beside the hostile one.
async fn healthy_rate(guest: &Path, misdeed: &str) -> Result<f64> {
    let (_site, process, client) = start(guest).await?;
    let rate =
        measure_ready_rate(&client, Duration::from_millis(50), |id| body(id, misdeed)).await?;
    process.kill()?;
    Ok(rate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: `cargo xtask test` runs it alone, after the others"]
async fn healthy_stages_keep_their_rate_beside_hostile_guests_of_every_language() -> Result<()> {
    for language in &LANGUAGES {
        let guest = hostile(language)?;
        for misdeed in ["loop", "eat-memory", "print"] {
            let what = format!("{} {misdeed}", language.name);
            assert_rate_is_kept(
                &what,
                async || healthy_rate(&guest, "").await,
                async || healthy_rate(&guest, misdeed).await,
            )
            .await?;
        }
    }
    Ok(())
}

/// A guest that traps before it describes itself is refused; other stages keep running.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds with the tools of several languages: `cargo xtask test` runs it alone, after the others"]
async fn guest_that_traps_at_startup_is_refused() -> Result<()> {
    // A folder of its own: the hostile guest of C is shared.
    let dir = hostile_stage(&LANGUAGES[2], "traps", "#define TRAP_AT_START\n")?;
    let refused = built(&dir, true).err().context("a stage that traps at its start was taken")?;
    assert!(format!("{refused:#}").contains("`describe` failed: wasm trap"), "{refused:#}");
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    std::fs::copy(dir.join("build/c-traps.wasm"), env.plugins().join("hostile.wasm"))?;
    let host = env.start().await?;
    eventually("the file to be refused", || async {
        Ok((host.client.plugin("hostile.wasm").await?["state"] == "failed").then_some(()))
    })
    .await?;
    host.client
        .post("/orders", &json!({ "order_id": "s", "user_id": "1", "items": ["Book"], "total": 1 }))
        .await?;
    host.client.wait_for_status("s", "ready").await?;
    host.stop().await
}
