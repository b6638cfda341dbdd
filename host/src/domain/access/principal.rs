//! Principals: who sends a request, once it was authenticated.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::role::{Permission, Role, Target};

/// How a principal was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// It was not: `auth.mode` is `none`.
    Anonymous,
    /// By an API key.
    ApiKey,
    /// By a JSON Web Token.
    Jwt,
    /// By an authenticator of the embedding program.
    Program,
}

impl PrincipalKind {
    /// Its name in ids, answers and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::ApiKey => "key",
            Self::Jwt => "jwt",
            Self::Program => "program",
        }
    }

    /// The kind of this name.
    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let all = [Self::Anonymous, Self::ApiKey, Self::Jwt, Self::Program];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// Who sends a request, and what it may do.
///
/// ```
/// use postrider::Principal;
///
/// let principal = Principal::new("ada", "Ada Lovelace")
///     .with_role("read".parse()?)
///     .with_role("operate:stage/payment".parse()?);
/// assert_eq!(principal.id(), "program/ada");
/// # Ok::<(), postrider::RoleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    id: String,
    kind: PrincipalKind,
    name: String,
    roles: Vec<Role>,
    /// The credential that was used, such as the id of an API key.
    credential: Option<String>,
    /// Until when the credential is valid, milliseconds since 1970-01-01 UTC; none: not known.
    expires_at_ms: Option<u64>,
}

impl Principal {
    /// A principal of the embedding program, without any role. `id` identifies it for ever: records
    /// of what it did, and the subjects that it submitted, have it. `name` is for people.
    #[must_use]
    pub fn new(id: &str, name: impl Into<String>) -> Self {
        Self::of_kind(PrincipalKind::Program, id, name)
    }

    pub(crate) fn of_kind(kind: PrincipalKind, id: &str, name: impl Into<String>) -> Self {
        let id = format!("{}/{id}", kind.name());
        Self {
            id,
            kind,
            name: name.into(),
            roles: Vec::new(),
            credential: None,
            expires_at_ms: None,
        }
    }

    /// The sender of every request to a host without authentication: it may do everything.
    pub(crate) fn anonymous() -> Arc<Self> {
        static ANONYMOUS: OnceLock<Arc<Principal>> = OnceLock::new();
        let make = || {
            let roles = Permission::ALL.into_iter().map(Role::everywhere);
            let name = "anonymous";
            Arc::new(Self::of_kind(PrincipalKind::Anonymous, name, name).with_roles(roles))
        };
        Arc::clone(ANONYMOUS.get_or_init(make))
    }

    /// Adds a role.
    #[must_use]
    pub fn with_role(mut self, role: Role) -> Self {
        self.roles.push(role);
        self
    }

    pub(crate) fn with_roles(mut self, roles: impl IntoIterator<Item = Role>) -> Self {
        self.roles.extend(roles);
        self
    }

    pub(crate) fn with_credential(mut self, credential: impl Into<String>) -> Self {
        self.credential = Some(credential.into());
        self
    }

    pub(crate) fn expiring(mut self, at_ms: Option<u64>) -> Self {
        self.expires_at_ms = at_ms;
        self
    }

    /// Until when its credential is valid, milliseconds since 1970-01-01 UTC.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        self.expires_at_ms
    }

    /// Its id without its kind.
    pub(crate) fn own_id(&self) -> &str {
        self.id.split_once('/').map_or(&*self.id, |(_, id)| id)
    }

    /// Its id, unique among all kinds of principals: `key/checkout`, `jwt/ada`, `program/42`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it was authenticated.
    pub(crate) fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its roles.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// The credential that it used.
    pub(crate) fn credential(&self) -> Option<&str> {
        self.credential.as_deref()
    }

    /// Whether one of its roles permits this on a target.
    pub(crate) fn may(&self, permission: Permission, target: Target<'_>) -> bool {
        self.roles.iter().any(|role| role.permits(permission, target))
    }
}

/// Who acts, and from where: what a request carries along, and what records of actions name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Requester {
    /// Who.
    pub principal: Arc<Principal>,
    /// The address of the connection: that of a proxy, if there is one. None: not known.
    pub address: Option<IpAddr>,
}

impl Requester {
    /// Whether one of its roles permits this on a target.
    pub fn may(&self, permission: Permission, target: Target<'_>) -> bool {
        self.principal.may(permission, target)
    }

    /// Its id as the owner of what it submits; none for an anonymous one.
    pub fn owner(&self) -> Option<&str> {
        let known = self.principal.kind() != PrincipalKind::Anonymous;
        known.then(|| self.principal.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anonymous_principal_may_do_everything_and_owns_nothing() {
        let requester = Requester { principal: Principal::anonymous(), address: None };
        for permission in Permission::ALL {
            assert!(requester.may(permission, Target::Everything), "{permission}");
        }
        assert_eq!(requester.owner(), None);
    }

    #[test]
    fn principals_of_different_kinds_have_different_ids() {
        let key = Principal::of_kind(PrincipalKind::ApiKey, "ada", "Ada");
        assert_eq!(key.id(), "key/ada");
        assert_eq!(Principal::new("ada", "Ada").id(), "program/ada");
        assert!(!key.may(Permission::Read, Target::Everything), "no role");
    }
}
