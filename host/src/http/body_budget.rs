//! The bytes of the request bodies that a namespace holds at a time.
//!
//! A body is counted as it arrives, so a client that sends slowly takes no more than it has sent, and
//! with what its JSON needs once it is parsed, before it is parsed. The request gives all of it back
//! when it is answered. Bound: `http.bodies_max_bytes`; beyond it a request is refused with 503, never
//! queued.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::rate_limits::RequestSender;
use crate::app::{Load, Refusal, Refusals};
use crate::config::HttpSettings;
use crate::domain::json::{VALUE_BYTES, VALUES_MAX};

/// How many bytes may be held.
#[derive(Clone)]
pub(super) struct BodyBudget {
    free: Arc<Semaphore>,
    bodies_max_bytes: u64,
    /// Of a single body.
    body_max_bytes: usize,
    refusals: Arc<Refusals>,
}

/// The bytes that a request holds, until it is dropped.
pub(super) struct HeldBytes {
    budget: BodyBudget,
    permit: Option<OwnedSemaphorePermit>,
    /// For whom.
    sender: RequestSender,
}

impl BodyBudget {
    /// For bodies as large as the settings say.
    pub(super) fn new(settings: &HttpSettings, refusals: Arc<Refusals>) -> Self {
        let total = usize::try_from(settings.bodies_max_bytes).unwrap_or(usize::MAX);
        let free = Arc::new(Semaphore::new(total.min(Semaphore::MAX_PERMITS)));
        let bodies_max_bytes = free.available_permits() as u64;
        Self { free, bodies_max_bytes, body_max_bytes: settings.body_max_bytes, refusals }
    }

    /// The largest body.
    pub(super) fn body_max_bytes(&self) -> usize {
        self.body_max_bytes
    }

    /// How much of it is used.
    pub(super) fn load(&self) -> Load {
        let max = self.bodies_max_bytes;
        Load { used: max.saturating_sub(self.free.available_permits() as u64), max }
    }

    /// What a request holds at first: nothing.
    pub(super) fn request(&self, sender: RequestSender) -> HeldBytes {
        HeldBytes { budget: self.clone(), permit: None, sender }
    }
}

impl HeldBytes {
    /// Reads a body whole. What is refused is read as well, and dropped: a client that is still
    /// sending may not receive an answer.
    pub(super) async fn read(&mut self, body: Body) -> Result<Bytes, Problem> {
        let mut body = Limited::new(body, self.budget.body_max_bytes);
        let read = self.read_held(&mut body).await;
        if read.is_err() {
            while let Some(Ok(_)) = body.frame().await {}
        }
        read
    }

    async fn read_held(&mut self, body: &mut Limited<Body>) -> Result<Bytes, Problem> {
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| match error.downcast::<LengthLimitError>() {
                Ok(_) => Problem::too_large(),
                Err(error) => Problem::malformed(format!("the body cannot be read: {error}")),
            })?;
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            self.hold(data.len())?;
            if first.is_empty() {
                first = data;
            } else {
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Holds what the body needs once it is parsed. `sent` bytes of it are held already.
    pub(super) fn hold_parsed(&mut self, body: &[u8], sent: usize) -> Result<(), Problem> {
        // Each value but one follows one of these. Others are within texts, which are few.
        let begins = |byte: &&u8| matches!(byte, b',' | b':' | b'[' | b'{');
        let values = body.iter().filter(begins).count().min(VALUES_MAX);
        self.hold(body.len().saturating_sub(sent) + values * VALUE_BYTES)
    }

    /// Holds so many bytes more.
    fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&self.budget.free).try_acquire_many_owned(bytes).ok());
        let Some(more) = more else {
            self.budget.refusals.count(Refusal::Bodies);
            return Err(Problem::unavailable(
                "the bodies of the requests in progress are too large together \
                 (`http.bodies_max_bytes`), retry",
            ));
        };
        self.sender.hold(bytes as u64);
        match &mut self.permit {
            Some(held) => held.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.sender.release(held as u64);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;
    use futures::stream;

    use super::*;

    fn budget(bodies_max_bytes: u64, body_max_bytes: usize) -> BodyBudget {
        let settings = HttpSettings { body_max_bytes, bodies_max_bytes, ..HttpSettings::default() };
        BodyBudget::new(&settings, Arc::default())
    }

    fn status(problem: Problem) -> StatusCode {
        problem.into_response().status()
    }

    fn in_parts(parts: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(parts.iter().map(|part| Ok::<_, std::io::Error>(*part))))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_and_held_until_its_request_ends() {
        let budget = budget(10, 8);
        let mut one = budget.request(RequestSender::default());
        assert_eq!(one.read(in_parts(&["ab", "cd", "ef"])).await.unwrap(), "abcdef");
        assert_eq!(budget.load(), Load { used: 6, max: 10 });
        let mut other = budget.request(RequestSender::default());
        let refused = other.read(in_parts(&["ab", "cde"])).await.unwrap_err();
        assert_eq!(status(refused), StatusCode::SERVICE_UNAVAILABLE);
        drop((one, other));
        assert_eq!(
            budget.request(RequestSender::default()).read("abcdefgh".into()).await.unwrap(),
            "abcdefgh"
        );
        assert_eq!(budget.free.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused_for_good() {
        let refused = budget(100, 8)
            .request(RequestSender::default())
            .read("abcdefghi".into())
            .await
            .unwrap_err();
        assert_eq!(status(refused), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn small_texts_with_many_values_count_as_what_they_become() {
        let budget = budget(1 << 20, 1 << 20);
        let body = format!("[{}0]", "0,".repeat(20_000));
        let mut request = budget.request(RequestSender::default());
        let sent = request.read(body.clone().into()).await.unwrap();
        let refused = request.hold_parsed(&sent, sent.len()).unwrap_err();
        assert_eq!(status(refused), StatusCode::SERVICE_UNAVAILABLE);
        let mut text = budget.request(RequestSender::default());
        text.hold_parsed("x".repeat(body.len()).as_bytes(), 0).unwrap();
    }
}
