//! Operations on many dead letters: ten thousand of them form a few groups, and a job edits,
//! replays or discards a group.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{Description, Emitted, Event, Failure, NativeContext, NativeError, NativeStage};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::process::postrider;

on_both_back_ends![
    group_is_patched_and_replayed_once,
    cancelled_job_leaves_the_rest_open,
    job_ends_with_its_host_and_can_be_restarted,
    group_is_discarded,
    ambiguous_job_requests_are_refused,
    dead_letter_shows_the_result_of_its_replay,
    command_line_lists_replays_and_discards_groups,
];

/// Number of distinct failures.
const CAUSES: usize = 5;
/// Events that one order emits.
const BURST: usize = 100;

/// Emits many faulty events for one order.
struct Burst;

#[async_trait]
impl NativeStage for Burst {
    fn describe(&self) -> Description {
        Description::new("burst", "1.0.0", "Asks for much")
            .consumes(["order.created"])
            .emits(["work.asked"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        let work = |number: usize| {
            let data =
                json!({ "number": number, "order": event.subject, "wrong": number % CAUSES });
            let mut emitted = Emitted::json("work.asked", &data);
            emitted.subject = Some(format!("{}-{number}", event.subject));
            emitted
        };
        Ok((0..BURST).map(work).collect())
    }
}

/// Succeeds unless the event has a fault. The message of a failure is different each time.
struct Picky;

#[async_trait]
impl NativeStage for Picky {
    fn describe(&self) -> Description {
        Description::new("picky", "1.0.0", "Does what it likes")
            .consumes(["work.asked"])
            .emits(["work.done"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        let asked: Value = serde_json::from_slice(&event.data).unwrap_or_default();
        let (number, subject) = (&asked["number"], &event.subject);
        let (code, message) = match asked["wrong"].as_u64() {
            None => return Ok(vec![Emitted::json("work.done", &json!({ "number": number }))]),
            Some(0) => ("no-answer", format!("bank {number} did not answer in {number}.5 ms")),
            Some(1) => ("no-answer", format!("connection to 10.0.0.{number}:443 was refused")),
            Some(2) => ("unknown-product", format!("no product '{subject}'")),
            Some(3) => (
                "unknown-product",
                format!("product {subject} was withdrawn at 2026-01-02T03:04:05Z"),
            ),
            Some(_) => ("bad-total", format!("the total is {number}, not {}", event.id)),
        };
        Err(Failure::reject(code, message).into())
    }
}

async fn start(env: &TestEnv) -> Result<RunningHost> {
    env.start_with(|builder| builder.stage(Burst).stage(Picky)).await
}

/// A test environment, a host, and `bursts` times a hundred dead letters.
async fn env_with_dead_letters(backend: Backend, bursts: usize) -> Result<(TestEnv, RunningHost)> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = start(&env).await?;
    for id in 0..bursts {
        let order =
            json!({ "order_id": format!("b{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        ensure!(host.client.post("/orders", &order).await?.0.is_success());
    }
    let expected = i64::try_from(bursts * BURST)?;
    let all = || async {
        Ok((env.query_count("SELECT count(*) FROM dead_letters").await? == expected).then_some(()))
    };
    eventually("the dead letters", all).await?;
    Ok((env, host))
}

async fn groups(client: &Client) -> Result<Vec<Value>> {
    let (status, answer) = client.get("/dead-letters/groups").await?;
    ensure!(status == StatusCode::OK, "{answer}");
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

/// The group with this failure.
async fn group(client: &Client, cause: &str) -> Result<Value> {
    let groups = groups(client).await?;
    let found = groups.iter().find(|group| group["fingerprint"] == cause).cloned();
    found.with_context(|| format!("no group `{cause}` in {groups:?}"))
}

const SILENT: &str = "bank <n> did not answer in <n> ms";

/// Follows a job to its end. Returns every state that was seen.
async fn follow(client: &Client, job: &Value) -> Result<Vec<Value>> {
    let path = format!("/dead-letters/jobs/{}", job["id"].as_str().context("a job's id")?);
    let seen = std::cell::RefCell::new(vec![job.clone()]);
    eventually("the job to end", || async {
        let (status, job) = client.get(&path).await?;
        ensure!(status == StatusCode::OK, "{job}");
        let ended = !job["ended_at_ms"].is_null();
        seen.borrow_mut().push(job);
        Ok(ended.then_some(()))
    })
    .await?;
    Ok(seen.into_inner())
}

async fn start_job(client: &Client, verb: &str, body: &Value) -> Result<Value> {
    let (status, job) = client.post(&format!("/dead-letters/{verb}"), body).await?;
    ensure!(status == StatusCode::ACCEPTED, "{status} {job}");
    Ok(job)
}

/// Waits until all dead letters are processed, and checks that each was processed once.
async fn all_done_once(env: &TestEnv, dead_letters: i64) -> Result<()> {
    let done = "SELECT count(*) FROM events WHERE type = 'work.done'";
    let open = "SELECT count(*) FROM deliveries WHERE status = 'open'";
    eventually("the replayed letters", || async {
        Ok((env.query_count(done).await? >= dead_letters && env.query_count(open).await? == 0)
            .then_some(()))
    })
    .await?;
    assert_eq!(env.query_count(done).await?, dead_letters, "some were done twice");
    let distinct = "SELECT count(DISTINCT subject) FROM events WHERE type = 'work.done'";
    assert_eq!(env.query_count(distinct).await?, dead_letters);
    Ok(())
}

/// Lists the groups of `bursts` times a hundred dead letters and replays one with a patch. Returns
/// how long the list took.
async fn replay_group_with_patch(backend: Backend, bursts: usize) -> Result<Duration> {
    let (env, host) = env_with_dead_letters(backend, bursts).await?;
    let each = bursts * BURST / CAUSES;
    let mut took = Duration::MAX;
    // The first query finds no plan and no page in memory.
    for _ in 0..5 {
        let began = Instant::now();
        let groups = groups(&host.client).await?;
        took = took.min(began.elapsed());
        assert_eq!(groups.len(), CAUSES, "{groups:#?}");
        assert!(groups.iter().all(|group| group["open"] == each), "{groups:#?}");
    }
    let group = group(&host.client, SILENT).await?;
    let body = json!({ "filter": { "group": group["id"] }, "edit": { "wrong": null }, "rate_per_second": 2_000 });
    let job = start_job(&host.client, "replay", &body).await?;
    assert_eq!(job["total"], each);
    let seen = follow(&host.client, &job).await?;
    let settled: Vec<u64> = seen.iter().filter_map(|job| job["done"].as_u64()).collect();
    assert!(settled.is_sorted() && seen.iter().all(|job| job["total"] == each), "{seen:?}");
    let last = seen.last().expect("an end");
    let came = |name: &str| last[name].as_u64();
    assert_eq!(
        (last["state"].as_str(), came("done"), came("skipped"), came("failed")),
        (Some("done"), Some(each as u64), Some(0), Some(0))
    );

    // The same request again finds nothing to do.
    let again = start_job(&host.client, "replay", &body).await?;
    assert_eq!(follow(&host.client, &again).await?.last().expect("an end")["total"], 0);
    all_done_once(&env, each as i64).await?;
    // An edited event replaces the original; the others are unchanged.
    let replaced = "SELECT count(*) FROM deliveries WHERE status = 'replaced'";
    assert_eq!(env.query_count(replaced).await?, each as i64);
    assert_eq!(
        env.query_count("SELECT count(*) FROM dead_letters WHERE status = 'open'").await?,
        ((CAUSES - 1) * each) as i64
    );
    assert_eq!(
        groups(&host.client)
            .await?
            .iter()
            .filter(|group| group["open"] == 0 && group["replayed"] == each)
            .count(),
        1
    );
    host.stop().await?;
    Ok(took)
}

async fn group_is_patched_and_replayed_once(backend: Backend) -> Result<()> {
    replay_group_with_patch(backend, 3).await.map(drop)
}

/// Longest time for the list of groups.
const GROUPS_MAX: Duration = Duration::from_millis(200);

async fn ten_thousand(backend: Backend) -> Result<()> {
    let took = replay_group_with_patch(backend, 100).await?;
    println!("{backend:?}: the groups of 10,000 dead letters were listed in {took:?}");
    assert!(took < GROUPS_MAX, "the list of groups took {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: `cargo xtask test` runs it alone, after the others"]
async fn ten_thousand_dead_letters_form_a_few_groups_embedded() -> Result<()> {
    ten_thousand(Backend::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: `cargo xtask test` runs it alone, after the others"]
async fn ten_thousand_dead_letters_form_a_few_groups_on_servers() -> Result<()> {
    ten_thousand(Backend::Servers).await
}

async fn cancelled_job_leaves_the_rest_open(backend: Backend) -> Result<()> {
    let (env, host) = env_with_dead_letters(backend, 1).await?;
    let body =
        json!({ "filter": { "all": true }, "edit": { "wrong": null }, "rate_per_second": 5 });
    let job = start_job(&host.client, "replay", &body).await?;
    let path = format!("/dead-letters/jobs/{}", job["id"].as_str().expect("an id"));
    let progress =
        || async { Ok(host.client.get(&path).await?.1["done"].as_u64().filter(|done| *done >= 3)) };
    eventually("the job to come to some letters", progress).await?;
    let (status, _) = host.client.post(&format!("{path}/cancel"), &json!(null)).await?;
    assert_eq!(status, StatusCode::ACCEPTED);
    let ended = follow(&host.client, &job).await?.pop().expect("an end");
    let done = ended["done"].as_i64().expect("a count");
    assert_eq!(ended["state"], "cancelled");
    assert!((3..100).contains(&done), "{ended}");
    assert_eq!(
        env.query_count("SELECT count(*) FROM dead_letters WHERE status = 'open'").await?,
        100 - done
    );
    all_done_once(&env, done).await?;
    assert_eq!(host.client.get("/dead-letters/jobs/nobody").await?.0, StatusCode::NOT_FOUND);
    host.stop().await
}

async fn job_ends_with_its_host_and_can_be_restarted(backend: Backend) -> Result<()> {
    let (env, host) = env_with_dead_letters(backend, 1).await?;
    let mut body =
        json!({ "filter": { "stage": "picky" }, "edit": { "wrong": null }, "rate_per_second": 5 });
    let job = start_job(&host.client, "replay", &body).await?;
    let path = format!("/dead-letters/jobs/{}", job["id"].as_str().expect("an id"));
    let progress =
        || async { Ok(host.client.get(&path).await?.1["done"].as_u64().filter(|done| *done >= 2)) };
    eventually("the job to come to some letters", progress).await?;
    // A hundred dead letters at five per second: the job is still running.
    host.stop().await?;
    assert!(env.query_count("SELECT count(*) FROM dead_letters WHERE status = 'open'").await? > 50);

    let host = start(&env).await?;
    assert_eq!(host.client.get(&path).await?.0, StatusCode::NOT_FOUND, "jobs end with their host");
    body["rate_per_second"] = json!(1_000);
    let job = start_job(&host.client, "replay", &body).await?;
    let ended = follow(&host.client, &job).await?.pop().expect("an end");
    assert_eq!((ended["state"].as_str(), &ended["done"]), (Some("done"), &job["total"]));
    all_done_once(&env, 100).await?;
    host.stop().await
}

async fn group_is_discarded(backend: Backend) -> Result<()> {
    let (env, host) = env_with_dead_letters(backend, 1).await?;
    let group = group(&host.client, SILENT).await?;
    let body = json!({ "filter": { "group": group["id"] }, "reason": "the bank is gone", "rate_per_second": 1_000 });
    let job = start_job(&host.client, "discard", &body).await?;
    let ended = follow(&host.client, &job).await?.pop().expect("an end");
    assert_eq!((ended["state"].as_str(), ended["done"].as_u64()), (Some("done"), Some(20)));
    assert_eq!(env.query_count("SELECT count(*) FROM dead_letters WHERE status = 'discarded' AND note = 'the bank is gone'").await?, 20);
    // A discarded dead letter is not replayed, alone or in a group.
    let (status, _) =
        host.client.post(&format!("/dead-letters/{}/replay", group["example"]), &json!({})).await?;
    assert_eq!(status, StatusCode::CONFLICT);
    let job =
        start_job(&host.client, "replay", &json!({ "filter": { "group": group["id"] } })).await?;
    assert_eq!(job["total"], 0);
    host.stop().await
}

async fn ambiguous_job_requests_are_refused(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, "").await?;
    let host = start(&env).await?;
    let wrong = json!({ "filter": { "stage": 7, "since": "yesterday", "colour": "red" }, "edit": [1], "rate_per_second": 0, "rates": 1 });
    let (status, problem) = host.client.post("/dead-letters/replay", &wrong).await?;
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|error| error["pointer"].as_str())
        .collect();
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        pointers,
        ["/rates", "/edit", "/rate_per_second", "/filter/colour", "/filter/stage", "/filter/since"]
    );
    for (path, body, pointer) in [
        ("/dead-letters/replay", json!({}), "/filter"),
        ("/dead-letters/replay", json!({ "filter": { "all": false } }), "/filter"),
        ("/dead-letters/discard", json!({ "filter": { "all": true } }), "/reason"),
        ("/dead-letters/discard", json!({ "filter": [], "reason": "x" }), "/filter"),
    ] {
        let (status, problem) = host.client.post(path, &body).await?;
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(pointer)),
            "{path} {body}"
        );
    }
    let (status, _) = host.client.get("/dead-letters?since=yesterday").await?;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    host.stop().await
}

async fn dead_letter_shows_the_result_of_its_replay(backend: Backend) -> Result<()> {
    let (env, host) = env_with_dead_letters(backend, 1).await?;
    let example = group(&host.client, SILENT).await?["example"].clone();
    let path = format!("/dead-letters/{example}");
    let (_, dead_letter) = host.client.get(&path).await?;
    assert_eq!(
        (dead_letter["group"]["fingerprint"].as_str(), &dead_letter["replayed_as"]),
        (Some(SILENT), &Value::Null)
    );
    let (status, _) =
        host.client.post(&format!("{path}/replay"), &json!({ "edit": {}, "data": {} })).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    // A patch that changes nothing is no edit: the same event is replayed and fails again.
    let (_, answer) =
        host.client.post(&format!("{path}/replay"), &json!({ "edit": { "absent": null } })).await?;
    assert_eq!(answer["edited"], false, "{answer}");
    let again = eventually("the second dead letter", || async {
        let (_, page) = host.client.get("/dead-letters?status=open&limit=1").await?;
        Ok(page["items"].get(0).filter(|dead_letter| dead_letter["round"] == 2).cloned())
    })
    .await?;
    let (_, dead_letter) = host.client.get(&path).await?;
    assert_eq!(
        (&dead_letter["replayed_as"]["event"]["id"], &dead_letter["replayed_as"]["edited"]),
        (&dead_letter["event"]["id"], &json!(false))
    );
    assert_eq!(dead_letter["replayed_as"]["delivery"]["status"], "dead");

    let path = format!("/dead-letters/{}", again["id"]);
    let (_, answer) =
        host.client.post(&format!("{path}/replay"), &json!({ "edit": { "wrong": null } })).await?;
    assert_eq!(answer["edited"], true, "{answer}");
    all_done_once(&env, 1).await?;
    let (_, dead_letter) = host.client.get(&path).await?;
    assert_eq!(
        (&dead_letter["replayed_as"]["event"], &dead_letter["replayed_as"]["delivery"]["status"]),
        (&answer["event"], &json!("done"))
    );
    // It continues the trace and the cause of the original.
    let causes = "SELECT count(*) FROM events n JOIN events o ON n.cause_id = o.id AND n.cause_source = o.source \
                  AND n.correlation_id = o.correlation_id WHERE n.type = 'work.asked' AND o.type = 'work.asked'";
    assert_eq!(env.query_count(causes).await?, 1);
    host.stop().await
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
async fn command_line_lists_replays_and_discards_groups(backend: Backend) -> Result<()> {
    let (env, host) = env_with_dead_letters(backend, 1).await?;
    let url = host.client.url.clone();
    let run = async |args: &[&str]| postrider(&[args, &["--url", &url]].concat()).await;
    let (code, said, _) = run(&["dlq", "groups"]).await?;
    assert_eq!((code, said.lines().count()), (0, 1 + CAUSES), "{said}");
    assert!(
        said.contains(SILENT) && said.lines().nth(1).is_some_and(|line| line.contains(" 20 ")),
        "{said}"
    );
    let (code, said, _) =
        run(&["--json", "dlq", "list", "--stage", "picky", "--code", "bad-total", "--since", "1h"])
            .await?;
    let page: Value = serde_json::from_str(&said)?;
    assert_eq!((code, page["items"].as_array().map(Vec::len)), (0, Some(20)));
    let group = group(&host.client, SILENT).await?;
    let (id, example) = (group["id"].as_str().expect("an id"), group["example"].to_string());
    let (_, said, _) = run(&["dlq", "show", &example]).await?;
    for part in ["open", "no-answer", SILENT, "attempts", "\"wrong\": 0"] {
        assert!(said.contains(part), "`{part}` is missing in {said}");
    }

    // The editor is a program that removes the fault; one that writes invalid JSON changes nothing.
    let editor = |script: &str| -> Result<String> {
        let path = env.folder.path().join("editor.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        Ok(format!("sh {}", path.display()))
    };
    let broken = editor("echo '{' > \"$1\"")?;
    let folder = env.folder.path().display().to_string();
    let edit = |editor: &str| {
        let environment = [("EDITOR", editor), ("VISUAL", ""), ("TMPDIR", folder.as_str())];
        crate::support::process::output(&["dlq", "edit", &example, "--url", &url], &environment)
    };
    let failed = edit(&broken)?;
    assert_eq!(
        (failed.status.code(), String::from_utf8_lossy(&failed.stderr).contains("invalid JSON")),
        (Some(1), true)
    );
    let corrected = edit(&editor("sed -i 's/\"wrong\": 0/\"right\": 0/' \"$1\"")?)?;
    let said = String::from_utf8_lossy(&corrected.stdout).into_owned();
    assert!(
        corrected.status.success() && said.contains("- ") && said.contains("+   \"right\": 0"),
        "{said}"
    );
    all_done_once(&env, 1).await?;

    let (code, said, _) =
        run(&["dlq", "replay", "--group", id, "--patch", "{\"wrong\":null}", "--rate", "1000"])
            .await?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("19 of 19 replayed, 0 skipped, 0 failed"), "{said}");
    all_done_once(&env, 20).await?;
    let (code, said, _) = run(&[
        "--json", "dlq", "discard", "--all", "--stage", "picky", "--reason", "tests", "--rate",
        "1000",
    ])
    .await?;
    assert_eq!((code, &serde_json::from_str::<Value>(&said)?["done"]), (0, &json!(80)));
    // Neither a dead letter nor a filter is a usage error. A settled dead letter fails with one
    // line.
    assert_eq!(run(&["dlq", "replay"]).await?.0, 2);
    assert_eq!(run(&["dlq", "replay", "1", "--all"]).await?.0, 2);
    let (code, _, error) = run(&["dlq", "replay", &example]).await?;
    assert_eq!((code, error.lines().count()), (1, 1), "{error}");
    let (_, said, _) = run(&["dlq", "jobs"]).await?;
    assert_eq!(said.lines().filter(|line| line.contains("done")).count(), 2, "{said}");

    let (code, said, _) = run(&["stages", "drain", "picky", "--wait"]).await?;
    assert_eq!((code, said.contains("stage picky is drained")), (0, true), "{said}");
    let (_, said, _) = run(&["stages", "list"]).await?;
    assert!(
        said.lines().any(|line| line.starts_with("picky") && line.contains("drained")),
        "{said}"
    );
    assert_eq!(run(&["stages", "resume", "picky"]).await?.0, 0);
    host.stop().await
}
