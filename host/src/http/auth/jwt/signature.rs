//! The compact form of a signed token (RFC 7515), and its signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{hmac, signature};
use serde_json::Value;

use super::JwtError;
use crate::config::JwtAlgorithm;
use crate::domain::json;

/// Longest `kid`.
const KID_MAX: usize = 256;
/// What `typ` may be.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// A token whose signature was not verified yet.
pub(super) struct Token<'a> {
    /// What its header says.
    pub(super) algorithm: JwtAlgorithm,
    pub(super) kid: Option<String>,
    /// What is signed.
    signed: &'a [u8],
    signature: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl<'a> Token<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, JwtError> {
        let form = || JwtError::invalid("it must be three parts in base64, separated by dots");
        let (signed, signature) = text.rsplit_once('.').ok_or_else(form)?;
        let (header, payload) = signed.split_once('.').ok_or_else(form)?;
        if payload.contains('.') {
            return Err(form());
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| form());
        let header = json::parse(&decode(header)?);
        let header = header.map_err(|_| JwtError::invalid("its header is not JSON"))?;
        let algorithm = algorithm(&header)?;
        if header.get("crit").is_some() {
            return Err(JwtError::invalid("its header has `crit`, which is not supported"));
        }
        let of_jwt = |kind: &Value| {
            kind.as_str().is_some_and(|kind| TYPES.iter().any(|one| kind.eq_ignore_ascii_case(one)))
        };
        if header.get("typ").is_some_and(|kind| !of_jwt(kind)) {
            return Err(JwtError::invalid("its `typ` is not `JWT`"));
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= KID_MAX => Some(kid.clone()),
            Some(_) => return Err(JwtError::invalid("its `kid` is not a short text")),
        };
        let (signature, payload) = (decode(signature)?, decode(payload)?);
        Ok(Self { algorithm, kid, signed: signed.as_bytes(), signature, payload })
    }

    /// Whether a key made its signature. The key must be of the algorithm's type.
    pub(super) fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        use JwtAlgorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, RS256, RS384, RS512};
        let (signed, mark) = (self.signed, &self.signature[..]);
        let hmac = |algorithm, secret: &[u8]| {
            hmac::verify(&hmac::Key::new(algorithm, secret), signed, mark).is_ok()
        };
        let rsa = |parameters, modulus: &[u8], exponent: &[u8]| {
            let key = signature::RsaPublicKeyComponents { n: modulus, e: exponent };
            key.verify(parameters, signed, mark).is_ok()
        };
        let public = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(signed, mark).is_ok()
        };
        match (self.algorithm, key) {
            (HS256, VerifyingKey::Secret(secret)) => hmac(hmac::HMAC_SHA256, secret),
            (HS384, VerifyingKey::Secret(secret)) => hmac(hmac::HMAC_SHA384, secret),
            (HS512, VerifyingKey::Secret(secret)) => hmac(hmac::HMAC_SHA512, secret),
            (RS256, VerifyingKey::Rsa { n, e }) => {
                rsa(&signature::RSA_PKCS1_2048_8192_SHA256, n, e)
            }
            (RS384, VerifyingKey::Rsa { n, e }) => {
                rsa(&signature::RSA_PKCS1_2048_8192_SHA384, n, e)
            }
            (RS512, VerifyingKey::Rsa { n, e }) => {
                rsa(&signature::RSA_PKCS1_2048_8192_SHA512, n, e)
            }
            (ES256, VerifyingKey::P256(point)) => {
                public(&signature::ECDSA_P256_SHA256_FIXED, point)
            }
            (ES384, VerifyingKey::P384(point)) => {
                public(&signature::ECDSA_P384_SHA384_FIXED, point)
            }
            (EdDSA, VerifyingKey::Ed25519(key)) => public(&signature::ED25519, key),
            _ => false,
        }
    }
}

/// A key, by its type.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum VerifyingKey {
    Secret(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl VerifyingKey {
    /// Whether it is of the type that an algorithm needs.
    pub(super) fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        use JwtAlgorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, RS256, RS384, RS512};
        match self {
            Self::Secret(_) => matches!(algorithm, HS256 | HS384 | HS512),
            Self::Rsa { .. } => matches!(algorithm, RS256 | RS384 | RS512),
            Self::P256(_) => algorithm == ES256,
            Self::P384(_) => algorithm == ES384,
            Self::Ed25519(_) => algorithm == EdDSA,
        }
    }
}

/// The algorithm of a header; `none` is no algorithm.
fn algorithm(header: &Value) -> Result<JwtAlgorithm, JwtError> {
    let Some(name) = header.get("alg").and_then(Value::as_str) else {
        return Err(JwtError::invalid("its header has no `alg`"));
    };
    serde_json::from_value(Value::String(name.to_owned())).map_err(|_| {
        let shown: String = name.chars().take(20).filter(|one| !one.is_control()).collect();
        JwtError::invalid(format!("the algorithm `{shown}` is not accepted"))
    })
}
