//! Sessions of browsers: an opaque id in a cookie stands for a principal that logged in.
//!
//! A session ends when it expires, when its principal logs out, and with the API key of its log-in. Each
//! host keeps sessions for [`REFRESH`] after it read them, so a log-out takes effect on all hosts within
//! that time; on the host that was asked, immediately. Bounds: [`CACHED_MAX`] sessions in memory, and
//! [`LOOKUPS_PER_SECOND`] reads of the store for ids that this host does not know: guessing costs no
//! more.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use lru::LruCache;

use super::keys::Keys;
use crate::domain::access::{Principal, PrincipalKind};
use crate::domain::api_key::{Secret, SecretDigest};
use crate::domain::clock::Clock;
use crate::store::{Session, Store, StoreError};

/// How long a session is kept without another read of the store.
const REFRESH: Duration = Duration::from_secs(2);
const CACHED_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
const LOOKUPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(200).expect("not zero");

/// A session that this host read, and when.
#[derive(Clone)]
struct Cached {
    principal: Arc<Principal>,
    expires_at_ms: u64,
    read_at: Instant,
}

/// The sessions of a namespace.
pub struct Sessions {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    keys: Arc<Keys>,
    known: Mutex<LruCache<String, Cached>>,
    lookups: DefaultDirectRateLimiter,
}

/// Why no session was found.
#[derive(Debug)]
pub enum SessionError {
    /// There is no such session, or it has ended.
    Unknown,
    /// Too many unknown ids are looked up.
    Busy,
    /// The store failed.
    Store(StoreError),
}

impl Sessions {
    /// The sessions in a store.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, keys: Arc<Keys>) -> Self {
        let known = Mutex::new(LruCache::new(CACHED_MAX));
        let lookups = RateLimiter::direct(Quota::per_second(LOOKUPS_PER_SECOND));
        Self { store, clock, keys, known, lookups }
    }

    /// Begins a session that lasts for `max_age_ms` at most. Returns its id, for the cookie, and when it
    /// expires.
    pub async fn begin(
        &self,
        principal: &Principal,
        max_age_ms: u64,
    ) -> Result<(Secret, u64), StoreError> {
        let id = Secret::generate();
        let latest_ms = self.clock.now_ms().saturating_add(max_age_ms);
        let expires_at_ms = principal.expires_at_ms().map_or(latest_ms, |at| at.min(latest_ms));
        let session = Session {
            digest: SecretDigest::of(id.expose()).to_hex(),
            kind: principal.kind().name().to_owned(),
            principal: principal.own_id().to_owned(),
            name: principal.name().to_owned(),
            roles: principal.roles().to_vec(),
            credential: principal.credential().map(str::to_owned),
            expires_at_ms,
        };
        self.store.create_session(session).await?;
        Ok((id, expires_at_ms))
    }

    /// The principal of a session.
    pub async fn find(&self, id: &str) -> Result<Arc<Principal>, SessionError> {
        let digest = SecretDigest::of(id).to_hex();
        let known = self.lock().get(&digest).cloned();
        let is_known = known.is_some();
        let fresh = known.filter(|known| known.read_at.elapsed() < REFRESH);
        let found = match fresh {
            Some(known) => Some(known),
            None if !is_known && self.lookups.check().is_err() => return Err(SessionError::Busy),
            None => self.read(digest).await?,
        };
        let now_ms = self.clock.now_ms();
        let live = |known: &Cached| {
            let by_key = known.principal.kind() == PrincipalKind::ApiKey;
            let key = known.principal.credential().filter(|_| by_key);
            now_ms < known.expires_at_ms && key.is_none_or(|id| self.keys.is_live(id))
        };
        found.filter(live).map(|known| known.principal).ok_or(SessionError::Unknown)
    }

    async fn read(&self, digest: String) -> Result<Option<Cached>, SessionError> {
        let read_at = Instant::now();
        let found = self.store.session(&digest).await.map_err(SessionError::Store)?;
        let kind = |session: &Session| PrincipalKind::of_name(&session.kind);
        let Some((session, kind)) = found.and_then(|one| kind(&one).map(|kind| (one, kind))) else {
            self.lock().pop(&digest);
            return Ok(None);
        };
        let Session { principal, name, roles, credential, expires_at_ms, .. } = session;
        let mut principal = Principal::of_kind(kind, &principal, name)
            .with_roles(roles)
            .expiring(Some(expires_at_ms));
        if let Some(credential) = credential {
            principal = principal.with_credential(credential);
        }
        let known = Cached { principal: Arc::new(principal), expires_at_ms, read_at };
        self.lock().put(digest, known.clone());
        Ok(Some(known))
    }

    /// Ends a session.
    pub async fn end(&self, id: &str) -> Result<(), StoreError> {
        let digest = SecretDigest::of(id).to_hex();
        self.store.delete_session(&digest).await?;
        self.lock().pop(&digest);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<String, Cached>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
