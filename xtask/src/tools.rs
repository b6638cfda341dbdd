//! Programs that the tests start: the browser that drives the console, and Prometheus' command line tool.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::guests::{can_install_packages, install_packages, update_packages};
use crate::{call, root, runs, say};

/// Where the tests look for the browser, unless `CONSOLE_BROWSER` names it.
const BROWSER: &str = "/usr/bin/chromium";

/// Finds or installs them.
pub(crate) fn find() -> Result<()> {
    browser()?;
    promtool()
}

fn browser() -> Result<()> {
    if std::env::var_os("CONSOLE_BROWSER").is_some() || Path::new(BROWSER).exists() {
        return Ok(());
    }
    ensure!(
        can_install_packages(),
        "the tests of the console need Chromium: install it, and name it in CONSOLE_BROWSER"
    );
    say("installing Debian's chromium");
    install_packages(&["chromium"])
}

/// The package is unpacked into `target/prometheus`, because its installation starts a server.
fn promtool() -> Result<()> {
    let folder = root().join("target/prometheus");
    let unpacked = folder.join("usr/bin/promtool");
    if unpacked.exists() || runs(Command::new("promtool").arg("--version")) {
        return Ok(());
    }
    ensure!(can_install_packages(), "the tests need promtool: install Prometheus");
    say("unpacking Debian's promtool");
    update_packages()?;
    fs::create_dir_all(&folder)?;
    call(Command::new("apt-get").args(["download", "-qq", "prometheus"]).current_dir(&folder))?;
    let package = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get downloaded no package")?;
    call(Command::new("dpkg").arg("--extract").arg(&package).arg(&folder))?;
    Ok(fs::remove_file(package)?)
}
