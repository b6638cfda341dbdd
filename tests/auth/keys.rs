//! API keys: shown once, rotated, revoked on all hosts, and what is known of their use.

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Guarded, TOKENS, id_of};
use crate::support::harness::{Backend, TestEnv, eventually, on_both_back_ends};

on_both_back_ends![a_key_is_rotated_without_a_gap_and_revoked, only_digests_are_stored];

async fn a_key_is_rotated_without_a_gap_and_revoked(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, TOKENS).await?;
    let guarded = Guarded::start(&env).await?;
    let old = guarded.key("checkout", &["read"]).await?;
    let path = format!("/keys/{}/rotate", id_of(&old));
    let (status, new) = guarded.post(&path, &guarded.admin, &json!({})).await?;
    assert_eq!(status, StatusCode::CREATED, "{new}");
    let new_token = new["token"].as_str().context("a token")?;
    assert_eq!((&new["principal"], &new["roles"]), (&json!("checkout"), &json!(["read"])));
    for token in [&*old, new_token] {
        assert_eq!(guarded.get("/stages", token).await?.0, StatusCode::OK);
    }
    let (_, listed) = guarded.get("/keys", &guarded.admin).await?;
    let find = |token: &str| -> Value {
        let items = listed["items"].as_array().into_iter().flatten();
        items.clone().find(|key| key["id"] == id_of(token)).cloned().unwrap_or_default()
    };
    assert!(find(&old)["expires_at_ms"].is_u64(), "{listed}");
    assert!(find(new_token)["expires_at_ms"].is_null(), "{listed}");
    assert_eq!(find(new_token)["created_by"], "key/ops");
    assert!(!listed.to_string().contains(new_token), "a key is shown once");
    // Two are enough.
    let third = json!({ "principal": "checkout", "roles": ["read"] });
    let (status, problem) = guarded.post("/keys", &guarded.admin, &third).await?;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::CONFLICT, &json!("/problems/too-many-keys"))
    );
    // On this host a revocation takes effect immediately.
    let path = format!("/keys/{}", id_of(&old));
    for _ in 0..2 {
        let revoked = guarded.send(Method::DELETE, &path, Some(&guarded.admin), None).await?;
        assert_eq!(revoked.status(), StatusCode::OK);
        let (status, problem) = guarded.get("/stages", &old).await?;
        assert_eq!(
            (status, &problem["detail"]),
            (StatusCode::UNAUTHORIZED, &json!("the API key was revoked"))
        );
    }
    let rotate = format!("/keys/{}/rotate", id_of(&old));
    let (status, problem) = guarded.post(&rotate, &guarded.admin, &json!({})).await?;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &json!("/problems/key-ended")));
    let overlap = json!({ "overlap_ms": 0 });
    let rotate = format!("/keys/{}/rotate", id_of(new_token));
    let (status, newest) = guarded.post(&rotate, &guarded.admin, &overlap).await?;
    assert_eq!(status, StatusCode::CREATED, "{newest}");
    assert_eq!(guarded.get("/stages", new_token).await?.0, StatusCode::UNAUTHORIZED);
    guarded.stop().await
}

async fn only_digests_are_stored(backend: Backend) -> Result<()> {
    let env = TestEnv::empty_on(backend, TOKENS).await?;
    let guarded = Guarded::start(&env).await?;
    let token = guarded.key("checkout", &["read"]).await?;
    let secret = token.splitn(3, '_').nth(2).context("a secret")?.to_owned();
    let session = guarded.send(Method::POST, "/session", Some(&token), None).await?;
    let cookie = session.headers()["set-cookie"].to_str()?.to_owned();
    let session_id = cookie.split(['=', ';']).nth(1).context("a session")?.to_owned();
    guarded.stop().await?;
    let dump = env.dump().await?;
    ensure!(dump.contains("checkout"), "the dump has the key");
    assert!(!dump.contains(&secret) && !dump.contains(&session_id));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_keys_are_refused_with_every_problem() -> Result<()> {
    let env = TestEnv::empty(TOKENS)?;
    let guarded = Guarded::start(&env).await?;
    let body = json!({
        "principal": "not a name", "roles": ["operator", 7], "expires_at": 1, "color": "red",
        "description": "a\nb",
    });
    let (status, problem) = guarded.post("/keys", &guarded.admin, &body).await?;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let pointers: Vec<&str> = problem["errors"]
        .as_array()
        .context("errors")?
        .iter()
        .filter_map(|error| error["pointer"].as_str())
        .collect();
    assert_eq!(pointers, ["/color", "/roles/0", "/roles/1"]);
    let body = json!({
        "principal": "not a name", "roles": [], "expires_at": 1, "description": "a\nb",
    });
    let (_, problem) = guarded.post("/keys", &guarded.admin, &body).await?;
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(4), "{problem}");
    guarded.stop().await
}

/// On other hosts a revocation and a new key take effect within two seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_hosts_follow() -> Result<()> {
    let env = TestEnv::empty_on(Backend::Servers, TOKENS).await?;
    let guarded = Guarded::start(&env).await?;
    let other = env.start_with(super::declining).await?;
    let token = guarded.key("checkout", &["read"]).await?;
    let status = || async {
        let url = format!("{}/stages", other.client.url);
        anyhow::Ok(guarded.http.get(url).bearer_auth(&token).send().await?.status())
    };
    let becomes = |expected: StatusCode| {
        eventually("the other host to follow", move || async move {
            Ok((status().await? == expected).then_some(()))
        })
    };
    becomes(StatusCode::OK).await?;
    let path = format!("/keys/{}", id_of(&token));
    guarded.send(Method::DELETE, &path, Some(&guarded.admin), None).await?.error_for_status()?;
    let revoked = std::time::Instant::now();
    becomes(StatusCode::UNAUTHORIZED).await?;
    // Two seconds between two reads, and time for a busy machine.
    assert!(revoked.elapsed() < std::time::Duration::from_secs(20), "{:?}", revoked.elapsed());
    other.stop().await?;
    guarded.stop().await?;
    // When it was last used was written at the end.
    let used = "SELECT count(*) FROM api_keys WHERE last_used_ms IS NOT NULL";
    assert!(env.query_count(used).await? >= 2);
    Ok(())
}
