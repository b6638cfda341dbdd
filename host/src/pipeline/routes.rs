//! Which stages an event reaches.

use std::sync::Arc;

/// Which stages consume an event type.
pub trait Routes {
    /// Stages, by the topology of the moment.
    fn stages_for(&self, event_type: &str) -> Vec<Arc<str>>;
}
