//! `/session`: log-in of a browser, who is logged in, and log-out.
//!
//! A log-in exchanges an API key or a JSON Web Token for a cookie that scripts cannot read and that
//! other sites cannot make a browser send.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Access;
use super::auth::credentials::session_cookies;
use super::prefix::Prefix;
use super::problem::{Answer, Problem};
use super::{Peer, Shared};
use crate::config::ConsoleSettings;
use crate::domain::access::{Principal, Requester};

/// Who sends a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SessionView {
    /// The principal's id: `key/checkout`, `jwt/ada`, `anonymous/anonymous`.
    principal: String,
    /// Its name, for people.
    name: String,
    /// What it may do.
    roles: Vec<String>,
    /// When its session or token expires, milliseconds since 1970-01-01 UTC; none: not known.
    expires_at_ms: Option<u64>,
    /// Where the tracing system shows a trace, with `{trace_id}` in the place of its id, as in
    /// `http.console.trace_url`; none: not configured.
    trace_url: Option<String>,
}

/// What the host tells the console, beside who sends a request.
pub(super) type ForConsole = axum::Extension<Arc<ConsoleSettings>>;

impl SessionView {
    fn of(principal: &Principal, console: &ConsoleSettings) -> Self {
        Self {
            principal: principal.id().to_owned(),
            name: principal.name().to_owned(),
            roles: principal.roles().iter().map(ToString::to_string).collect(),
            expires_at_ms: principal.expires_at_ms(),
            trace_url: console.trace_url.clone(),
        }
    }
}

/// Shows who sends the request, and what it may do.
#[utoipa::path(get, path = "/session", tag = "session",
    responses((status = 200, body = SessionView)))]
pub(crate) async fn show(console: ForConsole, requester: Requester) -> Json<SessionView> {
    Json(SessionView::of(&requester.principal, &console))
}

/// Logs a browser in: the answer sets the cookie of a session. A host without authentication sets none.
#[utoipa::path(post, path = "/session", tag = "session",
    responses((status = 200, body = SessionView,
        headers(("Set-Cookie" = String, description = "The session")))))]
pub(crate) async fn begin(
    State(app): State<Shared>,
    access: axum::Extension<Arc<Access>>,
    console: ForConsole,
    requester: Requester,
    place: CookiePlace,
) -> Answer<Response> {
    let view = SessionView::of(&requester.principal, &console);
    if !access.is_enforced() {
        return Ok(Json(view).into_response());
    }
    let settings = access.session_settings();
    let begun = app.sessions().begin(&requester.principal, settings.max_age_ms).await?;
    let (id, expires_at_ms) = begun;
    let age_ms = expires_at_ms.saturating_sub(app.services().clock.now_ms());
    let cookie = Cookie { access: &access, place: &place };
    let view = SessionView { expires_at_ms: Some(expires_at_ms), ..view };
    Ok((cookie.header(id.expose(), age_ms / 1_000)?, Json(view)).into_response())
}

/// Logs a browser out: its session ends, and its cookie is deleted.
#[utoipa::path(delete, path = "/session", tag = "session",
    responses((status = 204, description = "The session has ended")))]
pub(crate) async fn end(
    State(app): State<Shared>,
    access: axum::Extension<Arc<Access>>,
    place: CookiePlace,
    headers: HeaderMap,
) -> Answer<Response> {
    for id in session_cookies(&headers, &access.cookie_name()) {
        app.sessions().end(id).await?;
    }
    let cookie = Cookie { access: &access, place: &place };
    Ok((StatusCode::NO_CONTENT, cookie.header("", 0)?).into_response())
}

/// Where a browser is to send the cookie.
pub(crate) struct CookiePlace {
    /// Before the paths of the host.
    prefix: Prefix,
    /// Whether the request came by https: to the host's own listener, or, as a browser says, maybe to a
    /// proxy. No other client has a reason to say so: it concerns only its own cookie.
    by_https: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for CookiePlace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let prefix = Prefix::from_request_parts(parts, state).await?;
        let encrypted = parts.extensions.get::<Arc<Peer>>().is_some_and(|peer| peer.encrypted);
        let origin = parts.headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        let said = origin.is_some_and(|origin| origin.starts_with("https://"));
        Ok(Self { prefix, by_https: encrypted || said })
    }
}

/// The cookie of a session.
struct Cookie<'a> {
    access: &'a Access,
    place: &'a CookiePlace,
}

impl Cookie<'_> {
    fn header(&self, value: &str, age_s: u64) -> Answer<[(header::HeaderName, HeaderValue); 1]> {
        let name = self.access.cookie_name();
        let CookiePlace { prefix, by_https } = self.place;
        let path = prefix.path().filter(|path| !path.contains([';', ','])).unwrap_or("/");
        let secure =
            if self.access.session_settings().secure || *by_https { "; Secure" } else { "" };
        let text = format!(
            "{name}={value}; Path={path}; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}"
        );
        let value = HeaderValue::try_from(text).map_err(|_| Problem::internal())?;
        Ok([(header::SET_COOKIE, value)])
    }
}
