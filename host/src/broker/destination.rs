//! How OpenTelemetry's messaging conventions name the way of a message:
//! `exchange:routing key` where it is sent, and `exchange:routing key:queue` where it is processed.

use opentelemetry::KeyValue;

use super::Broker;

/// Where a message goes, or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    system: &'static str,
    /// Of few distinct names: part of names of spans.
    pub name: String,
    routing_key: String,
}

impl Destination {
    /// Where an event is sent: to the queue of a stage, or to those that are bound to its type.
    pub fn of_sent(broker: &dyn Broker, event_type: &str, stage: Option<&str>) -> Self {
        let (name, routing_key) = match (stage, broker.exchange()) {
            (Some(stage), _) => (broker.queue(stage), broker.queue(stage)),
            (None, Some(exchange)) => (format!("{exchange}:{event_type}"), event_type.to_owned()),
            (None, None) => (event_type.to_owned(), event_type.to_owned()),
        };
        Self { system: broker.system(), name, routing_key }
    }

    /// Where a stage received an event: through the exchange, or sent to its queue alone.
    pub fn of_received(
        broker: &dyn Broker,
        event_type: &str,
        stage: &str,
        by_exchange: bool,
    ) -> Self {
        let sent = Self::of_sent(broker, event_type, (!by_exchange).then_some(stage));
        if by_exchange {
            let queue = broker.queue(stage);
            return Self { name: format!("{}:{queue}", sent.name), ..sent };
        }
        sent
    }

    /// The attributes of a span of this kind of operation, such as `send`.
    pub fn attributes(&self, operation: &'static str) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("messaging.system", self.system),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", operation),
            KeyValue::new("messaging.destination.name", self.name.clone()),
        ];
        if self.system == "rabbitmq" {
            let key = "messaging.rabbitmq.destination.routing_key";
            attributes.push(KeyValue::new(key, self.routing_key.clone()));
        }
        attributes
    }
}
