//! Secrets that clients keep and hosts know only as digests: API keys and ids of sessions.
//!
//! A key is `pr_<id>_<secret>`; its secret has 256 random bits, so SHA-256 without a salt protects it
//! as well as a slow hash would. Guarantee: digests are compared in constant time, and neither a key
//! nor a secret has a `Debug` that shows it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::event::hex;

/// What every key begins with, so that scanners find one that was published by accident.
pub const PREFIX: &str = "pr_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;
/// Characters of a secret in base64.
const SECRET_CHARS: usize = 43;

/// A secret, as its client sends it. Only its [`SecretDigest`] is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new random one.
    pub fn generate() -> Self {
        let bytes: [u8; SECRET_BYTES] = rand::random();
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The text; to be shown once.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// The SHA-256 of a secret.
#[derive(Debug, Clone, Copy)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// That of a text that may be a secret.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// In hexadecimal digits, as it is stored.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// What was stored; none if it is no digest.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |one: u8| char::from(one).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Self(bytes))
    }

    /// Whether both are the same; takes as long if they are not.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// An id of a new key.
pub fn new_id() -> String {
    let bytes: [u8; ID_BYTES] = rand::random();
    hex(&bytes)
}

/// A whole key, as it is shown once.
pub fn token(id: &str, secret: &Secret) -> String {
    format!("{PREFIX}{id}_{}", secret.expose())
}

/// The id and the secret of a text; none if it has not the form of a key.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex = |one: u8| matches!(one, b'0'..=b'9' | b'a'..=b'f');
    let is_base64 = |one: u8| one.is_ascii_alphanumeric() || matches!(one, b'-' | b'_');
    let valid = id.len() == 2 * ID_BYTES
        && id.bytes().all(is_hex)
        && secret.len() == SECRET_CHARS
        && secret.bytes().all(is_base64);
    valid.then_some((id, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_parsed_as_it_was_made() {
        let (id, secret) = (new_id(), Secret::generate());
        let token = token(&id, &secret);
        assert_eq!(parse(&token), Some((id.as_str(), secret.expose())));
        assert_ne!(secret, Secret::generate());
        for other in [
            String::new(),
            token.replacen("pr_", "", 1),
            token[..token.len() - 1].to_owned(),
            format!("{token}x"),
            token.replacen("pr_", "pr__", 1),
            token.to_uppercase(),
        ] {
            assert_eq!(parse(&other), None, "{other}");
        }
        assert!(!format!("{secret:?}").contains(secret.expose()));
    }

    #[test]
    fn digests_are_read_back_and_compared() {
        let digest = SecretDigest::of("a");
        let read = SecretDigest::from_hex(&digest.to_hex()).unwrap();
        assert!(read.matches(&digest) && !read.matches(&SecretDigest::of("b")));
        for text in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
            assert!(SecretDigest::from_hex(text).is_none(), "{text}");
        }
    }
}
