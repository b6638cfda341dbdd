//! The claims of a token: for whom it is, until when, and what it permits.

use serde_json::Value;

use super::JwtError;
use crate::config::JwtConfig;
use crate::domain::json;

/// Longest `sub` and longest name, in characters.
const TEXT_MAX: usize = 200;
/// Most roles that are read.
const ROLES_MAX: usize = 200;
/// Later than this, milliseconds would not fit.
const TIME_MAX_S: f64 = 253_402_207_200.0;

/// What a token says, once its signature, issuer and audience are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) subject: String,
    pub(super) name: Option<String>,
    /// Values of the configured claim.
    pub(super) roles: Vec<String>,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) expires_at_ms: u64,
    /// The latest time that the token names as the beginning of its validity.
    begins_at_ms: u64,
}

impl Claims {
    pub(super) fn read(payload: &[u8], config: &JwtConfig) -> Result<Self, JwtError> {
        let claims = json::parse(payload).ok().filter(Value::is_object);
        let claims = claims.ok_or_else(|| JwtError::invalid("its claims are not a JSON object"))?;
        if claims["iss"].as_str() != Some(&config.issuer) {
            return Err(JwtError::invalid("its issuer (`iss`) is another one"));
        }
        let audience = texts(&claims["aud"]);
        if !audience.iter().any(|one| config.audience.iter().any(|own| own == one)) {
            return Err(JwtError::invalid("it is for another audience (`aud`)"));
        }
        let subject = claims["sub"].as_str().filter(|subject| is_short(subject));
        let subject = subject.ok_or_else(|| {
            JwtError::invalid(format!("its `sub` must be a text of 1 to {TEXT_MAX} characters"))
        })?;
        let expires_at_ms =
            time(&claims, "exp")?.ok_or_else(|| JwtError::invalid("it never expires (`exp`)"))?;
        let begins = [time(&claims, "nbf")?, time(&claims, "iat")?];
        let roles = at(&claims, &config.roles_claim).map(words).unwrap_or_default();
        let name = at(&claims, &config.name_claim).and_then(Value::as_str);
        Ok(Self {
            subject: subject.to_owned(),
            name: name.filter(|name| is_short(name)).map(str::to_owned),
            roles: roles.into_iter().take(ROLES_MAX).collect(),
            expires_at_ms,
            begins_at_ms: begins.into_iter().flatten().max().unwrap_or_default(),
        })
    }

    /// Refuses a token before and after its time.
    pub(super) fn check_time(&self, now_ms: u64, leeway_ms: u64) -> Result<(), JwtError> {
        if now_ms >= self.expires_at_ms.saturating_add(leeway_ms) {
            return Err(JwtError::invalid("it has expired (`exp`)"));
        }
        if now_ms.saturating_add(leeway_ms) < self.begins_at_ms {
            return Err(JwtError::invalid("it is not valid yet (`nbf`, `iat`)"));
        }
        Ok(())
    }
}

fn is_short(text: &str) -> bool {
    (1..=TEXT_MAX).contains(&text.chars().count()) && !text.contains(char::is_control)
}

/// A text, or the texts of a list.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The same, with a text taken as words, as `scope` has them.
fn words(value: &Value) -> Vec<String> {
    let texts = texts(value);
    let of_list = value.is_array();
    let words = texts.into_iter().flat_map(|text| {
        if of_list { vec![text] } else { text.split_ascii_whitespace().collect() }
    });
    words.map(str::to_owned).collect()
}

/// The claim of a name, or at a JSON pointer.
fn at<'a>(claims: &'a Value, claim: &str) -> Option<&'a Value> {
    if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) }
}

/// A time in seconds since 1970-01-01 UTC, as milliseconds; none without the claim.
fn time(claims: &Value, name: &str) -> Result<Option<u64>, JwtError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=TIME_MAX_S).contains(seconds));
    let seconds =
        seconds.ok_or_else(|| JwtError::invalid(format!("its `{name}` is not a time")))?;
    Ok(Some((seconds * 1_000.0) as u64))
}
