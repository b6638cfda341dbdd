//! JSON Web Tokens whose keys are at a URL. The attacks on tokens are unit tests, beside the code.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::StatusCode;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use crate::support::harness::TestEnv;

/// An issuer that serves its keys.
pub(super) struct Issuer {
    pub(super) url: String,
    set: Arc<Mutex<Value>>,
    reads: Arc<Mutex<u32>>,
}

impl Issuer {
    pub(super) async fn start() -> Result<Self> {
        let set = Arc::new(Mutex::new(json!({ "keys": [] })));
        let reads = Arc::new(Mutex::new(0));
        let (served, counted) = (Arc::clone(&set), Arc::clone(&reads));
        let handler = axum::routing::get(move || async move {
            *counted.lock().expect("not poisoned") += 1;
            axum::Json(served.lock().expect("not poisoned").clone())
        });
        let router = axum::Router::new().route("/keys", handler);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/keys", listener.local_addr()?);
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok(Self { url, set, reads })
    }

    fn reads(&self) -> u32 {
        *self.reads.lock().expect("not poisoned")
    }

    /// Makes a key, and serves it with those before.
    pub(super) fn add_key(&self, kid: &str) -> Result<Ed25519KeyPair> {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("a key")?;
        let key = Ed25519KeyPair::from_pkcs8(made.as_ref()).ok().context("a key")?;
        let x = URL_SAFE_NO_PAD.encode(key.public_key());
        let served = json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": x });
        let mut set = self.set.lock().expect("not poisoned");
        set["keys"].as_array_mut().context("keys")?.push(served);
        Ok(key)
    }
}

pub(super) fn token(key: &Ed25519KeyPair, kid: &str, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": kid });
    let signed = format!("{}.{}", encode(&header), encode(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_at_a_url_are_followed() -> Result<()> {
    let issuer = Issuer::start().await?;
    let first = issuer.add_key("first")?;
    let env = TestEnv::empty(&format!(
        "[auth]\nmode = \"tokens\"\n[auth.jwt]\nissuer = \"https://id.example\"\naudience = [\"postrider\"]\n\
         jwks_url = \"{}\"\njwks_min_interval_ms = 1\nroles_claim = \"/realm_access/roles\"\n\
         [auth.jwt.roles]\nsupport = [\"read\", \"operate:stage/payment\"]\n",
        issuer.url
    ))?;
    let host = env.start_with(super::declining).await?;
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 600;
    let claims = json!({
        "iss": "https://id.example", "aud": ["postrider"], "sub": "ada", "name": "Ada", "exp": until,
        "realm_access": { "roles": ["support"] },
    });
    let http = reqwest::Client::new();
    let get = |path: &str, token: String| {
        let request = http.get(format!("{}{path}", host.client.url)).bearer_auth(token);
        async move { super::answer(request.send().await?).await }
    };
    let (status, who) = get("/session", token(&first, "first", &claims)).await?;
    assert_eq!((status, &who["principal"]), (StatusCode::OK, &json!("jwt/ada")), "{who}");
    assert_eq!(who["roles"], json!(["read", "operate:stage/payment"]));
    assert_eq!(get("/keys", token(&first, "first", &claims)).await?.0, StatusCode::FORBIDDEN);
    // A key that the issuer adds is found when a token names it.
    let second = issuer.add_key("second")?;
    let (status, said) = get("/stages", token(&second, "second", &claims)).await?;
    assert_eq!(status, StatusCode::OK, "{said}");
    let reads = issuer.reads();
    for _ in 0..5 {
        assert_eq!(get("/stages", token(&second, "second", &claims)).await?.0, StatusCode::OK);
    }
    assert_eq!(issuer.reads(), reads, "known keys cause no read");
    // What is wrong is said, and no more.
    let mut other = claims.clone();
    other["aud"] = json!("shop");
    let (status, problem) = get("/stages", token(&first, "first", &other)).await?;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(problem["detail"], "invalid JSON Web Token: it is for another audience (`aud`)");
    let huge = "a".repeat(9 << 10);
    let (status, problem) = get("/stages", huge).await?;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(problem["detail"], "the token is longer than 8192 bytes");
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_tokens_cannot_be_checked() -> Result<()> {
    let env = TestEnv::empty(
        "[auth]\nmode = \"tokens\"\n[auth.jwt]\nissuer = \"https://id.example\"\naudience = [\"postrider\"]\n\
         jwks_url = \"http://127.0.0.1:9/keys\"\n",
    )?;
    let host = env.start().await?;
    let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("a key")?;
    let key = Ed25519KeyPair::from_pkcs8(made.as_ref()).ok().context("a key")?;
    let url = format!("{}/stages", host.client.url);
    let request = reqwest::Client::new().get(url).bearer_auth(token(&key, "any", &json!({})));
    let answer = request.send().await?;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    host.stop().await
}
