//! What a store keeps of API keys and sessions: digests of their secrets, never a secret.
//!
//! Bounds: [`KEYS_MAX`] keys, [`LIVE_MAX`] live ones of a principal, and sessions until they expire.

use serde_json::json;

use super::StoreError;
use super::audit::AuditEntry;
use super::decode::Columns;
use crate::domain::access::Role;
use crate::domain::actor::Actor;
use crate::domain::api_key::SecretDigest;

/// Most keys, those included that are no longer valid.
pub const KEYS_MAX: i64 = 1_000;
/// Most keys of one principal that are valid at the same time: one in use, and its successor.
pub const LIVE_MAX: i64 = 2;
/// A key that has not been valid for this long is deleted when another one is created.
const KEPT_MS: u64 = 90 * 24 * 60 * 60 * 1_000;

/// An API key.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its public part.
    pub id: String,
    /// Whose it is: a name that several keys of one client share.
    pub principal: String,
    /// What the client is, for people.
    pub description: String,
    /// What it permits.
    pub roles: Vec<Role>,
    /// The digest of its secret.
    pub digest: SecretDigest,
    /// When it was created, milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// The principal that created it; none: the command line on the store itself.
    pub created_by: Option<String>,
    /// When it expires, milliseconds since 1970-01-01 UTC; none: never.
    pub expires_at_ms: Option<u64>,
    /// When it was revoked, milliseconds since 1970-01-01 UTC.
    pub revoked_at_ms: Option<u64>,
    /// When it was last used, milliseconds since 1970-01-01 UTC; up to a minute late.
    pub last_used_at_ms: Option<u64>,
}

impl ApiKey {
    /// Whether it is valid at a time.
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.revoked_at_ms.is_none() && self.expires_at_ms.is_none_or(|at_ms| now_ms < at_ms)
    }
}

/// A key to be written.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    /// The key, neither used nor revoked.
    pub key: ApiKey,
    /// The key that it replaces, which then expires at that time at the latest.
    pub replaces: Option<(String, u64)>,
}

/// The result of creating a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreatedKey {
    /// It was written.
    Created,
    /// The principal has [`LIVE_MAX`] valid keys, or there are [`KEYS_MAX`] keys: nothing was changed.
    TooMany,
}

/// A session of a browser: its id stands for the principal until it expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The digest of its id, in hexadecimal digits.
    pub digest: String,
    /// The principal's kind.
    pub kind: String,
    /// The principal's id, without its kind.
    pub principal: String,
    /// The principal's name.
    pub name: String,
    /// The principal's roles.
    pub roles: Vec<Role>,
    /// The credential of the log-in: the id of an API key, which the session ends with.
    pub credential: Option<String>,
    /// When it expires, milliseconds since 1970-01-01 UTC.
    pub expires_at_ms: u64,
}

macro_rules! columns {
    () => {
        "id, principal, description, roles, digest, created_ms, created_by, expires_ms, \
         revoked_ms, last_used_ms"
    };
}

/// Every key, the newest first.
pub(super) const ALL: &str =
    concat!("SELECT ", columns!(), " FROM api_keys ORDER BY created_ms DESC, id LIMIT 1000");

/// Deletes keys that have not been valid since a time.
pub(super) const DELETE_OLD: &str = "DELETE FROM api_keys WHERE revoked_ms < $1 OR expires_ms < $1";

/// Inserts a key unless there are too many: [`key_args`]. Returns its id.
pub(super) const INSERT: &str = "INSERT INTO api_keys (id, principal, description, roles, digest, created_ms, created_by, \
     expires_ms) SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE (SELECT count(*) FROM api_keys WHERE \
     principal = $2 AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > $6)) < $9 AND \
     (SELECT count(*) FROM api_keys) < $10 RETURNING id";

/// The columns of a key without the last two, the most live ones of its principal and the most of all,
/// as arguments made by the macro of a database.
macro_rules! key_args {
    ($args:ident, $key:expr) => {
        $args![
            $key.id.as_str(),
            $key.principal.as_str(),
            $key.description.as_str(),
            $crate::store::api_keys::roles(&$key.roles),
            $key.digest.to_hex(),
            $key.created_at_ms as i64,
            $key.created_by.as_deref(),
            $key.expires_at_ms.map(|at_ms| at_ms as i64),
            $crate::store::api_keys::LIVE_MAX,
            $crate::store::api_keys::KEYS_MAX
        ]
    };
}
pub(super) use key_args;

/// Lets a key expire at a time at the latest: id, time.
pub(super) const EXPIRE: &str = "UPDATE api_keys SET expires_ms = $2 WHERE id = $1 AND (expires_ms \
                                 IS NULL OR expires_ms > $2)";

/// Revokes a key that is not yet revoked, and returns it: id, now.
pub(super) const REVOKE: &str = concat!(
    "UPDATE api_keys SET revoked_ms = $2 WHERE id = $1 AND revoked_ms IS NULL RETURNING ",
    columns!()
);

/// A key: its id.
pub(super) const ONE: &str = concat!("SELECT ", columns!(), " FROM api_keys WHERE id = $1");

/// Records when a key was last used: id, time.
pub(super) const USED: &str = "UPDATE api_keys SET last_used_ms = $2 WHERE id = $1 AND \
                               (last_used_ms IS NULL OR last_used_ms < $2)";

/// Inserts a session: [`session_args`].
pub(super) const INSERT_SESSION: &str = "INSERT INTO sessions (digest, kind, principal, name, \
                                         roles, credential, expires_ms) VALUES ($1, $2, $3, $4, \
                                         $5, $6, $7)";

/// The columns of a session as arguments, made by the macro of a database.
macro_rules! session_args {
    ($args:ident, $session:expr) => {
        $args![
            $session.digest.as_str(),
            $session.kind.as_str(),
            $session.principal.as_str(),
            $session.name.as_str(),
            $crate::store::api_keys::roles(&$session.roles),
            $session.credential.as_deref(),
            $session.expires_at_ms as i64
        ]
    };
}
pub(super) use session_args;

/// Deletes the sessions that have expired by a time.
pub(super) const DELETE_EXPIRED: &str = "DELETE FROM sessions WHERE expires_ms <= $1";

/// A session: its digest.
pub(super) const SESSION: &str = "SELECT digest, kind, principal, name, roles, credential, \
                                  expires_ms FROM sessions WHERE digest = $1";

/// Deletes a session: its digest. Returns it if there was one.
pub(super) const DELETE_SESSION: &str = "DELETE FROM sessions WHERE digest = $1 RETURNING digest";

/// The time before which keys must have become invalid to be deleted.
pub(super) fn old_ms(now_ms: u64) -> i64 {
    now_ms.saturating_sub(KEPT_MS) as i64
}

/// Roles as they are stored.
pub(super) fn roles(roles: &[Role]) -> String {
    let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
    roles.join(" ")
}

fn read_roles(text: &str) -> Result<Vec<Role>, StoreError> {
    let roles = text.split(' ').filter(|role| !role.is_empty()).map(str::parse);
    roles.collect::<Result<_, _>>().map_err(|error| StoreError::Corrupt(format!("{error}")))
}

/// The record of a new key in the audit log.
pub(super) fn created(actor: &Actor, new: &NewApiKey) -> AuditEntry {
    let NewApiKey { key, replaces } = new;
    let action = if replaces.is_some() { "key.rotate" } else { "key.create" };
    let before = replaces.as_ref().map(
        |(id, expires_ms)| json!({ "replaced": format!("key/{id}"), "expires_at_ms": expires_ms }),
    );
    let after = json!({
        "principal": key.principal,
        "roles": key.roles,
        "expires_at_ms": key.expires_at_ms,
    });
    let entry = AuditEntry::new(actor, action, format!("key/{}", key.id));
    AuditEntry { before, after: Some(after), ..entry }
}

/// The record of a revocation in the audit log.
pub(super) fn revoked(actor: &Actor, key: &ApiKey) -> AuditEntry {
    let entry = AuditEntry::new(actor, "key.revoke", format!("key/{}", key.id));
    let of_principal = |revoked_at_ms: Option<u64>| json!({ "principal": key.principal, "revoked_at_ms": revoked_at_ms });
    entry.change(of_principal(None), of_principal(key.revoked_at_ms))
}

/// Decodes the columns of [`ALL`].
pub(super) fn decode(row: &impl Columns) -> Result<ApiKey, StoreError> {
    let time = |at| Ok::<_, StoreError>(row.maybe_int(at)?.map(|at_ms| at_ms as u64));
    let digest = SecretDigest::from_hex(row.text(4)?);
    Ok(ApiKey {
        id: row.owned(0)?,
        principal: row.owned(1)?,
        description: row.owned(2)?,
        roles: read_roles(row.text(3)?)?,
        digest: digest.ok_or_else(|| StoreError::Corrupt("a key has no digest".to_owned()))?,
        created_at_ms: row.unsigned(5)?,
        created_by: row.maybe_owned(6)?,
        expires_at_ms: time(7)?,
        revoked_at_ms: time(8)?,
        last_used_at_ms: time(9)?,
    })
}

/// Decodes the columns of [`SESSION`].
pub(super) fn decode_session(row: &impl Columns) -> Result<Session, StoreError> {
    Ok(Session {
        digest: row.owned(0)?,
        kind: row.owned(1)?,
        principal: row.owned(2)?,
        name: row.owned(3)?,
        roles: read_roles(row.text(4)?)?,
        credential: row.maybe_owned(5)?,
        expires_at_ms: row.unsigned(6)?,
    })
}
