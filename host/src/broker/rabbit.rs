//! `RabbitMQ`: a topic exchange for events, a quorum queue for each stage, everything named
//! `<namespace>.…` (3.10 and 4.x).
//!
//! Two connections, one for publishing and one for consuming, each reconnects after any error
//! (`link`). The host remembers its declarations, so it starts and runs without the broker and
//! declares them once it is connected. A queue that is missing when it is consumed is created, and
//! reported as a gap that the reconciler refills from the store.

mod consumer;
#[cfg(feature = "tls")]
mod encrypted;
mod keys;
mod link;
mod message;
mod origin;
mod publisher;
mod signature;
#[cfg(test)]
mod tests;
mod topology;
mod window;

#[cfg(any(test, fuzzing))]
pub(crate) use message::fuzz as message_fuzz;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::consumer::{RabbitConsumer, Reading, RejectedRabbitConsumer};
pub use self::keys::MessageKeys;
pub use self::link::LinkTask;
use self::link::{Link, LinkOwner, Server, within};
use self::publisher::Publisher;
pub use self::topology::QueueStatus;
use self::topology::{Found, Names};
use super::{Binding, Broker, BrokerError, Capacity, Consumer, Gap, Outgoing, RejectedConsumer};
use crate::domain::clock::Clock;
use crate::domain::cloud_events::ingress::IngressSettings;
use crate::domain::encryption::Encryption;
use crate::store::StoreError;
#[cfg(feature = "tls")]
use crate::tls::ClientFiles;

/// A recreated queue may miss messages published up to now; clocks may differ by this much.
const GAP_MARGIN_MS: u64 = 5_000;

/// Where the broker is.
#[derive(Clone, Default)]
pub struct RabbitServer {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…`.
    pub url: String,
    /// Certificates for an encrypted connection.
    #[cfg(feature = "tls")]
    pub tls: ClientFiles,
}

/// How to use the broker.
pub struct RabbitOptions {
    /// Where it is.
    pub server: RabbitServer,
    /// First part of every name.
    pub namespace: String,
    /// Shown by the broker's management pages.
    pub host_name: String,
    /// Sets the time of events that have none.
    pub clock: Arc<dyn Clock>,
    /// How long an event of another program is valid.
    pub expiry_ms: u64,
    /// The limits on events of other programs.
    pub ingress: IngressSettings,
    /// What tells the messages of hosts from those of other programs.
    pub keys: Arc<MessageKeys>,
    /// Seals the bodies of messages.
    pub encryption: Arc<Encryption>,
}

/// The broker.
pub struct Rabbit {
    names: Names,
    publisher: Publisher,
    publishing: Link,
    consuming: Link,
    reading: Reading,
    /// The declared bindings, by stage.
    bindings: Mutex<BTreeMap<Arc<str>, Binding>>,
    /// For queries of queue depths.
    query_channel: tokio::sync::Mutex<Option<Channel>>,
    gaps: Mutex<Vec<Gap>>,
    gap: Notify,
    /// The connections end when it is cancelled, at the latest when the broker is dropped.
    stop: DropGuard,
    links: TaskTracker,
}

/// The connections of a [`Rabbit`], for its owner to run.
pub struct RabbitLinks {
    /// For publishing.
    pub publishing: LinkTask,
    /// For consuming.
    pub consuming: LinkTask,
}

impl Rabbit {
    /// A broker, and the connections that it needs. Nothing is spawned and nothing connects until
    /// the caller runs them. An error only when the URL is invalid.
    pub fn new(options: RabbitOptions) -> Result<(Arc<Self>, RabbitLinks), String> {
        let server = Server::of(&options.server)?;
        let (stop, links) = (CancellationToken::new(), TaskTracker::new());
        let owner = || LinkOwner { stop: stop.clone(), alive: links.token() };
        let (publishing, publish_task) =
            Link::new(server.clone(), format!("postrider {} publish", options.host_name), owner());
        let (consuming, consume_task) =
            Link::new(server, format!("postrider {} consume", options.host_name), owner());
        let names = Names::new(&options.namespace);
        let rabbit = Arc::new(Self {
            publisher: Publisher::new(
                publishing.clone(),
                names.clone(),
                Arc::clone(&options.keys),
                Arc::clone(&options.encryption),
            ),
            reading: Reading {
                clock: options.clock,
                expiry_ms: options.expiry_ms,
                settings: Arc::new(options.ingress),
                keys: options.keys,
                encryption: options.encryption,
                names: names.clone(),
            },
            names,
            publishing,
            consuming,
            bindings: Mutex::default(),
            query_channel: tokio::sync::Mutex::default(),
            gaps: Mutex::default(),
            gap: Notify::new(),
            stop: stop.drop_guard(),
            links,
        });
        Ok((rabbit, RabbitLinks { publishing: publish_task, consuming: consume_task }))
    }

    /// Inspects the queues of these stages without changing anything; the error says why there is no
    /// connection.
    pub async fn examine(
        server: &RabbitServer,
        namespace: &str,
        stages: &[Arc<str>],
    ) -> Result<Vec<(String, QueueStatus)>, String> {
        let names = Names::new(namespace);
        let connection = link::connect(&Server::of(server)?, "postrider doctor").await?;
        let mut queues = Vec::new();
        for stage in stages {
            let status = topology::examine(&connection, &names, stage)
                .await
                .map_err(|error| error.to_string())?;
            queues.push((names.queue(stage).to_string(), status));
        }
        let _ = within(connection.close(200, "examined".into())).await;
        Ok(queues)
    }

    /// Deletes the exchanges of a namespace and the queues of these stages with their messages: after
    /// a benchmark.
    pub async fn delete_namespace(
        options: RabbitOptions,
        stages: &[Arc<str>],
    ) -> Result<(), String> {
        let (rabbit, links) = Self::new(options)?;
        let delete = async {
            rabbit.up().await;
            let deleted = topology::delete(&rabbit.consuming, &rabbit.names, stages).await;
            rabbit.stop.token().cancel();
            deleted
        };
        let (deleted, (), ()) = tokio::join!(delete, links.publishing.run(), links.consuming.run());
        deleted.map_err(|error| error.to_string())
    }

    fn bindings(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Binding>> {
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares a stage's queue and bindings, and reports a queue that was missing as a gap.
    async fn ensure(&self, binding: &Binding) -> Result<(), BrokerError> {
        if topology::ensure(&self.consuming, &self.names, binding).await? == Found::Created {
            let before_ms = self.reading.clock.now_ms() + GAP_MARGIN_MS;
            let gap = Gap { stage: Arc::clone(&binding.stage), before_ms, capacity: None };
            self.gaps.lock().unwrap_or_else(PoisonError::into_inner).push(gap);
            self.gap.notify_one();
        }
        Ok(())
    }

    /// Declares everything again, because a queue is missing.
    async fn ensure_all(&self) {
        let bindings: Vec<Binding> = self.bindings().values().cloned().collect();
        for binding in bindings {
            if let Err(error) = self.ensure(&binding).await {
                tracing::warn!(stage = %binding.stage, %error, "failed to declare queue");
            }
        }
    }

    fn binding(&self, stage: &str) -> Result<Binding, BrokerError> {
        let declared = self.bindings().get(stage).cloned();
        declared.ok_or_else(|| BrokerError::Unavailable(format!("queue `{stage}` is not declared")))
    }

    async fn query_channel(&self) -> Result<Channel, BrokerError> {
        let mut open = self.query_channel.lock().await;
        if let Some(channel) = open.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.consuming.channel().await?;
        *open = Some(channel.clone());
        Ok(channel)
    }
}

#[async_trait]
impl Broker for Rabbit {
    async fn declare(&self, binding: Binding) -> Result<(), BrokerError> {
        self.bindings().insert(Arc::clone(&binding.stage), binding.clone());
        match self.ensure(&binding).await {
            // Consuming it declares it again, once the broker is back.
            Err(BrokerError::Unavailable(why)) => {
                tracing::warn!(
                    stage = %binding.stage,
                    error = why,
                    "RabbitMQ is unavailable, the queue is declared later"
                );
                Ok(())
            }
            other => other,
        }
    }

    async fn bind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError> {
        topology::bind(
            &self.query_channel().await?,
            self.names.queue(stage),
            self.names.events(),
            pattern,
        )
        .await
    }

    async fn unbind(&self, stage: &Arc<str>, pattern: &str) -> Result<(), BrokerError> {
        topology::unbind(
            &self.query_channel().await?,
            self.names.queue(stage),
            self.names.events(),
            pattern,
        )
        .await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), BrokerError>> {
        let answers = self.publisher.publish(&messages).await;
        if answers.iter().any(|answer| matches!(answer, Err(BrokerError::Unroutable(_)))) {
            self.ensure_all().await;
        }
        answers
    }

    async fn consume(
        &self,
        stage: &Arc<str>,
        prefetch: Capacity,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        self.ensure(&self.binding(stage)?).await?;
        let consumer =
            RabbitConsumer::open(&self.consuming, stage, prefetch, self.reading.clone()).await?;
        Ok(Box::new(consumer))
    }

    async fn consume_rejected(
        &self,
        stage: &Arc<str>,
    ) -> Result<Option<Box<dyn RejectedConsumer>>, BrokerError> {
        self.ensure(&self.binding(stage)?).await?;
        Ok(Some(Box::new(
            RejectedRabbitConsumer::open(&self.consuming, stage, self.reading.clone()).await?,
        )))
    }

    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    fn exchange(&self) -> Option<String> {
        Some(self.names.events().to_string())
    }

    fn queue(&self, stage: &str) -> String {
        self.names.queue(stage).to_string()
    }

    fn take_gaps(&self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn gap(&self) {
        self.gap.notified().await;
    }

    async fn depth(&self, stage: &str) -> Result<u64, BrokerError> {
        let channel = self.query_channel().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue =
            within(channel.queue_declare(self.names.queue(stage), passive, FieldTable::default()))
                .await?;
        Ok(u64::from(queue.message_count()))
    }

    fn has_outside_consumers(&self) -> bool {
        true
    }

    fn data_max_bytes(&self) -> Option<usize> {
        self.publishing.refused_bytes().map(|refused| refused.saturating_sub(1))
    }

    fn signs(&self) -> bool {
        true
    }

    async fn refresh_keys(&self) -> Result<(), StoreError> {
        self.reading.keys.refresh().await
    }

    async fn up(&self) {
        self.publishing.up().await;
        self.consuming.up().await;
    }

    async fn ping(&self) -> Result<(), BrokerError> {
        match self.publishing.trouble().or_else(|| self.consuming.trouble()) {
            None => Ok(()),
            Some(trouble) => Err(BrokerError::Unavailable(trouble)),
        }
    }

    async fn close(&self) {
        self.stop.token().cancel();
        self.links.close();
        self.links.wait().await;
    }
}
