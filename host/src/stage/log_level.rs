//! The log level that operators set for a stage, and what a subscriber has to know about it.
//!
//! Lines about deliveries and lines of guests have targets of their own ([`DELIVERY`], [`GUEST`]). Where
//! a stage has a level, the line is logged if that level says so, whatever the filter of the process;
//! elsewhere the filter decides, as it does for every other line. Costs: without a level one load of an
//! atomic for each line. A subscriber is asked about the details of such lines only while some stage has a
//! level.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tracing::Metadata;
use tracing::level_filters::LevelFilter;

use crate::domain::log_level::LogLevel;

/// Target of the host's lines about a delivery.
pub const DELIVERY: &str = "postrider::delivery";
/// Target of the lines of guests.
pub const GUEST: &str = "postrider::guest";

/// Stages of this process that have a level.
static STAGES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The level of its stage asks for the line that this thread is logging.
    static WANTED: Cell<bool> = const { Cell::new(false) };
}

/// What a `tracing` subscriber does with the log levels that operators set for stages
/// (`postrider stages log-level`): it lets pass what its own filter lets pass, and what
/// [`StageLogLevels::enabled`] wants.
///
/// Without that, a level can only make a stage quieter.
///
/// ```
/// use postrider::StageLogLevels;
/// use tracing::Metadata;
///
/// fn enabled(own_filter: impl Fn(&Metadata<'_>) -> bool, metadata: &Metadata<'_>) -> bool {
///     own_filter(metadata) || StageLogLevels::enabled(metadata)
/// }
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StageLogLevels;

impl StageLogLevels {
    /// Whether the level of a stage asks for the line that is being logged on this thread: not to be
    /// cached.
    pub fn enabled(metadata: &Metadata<'_>) -> bool {
        WANTED.get() && Self::covers(metadata)
    }

    /// Whether lines from this place depend on the level of a stage: lines about deliveries, and those
    /// of guests.
    pub fn covers(metadata: &Metadata<'_>) -> bool {
        matches!(metadata.target(), DELIVERY | GUEST)
    }

    /// The most detailed level that [`StageLogLevels::enabled`] may ask for at present: off, unless some
    /// stage has a level. When it changes, `tracing` asks its subscribers again.
    pub fn max_level() -> LevelFilter {
        if STAGES.load(Ordering::Acquire) == 0 { LevelFilter::OFF } else { LevelFilter::TRACE }
    }
}

/// The level of one stage on this host.
#[derive(Debug, Default)]
pub struct LogThreshold(AtomicU8);

impl LogThreshold {
    /// Sets the level; none: the filter of the process decides.
    pub fn set(&self, level: Option<LogLevel>) {
        let before = self.0.swap(level.map_or(0, |level| level as u8), Ordering::AcqRel);
        let has_changed = match (before, level) {
            (0, Some(_)) => STAGES.fetch_add(1, Ordering::AcqRel) == 0,
            (1.., None) => STAGES.fetch_sub(1, Ordering::AcqRel) == 1,
            _ => false,
        };
        if has_changed {
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// Calls `line`, which logs one line of this level, unless the stage is to be quieter.
    pub fn log(&self, level: LogLevel, line: impl FnOnce()) {
        match self.0.load(Ordering::Relaxed) {
            0 => line(),
            max if level as u8 <= max => wanted(line),
            _ => {}
        }
    }
}

impl Drop for LogThreshold {
    fn drop(&mut self) {
        self.set(None);
    }
}

fn wanted(line: impl FnOnce()) {
    /// Also when a subscriber panics.
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            WANTED.set(self.0);
        }
    }
    let _reset = Reset(WANTED.replace(true));
    line();
}
