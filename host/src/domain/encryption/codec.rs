//! How a value is marked as sealed or unreadable.
//!
//! What begins with [`MARK`] is sealed, unreadable, or a plain value that happens to begin like this.
//! Everything else is plain, so a store may hold both.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// What every value begins with that is not plain.
const MARK: &[u8] = b"\x01sealed\x01";
const PLAIN: u8 = b'0';
const BY_SUBJECT: u8 = b's';
const BY_SHARED: u8 = b'n';
const UNREADABLE: u8 = b'!';

/// Why a value whose data key was dropped is unreadable.
pub const ERASED: &str = "it was erased";

/// A stored value.
pub(super) enum Stored<'a> {
    Plain(&'a [u8]),
    BySubject(&'a [u8]),
    ByShared(u32, &'a [u8]),
    /// Written instead of a value, or read instead of one that could not be opened.
    Unreadable,
    Damaged,
}

pub(super) fn parse(stored: &[u8]) -> Stored<'_> {
    let Some(rest) = stored.strip_prefix(MARK) else { return Stored::Plain(stored) };
    match rest.split_first() {
        Some((&PLAIN, plain)) => Stored::Plain(plain),
        Some((&BY_SUBJECT, sealed)) => Stored::BySubject(sealed),
        Some((&BY_SHARED, rest)) => match rest.split_first_chunk() {
            Some((number, sealed)) => Stored::ByShared(u32::from_le_bytes(*number), sealed),
            None => Stored::Damaged,
        },
        Some((&UNREADABLE, _)) => Stored::Unreadable,
        _ => Stored::Damaged,
    }
}

/// A plain value as it is stored.
pub(super) fn plain(value: &[u8]) -> Cow<'_, [u8]> {
    if value.starts_with(MARK) { Cow::Owned(marked(PLAIN, &[value])) } else { Cow::Borrowed(value) }
}

pub(super) fn by_subject(nonce: &[u8], sealed: &[u8]) -> Vec<u8> {
    marked(BY_SUBJECT, &[nonce, sealed])
}

pub(super) fn by_shared(number: u32, nonce: &[u8], sealed: &[u8]) -> Vec<u8> {
    marked(BY_SHARED, &[&number.to_le_bytes(), nonce, sealed])
}

/// A value that stands for one that cannot be read, with the reason.
pub fn unreadable_value(reason: &str) -> Vec<u8> {
    marked(UNREADABLE, &[reason.as_bytes()])
}

fn marked(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut value = Vec::with_capacity(MARK.len() + 1 + length);
    value.extend(MARK);
    value.push(kind);
    for part in parts {
        value.extend(*part);
    }
    value
}

/// Why a value that was read is none: its place could not be opened.
pub fn unreadable(value: &[u8]) -> Option<Cow<'_, str>> {
    let reason = value.strip_prefix(MARK)?.strip_prefix(&[UNREADABLE])?;
    Some(String::from_utf8_lossy(reason))
}

/// A marked value as a text: what follows its kind is in Base64, except for a reason and for plain text.
pub(super) fn to_text(stored: &[u8]) -> String {
    let (head, rest) = stored.split_at(MARK.len() + 1);
    let mut text = String::from_utf8_lossy(head).into_owned();
    match head.last() {
        Some(&(PLAIN | UNREADABLE)) => text.push_str(&String::from_utf8_lossy(rest)),
        _ => STANDARD_NO_PAD.encode_string(rest, &mut text),
    }
    text
}

/// The value of a text that is not plain.
pub(super) fn from_text(text: &str) -> Option<Vec<u8>> {
    let rest = text.as_bytes().strip_prefix(MARK)?;
    let (kind, rest) = rest.split_first()?;
    match *kind {
        PLAIN | UNREADABLE => Some(text.as_bytes().to_vec()),
        kind => match STANDARD_NO_PAD.decode(rest) {
            Ok(bytes) => Some(marked(kind, &[&bytes])),
            Err(_) => Some(unreadable_value("it is damaged")),
        },
    }
}
