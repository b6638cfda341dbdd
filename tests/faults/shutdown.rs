//! A host stops as soon as nothing real is in flight, and says that it cannot do its work when it
//! started without a plugin.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::support::guests::{LOOP, WatStage};
use crate::support::harness::{Client, TestEnv, eventually};
use crate::support::process::HostProcess;

/// No test waits for as long as this.
const LONG_GRACE: &str = "shutdown.grace_ms = 120000\n";

/// A connection to a host on which this was sent.
fn sent(client: &Client, text: &str) -> Result<TcpStream> {
    let address = client.url.strip_prefix("http://").context("an address")?;
    let mut connection = TcpStream::connect(address)?;
    connection.write_all(text.as_bytes())?;
    Ok(connection)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_were_not_received_whole_do_not_hold_the_end() -> Result<()> {
    let unfinished = [
        "",
        "GET /heal",
        "GET /health HTTP/1.1\r\nhost: a\r\n",
        "POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
        "POST /orders HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n",
    ];
    for text in unfinished {
        let env = TestEnv::empty(LONG_GRACE)?;
        let host = env.start().await?;
        let connection = sent(&host.client, text)?;
        // One that is received whole proves that the other one was accepted before.
        host.client.get("/health").await?;
        let began = Instant::now();
        host.stop().await?;
        assert!(began.elapsed() < Duration::from_mins(1), "{text:?} held the end");
        drop(connection);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_that_is_in_progress_is_sent() -> Result<()> {
    let env = TestEnv::shipped(LONG_GRACE)?;
    let host = env.start().await?;
    let order = json!({ "order_id": "last", "user_id": "1", "items": ["Book"], "total": 1 });
    let body = order.to_string();
    let mut connection = sent(
        &host.client,
        &format!(
            "POST /orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )?;
    eventually("the order", || async {
        Ok(host.client.get("/orders/last").await?.0.is_success().then_some(()))
    })
    .await?;
    host.stop().await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_signal_ends_the_process_immediately() -> Result<()> {
    let imports =
        r#"(import "postrider:stage/log@1.0.0" "log" (func $log (param i32 i32 i32 i32 i32)))"#;
    let log =
        "(call $log (i32.const 2) (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0))";
    let handle = format!("{log} {LOOP}");
    let busy = WatStage { imports, handle: &handle, ..WatStage::named("busy") };
    let busy = busy.build()?;
    for (second, expected) in [("-TERM", 143), ("-INT", 130)] {
        let env = TestEnv::empty(&format!(
            "{LONG_GRACE}[stages.busy]\nlimits = {{ deadline_ms = 100000 }}\n"
        ))?;
        std::fs::write(env.plugins().join("busy.wasm"), &busy)?;
        let (mut host, client) = HostProcess::start_ready(&env).await?;
        client.wait_until_serving("busy.wasm").await?;
        client.post("/events/busy.poke", &json!({})).await?;
        eventually("the stage's log line", || async {
            let log = std::fs::read_to_string(env.folder.path().join("log"))?;
            Ok(log.contains("\"message\":\"busy\"").then_some(()))
        })
        .await?;
        host.signal("-TERM")?;
        eventually("the host to be stopping", || async {
            let stopping =
                client.get("/ready").await.map_or(true, |(_, said)| said["stopping"] == true);
            Ok(stopping.then_some(()))
        })
        .await?;
        host.signal(second)?;
        let code = host.wait().await?;
        assert_eq!(code, Some(expected), "{second}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_that_skipped_a_plugin_is_not_ready_until_it_serves() -> Result<()> {
    let env = TestEnv::shipped("")?;
    std::fs::write(env.plugins().join("odd.wasm"), "not WebAssembly")?;
    // Another file serves its stage: the start did without nothing.
    env.add_plugin("payment", "payment-2")?;
    let host = env.start().await?;
    let (status, said) = host.client.get("/ready").await?;
    assert_eq!((status.as_u16(), said["ready"].as_bool()), (503, Some(false)), "{said}");
    let skipped = said["skipped_plugins"].as_array().context("a list")?;
    assert_eq!(skipped.len(), 1, "{said}");
    assert_eq!(skipped[0]["file"], "odd.wasm");
    assert!(skipped[0]["error"].as_str().is_some_and(|why| why.starts_with("not WebAssembly")));
    assert_eq!(skipped[0]["waiting_for"], "other content of the file");
    env.add_plugin("fifth", "odd")?;
    let ready = || async { Ok((host.client.get("/ready").await?.0.as_u16() == 200).then_some(())) };
    eventually("the host to be ready", ready).await?;
    // What comes later and is wrong is shown, but takes no host out of service.
    std::fs::write(env.plugins().join("later.wasm"), "not WebAssembly")?;
    eventually("the refusal", || async {
        Ok((host.client.plugin("later.wasm").await?["state"] == "failed").then_some(()))
    })
    .await?;
    ready().await?.context("still ready")?;
    host.stop().await
}
