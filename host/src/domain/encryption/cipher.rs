//! The cipher: AES-256-GCM-SIV, if this build has it.

use super::{KEY_BYTES, NONCE_BYTES};

/// A key that is ready for use.
#[cfg(feature = "encryption")]
#[derive(Clone)]
pub(super) struct Cipher(aes_gcm_siv::Aes256GcmSiv);

/// Without the cargo feature `encryption` there is none.
#[cfg(not(feature = "encryption"))]
#[derive(Clone)]
pub(super) struct Cipher(#[expect(dead_code, reason = "there is none")] [u8; KEY_BYTES]);

/// With the nonce, what a ciphertext is bound to.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) associated_data: &'a [u8],
}

#[cfg(feature = "encryption")]
impl Cipher {
    #[expect(clippy::unnecessary_wraps, reason = "other builds have none")]
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
        use aes_gcm_siv::KeyInit as _;
        Some(Self(aes_gcm_siv::Aes256GcmSiv::new(key.into())))
    }

    /// Ciphertext and tag.
    pub(super) fn seal(&self, context: Context<'_>, plain: &[u8]) -> Vec<u8> {
        use aes_gcm_siv::aead::{Aead as _, Payload};
        let payload = Payload { msg: plain, aad: context.associated_data };
        self.0.encrypt(&context.nonce.into(), payload).expect("no value has 64 GiB")
    }

    /// None: it is not what this key sealed in this context.
    pub(super) fn open(&self, context: Context<'_>, sealed: &[u8]) -> Option<Vec<u8>> {
        use aes_gcm_siv::aead::{Aead as _, Payload};
        let payload = Payload { msg: sealed, aad: context.associated_data };
        self.0.decrypt(&context.nonce.into(), payload).ok()
    }
}

#[cfg(not(feature = "encryption"))]
impl Cipher {
    pub(super) fn new(_: &[u8; KEY_BYTES]) -> Option<Self> {
        None
    }

    #[expect(clippy::unused_self, reason = "there is none")]
    pub(super) fn seal(&self, _: Context<'_>, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }

    #[expect(clippy::unused_self, reason = "there is none")]
    pub(super) fn open(&self, _: Context<'_>, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}
