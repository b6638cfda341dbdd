//! Components that are sent to the host: bodies that may be larger than others.
//!
//! The handler reads such a body, after it checked everything else; until then no byte of it is
//! read. It is not counted with the bodies of other requests, so it takes no place from them: what
//! bounds the bytes is that one handler at a time reads one. Bounds: [`LIMITS`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::problem::{Answer, Kind, Problem};
use super::request::{content_encoding, content_type};
use crate::app::COMPONENT_MAX_BYTES;

/// How large a body may be, and how long it may take to arrive.
struct Limits {
    bytes: u64,
    /// Longest time between two parts.
    part: Duration,
    /// Longest time for all of them.
    whole: Duration,
    /// How long the next part of a refused body may take that is read and dropped: a client that is
    /// still sending may not receive an answer.
    dropped_part: Duration,
    /// How long such parts are read.
    dropped: Duration,
}

const LIMITS: Limits = Limits {
    bytes: COMPONENT_MAX_BYTES,
    part: Duration::from_secs(10),
    whole: Duration::from_mins(5),
    dropped_part: Duration::from_secs(2),
    dropped: Duration::from_secs(10),
};
/// Memory for a body of which it is not known how large it is.
const FIRST_BYTES: u64 = 1 << 20;
/// Media type of a component.
pub(super) const MEDIA_TYPE: &str = "application/wasm";

/// The body of a request, until it is read.
#[derive(Clone)]
pub(super) struct Upload(Arc<Mutex<Option<Body>>>);

impl Upload {
    pub(super) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads the body whole.
    pub(super) async fn read(&self) -> Answer<Bytes> {
        self.read_within(&LIMITS).await
    }

    async fn read_within(&self, limits: &Limits) -> Answer<Bytes> {
        let body = self.take().ok_or_else(Problem::internal)?;
        let announced = body.size_hint().lower();
        let mut body = Limited::new(body, limits.bytes as usize);
        let read = if announced > limits.bytes {
            Err(too_large())
        } else {
            let reading = read_parts(&mut body, announced.max(FIRST_BYTES), limits.part);
            tokio::time::timeout(limits.whole, reading).await.unwrap_or_else(|_| Err(late()))
        };
        if read.is_err() {
            drain(&mut body, limits).await;
        }
        read
    }

    /// Reads and drops what no handler has read.
    pub(super) async fn drain(&self) {
        if let Some(body) = self.take() {
            drain(&mut Limited::new(body, LIMITS.bytes as usize), &LIMITS).await;
        }
    }
}

async fn read_parts(body: &mut Limited<Body>, capacity: u64, part_max: Duration) -> Answer<Bytes> {
    let mut all = BytesMut::with_capacity(capacity as usize);
    loop {
        let part = tokio::time::timeout(part_max, body.frame()).await.map_err(|_| late())?;
        let Some(part) = part else { return Ok(all.freeze()) };
        let part = part.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => too_large(),
            Err(error) => {
                Problem::new(Kind::BAD_REQUEST, format!("the body cannot be read: {error}"))
            }
        })?;
        // Trailers mean nothing here.
        if let Ok(data) = part.into_data() {
            all.extend_from_slice(&data);
        }
    }
}

async fn drain(body: &mut Limited<Body>, limits: &Limits) {
    let draining = async { while drop_part(body, limits.dropped_part).await {} };
    let _ = tokio::time::timeout(limits.dropped, draining).await;
}

/// Whether there was a next part.
async fn drop_part(body: &mut Limited<Body>, part_max: Duration) -> bool {
    let part = tokio::time::timeout(part_max, body.frame()).await;
    matches!(part, Ok(Some(Ok(_))))
}

fn too_large() -> Problem {
    let detail = format!(
        "the component has more than {COMPONENT_MAX_BYTES} bytes, the limit of a plugin file"
    );
    Problem::new(Kind::BODY_TOO_LARGE, detail)
}

fn late() -> Problem {
    Problem::unavailable("the body did not arrive in time, retry")
}

impl<S: Send + Sync> FromRequestParts<S> for Upload {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let media_type = content_type(&parts.headers).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case(MEDIA_TYPE) {
            return Err(Problem::media_type(format!(
                "send the component's bytes with the header `content-type: {MEDIA_TYPE}`"
            )));
        }
        let encoding = content_encoding(&parts.headers)?;
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            let detail = "a component is sent without a content encoding";
            return Err(Problem::new(Kind::UNSUPPORTED_ENCODING, detail));
        }
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use futures::{StreamExt as _, stream};

    use super::*;

    fn in_parts(parts: &'static [&'static str]) -> Upload {
        let parts = parts.iter().map(|part| Ok::<_, std::io::Error>(*part));
        Upload::new(Body::from_stream(stream::iter(parts)))
    }

    fn up_to(bytes: u64) -> Limits {
        let soon = Duration::from_millis(5);
        Limits { bytes, part: soon, dropped_part: soon, ..LIMITS }
    }

    #[tokio::test]
    async fn a_body_is_read_whole_and_once() {
        let upload = in_parts(&["ab", "cd", "ef"]);
        assert_eq!(upload.read_within(&up_to(6)).await.unwrap(), "abcdef");
        assert_eq!(upload.read().await.unwrap_err().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_refused() {
        for upload in [in_parts(&["ab", "cd", "ef"]), Upload::new(Body::from("abcdef"))] {
            let refused = upload.read_within(&up_to(5)).await.unwrap_err();
            assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_arriving_is_given_up() {
        let begun = stream::once(async { Ok::<_, std::io::Error>("ab") });
        let body = Body::from_stream(begun.chain(stream::pending()));
        let refused = Upload::new(body).read_within(&up_to(6)).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
