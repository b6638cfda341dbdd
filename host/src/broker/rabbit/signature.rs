//! Signatures of hosts' messages: what tells them from those that other programs publish.
//!
//! A signature is HMAC-SHA-256, truncated to 128 bits, over everything that a host reads of a message:
//! every header of the host and of `CloudEvents`, the media type, the body, the namespace, and the stage
//! of a message that is sent to one stage. What the broker adds, such as `x-death`, is not covered and
//! is not trusted. Guarantee: a message that is authentic was sent by a host of this namespace with
//! these contents, perhaps more than once. Costs: one pass over the message, and about 50 bytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use sha2::Sha256;

use super::message::{CLOUD_EVENTS, ROUND};
use crate::store::MessageKey;

/// The header with the signature: the key's name, a dot, and the tag in Base64.
pub(super) const SIGNATURE: &str = "postrider-signature";
/// Prefix of the host's own headers.
const HOST: &str = "postrider-";
/// What the keys are used for.
const PURPOSE: &[u8] = b"postrider message 1";
/// 128 bits: a forger can try only a few of the possible tags.
const TAG_BYTES: usize = 16;
/// Digits of a key's name.
const ID_LENGTH: usize = 8;

/// A key that is ready to sign.
#[derive(Clone)]
pub(super) struct Signer {
    id: String,
    keyed: Hmac<Sha256>,
}

impl Signer {
    pub(super) fn new(key: &MessageKey) -> Self {
        let keyed = Hmac::new_from_slice(&key.secret).expect("a key may have any length");
        Self { id: key.id.clone(), keyed }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Adds the signature of a message to its headers.
    pub(super) fn sign(
        &self,
        headers: &mut FieldTable,
        place: Destination<'_>,
        contents: Contents<'_>,
    ) {
        // A host sends only texts.
        let Some(mac) = self.mac(headers, place, contents) else { return };
        let tag = URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..TAG_BYTES]);
        let signature = LongString::from(format!("{}.{tag}", self.id));
        headers.insert(SIGNATURE.into(), AMQPValue::LongString(signature));
    }

    /// None: a header that is covered is no text, so no host sent it.
    fn mac(
        &self,
        headers: &FieldTable,
        place: Destination<'_>,
        contents: Contents<'_>,
    ) -> Option<Hmac<Sha256>> {
        let mut mac = self.keyed.clone();
        let mut part = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_le_bytes());
            mac.update(bytes);
        };
        let headers = headers.inner();
        part(PURPOSE);
        part(place.namespace.as_bytes());
        // A message with a round is for one stage; others are for every stage that is bound.
        let is_direct = headers.contains_key(ROUND);
        part(if is_direct { place.stage.as_bytes() } else { &[] });
        part(contents.content_type.as_bytes());
        part(contents.body);
        for (name, value) in headers {
            let name = name.as_str();
            if !is_covered(name) {
                continue;
            }
            let AMQPValue::LongString(text) = value else { return None };
            part(name.as_bytes());
            part(text.as_bytes());
        }
        Some(mac)
    }
}

/// Whether a host reads the header.
fn is_covered(name: &str) -> bool {
    name.starts_with(CLOUD_EVENTS) || (name.starts_with(HOST) && name != SIGNATURE)
}

/// Where a message is sent to, or came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Destination<'a> {
    pub(super) namespace: &'a str,
    pub(super) stage: &'a str,
}

/// What a message holds beside its headers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    /// Empty: it has none.
    pub(super) content_type: &'a str,
    pub(super) body: &'a [u8],
}

/// The name of the key that signed a message, as the message says; none: it has no signature, or none
/// that a host makes.
pub(super) fn key_id(properties: &BasicProperties) -> Option<&str> {
    parts(properties.headers().as_ref()?).map(|(id, _)| id)
}

/// The name of the key, and the tag.
fn parts(headers: &FieldTable) -> Option<(&str, [u8; TAG_BYTES])> {
    let signature = headers.inner().get(SIGNATURE)?.as_long_string()?;
    let (id, tag) = std::str::from_utf8(signature.as_bytes()).ok()?.split_once('.')?;
    let is_id = id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((id, URL_SAFE_NO_PAD.decode(tag).ok()?.try_into().ok()?)).filter(|_| is_id)
}

/// Why a message that claims to be a host's is not; none: it is. Takes the same time for every wrong tag.
pub(super) fn problem(
    signers: &[Signer],
    headers: &FieldTable,
    place: Destination<'_>,
    contents: Contents<'_>,
) -> Option<String> {
    if !headers.inner().contains_key(SIGNATURE) {
        return Some("it has no signature".to_owned());
    }
    let Some((id, tag)) = parts(headers) else {
        return Some("its signature is not one that hosts make".to_owned());
    };
    let Some(signer) = signers.iter().find(|signer| signer.id == id) else {
        return Some(format!("it is signed with a key, `{id}`, that the store does not have"));
    };
    let fits = signer
        .mac(headers, place, contents)
        .is_some_and(|mac| mac.verify_truncated_left(&tag).is_ok());
    (!fits).then(|| {
        "its signature does not match: it was changed, or sent to another stage or namespace"
            .to_owned()
    })
}

#[cfg(test)]
mod tests;
