//! Log lines about one attempt at a delivery (`log_delivery!`); those of the stage itself are in
//! `guest_log`.
//!
//! Each carries the same flat fields: `trace_id`, `span_id`, `subject`, `stage`, `event`, `attempt` and
//! `digest`. There is no span that a subscriber would have to keep and format for each message: a
//! line that is not logged costs a comparison, and formats and allocates nothing.

use std::sync::Arc;

use super::log_level::LogThreshold;
use crate::domain::event::Envelope;
use crate::domain::trace_context::TraceContext;

/// An attempt at a delivery, as log lines name it.
#[derive(Debug, Clone)]
pub struct DeliveryLog {
    /// The level of the stage.
    pub threshold: Arc<LogThreshold>,
    /// The stage.
    pub stage: Arc<str>,
    /// The event.
    pub envelope: Arc<Envelope>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Digest of the plugin.
    pub digest: Arc<str>,
    /// Where the attempt is in its trace.
    pub trace: TraceContext,
}

impl DeliveryLog {
    /// The subject of the event.
    pub fn subject(&self) -> Option<&str> {
        self.envelope.subject_key.as_deref()
    }

    /// The id of the event.
    pub fn event(&self) -> &str {
        &self.envelope.event.id
    }
}

/// Logs a line about a delivery: its level, the [`DeliveryLog`], then fields and message as in
/// [`tracing::event!`].
macro_rules! log_delivery {
    ($level:ident, $log:expr, $($line:tt)+) => {{
        let log: &$crate::stage::delivery_log::DeliveryLog = $log;
        log.threshold.log(tracing::Level::$level.into(), || {
            tracing::event!(
                target: $crate::stage::log_level::DELIVERY,
                tracing::Level::$level,
                trace_id = %log.trace.trace_id(),
                span_id = %log.trace.span_id(),
                subject = log.subject(),
                stage = &*log.stage,
                event = log.event(),
                attempt = log.attempt,
                digest = &*log.digest,
                $($line)+
            );
        });
    }};
}
pub(crate) use log_delivery;
