//! `POST /stages/{stage}/compare` runs what a stage recorded through another build of its plugin.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::egress::Server;
use crate::support::guests::{LOOP, WatStage};
use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, guest, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;

on_both_back_ends![
    same_build_decides_the_same_and_nothing_is_stored,
    other_build_is_reported_with_its_differences,
    what_cannot_be_compared_is_refused_with_the_reason,
    one_candidate_is_compared_at_a_time_while_messages_flow,
];

const WASM: &str = "application/wasm";

async fn compare(
    client: &Client,
    stage: &str,
    query: &str,
    component: Vec<u8>,
) -> Result<(StatusCode, Value)> {
    client.post_raw(&format!("/stages/{stage}/compare{query}"), WASM, component).await
}

/// The report of a comparison that is not refused.
async fn report(host: &RunningHost, stage: &str, query: &str, plugin: &str) -> Result<Value> {
    let component = std::fs::read(guest(plugin)?)?;
    let (status, report) = compare(&host.client, stage, query, component).await?;
    ensure!(status == StatusCode::OK, "{status}: {report}");
    Ok(report)
}

async fn all_settled(env: &TestEnv) -> Result<()> {
    eventually("everything to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        let unsent = env.query_count("SELECT count(*) FROM outbox").await?;
        Ok((open + unsent == 0).then_some(()))
    })
    .await
}

/// Orders `c-1` to `c-<count>`, the last of them the most expensive.
async fn order(env: &TestEnv, host: &RunningHost, count: u32) -> Result<()> {
    for number in 1..=count {
        let total = 10 * number;
        let order = json!({
            "order_id": format!("c-{number}"), "user_id": "1", "items": ["Book"], "total": total,
        });
        let (status, said) = host.client.post("/orders", &order).await?;
        ensure!(status.is_success(), "{said}");
    }
    all_settled(env).await
}

async fn recording(backend: Backend) -> Result<(TestEnv, RunningHost)> {
    let toml = format!("recording.enabled = true\n{AMPLE_STOCK}");
    let env = TestEnv::shipped_on(backend, &toml).await?;
    let host = env.start().await?;
    Ok((env, host))
}

/// The tables that a stage writes to, row by row.
async fn everything(env: &TestEnv) -> Result<Vec<Vec<String>>> {
    Ok(vec![
        env.query_texts("SELECT key || ' ' || status || updated_ms FROM subjects ORDER BY key")
            .await?,
        env.query_texts("SELECT seq || ' ' || id || ' ' || type FROM events ORDER BY seq").await?,
        env.query_texts(
            "SELECT event_seq || stage || round || attempt || status FROM deliveries ORDER BY 1",
        )
        .await?,
        env.query_texts("SELECT stage || ' ' || key || ' ' || version FROM state ORDER BY 1")
            .await?,
        env.query_texts("SELECT stage || ' ' || event_seq || body FROM recordings ORDER BY 1")
            .await?,
        env.query_texts("SELECT stage || digest FROM plugin_loads ORDER BY 1").await?,
        env.query_texts("SELECT 'an attempt' FROM attempts").await?,
        env.query_texts("SELECT code FROM dead_letters").await?,
        env.query_texts("SELECT 'a row to send' FROM outbox").await?,
    ])
}

async fn same_build_decides_the_same_and_nothing_is_stored(backend: Backend) -> Result<()> {
    let (env, host) = recording(backend).await?;
    order(&env, &host, 12).await?;
    let (before, plugins) = (everything(&env).await?, host.client.get("/plugins").await?);
    let found = report(&host, "payment", "", "payment").await?;
    let digest = &found["candidate"]["digest"];
    assert_eq!((&found["stage"], &found["serving"]["digest"]), (&json!("payment"), digest));
    for (field, expected) in
        [("events", 12), ("equal", 12), ("different", 0), ("unknown", 0), ("failed", 0)]
    {
        assert_eq!(found[field], json!(expected), "{field}: {found}");
    }
    assert_eq!((&found["more"], &found["timed_out"]), (&json!(false), &json!(false)));
    for field in ["differences", "unknowns", "failures"] {
        assert_eq!(found[field], json!([]), "{field}");
    }
    // Every other stage, too, and another build.
    report(&host, "inventory", "?limit=10000", "inventory").await?;
    report(&host, "payment", "", "payment-strict").await?;
    assert_eq!(before, everything(&env).await?, "a comparison stores nothing");
    assert_eq!(plugins, host.client.get("/plugins").await?, "what serves is the same");
    // But what an operator did.
    let audit = host.client.get_all("/audit?action=plugin.compare").await?;
    let compared: Vec<_> = audit.iter().map(|one| (&one["object"], &one["outcome"])).collect();
    let [payment, inventory, done] =
        ["stage/payment", "stage/inventory", "done"].map(|it| json!(it));
    assert_eq!(compared, [(&payment, &done), (&inventory, &done), (&payment, &done)]);
    assert_eq!(&audit[0]["after"]["candidate"], digest);
    assert_eq!(&audit[0]["before"]["digest"], digest);
    host.stop().await
}

async fn other_build_is_reported_with_its_differences(backend: Backend) -> Result<()> {
    let (env, host) = recording(backend).await?;
    order(&env, &host, 12).await?;
    // It declines what costs more than 50.
    let found = report(&host, "payment", "", "payment-strict").await?;
    let counts = ["events", "equal", "different", "unknown", "failed"];
    assert_eq!(counts.map(|name| &found[name]), [12, 5, 7, 0, 0].map(Value::from).each_ref());
    let differences = found["differences"].as_array().context("differences")?;
    let subjects: BTreeSet<&str> =
        differences.iter().filter_map(|one| one["event"]["subject_key"].as_str()).collect();
    let expected: BTreeSet<String> = (6..=12).map(|number| format!("order/c-{number}")).collect();
    assert_eq!(subjects, expected.iter().map(String::as_str).collect::<BTreeSet<_>>());
    let event = &differences[0]["event"];
    assert_eq!((&event["type"], &event["version"]), (&json!("order.created"), &json!("1.0.0")));
    let shown =
        host.client.get(&format!("/events/{}", event["id"].as_str().context("an id")?)).await?;
    assert_eq!(shown.1["source"], event["source"], "it names the event");
    let changes = differences[0]["changes"].as_array().context("changes")?;
    let emitted = changes.iter().find(|change| change["what"] == "event 1").context("event 1")?;
    assert!(emitted["from"].as_str().is_some_and(|text| text.starts_with("payment.authorized {")));
    assert!(emitted["to"].as_str().is_some_and(|text| text.starts_with("payment.declined {")));
    assert!(changes.iter().any(|change| change["to"] == "\"declined\""), "{changes:?}");
    // Only the first ones, one subject, or what was settled since.
    let found = report(&host, "payment", "?limit=7", "payment-strict").await?;
    assert_eq!((&found["events"], &found["more"]), (&json!(7), &json!(true)), "{found}");
    let found = report(&host, "payment", "?subject=order/c-9", "payment-strict").await?;
    assert_eq!((&found["events"], &found["different"]), (&json!(1), &json!(1)), "{found}");
    let last = env.query_count("SELECT max(settled_ms) FROM deliveries WHERE stage = 'payment'");
    let since = format!("?since={}", last.await?);
    let found = report(&host, "payment", &since, "payment").await?;
    assert!(found["events"].as_u64().is_some_and(|events| (1..12).contains(&events)), "{found}");
    host.stop().await
}

/// A refusal's status, type and detail.
fn refusal(answer: (StatusCode, Value)) -> (u16, String, String) {
    let (status, problem) = answer;
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    (status.as_u16(), text("type").replace("/problems/", ""), text("detail"))
}

async fn what_cannot_be_compared_is_refused_with_the_reason(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    let (client, payment) = (&host.client, std::fs::read(guest("payment")?)?);
    order(&env, &host, 1).await?;
    let nothing = refusal(compare(client, "payment", "", payment.clone()).await?);
    assert_eq!((nothing.0, &*nothing.1), (409, "no-recordings"));
    assert!(nothing.2.contains("set `recording.enabled = true`"), "{}", nothing.2);
    host.stop().await?;

    let env = TestEnv { toml: format!("recording.enabled = true\n{AMPLE_STOCK}"), ..env };
    let host = env.start().await?;
    let client = &host.client;
    let order = json!({ "order_id": "r-1", "user_id": "1", "items": ["Book"], "total": 1 });
    client.post("/orders", &order).await?;
    client.wait_for_status("r-1", "ready").await?;
    all_settled(&env).await?;
    let no_plugin = wat::parse_str("(component)")?;
    let outside = wat::parse_str("(component (import \"wasi:nn/graph@0.2.0\" (instance)))")?;
    let cut = payment[..payment.len() / 2].to_vec();
    for (query, component, status, kind, detail) in [
        ("", b"{\"no\": \"plugin\"}".to_vec(), 422, "invalid-plugin", "not WebAssembly"),
        ("", Vec::new(), 422, "invalid-plugin", "not WebAssembly"),
        ("", cut, 422, "invalid-plugin", ""),
        ("", no_plugin, 422, "invalid-plugin", "does not export `postrider:stage/handler"),
        ("", outside, 422, "invalid-plugin", ""),
        (
            "",
            std::fs::read(guest("inventory")?)?,
            422,
            "invalid-plugin",
            "is the plugin `inventory`, and the stage `payment` is served by the plugin `payment`",
        ),
        ("?since=2100-01-01T00:00:00Z", payment.clone(), 409, "no-recordings", "choose an earlier"),
        ("?subject=order/other", payment.clone(), 409, "no-recordings", "`order/other`"),
        ("?limit=0", payment.clone(), 400, "invalid-query", "from 1 to 10000"),
        ("?limit=10001", payment.clone(), 400, "invalid-query", "from 1 to 10000"),
        ("?since=yesterday", payment.clone(), 400, "invalid-query", "since"),
        ("?subject=nothing", payment.clone(), 400, "invalid-query", "subject"),
        ("?file=x", payment.clone(), 400, "invalid-query", "file"),
    ] {
        let found = refusal(compare(client, "payment", query, component).await?);
        assert_eq!((found.0, &*found.1), (status, kind), "{query}: {}", found.2);
        assert!(found.2.contains(detail), "{query}: {}", found.2);
    }
    let unknown = refusal(compare(client, "fraud", "", payment.clone()).await?);
    assert_eq!((unknown.0, &*unknown.1), (404, "not-found"));
    let json = client.post_raw("/stages/payment/compare", "application/json", "{}").await?;
    assert_eq!(refusal(json).1, "unsupported-media-type");
    let method = client.get("/stages/payment/compare").await?;
    assert_eq!(refusal(method).1, "method-not-allowed");
    // Refused by its length, without being sent.
    let large = answer_to_length(&client.url, (256 << 20) + 1).await?;
    assert!(large.starts_with("HTTP/1.1 413 ") && large.contains("body-too-large"), "{large}");
    // Each refusal of a component is recorded, and none keeps the next one from being compared.
    let audit = client.get_all("/audit?action=plugin.compare").await?;
    assert!(audit.iter().all(|one| one["outcome"] == "refused"), "{audit:?}");
    assert_eq!(audit.len(), 6);
    let found = report(&host, "payment", "", "payment").await?;
    assert_eq!((&found["events"], &found["equal"]), (&json!(1), &json!(1)));
    host.stop().await
}

/// The answer to a request that announces a component of this length, and does not send it.
async fn answer_to_length(url: &str, length: u64) -> Result<String> {
    let address = url.strip_prefix("http://").context("a plain address")?;
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST /stages/payment/compare HTTP/1.1\r\nhost: {address}\r\ncontent-type: {WASM}\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") && stream.read_buf(&mut answer).await? > 0 {}
    Ok(String::from_utf8(answer)?)
}

async fn poke(env: &TestEnv, client: &Client, from: u32, to: u32) -> Result<()> {
    for id in from..to {
        let subject = format!("s{id}");
        let (path, header) = ("/events/poked.poke", ("ce-subject", &*subject));
        let (status, said) = client.post_with_header(path, &json!({}), header).await?;
        ensure!(status.is_success(), "{said}");
    }
    all_settled(env).await
}

async fn one_candidate_is_compared_at_a_time_while_messages_flow(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "recording.enabled = true\n").await?;
    let good = WatStage::named("poked").build()?;
    let endless = WatStage { handle: LOOP, ..WatStage::named("poked") }.build()?;
    std::fs::write(env.plugins().join("poked.wasm"), &good)?;
    let host = env.start_consuming().await?;
    poke(&env, &host.client, 0, 100).await?;
    // Each call of it takes the second that it may take.
    let (client, candidate) = (host.client.clone(), endless.clone());
    let first = tokio::spawn(async move { compare(&client, "poked", "", candidate).await });
    eventually("the first comparison to begin", || async {
        let compared = "SELECT count(*) FROM audit WHERE action = 'plugin.compare'";
        Ok((env.query_count(compared).await? == 1).then_some(()))
    })
    .await?;
    let second = refusal(compare(&host.client, "poked", "", good.clone()).await?);
    assert_eq!((second.0, &*second.1), (409, "comparison-running"));
    assert!(!first.is_finished());
    // What serves is the same build, and is not delayed.
    poke(&env, &host.client, 100, 110).await?;
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    assert!(!first.is_finished(), "the messages waited for the comparison");
    // The client goes away, and its comparison ends.
    first.abort();
    let compared = eventually("the place of the first comparison", || async {
        let (status, found) = compare(&host.client, "poked", "", good.clone()).await?;
        Ok((status != StatusCode::CONFLICT).then_some(found))
    })
    .await?;
    assert_eq!((&compared["events"], &compared["equal"]), (&json!(110), &json!(110)));
    // A candidate that never answers fails like a stage that does not.
    let (_, found) = compare(&host.client, "poked", "?limit=1", endless).await?;
    let changed = &found["differences"][0]["changes"][0];
    assert_eq!(changed["to"], "failed, retryable: trap:timeout", "{found}");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidate_calls_nothing_that_its_stage_was_granted() -> Result<()> {
    let server = Server::start().await?;
    let toml = format!(
        "recording.enabled = true\n[stages.caller.grants]\nhttp = [{{ scheme = \"http\", \
         host = \"127.0.0.1\", port = {}, methods = [\"GET\"], allow_private = true }}]\n",
        server.port
    );
    let env = TestEnv::empty(&toml)?;
    env.add_plugin("caller", "caller")?;
    let host = env.start_consuming().await?;
    let authority = format!("127.0.0.1:{}", server.port);
    let call = json!({ "scheme": "http", "authority": authority, "path": "/ok" });
    let order = json!({
        "order_id": "1", "user_id": "1", "items": ["Book"], "total": 1, "caller": { "calls": [call] },
    });
    let (status, said) = host.client.post("/orders", &order).await?;
    ensure!(status.is_success(), "{said}");
    all_settled(&env).await?;
    assert_eq!(server.heads().len(), 1, "the stage called");
    let found = report(&host, "caller", "", "caller").await?;
    assert_eq!((&found["events"], &found["equal"]), (&json!(1), &json!(0)), "{found}");
    assert_eq!(server.heads().len(), 1, "the candidate called");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_of_the_plugins_folder_holds_for_candidates() -> Result<()> {
    let payment = std::fs::read(guest("payment")?)?;
    let digest = postrider::internals::hex(&Sha256::digest(&payment));
    let listed = format!("plugins.policy = \"digest\"\nplugins.digests = [\"{digest}\"]\n");
    let env = TestEnv::empty(&format!("recording.enabled = true\n{listed}"))?;
    env.add_plugin("payment", "payment")?;
    let host = env.start_consuming().await?;
    let order = json!({ "order_id": "1", "user_id": "1", "items": ["Book"], "total": 1 });
    host.client.post("/orders", &order).await?;
    all_settled(&env).await?;
    assert_eq!(report(&host, "payment", "", "payment").await?["equal"], 1);
    let other = std::fs::read(guest("payment-strict")?)?;
    let refused = refusal(compare(&host.client, "payment", "", other).await?);
    assert_eq!((refused.0, &*refused.1), (422, "invalid-plugin"));
    assert!(refused.2.contains("plugins.digests does not list"), "{}", refused.2);
    host.stop().await
}
