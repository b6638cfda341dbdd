//! Splits a linked program into a stripped one and a file with its symbols beside it.
//!
//! The stripped program names the symbol file in `.gnu_debuglink`: backtraces and debuggers find it
//! in the same folder. Without it, a backtrace shows addresses in place of names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{call, runs, say};

/// Moves the symbols of `program` to `<program>.debug`.
pub(crate) fn split(program: &Path) -> Result<()> {
    // objcopy comes with the binutils that usually link the program; a toolchain may do without.
    if !runs(Command::new("objcopy").arg("--version")) {
        say("objcopy is not installed: the program keeps its symbols");
        return Ok(());
    }
    if !has_symbols(program)? {
        return Ok(());
    }
    let symbols = with_suffix(program, ".debug");
    // The program is a hard link to a file that cargo reuses, so it is replaced, not written to.
    let (part, stripped) = (with_suffix(program, ".debug.part"), with_suffix(program, ".part"));
    call(Command::new("objcopy").arg("--only-keep-debug").arg(program).arg(&part))?;
    std::fs::rename(&part, &symbols)?;
    let mut link = OsString::from("--add-gnu-debuglink=");
    link.push(&symbols);
    call(Command::new("objcopy").arg("--strip-all").arg(link).arg(program).arg(&stripped))?;
    std::fs::rename(&stripped, program)?;
    let size = |file: &Path| std::fs::metadata(file).map(|data| data.len() / 1_000_000);
    say(&format!("{}: {} MB, symbols: {} MB", program.display(), size(program)?, size(&symbols)?));
    Ok(())
}

/// False for a program that an earlier build split.
fn has_symbols(program: &Path) -> Result<bool> {
    let output = Command::new("readelf").arg("--sections").arg("--wide").arg(program).output()?;
    ensure!(output.status.success(), "readelf cannot read {}", program.display());
    Ok(String::from_utf8_lossy(&output.stdout).contains(".symtab"))
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
