//! One stream: catches up from the store, then receives from the reader.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{BACKOFF, EventFeed, FeedItem, PAGE};
use crate::domain::event::LoggedEvent;
use crate::store::{Direction, EventFilter, LogRange, Page};

/// One stream of the log.
pub struct Subscription {
    feed: Arc<EventFeed>,
    filter: EventFilter,
    /// The last position that was returned or skipped.
    cursor: i64,
    ready: VecDeque<LoggedEvent>,
    phase: Phase,
    _permit: OwnedSemaphorePermit,
}

enum Phase {
    /// It has not joined the reader, or was too slow and was removed.
    Detached,
    /// It reads from the store up to the position at which it joined.
    CatchingUp {
        up_to: i64,
        received: mpsc::Receiver<FeedItem>,
    },
    /// It receives what the reader passes on.
    Live(mpsc::Receiver<FeedItem>),
    Ended,
}

impl Subscription {
    pub(super) fn new(
        feed: Arc<EventFeed>,
        filter: EventFilter,
        cursor: i64,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            feed,
            filter,
            cursor,
            ready: VecDeque::new(),
            phase: Phase::Detached,
            _permit: permit,
        }
    }

    /// Returns the next item; none at the end of the stream. Waits while the store does not answer.
    pub async fn next(&mut self) -> Option<FeedItem> {
        let closed = self.feed.closed.clone();
        tokio::select! {
            biased;
            () = closed.cancelled() => None,
            item = self.advance() => item,
        }
    }

    async fn advance(&mut self) -> Option<FeedItem> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.cursor = event.seq;
                return Some(FeedItem::Event(Arc::new(event)));
            }
            match &mut self.phase {
                Phase::Detached => match self.feed.join(self.filter.subject.clone()).await {
                    Ok((up_to, received)) => self.phase = Phase::CatchingUp { up_to, received },
                    Err(_) => tokio::time::sleep(BACKOFF).await,
                },
                Phase::CatchingUp { up_to, .. } if self.cursor >= *up_to => self.go_live(),
                Phase::CatchingUp { up_to, .. } => {
                    let range = LogRange {
                        after: self.cursor,
                        up_to: *up_to,
                        limit: PAGE,
                        direction: Direction::Oldest,
                    };
                    self.read(range).await;
                }
                Phase::Live(received) => match received.recv().await {
                    Some(FeedItem::Event(event)) if event.seq > self.cursor => {
                        self.cursor = event.seq;
                        if self.filter.matches(&event) {
                            return Some(FeedItem::Event(event));
                        }
                    }
                    // It was read from the store already.
                    Some(FeedItem::Event(_)) => {}
                    Some(settled @ FeedItem::Settled { .. }) => {
                        self.phase = Phase::Ended;
                        return Some(settled);
                    }
                    // The buffer was full, and the reader removed this subscriber.
                    None => self.phase = Phase::Detached,
                },
                Phase::Ended => return None,
            }
        }
    }

    /// Reads a page of the store.
    async fn read(&mut self, range: LogRange) {
        match self.feed.store.events(self.filter.clone(), range).await {
            Ok(Page { items, next }) => {
                // Nothing in the range matches the filter: skip it.
                if items.is_empty() {
                    self.cursor = next.unwrap_or(range.up_to);
                }
                self.ready = items.into();
            }
            Err(_) => tokio::time::sleep(BACKOFF).await,
        }
    }

    fn go_live(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        if let Phase::CatchingUp { received, .. } = phase {
            self.phase = Phase::Live(received);
        }
    }
}
