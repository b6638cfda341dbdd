//! Checks of the published crates: the library compiles with each feature alone and with encryption, every crate can be
//! packaged, and a program outside of the workspace embeds the library as it was packaged.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{call, cargo, root, say};

const FEATURES: [&str; 11] = [
    "encryption",
    "exact-numbers",
    "http",
    "metrics",
    "postgres",
    "rabbitmq",
    "sqlite",
    "tls",
    "wasm",
    "http,tls",
    "rabbitmq,tls",
];
const PUBLISHED: [&str; 3] = ["postrider-stage", "postrider", "postrider-cli"];
/// Optional dependencies of the command line, in a workspace of their own.
const STAGES: [&str; 4] = ["inventory", "notification", "payment", "shipping"];

/// Checks the library without features and with each feature alone. Only its own warnings are
/// errors, so the dependencies are shared with the other checks where their features agree.
pub(crate) fn features() -> Result<()> {
    for feature in std::iter::once("").chain(FEATURES) {
        say(&format!("checking the library with the features [{feature}]"));
        let library = ["clippy", "--package", "postrider", "--lib", "--no-default-features"];
        call(cargo().args(library).args(["--features", feature, "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Most crates that a build without features may have.
const MINIMAL_CRATES_MAX: usize = 165;

/// Counts the crates of a build without features: an embedder pays for what it uses.
pub(crate) fn minimal() -> Result<()> {
    let tree = ["tree", "--package", "postrider", "--edges", "normal", "--prefix", "none"];
    let tree = cargo().args(tree).args(["--no-dedupe", "--no-default-features"]).output()?;
    ensure!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).context("cargo tree prints text")?;
    let crates: std::collections::BTreeSet<&str> = text.lines().collect();
    let count = crates.len();
    say(&format!("a build without features has {count} crates"));
    ensure!(count <= MINIMAL_CRATES_MAX, "{count} crates; {MINIMAL_CRATES_MAX} are allowed");
    Ok(())
}

/// Builds and runs `examples/embedding` with the packages, on the services of the tests. The compiled
/// dependencies are those of the workspace, as far as their features agree.
pub(crate) fn embedding(environment: impl Iterator<Item = (&'static str, String)>) -> Result<()> {
    let packages = root().join("target/packages");
    if packages.exists() {
        fs::remove_dir_all(&packages)?;
    }
    fs::create_dir_all(&packages)?;
    for name in ["postrider", "postrider-stage"] {
        let file = format!("{name}-{}", env!("CARGO_PKG_VERSION"));
        let archive = root().join("target/package").join(format!("{file}.crate"));
        call(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&packages))?;
        fs::rename(packages.join(file), packages.join(name))?;
    }
    let program = root().join("examples/embedding");
    // The versions that the workspace was tested with.
    fs::copy(root().join("Cargo.lock"), program.join("Cargo.lock"))?;
    say("building and running a program outside of the workspace with the packages");
    let manifest: PathBuf = program.join("Cargo.toml");
    let mut run = cargo();
    run.args(["run", "--manifest-path"]).arg(manifest);
    run.env("CARGO_TARGET_DIR", root().join("target")).envs(environment);
    call(&mut run)
}

/// Packages the crates together, so that one that is not published yet finds the others. What was
/// packaged is not compiled: its dependencies would be built once more, which takes longer than all
/// tests.
pub(crate) fn package() -> Result<()> {
    say("packaging the crates");
    let mut package = cargo();
    package.args(["package", "--allow-dirty", "--no-verify"]);
    package.args(PUBLISHED.iter().flat_map(|name| ["--package", name]));
    for stage in STAGES {
        let patch = format!("patch.crates-io.postrider-stage-{stage}.path=\"plugins/{stage}\"");
        package.args(["--config", &patch]);
    }
    call(&mut package)
}
