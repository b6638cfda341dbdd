//! The keys with which hosts sign: shared, rotated and removed while orders flow.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::dead_letters;
use crate::support::harness::{Backend, Client, TestEnv};
use crate::support::load::{AMPLE_STOCK, Load};
use crate::support::process::postrider;

/// The names of the keys, the newest first.
async fn keys(client: &Client) -> Result<Vec<String>> {
    let (status, answer) = client.get("/broker/keys").await?;
    ensure!(status.is_success(), "{answer}");
    let items = answer["items"].as_array().context("items")?;
    let signs: Vec<bool> = items.iter().map(|key| key["signs"] == true).collect();
    ensure!(signs.iter().enumerate().all(|(at, signs)| *signs == (at == 0)), "{answer}");
    ensure!(!answer.to_string().contains("secret"), "{answer}");
    Ok(items.iter().filter_map(|key| Some(key["id"].as_str()?.to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_and_removed_while_orders_flow() -> Result<()> {
    let config = "broker.local_handover = false\n";
    let env = TestEnv::shipped_on(Backend::Servers, &format!("{config}{AMPLE_STOCK}")).await?;
    let hosts = [env.start_consuming().await?, env.start().await?];
    let clients = [hosts[0].client.clone(), hosts[1].client.clone()];
    let first = keys(&clients[0]).await?;
    assert_eq!((first.len(), &keys(&clients[1]).await?), (1, &first), "hosts share their keys");
    let load = Load::start(&clients, 4, Duration::from_millis(5));
    load.wait_for_accepted(20).await?;
    for at in 0..3 {
        let (status, answer) = clients[at % 2].post("/broker/keys", &Value::Null).await?;
        assert!(status.is_success(), "{answer}");
        load.wait_for_accepted(20).await?;
    }
    let run = async |args: &[&str]| postrider(&[args, &["--url", &clients[1].url]].concat()).await;
    let (code, said, error) = run(&["broker", "rotate-key"]).await?;
    assert!(code == 0 && said.contains("signs"), "{said}{error}");
    load.wait_for_accepted(20).await?;
    let all = keys(&clients[0]).await?;
    let (code, said, error) = run(&["broker", "keys"]).await?;
    assert!(code == 0 && all.iter().all(|key| said.contains(key)), "{said}{error}");
    assert_eq!((all.len(), &all[4]), (5, &first[0]));
    // The one that signed last may have messages in the queues.
    for key in &all[1..] {
        let (status, answer) = clients[1].delete(&format!("/broker/keys/{key}")).await?;
        assert!(status.is_success(), "{answer}");
        load.wait_for_accepted(5).await?;
    }
    let (code, _, error) = run(&["broker", "remove-key", &all[0]]).await?;
    assert!(code == 1 && error.contains("add another key first"), "{error}");
    let (status, problem) = clients[0].delete(&format!("/broker/keys/{}", all[0])).await?;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("/problems/message-key")));
    assert_eq!(keys(&clients[1]).await?, all[..1]);
    let accepted = load.stop().await?;
    for id in &accepted {
        clients[0].wait_for_status(id, "ready").await?;
    }
    assert_eq!(dead_letters(&clients[0], 0).await?, Vec::<Value>::new());
    assert_eq!(env.query_count("SELECT count(*) FROM attempts").await?, 0);
    let ready = "SELECT count(*) FROM events WHERE type = 'shipping.ready'";
    assert_eq!(env.query_count(ready).await?, accepted.len() as i64);
    for host in hosts {
        host.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_signs_nothing() -> Result<()> {
    let env = TestEnv::shipped(AMPLE_STOCK)?;
    let host = env.start_consuming().await?;
    assert_eq!(keys(&host.client).await?, Vec::<String>::new());
    let (status, problem) = host.client.post("/broker/keys", &Value::Null).await?;
    assert_eq!((status.as_u16(), &problem["type"]), (409, &json!("/problems/message-key")));
    assert_eq!(host.client.delete("/broker/keys/0a1b2c3d").await?.0.as_u16(), 404);
    host.stop().await
}
