//! Styles for progress bars.

use std::fmt;

use anyhow::Result;
use indicatif::{ProgressState, ProgressStyle};

/// An `indicatif` template in which `{rate}` is the number of items per second, without decimals.
pub(crate) fn style(template: &str) -> Result<ProgressStyle> {
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        _ = write!(out, "{:.0}/s", state.per_sec());
    };
    Ok(ProgressStyle::with_template(template)?.with_key("rate", rate))
}
