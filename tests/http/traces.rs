//! Traces: what a receiver of OTLP gets of an order, from the caller's request to the call of a guest.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::plugins::egress::Server;
use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::otlp::{OtlpReceiver, Received};
use crate::support::process::HostProcess;

on_both_back_ends![
    trace_arrives_complete_from_the_request_to_the_call_of_a_guest,
    failed_attempts_are_spans_of_their_own,
];

const CALLER: &str = "b7ad6b7169203331";

fn trace_parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CALLER}-{flags}")
}

/// The shipped stages and one that calls `server`; each message goes through the broker.
async fn env_with_caller(backend: Backend, server: &Server) -> Result<TestEnv> {
    let port = server.port;
    let toml = format!(
        "broker.local_handover = false\n{AMPLE_STOCK}[stages.caller.grants]\nhttp = [{{ scheme = \"http\", \
         host = \"127.0.0.1\", port = {port}, methods = [\"GET\"], allow_private = true }}]\n"
    );
    let env = TestEnv::shipped_on(backend, &toml).await?;
    env.add_plugin("caller", "caller")?;
    Ok(env)
}

async fn submit(client: &Client, order: &Value, trace: &str, flags: &str) -> Result<()> {
    let parent = trace_parent(trace, flags);
    let (status, answer) =
        client.post_with_header("/orders", order, ("traceparent", &parent)).await?;
    ensure!(status.is_success(), "{answer}");
    Ok(())
}

fn order(id: &str) -> Value {
    json!({ "order_id": id, "user_id": "1", "items": ["Book"], "total": 1 })
}

/// The only span that `wanted` selects.
fn one<'a>(
    spans: &'a [Received],
    what: &str,
    wanted: impl Fn(&Received) -> bool,
) -> Result<&'a Received> {
    let found: Vec<&Received> = spans.iter().filter(|span| wanted(span)).collect();
    ensure!(found.len() == 1, "{what}: {} spans of {spans:#?}", found.len());
    Ok(found[0])
}

async fn trace_arrives_complete_from_the_request_to_the_call_of_a_guest(
    backend: Backend,
) -> Result<()> {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const UNSAMPLED: &str = "1af7651916cd43dd8448eb211c80319c";
    let (server, receiver) = (Server::start().await?, OtlpReceiver::start().await?);
    let env = env_with_caller(backend, &server).await?;
    let (mut process, client) =
        HostProcess::start_ready_with(&env, &receiver.environment()).await?;
    submit(&client, &order("t-0"), UNSAMPLED, "00").await?;
    client.wait_for_status("t-0", "ready").await?;
    let mut asked = order("t-1");
    let target = format!("127.0.0.1:{}", server.port);
    asked["caller"] =
        json!({ "calls": [{ "scheme": "http", "authority": target, "path": "/ok" }] });
    submit(&client, &asked, TRACE, "01").await?;
    client.wait_for_status("t-1", "ready").await?;
    let events = eventually("all deliveries to be settled", || async {
        let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
        let open = env.query_count(open).await?;
        let (_, events) = client.get("/orders/t-1/events").await?;
        let has_called = events["items"]
            .as_array()
            .is_some_and(|all| all.iter().any(|event| event["type"] == "caller.done"));
        Ok((open == 0 && has_called).then_some(events))
    })
    .await?;
    let events = events["items"].as_array().context("events")?.clone();
    // A host that stops exports what is left.
    process.signal("-TERM")?;
    ensure!(process.wait().await? == Some(0), "the host stops cleanly");
    let spans = receiver.trace(TRACE);
    assert!(receiver.trace(UNSAMPLED).is_empty(), "the caller left this trace out");

    let request = one(&spans, "the request", |span| span.kind() == "SPAN_KIND_SERVER")?;
    assert_eq!((request.name(), request.parent.as_str()), ("POST /orders", CALLER));
    assert!(request.is("http.response.status_code", "202"), "{request:?}");
    assert_eq!(request.service, "postrider");
    assert!(request.conventions.starts_with("https://opentelemetry.io/schemas/"), "{request:?}");

    // Each event carries the span that created it, and each of its deliveries is below that.
    for event in &events {
        let (id, kind) = (event["id"].as_str(), event["type"].as_str());
        let (id, kind) = (id.context("an id")?, kind.context("a type")?);
        let parent = event["attributes"]["traceparent"].as_str().context("a trace context")?;
        let creator = parent.split('-').nth(2).context("a span")?;
        let of_event = |span: &Received| span.is("messaging.message.id", id);
        for span in spans.iter().filter(|span| of_event(span)) {
            assert_eq!(span.parent, creator, "{kind}: {span:?}");
        }
        // An event that no stage consumes is not sent.
        if spans.iter().any(|span| of_event(span) && span.kind() == "SPAN_KIND_CONSUMER") {
            let sent =
                one(&spans, kind, |span| of_event(span) && span.kind() == "SPAN_KIND_PRODUCER")?;
            assert!(sent.name().starts_with("send ") && sent.name().ends_with(kind), "{sent:?}");
        }
    }
    check_stages(&spans, backend);
    check_call(&spans, &server, TRACE)?;
    // Complete: each parent arrived, but the caller's, and no id came twice.
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "{spans:#?}");
    for span in &spans {
        assert!(span.parent == CALLER || ids.contains(span.parent.as_str()), "{span:?}");
    }
    Ok(())
}

/// Each stage has the spans of its attempts.
fn check_stages(spans: &[Received], backend: Backend) {
    for stage in ["payment", "inventory", "shipping", "notification", "caller"] {
        let processed: Vec<&Received> = spans
            .iter()
            .filter(|span| span.kind() == "SPAN_KIND_CONSUMER" && span.is("postrider.stage", stage))
            .collect();
        assert!(!processed.is_empty(), "{stage}: {spans:#?}");
        for span in processed {
            assert_eq!(
                span.links,
                *std::slice::from_ref(&span.parent),
                "linked to where the event was created"
            );
            assert!(span.is("postrider.outcome", "done") && !span.failed(), "{span:?}");
            assert!(span.duration_ns() > 0 && span.attribute("postrider.queue_wait").is_some());
            let (system, destination) = match backend {
                Backend::Servers => ("rabbitmq", format!(".stage.{stage}")),
                Backend::Embedded => ("postrider", stage.to_owned()),
            };
            assert!(span.is("messaging.system", system), "{span:?}");
            assert!(span.name().starts_with("process ") && span.name().ends_with(&destination));
        }
    }
}

/// The call of the guest is below its attempt, and carries its own span.
fn check_call(spans: &[Received], server: &Server, trace: &str) -> Result<()> {
    let call = one(spans, "the call", |span| span.kind() == "SPAN_KIND_CLIENT")?;
    let attempt = one(spans, "the caller's attempt", |span| span.is("postrider.stage", "caller"))?;
    assert_eq!((call.name(), &call.parent), ("GET", &attempt.id));
    assert!(call.is("server.port", &server.port.to_string()), "{call:?}");
    assert!(call.is("http.response.status_code", "200"), "{call:?}");
    let heads = server.heads();
    assert!(heads[0].contains(&format!("traceparent: 00-{trace}-{}-01", call.id)), "{heads:?}");
    Ok(())
}

async fn failed_attempts_are_spans_of_their_own(backend: Backend) -> Result<()> {
    const TRACE: &str = "2af7651916cd43dd8448eb211c80319c";
    let receiver = OtlpReceiver::start().await?;
    let toml = "[stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 1\n";
    let env = TestEnv::shipped_on(backend, toml).await?;
    let (mut process, client) =
        HostProcess::start_ready_with(&env, &receiver.environment()).await?;
    let mut failing = order("t-1");
    failing["force_fail"] = true.into();
    submit(&client, &failing, TRACE, "01").await?;
    let attempts = eventually("both attempts", || async {
        let mut attempts = receiver.trace(TRACE);
        attempts.retain(|span| span.is("postrider.stage", "payment"));
        Ok((attempts.len() == 2).then_some(attempts))
    })
    .await?;
    for (span, outcome) in attempts.iter().zip(["retried", "dead-lettered"]) {
        assert!(span.failed() && span.is("postrider.outcome", outcome), "{span:?}");
        assert!(span.attribute("error.type").is_some_and(|code| !code.is_empty()), "{span:?}");
    }
    assert_ne!(attempts[0].id, attempts[1].id);
    process.signal("-TERM")?;
    ensure!(process.wait().await? == Some(0), "the host stops cleanly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_leaves_one_line_without_its_query() -> Result<()> {
    const TRACE: &str = "3af7651916cd43dd8448eb211c80319c";
    let env = TestEnv::shipped("")?;
    let (mut process, client) = HostProcess::start_ready(&env).await?;
    submit(&client, &order("a-1"), TRACE, "01").await?;
    client.get("/nowhere?token=hidden").await?;
    client.text("/metrics").await?;
    process.signal("-TERM")?;
    ensure!(process.wait().await? == Some(0), "the host stops cleanly");
    let log = std::fs::read_to_string(env.folder.path().join("log"))?;
    assert!(!log.contains("hidden"), "queries may contain secrets: {log}");
    let lines = log.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    let lines: Vec<&Value> =
        lines.iter().filter(|line| line["target"] == "postrider::access").collect();
    let seen: Vec<_> =
        lines.iter().map(|line| (&line["method"], &line["path"], &line["status"])).collect();
    // Probes are of the level `debug`.
    let expected = [
        (&json!("POST"), &json!("/orders"), &json!(202)),
        (&json!("GET"), &json!("/nowhere"), &json!(404)),
    ];
    assert_eq!(seen, expected, "{log}");
    let accepted = lines[0];
    assert_eq!(
        (&accepted["trace_id"], &accepted["route"], &accepted["address"]),
        (&json!(TRACE), &json!("/orders"), &json!("127.0.0.1"))
    );
    assert!(accepted["duration_us"].as_u64() > Some(0) && accepted["span_id"].is_string());
    Ok(())
}

/// How much memory a host has after so many orders, and how long it took to stop.
async fn run_orders(environment: &[(&str, &str)]) -> Result<(u64, Duration)> {
    const ORDERS: usize = 600;
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let (mut process, client) = HostProcess::start_ready_with(&env, environment).await?;
    for id in 0..ORDERS {
        let (status, answer) = client.post("/orders", &order(&format!("o-{id}"))).await?;
        ensure!(status.is_success(), "{answer}");
    }
    client.wait_for_status(&format!("o-{}", ORDERS - 1), "ready").await?;
    let ready = "SELECT count(*) FROM subjects WHERE status = 'ready'";
    eventually("all orders to be ready", || async {
        Ok((env.query_count(ready).await? == i64::try_from(ORDERS)?).then_some(()))
    })
    .await?;
    let memory = process.memory_bytes()?;
    let began = Instant::now();
    process.signal("-TERM")?;
    ensure!(process.wait().await? == Some(0), "the host stops cleanly");
    Ok((memory, began.elapsed()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the memory of a host"]
async fn receiver_that_hangs_or_is_absent_costs_only_spans() -> Result<()> {
    const MORE_MAX_BYTES: u64 = 96 << 20;
    // It accepts connections, and never answers.
    let hanging = TcpListener::bind("127.0.0.1:0").await?;
    let absent = TcpListener::bind("127.0.0.1:0").await?;
    let urls = [hanging.local_addr()?, absent.local_addr()?].map(|at| format!("http://{at}"));
    drop(absent);
    let (without, _) = run_orders(&[]).await?;
    for url in urls {
        // A queue that is full after a few orders.
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "256"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "128"),
        ];
        let (memory, stopping) = run_orders(&environment).await?;
        assert!(memory < without + MORE_MAX_BYTES, "{memory} bytes, {without} without traces");
        assert!(stopping < Duration::from_secs(20), "{url}: stopped after {stopping:?}");
    }
    Ok(())
}
