//! Who sends a request, and whether its route lets it.
//!
//! [`Access::identify`] turns credentials into an [`Requester`], before the body is read; the route table
//! names what each route needs ([`Need`]), and [`permission::check`] compares. Guarantee: a handler
//! runs only with a requester in the request, who has what the table says. Costs: an API key takes one
//! hash and one look-up in memory; a JSON Web Token is verified once a minute; a host without
//! authentication pays for neither.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use self::credentials::{Credential, session_cookies};
use self::jwt::{Jwt, JwtError};
pub use self::permission::{Need, On};
use super::Peer;
use super::access_log::ObservedRequest;
use super::problem::{Answer, Kind, Problem};
use super::rate_limits::{Addresses, Principals};
use crate::app::App;
use crate::app::keys::KeyRefusal;
use crate::app::sessions::SessionError;
use crate::config::{AuthMode, Config, SessionsConfig};
use crate::domain::access::{Permission, Principal, Requester, Target};
use crate::domain::api_key;
use crate::store::Subject;

pub(super) mod credentials;
pub(super) mod jwt;
pub(super) mod permission;
pub(super) mod streams;

/// Longest token, in bytes: more is refused before anything is read from it.
const TOKEN_MAX_BYTES: usize = 8 << 10;

/// Most cookies of one name that are looked up: a browser sends one for each path.
const COOKIES_MAX: usize = 4;

/// Authenticates requests in the embedding program's own way, beside API keys and JSON Web Tokens. It is
/// asked first.
///
/// ```
/// use async_trait::async_trait;
/// use http::request::Parts;
/// use postrider::{AuthenticationError, Authenticator, Host, Principal};
///
/// /// Trusts the header of a proxy that authenticates people.
/// struct ByProxy;
///
/// #[async_trait]
/// impl Authenticator for ByProxy {
///     async fn authenticate(
///         &self,
///         request: &Parts,
///     ) -> Result<Option<Principal>, AuthenticationError> {
///         let Some(user) = request.headers.get("x-forwarded-user") else { return Ok(None) };
///         let user = user.to_str().map_err(|_| AuthenticationError::Invalid("no text".into()))?;
///         let role = "read".parse().expect("a role");
///         Ok(Some(Principal::new(user, user).with_role(role)))
///     }
/// }
///
/// let builder = Host::builder().authenticator(ByProxy);
/// ```
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The principal that sent a request; none if the request has no credentials of this kind.
    ///
    /// # Errors
    /// It has, and they are invalid or cannot be checked. The request is refused.
    async fn authenticate(&self, request: &Parts)
    -> Result<Option<Principal>, AuthenticationError>;
}

/// Why an [`Authenticator`] refuses a request. The client sees the text.
///
/// ```
/// use postrider::AuthenticationError;
///
/// let error = AuthenticationError::Invalid("the signature is wrong".into());
/// assert_eq!(error.to_string(), "invalid credentials: the signature is wrong");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthenticationError {
    /// The credentials are invalid: 401.
    #[error("invalid credentials: {0}")]
    Invalid(String),
    /// They cannot be checked now: 503.
    #[error("credentials cannot be checked: {0}")]
    Unavailable(String),
}

impl From<AuthenticationError> for Problem {
    fn from(error: AuthenticationError) -> Self {
        match &error {
            AuthenticationError::Invalid(_) => {
                Self::new(Kind::INVALID_CREDENTIALS, error.to_string())
            }
            AuthenticationError::Unavailable(_) => Self::unavailable(error.to_string()),
        }
    }
}

/// Authenticates the requests to one namespace.
pub struct Access {
    mode: AuthMode,
    namespace: String,
    sessions: SessionsConfig,
    authenticator: Option<Arc<dyn Authenticator>>,
    jwt: Option<Arc<Jwt>>,
}

impl Access {
    /// As configured, and by the embedding program's authenticator.
    ///
    /// # Errors
    /// What is wrong with the configured keys.
    pub fn new(
        config: &Config,
        authenticator: Option<Arc<dyn Authenticator>>,
    ) -> Result<Self, String> {
        let jwt = Jwt::new(&config.auth.jwt)?.map(Arc::new);
        Ok(Self {
            mode: config.auth.mode,
            namespace: config.namespace.clone(),
            sessions: config.auth.sessions.clone(),
            authenticator,
            jwt,
        })
    }

    /// Whether requests need credentials.
    pub fn is_enforced(&self) -> bool {
        self.mode == AuthMode::Tokens
    }

    /// The tokens that it accepts; their keys have to be read again and again.
    pub fn jwt(&self) -> Option<&Arc<Jwt>> {
        self.jwt.as_ref().filter(|_| self.is_enforced())
    }

    /// How sessions of browsers are kept.
    pub(super) fn session_settings(&self) -> &SessionsConfig {
        &self.sessions
    }

    /// The name of the cookie of a session.
    pub(super) fn cookie_name(&self) -> String {
        format!("postrider-{}", self.namespace)
    }

    /// Who sends a request, if requests need credentials.
    ///
    /// # Errors
    /// It has no credentials, or invalid ones.
    pub(super) async fn identify(&self, app: &App, request: &Parts) -> Answer<Arc<Principal>> {
        if let Some(authenticator) = &self.authenticator
            && let Some(principal) = authenticator.authenticate(request).await?
        {
            return Ok(Arc::new(principal));
        }
        match credentials::of(&request.headers)? {
            Credential::Bearer(token) => self.by_token(app, token).await,
            Credential::None => self.by_session(app, request).await,
        }
    }

    async fn by_token(&self, app: &App, token: &str) -> Answer<Arc<Principal>> {
        if token.len() > TOKEN_MAX_BYTES {
            let detail = format!("the token is longer than {TOKEN_MAX_BYTES} bytes");
            return Err(Problem::new(Kind::INVALID_CREDENTIALS, detail));
        }
        if token.starts_with(api_key::PREFIX) {
            let key = api_key::parse(token).ok_or(KeyRefusal::Unknown);
            let found = key.and_then(|(id, secret)| app.keys().authenticate(id, secret));
            return found.map_err(Into::into);
        }
        let Some(jwt) = &self.jwt else {
            return Err(Problem::new(
                Kind::INVALID_CREDENTIALS,
                "the token is no API key (`pr_…`), and this host accepts no JSON Web Tokens \
                 (`auth.jwt.issuer`)",
            ));
        };
        let now_ms = app.services().clock.now_ms();
        jwt.verify(token, now_ms).await.map_err(Into::into)
    }

    async fn by_session(&self, app: &App, request: &Parts) -> Answer<Arc<Principal>> {
        let ids = session_cookies(&request.headers, &self.cookie_name());
        let mut refused = Problem::new(
            Kind::UNAUTHENTICATED,
            "send an API key or a JSON Web Token: `Authorization: Bearer …`",
        );
        for id in ids.into_iter().take(COOKIES_MAX) {
            match app.sessions().find(id).await {
                Ok(principal) => return Ok(principal),
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }
}

impl From<KeyRefusal> for Problem {
    fn from(refusal: KeyRefusal) -> Self {
        let detail = match refusal {
            KeyRefusal::Unknown => "unknown API key",
            KeyRefusal::Expired => "the API key has expired",
            KeyRefusal::Revoked => "the API key was revoked",
            KeyRefusal::Unavailable => {
                return Self::unavailable("API keys cannot be checked: the store does not answer");
            }
        };
        Self::new(Kind::INVALID_CREDENTIALS, detail)
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Unknown => {
                Self::new(Kind::INVALID_CREDENTIALS, "the session has ended: log in again")
            }
            SessionError::Busy => Self::unavailable("too many unknown sessions, retry"),
            SessionError::Store(error) => error.into(),
        }
    }
}

impl From<JwtError> for Problem {
    fn from(error: JwtError) -> Self {
        match error {
            JwtError::Invalid(why) => {
                Self::new(Kind::INVALID_CREDENTIALS, format!("invalid JSON Web Token: {why}"))
            }
            JwtError::KeysUnavailable => {
                Self::unavailable("the keys of JSON Web Tokens could not be read, retry")
            }
        }
    }
}

/// What the entrance of a namespace knows.
#[derive(Clone)]
pub(super) struct Entrance {
    pub(super) app: Arc<App>,
    pub(super) access: Arc<Access>,
    /// All namespaces' clients.
    pub(super) addresses: Arc<Addresses>,
    /// This namespace's clients.
    pub(super) principals: Arc<Principals>,
}

/// Adds the requester to a request, or refuses it. Only the rate of its address is limited.
pub(super) async fn authenticate(
    State(entrance): State<Entrance>,
    request: Request,
    next: Next,
) -> Answer<Response> {
    entrance.admit_address(&request)?;
    Ok(next.run(entrance.identified(request).await?).await)
}

impl Entrance {
    /// The request with its requester.
    pub(super) async fn identified(&self, mut request: Request) -> Answer<Request> {
        let principal = if self.access.is_enforced() {
            let (mut parts, body) = request.into_parts();
            // The future is large, and would be part of that of every request.
            let principal = Box::pin(self.access.identify(&self.app, &parts)).await?;
            if parts.method.is_safe() {
                // Its answer may be a stream, which checks the credential again.
                parts.extensions.insert(self.clone());
            }
            request = Request::from_parts(parts, body);
            principal
        } else {
            Principal::anonymous()
        };
        if let Some(observed) = request.extensions().get::<Arc<ObservedRequest>>() {
            let _ = observed.principal.set(Arc::clone(&principal));
        }
        let peer = request.extensions().get::<Arc<Peer>>();
        let address: Option<IpAddr> = peer.map(|peer| peer.address.ip());
        request.extensions_mut().insert(Requester { principal, address });
        Ok(request)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Requester {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::internal)
    }
}

impl Requester {
    /// Refuses an action for which no role of the requester is enough.
    pub(super) fn require(&self, permission: Permission, target: Target<'_>) -> Answer<()> {
        if self.may(permission, target) {
            return Ok(());
        }
        Err(permission::forbidden(self, &[permission], target))
    }

    /// Whether the requester sees payloads.
    pub(super) fn sees_payloads(&self) -> bool {
        self.may(Permission::Payloads, Target::Everything)
    }

    /// Whether the requester sees a subject.
    pub(super) fn may_see(&self, app: &App, subject: &Subject) -> bool {
        self.only_owner(app).is_none_or(|owner| subject.owner.as_deref() == Some(owner))
    }

    /// The owner whose subjects alone the requester sees; none if it sees all.
    pub(super) fn only_owner(&self, app: &App) -> Option<&str> {
        let restricted = app.own_subjects_only() && !self.may(Permission::Read, Target::Everything);
        restricted.then(|| self.principal.id())
    }
}
