//! One connection to `RabbitMQ` that reconnects after any error.
//!
//! lapin's own recovery stays off: it restores consumers without their prefetch. Bounds: one
//! connection at a time, a time-out on connecting, heartbeats every [`HEARTBEAT_S`] seconds so that
//! a silent network is noticed, a wait between attempts that grows to [`BACKOFF_MAX`] with jitter.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::RabbitServer;
use crate::broker::BrokerError;
#[cfg(feature = "tls")]
use crate::tls::ClientFiles;

/// Seconds; used when the URL does not name another interval.
const HEARTBEAT_S: u16 = 5;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a reply on an open connection.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A server, with what it takes to connect.
#[derive(Clone)]
pub(super) struct Server {
    uri: AMQPUri,
    #[cfg(feature = "tls")]
    tls: ClientFiles,
}

impl Server {
    /// The error says what is wrong with the URL, without its password.
    pub(super) fn of(server: &RabbitServer) -> Result<Self, String> {
        let uri = AMQPUri::from_str(&server.url).map_err(|error| {
            format!(
                "{error}; expected amqp://user:password@host:5672/vhost or amqps://…, with `%2f` \
                 for the default vhost"
            )
        })?;
        Ok(Self {
            uri,
            #[cfg(feature = "tls")]
            tls: server.tls.clone(),
        })
    }

    async fn connect(&self, properties: ConnectionProperties) -> Result<Connection, String> {
        let uri = self.uri.clone();
        match uri.scheme {
            AMQPScheme::AMQP => {
                let connected = Connection::connect_uri(uri, properties).await;
                connected.map_err(|error| error.to_string())
            }
            #[cfg(feature = "tls")]
            AMQPScheme::AMQPS => super::encrypted::connect(uri, properties, &self.tls).await,
            #[cfg(not(feature = "tls"))]
            AMQPScheme::AMQPS => Err("enable the cargo feature `tls`".to_owned()),
        }
    }
}

/// The state of the connection.
#[derive(Clone)]
enum State {
    /// There is none; the reason.
    Down(String),
    /// The server accepts no messages for now (its disk or memory is low); the reason.
    Blocked(Arc<Connection>, String),
    Up(Arc<Connection>),
}

/// A handle to the current connection.
#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The smallest body that the broker refused on this connection; [`usize::MAX`]: none.
    refused_bytes: Arc<AtomicUsize>,
}

impl Link {
    /// The handle, and the task that keeps the connection.
    pub(super) fn new(mut server: Server, name: String, owner: LinkOwner) -> (Self, LinkTask) {
        server.uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let (sender, state) = watch::channel(State::Down("not connected yet".to_owned()));
        let LinkOwner { stop, alive } = owner;
        let refused_bytes = Arc::new(AtomicUsize::new(usize::MAX));
        let link = Self { state, refused_bytes: Arc::clone(&refused_bytes) };
        (link, LinkTask { server, name, state: sender, refused_bytes, stop, _alive: alive })
    }

    /// Records that the broker refuses a body of this size. It may be configured otherwise when it is
    /// connected again.
    pub(super) fn refuse(&self, bytes: usize) {
        self.refused_bytes.fetch_min(bytes, Ordering::Relaxed);
    }

    /// The smallest body that the broker refused on this connection; none if it refused none.
    pub(super) fn refused_bytes(&self) -> Option<usize> {
        Some(self.refused_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != usize::MAX)
    }

    /// A new channel on the current connection.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let connection = match &*self.state.borrow() {
            State::Down(why) => return Err(BrokerError::Unavailable(why.clone())),
            State::Blocked(connection, _) | State::Up(connection) => Arc::clone(connection),
        };
        within(connection.create_channel()).await
    }

    /// Why messages cannot be published; none when they can.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Down(why) => Some(why.clone()),
            State::Blocked(_, why) => Some(format!("RabbitMQ blocks publishers: {why}")),
            State::Up(_) => None,
        }
    }

    /// The largest frame of the connection; none while there is no connection.
    pub(super) fn frame_max(&self) -> Option<usize> {
        match &*self.state.borrow() {
            State::Up(connection) | State::Blocked(connection, _) => {
                usize::try_from(connection.configuration().frame_max()).ok()
            }
            State::Down(_) => None,
        }
    }

    /// Waits until messages can be published.
    pub(super) async fn up(&self) {
        // An error means that the task is gone, which happens when the host stops.
        let _ = self.state.clone().wait_for(|state| matches!(state, State::Up(_))).await;
    }
}

/// Connects the lifetimes of a [`LinkTask`] and its broker.
pub(super) struct LinkOwner {
    pub(super) stop: CancellationToken,
    pub(super) alive: TaskTrackerToken,
}

/// Keeps one connection open.
pub struct LinkTask {
    server: Server,
    name: String,
    state: watch::Sender<State>,
    refused_bytes: Arc<AtomicUsize>,
    stop: CancellationToken,
    /// [`Broker::close`](crate::broker::Broker::close) waits until it is dropped.
    _alive: TaskTrackerToken,
}

impl LinkTask {
    /// Connects, and reconnects after every error, until the broker is closed or dropped.
    /// Restartable.
    pub async fn run(&self) {
        let cancel = &self.stop;
        let backoff = ExponentialBuilder::default()
            .with_min_delay(BACKOFF_MIN)
            .with_max_delay(BACKOFF_MAX)
            .with_jitter()
            .without_max_times();
        let mut waits = backoff.build();
        let mut said = String::new();
        loop {
            let connected = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                connected = connect(&self.server, &self.name) => connected,
            };
            let why = match connected {
                Ok(connection) => {
                    tracing::info!(connection = %self.name, "connected to RabbitMQ");
                    (waits, said) = (backoff.build(), String::new());
                    let Some(why) = self.watch(connection, cancel).await else { return };
                    why
                }
                Err(why) => why,
            };
            if why != said {
                tracing::warn!(connection = %self.name, error = %why, "no connection to RabbitMQ, reconnecting");
                said.clone_from(&why);
            }
            self.state.send_replace(State::Down(why));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(waits.next().unwrap_or(BACKOFF_MAX)) => {}
            }
        }
    }

    /// Waits for the end of a connection; the reason, or none when this host closed it.
    async fn watch(&self, connection: Connection, cancel: &CancellationToken) -> Option<String> {
        let mut events = Box::pin(connection.events_listener());
        let connection = Arc::new(connection);
        self.refused_bytes.store(usize::MAX, Ordering::Relaxed);
        self.state.send_replace(State::Up(Arc::clone(&connection)));
        loop {
            let event = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    let _ = tokio::time::timeout(ANSWER_TIMEOUT, connection.close(200, "the host stops".into())).await;
                    return None;
                }
                event = events.next() => event,
            };
            match event {
                Some(Event::ConnectionBlocked(why)) => {
                    tracing::warn!(connection = %self.name, %why, "RabbitMQ blocks publishers");
                    self.state.send_replace(State::Blocked(Arc::clone(&connection), why));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(connection = %self.name, "RabbitMQ accepts messages again");
                    self.state.send_replace(State::Up(Arc::clone(&connection)));
                }
                Some(Event::Error(error)) if !connection.status().connected() => {
                    return Some(error.to_string());
                }
                None => return Some("the connection ended".to_owned()),
                Some(_) if !connection.status().connected() => {
                    return Some("the connection ended".to_owned());
                }
                Some(_) => {}
            }
        }
    }
}

/// Opens a named connection; the error says why it failed.
pub(super) async fn connect(server: &Server, name: &str) -> Result<Connection, String> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, server.connect(properties)).await;
    connected.unwrap_or_else(|_| Err(format!("no reply within {} s", CONNECT_TIMEOUT.as_secs())))
}

/// Applies the time-out to a reply of the server.
pub(super) async fn within<T>(
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(BrokerError::Unavailable(error.to_string())),
        Err(_) => Err(BrokerError::Unavailable(format!(
            "no answer within {} s",
            ANSWER_TIMEOUT.as_secs()
        ))),
    }
}
