//! A receiver of OTLP over HTTP in the test's process, which keeps the spans that it is sent.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as proto;
use prost::Message as _;
use tokio::task::JoinHandle;

/// A span as it was received, with its ids in hexadecimal.
#[derive(Clone)]
pub(crate) struct Received {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    /// The spans that it is linked to.
    pub(crate) links: Vec<String>,
    pub(crate) service: String,
    pub(crate) conventions: String,
    span: proto::Span,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes = self.span.attributes.iter();
        let attributes = attributes.filter_map(|attribute| {
            Some((&attribute.key, text_of(&self.span.attributes, &attribute.key)?))
        });
        write!(f, "{} `{}` {} below {} ", self.kind(), self.name(), self.id, self.parent)?;
        f.debug_map().entries(attributes).finish()
    }
}

impl Received {
    pub(crate) fn name(&self) -> &str {
        &self.span.name
    }

    /// Its kind, such as `SPAN_KIND_SERVER`.
    pub(crate) fn kind(&self) -> &'static str {
        self.span.kind().as_str_name()
    }

    /// An attribute, as text.
    pub(crate) fn attribute(&self, key: &str) -> Option<String> {
        text_of(&self.span.attributes, key)
    }

    pub(crate) fn is(&self, key: &str, value: &str) -> bool {
        self.attribute(key).as_deref() == Some(value)
    }

    pub(crate) fn failed(&self) -> bool {
        let status = self.span.status.as_ref();
        status.is_some_and(|status| status.code() == proto::status::StatusCode::Error)
    }

    /// How long it took, in nanoseconds.
    pub(crate) fn duration_ns(&self) -> u64 {
        self.span.end_time_unix_nano - self.span.start_time_unix_nano
    }
}

fn text_of(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        any_value::Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    })
}

type Store = Arc<Mutex<Vec<Received>>>;

/// The receiver, until it is dropped.
pub(crate) struct OtlpReceiver {
    url: String,
    kept: Store,
    task: JoinHandle<()>,
}

impl OtlpReceiver {
    pub(crate) async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let kept = Store::default();
        let router = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&kept));
        let serving = async move { axum::serve(listener, router).await.unwrap_or_default() };
        Ok(Self { url, kept, task: tokio::spawn(serving) })
    }

    /// Variables with which a host sends its spans here, soon.
    pub(crate) fn environment(&self) -> [(&str, &str); 2] {
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url), ("OTEL_BSP_SCHEDULE_DELAY", "50")]
    }

    /// The spans of a trace so far.
    pub(crate) fn trace(&self, trace: &str) -> Vec<Received> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|span| span.trace == trace).cloned().collect()
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(State(kept): State<Store>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let is_protobuf = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == b"application/x-protobuf");
    let Ok(request) = decode(&body) else { return StatusCode::BAD_REQUEST };
    if !is_protobuf {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE;
    }
    kept.lock().unwrap_or_else(PoisonError::into_inner).extend(request);
    StatusCode::OK
}

fn decode(body: &[u8]) -> Result<Vec<Received>> {
    let request = ExportTraceServiceRequest::decode(body)?;
    let mut received = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.context("a resource")?;
        let service = text_of(&resource.attributes, "service.name").unwrap_or_default();
        for of_scope in of_resource.scope_spans {
            let conventions = &of_scope.schema_url;
            received.extend(of_scope.spans.into_iter().map(|span| Received {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                service: service.clone(),
                conventions: conventions.clone(),
                span,
            }));
        }
    }
    Ok(received)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
