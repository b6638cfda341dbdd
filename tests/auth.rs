//! Who may do what: API keys, JSON Web Tokens, roles, sessions, and pages of other sites.

mod browsers;
mod cli;
mod embedding;
mod jwt;
mod keys;
mod namespaces;
mod owners;
mod payloads;
mod routes;
mod sessions;
mod streams;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use postrider::{
    Description, Emitted, Event, HostBuilder, NativeContext, NativeError, NativeStage,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::harness::{RunningHost, TestEnv, eventually};

/// Requests need tokens.
const TOKENS: &str = "auth.mode = \"tokens\"\n";

/// Dead-letters every order.
struct Declining;

#[async_trait]
impl NativeStage for Declining {
    fn describe(&self) -> Description {
        Description::new("payment", "1.0.0", "Declines").consumes(["order.created"])
    }

    async fn handle(&self, _: &mut NativeContext, _: &Event) -> Result<Vec<Emitted>, NativeError> {
        Err(postrider::Failure::reject("declined", "no order is accepted").into())
    }
}

fn declining(builder: HostBuilder) -> HostBuilder {
    builder.stage(Declining)
}

/// A host that needs tokens, and the key of its administrator.
struct Guarded {
    host: RunningHost,
    admin: String,
    http: reqwest::Client,
}

/// The program of the administrator, who has made a key in the store.
async fn first_key(env: &TestEnv) -> Result<String> {
    let config = env.folder.path().join("keys.toml");
    std::fs::write(&config, env.config_text())?;
    let config = config.to_str().context("a path that is text")?;
    let roles = ["--role", "admin", "--role", "payloads"];
    let args = [&["--config", config, "keys", "create", "ops", "--store"][..], &roles].concat();
    let (code, key, errors) = crate::support::process::postrider(&args).await?;
    ensure!(code == 0, "{errors}");
    Ok(key.trim().to_owned())
}

impl Guarded {
    /// With the stage `payment`, which dead-letters every order.
    async fn start(env: &TestEnv) -> Result<Self> {
        let admin = first_key(env).await?;
        let host = env.start_with(declining).await?;
        Ok(Self { host, admin, http: reqwest::Client::new() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Response> {
        let url = format!("{}{path}", self.host.client.url);
        let mut request = self.http.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if body.is_some_and(|body| body["specversion"].is_string()) {
            request = request.header("content-type", "application/cloudevents+json");
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(request.send().await?)
    }

    async fn get(&self, path: &str, token: &str) -> Result<(StatusCode, Value)> {
        answer(self.send(Method::GET, path, Some(token), None).await?).await
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> Result<(StatusCode, Value)> {
        answer(self.send(Method::POST, path, Some(token), Some(body)).await?).await
    }

    /// A new key of a principal with these roles.
    async fn key(&self, principal: &str, roles: &[&str]) -> Result<String> {
        let body = json!({ "principal": principal, "roles": roles });
        let (status, key) = self.post("/keys", &self.admin, &body).await?;
        ensure!(status == StatusCode::CREATED, "{status}: {key}");
        Ok(key["token"].as_str().context("a token")?.to_owned())
    }

    /// Submits an order, and waits for its dead letter.
    async fn dead_letter(&self, id: &str) -> Result<i64> {
        let order = json!({ "order_id": id, "user_id": "1", "items": ["SecretBook"] });
        let (status, said) = self.post("/orders", &self.admin, &order).await?;
        ensure!(status == StatusCode::ACCEPTED, "{said}");
        eventually("a dead letter", || async {
            let path = format!("/dead-letters?status=open&subject=order/{id}");
            let (_, found) = self.get(&path, &self.admin).await?;
            Ok(found["items"][0]["id"].as_i64())
        })
        .await
    }

    async fn stop(self) -> Result<()> {
        self.host.stop().await
    }
}

async fn answer(response: Response) -> Result<(StatusCode, Value)> {
    Ok((response.status(), response.json().await.unwrap_or(Value::Null)))
}

/// The id of a key.
fn id_of(token: &str) -> &str {
    token.split('_').nth(1).unwrap_or_default()
}
