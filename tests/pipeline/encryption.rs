//! Encryption of what is stored and sent: nothing of it is plain, keys are rotated, a lost key makes only what it
//! sealed unreadable, and a customer is erased.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapin::options::BasicGetOptions;
use lapin::{Connection, ConnectionProperties};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::harness::{
    Backend, Client, RunningHost, TestEnv, eventually, on_both_back_ends,
};
use crate::support::servers::amqp_url;

on_both_back_ends![
    nothing_that_is_stored_is_plain,
    a_rotation_wraps_every_key_again,
    a_lost_key_makes_only_what_it_sealed_unreadable,
    a_customer_is_erased,
    an_encrypted_store_is_not_opened_without_keys,
];

/// In the bodies, and in nothing that a store searches by.
const MARKER: &str = "marker-7f3a";
const SETTINGS: &str = "recording.enabled = true\nbroker.local_handover = false\n\
                        [stages.payment.retry]\nmax_attempts = 2\ninitial_ms = 1\nmax_ms = 1\n\
                        [stages.inventory.settings]\ndefault_stock = \"1000\"\n";

/// Writes a key ring; the first id is the primary one.
fn write_keys(env: &TestEnv, ids: &[&str]) -> Result<()> {
    let keys = ids.iter().map(|id| {
        let mut key = [7; 32];
        key[..id.len()].copy_from_slice(id.as_bytes());
        format!("{id} = \"{}\"\n", STANDARD.encode(key))
    });
    let text = format!("primary = \"{}\"\n[keys]\n{}", ids[0], keys.collect::<String>());
    Ok(std::fs::write(env.folder.path().join("keys.toml"), text)?)
}

/// With the keys of these ids.
async fn encrypted(backend: Backend, ids: &[&str]) -> Result<TestEnv> {
    let mut env = TestEnv::shipped_on(backend, SETTINGS).await?;
    let file = env.folder.path().join("keys.toml");
    env.toml = format!("{SETTINGS}[encryption]\nkey_file = \"{}\"\n", file.display());
    write_keys(&env, ids)?;
    Ok(env)
}

async fn order(client: &Client, id: &str, item: &str, fails: bool) -> Result<()> {
    let order = json!({ "order_id": id, "user_id": "1", "items": [item], "note": MARKER,
        "force_fail": fails });
    let (status, answer) = client.post("/orders", &order).await?;
    ensure!(status.is_success(), "{status}: {answer}");
    Ok(())
}

/// Orders, one of them dead-lettered, and an event without a subject.
async fn work(client: &Client) -> Result<()> {
    order(client, "ready", "Book", false).await?;
    order(client, "failed", "Book", true).await?;
    let event = json!({ "specversion": "1.0", "id": "e1", "source": "/warehouse",
        "type": "shelf.dusted", "data": { "note": MARKER } });
    let kind = "application/cloudevents+json";
    ensure!(client.post_raw("/events", kind, event.to_string()).await?.0.is_success());
    client.wait_for_status("ready", "ready").await?;
    client.wait_for_status("failed", "failed").await?;
    Ok(())
}

/// What a database keeps of a text, as such or in hexadecimal digits.
async fn finds(env: &TestEnv, marker: &str) -> Result<bool> {
    let hex: String = marker.bytes().map(|byte| format!("{byte:02x}")).collect();
    let dump = env.dump().await?.to_lowercase();
    let mut found = dump.contains(marker) || dump.contains(&hex);
    if env.servers.is_none() {
        for entry in std::fs::read_dir(env.folder.path().join("data"))? {
            let file = std::fs::read(entry?.path())?;
            found |= file.windows(marker.len()).any(|part| part == marker.as_bytes());
        }
    }
    Ok(found)
}

async fn nothing_that_is_stored_is_plain(backend: Backend) -> Result<()> {
    let plain = TestEnv::shipped_on(backend, SETTINGS).await?;
    let host = plain.start().await?;
    work(&host.client).await?;
    ensure!(finds(&plain, MARKER).await?, "the search finds nothing");
    host.stop().await?;

    let env = encrypted(backend, &["a"]).await?;
    let host = env.start().await?;
    work(&host.client).await?;
    ensure!(!finds(&env, MARKER).await?, "a body is stored as it is");
    let (_, events) = host.client.get("/events?limit=100").await?;
    ensure!(events.to_string().contains(MARKER), "the API shows it: {events}");
    let (_, shown) = host.client.get("/orders/ready").await?;
    ensure!(shown["order"]["note"] == MARKER, "{shown}");
    let (_, recordings) = host.client.get("/stages/payment/recordings").await?;
    ensure!(recordings.to_string().contains(MARKER), "{recordings}");
    // Texts of failures, and state.
    let (_, dead_letters) = host.client.get("/dead-letters").await?;
    let message = dead_letters["items"][0]["message"].as_str().context("a message")?;
    ensure!(!message.is_empty() && !message.contains("cannot be read"), "{message}");
    ensure!(!env.dump().await?.contains(message), "`{message}` is stored as it is");
    let plain_state = "SELECT count(*) FROM state WHERE value IS NOT NULL AND length(value) < 20";
    ensure!(env.query_count(plain_state).await? == 0, "a value of state is stored as it is");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_plain() -> Result<()> {
    let env = encrypted(Backend::Servers, &["a"]).await?;
    let servers = env.servers.as_ref().context("servers")?;
    let host = env.start().await?;
    let connection = Connection::connect(&amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let queue = servers.receive_events(&channel, "#").await?;
    work(&host.client).await?;
    let mut types: BTreeMap<String, usize> = BTreeMap::new();
    let get = BasicGetOptions { no_ack: true };
    while let Some(message) = channel.basic_get(queue.as_str().into(), get).await? {
        let message = message.delivery;
        let headers = format!("{:?}", message.properties.headers());
        let body = String::from_utf8_lossy(&message.data).into_owned();
        ensure!(!body.contains(MARKER) && !headers.contains(MARKER), "{headers} {body}");
        *types.entry(message.routing_key.to_string()).or_default() += 1;
    }
    ensure!(types.contains_key("order.created") && types.len() > 3, "{types:?}");
    connection.close(200, "done".into()).await?;
    host.stop().await
}

async fn keys(client: &Client) -> Result<Value> {
    Ok(client.get("/encryption").await?.1)
}

async fn a_rotation_wraps_every_key_again(backend: Backend) -> Result<()> {
    let env = encrypted(backend, &["a"]).await?;
    let host = env.start().await?;
    work(&host.client).await?;
    let shown = keys(&host.client).await?;
    // Two orders, and the shared key.
    let expected = json!([{ "id": "a", "present": true, "wraps": 3 }]);
    ensure!(shown["primary"] == "a" && shown["keys"] == expected, "{shown}");
    host.stop().await?;

    write_keys(&env, &["b", "a"])?;
    let host = env.start().await?;
    order(&host.client, "new", "Book", false).await?;
    host.client.wait_for_status("new", "ready").await?;
    let (_, batch) = host.client.post("/encryption/rewrap", &Value::Null).await?;
    ensure!(batch == json!({ "wrapped": 3, "lost": 0, "next": null }), "{batch}");
    let (_, audit) = host.client.get("/audit?limit=100").await?;
    ensure!(audit.to_string().contains("encryption.rewrap"), "{audit}");
    let shown = keys(&host.client).await?;
    let wraps = |id: &str| {
        let all = shown["keys"].as_array().into_iter().flatten();
        all.filter(|key| key["id"] == id).map(|key| key["wraps"].clone()).next()
    };
    ensure!(wraps("a") == Some(json!(0)) && wraps("b") == Some(json!(4)), "{shown}");
    host.stop().await?;

    write_keys(&env, &["b"])?;
    let host = env.start().await?;
    for id in ["ready", "new"] {
        let (_, shown) = host.client.get(&format!("/orders/{id}")).await?;
        ensure!(shown["order"]["note"] == MARKER, "{shown}");
    }
    order(&host.client, "last", "Book", false).await?;
    host.client.wait_for_status("last", "ready").await?;
    host.stop().await
}

async fn dead_letter(client: &Client) -> Result<Value> {
    let (_, page) = client.get("/dead-letters?status=open").await?;
    Ok(page["items"][0].clone())
}

async fn a_lost_key_makes_only_what_it_sealed_unreadable(backend: Backend) -> Result<()> {
    let env = encrypted(backend, &["a"]).await?;
    let host = env.start().await?;
    work(&host.client).await?;
    host.stop().await?;

    write_keys(&env, &["b"])?;
    let host = env.start().await?;
    let client = &host.client;
    let why = "the key `a` is not in this host's key ring";
    let (status, shown) = client.get("/orders/ready").await?;
    ensure!(status == StatusCode::OK && shown["unreadable"] == why, "{shown}");
    ensure!(shown["order"].is_null() && shown["status"] == "ready", "{shown}");
    let (_, listed) = client.get("/orders").await?;
    ensure!(listed["items"].as_array().is_some_and(|all| all.len() == 2), "{listed}");
    let (_, events) = client.get("/events?limit=100").await?;
    let events = events["items"].as_array().context("a list")?;
    ensure!(events.iter().any(|one| one["unreadable"] == why && one["data"].is_null()));
    let shown = keys(client).await?;
    let missing = json!({ "id": "a", "present": false, "wraps": 3 });
    ensure!(shown["keys"].as_array().is_some_and(|keys| keys.contains(&missing)), "{shown}");
    // What is new is processed. Its stock is in no value of state that the lost key sealed.
    order(client, "new", "Lamp", false).await?;
    client.wait_for_status("new", "ready").await?;
    // A replay needs the body.
    let path = format!("/dead-letters/{}/replay", dead_letter(client).await?["id"]);
    let (status, answer) = client.post(&path, &json!({ "edit": { "force_fail": false } })).await?;
    ensure!(status == StatusCode::CONFLICT, "{answer}");
    ensure!(client.post(&path, &Value::Null).await?.0.is_success());
    let again = eventually("the replay is dead-lettered", || async {
        let open = dead_letter(client).await?;
        Ok((open["code"] == "unreadable-body").then_some(open))
    })
    .await?;
    ensure!(again["message"].as_str().is_some_and(|text| text.contains(why)), "{again}");
    host.stop().await?;

    write_keys(&env, &["b", "a"])?;
    let host = env.start().await?;
    let (_, shown) = host.client.get("/orders/ready").await?;
    ensure!(shown["order"]["note"] == MARKER && shown.get("unreadable").is_none(), "{shown}");
    let path = format!("/dead-letters/{}/replay", again["id"]);
    let edit = json!({ "edit": { "force_fail": false } });
    ensure!(host.client.post(&path, &edit).await?.0.is_success());
    host.client.wait_for_status("failed", "ready").await?;
    host.stop().await
}

async fn a_customer_is_erased(backend: Backend) -> Result<()> {
    let env = encrypted(backend, &["a"]).await?;
    let host = env.start().await?;
    let client = &host.client;
    work(client).await?;
    let (status, _) =
        client.post("/encryption/erase", &json!({ "customer": "1", "kind": "x" })).await?;
    ensure!(status == StatusCode::NOT_FOUND);
    let (status, problem) = client.post("/encryption/erase", &json!({})).await?;
    ensure!(status == StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let request = json!({ "customer": "1", "reason": "asked to" });
    // The last steps of an order follow its status.
    let erased = eventually("the finished order is erased", || async {
        let (_, erased) = client.post("/encryption/erase", &request).await?;
        Ok((erased["subjects"] == 1).then_some(erased))
    })
    .await?;
    ensure!(erased["unfinished"] == json!(["order/failed"]), "{erased}");
    let path = format!("/dead-letters/{}/discard", dead_letter(client).await?["id"]);
    ensure!(client.post(&path, &json!({ "reason": "a test" })).await?.0.is_success());
    ensure!(client.post("/orders/failed/cancel", &json!({})).await?.0.is_success());
    client.wait_for_status("failed", "cancelled").await?;
    let erased = eventually("everything is erased", || async {
        let (_, erased) = client.post("/encryption/erase", &request).await?;
        Ok((erased["unfinished"] == json!([])).then_some(erased))
    })
    .await?;
    ensure!(erased["more"] == false, "{erased}");
    for id in ["ready", "failed"] {
        let (_, shown) = client.get(&format!("/orders/{id}")).await?;
        ensure!(shown["unreadable"] == "it was erased" && shown["customer"].is_null(), "{shown}");
        ensure!(shown["timeline"].as_array().is_some_and(|all| !all.is_empty()), "{shown}");
    }
    let (_, used) = client.get("/encryption").await?;
    ensure!(used["keys"][0]["wraps"] == 1, "only the shared key is left: {used}");
    let (_, audit) = client.get("/audit?limit=100").await?;
    ensure!(audit.to_string().contains("customer.erase"), "{audit}");
    host.stop().await
}

async fn an_encrypted_store_is_not_opened_without_keys(backend: Backend) -> Result<()> {
    let mut env = encrypted(backend, &["a"]).await?;
    let host = env.start().await?;
    order(&host.client, "ready", "Book", false).await?;
    host.stop().await?;
    SETTINGS.clone_into(&mut env.toml);
    let refused: Result<RunningHost> = env.start().await;
    let Err(error) = refused else { anyhow::bail!("it was opened") };
    ensure!(format!("{error:#}").contains("set encryption.key_file"), "{error:#}");
    Ok(())
}
