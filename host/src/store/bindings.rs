//! Which event types reach which stage, as all hosts of a store know it.
//!
//! A binding is in use while a live host runs its stage with it. An unused one is deleted once a
//! live host runs the stage without it; while no host runs the stage, all its bindings stay, and its
//! queue keeps receiving messages.

use std::collections::HashSet;
use std::sync::Arc;

use super::StoreError;
use super::decode::Columns;

/// An event type, or a topic pattern, that reaches a stage.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StageBinding {
    /// The stage.
    pub stage: Arc<str>,
    /// AMQP topic pattern.
    pub pattern: String,
}

impl StageBinding {
    /// The bindings of one stage.
    pub fn all<'a>(stage: &'a Arc<str>, patterns: &'a [String]) -> impl Iterator<Item = Self> + 'a {
        patterns.iter().map(|pattern| Self { stage: Arc::clone(stage), pattern: pattern.clone() })
    }
}

/// The bindings of all hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownBindings {
    /// In use, or of a stage that no host runs; sorted.
    pub kept: Vec<StageBinding>,
    /// Of a stage that its hosts run without them; sorted.
    pub unused: Vec<StageBinding>,
}

/// Deletes the rows of gone hosts for bindings that a live host uses. The placeholder is the time
/// before which a host is not live.
pub(super) const DELETE_OUTLIVED: &str = "DELETE FROM bindings WHERE seen_ms <= $1 AND EXISTS (SELECT 1 FROM bindings o \
     WHERE o.stage = bindings.stage AND o.pattern = bindings.pattern AND o.seen_ms > $1)";

/// Every binding and whether a live host uses it, for [`decode`]. Its placeholder: the time before
/// which a host is not live.
pub(super) const KNOWN: &str = "SELECT stage, pattern, max(seen_ms) > $1 FROM bindings GROUP BY \
                                stage, pattern ORDER BY stage, pattern";

pub(super) fn decode(rows: &[impl Columns]) -> Result<KnownBindings, StoreError> {
    let mut bindings = Vec::with_capacity(rows.len());
    for row in rows {
        bindings.push((
            StageBinding { stage: row.text(0)?.into(), pattern: row.owned(1)? },
            row.flag(2)?,
        ));
    }
    let running: HashSet<Arc<str>> = bindings
        .iter()
        .filter(|(_, live)| *live)
        .map(|(binding, _)| Arc::clone(&binding.stage))
        .collect();
    let (kept, unused): (Vec<_>, Vec<_>) = bindings
        .into_iter()
        .partition(|(binding, live)| *live || !running.contains(&binding.stage));
    let bare = |bindings: Vec<(StageBinding, bool)>| {
        bindings.into_iter().map(|(binding, _)| binding).collect()
    };
    Ok(KnownBindings { kept: bare(kept), unused: bare(unused) })
}
