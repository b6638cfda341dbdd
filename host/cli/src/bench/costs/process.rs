//! What the operating system counts for this process.

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};

/// The process so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Time on a processor, of the program and of the system for it.
    pub(super) cpu_us: u64,
    /// Times that a thread gave up its processor, because it waited or because its time was up.
    pub(super) context_switches: u64,
    /// Bytes that were written with `write`, mostly to files: the system counts `send` elsewhere.
    /// None where it does not count them.
    pub(super) file_bytes: Option<u64>,
}

impl Usage {
    pub(super) fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot read the process's usage")?;
        let time = |value: nix::sys::time::TimeVal| {
            value.tv_sec() as u64 * 1_000_000 + value.tv_usec() as u64
        };
        let switches = usage.voluntary_context_switches() + usage.involuntary_context_switches();
        let io = std::fs::read_to_string("/proc/self/io").ok();
        let written = io.as_deref().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("wchar:"))?.trim().parse().ok()
        });
        Ok(Self {
            cpu_us: time(usage.user_time()) + time(usage.system_time()),
            context_switches: switches as u64,
            file_bytes: written,
        })
    }
}
