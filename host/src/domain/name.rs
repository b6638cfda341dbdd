//! The rule for names of stages, namespaces and kinds of subjects.

/// The namespace of a host whose configuration names none.
pub const DEFAULT_NAMESPACE: &str = "orders";

/// Whether this is a valid name of a stage, a namespace or a kind: `[a-z][a-z0-9-]{0,39}`.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 40
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
