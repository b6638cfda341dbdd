//! Log lines of stages: records of their own, with the fields of the delivery that they belong to.
//!
//! Bounds: those of the call, `log_lines_max` and `log_bytes_max`; a native stage has none.

use super::delivery_log::DeliveryLog;
use super::handler::{CallContext, LogLine};
use super::log_level::GUEST;
use crate::domain::log_level::LogLevel;

/// Logs a line of a stage as a record of its own, or hands it to the collector of the call. Without a
/// call (`describe`) it belongs to no delivery.
pub(crate) fn guest_line(
    call: Option<&CallContext>,
    level: LogLevel,
    message: &str,
    fields: &[(String, String)],
) {
    if let Some(logs) = call.and_then(|call| call.logs.as_ref()) {
        let (message, fields) = (message.to_owned(), fields.to_vec());
        return logs.push(LogLine { level: level.name(), message, fields });
    }
    match call.and_then(|call| call.log.as_deref()) {
        Some(log) => log.threshold.log(level, || record(Some(log), level, message, fields)),
        None => record(None, level, message, fields),
    }
}

fn record(log: Option<&DeliveryLog>, level: LogLevel, message: &str, fields: &[(String, String)]) {
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: GUEST,
                tracing::Level::$level,
                trace_id = log.map(|log| tracing::field::display(log.trace.trace_id())),
                span_id = log.map(|log| tracing::field::display(log.trace.span_id())),
                subject = log.and_then(DeliveryLog::subject),
                stage = log.map(|log| &*log.stage),
                event = log.map(DeliveryLog::event),
                attempt = log.map(|log| log.attempt),
                digest = log.map(|log| &*log.digest),
                fields = joined(fields),
                "{message}"
            )
        };
    }
    match level {
        LogLevel::Error => line!(ERROR),
        LogLevel::Warn => line!(WARN),
        LogLevel::Info => line!(INFO),
        LogLevel::Debug => line!(DEBUG),
        LogLevel::Trace => line!(TRACE),
    }
}

/// The guest's own fields in one: `tracing` knows the names of fields when it is compiled.
fn joined(fields: &[(String, String)]) -> Option<String> {
    let pairs = || fields.iter().map(|(name, value)| format!("{name}={value}"));
    (!fields.is_empty()).then(|| pairs().collect::<Vec<_>>().join(" "))
}
