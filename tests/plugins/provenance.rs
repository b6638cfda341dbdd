//! Which plugin files are loaded, and how an earlier version is restored: by an operator, or when a
//! new version traps.

use std::path::Path;

use anyhow::{Context as _, Result};
use minisign::KeyPair;
use postrider::internals::signature_of;
use reqwest::StatusCode;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, guest, on_both_back_ends,
};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![trapping_version_is_rolled_back_under_load, version_is_rolled_back_under_load];

async fn version(client: &Client) -> Result<String> {
    Ok(client.plugin("fifth.wasm").await?["version"].as_str().unwrap_or("none").to_owned())
}

async fn serves(client: &Client, wanted: &str) -> Result<()> {
    eventually(&format!("version {wanted}"), || async {
        Ok((version(client).await? == wanted).then_some(()))
    })
    .await
}

fn sign(keys: &KeyPair, path: &Path) -> Result<()> {
    let content = std::fs::File::open(path)?;
    let signature = minisign::sign(Some(&keys.pk), &keys.sk, content, Some("a test"), None)?;
    Ok(std::fs::write(signature_of(path), signature.into_string())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_plugins_signed_by_a_known_publisher_are_loaded() -> Result<()> {
    let (ours, theirs) =
        (KeyPair::generate_unencrypted_keypair()?, KeyPair::generate_unencrypted_keypair()?);
    let toml = format!(
        "plugins.policy = \"signed\"\nplugins.publishers = [\"{}\"]\n",
        ours.pk.to_base64()
    );
    let env = TestEnv::empty(&toml)?;
    let place = env.plugins().join("fifth.wasm");
    env.add_plugin("fifth", "fifth")?;
    let host = env.start().await?;
    let refused = || async {
        Ok(host.client.plugin("fifth.wasm").await?["last_error"].as_str().map(str::to_owned))
    };
    let why = eventually("the refusal", refused).await?;
    assert!(why.contains("there is no fifth.wasm.minisig"), "{why}");
    // The signature may arrive after the file.
    sign(&ours, &place)?;
    serves(&host.client, "1.0.0").await?;

    // One changed byte, in a section appended at the end.
    let mut changed = std::fs::read(guest("fifth")?)?;
    changed.extend_from_slice(&[0, 2, 1, b'x']);
    std::fs::write(&place, &changed)?;
    let why = eventually("the refusal", refused).await?;
    assert!(why.contains("is not a signature of this content"), "{why}");
    sign(&theirs, &place)?;
    let why = eventually("the refusal", refused).await?;
    assert!(why.contains("is not a signature of this content"), "{why}");
    assert_eq!(version(&host.client).await?, "1.0.0", "what served keeps serving");
    sign(&ours, &place)?;
    eventually("the changed file", || async {
        Ok(host.client.plugin("fifth.wasm").await?["last_error"].is_null().then_some(()))
    })
    .await?;
    host.stop().await
}

/// Posts orders until stopped. Returns how many.
fn load(client: &Client, stop: &CancellationToken) -> tokio::task::JoinHandle<Result<usize>> {
    let (client, stop) = (client.clone(), stop.clone());
    tokio::spawn(async move {
        let mut posted = 0;
        while !stop.is_cancelled() {
            let order = json!({ "order_id": format!("p-{posted}"), "user_id": "1", "items": ["Book"], "total": 1 });
            anyhow::ensure!(client.post("/orders", &order).await?.0.is_success());
            posted += 1;
        }
        Ok(posted)
    })
}

/// Waits until every order is ready and was audited once.
async fn assert_audited_once(env: &TestEnv, posted: usize) -> Result<()> {
    let posted = i64::try_from(posted)?;
    eventually("every audit", || async {
        let ready = env.query_count("SELECT count(*) FROM subjects WHERE status = 'ready'").await?;
        let done = env
            .query_count(
                "SELECT count(*) FROM deliveries WHERE stage = 'audit' AND status = 'done'",
            )
            .await?;
        Ok((ready == posted && done == posted).then_some(()))
    })
    .await?;
    assert_eq!(
        env.query_count("SELECT count(*) FROM events WHERE type = 'audit.noted'").await?,
        posted
    );
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters").await?, 0);
    Ok(())
}

async fn start(backend: Backend) -> Result<(TestEnv, RunningHost)> {
    let toml = format!(
        "{AMPLE_STOCK}[stages.audit]\nretry = {{ max_attempts = 6, initial_ms = 50, max_ms = 200 }}\n"
    );
    let env = TestEnv::shipped_on(backend, &toml).await?;
    env.add_plugin("fifth", "fifth")?;
    let host = env.start().await?;
    serves(&host.client, "1.0.0").await?;
    Ok((env, host))
}

async fn trapping_version_is_rolled_back_under_load(backend: Backend) -> Result<()> {
    let (env, host) = start(backend).await?;
    let before = std::fs::read(env.plugins().join("fifth.wasm"))?;
    let stop = CancellationToken::new();
    let posting = load(&host.client, &stop);
    eventually("some audits", || async {
        Ok((env
            .query_count(
                "SELECT count(*) FROM deliveries WHERE stage = 'audit' AND status = 'done'",
            )
            .await?
            >= 20)
            .then_some(()))
    })
    .await?;
    env.add_plugin("fifth-traps", "fifth")?;
    let note = eventually("the previous version to be restored", || async {
        Ok(host.client.plugin("fifth.wasm").await?["rolled_back"].as_str().map(str::to_owned))
    })
    .await?;
    assert!(note.contains("5 of its first 5 messages trapped"), "{note}");
    assert_eq!(version(&host.client).await?, "1.0.0");
    let audited = env
        .query_count("SELECT count(*) FROM deliveries WHERE stage = 'audit' AND status = 'done'")
        .await?;
    eventually("audits to go on", || async {
        Ok((env
            .query_count(
                "SELECT count(*) FROM deliveries WHERE stage = 'audit' AND status = 'done'",
            )
            .await?
            >= audited + 20)
            .then_some(()))
    })
    .await?;
    stop.cancel();
    assert_audited_once(&env, posting.await??).await?;
    assert_eq!(
        env.query_count("SELECT count(DISTINCT event_seq) FROM attempts").await?,
        5,
        "only the watched messages failed"
    );
    let said =
        env.query_count("SELECT count(*) FROM events WHERE type = 'postrider.plugin-rolled-back'");
    assert_eq!(said.await?, 1);
    // The file is the previous one again, so a restart serves it.
    assert!(
        std::fs::read(env.plugins().join("fifth.wasm"))? == before,
        "the file was not restored"
    );
    host.stop().await
}

async fn version_is_rolled_back_under_load(backend: Backend) -> Result<()> {
    let (env, host) = start(backend).await?;
    let stop = CancellationToken::new();
    let posting = load(&host.client, &stop);
    let refused = host.client.post("/plugins/audit/rollback", &json!({})).await?;
    assert_eq!(
        refused.0,
        StatusCode::CONFLICT,
        "there is no version before the first: {}",
        refused.1
    );
    env.add_plugin("fifth-next", "fifth")?;
    serves(&host.client, "1.1.0").await?;
    let why = json!({ "reason": "it counts twice" });
    let (status, said) = host.client.post("/plugins/audit/rollback", &why).await?;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert_eq!(version(&host.client).await?, "1.0.0");
    let (_, history) = host.client.get("/plugins/audit/history").await?;
    let versions: Vec<&str> = history["items"]
        .as_array()
        .context("history")?
        .iter()
        .filter_map(|load| load["version"].as_str())
        .collect();
    assert_eq!(versions, ["1.0.0", "1.1.0", "1.0.0"]);
    let next = history["items"][1]["digest"].as_str().context("a digest")?;
    let forward = ["plugin", "rollback", "audit", &next[..10], "--reason", "it was right"];
    let (code, said, errors) =
        postrider(&[&forward[..], &["--json", "--url", &host.client.url]].concat()).await?;
    assert!(code == 0 && said.contains(next), "{said}{errors}");
    let too_long = json!({ "reason": "x".repeat(1_025) });
    let (status, problem) = host.client.post("/plugins/audit/rollback", &too_long).await?;
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("/reason")),
        "{problem}"
    );
    assert_eq!(
        host.client.post("/plugins/audit/rollback", &json!({ "digest": "ffff" })).await?.0,
        StatusCode::CONFLICT
    );
    assert_eq!(
        host.client.post("/plugins/nobody/rollback", &json!({})).await?.0,
        StatusCode::NOT_FOUND
    );
    let (_, log) = host.client.get("/audit?action=plugin.roll-back&object=stage/audit").await?;
    let rolled_back = log["items"].as_array().context("the audit log")?;
    assert_eq!(rolled_back.len(), 2, "{log}");
    assert_eq!(rolled_back[0]["before"]["digest"], next, "{log}");
    assert_eq!(rolled_back[1]["after"]["digest"], next, "{log}");
    let reasons: Vec<_> = rolled_back.iter().map(|record| record["reason"].as_str()).collect();
    assert_eq!(reasons, [Some("it counts twice"), Some("it was right")], "{log}");
    stop.cancel();
    assert_audited_once(&env, posting.await??).await?;
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    host.stop().await
}
