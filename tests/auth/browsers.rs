//! What a page of another site can do in the browser of someone who can reach the host: nothing.

use anyhow::{Context as _, Result};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::declining;
use crate::support::harness::{RunningHost, TestEnv, eventually};

const EVIL: &str = "https://evil.example";

/// A request as a browser sends it for a page of another site, which needs no preflight.
async fn simple(host: &RunningHost, method: Method, path: &str, body: &str) -> Result<Response> {
    let url = format!("{}{path}", host.client.url);
    let request = reqwest::Client::new()
        .request(method, url)
        .header("origin", EVIL)
        .header("sec-fetch-site", "cross-site")
        .header("sec-fetch-mode", "no-cors")
        .header("content-type", "text/plain");
    Ok(request.body(body.to_owned()).send().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_other_sites_are_refused() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start_with(declining).await?;
    let order = json!({ "order_id": "1", "user_id": "1", "items": ["Book"] });
    host.client.post("/orders", &order).await?;
    let dead_letter = eventually("a dead letter", || async {
        Ok(host.client.get("/dead-letters").await?.1["items"][0]["id"].as_i64())
    })
    .await?;
    for (path, body) in [
        ("/orders/1/cancel", ""),
        (&*format!("/dead-letters/{dead_letter}/replay"), ""),
        (&*format!("/dead-letters/{dead_letter}/discard"), ""),
        ("/dead-letters/discard", "{\"filter\":{\"all\":true},\"reason\":\"x\"}"),
        ("/stages/payment/pause", ""),
        ("/stages/payment/drain", ""),
        ("/plugins/payment/rollback", ""),
        ("/chains/none/stop", ""),
        ("/events/product.stocked", "{\"sku\":\"Gold\",\"quantity\":1000}"),
        ("/api/v1/events/order.created", "{}"),
        ("/orders", "{\"order_id\":\"9\",\"items\":[\"Book\"]}"),
        ("/namespaces/orders/stages/payment/pause", ""),
        ("/session", ""),
        ("/keys", ""),
        ("/nowhere", ""),
    ] {
        let answer = simple(&host, Method::POST, path, body).await?;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
        let problem: Value = answer.json().await?;
        assert_eq!(problem["type"], "/problems/cross-site-request", "{path}");
    }
    for path in ["/stages/payment", "/session", "/keys/0000000000000000"] {
        let answer = simple(&host, Method::DELETE, path, "").await?;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    // Nothing has happened.
    let (_, found) = host.client.get("/dead-letters").await?;
    assert_eq!(found["items"][0]["status"], "open");
    assert_eq!(host.client.stage("payment").await?["control"], "running");
    assert_eq!(host.client.get("/orders/9").await?.0, StatusCode::NOT_FOUND);
    // Pages of the host itself may write, and so may programs.
    let own = [("origin", host.client.url.as_str()), ("sec-fetch-site", "same-origin")];
    for headers in [&own[..], &own[..1], &own[1..], &[]] {
        let url = format!("{}/stages/payment/pause", host.client.url);
        let request = headers.iter().fold(reqwest::Client::new().post(url), |request, header| {
            request.header(header.0, header.1)
        });
        assert_eq!(request.send().await?.status(), StatusCode::OK, "{headers:?}");
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_allowed_origins_are_served() -> Result<()> {
    let env = TestEnv::empty(&format!("http.cors.allowed_origins = [\"{EVIL}\"]\n"))?;
    let host = env.start_with(declining).await?;
    let answer = simple(&host, Method::POST, "/stages/payment/pause", "").await?;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["access-control-allow-origin"], EVIL);
    host.stop().await
}

async fn with_host(host: &RunningHost, path: &str, name: &str) -> Result<Response> {
    let url = format!("{}{path}", host.client.url);
    Ok(reqwest::Client::new().get(url).header("host", name).send().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_others_are_not_served() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    for path in ["/orders", "/health", "/docs/", "/openapi.json", "/nowhere", "/namespaces"] {
        let answer = with_host(&host, path, "rebind.evil.example").await?;
        assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST, "{path}");
        assert_eq!(answer.headers()["x-frame-options"], "DENY", "{path}");
        let problem: Value = answer.json().await?;
        let detail = problem["detail"].as_str().context("a detail")?;
        assert!(detail.contains("rebind.evil.example") && detail.contains("http.allowed_hosts"));
    }
    for name in ["localhost", "127.0.0.1:80", "[::1]:8000", "postrider:8000", "10.1.2.3"] {
        assert_eq!(with_host(&host, "/orders", name).await?.status(), StatusCode::OK, "{name}");
    }
    host.stop().await?;
    let allowed = "http.allowed_hosts = [\"orders.example.com\"]\n";
    let host = TestEnv::empty(allowed)?.start().await?;
    let own = with_host(&host, "/orders", "orders.example.com").await?;
    let other = with_host(&host, "/orders", "postrider").await?;
    assert_eq!((own.status(), other.status()), (StatusCode::OK, StatusCode::MISDIRECTED_REQUEST));
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_says_what_a_browser_must_not_do_with_it() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    for (path, is_page) in [
        ("/orders", false),
        ("/orders/none", false),
        ("/nowhere", false),
        ("/metrics", false),
        ("/health", false),
        ("/openapi.json", false),
        ("/docs/", true),
        ("/docs/swagger-ui-bundle.js", true),
    ] {
        let answer = client.get(format!("{}{path}", host.client.url)).send().await?;
        let header = |name: &str| {
            let value = answer.headers().get(name).map(|value| value.to_str());
            value.transpose().map(Option::unwrap_or_default)
        };
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(header(name)?, value, "{path}");
        }
        let policy = header("content-security-policy")?;
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(policy.contains("script-src 'self'"), is_page, "{path}: {policy}");
        assert_eq!(header("cache-control")? == "no-store", !is_page, "{path}");
    }
    host.stop().await
}
