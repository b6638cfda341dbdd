//! Several namespaces in one process: each has keys of its own.

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;

use super::TOKENS;
use crate::support::harness::Backend;
use crate::support::namespaces::TwoNamespaces;
use crate::support::process::postrider;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_namespace_has_keys_of_its_own() -> Result<()> {
    let mut two = TwoNamespaces::create(Backend::Embedded).await?;
    two.env.toml = format!("{TOKENS}{}", two.env.toml);
    let first = super::first_key(&two.env).await?;
    let config = two.env.folder.path().join("keys.toml");
    let config = config.to_str().context("a path that is text")?;
    let args = ["--config", config, "--namespace", &two.further];
    let create = ["keys", "create", "ops", "--role", "admin", "--store"];
    let (code, further, errors) = postrider(&[&args[..], &create].concat()).await?;
    ensure!(code == 0, "{errors}");
    let host = two.env.start().await?;
    let http = reqwest::Client::new();
    let status = |path: String, token: Option<&str>| {
        let mut request = http.get(format!("{}{path}", host.client.url));
        if let Some(token) = token {
            request = request.bearer_auth(token.trim());
        }
        async move { anyhow::Ok(request.send().await?.status()) }
    };
    let (own, other) = (StatusCode::OK, StatusCode::UNAUTHORIZED);
    let below = |name: &str, path: &str| format!("/namespaces/{name}{path}");
    for (path, of_first, of_further) in [
        ("/stages".to_owned(), own, other),
        (below(&two.first, "/stages"), own, other),
        (below(&two.further, "/stages"), other, own),
        (below(&two.further, "/metrics"), other, own),
        (below(&two.further, "/orders"), other, own),
        // Those of the process.
        ("/namespaces".to_owned(), own, other),
        ("/metrics".to_owned(), own, other),
        // Open.
        ("/health".to_owned(), own, own),
        (below(&two.further, "/health"), own, own),
    ] {
        assert_eq!(status(path.clone(), Some(&first)).await?, of_first, "{path}");
        assert_eq!(status(path.clone(), Some(&further)).await?, of_further, "{path}");
        let anonymous = if path.ends_with("/health") { own } else { other };
        assert_eq!(status(path.clone(), None).await?, anonymous, "{path}");
    }
    host.stop().await
}
