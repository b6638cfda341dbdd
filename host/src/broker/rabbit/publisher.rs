//! Publishing with confirms: many messages in flight on one channel, each confirmed by the broker or
//! timed out.
//!
//! Guarantee: `Ok` only after the broker's confirm, and, for a message that a known stage consumes,
//! only when a queue received it. A message that timed out may have arrived; it is sent again with
//! the same id, and the store recognises it. One that is too large for the broker, which closes the
//! channel over it, is found and replaced by a small message that is dead-lettered, so that it holds
//! up no other. Bounds: [`CONFIRM_TIMEOUT`], [`SEARCHES_MAX`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::keys::MessageKeys;
use super::link::{Link, within};
use super::message::{self, Signing};
use super::topology::{self, Names};
use crate::broker::{BrokerError, Outgoing};
use crate::domain::encryption::Encryption;
use crate::domain::steps::COSTS;
use crate::domain::trace_context::TraceContext;

/// Longest wait for the confirms of one call.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// Times that one call looks for a message that is too large.
const SEARCHES_MAX: usize = 8;

/// Why a message was not confirmed.
enum Unsent {
    Failed(BrokerError),
    /// The broker closed the channel because of a message on it, perhaps another one.
    ChannelClosed(String),
}

impl Unsent {
    fn of(error: &lapin::Error) -> Self {
        match topology::soft_error(error) {
            Some(AMQPSoftError::PRECONDITIONFAILED) => Self::ChannelClosed(error.to_string()),
            _ => Self::Failed(BrokerError::Unavailable(error.to_string())),
        }
    }

    /// Whether the message may be sent again on another channel.
    fn may_be_sent(&self) -> bool {
        matches!(self, Self::ChannelClosed(_) | Self::Failed(BrokerError::Unavailable(_)))
    }
}

impl From<Unsent> for BrokerError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Failed(error) => error,
            Unsent::ChannelClosed(why) => Self::Unavailable(why),
        }
    }
}

type Sent = Result<(), Unsent>;

/// Publishes on a connection of its own, so that a broker which blocks publishers does not block
/// acknowledgements.
pub(super) struct Publisher {
    link: Link,
    names: Names,
    keys: Arc<MessageKeys>,
    encryption: Arc<Encryption>,
    channel: Mutex<Option<Channel>>,
}

impl Publisher {
    pub(super) fn new(
        link: Link,
        names: Names,
        keys: Arc<MessageKeys>,
        encryption: Arc<Encryption>,
    ) -> Self {
        Self { link, names, keys, encryption, channel: Mutex::new(None) }
    }

    /// Sends messages; one result per message, in their order.
    pub(super) async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), BrokerError>> {
        let all: Vec<&Outgoing> = messages.iter().collect();
        let mut answers = self.attempt(&all).await;
        for _ in 0..SEARCHES_MAX {
            if !self.find_too_large(&all, &mut answers).await {
                break;
            }
        }
        answers.into_iter().map(|answer| answer.map_err(BrokerError::from)).collect()
    }

    /// If the broker closed the channel over a message, finds out whether the largest one is too
    /// large, and sends the others again. Returns whether it was.
    async fn find_too_large(&self, messages: &[&Outgoing], answers: &mut [Sent]) -> bool {
        let size = |at: usize| messages[at].envelope.event.data.len();
        let suspects =
            (0..messages.len()).filter(|at| matches!(answers[*at], Err(Unsent::ChannelClosed(_))));
        let Some(largest) = suspects.max_by_key(|at| size(*at)) else { return false };
        match self.attempt(&[messages[largest]]).await.pop() {
            Some(Err(Unsent::ChannelClosed(_))) => self.link.refuse(size(largest)),
            // It was not its size.
            Some(answer) => {
                answers[largest] = answer;
                return false;
            }
            None => return false,
        }
        let is_left = |at: &usize| answers[*at].as_ref().is_err_and(Unsent::may_be_sent);
        let left: Vec<usize> = (0..messages.len()).filter(is_left).collect();
        let again: Vec<&Outgoing> = left.iter().map(|at| messages[*at]).collect();
        for (at, answer) in left.into_iter().zip(self.attempt(&again).await) {
            answers[at] = answer;
        }
        true
    }

    async fn attempt(&self, messages: &[&Outgoing]) -> Vec<Sent> {
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(error) => {
                return messages.iter().map(|_| Err(Unsent::Failed(error.clone()))).collect();
            }
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
                Ok(Ok(confirmation)) => judge(confirmation).map_err(Unsent::Failed),
                Ok(Err(error)) => Err(Unsent::of(&error)),
                Err(_) => Err(late()),
            }
        });
        let answers = join_all(confirmed).await;
        // A channel with outstanding confirms is not used again: they would be counted for later
        // messages.
        if answers.iter().any(|answer| answer.as_ref().is_err_and(Unsent::may_be_sent)) {
            self.channel.lock().await.take();
        }
        answers
    }

    async fn send(
        &self,
        channel: &Channel,
        message: &Outgoing,
    ) -> Result<PublisherConfirm, Unsent> {
        let (exchange, key) = match &message.direct {
            // The default exchange routes by the name of the queue.
            Some(direct) => (ShortString::default(), self.names.queue(&direct.stage)),
            None => {
                let key = routing_key(&message.envelope.event.event_type);
                (self.names.events(), key.map_err(Unsent::Failed)?)
            }
        };
        let (properties, body) = self.fitting(message).map_err(Unsent::Failed)?;
        tracing::trace!(
            target: COSTS,
            amqp_published = 1_u64,
            amqp_bytes = body.len() + message::header_bytes(&properties)
        );
        let options =
            BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish(exchange, key, options, &body, properties).await;
        sent.map_err(|error| Unsent::of(&error))
    }

    /// The message, or a small one in its place if its headers do not fit into a frame, or its body is
    /// too large: the broker would close the connection or the channel, with everything in flight.
    fn fitting(&self, message: &Outgoing) -> Result<(BasicProperties, Bytes), BrokerError> {
        let signers = self.keys.signers();
        let newest = signers.first().ok_or_else(|| {
            BrokerError::Unavailable("there is no key to sign messages with".to_owned())
        })?;
        let signing = Signing { signer: newest, namespace: self.names.namespace() };
        let data = message::sealed_body(message, &self.encryption);
        let properties = message::encode(message, &data, signing);
        // 0: the broker sets no limit.
        let frame_max = self.link.frame_max().filter(|frame_max| *frame_max > 0);
        let frame_max = frame_max.unwrap_or(usize::MAX);
        let why = if let headers = message::header_bytes(&properties)
            && headers > frame_max
        {
            format!(
                "the event has {headers} bytes of headers, and the broker's limit is {frame_max} \
                 (`frame_max`)"
            )
        } else if let Some(refused) = self.link.refused_bytes()
            && data.len() >= refused
        {
            format!(
                "the event has {} bytes of data, and the broker refuses a message of {refused} \
                 bytes (`max_message_size`)",
                data.len()
            )
        } else {
            return Ok((properties, data));
        };
        let event = &message.envelope.event;
        let trace = TraceContext::of_event(event);
        tracing::warn!(
            trace_id = %trace.trace_id(),
            span_id = %trace.span_id(),
            subject = message.envelope.subject_key.as_deref(),
            event = %event.id,
            why,
            "an event cannot be sent"
        );
        let properties = message::encode_unsendable(message, &why, signing);
        if message::header_bytes(&properties) > frame_max {
            return Err(BrokerError::Refused(why));
        }
        Ok((properties, Bytes::new()))
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

fn late() -> Unsent {
    let why = format!("no confirm within {} s", CONFIRM_TIMEOUT.as_secs());
    Unsent::Failed(BrokerError::Unavailable(why))
}
