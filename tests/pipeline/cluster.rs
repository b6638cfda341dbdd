//! Several hosts on one store, with different plugins: any of them shows all of them, and every control
//! works through any of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{
    Config, Description, Emitted, Event, Failure, NativeContext, NativeError, NativeStage,
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{Backend, Client, RunningHost, TestEnv, eventually, guest};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::{HostProcess, postrider};

/// Starts a host with a plugins folder and an archive of its own.
async fn start_in(env: &TestEnv, name: &str, guests: &[(&str, &str)]) -> Result<RunningHost> {
    let folder = env.folder.path().join(name);
    std::fs::create_dir_all(&folder)?;
    for (guest_name, file) in guests {
        install(env, name, guest_name, file)?;
    }
    let text = env.config_text().replace("/kept\"", &format!("/kept-{name}\""));
    let config = Config::from_toml(&text)?;
    env.start_with(|builder| builder.config(config).plugin_dir(folder)).await
}

/// Installs a guest in the folder of a host.
fn install(env: &TestEnv, host: &str, guest_name: &str, file: &str) -> Result<()> {
    let temporary = env.folder.path().join(format!("{host}-{file}.part"));
    std::fs::copy(guest(guest_name)?, &temporary)?;
    std::fs::rename(temporary, env.folder.path().join(host).join(format!("{file}.wasm")))?;
    Ok(())
}

async fn post(client: &Client, ids: std::ops::Range<usize>) -> Result<()> {
    for id in ids {
        let order =
            json!({ "order_id": format!("c-{id}"), "user_id": "1", "items": ["Book"], "total": 1 });
        ensure!(client.post("/orders", &order).await?.0.is_success());
    }
    Ok(())
}

/// What differs between two readings of the same state, and the order of lists without one.
fn steady(value: &Value) -> Value {
    const VOLATILE: [&str; 5] = ["held", "handed_over", "rates", "seen_at_ms", "answered_by"];
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str()));
            Value::Object(fields.map(|(name, value)| (name.clone(), steady(value))).collect())
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(steady).collect();
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        other => other.clone(),
    }
}

const PICTURE: [&str; 4] = ["/stages", "/plugins", "/topology", "/hosts"];

/// Waits until all hosts show the same, and `is_complete` says that it is all there.
async fn picture(
    clients: &[&Client],
    is_complete: impl Fn(&[Value]) -> bool,
) -> Result<Vec<Value>> {
    eventually("all hosts to show the same", || async {
        let mut pictures = Vec::new();
        for client in clients {
            let mut shown = Vec::new();
            for path in PICTURE {
                shown.push(steady(&client.get(path).await?.1));
            }
            pictures.push(shown);
        }
        let first = pictures.remove(0);
        Ok((pictures.iter().all(|other| *other == first) && is_complete(&first)).then_some(first))
    })
    .await
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// The hosts of a stage of `GET /stages`, with a field of what each runs.
fn on_hosts<'v>(stage: &'v Value, field: &str) -> Vec<&'v str> {
    let hosts = stage["hosts"].as_array().into_iter().flatten();
    hosts.filter_map(|host| host[field].as_str()).collect()
}

async fn name_of(client: &Client) -> Result<String> {
    let (_, hosts) = client.get("/hosts").await?;
    Ok(hosts["answered_by"].as_str().context("a name")?.to_owned())
}

/// Waits until a field of a stage has this value on every host that knows it, as `client` shows it.
async fn wait_on_all_hosts(client: &Client, stage: &str, field: &str, value: &str) -> Result<()> {
    eventually(&format!("{field} of {stage} to be {value}"), || async {
        let shown = client.stage(stage).await?;
        let on_hosts = on_hosts(&shown, field);
        Ok((!on_hosts.is_empty() && on_hosts.iter().all(|one| *one == value)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_with_different_plugins_show_the_same_picture() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, AMPLE_STOCK).await?;
    let first = [("payment", "payment"), ("inventory", "inventory")];
    let other = [("shipping", "shipping"), ("notification", "notification"), ("payment", "pay")];
    let one = start_in(&env, "one", &first).await?;
    let two = start_in(&env, "two", &other).await?;
    let names = [name_of(&one.client).await?, name_of(&two.client).await?];
    let is_complete = |shown: &[Value]| {
        items(&shown[0]).len() == 4 && items(&shown[1]).len() == 5 && items(&shown[3]).len() == 2
    };
    let shown = picture(&[&one.client, &two.client], is_complete).await?;
    let stage = |name: &str| items(&shown[0]).iter().find(|stage| stage["stage"] == name);
    let shipping = stage("shipping").context("a stage of the other host")?;
    assert_eq!(on_hosts(shipping, "host"), [&names[1]]);
    assert_eq!(shipping["version"], shipping["hosts"][0]["version"]);
    let mut both = on_hosts(stage("payment").context("a stage of both")?, "host");
    both.sort_unstable();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    assert_eq!(both, sorted);
    // Each host alone would warn that nothing emits what its stages consume.
    assert_eq!(shown[2]["warnings"], json!([]), "{}", shown[2]);
    assert_eq!(shown[2]["stages"].as_array().map(Vec::len), Some(4));
    for host in [&one, &two] {
        let (status, ready) = host.client.get("/ready").await?;
        assert_eq!((status, &ready["stages_without_host"]), (StatusCode::OK, &json!([])));
    }
    post(&one.client, 0..5).await?;
    for id in 0..5 {
        two.client.wait_for_status(&format!("c-{id}"), "ready").await?;
    }
    // A plugin that is removed on one host is idle there, on whichever host one looks.
    std::fs::remove_file(env.folder.path().join("two/notification.wasm"))?;
    let is_gone = |shown: &[Value]| {
        let notification = items(&shown[0]).iter().find(|one| one["stage"] == "notification");
        notification.is_some_and(|stage| stage["version"].is_null())
    };
    picture(&[&one.client, &two.client], is_gone).await?;
    // Hosts learn of each other's bindings every five seconds.
    let (status, ready) = eventually("a stage without a host", || async {
        let answer = one.client.get("/ready").await?;
        Ok((answer.1["stages_without_host"] == json!(["notification"])).then_some(answer))
    })
    .await?;
    assert_eq!(status, StatusCode::OK, "this host can do its work: {ready}");
    two.stop().await?;
    eventually("the stopped host to be gone", || async {
        Ok((items(&one.client.get("/hosts").await?.1).len() == 1).then_some(()))
    })
    .await?;
    one.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stage_is_controlled_through_a_host_that_does_not_run_it() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, AMPLE_STOCK).await?;
    let first = [("payment", "payment"), ("inventory", "inventory")];
    let other = [("shipping", "shipping"), ("notification", "notification")];
    let one = start_in(&env, "one", &first).await?;
    let two = start_in(&env, "two", &other).await?;
    wait_on_all_hosts(&one.client, "shipping", "consumption", "consuming").await?;
    for (id, (control, state)) in [("pause", "paused"), ("drain", "draining")].iter().enumerate() {
        let path = format!("/stages/shipping/{control}");
        let (status, said) = one.client.post(&path, &json!({ "reason": "holidays" })).await?;
        assert_eq!((status, said["state"].as_str()), (StatusCode::OK, Some(*state)), "{said}");
        // It is known here at once, and followed there.
        let shown = one.client.stage("shipping").await?;
        assert_eq!((&shown["control"], &shown["reason"]), (&json!(state), &json!("holidays")));
        wait_on_all_hosts(&one.client, "shipping", "control", state).await?;
        assert_eq!(two.client.stage("shipping").await?["control"], *state);
        for host in [&one, &two] {
            assert_eq!(host.client.get("/ready").await?.1["held"], json!(["shipping"]));
        }
        post(&one.client, id..id + 1).await?;
        one.client.wait_for_status(&format!("c-{id}"), "reserved").await?;
        let waits =
            || async { Ok((one.client.stage("shipping").await?["waiting"] == 1).then_some(())) };
        eventually("the order to wait", waits).await?;
        one.client.post("/stages/shipping/resume", &json!({})).await?;
        one.client.wait_for_status(&format!("c-{id}"), "ready").await?;
    }
    let (status, _) = one.client.post("/stages/nobody/pause", &json!({})).await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    one.stop().await?;
    two.stop().await
}

/// Fails while its bank is down.
#[derive(Clone, Default)]
struct Bank {
    is_up: Arc<AtomicBool>,
}

#[async_trait]
impl NativeStage for Bank {
    fn describe(&self) -> Description {
        Description::new("bank", "1.0.0", "Asks a bank").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        if self.is_up.load(Ordering::SeqCst) {
            return Ok(vec![]);
        }
        Err(Failure::retry("unavailable", "no answer").into())
    }
}

/// Fails on one host, and succeeds on another.
#[derive(Clone)]
struct Local {
    fails: bool,
}

#[async_trait]
impl NativeStage for Local {
    fn describe(&self) -> Description {
        Description::new("local", "1.0.0", "Depends on its host").consumes(["order.created"])
    }

    async fn handle(
        &self,
        _: &mut NativeContext,
        event: &Event,
    ) -> Result<Vec<Emitted>, NativeError> {
        match (self.fails, event.subject.as_str()) {
            (true, "c-1") => Err(Failure::reject("local-fault", "the disk is gone").into()),
            (true, _) => Err(Failure::retry("local-fault", "the disk is full").into()),
            (false, _) => Ok(vec![]),
        }
    }
}

/// What the order's history has of the stage `local`.
async fn local_of(client: &Client, id: &str) -> Result<Value> {
    let (_, order) = client.get(&format!("/orders/{id}")).await?;
    let mut timeline = order["timeline"].as_array().into_iter().flatten();
    Ok(timeline.find(|entry| entry["stage"] == "local").cloned().unwrap_or_default())
}

fn hosts_of_failures(delivery: &Value, field: &str) -> Vec<Value> {
    let failures = delivery[field].as_array().into_iter().flatten();
    failures.map(|failure| failure["host"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_has_the_host_of_each_attempt() -> Result<()> {
    // The attempts last until the other host is there.
    let toml = "[stages.local.retry]\nmax_attempts = 100000\ninitial_ms = 50\nmax_ms = 50\n";
    let env = TestEnv::empty_on(Backend::Servers, toml).await?;
    let failing = env.start_with(|builder| builder.stage(Local { fails: true })).await?;
    let first = name_of(&failing.client).await?;
    post(&failing.client, 0..2).await?;
    // The delivery is read before its attempts.
    let open = eventually("a failed attempt", || async {
        let delivery = local_of(&failing.client, "c-0").await?;
        let has_failed = !hosts_of_failures(&delivery, "failures").is_empty();
        Ok((has_failed && !delivery["host"].is_null()).then_some(delivery))
    })
    .await?;
    assert_eq!((&open["status"], &open["host"]), (&json!("open"), &json!(first)), "{open}");
    let dead_letter = eventually("the dead letter", || async {
        Ok(failing.client.get("/dead-letters").await?.1["items"].get(0).cloned())
    })
    .await?;
    failing.stop().await?;

    let working = env.start_with(|builder| builder.stage(Local { fails: false })).await?;
    let (client, second) = (&working.client, name_of(&working.client).await?);
    assert_ne!(first, second);
    let done = eventually("the success", || async {
        let delivery = local_of(client, "c-0").await?;
        Ok((delivery["status"] == "done").then_some(delivery))
    })
    .await?;
    assert_eq!(done["host"], second, "{done}");
    let failed_on = hosts_of_failures(&done, "failures");
    assert!(!failed_on.is_empty() && failed_on.iter().all(|host| *host == first), "{done}");
    let (_, shown, _) = postrider(&["orders", "get", "c-0", "--url", &client.url]).await?;
    assert!(shown.contains(&format!(" ms  on {second}\n")), "{shown}");
    assert!(shown.contains(&format!("attempt 1 on {first}: local-fault: ")), "{shown}");

    let id = dead_letter["id"].to_string();
    let (_, dead_letter) = client.get(&format!("/dead-letters/{id}")).await?;
    assert_eq!(hosts_of_failures(&dead_letter, "attempts"), [json!(first)], "{dead_letter}");
    let (_, shown, _) = postrider(&["dlq", "show", &id, "--url", &client.url]).await?;
    assert!(shown.contains(&format!("  {first}  local-fault: ")), "{shown}");
    // Its replay runs on the other host.
    assert_eq!(local_of(client, "c-1").await?["host"], first);
    client.post(&format!("/dead-letters/{id}/replay"), &json!({})).await?;
    let replayed = eventually("the replay", || async {
        let (_, dead_letter) = client.get(&format!("/dead-letters/{id}")).await?;
        let delivery = dead_letter["replayed_as"]["delivery"].clone();
        Ok((delivery["status"] == "done").then_some(delivery))
    })
    .await?;
    assert_eq!(replayed["host"], second, "{replayed}");
    working.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breaker_is_closed_through_a_host_that_does_not_run_the_stage() -> Result<()> {
    // Without a command it would stay open for an hour.
    let toml = "[stages.bank.breaker]\nopen_ms = 3600000\nopen_max_ms = 3600000\n";
    let env = TestEnv::empty_on(Backend::Servers, toml).await?;
    let bank = Bank::default();
    let plain = env.start().await?;
    let banking = env.start_with(|builder| builder.stage(bank.clone())).await?;
    wait_on_all_hosts(&plain.client, "bank", "consumption", "consuming").await?;
    post(&plain.client, 0..40).await?;
    eventually("the breaker to be open on the other host", || async {
        Ok((plain.client.stage("bank").await?["breaker"] == "open").then_some(()))
    })
    .await?;
    let shown = plain.client.stage("bank").await?;
    let reason = shown["breaker_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("unavailable: no answer"), "{shown}");
    assert_eq!(plain.client.get("/ready").await?.1["breakers_open"], json!(["bank"]));
    bank.is_up.store(true, Ordering::SeqCst);
    let why = json!({ "reason": "the bank answers" });
    let (status, said) = plain.client.post("/stages/bank/breaker/close", &why).await?;
    assert_eq!((status, &said["breaker"]), (StatusCode::OK, &json!("closed")), "{said}");
    let done = "SELECT count(*) FROM deliveries WHERE stage = 'bank' AND status = 'done'";
    eventually("all orders to be done", || async {
        Ok((env.query_count(done).await? == 40).then_some(()))
    })
    .await?;
    let (_, log) = plain.client.get("/audit?action=breaker.close").await?;
    let [closed] = items(&log) else { anyhow::bail!("{log}") };
    assert_eq!(closed["host"], name_of(&banking.client).await?);
    assert_eq!(closed["actor"]["id"], "anonymous", "who asked, and not the host: {closed}");
    assert_eq!(closed["reason"], why["reason"], "{closed}");
    let (status, _) = plain.client.post("/stages/nobody/breaker/close", &json!({})).await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    plain.stop().await?;
    banking.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugin_is_rolled_back_on_all_hosts_through_one_that_has_none() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, "").await?;
    let one = start_in(&env, "one", &[("fifth", "fifth")]).await?;
    let two = start_in(&env, "two", &[("fifth", "other")]).await?;
    let plain = start_in(&env, "plain", &[]).await?;
    eventually("both hosts to serve the stage", || async {
        let shown = plain.client.stage("audit").await?;
        Ok((on_hosts(&shown, "version") == ["1.0.0"; 2]).then_some(()))
    })
    .await?;
    let (status, refused) = plain.client.post("/plugins/audit/rollback", &json!({})).await?;
    assert_eq!(status, StatusCode::CONFLICT, "there is no version before: {refused}");
    install(&env, "one", "fifth-next", "fifth")?;
    install(&env, "two", "fifth-next", "other")?;
    wait_on_all_hosts(&plain.client, "audit", "version", "1.1.0").await?;
    let why = json!({ "reason": "it counts twice" });
    let (status, said) = plain.client.post("/plugins/audit/rollback", &why).await?;
    assert_eq!(status, StatusCode::OK, "{said}");
    let answers = said["hosts"].as_array().context("hosts")?;
    assert_eq!(answers.len(), 2, "{said}");
    assert!(answers.iter().all(|host| host["digest"] == said["digest"]), "{said}");
    wait_on_all_hosts(&plain.client, "audit", "version", "1.0.0").await?;
    for (host, file) in [("one", "fifth"), ("two", "other")] {
        let served = std::fs::read(env.folder.path().join(host).join(format!("{file}.wasm")))?;
        assert!(served == std::fs::read(guest("fifth")?)?, "the file of host {host}");
    }
    let (_, log) = plain.client.get("/audit?action=plugin.roll-back").await?;
    let done: Vec<&Value> = items(&log).iter().filter(|one| one["outcome"] == "done").collect();
    assert!(done.len() == 2 && done.iter().all(|one| one["reason"] == why["reason"]), "{log}");
    let (status, _) = plain.client.post("/plugins/nobody/rollback", &json!({})).await?;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // A host without the version says so; the others follow it nevertheless.
    std::fs::remove_dir_all(env.folder.path().join("kept-two"))?;
    let next = items(&plain.client.get("/plugins/audit/history").await?.1)
        .iter()
        .find(|load| load["version"] == "1.1.0")
        .and_then(|load| load["digest"].as_str())
        .context("a digest")?
        .to_owned();
    let (status, said) =
        one.client.post("/plugins/audit/rollback", &json!({ "digest": next })).await?;
    assert_eq!((status, &said["hosts"][0]["digest"]), (StatusCode::OK, &json!(next)), "{said}");
    let error = said["hosts"][1]["error"].as_str().unwrap_or_default();
    assert!(error.contains("not archived"), "{said}");
    for host in [one, two, plain] {
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_host_leaves_the_picture_when_its_lease_ends() -> Result<()> {
    let env = TestEnv::shipped_on(Backend::Servers, AMPLE_STOCK).await?;
    let survivor = start_in(&env, "one", &[("payment", "payment")]).await?;
    let (process, other) = HostProcess::start_ready(&env).await?;
    let killed = name_of(&other).await?;
    wait_on_all_hosts(&survivor.client, "shipping", "consumption", "consuming").await?;
    process.kill()?;
    assert!(
        items(&survivor.client.get("/hosts").await?.1).iter().any(|host| host["host"] == *killed)
    );
    // Half a minute passes for it.
    env.execute(&format!(
        "UPDATE hosts SET seen_ms = seen_ms - 30000 WHERE host = '{killed}'; \
         UPDATE bindings SET seen_ms = seen_ms - 30000 WHERE host = '{killed}'"
    ))
    .await?;
    eventually("the killed host to be gone", || async {
        Ok((items(&survivor.client.get("/hosts").await?.1).len() == 1).then_some(()))
    })
    .await?;
    // What it ran is listed, because events are routed to it, and wait. Hosts learn of each other's
    // bindings every five seconds.
    let missing = json!(["inventory", "notification", "shipping"]);
    let (status, ready) = eventually("its stages to be without a host", || async {
        let answer = survivor.client.get("/ready").await?;
        Ok((answer.1["stages_without_host"] == missing).then_some(answer))
    })
    .await?;
    assert_eq!(status, StatusCode::OK, "{ready}");
    let shipping = survivor.client.stage("shipping").await?;
    assert_eq!((&shipping["hosts"], &shipping["version"]), (&json!([]), &Value::Null));
    let (status, said) = survivor.client.post("/stages/shipping/pause", &json!({})).await?;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert_eq!(survivor.client.stage("shipping").await?["control"], "paused");
    survivor.stop().await
}
