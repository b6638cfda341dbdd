//! The table of problem types: URI, status, title and remedy. `/problems` serves it, and
//! `docs/problems.md` must agree with it.

use axum::http::StatusCode;

/// A type of problem. Its URI keeps its meaning for ever: clients branch on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The URI, relative to this host.
    pub(crate) uri: &'static str,
    /// HTTP status.
    pub(crate) status: StatusCode,
    /// A noun phrase, the same for every problem of this type.
    pub(crate) title: &'static str,
    /// When it occurs, and what to do about it.
    pub(crate) remedy: &'static str,
}

/// Defines one constant for each type, and the list of all.
macro_rules! problem_types {
    ($($name:ident: $uri:literal, $status:ident, $title:literal, $remedy:literal;)*) => {
        impl Kind {$(
            pub(crate) const $name: Self = Self {
                uri: concat!("/problems/", $uri),
                status: StatusCode::$status,
                title: $title,
                remedy: $remedy,
            };
        )*

            /// Every type, sorted by URI.
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

problem_types! {
    AMBIGUOUS_EVENT: "ambiguous-event", CONFLICT, "Ambiguous event id",
        "Several sources have an event with this id: name one in `source`.";
    BAD_REQUEST: "bad-request", BAD_REQUEST, "Bad request",
        "The request violates HTTP, or its path cannot be parsed; `status` may be another 4xx or \
         5xx.";
    BODY_TOO_LARGE: "body-too-large", PAYLOAD_TOO_LARGE, "Body too large",
        "The operator's `http.body_max_bytes` is the limit, or the `max_message_size` of RabbitMQ, or \
         that of a plugin file: `detail` says which.";
    COMPARISON_RUNNING: "comparison-running", CONFLICT, "Comparison running",
        "The host compares one candidate at a time: retry when the other comparison has ended.";
    CROSS_SITE_REQUEST: "cross-site-request", FORBIDDEN, "Cross-site request",
        "A page of another site made a browser send it: only pages of the host, and of the origins in \
         `http.cors.allowed_origins`, may change anything.";
    DEAD_LETTER_SETTLED: "dead-letter-settled", CONFLICT, "Dead letter already settled",
        "It was replayed or discarded before. Nothing was changed.";
    EVENT_EXISTS: "event-exists", CONFLICT, "Event id already in use",
        "An event with this source and id and different contents exists: use another id for each \
         event.";
    FORBIDDEN: "forbidden", FORBIDDEN, "Permission missing",
        "`detail` names the permission: an administrator can give it to the principal.";
    IDEMPOTENCY_KEY_REUSED: "idempotency-key-reused", UNPROCESSABLE_ENTITY,
        "Idempotency key reused",
        "The `Idempotency-Key` was used with a different request: use a new key for each request.";
    INTERNAL_ERROR: "internal-error", INTERNAL_SERVER_ERROR, "Internal error",
        "A bug, or data in the store that no host wrote: see the host's log.";
    INVALID_BODY: "invalid-body", UNPROCESSABLE_ENTITY, "Invalid request body",
        "The body is JSON with invalid contents; `errors` lists every problem with a JSON pointer \
         (RFC 6901).";
    INVALID_CREDENTIALS: "invalid-credentials", UNAUTHORIZED, "Invalid credentials",
        "The token or the session is unknown, expired, revoked or malformed: `detail` says what is \
         known of it.";
    INVALID_HEADER: "invalid-header", BAD_REQUEST, "Invalid header",
        "`detail` names the header and the expected format.";
    INVALID_PLUGIN: "invalid-plugin", UNPROCESSABLE_ENTITY, "Invalid plugin",
        "The component is no plugin that this host can run, or not one of the stage: `detail` says what \
         does not fit, and how to fix it.";
    INVALID_QUERY: "invalid-query", BAD_REQUEST, "Invalid query",
        "`detail` names every invalid parameter; unknown parameters are refused.";
    KEY_ENDED: "key-ended", CONFLICT, "API key no longer valid",
        "The key has expired or was revoked, so it has no successor: create another one.";
    MALFORMED_JSON: "malformed-json", BAD_REQUEST, "Malformed JSON",
        "`detail` gives line and column. A truncated body, or text that is not UTF-8, is malformed \
         too.";
    MESSAGE_KEY: "message-key", CONFLICT, "Message key in use",
        "Hosts sign with the key, there are too many keys, or the broker is embedded and nothing is \
         signed: `detail` says which. Nothing was changed.";
    METHOD_NOT_ALLOWED: "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed",
        "The header `Allow` lists the methods of this path.";
    MISDIRECTED_REQUEST: "misdirected-request", MISDIRECTED_REQUEST, "Unknown host name",
        "The header `Host` has a name that the host does not serve: add it to `http.allowed_hosts`.";
    NO_RECORDINGS: "no-recordings", CONFLICT, "No recordings",
        "The stage has recorded nothing that could be compared: `detail` says whether to turn \
         `recording.enabled` on, or to choose another period.";
    NOT_EDITABLE: "not-editable", CONFLICT, "Body not editable",
        "A merge patch needs a body that is a JSON object: send the whole new body as `data`.";
    NOT_FOUND: "not-found", NOT_FOUND, "Not found",
        "No such route, or no resource with this name or id: it never existed, or retention \
         deleted it.";
    ROLLBACK_FAILED: "rollback-failed", CONFLICT, "Rollback failed",
        "The earlier version could not be restored, or did not load: `detail` says why.";
    STAGE_IN_USE: "stage-in-use", CONFLICT, "Stage in use",
        "A host runs the stage, or did so in the last 30 seconds: remove its plugin first.";
    SUBJECT_EXISTS: "subject-exists", CONFLICT, "Id already in use",
        "A subject of this kind with this id and a different body exists: use another id.";
    SUBJECT_NOT_CANCELLABLE: "subject-not-cancellable", CONFLICT, "Not cancellable",
        "The subject has gone too far, or has ended: `detail` gives its status. Nothing was changed.";
    TOO_MANY_KEYS: "too-many-keys", CONFLICT, "Too many API keys",
        "A principal has at most two valid keys, and a namespace 1,000 keys: revoke one first.";
    TOO_MANY_REQUESTS: "too-many-requests", TOO_MANY_REQUESTS, "Too many requests",
        "The address or the principal sent more requests than the operator allows (\
         `http.rate_limits`): retry after the seconds in `Retry-After`.";
    UNAUTHENTICATED: "unauthenticated", UNAUTHORIZED, "Authentication required",
        "Send an API key or a JSON Web Token in `Authorization`, or the cookie of a session.";
    UNAVAILABLE: "unavailable", SERVICE_UNAVAILABLE, "Service unavailable",
        "The store or the broker does not answer, or the host is at a limit: retry after the \
         seconds in `Retry-After`.";
    UNKNOWN_VERSION: "unknown-version", CONFLICT, "Unknown plugin version",
        "No archived version of the plugin on this host has this digest, or several digests start \
         with it.";
    UNSTORABLE: "unstorable", UNPROCESSABLE_ENTITY, "Values refused by the database",
        "The database cannot store a value of the request, for example because of its character \
         set: `detail` has the database's words.";
    UNSUPPORTED_ENCODING: "unsupported-encoding", UNSUPPORTED_MEDIA_TYPE,
        "Unsupported content encoding",
        "The header `Accept-Encoding` lists the encodings that a body may have.";
    UNSUPPORTED_MEDIA_TYPE: "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE,
        "Unsupported media type",
        "`detail` names the `content-type` that the route accepts, or the charset that it does not.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_types_are_sorted_and_documented() {
        let document = include_str!("../../../docs/problems.md");
        let documented: Vec<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let uris: Vec<&str> = Kind::ALL.iter().map(|kind| kind.uri).collect();
        assert_eq!(documented, uris);
        assert!(uris.is_sorted_by(|one, next| one < next), "{uris:?}");
        for kind in Kind::ALL {
            let row = format!("| `{}` | {} | {} |", kind.uri, kind.status.as_u16(), kind.title);
            assert!(document.contains(&row), "docs/problems.md lacks {row}");
        }
    }
}
