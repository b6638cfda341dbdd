//! An authenticator of the embedding program.

use anyhow::Result;
use async_trait::async_trait;
use http::request::Parts;
use postrider::{AuthenticationError, Authenticator, BuildError, Principal};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::TestEnv;

/// Believes a header.
struct Believing;

#[async_trait]
impl Authenticator for Believing {
    async fn authenticate(
        &self,
        request: &Parts,
    ) -> Result<Option<Principal>, AuthenticationError> {
        let Some(user) = request.headers.get("x-user") else { return Ok(None) };
        match user.to_str() {
            Ok("mallory") => Err(AuthenticationError::Invalid("mallory is banned".into())),
            Ok("unknown") => Err(AuthenticationError::Unavailable("no directory".into())),
            Ok(user) => {
                let role = "operate:stage/payment".parse().expect("a role");
                Ok(Some(Principal::new(user, user.to_uppercase()).with_role(role)))
            }
            Err(_) => Err(AuthenticationError::Invalid("no text".into())),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_authenticates_in_its_own_way() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start_with(|builder| super::declining(builder).authenticator(Believing)).await?;
    let http = reqwest::Client::new();
    let get = |path: &str, user: Option<&str>| {
        let mut request = http.get(format!("{}{path}", host.client.url));
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        async move { super::answer(request.send().await?).await }
    };
    let (status, who) = get("/session", Some("ada")).await?;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&who["principal"], &who["name"]), (&json!("program/ada"), &json!("ADA")));
    assert_eq!(get("/plugins/payment/history", Some("ada")).await?.0, StatusCode::OK);
    assert_eq!(get("/keys", Some("ada")).await?.0, StatusCode::FORBIDDEN);
    // Without credentials of its kind, a request needs others.
    assert_eq!(get("/stages", None).await?.0, StatusCode::UNAUTHORIZED);
    let (status, problem) = get("/stages", Some("mallory")).await?;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(problem["detail"], "invalid credentials: mallory is banned");
    assert_eq!(get("/stages", Some("unknown")).await?.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(get("/health", Some("mallory")).await?.0, StatusCode::OK);
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_others_reach_needs_tokens() -> Result<()> {
    let env = TestEnv::empty("")?;
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await?;
    let build = |listener, toml: &str| {
        let config = postrider::Config::from_toml(&format!("{}{toml}", env.config_text()));
        async move { postrider::Host::builder().config(config?).listener(listener).build().await }
    };
    let refused = build(listener, "").await.err();
    let Some(BuildError::Config(error)) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("auth.mode: `none`"), "{error}");
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await?;
    drop(build(listener, "auth.allow_anonymous = true\n").await?);
    Ok(())
}
