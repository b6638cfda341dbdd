//! Every kind of refusal: the URI that names it, its status, what it means and what helps. Served
//! at `/problems`.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// A kind of refusal; its URI never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    BadHeader,
    BadQuery,
    DeadLetterSettled,
    Internal,
    InvalidBody,
    KeyReused,
    MalformedJson,
    MediaType,
    Method,
    NoSuchVersion,
    NotEditable,
    NotFound,
    OrderExists,
    OrderNotCancellable,
    Request,
    RollBack,
    StageInUse,
    TooLarge,
    Unavailable,
}

/// What is said about a kind.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ProblemKind {
    /// The URI, relative to this host.
    #[serde(rename = "type")]
    pub(in crate::http) uri: &'static str,
    /// The same for every problem of this kind.
    pub(in crate::http) title: &'static str,
    /// HTTP status.
    pub(in crate::http) status: u16,
    /// When it is answered, and what helps.
    pub(in crate::http) remedy: &'static str,
}

impl Kind {
    /// By name.
    pub(in crate::http) const ALL: [Self; 19] = [
        Self::BadHeader,
        Self::BadQuery,
        Self::DeadLetterSettled,
        Self::Internal,
        Self::InvalidBody,
        Self::KeyReused,
        Self::MalformedJson,
        Self::MediaType,
        Self::Method,
        Self::NoSuchVersion,
        Self::NotEditable,
        Self::NotFound,
        Self::OrderExists,
        Self::OrderNotCancellable,
        Self::Request,
        Self::RollBack,
        Self::StageInUse,
        Self::TooLarge,
        Self::Unavailable,
    ];

    #[allow(clippy::too_many_lines, reason = "a table")]
    pub(in crate::http) fn describe(self) -> ProblemKind {
        let (uri, status, title, remedy) = match self {
            Self::BadHeader => (
                "/problems/bad-header",
                StatusCode::BAD_REQUEST,
                "A header cannot be understood",
                "`detail` names the header and what it must look like.",
            ),
            Self::BadQuery => (
                "/problems/bad-query",
                StatusCode::BAD_REQUEST,
                "The query cannot be understood",
                "`detail` names every parameter that is wrong; parameters that the route does not know are refused.",
            ),
            Self::DeadLetterSettled => (
                "/problems/dead-letter-settled",
                StatusCode::CONFLICT,
                "The dead letter is settled",
                "It was replayed or discarded before. Nothing was changed, and nothing needs to be done.",
            ),
            Self::Internal => (
                "/problems/internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The host failed",
                "A bug, or a store that holds what no host wrote: the host's log says more.",
            ),
            Self::InvalidBody => (
                "/problems/invalid-body",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The body does not say what it must",
                "It is JSON; `errors` holds everything that is wrong with it, each with a JSON pointer (RFC 6901) to the place.",
            ),
            Self::KeyReused => (
                "/problems/key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The key stands for another request",
                "The `Idempotency-Key` was used with another body: give each request a key of its own.",
            ),
            Self::MalformedJson => (
                "/problems/malformed-json",
                StatusCode::BAD_REQUEST,
                "The body is not JSON",
                "`detail` names line and column; a body that breaks off, or whose text is not UTF-8, is no JSON either.",
            ),
            Self::MediaType => (
                "/problems/media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The media type is not supported here",
                "`detail` says which `content-type` the route takes.",
            ),
            Self::Method => (
                "/problems/method",
                StatusCode::METHOD_NOT_ALLOWED,
                "The method is not allowed",
                "The header `Allow` lists the methods of this path.",
            ),
            Self::NoSuchVersion => (
                "/problems/no-such-version",
                StatusCode::CONFLICT,
                "There is no such version",
                "No earlier version of the plugin is kept on this host under that digest, or several begin so.",
            ),
            Self::NotEditable => (
                "/problems/not-editable",
                StatusCode::CONFLICT,
                "The body cannot be patched",
                "A merge patch needs a body that is a JSON object: send the whole new body as `data`.",
            ),
            Self::NotFound => (
                "/problems/not-found",
                StatusCode::NOT_FOUND,
                "There is no such thing",
                "No such route, or nothing of that name or id: it never was, or retention has removed it.",
            ),
            Self::OrderExists => (
                "/problems/order-exists",
                StatusCode::CONFLICT,
                "Another order has this id",
                "The same body under the same id is answered with the order; another body needs another `order_id`.",
            ),
            Self::OrderNotCancellable => (
                "/problems/order-not-cancellable",
                StatusCode::CONFLICT,
                "The order can no longer be cancelled",
                "It is too far on its way, or ended another way: `detail` says which. Nothing was changed.",
            ),
            Self::Request => (
                "/problems/request",
                StatusCode::BAD_REQUEST,
                "The request cannot be served",
                "HTTP itself is not kept to, or the path holds what cannot stand there; `status` may be another 4xx or 5xx.",
            ),
            Self::RollBack => (
                "/problems/roll-back",
                StatusCode::CONFLICT,
                "The earlier version does not serve",
                "The file was put back and did not load, or could not be put back: `detail` says why.",
            ),
            Self::StageInUse => (
                "/problems/stage-in-use",
                StatusCode::CONFLICT,
                "The stage is in use",
                "A host runs it, or did half a minute ago: remove its plugin first.",
            ),
            Self::TooLarge => (
                "/problems/too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
                "The operator's `http.body_max_bytes` is the limit.",
            ),
            Self::Unavailable => (
                "/problems/unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "The host cannot do this now",
                "The store or the broker does not answer, or too much is under way: `Retry-After` says when to come again.",
            ),
        };
        ProblemKind { uri, title, status: status.as_u16(), remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_uris_of_their_own_and_are_documented() {
        let document = include_str!("../../../../docs/problems.md");
        let told: Vec<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `/problems/")?.split('`').next())
            .collect();
        let kinds = Kind::ALL.map(Kind::describe);
        let uris: Vec<&str> =
            kinds.iter().filter_map(|kind| kind.uri.strip_prefix("/problems/")).collect();
        assert_eq!(told, uris);
        assert!(uris.is_sorted_by(|one, next| one < next), "{uris:?}");
        for kind in &kinds {
            let line = document
                .lines()
                .find(|line| line.starts_with(&format!("| `{}` |", kind.uri)))
                .unwrap();
            assert!(
                line.contains(&format!("| {} |", kind.status)) && line.contains(kind.title),
                "{line}"
            );
        }
    }
}
