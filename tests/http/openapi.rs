//! The OpenAPI document: it equals the one in `docs/`, has a page to read it, and the API conforms
//! to it for any request.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow, ensure};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::harness::{Backend, TestEnv, on_both_back_ends, root};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::output;

on_both_back_ends![api_conforms_to_its_document];

/// Generated requests per operation and phase. `POSTRIDER_API_EXAMPLES` overrides the number,
/// `POSTRIDER_API_SEED` the seed.
const EXAMPLES: &str = "25";
const SEED: &str = "1";
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

#[test]
fn committed_document_matches_the_code() -> Result<()> {
    let output = output(&["openapi"], &[])?;
    let kept = std::fs::read(root().join("docs/openapi.json"))?;
    ensure!(
        kept == output.stdout,
        "the API has changed: run `target/debug/postrider openapi > docs/openapi.json`, and look at the difference"
    );
    Ok(())
}

#[tokio::test]
async fn docs_page_works_offline() -> Result<()> {
    let env = TestEnv::empty("")?;
    let host = env.start().await?;
    let (status, served) = host.client.get("/openapi.json").await?;
    assert_eq!((status, served["openapi"].as_str()), (StatusCode::OK, Some("3.1.0")));
    let mut seen = String::new();
    for path in [
        "/docs/",
        "/docs/swagger-initializer.js",
        "/docs/swagger-ui.css",
        "/docs/swagger-ui-bundle.js",
    ] {
        let text = host.client.text(path).await?;
        seen.push_str(if path.ends_with("bundle.js") { "" } else { &text });
    }
    assert!(
        seen.contains("/openapi.json")
            && !seen.contains("src=\"http")
            && !seen.contains("url(http"),
        "{seen}"
    );
    for kind in host.client.get("/problems").await?.1["items"].as_array().context("kinds")? {
        let place = kind["type"].as_str().context("a type")?;
        assert_eq!(&host.client.get(place).await?, &(StatusCode::OK, kind.clone()));
    }
    host.stop().await
}

/// Where the tool is installed; kept between runs.
fn schemathesis() -> Result<PathBuf> {
    // The tests of both back ends need it at the same time.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _installing = INSTALLING.lock().map_err(|_| anyhow!("the installation failed"))?;
    let folder = root().join("target/schemathesis").join(SCHEMATHESIS);
    let complete = folder.join("complete");
    if !complete.is_file() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", SCHEMATHESIS]))?;
        std::fs::write(complete, "")?;
    }
    Ok(folder.join("bin/schemathesis"))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&said));
    Ok(())
}

/// Runs Schemathesis with all checks: valid requests are accepted, invalid ones are refused, and
/// responses match their schemas.
async fn api_conforms_to_its_document(backend: Backend) -> Result<()> {
    let env =
        TestEnv::shipped_on(backend, &format!("{AMPLE_STOCK}[defaults.retry]\nmax_attempts = 1\n"))
            .await?;
    let host = env.start().await?;
    for id in ["1", "2", "3"] {
        let doomed = json!({ "order_id": id, "user_id": 1, "items": ["Book"], "total": 1, "force_fail": true });
        host.client.post("/orders", &doomed).await?;
        host.client.wait_for_status(id, "failed").await?;
    }
    let (place, folder) =
        (root().join("tests/fixtures/schemathesis"), env.folder.path().to_owned());
    let document = format!("{}/openapi.json", host.client.url);
    let said =
        |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (examples, seed) =
        (said("POSTRIDER_API_EXAMPLES", EXAMPLES), said("POSTRIDER_API_SEED", SEED));
    tokio::task::spawn_blocking(move || {
        let mut command = Command::new(schemathesis()?);
        command.arg("--config-file").arg(place.join("schemathesis.toml")).args([
            "run",
            "--checks",
            "all",
            "--max-examples",
            &examples,
            "--seed",
            &seed,
        ]);
        // Its database of earlier runs would change what it sends.
        run(command
            .args(["--no-color", &document])
            .envs([("SCHEMATHESIS_HOOKS", "hooks".as_ref()), ("PYTHONPATH", place.as_os_str())])
            .current_dir(folder))
    })
    .await??;
    host.stop().await
}
