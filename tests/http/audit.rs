//! The audit log: what operators do leaves records, and a record that is changed or removed is found.

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, Client, TestEnv, eventually, on_both_back_ends};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::postrider;

on_both_back_ends![
    what_operators_do_is_recorded,
    the_log_is_read_from_either_end,
    records_that_were_changed_or_removed_are_found,
    a_job_acts_as_whoever_started_it,
];

/// Action and object of each record that no host wrote by itself.
async fn recorded(client: &Client) -> Result<Vec<(String, String)>> {
    let records = client.get_all("/audit?limit=3").await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let by_operators = records.iter().filter(|record| record["actor"]["kind"] != "host");
    for record in by_operators.clone() {
        assert_eq!(record["actor"]["address"], "127.0.0.1", "{record}");
        assert_eq!(record["actor"]["id"], "anonymous", "{record}");
    }
    Ok(by_operators.map(|record| (text(&record["action"]), text(&record["object"]))).collect())
}

/// Fails the payment of so many orders; the ids of their dead letters, the newest first.
async fn dead_letters(client: &Client, count: usize) -> Result<Vec<i64>> {
    for id in 0..count {
        let order = json!({ "order_id": format!("f-{id}"), "user_id": "1", "items": ["Book"], "total": 1, "force_fail": true });
        client.post("/orders", &order).await?;
    }
    eventually("the dead letters", || async {
        let (_, page) = client.get("/dead-letters?stage=payment&status=open").await?;
        let ids: Vec<i64> = page["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["id"].as_i64())
            .collect();
        Ok((ids.len() == count).then_some(ids))
    })
    .await
}

/// The verdict of `postrider audit verify`, and its exit code.
async fn verify(client: &Client, more: &[&str]) -> Result<(i32, Value)> {
    let mut args = vec!["--json", "audit", "verify", "--url", &client.url];
    args.extend(more);
    let (code, said, errors) = postrider(&args).await?;
    anyhow::ensure!(!said.is_empty(), "{errors}");
    Ok((code, serde_json::from_str(&said)?))
}

fn config() -> String {
    format!("{AMPLE_STOCK}[stages.payment.retry]\nmax_attempts = 1\n")
}

async fn the_log_is_read_from_either_end(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &config()).await?;
    let host = env.start().await?;
    for action in ["pause", "resume", "pause", "resume"] {
        let (status, _) =
            host.client.post(&format!("/stages/shipping/{action}"), &json!({})).await?;
        anyhow::ensure!(status.is_success(), "{action}: {status}");
    }
    for filter in ["", "&action=stage.pause"] {
        let oldest = host.client.get_all(&format!("/audit?limit=2{filter}")).await?;
        let mut newest =
            host.client.get_all(&format!("/audit?limit=2&order=newest{filter}")).await?;
        newest.reverse();
        assert!(oldest.len() >= 2, "{oldest:?}");
        assert_eq!(newest, oldest);
    }
    let (status, _) = host.client.get("/audit?order=latest").await?;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    host.stop().await
}

async fn what_operators_do_is_recorded(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &config()).await?;
    let host = env.start().await?;
    let client = &host.client;
    assert_eq!(recorded(client).await?, []);
    let ids = dead_letters(client, 3).await?;
    let order = json!({ "order_id": "c", "user_id": "1", "items": ["Book"], "total": 1 });
    client.post("/stages/shipping/pause", &json!({ "reason": "a holiday" })).await?;
    client.post("/orders", &order).await?;
    client.wait_for_status("c", "reserved").await?;
    client.post("/orders/c/cancel", &json!({ "reason": "changed my mind" })).await?;
    client.post("/stages/shipping/resume", &json!({})).await?;
    client.post(&format!("/dead-letters/{}/discard", ids[0]), &json!({ "reason": "old" })).await?;
    let fixed = json!({ "data": { "order_id": "f-1", "user_id": "1", "items": [{ "sku": "Book", "quantity": 1 }], "total": 1 } });
    client.post(&format!("/dead-letters/{}/replay", ids[1]), &fixed).await?;
    client.post(&format!("/dead-letters/{}/replay", ids[2]), &json!({})).await?;
    // Settled before: nothing is changed.
    let again = client.post(&format!("/dead-letters/{}/replay", ids[0]), &json!({})).await?;
    assert_eq!(again.0, StatusCode::CONFLICT);
    let (_, events) = client.get("/orders/c/events").await?;
    let chain = events["items"][0]["id"].as_str().unwrap_or_default().to_owned();
    client.post(&format!("/chains/{chain}/stop"), &json!({ "reason": "a loop" })).await?;
    client.post(&format!("/chains/{chain}/resume"), &json!({ "reason": "it ended" })).await?;

    let expected = [
        ("stage.pause", "stage/shipping".to_owned()),
        ("subject.cancel", "order/c".to_owned()),
        ("stage.resume", "stage/shipping".to_owned()),
        ("dead-letter.discard", format!("dead-letter/{}", ids[0])),
        ("dead-letter.edit", format!("dead-letter/{}", ids[1])),
        ("dead-letter.replay", format!("dead-letter/{}", ids[2])),
        ("chain.stop", format!("chain/{chain}")),
        ("chain.resume", format!("chain/{chain}")),
    ];
    let expected: Vec<_> =
        expected.into_iter().map(|(action, object)| (action.to_owned(), object)).collect();
    assert_eq!(recorded(client).await?, expected);

    let (_, page) = client.get("/audit?action=stage.pause").await?;
    let paused = &page["items"][0];
    assert_eq!(paused["before"], json!({ "state": "running", "reason": null }));
    assert_eq!(paused["after"], json!({ "state": "paused", "reason": "a holiday" }));
    assert_eq!((&paused["reason"], &paused["outcome"]), (&json!("a holiday"), &json!("done")));
    let (_, page) = client.get("/audit?action=plugin.load&object=stage/payment").await?;
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1), "{page}");
    assert_eq!(page["items"][0]["actor"]["kind"], "host");
    let (_, page) = client.get("/audit?action=chain.resume").await?;
    assert_eq!(page["items"][0]["reason"], "it ended", "{page}");
    assert_eq!(client.get("/audit?since=yesterday").await?.0, StatusCode::BAD_REQUEST);

    let (code, said, _) = postrider(&["audit", "export", "--url", &client.url]).await?;
    let lines: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!((code, lines), (0, client.get_all("/audit?limit=200").await?));
    let (code, said, _) =
        postrider(&["audit", "list", "--url", &client.url, "--object", "order/c"]).await?;
    assert!(
        code == 0 && said.contains("subject.cancel") && !said.contains("stage.pause"),
        "{said}"
    );
    host.stop().await
}

async fn records_that_were_changed_or_removed_are_found(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &config()).await?;
    let host = env.start().await?;
    let client = &host.client;
    for _ in 0..3 {
        client.post("/stages/shipping/pause", &json!({ "reason": "a test" })).await?;
        client.post("/stages/shipping/resume", &json!({})).await?;
    }
    let (code, whole) = verify(client, &[]).await?;
    assert_eq!((code, &whole["ok"], &whole["records"]), (0, &json!(true), &json!(10)), "{whole}");
    let head = whole["head"].as_str().unwrap_or_default().to_owned();
    assert_eq!(verify(client, &["--head", &head]).await?.0, 0);
    let other = format!("10:{}", "0".repeat(64));
    let (code, verdict) = verify(client, &["--head", &other]).await?;
    assert!(code == 1 && verdict["problem"].to_string().contains("is not in the log"), "{verdict}");

    let tampering = [
        ("UPDATE audit SET reason = 'another' WHERE pos = 7", "record 7 was changed"),
        ("UPDATE audit SET actor_id = 'key/eve' WHERE pos = 1", "record 1 was changed"),
        ("UPDATE audit SET after = '{}' WHERE pos = 9", "record 9 was changed"),
        ("DELETE FROM audit WHERE pos = 5", "record 5 is missing"),
        ("DELETE FROM audit WHERE pos >= 9", "its head is record 10"),
        ("DELETE FROM audit WHERE pos <= 2", "record 1 is missing"),
    ];
    env.execute("CREATE TABLE audit_copy AS SELECT * FROM audit").await?;
    for (statement, expected) in tampering {
        env.execute(statement).await?;
        let (code, verdict) = verify(client, &[]).await?;
        let problem = verdict["problem"].as_str().unwrap_or_default();
        assert!(code == 1 && problem.contains(expected), "{statement}: {verdict}");
        env.execute("DELETE FROM audit; INSERT INTO audit SELECT * FROM audit_copy").await?;
        assert_eq!(verify(client, &["--head", &head]).await?.0, 0, "{statement}");
    }
    host.stop().await
}

async fn a_job_acts_as_whoever_started_it(backend: Backend) -> Result<()> {
    let env = TestEnv::shipped_on(backend, &config()).await?;
    let host = env.start().await?;
    let client = &host.client;
    let mut ids = dead_letters(client, 4).await?;
    let job = json!({ "filter": { "stage": "payment" }, "reason": "a test" });
    let (status, answer) = client.post("/dead-letters/discard", &job).await?;
    assert!(status.is_success(), "{answer}");
    ids.sort_unstable();
    let expected: Vec<_> = ids
        .iter()
        .map(|id| ("dead-letter.discard".to_owned(), format!("dead-letter/{id}")))
        .collect();
    eventually("the records of the job", || async {
        let mut records = recorded(client).await?;
        records.sort();
        Ok((records == expected).then_some(()))
    })
    .await?;
    assert_eq!(verify(client, &[]).await?.0, 0);
    host.stop().await
}
