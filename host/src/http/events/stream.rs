//! Answers that are written as events arrive: server-sent events, and the log as JSON lines.
//!
//! Bounds: concurrent streams and exports (`http.streams_max`), and one page of events in memory
//! for each. An idle stream sends a comment every [`KEEP_ALIVE`]. Streams end when the host stops, and
//! with the credential of their request.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::http::{HeaderName, header};
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{self, Stream};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::view::EventView;
use crate::app::Refusal;
use crate::app::event_feed::{FeedItem, Subscription};
use crate::domain::cloud_events;
use crate::domain::event::LoggedEvent;
use crate::http::Shared;
use crate::http::auth::streams::StreamCredential;
use crate::http::problem::{Answer, Problem};
use crate::store::{Direction, EventFilter, LogRange, Page, StoreError};

/// Interval of the comments on an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a client waits before it reconnects.
const RETRY: Duration = Duration::from_secs(1);
/// Events in one read of the store.
const PAGE: u32 = 200;

fn ended() -> io::Error {
    io::Error::other("the credential of the request is no longer valid")
}

fn too_many(app: &Shared) -> Problem {
    app.refusals().count(Refusal::Streams);
    Problem::unavailable("too many open streams (`http.streams_max`), retry")
}

/// A live stream under way.
struct Live {
    subscription: Subscription,
    credential: StreamCredential,
    /// Sent with the first message.
    retry: Option<Duration>,
}

/// A live stream of the log after a position. A message's id is the position of its event, so that
/// `Last-Event-ID` resumes after it.
/// `payloads`: with the data of events.
pub(crate) fn live(
    app: &Shared,
    credential: StreamCredential,
    filter: EventFilter,
    after: i64,
    payloads: bool,
) -> Answer<Response> {
    let subscription = app.event_feed().subscribe(filter, after).ok_or_else(|| too_many(app))?;
    let live = Live { subscription, credential, retry: Some(RETRY) };
    let messages = stream::unfold(live, move |mut live| async move {
        let Live { subscription, credential, retry } = &mut live;
        let message = message(credential.during(subscription.next()).await??, payloads);
        let message = match retry.take() {
            Some(retry) => message.retry(retry),
            None => message,
        };
        Some((Ok::<_, Infallible>(message), live))
    });
    // Proxies must not hold messages back.
    let headers =
        [(header::CACHE_CONTROL, "no-cache"), (HeaderName::from_static("x-accel-buffering"), "no")];
    let messages = Sse::new(messages).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok((headers, messages).into_response())
}

fn message(item: FeedItem, payloads: bool) -> Message {
    match item {
        FeedItem::Event(event) => Message::default()
            .id(event.seq.to_string())
            .data(json!(EventView::of(LoggedEvent::clone(&event), payloads)).to_string()),
        FeedItem::Settled { status, is_final } => Message::default()
            .event("end")
            .data(json!({ "status": status, "final": is_final }).to_string()),
    }
}

/// An export under way.
struct Export {
    app: Shared,
    credential: StreamCredential,
    filter: EventFilter,
    up_to: i64,
    /// The page that is written next; none after the last.
    page: Option<Page<LoggedEvent>>,
    _permit: OwnedSemaphorePermit,
}

/// The log up to now, one CloudEvent per line. An error after the first page aborts the answer,
/// because its status is already sent.
pub(super) async fn lines(
    app: &Shared,
    credential: StreamCredential,
    filter: EventFilter,
    after: i64,
) -> Answer<impl Stream<Item = io::Result<Bytes>> + use<>> {
    let permit = app.event_feed().permit().ok_or_else(|| too_many(app))?;
    let up_to = app.services().store.log_end().await?;
    let app = app.clone();
    let mut export = Export { app, credential, filter, up_to, page: None, _permit: permit };
    export.page = Some(export.read(after).await?);
    Ok(stream::try_unfold(export, |mut export| async move {
        let Some(page) = export.page.take() else { return Ok(None) };
        if export.app.event_feed().is_closed() {
            return Err(io::Error::other("the host is stopping"));
        }
        // A reader may have taken nothing for a while.
        export.credential.during(std::future::ready(())).await.ok_or_else(ended)?;
        let mut text = String::new();
        for event in &page.items {
            text.push_str(&cloud_events::write(event));
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
        let range =
            LogRange { after, up_to: self.up_to, limit: PAGE, direction: Direction::Oldest };
        self.app.services().store.events(self.filter.clone(), range).await
    }
}
