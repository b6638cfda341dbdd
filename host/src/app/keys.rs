//! API keys: create, list, rotate, revoke, and find the one that a request sends.
//!
//! A host keeps all keys in memory and reads them again every [`REFRESH`], so no request costs a
//! statement, an unknown key no more than a known one, and a key that is created or revoked on another
//! host takes effect here within that time; on the host that changes it, immediately. When a key was
//! last used is written every [`USED_INTERVAL`]. Bounds: 1,000 keys. A host that could not read the
//! keys for [`STALE_MAX`] accepts none, because a revocation may have escaped it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::audit::actor;
use crate::domain::access::{Principal, PrincipalKind, Role};
use crate::domain::api_key::{self, Secret, SecretDigest};
use crate::domain::clock::Clock;
use crate::domain::event::TIME_MAX_MS;
use crate::domain::field_error::FieldError;
use crate::store::{ApiKey, CreatedKey, NewApiKey, Store, StoreError};

/// Time between two reads of the keys.
pub const REFRESH: Duration = Duration::from_secs(2);
/// Longest time for which keys are used that could not be read again.
pub const STALE_MAX: Duration = Duration::from_mins(1);
/// Time between two writes of when keys were last used.
const USED_INTERVAL: Duration = Duration::from_mins(1);
/// Longest name of a principal and longest description, in characters.
const TEXT_MAX: usize = 100;
/// Most roles of a key.
const ROLES_MAX: usize = 50;
/// How long the old key is valid after a rotation, unless another time is named.
pub const OVERLAP_MS: u64 = 24 * 60 * 60 * 1_000;

/// What a new key is for.
#[derive(Debug, Clone, Default)]
pub struct KeyRequest {
    /// Whose it is.
    pub principal: String,
    /// What the client is, for people.
    pub description: String,
    /// What it permits.
    pub roles: Vec<Role>,
    /// When it expires, milliseconds since 1970-01-01 UTC; none: never.
    pub expires_at_ms: Option<u64>,
    /// The principal that asks for it; none: the command line on the store itself.
    pub created_by: Option<String>,
}

/// A key with its secret, which is known only now.
#[derive(Debug)]
pub struct IssuedKey {
    /// The key.
    pub key: ApiKey,
    secret: Secret,
}

impl IssuedKey {
    /// The whole key, as its client sends it.
    pub fn token(&self) -> String {
        api_key::token(&self.key.id, &self.secret)
    }
}

/// Why no key was issued.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The request is invalid; every problem of it.
    #[error("invalid key: {}", .0.iter().map(|one| format!("{} {}", one.pointer, one.detail)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<FieldError>),
    /// There is no such key.
    #[error("no key `{0}`")]
    NotFound(String),
    /// The key has expired or was revoked.
    #[error("the key `{0}` is no longer valid: create another one")]
    NotLive(String),
    /// There are too many.
    #[error(
        "`{0}` has two valid keys, or there are 1,000 keys: revoke one first, see `postrider keys list`"
    )]
    TooMany(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a key was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRefusal {
    /// It is unknown, or its secret is wrong. Both look the same.
    Unknown,
    /// It has expired.
    Expired,
    /// It was revoked.
    Revoked,
    /// The keys could not be read for too long.
    Unavailable,
}

/// All keys, as last read.
struct Snapshot {
    keys: HashMap<String, (ApiKey, Arc<Principal>)>,
    /// None: never.
    read_at: Option<Instant>,
}

/// The API keys of a namespace.
pub struct Keys {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    snapshot: ArcSwap<Snapshot>,
    /// Keys that were used since the last write, and when.
    used: Mutex<HashMap<String, u64>>,
}

impl Keys {
    /// The keys in a store; none is known before [`refresh`](Self::refresh).
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let snapshot = ArcSwap::from_pointee(Snapshot { keys: HashMap::new(), read_at: None });
        Self { store, clock, snapshot, used: Mutex::default() }
    }

    /// Creates a key for a principal.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn create(&self, request: KeyRequest) -> Result<IssuedKey, KeyError> {
        let now_ms = self.clock.now_ms();
        let problems = problems(&request, now_ms);
        if !problems.is_empty() {
            return Err(KeyError::Invalid(problems));
        }
        self.issue(request, now_ms, None).await
    }

    /// Creates the successor of a key, with its principal and roles. The old one stays valid for
    /// `overlap_ms`, so that clients can be changed one by one.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn rotate(
        &self,
        id: &str,
        overlap_ms: u64,
        created_by: Option<String>,
    ) -> Result<IssuedKey, KeyError> {
        let now_ms = self.clock.now_ms();
        let old = self.store.api_keys().await?.into_iter().find(|key| key.id == id);
        let old = old.ok_or_else(|| KeyError::NotFound(id.to_owned()))?;
        if !old.is_live(now_ms) {
            return Err(KeyError::NotLive(id.to_owned()));
        }
        // The successor is valid for as long as the old key was meant to be.
        let life_ms = old.expires_at_ms.map(|at_ms| at_ms.saturating_sub(old.created_at_ms));
        let request = KeyRequest {
            principal: old.principal,
            description: old.description,
            roles: old.roles,
            expires_at_ms: life_ms.map(|life_ms| now_ms.saturating_add(life_ms).min(TIME_MAX_MS)),
            created_by,
        };
        let replaces = (old.id, now_ms.saturating_add(overlap_ms).min(TIME_MAX_MS));
        self.issue(request, now_ms, Some(replaces)).await
    }

    async fn issue(
        &self,
        request: KeyRequest,
        now_ms: u64,
        replaces: Option<(String, u64)>,
    ) -> Result<IssuedKey, KeyError> {
        let secret = Secret::generate();
        let KeyRequest { principal, description, roles, expires_at_ms, created_by } = request;
        let key = ApiKey {
            id: api_key::new_id(),
            principal,
            description,
            roles,
            digest: SecretDigest::of(secret.expose()),
            created_at_ms: now_ms,
            created_by,
            expires_at_ms,
            revoked_at_ms: None,
            last_used_at_ms: None,
        };
        let new = NewApiKey { key: key.clone(), replaces };
        match self.store.create_api_key(new, &actor()).await? {
            CreatedKey::Created => {
                self.refresh().await?;
                Ok(IssuedKey { key, secret })
            }
            CreatedKey::TooMany => Err(KeyError::TooMany(key.principal)),
        }
    }

    /// Revokes a key, and returns it. Repeated, it changes nothing.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub async fn revoke(&self, id: &str) -> Result<ApiKey, KeyError> {
        let revoked = self.store.revoke_api_key(id, self.clock.now_ms(), &actor()).await?;
        let revoked = revoked.ok_or_else(|| KeyError::NotFound(id.to_owned()))?;
        self.refresh().await?;
        Ok(revoked)
    }

    /// Every key, the newest first.
    pub async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        self.store.api_keys().await
    }

    /// Reads all keys.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let read_at = Some(Instant::now());
        let keys = self.store.api_keys().await?.into_iter().map(|key| {
            let principal =
                Principal::of_kind(PrincipalKind::ApiKey, &key.principal, &*key.principal);
            let principal = principal.with_roles(key.roles.clone()).with_credential(&*key.id);
            (key.id.clone(), (key, Arc::new(principal)))
        });
        let read = Arc::new(Snapshot { keys: keys.collect(), read_at });
        // Two reads may not end in the sequence in which they began.
        self.snapshot.rcu(|known| {
            let is_newer = known.read_at > read.read_at;
            if is_newer { Arc::clone(known) } else { Arc::clone(&read) }
        });
        Ok(())
    }

    /// The principal of a key, by its id and secret.
    pub fn authenticate(&self, id: &str, secret: &str) -> Result<Arc<Principal>, KeyRefusal> {
        // Hashed in any case, so that the time does not tell whether the id is known.
        let digest = SecretDigest::of(secret);
        let snapshot = self.snapshot.load();
        if snapshot.read_at.is_none_or(|at| at.elapsed() > STALE_MAX) {
            return Err(KeyRefusal::Unavailable);
        }
        let found = snapshot.keys.get(id).filter(|(key, _)| key.digest.matches(&digest));
        let (key, principal) = found.ok_or(KeyRefusal::Unknown)?;
        let now_ms = self.clock.now_ms();
        check(key, now_ms)?;
        self.note_use(id, now_ms);
        Ok(Arc::clone(principal))
    }

    /// Whether a key is still valid; what was begun with it ends with it.
    pub fn is_live(&self, id: &str) -> bool {
        let snapshot = self.snapshot.load();
        let now_ms = self.clock.now_ms();
        snapshot.keys.get(id).is_some_and(|(key, _)| check(key, now_ms).is_ok())
    }

    fn note_use(&self, id: &str, now_ms: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match used.get_mut(id) {
            Some(at_ms) => *at_ms = now_ms,
            None => _ = used.insert(id.to_owned(), now_ms),
        }
    }

    /// Writes when keys were last used.
    pub async fn write_used(&self) -> Result<(), StoreError> {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        self.store.api_keys_used(used.into_iter().collect()).await
    }

    /// Reads the keys again and again until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut written = Instant::now();
        loop {
            if let Err(error) = self.refresh().await {
                tracing::warn!(%error, "API keys could not be read, retrying");
            }
            let cancelled = tokio::select! {
                () = cancel.cancelled() => true,
                () = tokio::time::sleep(REFRESH) => false,
            };
            if cancelled || written.elapsed() >= USED_INTERVAL {
                written = Instant::now();
                if let Err(error) = self.write_used().await {
                    tracing::debug!(%error, "when API keys were last used could not be written");
                }
            }
            if cancelled {
                return;
            }
        }
    }
}

fn check(key: &ApiKey, now_ms: u64) -> Result<(), KeyRefusal> {
    match key {
        ApiKey { revoked_at_ms: Some(_), .. } => Err(KeyRefusal::Revoked),
        key if !key.is_live(now_ms) => Err(KeyRefusal::Expired),
        _ => Ok(()),
    }
}

/// Every problem of a request.
fn problems(request: &KeyRequest, now_ms: u64) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let chars = request.principal.chars().count();
    let is_plain =
        |one: char| one.is_ascii_alphanumeric() || matches!(one, '.' | '_' | '-' | '@' | ':');
    if !(1..=TEXT_MAX).contains(&chars) || !request.principal.chars().all(is_plain) {
        let rule = format!("must be 1 to {TEXT_MAX} of the characters A-Z a-z 0-9 . _ - @ :");
        problems.push(FieldError::at("/principal", rule));
    }
    let description = &request.description;
    if description.chars().count() > TEXT_MAX || description.contains(char::is_control) {
        let rule = format!("must be at most {TEXT_MAX} characters, without control characters");
        problems.push(FieldError::at("/description", rule));
    }
    if request.roles.is_empty() {
        problems.push(FieldError::at("/roles", "must have a role, such as `read` or `submit`"));
    }
    if request.roles.len() > ROLES_MAX {
        problems.push(FieldError::at("/roles", format!("must have at most {ROLES_MAX} roles")));
    }
    if request.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
        problems.push(FieldError::at("/expires_at", "must be in the future"));
    }
    problems
}
