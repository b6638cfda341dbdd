//! The operator's keys, which wrap the data keys.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::cipher::Cipher;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Longest id of a key: it is stored with every subject.
const ID_MAX_BYTES: usize = 32;

/// Key-encryption keys by id. One is the primary key, which wraps new data keys; the others open what
/// they wrapped.
pub struct KeyRing {
    primary: String,
    keys: BTreeMap<String, Cipher>,
}

/// Without the keys.
impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeyRing").field("primary", &self.primary).finish_non_exhaustive()
    }
}

/// What is wrong with a key ring, without any key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyRingProblem(pub String);

/// A key ring as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRingText {
    primary: String,
    keys: BTreeMap<String, String>,
}

impl KeyRing {
    /// Checks the ids and decodes the keys.
    pub fn new(text: KeyRingText) -> Result<Self, KeyRingProblem> {
        let KeyRingText { primary, keys } = text;
        let keys: BTreeMap<String, Cipher> = keys
            .into_iter()
            .map(|(id, key)| Ok((checked(id.clone())?, cipher(&id, &key)?)))
            .collect::<Result<_, KeyRingProblem>>()?;
        if !keys.contains_key(&primary) {
            let problem = format!("`primary` is `{primary}`, and there is no such key in [keys]");
            return Err(KeyRingProblem(problem));
        }
        Ok(Self { primary, keys })
    }

    /// The id of the primary key.
    pub fn primary_id(&self) -> &str {
        &self.primary
    }

    /// The ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    pub(super) fn primary(&self) -> (&str, &Cipher) {
        (&self.primary, &self.keys[&self.primary])
    }

    pub(super) fn get(&self, id: &str) -> Option<&Cipher> {
        self.keys.get(id)
    }
}

fn checked(id: String) -> Result<String, KeyRingProblem> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if id.is_empty() || id.len() > ID_MAX_BYTES || !id.bytes().all(is_plain) {
        return Err(KeyRingProblem(format!(
            "the id `{}` of a key has to be up to {ID_MAX_BYTES} letters, digits, `-`, `_` or `.`",
            id.escape_debug()
        )));
    }
    Ok(id)
}

fn cipher(id: &str, key: &str) -> Result<Cipher, KeyRingProblem> {
    let key =
        STANDARD.decode(key.trim()).ok().and_then(|key| <[u8; KEY_BYTES]>::try_from(key).ok());
    let key = key.ok_or_else(|| {
        KeyRingProblem(format!(
            "the key `{id}` has to be {KEY_BYTES} bytes in Base64: `openssl rand -base64 {KEY_BYTES}`"
        ))
    })?;
    Cipher::new(&key).ok_or_else(|| {
        KeyRingProblem("this program was built without the cargo feature `encryption`".to_owned())
    })
}
