//! The open connections, and who gives up a place when all are taken: the connection whose client has
//! kept the server waiting the longest.
//!
//! So a flood of connections that send nothing, or slowly, takes no place from a client that sends
//! its request without delay. When the server waits for none of them, a few further connections are
//! accepted that may only ask for its health; after those, new ones wait in the listener's backlog.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::activity::{Activity, Ending, Timeouts};
use super::connection::{Endpoint, NewConnection};
use crate::app::Load;

/// Connections beyond the places, for health checks.
const HEALTH_PLACES: usize = 16;
/// The part of the connections that is closed together: finding them takes a look at all.
const CLOSED_TOGETHER: usize = 64;

/// How many connections a server has, and may have. None yet: both are 0.
#[derive(Debug, Default)]
pub struct OpenConnections {
    open: AtomicUsize,
    places: AtomicUsize,
}

impl OpenConnections {
    pub(in crate::http) fn load(&self) -> Load {
        let read = |number: &AtomicUsize| number.load(Ordering::Relaxed) as u64;
        Load { used: read(&self.open), max: read(&self.places) }
    }
}

/// The open connections of a server.
pub(super) struct Connections {
    counted: Arc<OpenConnections>,
    places: usize,
    timeouts: Timeouts,
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
    /// Closed since the last check, because all places were taken.
    evicted: usize,
}

struct Open {
    activity: Arc<Activity>,
    close: CancellationToken,
    task: AbortHandle,
}

impl Connections {
    pub(super) fn new(places: usize, timeouts: Timeouts, counted: Arc<OpenConnections>) -> Self {
        counted.places.store(places, Ordering::Relaxed);
        Self { counted, places, timeouts, tasks: JoinSet::new(), open: HashMap::new(), evicted: 0 }
    }

    /// Whether another one can be accepted.
    pub(super) fn have_room(&self) -> bool {
        self.open.len() < self.places.saturating_add(HEALTH_PLACES)
            || self.open.values().any(|open| open.activity.waiting_since().is_some())
    }

    pub(super) fn are_none(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Serves a connection.
    pub(super) fn open(
        &mut self,
        endpoint: &Endpoint,
        stream: TcpStream,
        address: SocketAddr,
        cancel: &CancellationToken,
    ) {
        if self.open.len() >= self.places {
            self.evict();
        }
        let activity = Arc::new(Activity::new(Instant::now()));
        let close = cancel.child_token();
        let connection = NewConnection {
            address,
            only_health: self.open.len() >= self.places,
            activity: Arc::clone(&activity),
            close: close.clone(),
        };
        let serving = endpoint.clone().serve(stream, connection);
        let task = self.tasks.spawn(serving.in_current_span());
        self.open.insert(task.id(), Open { activity, close, task });
        self.count();
    }

    /// Closes the connections that have kept the server waiting the longest.
    fn evict(&mut self) {
        let mut waiting: Vec<(Instant, Id)> = self
            .open
            .iter()
            .filter_map(|(id, open)| Some((open.activity.waiting_since()?, *id)))
            .collect();
        let count = (self.places / CLOSED_TOGETHER).max(1).min(waiting.len());
        if count == 0 {
            return;
        }
        waiting.select_nth_unstable_by_key(count - 1, |(since, _)| *since);
        for (_, id) in &waiting[..count] {
            if let Some(open) = self.open.remove(id) {
                open.task.abort();
            }
        }
        self.evicted += count;
    }

    /// Waits for the end of a connection. There must be one.
    pub(super) async fn end_of_one(&mut self) {
        let ended = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => return,
        };
        self.open.remove(&ended);
        self.count();
    }

    fn count(&self) {
        self.counted.open.store(self.open.len(), Ordering::Relaxed);
    }

    /// Ends the connections whose clients kept the server waiting for too long.
    pub(super) fn check(&mut self) {
        let now = Instant::now();
        self.open.retain(|_, open| match open.activity.ending(now, &self.timeouts) {
            None => true,
            Some(Ending::Close) => {
                open.activity.closing(now);
                open.close.cancel();
                true
            }
            Some(Ending::Cut(why)) => {
                tracing::debug!(why, "an HTTP connection was cut off");
                open.task.abort();
                false
            }
        });
        if self.evicted > 0 {
            tracing::warn!(
                closed = self.evicted,
                places = self.places,
                "all HTTP connections are in use: those of the slowest clients were closed"
            );
            self.evicted = 0;
        }
    }
}
