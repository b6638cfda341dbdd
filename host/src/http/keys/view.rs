//! How the API shows keys.

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::keys::IssuedKey;
use crate::store::ApiKey;

/// An API key without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct ApiKeyView {
    /// Its public part.
    id: String,
    /// Whose it is.
    principal: String,
    /// What the client is, for people.
    description: String,
    /// What it permits.
    roles: Vec<String>,
    /// Milliseconds since 1970-01-01 UTC.
    created_at_ms: u64,
    /// The principal that created it; none: the command line on the store itself.
    created_by: Option<String>,
    /// Milliseconds since 1970-01-01 UTC; none: never.
    expires_at_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    revoked_at_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC; up to a minute late.
    last_used_at_ms: Option<u64>,
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            principal: key.principal,
            description: key.description,
            roles: key.roles.iter().map(ToString::to_string).collect(),
            created_at_ms: key.created_at_ms,
            created_by: key.created_by,
            expires_at_ms: key.expires_at_ms,
            revoked_at_ms: key.revoked_at_ms,
            last_used_at_ms: key.last_used_at_ms,
        }
    }
}

/// A new API key with its secret, which is never shown again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IssuedKey)]
pub(crate) struct IssuedKeyView {
    #[serde(flatten)]
    key: ApiKeyView,
    /// The whole key, for `Authorization: Bearer`. It is never shown again.
    token: String,
}

impl From<IssuedKey> for IssuedKeyView {
    fn from(issued: IssuedKey) -> Self {
        Self { token: issued.token(), key: issued.key.into() }
    }
}
