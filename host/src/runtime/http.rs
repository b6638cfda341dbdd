//! `wasi:http` for guests: passes requests to `egress`, and translates its errors to WASI's.
//!
//! Every guest has it; without grants, and in `describe`, each call is denied. The guest receives an
//! error code, and the host logs the reason, a bounded number of times per attempt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

use super::call_span::CallSpan;
use super::guest::CallData;
use crate::domain::spans::CallSpans;
use crate::domain::trace_context;
use crate::runtime::egress::{CallError, Egress, Patience, Phase, Target};
use crate::stage::delivery_log::{DeliveryLog, log_delivery};
use crate::stage::handler::ExternalCalls;
use crate::stage::settings::Settings;

/// Largest headers of one message in memory.
const FIELDS_MAX_BYTES: usize = 64 << 10;
/// Time that is left to a guest after a call has timed out, to report that.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Most refusals of one attempt that are logged.
const LOGGED_MAX: u32 = 10;

/// A call that is granted.
struct Admitted {
    egress: Arc<Egress>,
    about: About,
    target: Target,
    span: Option<CallSpan>,
}

type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// A guest's side of HTTP.
pub(super) struct Http {
    ctx: WasiHttpCtx,
    outside: Outside,
}

/// What a guest may call, and for which message.
struct Outside {
    egress: Option<Arc<Egress>>,
    about: Option<About>,
}

/// The call in progress.
#[derive(Clone)]
struct About {
    /// None: a dry run.
    log: Option<Arc<DeliveryLog>>,
    settings: Arc<Settings>,
    trace_headers: Vec<(String, String)>,
    /// Collects the spans of its calls, if they are recorded.
    spans: Option<CallSpans>,
    deadline: Instant,
    calls: u32,
    logged: u32,
    /// How its calls went; shared by the calls.
    external: Arc<Mutex<ExternalCalls>>,
}

impl Http {
    pub(super) fn without_grants() -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(FIELDS_MAX_BYTES);
        Self { ctx, outside: Outside { egress: None, about: None } }
    }

    pub(super) fn grant(&mut self, egress: Option<Arc<Egress>>) {
        self.outside.egress = egress;
    }

    /// Resets the budgets of an attempt.
    pub(super) fn begin(&mut self, call: &CallData, deadline: Instant) {
        if self.outside.egress.is_some() {
            self.outside.about = Some(About {
                log: call.context.log.clone(),
                settings: Arc::clone(&call.context.settings),
                trace_headers: call.context.trace_headers(),
                spans: call.context.calls.clone(),
                deadline,
                calls: 0,
                logged: 0,
                external: Arc::default(),
            });
        }
    }

    /// How the calls of the attempt went so far.
    pub(super) fn external_calls(&self) -> ExternalCalls {
        self.outside.about.as_ref().map_or(ExternalCalls::None, |about| *about.external())
    }

    pub(super) fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.outside, table, ctx: &mut self.ctx }
    }
}

impl Outside {
    /// Checks a request against the grants, and adds the trace context.
    fn admit(&mut self, parts: &mut http::request::Parts) -> Result<Admitted, CallError> {
        let (Some(egress), Some(about)) = (&self.egress, &mut self.about) else {
            return Err(CallError::Nothing);
        };
        about.calls = about.calls.saturating_add(1);
        match egress.admit(parts, about.calls) {
            Ok(target) => {
                let span = CallSpan::begin(about.spans.as_ref(), parts, &target);
                about.mark(&mut parts.headers, span.as_ref());
                Ok(Admitted { egress: Arc::clone(egress), about: about.clone(), target, span })
            }
            Err(error) => {
                about.logged += 1;
                if about.logged <= LOGGED_MAX {
                    about.say(&error);
                }
                Err(error)
            }
        }
    }
}

impl About {
    /// The trace context of the call, unless the guest set its own: the span of the call if that is
    /// recorded, or else that of the attempt.
    fn mark(&self, headers: &mut http::HeaderMap, span: Option<&CallSpan>) {
        if headers.contains_key(trace_context::NAMES[0]) {
            return;
        }
        let own = span.map(|span| span.context.headers());
        for (name, value) in own.as_ref().unwrap_or(&self.trace_headers) {
            if let (Ok(name), Ok(value)) =
                (http::HeaderName::try_from(name), http::HeaderValue::try_from(value))
            {
                headers.insert(name, value);
            }
        }
    }

    fn patience(&self, options: Option<RequestOptions>) -> Patience {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let options = options.unwrap_or_default();
        Patience {
            whole: left.saturating_sub(LAST_WORDS),
            connect: options.connect_timeout,
            answer: options.first_byte_timeout,
            between: options.between_bytes_timeout,
        }
    }

    fn external(&self) -> MutexGuard<'_, ExternalCalls> {
        self.external.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service did not answer, or did not answer to the end.
    fn failed(&self, error: &CallError) {
        if !error.is_refusal() {
            *self.external() = ExternalCalls::Failed;
        }
        self.say(error);
    }

    fn answered(&self, status: http::StatusCode) {
        let failed = status.is_server_error();
        *self.external() = if failed { ExternalCalls::Failed } else { ExternalCalls::Answered };
    }

    fn say(&self, error: &CallError) {
        let reason = self.settings.redact(chain(error));
        match (&self.log, error.is_refusal()) {
            (Some(log), true) => log_delivery!(WARN, log, %reason, "external call refused"),
            (Some(log), false) => log_delivery!(INFO, log, %reason, "external call failed"),
            // A dry run.
            (None, true) => tracing::warn!(%reason, "external call refused"),
            (None, false) => tracing::info!(%reason, "external call failed"),
        }
    }
}

/// An error with its causes.
fn chain(error: &CallError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl WasiHttpHooks for Outside {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let (mut parts, body) = request.into_parts();
        let admitted = self.admit(&mut parts);
        Box::new(async move {
            let Admitted { egress, about, target, mut span } = admitted.map_err(in_wasi)?;
            let request = http::Request::from_parts(parts, body);
            // If the attempt times out first, this call is why.
            let before = std::mem::replace(&mut *about.external(), ExternalCalls::Failed);
            let sent = egress.send(&target, request, about.patience(options)).await;
            if sent.as_ref().is_err_and(CallError::is_refusal) {
                *about.external() = before;
            }
            if let Some(span) = &mut span {
                span.end(sent.as_ref().map(|(answer, _)| answer.status()).map_err(CallError::kind));
            }
            let (answer, driver) =
                sent.inspect_err(|error| about.failed(error)).map_err(in_wasi)?;
            about.answered(answer.status());
            let answer = answer.map(|body| {
                let body = body.map_err(move |error| {
                    about.failed(&error);
                    in_wasi(error)
                });
                body.boxed_unsync()
            });
            // An early end of the connection is an error of the body, which the guest reads.
            let driver = async move {
                let _ = driver.await;
                Ok(())
            };
            Ok((answer, Box::new(driver) as Box<dyn Future<Output = _> + Send>))
        })
    }
}

/// The error code for the guest.
fn in_wasi(error: CallError) -> Error {
    match error {
        CallError::NotGranted(_) | CallError::Nothing | CallError::TooManyCalls(_) => {
            Error::HttpRequestDenied
        }
        CallError::Address(_) => Error::HttpRequestUriInvalid,
        CallError::Prohibited { .. } => Error::DestinationIpProhibited,
        CallError::Busy(_) => Error::ConnectionLimitReached,
        CallError::Name(_) => Error::DnsError { rcode: None, info_code: None },
        CallError::Connect(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Error::ConnectionRefused
        }
        CallError::Connect(_) => Error::DestinationUnavailable,
        CallError::Tls(error) => tls_in_wasi(&error),
        CallError::TimedOut(Phase::Name) => Error::DnsTimeout,
        CallError::TimedOut(Phase::Connect) => Error::ConnectionTimeout,
        CallError::TimedOut(Phase::Answer | Phase::Body) => Error::HttpResponseTimeout,
        CallError::RequestTooLarge(max) => Error::HttpRequestBodySize(Some(max as u64)),
        CallError::AnswerTooLarge(max) => Error::HttpResponseBodySize(Some(max as u64)),
        CallError::Http(error) if error.is_parse_too_large() => {
            Error::HttpResponseHeaderSectionSize(None)
        }
        CallError::Http(error)
            if error.is_incomplete_message() || error.is_body_write_aborted() =>
        {
            Error::HttpResponseIncomplete
        }
        CallError::Http(error) if error.is_closed() || error.is_canceled() => {
            Error::ConnectionTerminated
        }
        CallError::Http(_) => Error::HttpProtocolError,
    }
}

fn tls_in_wasi(error: &std::io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        Some(rustls::Error::AlertReceived(alert)) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}
