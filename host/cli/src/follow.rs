//! Follows a live stream of the host (server-sent events). After a disconnect it resumes after the
//! last event, unless the host stays away for more than two minutes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use eventsource_stream::Eventsource as _;
use futures::{StreamExt as _, stream};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::client::{Problem, Target, Unreachable};

/// Delay between two attempts to reconnect.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);
/// How long a host that was reachable may be away.
const AWAY_MAX: Duration = Duration::from_mins(2);

/// Calls `on_event` for every event; returns the data of the stream's `end` event.
pub(crate) async fn follow(
    target: &Target,
    path: &str,
    mut on_event: impl FnMut(&Value),
) -> Result<Value> {
    let mut last_id: Option<String> = None;
    let mut disconnected_at: Option<Instant> = None;
    let mut complete = false;
    loop {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_id.as_deref().map(|id| ("last-event-id", id)));
        match target.open(path, &headers).await {
            // There are no more events. The `end` event with the final status is sent only to a
            // reader of the whole history, so read that once more, silently.
            Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                (complete, last_id) = (true, None);
            }
            Ok(response) => {
                let mut ignored_id = None;
                let (last_id, on_event) = if complete {
                    (&mut ignored_id, &mut (|_: &Value| {}) as &mut dyn FnMut(&Value))
                } else {
                    (&mut last_id, &mut on_event as _)
                };
                if let Some(end) = read(response, last_id, on_event).await? {
                    return Ok(end);
                }
                disconnected_at = Some(Instant::now());
            }
            // The token was revoked, or has expired.
            Err(error) if error.downcast_ref().is_some_and(Problem::refuses_credential) => {
                return Err(error);
            }
            // A host that is starting or stopping also answers with an error: keep trying.
            Err(error) if disconnected_at.is_some_and(|at| at.elapsed() < AWAY_MAX) => {
                tracing::debug!(
                    %error,
                    unreachable = error.is::<Unreachable>(),
                    "cannot open the stream, retrying"
                );
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// Reads one response. Returns the data of its `end` event, or `None` if the connection broke.
async fn read(
    response: Response,
    last_id: &mut Option<String>,
    on_event: &mut dyn FnMut(&Value),
) -> Result<Option<Value>> {
    let bytes = stream::unfold(response, |mut response| async move {
        let chunk = response.chunk().await.transpose()?;
        Some((chunk, response))
    });
    let mut messages = Box::pin(bytes.eventsource());
    while let Some(message) = messages.next().await {
        let Ok(message) = message else { return Ok(None) };
        let data: Value =
            serde_json::from_str(&message.data).context("the host sent invalid JSON")?;
        if message.event == "end" {
            return Ok(Some(data));
        }
        on_event(&data);
        *last_id = Some(message.id).filter(|id| !id.is_empty());
    }
    Ok(None)
}
