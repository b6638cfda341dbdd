//! JSON Web Tokens: signature, issuer, audience, time, and what their claims permit.
//!
//! The header's `alg` never decides alone: it must be configured, and fit the type of the key that its
//! `kid` names ([`keys`]). A token that was verified is not verified again for [`VERIFIED_FOR`], unless
//! the keys have changed. Bounds: 8 KiB for a token, [`VERIFIED_MAX`] verified ones in memory.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use self::claims::Claims;
use self::key_set::KeySet;
use self::signature::Token;
use crate::config::JwtConfig;
use crate::domain::access::{Principal, PrincipalKind, Role};

mod claims;
mod fetch;
mod key_set;
mod signature;

/// How long a verified token is not verified again.
const VERIFIED_FOR: Duration = Duration::from_mins(1);
const VERIFIED_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtError {
    /// What is wrong with it.
    Invalid(String),
    /// No key could be read so far.
    KeysUnavailable,
}

impl JwtError {
    fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}

/// A token that was verified.
struct Verified {
    principal: Arc<Principal>,
    claims: Claims,
    /// Of the keys.
    generation: u64,
    at: Instant,
}

/// Verifies tokens of one issuer.
pub struct Jwt {
    config: JwtConfig,
    roles: BTreeMap<String, Vec<Role>>,
    keys: KeySet,
    verified: Mutex<LruCache<[u8; 32], Verified>>,
}

impl Jwt {
    /// As configured; none without an issuer.
    ///
    /// # Errors
    /// What is wrong with the file of keys. A URL is read later.
    pub fn new(config: &JwtConfig) -> Result<Option<Self>, String> {
        if config.issuer.is_empty() {
            return Ok(None);
        }
        // A valid configuration has valid roles.
        let roles = config.roles.iter().map(|(value, roles)| {
            let parsed = roles.iter().filter_map(|role| role.parse().ok());
            (value.clone(), parsed.collect())
        });
        Ok(Some(Self {
            roles: roles.collect(),
            keys: KeySet::new(config)?,
            verified: Mutex::new(LruCache::new(VERIFIED_MAX)),
            config: config.clone(),
        }))
    }

    /// The principal of a token.
    pub(super) async fn verify(
        &self,
        token: &str,
        now_ms: u64,
    ) -> Result<Arc<Principal>, JwtError> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some((principal, claims)) = self.known(&digest) {
            claims.check_time(now_ms, self.config.leeway_ms)?;
            return Ok(principal);
        }
        let parsed = Token::parse(token)?;
        if !self.config.algorithms.contains(&parsed.algorithm) {
            let algorithm = parsed.algorithm;
            return Err(JwtError::invalid(format!("the algorithm {algorithm:?} is not accepted")));
        }
        let generation = self.keys.verify(&parsed).await?;
        let claims = Claims::read(&parsed.payload, &self.config)?;
        claims.check_time(now_ms, self.config.leeway_ms)?;
        let principal = Arc::new(self.principal(&claims));
        let verified =
            Verified { principal: Arc::clone(&principal), claims, generation, at: Instant::now() };
        self.lock().put(digest, verified);
        Ok(principal)
    }

    fn known(&self, digest: &[u8; 32]) -> Option<(Arc<Principal>, Claims)> {
        let mut verified = self.lock();
        let known = verified.get(digest)?;
        let valid = known.generation == self.keys.generation() && known.at.elapsed() < VERIFIED_FOR;
        valid.then(|| (Arc::clone(&known.principal), known.claims.clone()))
    }

    fn principal(&self, claims: &Claims) -> Principal {
        let roles = claims.roles.iter().filter_map(|value| self.roles.get(value)).flatten();
        let name = claims.name.as_deref().unwrap_or(&claims.subject);
        Principal::of_kind(PrincipalKind::Jwt, &claims.subject, name)
            .with_roles(roles.cloned())
            .expiring(Some(claims.expires_at_ms))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the keys again and again until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        self.keys.run(cancel).await;
    }
}

#[cfg(test)]
mod tests;
