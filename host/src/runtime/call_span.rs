//! The span of one HTTP call of a guest: until the head of the answer has arrived, or the call failed.
//! Paths and queries are not in it, because they may contain secrets.

use std::time::SystemTime;

use http::StatusCode;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use crate::domain::spans::{CallSpans, FinishedSpan};
use crate::domain::trace_context::TraceContext;
use crate::runtime::egress::Target;

/// Of a call in progress. Dropped before its end: the attempt was cut off.
pub(super) struct CallSpan {
    spans: CallSpans,
    /// What the call carries.
    pub(super) context: TraceContext,
    method: String,
    target: Vec<KeyValue>,
    start: SystemTime,
    ended: bool,
}

impl CallSpan {
    /// None if the calls of the attempt are not recorded.
    pub(super) fn begin(
        spans: Option<&CallSpans>,
        request: &http::request::Parts,
        target: &Target,
    ) -> Option<Self> {
        let spans = spans?;
        let target = vec![
            KeyValue::new("server.address", target.host().to_owned()),
            KeyValue::new("server.port", i64::from(target.port())),
        ];
        Some(Self {
            context: spans.begin(),
            spans: spans.clone(),
            method: request.method.to_string(),
            target,
            start: SystemTime::now(),
            ended: false,
        })
    }

    /// The service answered with this status, or the call failed in this way.
    pub(super) fn end(&mut self, result: Result<StatusCode, &'static str>) {
        self.ended = true;
        let mut attributes = std::mem::take(&mut self.target);
        attributes.push(KeyValue::new("http.request.method", self.method.clone()));
        let error = match result {
            Ok(status) => {
                let code = i64::from(status.as_u16());
                attributes.push(KeyValue::new("http.response.status_code", code));
                let failed = status.is_client_error() || status.is_server_error();
                failed.then(|| status.as_str().to_owned())
            }
            Err(kind) => Some(kind.to_owned()),
        };
        if let Some(error) = &error {
            attributes.push(KeyValue::new("error.type", error.clone()));
        }
        self.spans.end(FinishedSpan {
            context: self.context.clone(),
            parent: None,
            link: None,
            kind: SpanKind::Client,
            name: self.method.clone().into(),
            start: self.start,
            end: SystemTime::now(),
            attributes,
            error: error.map(|_| String::new()),
        });
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Err("cut_off"));
        }
    }
}
