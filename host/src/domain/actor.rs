//! Who acts, for records of what was done.

use std::net::IpAddr;
use std::sync::Arc;

/// Who did something, as the audit log records it.
///
/// ```
/// use postrider::Actor;
///
/// let actor = Actor::new("program", "program/nightly-clean-up");
/// assert_eq!(actor.id(), "program/nightly-clean-up");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    kind: Arc<str>,
    id: Arc<str>,
    address: Option<IpAddr>,
}

impl Actor {
    /// An actor of a kind (how it was authenticated) with an id that identifies it for ever.
    pub fn new(kind: impl Into<Arc<str>>, id: impl Into<Arc<str>>) -> Self {
        Self { kind: kind.into(), id: id.into(), address: None }
    }

    /// The program that a host runs in.
    pub(crate) fn program() -> Self {
        Self::new("program", "program")
    }

    /// A host itself.
    pub(crate) fn host(name: &str) -> Self {
        Self::new("host", format!("host/{name}"))
    }

    /// The sender of a request to a host without authentication.
    pub(crate) fn anonymous() -> Self {
        Self::new("anonymous", "anonymous")
    }

    /// The same, at the other end of a connection from this address.
    #[must_use]
    pub fn at(self, address: Option<IpAddr>) -> Self {
        Self { address, ..self }
    }

    /// How it was authenticated.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What identifies it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it acts from; none: in the host's own process.
    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }
}
