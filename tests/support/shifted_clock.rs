//! The wall clock of hosts in separate processes, which a test may set.
//!
//! A library that is preloaded into the process adds an offset from a shared file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::support::harness::root;

/// A clock that differs from the machine's.
pub(crate) struct ShiftedClock {
    library: PathBuf,
    offset: PathBuf,
}

impl ShiftedClock {
    /// A clock that agrees with the machine's, kept in `folder`.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let (library, offset) = (folder.join("clock.so"), folder.join("clock-offset"));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(root().join("tests/support/clock_shim.c"))
            .status()?;
        ensure!(compiled.success(), "the C compiler failed");
        let clock = Self { library, offset };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets the clock ahead by this time from now on.
    pub(crate) fn set_ahead(&self, by: Duration) -> Result<()> {
        self.set(i64::try_from(by.as_millis())?)
    }

    /// Sets the clock back by this time from now on.
    pub(crate) fn set_back(&self, by: Duration) -> Result<()> {
        self.set(-i64::try_from(by.as_millis())?)
    }

    fn set(&self, offset_ms: i64) -> Result<()> {
        // In place: the processes have mapped the file.
        let mut file =
            std::fs::File::options().create(true).truncate(false).write(true).open(&self.offset)?;
        file.write_all(&offset_ms.to_ne_bytes())?;
        Ok(())
    }

    /// The environment of a process that uses this clock.
    pub(crate) fn environment(&self) -> Result<[(&str, &str); 2]> {
        let library = self.library.to_str().context("a path in UTF-8")?;
        let offset = self.offset.to_str().context("a path in UTF-8")?;
        Ok([("LD_PRELOAD", library), ("CLOCK_OFFSET_FILE", offset)])
    }
}
