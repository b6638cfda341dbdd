//! How a message reached a queue: what the broker says, which no sender can change.
//!
//! A signature does not tell a host's message from a copy that another program sent again. The way does,
//! mostly: hosts publish through the exchange of events under the event's type, and send to one stage
//! through the default exchange. Only the broker puts messages into a dead-letter queue, and the entry
//! that it made last in `x-death` is its own; the others, and `x-first-death-reason`, may be the
//! sender's.

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};

use super::message::Decoded;
use super::topology::Names;
use crate::broker::Sender;

/// The reason of a message that the broker did not dead-letter.
pub(super) const UNKNOWN: &str = "unknown";
/// The broker's reasons.
const REASONS: [&str; 4] = ["rejected", "expired", "maxlen", "delivery_limit"];

/// Where a message was published to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
}

impl<'a> Origin<'a> {
    pub(super) fn of(delivery: &'a Delivery) -> Self {
        Self { exchange: delivery.exchange.as_str(), routing_key: delivery.routing_key.as_str() }
    }

    /// Why an authentic message did not come from a host; none: it did, or it is another program's.
    pub(super) fn detour(&self, decoded: &Decoded, names: &Names) -> Option<String> {
        let Self { exchange, routing_key } = self;
        if decoded.sender != Sender::Host {
            return None;
        }
        let comes_from_host = if decoded.is_direct {
            exchange.is_empty()
        } else {
            names.is_events(exchange) && *routing_key == decoded.envelope.event.event_type
        };
        (!comes_from_host).then(|| {
            format!(
                "another program sent a copy of it, to the exchange `{exchange}` with the routing \
                 key `{routing_key}`"
            )
        })
    }
}

/// Why the broker dead-lettered a message, and where it had come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeadLettering<'a> {
    pub(super) origin: Origin<'a>,
    /// `rejected`, `delivery_limit`, ….
    pub(super) reason: &'a str,
}

impl<'a> DeadLettering<'a> {
    /// None: the broker did not dead-letter it from the stage's queue.
    pub(super) fn of(delivery: &'a Delivery, names: &Names, stage: &str) -> Option<Self> {
        if delivery.exchange != names.dead() {
            return None;
        }
        let headers = delivery.properties.headers().as_ref()?;
        let AMQPValue::FieldArray(entries) = headers.inner().get("x-death")? else { return None };
        // The latest one comes first.
        let AMQPValue::FieldTable(last) = entries.as_slice().first()? else { return None };
        let reason = text(last, "reason").filter(|reason| REASONS.contains(reason))?;
        if text(last, "queue")? != names.queue(stage).as_str() {
            return None;
        }
        let routing_key = match last.inner().get("routing-keys")? {
            AMQPValue::FieldArray(keys) => plain(keys.as_slice().first()?)?,
            _ => return None,
        };
        Some(Self { origin: Origin { exchange: text(last, "exchange")?, routing_key }, reason })
    }
}

fn text<'a>(table: &'a FieldTable, key: &str) -> Option<&'a str> {
    plain(table.inner().get(key)?)
}

fn plain(value: &AMQPValue) -> Option<&str> {
    std::str::from_utf8(value.as_long_string()?.as_bytes()).ok()
}
