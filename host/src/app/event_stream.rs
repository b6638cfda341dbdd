//! The event log as a stream in this process: what was logged, then what is logged from now on.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt as _};

use super::App;
use super::event_feed::FeedItem;
use crate::domain::event::Event;
use crate::domain::subject::SubjectKey;
use crate::store::EventFilter;

/// Which events a stream has, and where it begins.
///
/// ```
/// use postrider::EventQuery;
///
/// let shipped = EventQuery::new().event_type("shipping.*").after(4_711);
/// ```
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    filter: EventFilter,
    after: i64,
}

impl EventQuery {
    /// All events, from the first one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only types that this topic pattern covers: `*` is one word, `#` any number of words.
    #[must_use]
    pub fn event_type(mut self, pattern: impl Into<String>) -> Self {
        self.filter.event_type = Some(pattern.into());
        self
    }

    /// Only the events of this subject. The stream ends when none of its deliveries is open.
    #[must_use]
    pub fn subject(mut self, key: SubjectKey) -> Self {
        self.filter.subject = Some(key);
        self
    }

    /// Only what follows this position: the [`StreamedEvent::cursor`] that was handled last, on
    /// whichever host.
    #[must_use]
    pub fn after(mut self, cursor: i64) -> Self {
        self.after = cursor;
        self
    }
}

/// An event of a stream.
///
/// ```
/// use postrider::{EventQuery, StreamedEvent};
///
/// /// The query of a stream that continues after the event.
/// fn rest(handled: &StreamedEvent) -> EventQuery {
///     EventQuery::new().after(handled.cursor)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamedEvent {
    /// Its position in the log, where a stream resumes: [`EventQuery::after`].
    pub cursor: i64,
    /// The event.
    pub event: Event,
    /// The subject that it belongs to.
    pub subject_key: Option<SubjectKey>,
    /// The id of the first event of its chain.
    pub correlation_id: String,
    /// The stage that emitted it; none for an event that no stage emitted.
    pub stage: Option<String>,
}

/// A stream of the event log: see [`App::events`].
///
/// It has each event once, in the order of the log, and none is skipped, also those that commit
/// late. It waits while the store does not answer, and ends when the host stops.
///
/// ```no_run
/// use futures::StreamExt as _;
/// use postrider::{App, EventQuery, SubjectKey, TooManyStreams};
///
/// /// Waits until no delivery of a subject is open; returns the type of its last event.
/// async fn last_event(app: &App, key: SubjectKey) -> Result<Option<String>, TooManyStreams> {
///     let events = app.events(EventQuery::new().subject(key))?;
///     Ok(events.map(|one| one.event.event_type).fold(None, async |_, last| Some(last)).await)
/// }
/// ```
pub struct EventStream(BoxStream<'static, StreamedEvent>);

impl Stream for EventStream {
    type Item = StreamedEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<StreamedEvent>> {
        self.get_mut().0.poll_next_unpin(context)
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("EventStream")
    }
}

/// There are as many streams as the configuration allows, over HTTP and in the process.
///
/// ```
/// use postrider::{App, EventQuery, EventStream};
///
/// fn follow(app: &App) -> Option<EventStream> {
///     // Another stream has to end first.
///     app.events(EventQuery::new()).ok()
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many live streams: `http.streams_max` is the limit")]
pub struct TooManyStreams;

impl App {
    /// Follows the event log from a position on. Live events arrive while the host runs.
    ///
    /// ```no_run
    /// use futures::StreamExt as _;
    /// use postrider::EventQuery;
    ///
    /// # async fn example(app: &postrider::App, last: i64) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut shipped = app.events(EventQuery::new().event_type("shipping.ready").after(last))?;
    /// while let Some(shipped) = shipped.next().await {
    ///     let data: serde_json::Value = shipped.event.json()?;
    ///     println!("{}: {data}", shipped.event.subject);
    ///     // Keep `shipped.cursor` with the effects of the event, to resume after it.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// There are `http.streams_max` streams already.
    pub fn events(&self, query: EventQuery) -> Result<EventStream, TooManyStreams> {
        let EventQuery { filter, after } = query;
        let subscription = self.event_feed.subscribe(filter, after).ok_or(TooManyStreams)?;
        let events = stream::unfold(subscription, |mut subscription| async {
            let FeedItem::Event(logged) = subscription.next().await? else { return None };
            let envelope = &logged.envelope;
            let event = StreamedEvent {
                cursor: logged.seq,
                event: envelope.event.clone(),
                subject_key: envelope.subject_key.clone(),
                correlation_id: envelope.correlation_id.clone(),
                stage: logged.stage.clone(),
            };
            Some((event, subscription))
        });
        Ok(EventStream(events.boxed()))
    }
}
