//! Stages in several languages: every template and every example is built with the tools of its
//! language, tested, and run in a host.
//!
//! The builds download their tools from the package registries, into the tests' own folders.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::support::harness::{TestEnv, eventually, root};
use crate::support::load::AMPLE_STOCK;
use crate::support::process::binary;

/// The build folder, kept between runs so that tools are downloaded once.
fn build_folder() -> PathBuf {
    root().join("target/languages")
}

/// A command with a path that has a `cargo` which can build guests, where the toolchain's cannot.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    let paths =
        [root().join("target/guest-bin"), binary()?.parent().context("a folder")?.to_owned()];
    let present = std::env::var_os("PATH").unwrap_or_default();
    command.env(
        "PATH",
        std::env::join_paths(paths.into_iter().chain(std::env::split_paths(&present)))?,
    );
    // The environment of the test run must not reach another cargo.
    for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    Ok(command)
}

fn run(what: &str, command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| what.to_owned())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{what}:\n{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

/// Builds a stage, and compares the results of its fixtures with the recorded ones (or records
/// them). Returns its plugin file.
pub(crate) fn built(dir: &Path, accept: bool) -> Result<PathBuf> {
    let mut test = command(binary()?)?;
    test.args(["--json", "plugin", "test", "--build"]).arg(dir);
    if accept {
        test.arg("--accept");
    }
    let said: Value =
        serde_json::from_str(&run(&format!("plugin test {}", dir.display()), &mut test)?)?;
    ensure!(said["cases"].as_array().is_some_and(|cases| cases.len() >= 3), "{said}");
    Ok(said["artifact"].as_str().context("an artifact")?.into())
}

/// Creates a stage from a template, and keeps the tools that were downloaded before.
pub(crate) fn new_stage(language: &str, name: &str) -> Result<PathBuf> {
    let (fresh, kept) = (build_folder().join("new"), build_folder().join(name));
    std::fs::remove_dir_all(&fresh).or_else(|error| {
        if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
    })?;
    std::fs::create_dir_all(&fresh)?;
    run(
        "plugin new",
        command(binary()?)?.args(["plugin", "new", "--lang", language, name, "--into"]).arg(&fresh),
    )?;
    std::fs::create_dir_all(&kept)?;
    run("cp", Command::new("cp").arg("-R").arg(fresh.join(name).join(".")).arg(&kept))?;
    Ok(kept)
}

/// Installs stages into a running host and checks that an order reaches each of them.
async fn an_order_reaches(stages: &[(String, PathBuf)]) -> Result<()> {
    let limits = "[defaults.limits]\ndeadline_ms = 10000\nmemory_max_bytes = 268435456\n";
    let env = TestEnv::shipped(&format!("{AMPLE_STOCK}{limits}"))?;
    let host = env.start().await?;
    for (name, file) in stages {
        let part = env.plugins().join(format!(".{name}.part"));
        std::fs::copy(file, &part)?;
        std::fs::rename(part, env.plugins().join(format!("{name}.wasm")))?;
    }
    for (name, _) in stages {
        host.client.wait_until_serving(&format!("{name}.wasm")).await?;
    }
    let order = json!({ "order_id": "l-1", "user_id": "7", "items": [{ "sku": "Book", "quantity": 2, "unit_price": 10.0 }], "total": 20.0 });
    host.client.post("/orders", &order).await?;
    for (name, _) in stages {
        let done = || async {
            let (_, order) = host.client.get("/orders/l-1").await?;
            let entry = order["timeline"]
                .as_array()
                .and_then(|all| all.iter().find(|entry| entry["stage"] == *name))
                .cloned()
                .unwrap_or_default();
            ensure!(entry["status"] != "dead", "{entry:#}");
            Ok((entry["status"] == "done").then_some(()))
        };
        eventually(&format!("{name} in the order's timeline"), done).await?;
    }
    host.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds with the tools of several languages: `cargo xtask test` runs it alone, after the others"]
async fn new_stage_of_each_language_joins_a_running_host() -> Result<()> {
    let mut stages = Vec::new();
    for language in ["rust", "js", "ts", "python", "c"] {
        let dir = new_stage(language, &format!("{language}-check"))?;
        let began = std::time::Instant::now();
        let plugin = built(&dir, true)?;
        // The results just recorded match without another build.
        built(&dir, false)?;
        println!(
            "{language}: {} kB, built and tested in {:.1} s",
            std::fs::metadata(&plugin)?.len() / 1_000,
            began.elapsed().as_secs_f64()
        );
        stages.push((format!("{language}-check"), plugin));
    }
    an_order_reaches(&stages).await
}

/// A project contains the SDK of its language. That of an example equals that of its template.
#[test]
fn examples_contain_the_sdk_of_the_templates() -> Result<()> {
    for (example, template, file) in [
        ("loyalty", "js", "postrider.js"),
        ("loyalty", "js", "component.js"),
        ("fraud-score", "python", "postrider.py"),
        ("fraud-score", "python", "component.py"),
        ("documents/classify", "python", "postrider.py"),
        ("documents/classify", "python", "component.py"),
    ] {
        let read = |folder: &str| {
            std::fs::read_to_string(root().join(folder).join(file))
                .with_context(|| format!("{folder}/{file}"))
        };
        let (theirs, ours) = (
            read(&format!("plugins/examples/{example}"))?,
            read(&format!("sdk/templates/{template}"))?,
        );
        assert!(theirs == ours, "{file} of {example} is not that of the template {template}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds with the tools of several languages: `cargo xtask test` runs it alone, after the others"]
async fn examples_repeat_their_recordings() -> Result<()> {
    let mut stages = Vec::new();
    for (name, own_tests) in [
        ("tax", &["make", "test"][..]),
        ("loyalty", &["npm", "test"]),
        ("fraud-score", &[".venv/bin/python", "-m", "unittest"]),
    ] {
        let dir = root().join("plugins/examples").join(name);
        let plugin = built(&dir, false)?;
        run(
            &format!("{name}'s own tests"),
            command(own_tests[0])?.args(&own_tests[1..]).current_dir(&dir),
        )?;
        stages.push((name.to_owned(), plugin));
    }
    an_order_reaches(&stages).await
}
