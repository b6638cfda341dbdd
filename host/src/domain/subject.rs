//! Names subjects: what a chain of events is about, such as one order or one document.
//!
//! A subject's key is one text, `<kind>/<id>`: the log, the database and messages carry it as it is,
//! and the state that stages keep under the same prefix goes with the subject. Pure. Bounds: a key
//! has at most 169 bytes, and exactly one `/`.

use std::borrow::Borrow;
use std::fmt::{self, Formatter};
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::name::is_name;

/// Longest id.
const ID_MAX: usize = 128;
/// An id, as a regular expression. `.` and `..` are none: URLs give them a meaning of their own.
pub const ID_PATTERN: &str =
    "^([A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]{0,127}|\\.[A-Za-z0-9_~:@-]|\\.[A-Za-z0-9._~:@-]{2,127})$";
/// The key of a subject, as a regular expression.
pub const KEY_PATTERN: &str = "^[a-z][a-z0-9-]{0,39}/([A-Za-z0-9_~:@-][A-Za-z0-9._~:@-]{0,127}|\\.[A-Za-z0-9_~:@-]|\\.[A-Za-z0-9._~:@-]{2,127})$";
/// What an id may be, for people.
pub const ID_RULE: &str =
    "1 to 128 of the characters A-Z a-z 0-9 . _ ~ : @ -, other than `.` and `..`";

/// Whether this is a valid id of a subject.
pub fn is_id(text: &str) -> bool {
    (1..=ID_MAX).contains(&text.len())
        && !is_dot_segment(text)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~:@-".contains(&byte))
}

/// Whether a text cannot be a segment of a path: URLs resolve it.
pub fn is_dot_segment(text: &str) -> bool {
    matches!(text, "." | "..")
}

/// Identifies a subject on all hosts: `<kind>/<id>`.
///
/// ```
/// use postrider::SubjectKey;
///
/// let key: SubjectKey = "order/123".parse().expect("a key");
/// assert_eq!((key.kind(), key.id()), ("order", "123"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubjectKey(Arc<str>);

impl SubjectKey {
    /// The key of a subject whose kind and id are known to be valid.
    pub(crate) fn new(kind: &str, id: &str) -> Self {
        debug_assert!(is_name(kind) && is_id(id), "`{kind}/{id}`");
        Self(format!("{kind}/{id}").into())
    }

    /// A key from the store or from another host, where it was valid; none without a `/`.
    pub(crate) fn stored(text: &str) -> Option<Self> {
        text.contains('/').then(|| Self(text.into()))
    }

    /// The subject's kind, such as `order`.
    pub fn kind(&self) -> &str {
        self.parts().0
    }

    /// The subject's id, unique within its kind.
    pub fn id(&self) -> &str {
        self.parts().1
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or(("", &self.0))
    }
}

/// Why a text is not a subject's key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a subject: write `<kind>/<id>`, such as `order/123`")]
pub struct SubjectKeyError(String);

impl std::str::FromStr for SubjectKey {
    type Err = SubjectKeyError;

    fn from_str(text: &str) -> Result<Self, SubjectKeyError> {
        let valid = text.split_once('/').is_some_and(|(kind, id)| is_name(kind) && is_id(id));
        if valid { Ok(Self(text.into())) } else { Err(SubjectKeyError(text.to_owned())) }
    }
}

impl TryFrom<String> for SubjectKey {
    type Error = SubjectKeyError;

    fn try_from(text: String) -> Result<Self, SubjectKeyError> {
        text.parse()
    }
}

impl From<SubjectKey> for String {
    fn from(key: SubjectKey) -> Self {
        key.0.as_ref().to_owned()
    }
}

/// So that a map by keys can be asked with a text.
impl Borrow<str> for SubjectKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Deref for SubjectKey {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubjectKey {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for SubjectKey {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_kind_and_an_id() {
        let key: SubjectKey = "order/a:1".parse().unwrap();
        assert_eq!((key.kind(), key.id(), key.as_str()), ("order", "a:1", "order/a:1"));
        assert_eq!(key, SubjectKey::new("order", "a:1"));
        for invalid in ["", "order", "order/", "/1", "Order/1", "order/1/2", "order/..", "order/ä"]
        {
            let error = invalid.parse::<SubjectKey>().unwrap_err();
            assert!(error.to_string().contains("<kind>/<id>"), "{error}");
        }
    }

    #[test]
    fn the_patterns_agree_with_the_checks() {
        let pattern = regex::Regex::new(ID_PATTERN).unwrap();
        let keys = regex::Regex::new(KEY_PATTERN).unwrap();
        let long = "x".repeat(128);
        for text in [
            "",
            "a",
            "a b",
            "a/b",
            "ä",
            "a\t",
            "A.b_c~d:e@f-9",
            ".",
            "..",
            "...",
            ".a",
            "a.",
            "..a",
            &long,
            &format!("{long}y"),
        ] {
            assert_eq!(is_id(text), pattern.is_match(text), "{text}");
            let key = format!("order/{text}");
            assert_eq!(key.parse::<SubjectKey>().is_ok(), keys.is_match(&key), "{key}");
        }
    }
}
