//! One line in the log and one span for each request: who sent it, what became of it, and how long that
//! took.
//!
//! Lines have the target `postrider::access`: level `info`, or `debug` for health checks, metrics and the
//! files of the console, whose spans are recorded only below a caller's. Queries and bodies are in
//! neither, because both may contain what must stay secret.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::middleware::to_problem;
use super::prefix::original_uri;
use super::{Peer, ServedNamespace, console, openapi};
use crate::domain::access::{Principal, PrincipalKind};
use crate::domain::event::shortened;
use crate::domain::spans::{Entered, FinishedSpan, Spans};

/// Target of the lines.
const ACCESS: &str = "postrider::access";
/// Routes that machines ask again and again.
const PROBES: [&str; 5] = ["/health", "/health/db", "/health/queue", "/ready", "/metrics"];
/// Longest path and user agent that is recorded, in bytes.
const TEXT_MAX_BYTES: usize = 1_024;

/// What the requests to a namespace have in common.
pub(super) struct AccessLog {
    namespace: String,
    spans: Spans,
}

impl AccessLog {
    /// Of a namespace.
    pub(super) fn of(namespace: &ServedNamespace) -> Arc<Self> {
        let spans = namespace.app.services().spans.clone();
        Arc::new(Self { namespace: namespace.name.clone(), spans })
    }
}

/// A request, as its handler and the log see it: an `Arc` of it is in the extensions of the request.
pub(super) struct ObservedRequest {
    /// Its place in the trace.
    pub(super) entered: Entered,
    /// Who sends it, once that is known.
    pub(super) principal: OnceLock<Arc<Principal>>,
}

/// Observes a request until its answer is made, and replaces an answer without a problem document.
pub(super) async fn observe(
    State(log): State<Arc<AccessLog>>,
    mut request: Request,
    next: Next,
) -> Response {
    let entered = log.spans.enter(|name| request.headers().get(name)?.to_str().ok());
    let observed = Arc::new(ObservedRequest { entered, principal: OnceLock::new() });
    request.extensions_mut().insert(Arc::clone(&observed));
    let mut observation = Observation::begin(log, observed, &request);
    let response = to_problem(request, next).await;
    observation.end(response.status(), response.body().size_hint().exact());
    response
}

/// A request in progress. Dropped before its end: the client went away, or the request timed out below.
struct Observation {
    log: Arc<AccessLog>,
    request: Arc<ObservedRequest>,
    method: Method,
    uri: Uri,
    route: Option<MatchedPath>,
    user_agent: Option<HeaderValue>,
    address: Option<IpAddr>,
    received_bytes: Option<u64>,
    start: SystemTime,
    began: Instant,
    ended: bool,
}

impl Observation {
    fn begin(log: Arc<AccessLog>, observed: Arc<ObservedRequest>, request: &Request) -> Self {
        let extensions = request.extensions();
        Self {
            log,
            request: observed,
            method: request.method().clone(),
            uri: original_uri(request).clone(),
            route: extensions.get::<MatchedPath>().cloned(),
            user_agent: request.headers().get(header::USER_AGENT).cloned(),
            address: extensions.get::<Arc<Peer>>().map(|peer| peer.address.ip()),
            received_bytes: request.body().size_hint().exact(),
            start: SystemTime::now(),
            began: Instant::now(),
            ended: false,
        }
    }

    fn end(&mut self, status: StatusCode, sent_bytes: Option<u64>) {
        self.ended = true;
        self.write_line(Some(status), sent_bytes);
        self.record_span(Some(status));
    }

    fn path(&self) -> &str {
        shortened(self.uri.path(), TEXT_MAX_BYTES)
    }

    fn user_agent(&self) -> Option<&str> {
        Some(shortened(self.user_agent.as_ref()?.to_str().ok()?, TEXT_MAX_BYTES))
    }

    /// Whether it is rarely of interest: a probe, or a file of the console.
    fn is_quiet(&self) -> bool {
        self.route.as_ref().is_some_and(|route| {
            let route = route.as_str();
            PROBES.iter().any(|probe| route.ends_with(probe))
                || route.contains(console::PATH)
                || route.contains(openapi::DOCS_PATH)
        })
    }

    fn write_line(&self, status: Option<StatusCode>, sent_bytes: Option<u64>) {
        let context = self.request.entered.context.span();
        let principal = self.request.principal.get();
        let principal = principal.filter(|one| one.kind() != PrincipalKind::Anonymous);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: ACCESS,
                    namespace = %self.log.namespace,
                    method = %self.method,
                    path = self.path(),
                    route = self.route.as_ref().map(MatchedPath::as_str),
                    status = status.map(|status| status.as_u16()),
                    duration_us = self.began.elapsed().as_micros() as u64,
                    received_bytes = self.received_bytes,
                    sent_bytes,
                    principal = principal.map(|principal| principal.id()),
                    address = self.address.map(tracing::field::display),
                    user_agent = self.user_agent(),
                    trace_id = %context.trace_id(),
                    span_id = %context.span_id(),
                    "{}",
                    if status.is_some() { "answered" } else { "the client went away" }
                )
            };
        }
        if self.is_quiet() {
            line!(debug);
        } else {
            line!(info);
        }
    }

    fn record_span(&self, status: Option<StatusCode>) {
        let Entered { context, caller } = &self.request.entered;
        if !self.log.spans.wants(context) || (self.is_quiet() && caller.is_none()) {
            return;
        }
        let route = self.route.as_ref().map(|route| route.as_str().to_owned());
        let name = match &route {
            Some(route) => format!("{} {route}", self.method),
            None => self.method.to_string(),
        };
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method.to_string()),
            KeyValue::new("url.path", self.path().to_owned()),
            KeyValue::new("postrider.namespace", self.log.namespace.clone()),
        ];
        let further = [
            route.map(|route| KeyValue::new("http.route", route)),
            self.address.map(|address| KeyValue::new("client.address", address.to_string())),
            self.user_agent().map(|agent| KeyValue::new("user_agent.original", agent.to_owned())),
        ];
        attributes.extend(further.into_iter().flatten());
        let failed = match status {
            Some(status) => {
                let code = i64::from(status.as_u16());
                attributes.push(KeyValue::new("http.response.status_code", code));
                status.is_server_error().then(|| status.as_str().to_owned())
            }
            None => Some("client_gone".to_owned()),
        };
        if let Some(error) = &failed {
            attributes.push(KeyValue::new("error.type", error.clone()));
        }
        self.log.spans.record(FinishedSpan {
            context: context.clone(),
            parent: caller.clone(),
            link: None,
            kind: SpanKind::Server,
            name: name.into(),
            start: self.start,
            end: self.start + self.began.elapsed(),
            attributes,
            error: failed.map(|_| String::new()),
        });
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        if !self.ended {
            self.write_line(None, None);
            self.record_span(None);
        }
    }
}
