//! Publishing with confirms: many messages in flight on one channel, each confirmed by the broker or
//! timed out.
//!
//! Guarantee: `Ok` only after the broker's confirm, and, for a message that a known stage consumes,
//! only when a queue received it. A message that timed out may have arrived; it is sent again with
//! the same id, and the store recognises it. Bound: [`CONFIRM_TIMEOUT`].

use std::time::Duration;

use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::link::{Link, within};
use super::message;
use super::topology::{self, Names};
use crate::broker::{BrokerError, Outgoing};

/// Longest wait for the confirms of one call.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes on a connection of its own, so that a broker which blocks publishers does not block
/// acknowledgements.
pub(super) struct Publisher {
    link: Link,
    names: Names,
    channel: Mutex<Option<Channel>>,
}

impl Publisher {
    pub(super) fn new(link: Link, names: Names) -> Self {
        Self { link, names, channel: Mutex::new(None) }
    }

    /// Sends messages; one result per message, in their order.
    pub(super) async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), BrokerError>> {
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(error) => return messages.iter().map(|_| Err(error.clone())).collect(),
        };
        let deadline = Instant::now() + CONFIRM_TIMEOUT;
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            confirms.push(match timeout_at(deadline, self.send(&channel, message)).await {
                Ok(sent) => sent,
                Err(_) => Err(late()),
            });
        }
        let confirmed = confirms.into_iter().map(|confirm| async move {
            match timeout_at(deadline, confirm?).await {
                Ok(Ok(confirmation)) => judge(confirmation),
                Ok(Err(error)) => Err(BrokerError::Unavailable(error.to_string())),
                Err(_) => Err(late()),
            }
        });
        let answers = join_all(confirmed).await;
        // A channel with outstanding confirms is not used again: they would be counted for later
        // messages.
        if answers.iter().any(|answer| matches!(answer, Err(BrokerError::Unavailable(_)))) {
            self.channel.lock().await.take();
        }
        answers
    }

    async fn send(
        &self,
        channel: &Channel,
        message: &Outgoing,
    ) -> Result<PublisherConfirm, BrokerError> {
        let (exchange, key) = match &message.direct {
            // The default exchange routes by the name of the queue.
            Some(direct) => (ShortString::default(), self.names.queue(&direct.stage)),
            None => (self.names.events(), routing_key(&message.envelope.event.event_type)?),
        };
        let (properties, body) = self.fitting(message)?;
        let options =
            BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish(exchange, key, options, body, properties).await;
        sent.map_err(|error| BrokerError::Unavailable(error.to_string()))
    }

    /// The message, or a small one in its place if its headers do not fit into a frame: the broker
    /// would close the connection, with everything in flight.
    fn fitting<'m>(
        &self,
        message: &'m Outgoing,
    ) -> Result<(BasicProperties, &'m [u8]), BrokerError> {
        let properties = message::encode(message);
        let size = message::header_bytes(&properties);
        // 0: the broker sets no limit.
        let is_exceeded = |frame_max: &usize| *frame_max > 0 && size > *frame_max;
        let Some(frame_max) = self.link.frame_max().filter(is_exceeded) else {
            return Ok((properties, &message.envelope.event.data));
        };
        let why = format!(
            "the event has {size} bytes of headers, and the broker's limit is {frame_max} \
             (`frame_max`)"
        );
        tracing::warn!(event = %message.envelope.event.id, why, "an event cannot be sent");
        let properties = message::encode_unsendable(message, &why);
        if message::header_bytes(&properties) > frame_max {
            return Err(BrokerError::Refused(why));
        }
        Ok((properties, &[]))
    }

    async fn channel(&self) -> Result<Channel, BrokerError> {
        if let Some(trouble) = self.link.trouble() {
            return Err(BrokerError::Unavailable(trouble));
        }
        let mut open = self.channel.lock().await;
        if let Some(channel) = open.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.link.channel().await?;
        // A broker that lost its data has no exchange, and closes the publishing channel.
        topology::exchanges(&channel, &self.names).await?;
        within(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        *open = Some(channel.clone());
        Ok(channel)
    }
}

fn routing_key(event_type: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(event_type).map_err(|error| {
        BrokerError::Refused(format!("`{event_type}` cannot be published: {error}"))
    })
}

fn judge(confirmation: Confirmation) -> Result<(), BrokerError> {
    match confirmation {
        Confirmation::Ack(None) | Confirmation::NotRequested => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(BrokerError::Unroutable(format!("{} {}", returned.reply_code, returned.reply_text)))
        }
        Confirmation::Nack(None) => {
            Err(BrokerError::Refused("the broker refused the message".to_owned()))
        }
    }
}

fn late() -> BrokerError {
    BrokerError::Unavailable(format!("no confirm within {} s", CONFIRM_TIMEOUT.as_secs()))
}
