//! Follows a live stream of the host (server-sent events), also over a restart of the host: it goes
//! on behind the last event seen.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use eventsource_stream::Eventsource as _;
use futures::{StreamExt as _, stream};
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::client::{Target, Unreachable};

/// Between two tries to come back.
const AGAIN: Duration = Duration::from_millis(250);
/// How long a host that was there may be away.
const AWAY_MAX: Duration = Duration::from_mins(2);

/// Tells `tell` every event; gives what the stream said at its end.
pub(crate) async fn follow(
    target: &Target,
    path: &str,
    mut tell: impl FnMut(&Value),
) -> Result<Value> {
    let mut last: Option<String> = None;
    let mut gone: Option<Instant> = None;
    let mut over = false;
    loop {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last.as_deref().map(|last| ("last-event-id", last)));
        match target.open(path, &headers).await {
            // Nothing more will come. How it ended is said at the end of the whole history.
            Ok(response) if response.status() == StatusCode::NO_CONTENT => {
                (over, last) = (true, None)
            }
            Ok(response) => {
                let mut seen = None;
                let (last, told) = if over {
                    (&mut seen, &mut (|_: &Value| {}) as &mut dyn FnMut(&Value))
                } else {
                    (&mut last, &mut tell as _)
                };
                if let Some(end) = listen(response, last, told).await? {
                    return Ok(end);
                }
                // The host stopped, or the connection broke: the time that it may be away begins
                // anew.
                gone = Some(Instant::now());
            }
            // A host that is just starting or stopping, too, says that it cannot.
            Err(error) if gone.is_some_and(|gone| gone.elapsed() < AWAY_MAX) => {
                tracing::debug!(%error, away = error.is::<Unreachable>(), "the stream is opened again");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads one answer; what it said at its end, or nothing when it broke off.
async fn listen(
    response: Response,
    last: &mut Option<String>,
    tell: &mut dyn FnMut(&Value),
) -> Result<Option<Value>> {
    let bytes = stream::unfold(response, |mut response| async move {
        let chunk = response.chunk().await.transpose()?;
        Some((chunk, response))
    });
    let mut messages = Box::pin(bytes.eventsource());
    while let Some(message) = messages.next().await {
        let Ok(message) = message else { return Ok(None) };
        let data: Value = serde_json::from_str(&message.data)
            .context("the host sent something that is not JSON")?;
        if message.event == "end" {
            return Ok(Some(data));
        }
        tell(&data);
        *last = Some(message.id).filter(|id| !id.is_empty());
    }
    Ok(None)
}
