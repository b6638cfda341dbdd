//! The API in a router of the embedding program, below a prefix.

use anyhow::{Context as _, Result, ensure};
use postrider::{Host, HostHandle};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use super::{approving, order};
use crate::support::harness::TestEnv;

/// A program that serves the API below a prefix with a parameter, and a page of its own.
struct Program {
    root: String,
    prefix: String,
    http: reqwest::Client,
    handle: HostHandle,
    _env: TestEnv,
}

impl Program {
    async fn start() -> Result<Self> {
        let env = TestEnv::empty("")?;
        let handle = approving(Host::builder().config(env.config()?)).build().await?.start()?;
        let router = axum::Router::new()
            .route("/", axum::routing::get(|| async { "the program" }))
            .nest("/tenants/{tenant}/pipeline", handle.router());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let root = format!("http://{}", listener.local_addr()?);
        tokio::spawn(axum::serve(listener, router).into_future());
        let redirects = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().redirect(redirects).build()?;
        Ok(Self { root, prefix: "/tenants/7/pipeline".into(), http, handle, _env: env })
    }

    async fn get(&self, path: &str) -> Result<Response> {
        Ok(self.http.get(format!("{}{path}", self.root)).send().await?)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        Ok(self.http.post(format!("{}{path}", self.root)).json(body).send().await?)
    }

    fn below(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

fn location(response: &Response) -> Result<String> {
    let location = response.headers().get("location").context("no Location")?;
    Ok(location.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locations_follow_the_prefix() -> Result<()> {
    let program = Program::start().await?;
    for path in ["/orders", "/api/v1/orders"] {
        let id = path.len().to_string();
        let accepted = program.post(&program.below(path), &order(&id)).await?;
        assert_eq!(accepted.status(), StatusCode::ACCEPTED);
        assert_eq!(location(&accepted)?, program.below(&format!("/orders/{id}")));
        let shown = program.get(&location(&accepted)?).await?;
        assert_eq!(shown.status(), StatusCode::OK, "the location is that of the order");
    }
    let sent = program.post(&program.below("/events/carrier.collected"), &json!({})).await?;
    let place = location(&sent)?;
    assert!(place.starts_with(&program.below("/events/")), "{place}");
    assert_eq!(program.get(&place).await?.status(), StatusCode::OK);
    assert_eq!(program.get("/").await?.text().await?, "the program");
    Ok(program.handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_problems_follow_the_prefix_and_are_explained_there() -> Result<()> {
    let program = Program::start().await?;
    let refused = [
        (program.get(&program.below("/orders/none")).await?, StatusCode::NOT_FOUND),
        (program.get(&program.below("/nowhere")).await?, StatusCode::NOT_FOUND),
        (program.get(&program.below("/orders?limit=x")).await?, StatusCode::BAD_REQUEST),
        (
            program.post(&program.below("/orders"), &json!({})).await?,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            program.post(&program.below("/topology"), &json!({})).await?,
            StatusCode::METHOD_NOT_ALLOWED,
        ),
    ];
    for (response, expected) in refused {
        assert_eq!(response.status(), expected);
        let media = response.headers().get("content-type").context("no media type")?;
        assert_eq!(media, "application/problem+json");
        let problem: Value = response.json().await?;
        let kind = problem["type"].as_str().context("no type")?;
        assert!(kind.starts_with(&program.below("/problems/")), "{problem}");
        let explained: Value = program.get(kind).await?.error_for_status()?.json().await?;
        assert_eq!(
            (&explained["type"], &explained["title"]),
            (&problem["type"], &problem["title"])
        );
    }
    let missing: Value = program.get(&program.below("/nowhere")).await?.json().await?;
    assert_eq!(missing["detail"], format!("no route {}", program.below("/nowhere")));
    let all: Value = program.get(&program.below("/problems")).await?.json().await?;
    let all = all["items"].as_array().context("no items")?;
    let prefix = program.below("/problems/");
    assert!(
        all.iter().all(|kind| kind["type"].as_str().is_some_and(|kind| kind.starts_with(&prefix)))
    );
    Ok(program.handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_document_follows_the_prefix_and_its_page_finds_it() -> Result<()> {
    let program = Program::start().await?;
    let document: Value = program.get(&program.below("/openapi.json")).await?.json().await?;
    assert_eq!(document["servers"], json!([{ "url": program.prefix }]));
    let redirect = program.get(&program.below("/docs")).await?;
    ensure!(redirect.status().is_redirection(), "{}", redirect.status());
    let page = location(&redirect)?;
    assert_eq!(page, program.below("/docs/"));
    assert_eq!(program.get(&page).await?.status(), StatusCode::OK);
    let script = program.get(&format!("{page}swagger-initializer.js")).await?.text().await?;
    assert!(script.contains("\"../openapi.json\""), "{script}");
    Ok(program.handle.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_nested_router_end_with_the_host_and_later_requests_are_refused() -> Result<()>
{
    let program = Program::start().await?;
    let stream = program.http.get(format!("{}{}", program.root, program.below("/events")));
    let stream = stream.header("accept", "text/event-stream").send().await?;
    let mut stream = stream.error_for_status()?;
    let order = program.post(&program.below("/orders"), &order("1")).await?;
    assert_eq!(order.status(), StatusCode::ACCEPTED);
    let mut text = String::new();
    while !text.contains("order.created") {
        let chunk = stream.chunk().await?.context("the stream ended before the host")?;
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    let Program { root, prefix, http, handle, _env } = program;
    handle.shutdown().await?;
    // The stream is a request in progress, which the host ended.
    while stream.chunk().await?.is_some() {}
    let late = http.get(format!("{root}{prefix}/orders")).send().await?;
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
    Ok(())
}
