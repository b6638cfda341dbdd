//! The live end of the event log: one reader per host, however many streams there are.
//!
//! A [`Subscription`] joins at the reader's position, catches up from the store to that position,
//! and then receives what the reader passes on. Guarantee: a stream gets every position once and
//! in order, because the reader never reads beyond [`Store::log_end`]; a stream that resumes after
//! position `n` gets what follows `n`, also on another host or after a restart. Bounds: concurrent
//! streams, items buffered for one stream ([`FEED_ITEMS_MAX`]; a slower stream catches up from the
//! store again), one query of the store every [`POLL`], and none without subscribers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::subscription::Subscription;
use crate::domain::event::LoggedEvent;
use crate::domain::subject::SubjectKey;
use crate::domain::subject_kind::SubjectKinds;
use crate::store::{Direction, EventFilter, LogRange, Page, Store, StoreError, SubjectCursor};

mod subscription;

/// Interval of the reader while there are subscribers.
const POLL: Duration = Duration::from_millis(50);
/// Every n-th tick asks whether subscribed subjects are settled.
const SETTLED_EVERY: u32 = 5;
/// Pause after the store failed.
const BACKOFF: Duration = Duration::from_millis(500);
/// Items buffered for one stream.
const FEED_ITEMS_MAX: usize = 256;
/// Events in one read of the store.
const PAGE: u32 = 200;
/// Subjects in one query.
const SUBJECTS_MAX: usize = 500;

/// What a stream receives.
#[derive(Debug, Clone)]
pub enum FeedItem {
    /// An event was logged.
    Event(Arc<LoggedEvent>),
    /// No delivery of the subscribed subject is open: the stream ends.
    Settled {
        /// The subject's status.
        status: String,
        /// Whether the status is terminal; otherwise the subject waits for an operator.
        is_final: bool,
    },
}

/// The reader of the log and its subscribers.
pub struct EventFeed {
    store: Arc<dyn Store>,
    kinds: Arc<SubjectKinds>,
    subscribers: Mutex<Subscribers>,
    joined: Notify,
    streams: Arc<Semaphore>,
    streams_max: usize,
    closed: CancellationToken,
}

#[derive(Default)]
struct Subscribers {
    /// The last position that was passed on.
    end: i64,
    all: Vec<Subscriber>,
    ticks: u32,
}

struct Subscriber {
    /// Receives only this subject's events; none: all events.
    subject: Option<SubjectKey>,
    items: mpsc::Sender<FeedItem>,
}

impl Subscribers {
    /// Passes an item on. A subscriber whose buffer is full is removed, and catches up from the
    /// store.
    fn send(&mut self, subject: Option<&str>, item: &FeedItem) {
        self.all.retain(|subscriber| {
            let concerned =
                subscriber.subject.is_none() || subscriber.subject.as_deref() == subject;
            !concerned || subscriber.items.try_send(item.clone()).is_ok()
        });
    }

    fn send_event(&mut self, event: LoggedEvent) {
        let subject = event.envelope.subject_key.clone();
        self.send(subject.as_deref(), &FeedItem::Event(Arc::new(event)));
    }

    fn subjects(&self) -> Vec<SubjectKey> {
        self.all
            .iter()
            .filter_map(|subscriber| subscriber.subject.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }
}

impl EventFeed {
    /// A feed over a store with at most `streams_max` concurrent streams.
    pub fn new(store: Arc<dyn Store>, kinds: Arc<SubjectKinds>, streams_max: usize) -> Arc<Self> {
        let streams = Arc::new(Semaphore::new(streams_max));
        Arc::new(Self {
            store,
            kinds,
            subscribers: Mutex::default(),
            joined: Notify::new(),
            streams,
            streams_max,
            closed: CancellationToken::new(),
        })
    }

    /// Reads the log until cancelled; then every stream ends.
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
                    tracing::warn!(%error, "the event log cannot be read, live streams are waiting");
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

    /// Passes on what was logged since the previous tick; false without subscribers.
    pub async fn tick(&self) -> Result<bool, StoreError> {
        let mut subscribers = self.subscribers.lock().await;
        subscribers.all.retain(|subscriber| !subscriber.items.is_closed());
        if subscribers.all.is_empty() {
            return Ok(false);
        }
        subscribers.ticks = subscribers.ticks.wrapping_add(1);
        let subjects = subscribers.subjects();
        // Asked before the log's end is: all events of a settled subject lie before that end.
        let ask = subscribers.ticks.is_multiple_of(SETTLED_EVERY);
        let mut settled = Vec::new();
        for chunk in subjects.chunks(SUBJECTS_MAX).filter(|_| ask) {
            settled.extend(self.store.settled_subjects(chunk).await?);
        }
        let end = self.store.log_end().await?;
        if end > subscribers.end {
            if subscribers.all.iter().any(|subscriber| subscriber.subject.is_none()) {
                self.pass_on_all(&mut subscribers, end).await?;
            } else {
                self.pass_on_subjects(&mut subscribers, &subjects, end).await?;
            }
            subscribers.end = end;
        }
        for one in settled {
            let kind = self.kinds.of(&one.subject);
            let is_final = kind.is_some_and(|kind| kind.status.terminal.contains(&one.status));
            let item = FeedItem::Settled { status: one.status, is_final };
            subscribers.all.retain(|subscriber| {
                let concerned = subscriber.subject.as_ref() == Some(&one.subject);
                // Their streams end. Those with a full buffer catch up, and find the subject settled.
                concerned.then(|| subscriber.items.try_send(item.clone())).is_none()
            });
        }
        Ok(true)
    }

    /// Reads the whole log, because at least one subscriber receives all events.
    async fn pass_on_all(&self, subscribers: &mut Subscribers, end: i64) -> Result<(), StoreError> {
        loop {
            let range = LogRange {
                after: subscribers.end,
                up_to: end,
                limit: PAGE,
                direction: Direction::Oldest,
            };
            let Page { items, next } = self.store.events(EventFilter::default(), range).await?;
            for event in items {
                subscribers.send_event(event);
            }
            match next {
                Some(next) if !subscribers.all.is_empty() => subscribers.end = next,
                _ => return Ok(()),
            }
        }
    }

    /// Reads only the events of the subscribed subjects.
    async fn pass_on_subjects(
        &self,
        subscribers: &mut Subscribers,
        subjects: &[SubjectKey],
        end: i64,
    ) -> Result<(), StoreError> {
        for chunk in subjects.chunks(SUBJECTS_MAX) {
            let mut after = subscribers.end;
            loop {
                let cursors: Vec<SubjectCursor> = chunk
                    .iter()
                    .map(|subject| SubjectCursor { subject: subject.clone(), after })
                    .collect();
                let events = self.store.events_of_subjects(&cursors, PAGE).await?;
                let full = events.len() == PAGE as usize;
                let last = events.last().map_or(end, |event| event.seq);
                for event in events.into_iter().filter(|event| event.seq <= end) {
                    subscribers.send_event(event);
                }
                if !full || last >= end {
                    break;
                }
                after = last;
            }
        }
        Ok(())
    }

    /// Subscribes to the events after a position; none when there are too many streams. With an
    /// subject in the filter, the stream ends when the subject is settled.
    pub fn subscribe(self: &Arc<Self>, filter: EventFilter, after: i64) -> Option<Subscription> {
        let permit = self.permit()?;
        Some(Subscription::new(Arc::clone(self), filter, after, permit))
    }

    /// Reserves a place among the streams for an answer that is written piece by piece; none when
    /// there are too many.
    pub fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.streams).try_acquire_owned().ok()
    }

    /// How many streams there are.
    #[cfg(feature = "http")]
    pub(crate) fn streams(&self) -> super::Load {
        let used = self.streams_max.saturating_sub(self.streams.available_permits());
        super::Load { used: used as u64, max: self.streams_max as u64 }
    }

    /// Ends every stream when it is dropped: the host stops, or its run was aborted.
    pub(crate) fn close_on_drop(&self) -> DropGuard {
        self.closed.clone().drop_guard()
    }

    /// Whether the host is stopping, so that streams end.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// Adds a subscriber. Returns the reader's position, and receives what the reader passes on
    /// after it.
    async fn join(
        &self,
        subject: Option<SubjectKey>,
    ) -> Result<(i64, mpsc::Receiver<FeedItem>), StoreError> {
        let (items, received) = mpsc::channel(FEED_ITEMS_MAX);
        let mut subscribers = self.subscribers.lock().await;
        if subscribers.all.is_empty() {
            // The reader was idle, its position is out of date.
            subscribers.end = self.store.log_end().await?;
        }
        subscribers.all.push(Subscriber { subject, items });
        self.joined.notify_one();
        Ok((subscribers.end, received))
    }
}
