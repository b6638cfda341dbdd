//! `postrider dev` rebuilds and reloads a stage when its source is saved. A failed build is
//! reported, and the previous version keeps serving.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

use crate::support::harness::guest;
use crate::support::process::binary;

/// Reads lines until one contains `text`. Returns all of them.
async fn until(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) -> Result<String> {
    let mut read = String::new();
    let found = async {
        while let Some(line) = lines.next_line().await? {
            read += &line;
            read += "\n";
            if line.contains(text) {
                return Ok(());
            }
        }
        anyhow::bail!("the program ended")
    };
    let waited = tokio::time::timeout(Duration::from_mins(1), found).await;
    waited.with_context(|| format!("never saw `{text}`"))?.with_context(|| read.clone())?;
    Ok(read)
}

/// Configures a stage whose build copies the plugin file named in its source.
fn choose(folder: &Path, plugin: &Path) -> Result<()> {
    Ok(std::fs::write(folder.join("choice"), plugin.display().to_string())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn saved_source_is_rebuilt_and_reloaded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = folder.path().join("audit");
    std::fs::create_dir_all(stage.join("fixtures"))?;
    std::fs::write(
        stage.join("stage.toml"),
        "build = 'cp \"$(cat choice)\" out.wasm'\nartifact = 'out.wasm'\nwatch = ['choice']\n",
    )?;
    std::fs::write(
        stage.join("fixtures/one.json"),
        r#"{ "event": { "type": "shipping.ready", "subject": "7", "data": {} } }"#,
    )?;
    choose(&stage, &guest("fifth")?)?;
    let mut command = Command::new(binary()?);
    command.args(["dev", "--listen", "127.0.0.1:0", "--send", "fixtures"]).arg(folder.path());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    until(&mut lines, "serving").await?;

    choose(&stage, &guest("fifth-next")?)?;
    let seen = until(&mut lines, "after the save").await?;
    assert!(seen.contains("audit@1.1.0 shipping.ready 7 → audit.noted"), "{seen}");
    assert!(seen.contains(r#""version":"1.1.0""#), "{seen}");

    choose(&stage, Path::new("no-such-file"))?;
    let seen = until(&mut lines, "no-such-file").await?;
    assert!(seen.contains("failed audit"), "{seen}");
    choose(&stage, &stage.join("stage.toml"))?;
    let seen = until(&mut lines, "not WebAssembly").await?;
    assert!(seen.contains("failed audit"), "{seen}");
    choose(&stage, &guest("fifth-traps")?)?;
    let seen = until(&mut lines, "this version traps").await?;
    assert!(
        seen.contains("audit@1.2.0 shipping.ready 7 failed attempt 1")
            && seen.contains("fifth/src/lib.rs"),
        "{seen}"
    );
    child.kill().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_and_fixtures_apply_in_development() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stage = folder.path().join("payment");
    std::fs::create_dir_all(stage.join("fixtures"))?;
    std::fs::write(
        stage.join("stage.toml"),
        format!(
            "build = 'cp \"{}\" out.wasm'\nartifact = 'out.wasm'\nwatch = ['stage.toml']\n",
            guest("payment")?.display()
        ),
    )?;
    let case = |config: &str| {
        format!(
            r#"{{ "event": {{ "type": "order.created", "subject": "7", "data": {{ "total": 20 }} }}, "config": {config} }}"#
        )
    };
    std::fs::write(stage.join("fixtures/1-configured.json"), case("{}"))?;
    std::fs::write(stage.join("fixtures/2-own.json"), case(r#"{ "max_total": "100" }"#))?;
    let refunded = r#"{ "event": { "type": "order.cancelled", "subject": "9" }, "state": { "order/9/payment": { "status": "authorized", "amount": 5 } } }"#;
    std::fs::write(stage.join("fixtures/3-state.json"), refunded)?;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let config = folder.path().join("dev.toml");
    std::fs::write(&config, "[stages.payment.settings]\nmax_total = \"5\"\n")?;
    let mut command = Command::new(binary()?);
    command.arg("--config").arg(&config).args(["dev", "--send", "fixtures"]).arg(&stage);
    command.args(["--listen", "127.0.0.1:0"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    // Fixtures run at the start, each from its own state and settings.
    let started = until(&mut lines, "serving").await?;
    let address = started.split("http://").nth(1).and_then(|rest| rest.split(';').next());
    let url = format!("http://{}", address.context("an address")?);
    let sent = until(&mut lines, "payment.refunded").await?;
    let declined = sent.find("→ payment.declined").context("the configured limit")?;
    let authorized = sent.find("→ payment.authorized").context("the fixture's limit")?;
    assert!(declined < authorized, "{sent}");
    // An order goes through the host itself.
    let order =
        serde_json::json!({ "order_id": "a", "user_id": "1", "items": ["Book"], "total": 20 });
    let answer = reqwest::Client::new().post(format!("{url}/orders")).json(&order).send().await?;
    assert!(answer.status().is_success());
    until(&mut lines, "order.created a → payment.declined").await?;
    child.kill().await?;

    // A taken address is reported before anything is built.
    let address = taken.local_addr()?.to_string();
    let output =
        Command::new(binary()?).args(["dev", "--listen", &address]).arg(&stage).output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains(&format!("cannot listen on {address}")));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("built"));
    Ok(())
}
