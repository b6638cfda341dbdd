//! The table of metrics in `docs/metrics.md`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use super::harness::root;

/// Type and labels of each metric.
pub(crate) type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// The metrics in the tables of the document.
pub(crate) fn documented() -> Result<Metrics> {
    let document = std::fs::read_to_string(root().join("docs/metrics.md"))?;
    let rows = document.lines().filter(|line| line.starts_with("| `") && !line.contains("(rate("));
    rows.map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let mut cell = || cells.next().context(row.to_owned());
        let (name, kind, labels) = (cell()?.trim_matches('`'), cell()?, cell()?);
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        Ok((name.to_owned(), (kind.to_owned(), labels)))
    })
    .collect()
}
