//! `postrider replay` runs recorded events through another build of a stage and reports the
//! decisions that change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{
    Clock, Description, Emitted, Event, ManualClock, NativeContext, NativeError, NativeStage,
    SystemClock,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{
    Backend, RunningHost, SHIPPED, TestEnv, eventually, guest, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![
    same_plugin_repeats_its_decisions,
    changed_plugin_reports_exactly_the_changed_decisions,
    plugin_that_reads_unrecorded_state_has_an_unknown_verdict,
    nothing_is_recorded_when_recording_is_off,
    recordings_are_deleted_with_their_orders,
];

/// Runs `postrider replay --json`. Returns its exit code and its report.
async fn replay(stage: &str, plugin: &str, more: &[&str]) -> Result<(i32, Value)> {
    let plugin = guest(plugin)?;
    let file = plugin.to_str().context("a path that is text")?;
    let args = [&["--json", "replay", "--stage", stage, "--plugin", file], more].concat();
    let (code, said, errors) = postrider(&args).await?;
    let said =
        serde_json::from_str(&said).with_context(|| format!("exit code {code}: {said}{errors}"))?;
    Ok((code, said))
}

async fn all_settled(env: &TestEnv) -> Result<()> {
    eventually("everything to be settled", || async {
        let open = env.query_count("SELECT count(*) FROM deliveries WHERE status = 'open'").await?;
        let unsent = env.query_count("SELECT count(*) FROM outbox").await?;
        Ok((open + unsent == 0).then_some(()))
    })
    .await
}

async fn post(host: &RunningHost, order: Value) -> Result<()> {
    let (status, said) = host.client.post("/orders", &order).await?;
    ensure!(status.is_success(), "{said}");
    Ok(())
}

async fn same_plugin_repeats_its_decisions(backend: Backend) -> Result<()> {
    let toml = "[stages.inventory.settings]\ndefault_stock = \"5\"\n[stages.payment.settings]\nmax_total = \"1000\"\n\
                [stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 1\nmax_ms = 5\n";
    let env = TestEnv::shipped_on(backend, &format!("recording.enabled = true\n{toml}")).await?;
    let host = env.start().await?;
    // Ready, rejected for lack of stock and refunded, declined, dead.
    for number in 0..20 {
        post(&host, json!({ "order_id": format!("p-{number}"), "user_id": "1", "items": ["Book"], "total": 100 * number })).await?;
    }
    for (field, id) in [("decline", "no"), ("force_fail", "dies")] {
        post(
            &host,
            json!({ "order_id": id, "user_id": "1", "items": ["Lamp"], "total": 1, field: true }),
        )
        .await?;
    }
    host.client.wait_for_status("dies", "failed").await?;
    all_settled(&env).await?;
    let statuses: BTreeSet<String> =
        env.query_texts("SELECT DISTINCT status FROM subjects").await?.into_iter().collect();
    for status in ["ready", "refunded", "declined", "failed"] {
        assert!(statuses.contains(status), "no order is {status}: {statuses:?}");
    }
    let query = "SELECT stage || ' ' || count(*) FROM deliveries WHERE status IN ('done', 'dead') GROUP BY stage ORDER BY stage";
    let settled = env.query_texts(query).await?;
    let mut replayed = Vec::new();
    for stage in SHIPPED {
        let (code, said) = replay(stage, stage, &["--strict", "--url", &host.client.url]).await?;
        assert_eq!((code, &said["equal"]), (0, &said["events"]), "{stage}: {said:#}");
        replayed.push(format!("{stage} {}", said["events"]));
    }
    replayed.sort();
    assert_eq!(replayed, settled);
    // Only one order.
    let (_, said) =
        replay("payment", "payment", &["--subject", "order/dies", "--url", &host.client.url])
            .await?;
    assert_eq!((&said["events"], &said["equal"]), (&json!(1), &json!(1)), "{said:#}");
    host.stop().await
}

/// Everything in the database except timestamps.
async fn everything(env: &TestEnv) -> Result<Vec<Vec<String>>> {
    Ok(vec![
        env.query_texts("SELECT key || ' ' || status || ' ' || updated_ms FROM subjects ORDER BY key").await?,
        env.query_texts("SELECT seq || ' ' || id || ' ' || type FROM events ORDER BY seq").await?,
        env.query_texts("SELECT event_seq || stage || round || ' ' || attempt || status || settled_ms FROM deliveries ORDER BY 1").await?,
        env.query_texts("SELECT stage || ' ' || key || ' ' || version FROM state ORDER BY stage, key").await?,
        env.query_texts("SELECT stage || ' ' || event_seq || body FROM recordings ORDER BY 1").await?,
        env.query_texts("SELECT stage || digest FROM plugin_loads ORDER BY 1").await?,
        env.query_texts("SELECT 'an attempt, a dead_letter, a row to send' FROM attempts").await?,
        env.query_texts("SELECT code FROM dead_letters").await?,
        env.query_texts("SELECT 'a row to send' FROM outbox").await?,
    ])
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
async fn changed_plugin_reports_exactly_the_changed_decisions(backend: Backend) -> Result<()> {
    let env =
        TestEnv::shipped_on(backend, &format!("recording.enabled = true\n{AMPLE_STOCK}")).await?;
    let host = env.start().await?;
    for number in 1..=40 {
        post(&host, json!({ "order_id": format!("c-{number}"), "user_id": "1", "items": ["Book"], "total": 2.5 * f64::from(number) }))
            .await?;
    }
    // It was declined and still would be, for another reason.
    post(&host, json!({ "order_id": "c-41", "user_id": "1", "items": ["Book"], "total": 99, "decline": true })).await?;
    all_settled(&env).await?;
    let before = everything(&env).await?;
    assert_eq!(
        host.client.get("/stages/payment/recordings?cursor=x").await?.0,
        StatusCode::BAD_REQUEST
    );
    let lines = env.folder.path().join("payment.jsonl");
    let file = lines.to_str().context("a path that is text")?;
    let (code, said) =
        replay("payment", "payment-strict", &["--url", &host.client.url, "--save", file]).await?;
    assert_eq!(code, 1, "{said:#}");
    assert_eq!(
        (&said["events"], &said["unknown"], &said["failed"]),
        (&json!(41), &json!(0), &json!(0)),
        "{said:#}"
    );
    let listed = |said: &Value| -> Vec<String> {
        let differences = said["differences"].as_array().cloned().unwrap_or_default();
        differences
            .iter()
            .filter_map(|told| told["subject_key"].as_str().map(str::to_owned))
            .collect()
    };
    let found: BTreeSet<String> = listed(&said).into_iter().collect();
    assert_eq!(
        found,
        (21..=40).map(|number| format!("order/c-{number}")).collect::<BTreeSet<_>>(),
        "those above 50"
    );
    assert_eq!(found.len(), listed(&said).len(), "each once");
    assert_eq!(before, everything(&env).await?, "a replay writes nothing");

    // The same from a file, without a host; and the report in text form.
    host.stop().await?;
    let (code, from_file) = replay("payment", "payment-strict", &["--recordings", file]).await?;
    assert_eq!((code, &from_file), (1, &said));
    let plugin = guest("payment-strict")?;
    let args = [
        "replay",
        "--stage",
        "payment",
        "--plugin",
        plugin.to_str().context("text")?,
        "--recordings",
        file,
        "--show",
        "1",
    ];
    let (code, text, _) = postrider(&args).await?;
    assert_eq!(code, 1);
    let order = from_file["differences"][0]["subject_key"].as_str().context("an order")?;
    for part in [
        &format!("{order}  order.created {}  (decided by 1.0.0)", order.replace('/', "-")),
        "event 1",
        "payment.authorized",
        "→ payment.declined",
        "state order/",
        "\"authorized\"",
        "→ \"declined\"",
        "… and 19 more differences",
        "41 events: 21 equal, 20 different, 0 unknown, 0 failed to run",
    ] {
        assert!(text.contains(part), "{part} is missing from:\n{text}");
    }
    // The same build with a different limit.
    let (_, said) =
        replay("payment", "payment", &["--recordings", file, "--setting", "max_total=90"]).await?;
    assert_eq!(listed(&said).len(), 4, "{said:#}");
    Ok(())
}

/// A stage that reads a key which `fifth` does not read.
struct Auditor;

#[async_trait]
impl NativeStage for Auditor {
    fn describe(&self) -> Description {
        Description::new("audit", "0.9.0", "Counts under another name")
            .consumes(["shipping.ready"])
            .emits(["audit.noted"])
    }

    async fn handle(
        &self,
        cx: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        cx.state.get("shipments").await?;
        cx.state.set(format!("seen/{}", event.id), "1".into())?;
        Ok(vec![])
    }
}

async fn plugin_that_reads_unrecorded_state_has_an_unknown_verdict(backend: Backend) -> Result<()> {
    let env =
        TestEnv::shipped_on(backend, &format!("recording.enabled = true\n{AMPLE_STOCK}")).await?;
    let host = env.start_with(|builder| builder.stage(Auditor)).await?;
    for number in 0..5 {
        post(&host, json!({ "order_id": format!("u-{number}"), "user_id": "1", "items": ["Book"], "total": 1 })).await?;
    }
    all_settled(&env).await?;
    let (code, said) = replay("audit", "fifth", &["--url", &host.client.url]).await?;
    assert_eq!((code, &said["unknown"], &said["equal"]), (0, &json!(5), &json!(0)), "{said:#}");
    assert_eq!(said["unknowns"][0]["reason"], "the state key `count` was not recorded");
    let (code, _) = replay("audit", "fifth", &["--strict", "--url", &host.client.url]).await?;
    assert_eq!(code, 1, "when strict, unknown counts as different");
    host.stop().await
}

async fn nothing_is_recorded_when_recording_is_off(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, AMPLE_STOCK).await?;
    let host = env.start().await?;
    post(&host, json!({ "order_id": "o-1", "user_id": "1", "items": ["Book"], "total": 1 }))
        .await?;
    all_settled(&env).await?;
    assert_eq!(env.query_count("SELECT count(*) FROM recordings").await?, 0);
    let (code, said) = replay("payment", "payment", &["--url", &host.client.url]).await?;
    assert_eq!((code, &said["events"]), (0, &json!(0)));
    let (code, _) = replay("payment", "payment", &["--strict", "--url", &host.client.url]).await?;
    assert_eq!(code, 1, "nothing is no proof");
    host.stop().await
}

async fn recordings_are_deleted_with_their_orders(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(
        backend,
        &format!("recording.enabled = true\nretention.interval_ms = 20\n{AMPLE_STOCK}"),
    )
    .await?;
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let host =
        env.start_with(|builder| builder.clock(Arc::clone(&clock) as Arc<dyn Clock>)).await?;
    post(&host, json!({ "order_id": "g-1", "user_id": "1", "items": ["Book"], "total": 1 }))
        .await?;
    all_settled(&env).await?;
    assert!(env.query_count("SELECT count(*) FROM recordings").await? >= 4);
    clock.advance(91 * 24 * 60 * 60 * 1_000);
    eventually("the order to be pruned", || async {
        Ok((env.query_count("SELECT count(*) FROM deliveries").await? == 0).then_some(()))
    })
    .await?;
    assert_eq!(env.query_count("SELECT count(*) FROM recordings").await?, 0);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: `cargo xtask test` runs it alone, after the others"]
async fn ten_thousand_events_replay_within_seconds() -> Result<()> {
    const ORDERS: usize = 10_000;
    let env = TestEnv::shipped(&format!("recording.enabled = true\n{AMPLE_STOCK}"))?;
    let host = env.start().await?;
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..32 {
        let client = host.client.clone();
        senders.spawn(async move {
            for number in (sender..ORDERS).step_by(32) {
                let order = json!({ "order_id": format!("m-{number}"), "user_id": "1", "items": ["Book"], "total": number % 100 });
                ensure!(client.post("/orders", &order).await?.0.is_success());
            }
            Ok(())
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent??;
    }
    all_settled(&env).await?;
    for (plugin, different) in [("payment", 0), ("payment-strict", ORDERS * 49 / 100)] {
        let began = Instant::now();
        let (_, said) =
            replay("payment", plugin, &["--since", "1d", "--url", &host.client.url]).await?;
        let took = began.elapsed();
        println!("{ORDERS} events through {plugin}: {:.1} s", took.as_secs_f64());
        assert_eq!(
            (&said["events"], &said["different"], &said["unknown"]),
            (&json!(ORDERS), &json!(different), &json!(0))
        );
        assert!(took < Duration::from_secs(30), "{took:?}");
        let totals = said["differences"]
            .as_array()
            .context("differences")?
            .iter()
            .filter_map(|told| told["subject_key"].as_str());
        let above = totals
            .filter_map(|id| id.strip_prefix("order/m-")?.parse::<usize>().ok())
            .filter(|number| number % 100 > 50)
            .count();
        assert_eq!(above, different, "exactly those above the limit");
    }
    host.stop().await
}
