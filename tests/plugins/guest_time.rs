//! No code of a guest runs outside a deadline, and nothing but its own message or file waits for it.

use std::fs;

use anyhow::Result;
use serde_json::json;

use crate::support::guests::{CONSUMES, LOOP, SLEEP, WASI, WatStage, sometimes};
use crate::support::harness::{Client, TestEnv, eventually};

async fn refusal(client: &Client, file: &str) -> Result<String> {
    eventually(&format!("{file} to be refused"), || async {
        Ok(client.plugin(file).await?["last_error"].as_str().map(str::to_owned))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_functions_count_against_the_deadline_of_a_message() -> Result<()> {
    const MESSAGES: i64 = 20;
    for code in [SLEEP, LOOP] {
        let env = TestEnv::empty(
            "[stages.sleepy]\nretry = { max_attempts = 1 }\nlimits = { deadline_ms = 100 }\n",
        )?;
        let init = sometimes(code);
        let sleepy = WatStage { imports: WASI, init: &init, ..WatStage::named("sleepy") };
        fs::write(env.plugins().join("sleepy.wasm"), sleepy.build()?)?;
        let host = env.start().await?;
        // `describe` ran in an instance that may have slept as well; then it is tried again.
        eventually("the stage to serve", || async {
            Ok((host.client.plugin_of_stage("sleepy").await?["state"] == "serving").then_some(()))
        })
        .await?;
        for id in 0..MESSAGES {
            let subject = ("ce-subject", format!("s{id}"));
            let sent = host
                .client
                .post_with_header("/events/sleepy.poke", &json!({}), (subject.0, &subject.1))
                .await?;
            assert!(sent.0.is_success(), "{sent:?}");
        }
        let late = eventually("every message to be settled", || async {
            let settled = env
                .query_count("SELECT count(*) FROM deliveries WHERE status IN ('done', 'dead')")
                .await?;
            let late = env
                .query_count("SELECT count(*) FROM dead_letters WHERE code = 'trap:timeout'")
                .await?;
            let done =
                env.query_count("SELECT count(*) FROM deliveries WHERE status = 'done'").await?;
            assert!(done + late >= settled, "a message failed for another reason");
            Ok((settled == MESSAGES).then_some(late))
        })
        .await?;
        assert!(late < MESSAGES, "every instance slept");
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_describe_that_does_not_return() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start().await?;
    let stages = [
        ("loops.wasm", WatStage { describe: LOOP, ..WatStage::named("loops") }),
        ("sleeps.wasm", WatStage { imports: WASI, describe: SLEEP, ..WatStage::named("sleeps") }),
        ("starts.wasm", WatStage { imports: WASI, init: SLEEP, ..WatStage::named("starts") }),
    ];
    for (file, stage) in &stages {
        fs::write(env.plugins().join(file), stage.build()?)?;
    }
    env.add_plugin("fifth", "fifth")?;
    host.client.wait_until_serving("fifth.wasm").await?;
    for (file, _) in &stages {
        let plugin = host.client.plugin(file).await?;
        assert!(plugin["last_error"].is_null(), "the other plugin waited for {plugin}");
    }
    for (file, _) in &stages {
        let error = refusal(&host.client, file).await?;
        assert!(error.contains("`describe` failed: it did not return within 10000 ms"), "{error}");
    }
    // They are tried again meanwhile, and the end does not wait for that.
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_a_description_says_what_is_wrong() -> Result<()> {
    let many = format!(
        "(i32.store (i32.const {CONSUMES}) (i32.const 131072))
         (i32.store (i32.const {}) (i32.const 200000))
         (loop $next
           (i32.store (i32.add (i32.const 131072) (i32.mul (local.get $i) (i32.const 8))) (i32.const 1400))
           (i32.store (i32.add (i32.const 131076) (i32.mul (local.get $i) (i32.const 8))) (i32.const 3))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $i) (i32.const 200000))))",
        CONSUMES + 4
    );
    let traps = "(unreachable)";
    let long = "(i32.store (i32.const 516) (i32.const 3000000)) (i32.store (i32.const 512) (i32.const 65536))";
    let cases = [
        (
            "many",
            WatStage { describe: &many, ..WatStage::named("many") },
            "`consumes`: 200000 entries; the limit is 100",
        ),
        (
            "traps",
            WatStage { describe: traps, ..WatStage::named("traps") },
            "`describe` failed: wasm trap: wasm `unreachable` instruction executed",
        ),
        (
            "long",
            WatStage { describe: long, ..WatStage::named("long") },
            "must match [a-z][a-z0-9-]{0,39}",
        ),
    ];
    let env = TestEnv::empty("")?;
    for (file, stage, _) in &cases {
        fs::write(env.plugins().join(format!("{file}.wasm")), stage.build()?)?;
    }
    let other_types = r#"(component
        (core module $m (memory (export "memory") 1)
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))
          (func (export "f") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $f (result string) (canon lift (core func $i "f")
          (memory $i "memory") (realloc (func $i "realloc"))))
        (instance (export "postrider:stage/handler@1.0.0")
          (export "describe" (func $f)) (export "handle" (func $f))))"#;
    fs::write(env.plugins().join("types.wasm"), wat::parse_str(other_types)?)?;
    let host = env.start().await?;
    for (file, _, expected) in &cases {
        let error = refusal(&host.client, &format!("{file}.wasm")).await?;
        assert!(error.contains(expected) && error.len() < 1_000, "{file}: {error}");
    }
    let error = refusal(&host.client, "types.wasm").await?;
    assert!(error.contains("`handle` has other parameters or results"), "{error}");
    host.stop().await
}
