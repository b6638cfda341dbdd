//! Log lines of a host in JSON: what each line about a delivery says, the records of guests, and log
//! levels of stages, which operators change while the host runs.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use postrider::LogLevel;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::guests::WatStage;
use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::HostProcess;

on_both_back_ends![
    lines_about_a_delivery_have_its_fields_and_its_trace,
    log_level_of_a_stage_changes_at_run_time
];

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const QUICK: &str = "[stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 1\n";

/// Every JSON log line that the hosts of an environment wrote so far.
fn lines(env: &TestEnv) -> Result<Vec<Value>> {
    let log = fs::read_to_string(env.folder.path().join("log"))?;
    log.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn is_of_delivery(line: &Value) -> bool {
    matches!(line["target"].as_str(), Some("postrider::delivery" | "postrider::guest"))
}

async fn start(env: &TestEnv, filter: &str) -> Result<(HostProcess, Client)> {
    let environment = [("POSTRIDER_LOG_FORMAT", "json"), ("RUST_LOG", filter)];
    HostProcess::start_ready_with(env, &environment).await
}

fn order(id: &str, fails: bool) -> Value {
    json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1, "force_fail": fails })
}

async fn lines_about_a_delivery_have_its_fields_and_its_trace(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &format!("{AMPLE_STOCK}{QUICK}")).await?;
    let (host, client) = start(&env, "info,postrider::delivery=debug").await?;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    for (id, fails) in [("good", false), ("bad", true)] {
        let header = ("traceparent", parent.as_str());
        ensure!(
            client.post_with_header("/orders", &order(id, fails), header).await?.0.is_success()
        );
    }
    client.wait_for_status("good", "ready").await?;
    client.wait_for_status("bad", "failed").await?;
    // The notification of a failure is the last delivery.
    eventually("all deliveries to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    let mut digests = Vec::new();
    for stage in ["payment", "inventory", "shipping", "notification"] {
        digests.push((stage, client.plugin_of_stage(stage).await?["digest"].clone()));
    }
    let (_, events) = client.get("/orders/bad/events").await?;
    let event = &events["items"][0];
    assert_eq!(event["attributes"]["traceparent"].as_str().map(|text| &text[3..35]), Some(TRACE));
    host.kill()?;

    let lines = lines(&env)?;
    for line in &lines {
        let names_one = ["event", "attempt", "span_id"].iter().any(|name| line.get(name).is_some());
        let is_access = line["target"] == "postrider::access";
        ensure!(is_access || !names_one || is_of_delivery(line), "has no target: {line}");
    }
    let about: Vec<&Value> = lines.iter().filter(|line| is_of_delivery(line)).collect();
    let subjects: BTreeSet<&str> =
        about.iter().filter_map(|line| line["subject"].as_str()).collect();
    assert_eq!(subjects, BTreeSet::from(["order/bad", "order/good"]));
    for line in &about {
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
        assert!(line["attempt"].as_u64() >= Some(1), "{line}");
        assert!(line["event"].as_str().is_some_and(|id| !id.is_empty()), "{line}");
        let digest = digests.iter().find(|(stage, _)| line["stage"] == **stage);
        assert_eq!(line["digest"], digest.context("a stage")?.1, "{line}");
    }
    let failures: Vec<&&Value> = about.iter().filter(|line| line["level"] == "WARN").collect();
    let shown = |line: &Value| (line["attempt"].as_u64(), line["dead_lettered"].as_bool());
    let shown: Vec<_> = failures.iter().map(|line| shown(line)).collect();
    assert_eq!(shown, [(Some(1), Some(false)), (Some(2), Some(true))], "{failures:#?}");
    for line in &failures {
        assert_eq!((&line["stage"], &line["event"]), (&json!("payment"), &event["id"]));
        assert_eq!(
            (&line["code"], &line["subject"]),
            (&json!("simulated-failure"), &json!("order/bad"))
        );
    }
    assert_ne!(failures[0]["span_id"], failures[1]["span_id"], "each attempt is a span");
    assert!(about.iter().any(|line| line["verdict"] == "done" && line["stage"] == "shipping"));
    Ok(())
}

/// The levels of the lines about an order at a stage.
fn levels(lines: &[Value], id: &str, stage: &str) -> BTreeSet<String> {
    let subject = format!("order/{id}");
    let of_stage = lines
        .iter()
        .filter(|line| is_of_delivery(line))
        .filter(|line| line["subject"] == *subject && line["stage"] == *stage);
    of_stage.filter_map(|line| line["level"].as_str().map(str::to_owned)).collect()
}

async fn set_level(client: &Client, stage: &str, body: Value) -> Result<Value> {
    let (status, answer) = client.post(&format!("/stages/{stage}/log-level"), &body).await?;
    ensure!(status.is_success(), "{answer}");
    Ok(answer)
}

async fn log_level_of_a_stage_changes_at_run_time(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &format!("{AMPLE_STOCK}{QUICK}")).await?;
    let (host, client) = start(&env, "warn").await?;
    let process = async |id: &str, fails: bool| -> Result<[BTreeSet<String>; 2]> {
        ensure!(client.post("/orders", &order(id, fails)).await?.0.is_success());
        client.wait_for_status(id, if fails { "failed" } else { "ready" }).await?;
        // Lines are written before what they are about is committed.
        let lines = lines(&env)?;
        Ok([levels(&lines, id, "payment"), levels(&lines, id, "inventory")])
    };
    let some = |levels: &[&str]| levels.iter().map(|level| (*level).to_owned()).collect();
    let none = BTreeSet::new();
    assert_eq!(process("1", false).await?, [none.clone(), none.clone()]);
    // More than the process logs.
    let answer = set_level(&client, "payment", json!({ "level": "debug" })).await?;
    assert_eq!(
        (&answer["log_level"], &answer["log_level_until_ms"]),
        (&json!("debug"), &Value::Null)
    );
    assert_eq!(process("2", false).await?, [some(&["DEBUG"]), none.clone()]);
    assert_eq!(process("3", true).await?[0], some(&["WARN"]));
    // Less than the process logs.
    set_level(&client, "payment", json!({ "level": "error" })).await?;
    assert_eq!(process("4", true).await?, [none.clone(), none.clone()]);
    // It survives a restart.
    host.kill()?;
    let (host, client) = start(&env, "warn").await?;
    eventually("the level of before", || async {
        Ok((client.stage("payment").await?["log_level"] == "error").then_some(()))
    })
    .await?;
    // It ends by itself, or with an operator.
    set_level(&client, "payment", json!({ "level": "trace", "duration_ms": 1 })).await?;
    eventually("the level to end", || async {
        Ok(client.stage("payment").await?["log_level"].is_null().then_some(()))
    })
    .await?;
    let hour = json!({ "level": "trace", "duration_ms": 3_600_000 });
    let answer = set_level(&client, "payment", hour).await?;
    assert!(answer["log_level_until_ms"].as_u64() > Some(3_600_000), "{answer}");
    let answer = set_level(&client, "payment", json!({ "level": "default" })).await?;
    assert_eq!((&answer["log_level"], &answer["log_level_until_ms"]), (&Value::Null, &Value::Null));
    client.post("/orders", &order("5", true)).await?;
    client.wait_for_status("5", "failed").await?;
    assert_eq!(levels(&lines(&env)?, "5", "payment"), some(&["WARN"]));
    host.kill()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_level_is_set_through_any_host_and_ends_on_all() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let (one, other) = (env.start().await?, env.start().await?);
    let level = async |expected: &Value| {
        eventually("the level on the other host", || async {
            Ok((other.client.stage("payment").await?["log_level"] == *expected).then_some(()))
        })
        .await
    };
    for name in LogLevel::ALL {
        let body = json!({ "level": name, "reason": "it declines too many" });
        set_level(&one.client, "payment", body).await?;
        level(&json!(name)).await?;
    }
    set_level(&one.client, "payment", json!({ "level": "debug", "duration_ms": 2_000 })).await?;
    level(&json!("debug")).await?;
    level(&Value::Null).await?;
    let (_, audit) = one.client.get("/audit?action=stage.log-level&limit=1").await?;
    let record = &audit["items"][0];
    assert_eq!(
        (&record["object"], &record["before"]["level"], &record["after"]["level"]),
        (&json!("stage/payment"), &json!("default"), &json!("error")),
        "{audit}"
    );
    assert_eq!(record["reason"], "it declines too many", "{audit}");
    one.stop().await?;
    other.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_log_levels_are_refused() -> Result<()> {
    let env = TestEnv::shipped("")?;
    let host = env.start().await?;
    for (body, pointer) in [
        (json!({}), "/level"),
        (json!({ "level": "loud" }), "/level"),
        (json!({ "level": 1 }), "/level"),
        (json!({ "level": "debug", "duration_ms": 0 }), "/duration_ms"),
        (json!({ "level": "debug", "reason": 1 }), "/reason"),
        (json!({ "level": "debug", "duration_ms": "1h" }), "/duration_ms"),
        (json!({ "level": "debug", "minutes": 5 }), "/minutes"),
    ] {
        let (status, problem) = host.client.post("/stages/payment/log-level", &body).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {problem}");
        let pointers: Vec<_> = problem["errors"].as_array().into_iter().flatten().collect();
        assert_eq!(pointers.len(), 1, "{problem}");
        assert_eq!(pointers[0]["pointer"], pointer, "{problem}");
    }
    let (status, _) =
        host.client.post("/stages/nobody/log-level", &json!({ "level": "debug" })).await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    host.stop().await
}

/// Logs `chatty` on each level, with the field `chatty=1.0.0`, then a line of standard error that is no
/// line of the host.
const CHATTER: &str = "
    (i32.store (i32.const 700) (i32.const 1024)) (i32.store (i32.const 704) (i32.const 6))
    (i32.store (i32.const 708) (i32.const 1200)) (i32.store (i32.const 712) (i32.const 5))
    (local.set 0 (i32.const 0))
    (loop
      (call $log (local.get 0) (i32.const 1024) (i32.const 6) (i32.const 700) (i32.const 1))
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (br_if 0 (i32.lt_u (local.get 0) (i32.const 5))))
    (i32.store (i32.const 720) (i32.const 1024)) (i32.store (i32.const 724) (i32.const 6))
    (drop (call $write (i32.const 2) (i32.const 720) (i32.const 1) (i32.const 730)))";

const CHATTER_IMPORTS: &str = r#"
    (import "postrider:stage/log@1.0.0" "log" (func $log (param i32 i32 i32 i32 i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_log_records_of_their_own() -> Result<()> {
    let env = TestEnv::empty("ingress.allow = [{ types = [\"chatty.#\"] }]\n")?;
    let chatty =
        WatStage { imports: CHATTER_IMPORTS, handle: CHATTER, ..WatStage::named("chatty") };
    fs::write(env.plugins().join("chatty.wasm"), chatty.build()?)?;
    let (host, client) = start(&env, "info,postrider::guest=trace").await?;
    client.wait_until_serving("chatty.wasm").await?;
    let (status, sent) = client.post("/events/chatty.poke", &json!({})).await?;
    ensure!(status.is_success(), "{sent}");
    eventually("the event to be handled", || async {
        let done = "SELECT count(*) FROM deliveries WHERE status = 'done'";
        Ok((env.query_count(done).await? == 1).then_some(()))
    })
    .await?;
    let digest = client.plugin_of_stage("chatty").await?["digest"].clone();
    host.kill()?;
    let lines = lines(&env)?;
    let records: Vec<&Value> =
        lines.iter().filter(|line| line["target"] == "postrider::guest").collect();
    let shown: Vec<_> = records
        .iter()
        .map(|line| (line["level"].as_str(), line["message"].as_str(), line["fields"].as_str()))
        .collect();
    let logged = |level| (Some(level), Some("chatty"), Some("chatty=1.0.0"));
    let expected = [
        logged("TRACE"),
        logged("DEBUG"),
        logged("INFO"),
        logged("WARN"),
        logged("ERROR"),
        (Some("INFO"), Some("chatty"), None),
    ];
    assert_eq!(shown, expected);
    for line in &records {
        assert_eq!((&line["stage"], &line["digest"]), (&json!("chatty"), &digest), "{line}");
        assert_eq!((&line["attempt"], line.get("subject")), (&json!(1), None), "{line}");
        let ids = ["trace_id", "span_id", "event"].map(|name| line[name].as_str().map(str::len));
        assert_eq!(ids[..2], [Some(32), Some(16)], "{line}");
        assert_eq!(line["trace_id"], records[0]["trace_id"]);
    }
    Ok(())
}
