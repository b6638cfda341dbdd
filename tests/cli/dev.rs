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
