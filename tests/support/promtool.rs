//! Prometheus' command line tool: the installed one, or the one that `cargo xtask test` has unpacked.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use super::harness::root;

/// The program.
pub(crate) fn promtool() -> Result<PathBuf> {
    let unpacked = root().join("target/prometheus/usr/bin/promtool");
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let installed = PathBuf::from("promtool");
    let found = Command::new(&installed).arg("--version").output().is_ok();
    ensure!(found, "the tests need promtool: install Prometheus, or run `cargo xtask test` once");
    Ok(installed)
}
