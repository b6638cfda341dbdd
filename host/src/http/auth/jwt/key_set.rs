//! The keys of an issuer: a JSON Web Key Set (RFC 7517) in a file or at a URL.
//!
//! It is read periodically, and when a token names a key that is not known, at most once per
//! `auth.jwt.jwks_min_interval_ms`: until then such tokens are refused from memory. While it cannot be
//! read, the keys that were read last stay in use. Bounds: [`fetch::MAX_BYTES`], [`KEYS_MAX`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::signature::{Token, VerifyingKey};
use super::{JwtError, fetch};
use crate::config::{JwtAlgorithm, JwtConfig};
use crate::domain::json;

/// Most keys of a set.
const KEYS_MAX: usize = 64;
/// Shortest shared secret, in bytes (RFC 7518, 3.2).
const SECRET_MIN_BYTES: usize = 32;

/// Where a set is.
#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Url(http::Uri),
}

/// A key of a set.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    kid: Option<String>,
    /// The only algorithm that it is for.
    algorithm: Option<JwtAlgorithm>,
    verifying: VerifyingKey,
}

/// The keys that were read last.
#[derive(Default)]
struct Current {
    keys: Vec<Key>,
    /// Counts changes; 0: none was read yet.
    generation: u64,
}

/// The keys of an issuer.
pub(super) struct KeySet {
    source: Source,
    current: ArcSwap<Current>,
    /// When it was last read, or that failed.
    attempted: Mutex<Option<Instant>>,
    refresh: Duration,
    min_interval: Duration,
}

impl KeySet {
    /// A file is read now.
    pub(super) fn new(config: &JwtConfig) -> Result<Self, String> {
        let source = match (&config.jwks_file, &config.jwks_url) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(url)) => {
                let url = url.parse();
                Source::Url(url.map_err(|error| format!("auth.jwt.jwks_url: {error}"))?)
            }
            (None, None) => return Err("auth.jwt.jwks_file: set it".to_owned()),
        };
        let set = Self {
            current: ArcSwap::default(),
            attempted: Mutex::new(None),
            refresh: Duration::from_millis(config.jwks_refresh_ms),
            min_interval: Duration::from_millis(config.jwks_min_interval_ms),
            source,
        };
        if let Source::File(file) = &set.source {
            let name = file.display();
            let read = fetch::file(file).and_then(|bytes| set.take(&bytes));
            read.map_err(|why| format!("auth.jwt.jwks_file: {name}: {why}"))?;
        }
        Ok(set)
    }

    #[cfg(test)]
    pub(super) fn set_min_interval(&mut self, min_interval: Duration) {
        self.min_interval = min_interval;
    }

    /// Counts the changes of the keys.
    pub(super) fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Verifies the signature of a token. Returns the generation of the keys.
    pub(super) async fn verify(&self, token: &Token<'_>) -> Result<u64, JwtError> {
        if !self.current.load().has_key_for(token) {
            self.read_unless_recent().await;
        }
        let current = self.current.load();
        if current.generation == 0 {
            return Err(JwtError::KeysUnavailable);
        }
        let mut candidates = current.candidates(token).peekable();
        if candidates.peek().is_none() {
            return Err(JwtError::invalid(match &token.kid {
                Some(_) => "no key has its `kid` and fits its algorithm",
                None => "no key fits its algorithm",
            }));
        }
        if candidates.any(|key| token.is_signed_by(&key.verifying)) {
            Ok(current.generation)
        } else {
            Err(JwtError::invalid("its signature is wrong"))
        }
    }

    /// One token waits for the read that it causes, and those that come meanwhile.
    async fn read_unless_recent(&self) {
        let mut attempted = self.attempted.lock().await;
        if attempted.is_none_or(|at| at.elapsed() >= self.min_interval) {
            self.read(&mut attempted).await;
        }
    }

    async fn read(&self, attempted: &mut Option<Instant>) -> bool {
        *attempted = Some(Instant::now());
        let bytes = match &self.source {
            Source::File(file) => fetch::file(file),
            Source::Url(url) => fetch::url(url).await,
        };
        match bytes.and_then(|bytes| self.take(&bytes)) {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!(%why, source = ?self.source, "the keys of JSON Web Tokens could not be read");
                false
            }
        }
    }

    /// Takes the keys of a set.
    fn take(&self, bytes: &[u8]) -> Result<(), String> {
        let with_secrets = matches!(self.source, Source::File(_));
        let keys = parse(bytes, with_secrets)?;
        let known = self.current.load();
        if known.generation == 0 || known.keys != keys {
            let generation = known.generation + 1;
            self.current.store(Arc::new(Current { keys, generation }));
        }
        Ok(())
    }

    /// Reads the set again and again until cancelled.
    pub(super) async fn run(&self, cancel: CancellationToken) {
        loop {
            let read = self.read(&mut *self.attempted.lock().await).await;
            let pause = if read { self.refresh } else { self.min_interval.min(self.refresh) };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Current {
    fn has_key_for(&self, token: &Token<'_>) -> bool {
        self.candidates(token).next().is_some()
    }

    /// The keys that may have signed a token: of its `kid`, if it has one, and of the type that its
    /// algorithm needs.
    fn candidates<'a>(&'a self, token: &'a Token<'_>) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(|key| {
            let named = token.kid.is_none() || key.kid == token.kid;
            let meant = key.algorithm.is_none_or(|algorithm| algorithm == token.algorithm);
            named && meant && key.verifying.fits(token.algorithm)
        })
    }
}

/// The usable keys of a set. Others are left out: they are for other purposes.
fn parse(bytes: &[u8], with_secrets: bool) -> Result<Vec<Key>, String> {
    let set = json::parse(bytes).map_err(|error| format!("not JSON: {error}"))?;
    let all = set["keys"].as_array().ok_or("not a JSON Web Key Set: it has no list `keys`")?;
    if all.len() > KEYS_MAX {
        return Err(format!("it has {} keys, and at most {KEYS_MAX} are read", all.len()));
    }
    let mut keys = Vec::new();
    for (at, one) in all.iter().enumerate() {
        match key(one, with_secrets) {
            Ok(Some(key)) => keys.push(key),
            Ok(None) => {}
            Err(why) => tracing::warn!(at, why, "a key of the JSON Web Key Set is left out"),
        }
    }
    if keys.is_empty() {
        Err("it has no key to verify signatures with".to_owned())
    } else {
        Ok(keys)
    }
}

/// A key; none if it is for another purpose.
fn key(one: &Value, with_secrets: bool) -> Result<Option<Key>, &'static str> {
    let for_signatures = one.get("use").is_none_or(|purpose| purpose == "sig")
        && one
            .get("key_ops")
            .and_then(Value::as_array)
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    if !for_signatures {
        return Ok(None);
    }
    let algorithm = match one.get("alg") {
        None => None,
        Some(name) => match serde_json::from_value(name.clone()) {
            Ok(algorithm) => Some(algorithm),
            Err(_) => return Ok(None),
        },
    };
    let part = |name: &str| one[name].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let point = |bytes: usize| {
        let (x, y) = (part("x")?, part("y")?);
        (x.len() == bytes && y.len() == bytes).then(|| [&[4][..], &x, &y].concat())
    };
    let missing = "a part of it is missing or not base64";
    let key = match (one["kty"].as_str(), one["crv"].as_str()) {
        (Some("RSA"), _) => {
            VerifyingKey::Rsa { n: part("n").ok_or(missing)?, e: part("e").ok_or(missing)? }
        }
        (Some("EC"), Some("P-256")) => VerifyingKey::P256(point(32).ok_or(missing)?),
        (Some("EC"), Some("P-384")) => VerifyingKey::P384(point(48).ok_or(missing)?),
        (Some("OKP"), Some("Ed25519")) => VerifyingKey::Ed25519(part("x").ok_or(missing)?),
        (Some("oct"), _) if !with_secrets => return Err("a shared secret must be in a file"),
        (Some("oct"), _) => {
            let secret = part("k").ok_or(missing)?;
            if secret.len() < SECRET_MIN_BYTES {
                return Err("a shared secret must have 32 bytes at least");
            }
            VerifyingKey::Secret(secret)
        }
        _ => return Ok(None),
    };
    if algorithm.is_some_and(|algorithm| !key.fits(algorithm)) {
        return Err("its `alg` does not fit its `kty`");
    }
    Ok(Some(Key { kid: one["kid"].as_str().map(str::to_owned), algorithm, verifying: key }))
}
