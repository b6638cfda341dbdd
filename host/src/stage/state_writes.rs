//! State writes: what a call changes in its stage's state, if its outcome is committed.

use std::collections::BTreeMap;

use bytes::Bytes;

/// The values that one call wrote by key; `None` removes the key.
pub type StateWrites = BTreeMap<String, Option<Bytes>>;
