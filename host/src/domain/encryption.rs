//! Encryption of what is stored and of message bodies: bodies, state, recordings, failure texts.
//!
//! Each subject has a data key, which is stored with it, wrapped by a key-encryption key of the
//! operator's [`KeyRing`]. What belongs to no subject is sealed with a shared key of the store. So a
//! rotation only wraps keys again, and a subject is erased with its data key.
//!
//! The cipher is AES-256-GCM-SIV (RFC 8452) with a random nonce. Its associated data is the [`Place`]
//! of a value, so that none can be moved to another subject or column. Guarantees: nothing here
//! fails. What cannot be opened becomes an [unreadable] value with the reason, which is never taken for
//! what was sealed. Pure: no I/O. Costs: about 1 µs for a value of 1 KB.
//!
//! [unreadable]: unreadable

mod cipher;
mod codec;
mod key_ring;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;

use self::cipher::{Cipher, Context};
use self::codec::Stored;
pub use self::codec::{ERASED, unreadable};
pub use self::key_ring::{KEY_BYTES, KeyRing, KeyRingText};

const NONCE_BYTES: usize = 12;
/// Each data key is wrapped once by each key-encryption key, so that one nonce is enough.
const WRAPPING_NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

/// What an erased value is replaced with.
pub fn erased_value() -> Vec<u8> {
    codec::unreadable_value(ERASED)
}

/// Where a value is stored: it can be opened there only.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Table and column, such as `events.data`.
    pub column: &'static str,
    /// What the value belongs to, such as the key of a subject.
    pub owner: &'a str,
    /// Which one of the owner's.
    pub name: &'a str,
}

impl<'a> Place<'a> {
    /// The only value of its owner in this column, or one of several that need no order.
    pub fn of(column: &'static str, owner: &'a str) -> Self {
        Self { column, owner, name: "" }
    }

    fn associated_data(&self) -> Vec<u8> {
        let mut data =
            Vec::with_capacity(16 + self.column.len() + self.owner.len() + self.name.len());
        for part in [self.column, self.owner, self.name] {
            data.extend((part.len() as u32).to_le_bytes());
            data.extend(part.as_bytes());
        }
        data
    }
}

impl Cipher {
    /// Nonce, and ciphertext with tag.
    fn seal_at(&self, place: Place<'_>, plain: &[u8]) -> ([u8; NONCE_BYTES], Vec<u8>) {
        let nonce = rand::random();
        let context = Context { nonce, associated_data: &place.associated_data() };
        (nonce, self.seal(context, plain))
    }

    fn open_at(&self, place: Place<'_>, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let context = Context { nonce: *nonce, associated_data: &place.associated_data() };
        self.open(context, rest)
    }
}

/// The key that the values of one subject, or of none, are sealed with.
#[derive(Clone)]
pub struct DataKey {
    cipher: Cipher,
    wrapped: Box<str>,
}

impl DataKey {
    /// How it is stored: the id of the key-encryption key, a colon, and the wrapped key in Base64.
    pub fn wrapped(&self) -> &str {
        &self.wrapped
    }
}

/// Without the key.
impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, _) = self.wrapped.split_once(':').unwrap_or_default();
        write!(formatter, "DataKey({id})")
    }
}

impl PartialEq for DataKey {
    fn eq(&self, other: &Self) -> bool {
        self.wrapped == other.wrapped
    }
}

impl Eq for DataKey {}

/// A key of the store, for what belongs to no subject.
#[derive(Debug)]
pub struct SharedKey {
    /// The newest one seals.
    pub number: u32,
    /// As stored.
    pub wrapped: String,
}

/// A subject's key, or why it cannot be used.
pub type StoredKey = Result<Arc<DataKey>, Cow<'static, str>>;
/// The shared keys that could be unwrapped, and why the others could not.
type SharedKeys = BTreeMap<u32, Result<DataKey, Cow<'static, str>>>;

/// Seals and opens values; without a key ring, they are stored as they are.
#[derive(Default)]
pub struct Encryption {
    ring: Option<Arc<KeyRing>>,
    /// Set when the store is opened.
    shared: OnceLock<SharedKeys>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Encryption").field("ring", &self.ring).finish_non_exhaustive()
    }
}

/// The owner of the shared keys.
pub const SHARED: &str = "";
/// Why a host without a key ring reads nothing that is sealed.
const NO_KEYS: &str = "it is encrypted, and this host has no keys: set [encryption]";
const DAMAGED_KEY: &str = "its data key is damaged";

impl Encryption {
    /// With the operator's keys.
    pub fn with(ring: Arc<KeyRing>) -> Self {
        Self { ring: Some(ring), shared: OnceLock::new() }
    }

    /// Whether values are sealed.
    pub fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// Whether the store, once it is open, has sealed values.
    pub fn is_needed(&self) -> bool {
        self.shared.get().is_some_and(|keys| !keys.is_empty())
    }

    /// A new key for a subject; none: nothing is sealed.
    pub fn new_data_key(&self, subject: &str) -> Option<Arc<DataKey>> {
        self.ring.as_ref().map(|ring| Arc::new(ring.new_data_key(subject)))
    }

    /// The key that is stored with a subject; none is stored with one that was erased.
    pub fn key_of(&self, subject: &str, wrapped: Option<&str>) -> StoredKey {
        self.unwrap(subject, wrapped.ok_or(ERASED)?).map(Arc::new)
    }

    fn unwrap(&self, owner: &str, wrapped: &str) -> Result<DataKey, Cow<'static, str>> {
        self.ring.as_ref().ok_or(NO_KEYS)?.unwrap(owner, wrapped)
    }

    /// A subject's key, wrapped by the primary key; none: it is already, or cannot be unwrapped.
    pub fn wrapped_again(&self, subject: &str, wrapped: &str) -> Option<String> {
        self.ring.as_ref()?.wrapped_again(subject, wrapped)
    }

    /// Takes the shared keys of a store. The result is one to add to the store, and to take as well, if
    /// there is none to seal with.
    pub fn take_shared(&self, stored: &[SharedKey]) -> Option<SharedKey> {
        let keys: SharedKeys =
            stored.iter().map(|key| (key.number, self.unwrap(SHARED, &key.wrapped))).collect();
        let newest = keys.last_key_value();
        let (ring, needs_one) = (self.ring.as_deref(), newest.is_none_or(|(_, key)| key.is_err()));
        if let Some(ring) = ring.filter(|_| needs_one) {
            let number = newest.map_or(0, |(number, _)| *number) + 1;
            let wrapped = ring.new_data_key(SHARED).wrapped.into_string();
            return Some(SharedKey { number, wrapped });
        }
        for (number, problem) in keys.iter().filter_map(|(n, key)| Some((n, key.as_ref().err()?))) {
            tracing::error!(number, %problem, "what was sealed with this shared key cannot be read");
        }
        // A store is opened once.
        let _ = self.shared.set(keys);
        None
    }

    fn newest_shared(&self) -> Option<(u32, &DataKey)> {
        let (number, key) = self.shared.get()?.last_key_value()?;
        Some((*number, key.as_ref().ok()?))
    }

    /// A value as it is stored: sealed with the key of its subject, else with the shared one.
    pub fn seal<'a>(
        &self,
        key: Option<&DataKey>,
        place: Place<'_>,
        plain: &'a [u8],
    ) -> Cow<'a, [u8]> {
        if self.ring.is_none() {
            return codec::plain(plain);
        }
        if let Some(key) = key {
            let (nonce, sealed) = key.cipher.seal_at(place, plain);
            return Cow::Owned(codec::by_subject(&nonce, &sealed));
        }
        match self.newest_shared() {
            Some((number, key)) => {
                let (nonce, sealed) = key.cipher.seal_at(place, plain);
                Cow::Owned(codec::by_shared(number, &nonce, &sealed))
            }
            // A store is used once it is open, which it is with a shared key.
            None => Cow::Owned(codec::unreadable_value("there was no key to seal it with")),
        }
    }

    /// The same for a text, in Base64.
    pub fn seal_text<'a>(
        &self,
        key: Option<&DataKey>,
        place: Place<'_>,
        plain: &'a str,
    ) -> Cow<'a, str> {
        match self.seal(key, place, plain.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(plain),
            Cow::Owned(stored) => Cow::Owned(codec::to_text(&stored)),
        }
    }

    /// The value that was stored, given the [key of its subject](Self::key_of). What cannot be opened is
    /// [`unreadable`].
    pub fn open<'a>(&self, key: &StoredKey, place: Place<'_>, stored: &'a [u8]) -> Cow<'a, [u8]> {
        let opened = match codec::parse(stored) {
            Stored::Plain(plain) => return Cow::Borrowed(plain),
            Stored::Unreadable => return Cow::Borrowed(stored),
            Stored::BySubject(sealed) => {
                key.as_ref().map(|key| key.cipher.open_at(place, sealed)).map_err(Cow::clone)
            }
            Stored::ByShared(number, sealed) => {
                self.shared_key(number).map(|key| key.cipher.open_at(place, sealed))
            }
            Stored::Damaged => Ok(None),
        };
        let damaged = "it is damaged, or was moved from where it was sealed";
        match opened.and_then(|plain| plain.ok_or(Cow::Borrowed(damaged))) {
            Ok(plain) => Cow::Owned(plain),
            Err(reason) => Cow::Owned(codec::unreadable_value(&reason)),
        }
    }

    /// The same for a text.
    pub fn open_text<'a>(
        &self,
        key: &StoredKey,
        place: Place<'_>,
        stored: &'a str,
    ) -> Cow<'a, str> {
        let Some(bytes) = codec::from_text(stored) else { return Cow::Borrowed(stored) };
        let plain = self.open(key, place, &bytes).into_owned();
        let text = String::from_utf8(plain);
        let damaged =
            |_| String::from_utf8_lossy(&codec::unreadable_value("it is no text")).into_owned();
        Cow::Owned(text.unwrap_or_else(damaged))
    }

    /// A message's body as it is sent.
    pub fn seal_body(&self, key: Option<&DataKey>, place: Place<'_>, body: &Bytes) -> Bytes {
        match self.seal(key, place, body) {
            Cow::Borrowed(_) => body.clone(),
            Cow::Owned(sealed) => sealed.into(),
        }
    }

    fn shared_key(&self, number: u32) -> Result<&DataKey, Cow<'static, str>> {
        match self.shared.get().and_then(|keys| keys.get(&number)) {
            Some(key) => key.as_ref().map_err(Cow::clone),
            None if self.ring.is_none() => Err(NO_KEYS.into()),
            None => Err(format!(
                "this host has not read the shared key {number}, which is newer: start it again"
            )
            .into()),
        }
    }
}

impl KeyRing {
    fn new_data_key(&self, owner: &str) -> DataKey {
        self.wrap(owner, &rand::random())
    }

    fn wrap(&self, owner: &str, key: &[u8; KEY_BYTES]) -> DataKey {
        let (id, wrapping) = self.primary();
        let data = wrapping_place(owner).associated_data();
        let sealed = wrapping.seal(wrapping_context(&data), key);
        let wrapped = format!("{id}:{}", STANDARD_NO_PAD.encode(sealed)).into();
        DataKey { cipher: Cipher::new(key).unwrap_or_else(|| wrapping.clone()), wrapped }
    }

    fn unwrap(&self, owner: &str, wrapped: &str) -> Result<DataKey, Cow<'static, str>> {
        let cipher = Cipher::new(&self.unwrapped(owner, wrapped)?).ok_or(DAMAGED_KEY)?;
        Ok(DataKey { cipher, wrapped: wrapped.into() })
    }

    fn unwrapped(&self, owner: &str, wrapped: &str) -> Result<[u8; KEY_BYTES], Cow<'static, str>> {
        let (id, sealed) = wrapped.split_once(':').ok_or(DAMAGED_KEY)?;
        let wrapping =
            self.get(id).ok_or_else(|| format!("the key `{id}` is not in this host's key ring"))?;
        let sealed = STANDARD_NO_PAD.decode(sealed).map_err(|_| DAMAGED_KEY)?;
        let data = wrapping_place(owner).associated_data();
        let key = wrapping.open(wrapping_context(&data), &sealed);
        key.and_then(|key| key.try_into().ok())
            .ok_or_else(|| format!("{DAMAGED_KEY}, or `{id}` is now another key").into())
    }

    fn wrapped_again(&self, owner: &str, wrapped: &str) -> Option<String> {
        let (id, _) = wrapped.split_once(':')?;
        if id == self.primary().0 {
            return None;
        }
        let key = self.unwrapped(owner, wrapped).ok()?;
        Some(self.wrap(owner, &key).wrapped.into_string())
    }
}

/// Where a data key is wrapped.
fn wrapping_place(owner: &str) -> Place<'_> {
    Place::of("data key", owner)
}

fn wrapping_context(associated_data: &[u8]) -> Context<'_> {
    Context { nonce: WRAPPING_NONCE, associated_data }
}
