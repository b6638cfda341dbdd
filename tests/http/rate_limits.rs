//! Rate limits by address and by principal, and what operators see of them and of the other limits.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::harness::{Backend, Client, RunningHost, TestEnv, eventually};
use crate::support::namespaces::{TwoNamespaces, client_of};
use crate::support::process::postrider;

/// More requests than any limit here allows.
const MANY: usize = 200;

/// Sends requests until one is refused because of a rate limit; returns that problem.
async fn refused(client: &Client, path: &str, before: StatusCode) -> Result<Value> {
    for _ in 0..MANY {
        let answer = reqwest::get(format!("{}{path}", client.url)).await?;
        if answer.status() != StatusCode::TOO_MANY_REQUESTS {
            ensure!(answer.status() == before, "{path}: {}", answer.status());
            continue;
        }
        let wait_s: u64 = answer.headers()["retry-after"].to_str()?.parse()?;
        ensure!((1..=60).contains(&wait_s), "{wait_s}");
        ensure!(answer.headers()["content-type"] == "application/problem+json");
        return Ok(answer.json().await?);
    }
    anyhow::bail!("{MANY} requests to {path} were admitted")
}

/// The value of a metric that has these labels.
async fn metric(client: &Client, labels: &str) -> Result<u64> {
    let text = reqwest::get(format!("{}/metrics", client.url)).await?.text().await?;
    let start = format!("postrider_refused_requests_total{{{labels}}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&*start));
    Ok(value.with_context(|| format!("{start} in {text}"))?.parse()?)
}

/// The entry of a limit or of a client.
fn entry<'a>(limits: &'a Value, list: &str, key: &str, name: &str) -> Result<&'a Value> {
    let mut items = limits[list].as_array().into_iter().flatten();
    items.find(|item| item[key] == name).with_context(|| format!("{name} in {limits}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_guesses_credentials_is_refused_before_they_are_checked() -> Result<()> {
    let toml = "auth.mode = \"tokens\"\n\
                http.rate_limits = { per_address_per_s = 1, per_address_burst = 20 }\n";
    let host = TestEnv::empty(toml)?.start().await?;
    let problem = refused(&host.client, "/stages", StatusCode::UNAUTHORIZED).await?;
    assert_eq!(problem["type"], "/problems/too-many-requests");
    let detail = problem["detail"].as_str().context("a detail")?;
    assert!(detail.contains("http.rate_limits.per_address_per_s"), "{problem}");
    // Where else credentials are checked, the requests of the address count as well.
    for path in ["/metrics", "/namespaces", "/orders"] {
        refused(&host.client, path, StatusCode::UNAUTHORIZED).await?;
    }
    for path in ["/health", "/health/db", "/ready", "/problems", "/openapi.json"] {
        for _ in 0..MANY / 4 {
            let status = host.client.get(path).await?.0;
            assert_eq!(status, StatusCode::OK, "{path} is never limited");
        }
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_limited_and_counted_by_principal() -> Result<()> {
    let toml = "http.rate_limits = { per_principal_per_s = 1, per_principal_burst = 20 }\n";
    let host = TestEnv::empty(toml)?.start().await?;
    let problem = refused(&host.client, "/stages", StatusCode::OK).await?;
    let detail = problem["detail"].as_str().context("a detail")?;
    assert!(detail.contains("`anonymous/anonymous`"), "{problem}");
    let counted = metric(&host.client, "limit=\"principal-rate\"").await?;
    assert!(counted >= 1);
    assert_eq!(metric(&host.client, "limit=\"address-rate\"").await?, 0);
    // Operators see it while they are refused what else they ask for.
    let (status, limits) = host.client.get("/limits").await?;
    assert_eq!(status, StatusCode::OK, "{limits}");
    let client = entry(&limits, "principals", "client", "anonymous/anonymous")?;
    assert!(client["refused"].as_u64() >= Some(counted), "{limits}");
    assert!(client["requests_last_minute"].as_u64() > Some(20), "{limits}");
    let address = entry(&limits, "addresses", "client", "127.0.0.1")?;
    assert_eq!(address["refused"], 0, "{limits}");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_share_the_limit_of_an_address_and_not_that_of_a_principal() -> Result<()> {
    let mut two = TwoNamespaces::create(Backend::Embedded).await?;
    let limits = "http.rate_limits = { per_principal_per_s = 1, per_principal_burst = 20 }\n";
    let toml = two.env.toml.clone();
    two.env.toml = format!("{limits}{toml}");
    let host = two.env.start().await?;
    let further = client_of(&host.client, &two.further);
    refused(&host.client, "/stages", StatusCode::OK).await?;
    assert_eq!(further.get("/stages").await?.0, StatusCode::OK, "its principals are its own");
    let (_, shown) = further.get("/limits").await?;
    let client = entry(&shown, "principals", "client", "anonymous/anonymous")?;
    assert_eq!(client["refused"], 0, "{shown}");
    assert_eq!(shown["addresses"], Value::Null, "those of its neighbours are not shown");
    assert!(entry(&shown, "limits", "limit", "connections").is_err(), "{shown}");
    host.stop().await?;

    let limits = "http.rate_limits = { per_address_per_s = 1, per_address_burst = 20 }\n";
    two.env.toml = format!("{limits}{toml}");
    let host = two.env.start().await?;
    let further = client_of(&host.client, &two.further);
    let problem = refused(&further, "/stages", StatusCode::OK).await?;
    let path = format!("/namespaces/{}/problems/too-many-requests", two.further);
    assert_eq!(problem["type"], path);
    let mut refusals = 0;
    for _ in 0..10 {
        let status = host.client.get("/stages").await?.0;
        refusals += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refusals >= 5, "the address has sent too many to the other namespace: {refusals}");
    host.stop().await
}

/// How much of a limit is used.
async fn used(host: &RunningHost, limit: &str) -> Result<u64> {
    let (_, limits) = host.client.get("/limits").await?;
    entry(&limits, "limits", "limit", limit)?["used"].as_u64().context("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_what_clients_hold() -> Result<()> {
    let host = TestEnv::shipped("")?.start().await?;
    let address = host.client.url.trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(&address).await?;
    let head = format!("POST /orders HTTP/1.1\r\nhost: {address}\r\ncontent-length: 5000\r\n\r\n");
    slow.write_all(format!("{head}{}", " ".repeat(3_000)).as_bytes()).await?;
    let stream = reqwest::Client::new().get(format!("{}/events", host.client.url));
    let stream = stream.header("accept", "text/event-stream").send().await?;
    let limits = eventually("the bytes of the body", || async {
        let (_, limits) = host.client.get("/limits").await?;
        let bodies = entry(&limits, "limits", "limit", "bodies")?["used"].as_u64();
        Ok((bodies >= Some(3_000)).then_some(limits))
    })
    .await?;
    for (list, client) in [("principals", "anonymous/anonymous"), ("addresses", "127.0.0.1")] {
        let client = entry(&limits, list, "client", client)?;
        assert_eq!(client["bytes_in_progress"], 3_000, "{limits}");
        // The order and the stream.
        assert_eq!(client["requests_in_progress"], 2, "{limits}");
    }
    let streams = entry(&limits, "limits", "limit", "streams")?;
    assert_eq!((&streams["used"], &streams["max"]), (&1.into(), &256.into()), "{limits}");
    let connections = entry(&limits, "limits", "limit", "connections")?;
    assert!(connections["used"].as_u64() >= Some(2), "{limits}");
    let queue = entry(&limits, "limits", "limit", "queue")?;
    assert_eq!((&queue["used"], &queue["max"]), (&0.into(), &10_000.into()), "{limits}");
    entry(&limits, "limits", "stage", "payment")?;

    let (code, shown, errors) = postrider(&["limits", "--url", &host.client.url]).await?;
    assert_eq!(code, 0, "{errors}");
    for expected in ["queue of payment", "http.bodies_max_bytes", "64.00 MiB", "127.0.0.1"] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    drop((slow, stream));
    for limit in ["bodies", "streams"] {
        eventually("the end of both requests", || async {
            Ok((used(&host, limit).await? == 0).then_some(()))
        })
        .await?;
    }
    host.stop().await
}
