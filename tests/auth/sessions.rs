//! Sessions of browsers: log-in by a key, the cookie, log-out, and the end of the key.

use anyhow::{Context as _, Result};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Guarded, TOKENS, id_of};
use crate::support::certificates::Authority;
use crate::support::harness::{Backend, TestEnv, on_both_back_ends};

on_both_back_ends![a_browser_logs_in_and_out];

impl Guarded {
    /// Logs in; returns the cookie, and the answer.
    pub(super) async fn log_in(
        &self,
        token: &str,
        origin: Option<&str>,
    ) -> Result<(String, Value)> {
        let url = format!("{}/session", self.host.client.url);
        let mut request = self.http.post(url).bearer_auth(token);
        if let Some(origin) = origin {
            request = request.header("origin", origin).header("sec-fetch-site", "same-origin");
        }
        let answer = request.send().await?.error_for_status()?;
        let cookie = answer.headers().get("set-cookie").context("a cookie")?.to_str()?.to_owned();
        Ok((cookie, answer.json().await?))
    }

    pub(super) async fn with_cookie(
        &self,
        method: Method,
        path: &str,
        cookie: &str,
    ) -> Result<StatusCode> {
        let pair = cookie.split(';').next().unwrap_or_default().to_owned();
        let url = format!("{}{path}", self.host.client.url);
        Ok(self.http.request(method, url).header("cookie", pair).send().await?.status())
    }
}

async fn a_browser_logs_in_and_out(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, TOKENS).await?;
    let guarded = Guarded::start(&env).await?;
    let token = guarded.key("ada", &["operate"]).await?;
    let (cookie, who) = guarded.log_in(&token, None).await?;
    for part in ["; HttpOnly", "; SameSite=Strict", "; Path=/;", "; Max-Age=43"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "the browser came by http: {cookie}");
    assert_eq!((&who["principal"], &who["roles"]), (&json!("key/ada"), &json!(["operate"])));
    let (secure, _) = guarded.log_in(&token, Some("https://orders.example")).await?;
    assert!(secure.contains("; Secure"), "{secure}");
    // The session may do what its principal may, and no more.
    assert_eq!(guarded.with_cookie(Method::GET, "/stages", &cookie).await?, StatusCode::OK);
    assert_eq!(guarded.with_cookie(Method::GET, "/keys", &cookie).await?, StatusCode::FORBIDDEN);
    let pause = "/stages/payment/pause";
    assert_eq!(guarded.with_cookie(Method::POST, pause, &cookie).await?, StatusCode::OK);
    // A forged id, and one of another cookie.
    for forged in [
        cookie.replacen('=', "=A", 1),
        cookie.replacen("postrider-", "other-", 1),
        "postrider-orders=".to_owned(),
    ] {
        let status = guarded.with_cookie(Method::GET, "/stages", &forged).await?;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{forged}");
    }
    let status = guarded.with_cookie(Method::DELETE, "/session", &cookie).await?;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let status = guarded.with_cookie(Method::GET, "/stages", &cookie).await?;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // The other session ends with the key.
    assert_eq!(guarded.with_cookie(Method::GET, "/stages", &secure).await?, StatusCode::OK);
    let path = format!("/keys/{}", id_of(&token));
    guarded.send(Method::DELETE, &path, Some(&guarded.admin), None).await?.error_for_status()?;
    let status = guarded.with_cookie(Method::GET, "/stages", &secure).await?;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    guarded.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_encrypts_makes_the_cookie_secure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::new(folder.path(), "ca")?;
    let pair = authority.server("server")?;
    let (cert, key) = (pair.cert.display(), pair.key.display());
    let tls = format!("[http.tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n");
    let env = TestEnv::empty(&format!("{TOKENS}{tls}"))?;
    let admin = super::first_key(&env).await?;
    for http2 in [false, true] {
        let http = authority.http_client(None, http2)?;
        let host = env.start_as("https://localhost", http.clone(), super::declining).await?;
        let guarded = Guarded { host, admin: admin.clone(), http };
        // No browser says where it came from, and no setting does.
        let (cookie, _) = guarded.log_in(&guarded.admin, None).await?;
        assert!(cookie.ends_with("; Secure"), "{cookie}");
        let path = format!("{}/session", guarded.host.client.url);
        let answer = guarded.http.delete(path).bearer_auth(&guarded.admin).send().await?;
        let deleted = answer.headers().get("set-cookie").context("a cookie")?.to_str()?;
        assert!(deleted.ends_with("; Secure"), "{deleted}");
        guarded.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_expires() -> Result<()> {
    let env = TestEnv::empty(&format!("{TOKENS}auth.sessions.max_age_ms = 500\n"))?;
    let guarded = Guarded::start(&env).await?;
    let (cookie, who) = guarded.log_in(&guarded.admin, None).await?;
    assert!(who["expires_at_ms"].is_u64(), "{who}");
    crate::support::harness::eventually("the session to expire", || async {
        let status = guarded.with_cookie(Method::GET, "/stages", &cookie).await?;
        Ok((status == StatusCode::UNAUTHORIZED).then_some(()))
    })
    .await?;
    guarded.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_everyone_is_anonymous() -> Result<()> {
    let host = TestEnv::empty("")?.start().await?;
    let (status, who) = host.client.get("/session").await?;
    assert_eq!((status, &who["principal"]), (StatusCode::OK, &json!("anonymous/anonymous")));
    let (status, headers) = host.client.post_for_headers("/session", &Value::Null).await?;
    assert_eq!((status, headers.get("set-cookie")), (StatusCode::OK, None));
    host.stop().await
}
