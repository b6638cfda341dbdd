//! What handlers read from a request: path, query, headers, body and trace context. Every
//! extractor refuses with a problem document that lists all errors of its part.

mod body;
mod fields;
mod headers;
mod paths;
mod query;
mod trace_context;

pub(super) use self::body::{JsonBody, Parsed, Payload, RequestBody, json_or_text};
pub(super) use self::fields::{Fields, REASON_MAX, Reason};
pub(super) use self::headers::{
    IdempotencyKey, Schedule, content_encoding, content_type, last_event_id, wants_stream,
};
pub(super) use self::paths::{
    CorrelationId, DeadLetterId, EventId, EventType, JobId, KeyId, MessageKeyId, Sku, StageName,
    SubjectId,
};
pub(super) use self::query::{QueryValidator, ValidQuery};
