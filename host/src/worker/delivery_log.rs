//! What log lines about an attempt say of it.

use std::sync::Arc;

use super::decide::{Attempt, Ruling};
use crate::domain::event::Envelope;
use crate::pipeline::Stage;
use crate::pipeline::metrics::OutcomeKind;
use crate::stage::delivery_log::{DeliveryLog, log_delivery};
use crate::store::Verdict;

impl Attempt {
    /// What log lines say of it.
    pub(super) fn log(&self, stage: &Stage, envelope: &Arc<Envelope>) -> DeliveryLog {
        DeliveryLog {
            threshold: Arc::clone(&stage.log_threshold),
            stage: Arc::clone(&stage.name),
            envelope: Arc::clone(envelope),
            attempt: self.attempt,
            digest: Arc::clone(&self.digest),
            trace: self.trace(&envelope.event).clone(),
        }
    }
}

/// Logs how an attempt ended: a failure or a dead letter as a warning, everything else for those who
/// look for details.
pub(super) fn log_ruling(log: &DeliveryLog, ruling: &Ruling, duration_us: u64) {
    let event_type = &*log.envelope.event.event_type;
    let dead = match ruling.verdict() {
        Verdict::Dead { code, message, .. } => Some((code, message)),
        _ => None,
    };
    let failed = ruling.failure().map(|failure| (&failure.code, &failure.message));
    match failed.or(dead) {
        Some((code, message)) => {
            let dead_lettered = dead.is_some();
            log_delivery!(WARN, log, event_type, code, dead_lettered, "{message}");
        }
        None => {
            let verdict = OutcomeKind::from(ruling.verdict()).name();
            let emitted = ruling.verdict().emitted().len();
            log_delivery!(
                DEBUG,
                log,
                event_type,
                verdict,
                emitted,
                duration_us,
                "delivery decided"
            );
        }
    }
}
