//! A live stream ends with the credential of its request: a key that is revoked or expires, a session
//! that ends, a token that expires, a user whom the program no longer accepts. Others go on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use http::request::Parts;
use postrider::{
    AuthenticationError, Authenticator, Clock as _, ManualClock, Principal, SystemClock,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use super::jwt::{Issuer, token};
use super::{Guarded, TOKENS, declining, first_key, id_of};
use crate::support::harness::{Backend, Client, TestEnv, on_both_back_ends};

on_both_back_ends![a_stream_ends_with_its_key_or_session];

/// How long a test waits for what a stream sends, and for its end.
const PATIENCE: Duration = Duration::from_mins(3);
const HOUR_MS: u64 = 60 * 60 * 1_000;

/// An open stream of the event log.
struct Listening {
    name: &'static str,
    answer: Response,
    heard: String,
}

impl Listening {
    /// Opens a stream with a header that has the credential.
    async fn open(
        client: &Client,
        name: &'static str,
        (header, value): (&str, &str),
    ) -> Result<Self> {
        let request = reqwest::Client::new().get(format!("{}/events", client.url));
        let request = request.header("accept", "text/event-stream").header(header, value);
        let answer = request.send().await?;
        ensure!(answer.status() == StatusCode::OK, "{name}: {}", answer.status());
        Ok(Self { name, answer, heard: String::new() })
    }

    async fn by_key(client: &Client, name: &'static str, token: &str) -> Result<Self> {
        Self::open(client, name, ("authorization", &format!("Bearer {token}"))).await
    }

    async fn by_session(client: &Client, name: &'static str, cookie: &str) -> Result<Self> {
        let pair = cookie.split(';').next().unwrap_or_default();
        Self::open(client, name, ("cookie", pair)).await
    }

    /// The next part; none at the end.
    async fn part(&mut self) -> Result<bool> {
        let part = tokio::time::timeout(PATIENCE, self.answer.chunk()).await;
        let part = part.with_context(|| format!("{}: nothing for three minutes", self.name))??;
        self.heard.extend(part.as_deref().map(String::from_utf8_lossy));
        Ok(part.is_some())
    }

    /// Waits until the stream has sent an event of this id.
    async fn hears(&mut self, id: &str) -> Result<()> {
        while !self.heard.contains(&format!("\"{id}\"")) {
            ensure!(self.part().await?, "{} has ended before {id}", self.name);
        }
        Ok(())
    }

    /// Waits until the host ends the stream.
    async fn ends(mut self) -> Result<()> {
        // Comments of an idle stream are parts, too.
        tokio::time::timeout(PATIENCE, async {
            while self.part().await? {}
            anyhow::Ok(())
        })
        .await
        .with_context(|| format!("{} is still open", self.name))?
    }
}

impl Guarded {
    /// Logs an event, which all of the streams send.
    async fn tell(&self, id: &str, streams: &mut [Listening]) -> Result<()> {
        let event =
            json!({ "specversion": "1.0", "id": id, "source": "/desk", "type": "desk.note" });
        let (status, said) = self.post("/events", &self.admin, &event).await?;
        ensure!(status.is_success(), "{status}: {said}");
        for stream in streams {
            stream.hears(id).await?;
        }
        Ok(())
    }

    async fn revoke(&self, token: &str) -> Result<()> {
        let path = format!("/keys/{}", id_of(token));
        self.send(Method::DELETE, &path, Some(&self.admin), None).await?.error_for_status()?;
        Ok(())
    }
}

async fn a_stream_ends_with_its_key_or_session(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, TOKENS).await?;
    let guarded = Guarded::start(&env).await?;
    let client = &guarded.host.client;
    let (ada, bob) = (guarded.key("ada", &["read"]).await?, guarded.key("bob", &["read"]).await?);
    let of_ada = guarded.log_in(&ada, None).await?.0;
    let (ended, kept) = (guarded.log_in(&bob, None).await?.0, guarded.log_in(&bob, None).await?.0);
    let mut ending = [
        Listening::by_key(client, "a revoked key", &ada).await?,
        Listening::by_session(client, "a session of a revoked key", &of_ada).await?,
        Listening::by_session(client, "a session that was ended", &ended).await?,
    ];
    let mut staying = [
        Listening::by_key(client, "another key", &bob).await?,
        Listening::by_session(client, "another session", &kept).await?,
    ];
    guarded.tell("first", &mut ending).await?;
    guarded.tell("second", &mut staying).await?;
    guarded.revoke(&ada).await?;
    guarded.with_cookie(Method::DELETE, "/session", &ended).await?;
    for stream in ending {
        stream.ends().await?;
    }
    guarded.tell("third", &mut staying).await?;
    guarded.stop().await
}

/// The configuration of a host that accepts tokens of an issuer.
fn with_issuer(issuer: &Issuer) -> String {
    format!(
        "[auth]\nmode = \"tokens\"\nsessions.max_age_ms = {HOUR_MS}\n[auth.jwt]\n\
         issuer = \"https://id.example\"\naudience = [\"postrider\"]\njwks_url = \"{}\"\n\
         [auth.jwt.roles]\nsupport = [\"read\"]\n",
        issuer.url
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_its_credential_expires() -> Result<()> {
    let issuer = Issuer::start().await?;
    let signing = issuer.add_key("first")?;
    let env = TestEnv::empty(&with_issuer(&issuer))?;
    let clock = Arc::new(ManualClock::at(SystemClock.now_ms()));
    let admin = first_key(&env).await?;
    let host = env.start_with(|builder| declining(builder).clock(Arc::clone(&clock) as _)).await?;
    let guarded = Guarded { host, admin, http: reqwest::Client::new() };
    let client = &guarded.host.client;
    let expires_at_ms = clock.now_ms() + HOUR_MS;
    let expiring = json!({ "principal": "ada", "roles": ["read"], "expires_at": expires_at_ms });
    let (status, key) = guarded.post("/keys", &guarded.admin, &expiring).await?;
    ensure!(status == StatusCode::CREATED, "{key}");
    let claims = json!({
        "iss": "https://id.example", "aud": ["postrider"], "sub": "bob", "roles": ["support"],
        "exp": expires_at_ms / 1_000,
    });
    let session = guarded.log_in(&guarded.admin, None).await?.0;
    let ada = key["token"].as_str().context("a token")?;
    let bob = token(&signing, "first", &claims);
    let mut ending = [
        Listening::by_key(client, "a key", ada).await?,
        Listening::by_key(client, "a JSON Web Token", &bob).await?,
        Listening::by_session(client, "a session", &session).await?,
    ];
    let mut staying = [Listening::by_key(client, "the administrator", &guarded.admin).await?];
    guarded.tell("first", &mut ending).await?;
    guarded.tell("second", &mut staying).await?;
    clock.advance(2 * HOUR_MS);
    for stream in ending {
        stream.ends().await?;
    }
    guarded.tell("third", &mut staying).await?;
    guarded.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_another_host_revokes_its_key() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, TOKENS).await?;
    let guarded = Guarded::start(&env).await?;
    let ada = guarded.key("ada", &["read"]).await?;
    // Started later, so it knows the key.
    let other = env.start_with(declining).await?;
    let mut streams = [Listening::by_key(&other.client, "a key", &ada).await?];
    guarded.tell("first", &mut streams).await?;
    guarded.revoke(&ada).await?;
    let [stream] = streams;
    stream.ends().await?;
    other.stop().await?;
    guarded.stop().await
}

/// The roles of the users that a program knows.
#[derive(Clone, Default)]
struct Directory(Arc<Mutex<Vec<(&'static str, &'static str)>>>);

impl Directory {
    fn set(&self, users: &[(&'static str, &'static str)]) {
        *self.0.lock().expect("not poisoned") = users.to_vec();
    }
}

#[async_trait]
impl Authenticator for Directory {
    async fn authenticate(
        &self,
        request: &Parts,
    ) -> Result<Option<Principal>, AuthenticationError> {
        let Some(user) = request.headers.get("x-user").and_then(|user| user.to_str().ok()) else {
            return Ok(None);
        };
        let known = self.0.lock().expect("not poisoned").clone();
        let found = known.into_iter().find(|(name, _)| *name == user);
        let (_, role) =
            found.ok_or_else(|| AuthenticationError::Invalid("an unknown user".into()))?;
        Ok(Some(Principal::new(user, user).with_role(role.parse().expect("a role"))))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_when_the_program_accepts_its_user_no_longer() -> Result<()> {
    let directory = Directory::default();
    directory.set(&[("ada", "read"), ("bob", "read"), ("cem", "operate")]);
    let env = TestEnv::empty("")?;
    let authenticator = directory.clone();
    let host = env.start_with(|builder| declining(builder).authenticator(authenticator)).await?;
    let open = |user: &'static str| Listening::open(&host.client, user, ("x-user", user));
    let ending = [open("ada").await?, open("bob").await?];
    let mut staying = open("cem").await?;
    // One is unknown from now on, one has another role.
    directory.set(&[("bob", "submit"), ("cem", "operate")]);
    for stream in ending {
        stream.ends().await?;
    }
    directory.set(&[("cem", "operate"), ("dan", "submit")]);
    let request = reqwest::Client::new().post(format!("{}/events/desk.note", host.client.url));
    let sent = request.header("x-user", "dan").json(&json!({}));
    ensure!(sent.send().await?.status().is_success(), "an event");
    staying.hears("desk.note").await?;
    host.stop().await
}
