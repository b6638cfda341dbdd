//! Answers that are written bit by bit: server-sent events, and the log as JSON lines.
//!
//! Bounds: streams and exports at once (`http.streams_max`), one page of events in memory for each.
//! A stream that has nothing to say sends a comment every [`KEEP_ALIVE`]. All of them end when the
//! host stops.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::Shared;
use super::events::view::EventView;
use super::problem::{Answer, Problem};
use crate::app::event_feed::FeedItem;
use crate::domain::cloud_events;
use crate::domain::event::LoggedEvent;
use crate::store::{EventFilter, LogRange, Page, StoreError};

/// Between two comments.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client waits before it comes again.
const RETRY: Duration = Duration::from_secs(1);
/// Events read at once.
const PAGE: u32 = 200;

fn full() -> Problem {
    Problem::unavailable(
        "as many streams are open as the host allows (`http.streams_max`); try again",
    )
}

/// The log from behind a position on, live. A message's id is the event's position: `Last-Event-ID`
/// goes on behind it.
pub(super) fn live(app: &Shared, filter: EventFilter, after: i64) -> Answer<Response> {
    let follow = app.event_feed().follow(filter, after).ok_or_else(full)?;
    let messages = stream::unfold((follow, true), |(mut follow, first)| async move {
        let news = follow.next().await?;
        let message = message(news);
        Some((
            Ok::<_, Infallible>(if first { message.retry(RETRY) } else { message }),
            (follow, false),
        ))
    });
    let headers =
        [(header::CACHE_CONTROL, "no-cache"), (HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((headers, Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
        .into_response())
}

fn message(news: FeedItem) -> Message {
    match news {
        FeedItem::Event(event) => Message::default()
            .id(event.seq.to_string())
            .data(json!(EventView::of(LoggedEvent::clone(&event))).to_string()),
        FeedItem::Settled { status, is_final } => Message::default()
            .event("end")
            .data(json!({ "status": status, "final": is_final }).to_string()),
    }
}

/// An order of which nothing more will be heard: the client shall not come again.
pub(super) fn nothing_more() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// An export under way.
struct Export {
    app: Shared,
    filter: EventFilter,
    up_to: i64,
    /// What was read already.
    page: Option<Page<LoggedEvent>>,
    _permit: OwnedSemaphorePermit,
}

/// The log up to now, one `CloudEvent` a line. What goes wrong later than at the first page breaks
/// the answer off.
pub(super) async fn lines(
    app: &Shared,
    filter: EventFilter,
    after: i64,
) -> Answer<impl Stream<Item = io::Result<Bytes>> + use<>> {
    let permit = app.event_feed().place().ok_or_else(full)?;
    let up_to = app.services().store.log_end().await?;
    let mut export = Export { app: app.clone(), filter, up_to, page: None, _permit: permit };
    export.page = Some(export.read(after).await?);
    Ok(stream::try_unfold(export, |mut export| async move {
        let Some(page) = export.page.take() else { return Ok(None) };
        if export.app.event_feed().is_closed() {
            return Err(io::Error::other("the host stops"));
        }
        let mut text = String::new();
        for event in &page.items {
            text.push_str(&cloud_events::write(event).to_string());
            text.push('\n');
        }
        if let Some(next) = page.next {
            export.page = Some(export.read(next).await.map_err(io::Error::other)?);
        }
        Ok(Some((Bytes::from(text), export)))
    }))
}

impl Export {
    async fn read(&self, after: i64) -> Result<Page<LoggedEvent>, StoreError> {
        let range = LogRange { after, up_to: self.up_to, limit: PAGE };
        self.app.services().store.events(self.filter.clone(), range).await
    }
}
