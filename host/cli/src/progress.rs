//! How progress looks on a terminal.

use std::fmt;

use anyhow::Result;
use indicatif::{ProgressState, ProgressStyle};

/// A template of `indicatif` in which `{rate}` is how many come a second, without decimals.
pub(crate) fn style(template: &str) -> Result<ProgressStyle> {
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        _ = write!(out, "{:.0}/s", state.per_sec())
    };
    Ok(ProgressStyle::with_template(template)?.with_key("rate", rate))
}
