//! Builds the web console into `host/console/dist`, which is committed: neither a build of the host nor a
//! running host needs Node.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{call, root, say};

/// What is generated and committed, from the repository's root.
const GENERATED: [&str; 2] = ["host/console/dist", "host/console/src/api/schema.d.ts"];

fn npm(args: &[&str]) -> Result<()> {
    let folder: PathBuf = root().join("host/console");
    call(Command::new("npm").args(args).current_dir(folder))
        .context("the console is built with Node.js 20 or later and npm")
}

/// Installs what the build needs, generates the types of the API, checks and tests the sources, and
/// bundles them.
pub(crate) fn build() -> Result<()> {
    say("building the console");
    npm(&["ci", "--no-audit", "--no-fund"])?;
    for script in ["types", "check", "test", "build"] {
        npm(&["run", "--silent", script])?;
    }
    Ok(())
}

/// Builds it, and fails if that changes what is committed.
pub(crate) fn check() -> Result<()> {
    build()?;
    let mut difference = Command::new("git");
    difference.args(["diff", "--exit-code", "--stat", "--"]).args(GENERATED).current_dir(root());
    call(&mut difference)
        .context("the console's committed files are stale: run `cargo xtask console`, commit them")
}
