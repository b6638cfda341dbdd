//! The live end of the event log: one reader per host, whatever the number of streams.
//!
//! A stream joins at the end of the log as the reader knows it, reads what lies before from the
//! store, and is then told of what comes after. Guarantee: positions are passed on in their order,
//! each once, because nothing is read beyond [`Store::log_end`]; a stream that goes on after
//! position `n` sees what comes after `n`, also on another host or after a restart. Bounds: streams
//! at once, news that wait for one stream (`FEED_ITEMS_MAX`; who is slower reads from the store again),
//! one look at the store every `POLL`, and none while nobody listens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::domain::event::LoggedEvent;
use crate::store::{EventFilter, LogRange, OrderCursor, Page, Store, StoreError};

/// How often the end of the log is looked for while somebody listens.
const POLL: Duration = Duration::from_millis(50);
/// Orders that are listened to are asked whether they are settled once in so many looks.
const SETTLED_EVERY: u32 = 5;
/// Pause after the store did not answer.
const BACKOFF: Duration = Duration::from_millis(500);
/// FeedItem that wait for one stream.
const FEED_ITEMS_MAX: usize = 256;
/// Events read at once.
const PAGE: u32 = 200;
/// Orders asked about in one query.
const ORDERS_MAX: usize = 500;

/// What a stream is told.
#[derive(Debug, Clone)]
pub enum FeedItem {
    /// An event was logged.
    Event(Arc<LoggedEvent>),
    /// Nothing is left to do for the order that is followed: the stream is over.
    Settled {
        /// Where the order came to rest.
        status: String,
        /// Whether its events lead nowhere else by themselves; otherwise it waits for a person.
        is_final: bool,
    },
}

/// The reader and its listeners.
pub struct EventFeed {
    store: Arc<dyn Store>,
    terminal: BTreeSet<String>,
    listeners: Mutex<Listeners>,
    joined: Notify,
    streams: Arc<Semaphore>,
    closed: CancellationToken,
}

#[derive(Default)]
struct Listeners {
    /// What comes after this position has not been passed on yet.
    end: i64,
    all: Vec<Listener>,
    looks: u32,
}

struct Listener {
    /// The only order that it wants to hear of.
    order: Option<String>,
    news: mpsc::Sender<FeedItem>,
}

impl Listeners {
    /// Passes news on; who does not keep up is let go, and reads from the store.
    fn tell(&mut self, order: Option<&str>, news: &FeedItem) {
        self.all.retain(|listener| {
            let meant = listener.order.is_none() || listener.order.as_deref() == order;
            !meant || listener.news.try_send(news.clone()).is_ok()
        });
    }

    fn tell_event(&mut self, event: LoggedEvent) {
        let order = event.envelope.order_id.clone();
        self.tell(order.as_deref(), &FeedItem::Event(Arc::new(event)));
    }

    fn orders(&self) -> Vec<String> {
        self.all
            .iter()
            .filter_map(|listener| listener.order.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

impl EventFeed {
    /// Over a store; at most `streams_max` streams at once. `terminal` are the statuses in which an
    /// order rests for good.
    pub fn new(store: Arc<dyn Store>, terminal: BTreeSet<String>, streams_max: usize) -> Arc<Self> {
        let streams = Arc::new(Semaphore::new(streams_max));
        Arc::new(Self {
            store,
            terminal,
            listeners: Mutex::default(),
            joined: Notify::new(),
            streams,
            closed: CancellationToken::new(),
        })
    }

    /// Reads until cancelled; then every stream ends.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let wait = match self.tick().await {
                Ok(true) => POLL,
                Ok(false) => {
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        () = self.joined.notified() => Duration::ZERO,
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the event log cannot be read; live streams wait");
                    BACKOFF
                }
            };
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.closed.cancel();
    }

    /// Passes on what was logged since the last time; false when nobody listens.
    pub async fn tick(&self) -> Result<bool, StoreError> {
        let mut listeners = self.listeners.lock().await;
        listeners.all.retain(|listener| !listener.news.is_closed());
        if listeners.all.is_empty() {
            return Ok(false);
        }
        listeners.looks = listeners.looks.wrapping_add(1);
        let orders = listeners.orders();
        // Asked before the end is looked for: what is settled then has all its events below that
        // end.
        let ask = listeners.looks.is_multiple_of(SETTLED_EVERY);
        let mut settled = Vec::new();
        for chunk in orders.chunks(ORDERS_MAX).filter(|_| ask) {
            settled.extend(self.store.settled_orders(chunk).await?);
        }
        let end = self.store.log_end().await?;
        if end > listeners.end {
            if listeners.all.iter().any(|listener| listener.order.is_none()) {
                self.pass_all_on(&mut listeners, end).await?;
            } else {
                self.pass_on(&mut listeners, &orders, end).await?;
            }
            listeners.end = end;
        }
        for one in settled {
            let is_final = self.terminal.contains(&one.status);
            let news = FeedItem::Settled { status: one.status, is_final };
            listeners.all.retain(|listener| {
                let meant = listener.order.as_ref() == Some(&one.order);
                // It is over for those who were told, and those who could not be told come again.
                meant.then(|| listener.news.try_send(news.clone())).is_none()
            });
        }
        Ok(true)
    }

    /// Somebody listens to everything: the log is read as it is.
    async fn pass_all_on(&self, listeners: &mut Listeners, end: i64) -> Result<(), StoreError> {
        loop {
            let range = LogRange { after: listeners.end, up_to: end, limit: PAGE };
            let Page { items, next } = self.store.events(EventFilter::default(), range).await?;
            for event in items {
                listeners.tell_event(event);
            }
            match next {
                Some(next) if !listeners.all.is_empty() => listeners.end = next,
                _ => return Ok(()),
            }
        }
    }

    /// Only some orders are listened to: only theirs is read.
    async fn pass_on(
        &self,
        listeners: &mut Listeners,
        orders: &[String],
        end: i64,
    ) -> Result<(), StoreError> {
        for chunk in orders.chunks(ORDERS_MAX) {
            let mut after = listeners.end;
            loop {
                let cursors: Vec<OrderCursor> =
                    chunk.iter().map(|order| OrderCursor { order: order.clone(), after }).collect();
                let events = self.store.events_of_orders(&cursors, PAGE).await?;
                let full = events.len() == PAGE as usize;
                let last = events.last().map_or(end, |event| event.seq);
                for event in events.into_iter().filter(|event| event.seq <= end) {
                    listeners.tell_event(event);
                }
                if !full || last >= end {
                    break;
                }
                after = last;
            }
        }
        Ok(())
    }

    /// Follows the log from behind a position on; none when there are too many streams. With an
    /// order in the filter the stream ends when nothing is left to do for it.
    pub fn follow(self: &Arc<Self>, filter: EventFilter, after: i64) -> Option<Subscription> {
        let permit = self.place()?;
        let tail = Arc::clone(self);
        Some(Subscription {
            tail,
            filter,
            cursor: after,
            ready: VecDeque::new(),
            phase: Phase::Outside,
            _permit: permit,
        })
    }

    /// A place among the streams, for an answer that is written bit by bit; none when there are too
    /// many.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// Whether streams shall end: the host stops.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Where the reader stands, and what it will tell from there on.
    async fn join(
        &self,
        order: Option<String>,
    ) -> Result<(i64, mpsc::Receiver<FeedItem>), StoreError> {
        let (news, heard) = mpsc::channel(FEED_ITEMS_MAX);
        let mut listeners = self.listeners.lock().await;
        if listeners.all.is_empty() {
            // Nobody read the log meanwhile.
            listeners.end = self.store.log_end().await?;
        }
        listeners.all.push(Listener { order, news });
        self.joined.notify_one();
        Ok((listeners.end, heard))
    }
}

/// One stream.
pub struct Subscription {
    tail: Arc<EventFeed>,
    filter: EventFilter,
    /// The last position that was passed on or passed over.
    cursor: i64,
    ready: VecDeque<LoggedEvent>,
    phase: Phase,
    _permit: OwnedSemaphorePermit,
}

enum Phase {
    /// Nobody tells it anything.
    Outside,
    /// It reads from the store up to where it joined.
    CatchingUp {
        up_to: i64,
        heard: mpsc::Receiver<FeedItem>,
    },
    /// It is told.
    Live(mpsc::Receiver<FeedItem>),
    Over,
}

impl Subscription {
    /// The next news; none at the end of the stream. While the store is away it waits.
    pub async fn next(&mut self) -> Option<FeedItem> {
        let closed = self.tail.closed.clone();
        tokio::select! {
            biased;
            () = closed.cancelled() => None,
            news = self.advance() => news,
        }
    }

    async fn advance(&mut self) -> Option<FeedItem> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.cursor = event.seq;
                return Some(FeedItem::Event(Arc::new(event)));
            }
            match &mut self.phase {
                Phase::Outside => match self.tail.join(self.filter.order.clone()).await {
                    Ok((up_to, heard)) => self.phase = Phase::CatchingUp { up_to, heard },
                    Err(_) => tokio::time::sleep(BACKOFF).await,
                },
                Phase::CatchingUp { up_to, .. } if self.cursor >= *up_to => self.go_live(),
                Phase::CatchingUp { up_to, .. } => {
                    let range = LogRange { after: self.cursor, up_to: *up_to, limit: PAGE };
                    match self.tail.store.events(self.filter.clone(), range).await {
                        Ok(Page { items, next }) => {
                            // What was looked at and not meant is passed over once the page is out.
                            if items.is_empty() {
                                self.cursor = next.unwrap_or(*up_to);
                            }
                            self.ready = items.into();
                        }
                        Err(_) => tokio::time::sleep(BACKOFF).await,
                    }
                }
                Phase::Live(heard) => match heard.recv().await {
                    Some(FeedItem::Event(event)) if event.seq > self.cursor => {
                        self.cursor = event.seq;
                        if self.filter.matches(&event) {
                            return Some(FeedItem::Event(event));
                        }
                    }
                    Some(FeedItem::Event(_)) => {}
                    Some(settled @ FeedItem::Settled { .. }) => {
                        self.phase = Phase::Over;
                        return Some(settled);
                    }
                    // It was too slow.
                    None => self.phase = Phase::Outside,
                },
                Phase::Over => return None,
            }
        }
    }

    fn go_live(&mut self) {
        if let Phase::CatchingUp { heard, .. } = std::mem::replace(&mut self.phase, Phase::Over) {
            self.phase = Phase::Live(heard);
        }
    }
}

/// What a stream's listeners are counted by, for tests and metrics: order → streams; the empty name
/// is the whole log.
impl EventFeed {
    /// How many streams are told of what.
    pub async fn listening(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for listener in &self.listeners.lock().await.all {
            *counts.entry(listener.order.clone().unwrap_or_default()).or_default() += 1;
        }
        counts
    }
}
