//! Roles: a permission, and what it is limited to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::event::{topic_matches, topic_problem};
use crate::domain::name::is_name;

/// What a route may require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// See subjects, events, stages and dead letters, without their payloads.
    Read,
    /// Submit subjects and events, follow and cancel subjects.
    Submit,
    /// Pause, resume, replay, discard, roll back.
    Operate,
    /// Manage API keys, import events.
    Admin,
    /// See the payloads of subjects, events, dead letters and recordings.
    Payloads,
    /// See the names of secrets.
    SecretNames,
}

impl Permission {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Submit, Self::Operate, Self::Admin, Self::Payloads, Self::SecretNames];

    /// Its name, which is also that of the role.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Operate => "operate",
            Self::Admin => "admin",
            Self::Payloads => "payloads",
            Self::SecretNames => "secret-names",
        }
    }

    /// Whether a role of this name permits `other`.
    const fn includes(self, other: Self) -> bool {
        match (self, other) {
            (Self::Operate, Self::Read)
            | (Self::Admin, Self::Read | Self::Submit | Self::Operate) => true,
            _ => self as u8 == other as u8,
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a request acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Everything, or something that is no part of a scope: only a role without a scope permits it.
    Everything,
    /// A stage.
    Stage(&'a str),
    /// Events of a type.
    Type(&'a str),
    /// Anything that some scope covers: the rest is checked once it is known what it is.
    Anything,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything | Self::Anything => Ok(()),
            Self::Stage(stage) => write!(formatter, "stage/{stage}"),
            Self::Type(event_type) => write!(formatter, "type/{event_type}"),
        }
    }
}

/// What a role is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Everything,
    Stage(String),
    /// A topic pattern.
    Type(String),
}

impl Scope {
    fn covers(&self, target: Target<'_>) -> bool {
        match (self, target) {
            (Self::Everything, _) | (_, Target::Anything) => true,
            (Self::Stage(own), Target::Stage(stage)) => own == stage,
            (Self::Type(pattern), Target::Type(event_type)) => topic_matches(pattern, event_type),
            _ => false,
        }
    }
}

/// A role, as it is written: `read`, `operate:stage/payment`, `submit:type/order.created`.
///
/// ```
/// use postrider::Role;
///
/// let role: Role = "operate:stage/payment".parse()?;
/// assert_eq!(role.to_string(), "operate:stage/payment");
/// assert!("admin:stage/payment".parse::<Role>().is_err());
/// # Ok::<(), postrider::RoleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Role {
    permission: Permission,
    scope: Scope,
}

impl Role {
    /// The role of this name without a scope.
    pub(crate) const fn everywhere(permission: Permission) -> Self {
        Self { permission, scope: Scope::Everything }
    }

    /// Whether it permits this on a target.
    pub(crate) fn permits(&self, permission: Permission, target: Target<'_>) -> bool {
        self.permission.includes(permission) && self.scope.covers(target)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.permission)?;
        match &self.scope {
            Scope::Everything => Ok(()),
            Scope::Stage(stage) => write!(formatter, ":stage/{stage}"),
            Scope::Type(pattern) => write!(formatter, ":type/{pattern}"),
        }
    }
}

/// Why a text is not a role.
///
/// ```
/// use postrider::{Role, RoleError};
///
/// let error: RoleError = "operator".parse::<Role>().unwrap_err();
/// assert!(error.to_string().contains("`operate`"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{role}` is not a role: {why}")]
pub struct RoleError {
    role: String,
    why: String,
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        parse(text).map_err(|why| RoleError { role: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Role, String> {
    let (name, scope) = text.split_once(':').map_or((text, None), |(name, on)| (name, Some(on)));
    let permission = Permission::ALL.into_iter().find(|one| one.name() == name);
    let permission = permission.ok_or_else(|| {
        let names: Vec<String> =
            Permission::ALL.iter().map(|permission| format!("`{permission}`")).collect();
        format!("use one of {}, such as `operate` or `operate:stage/payment`", names.join(", "))
    })?;
    let Some(scope) = scope else { return Ok(Role::everywhere(permission)) };
    let scope = match (permission, scope.split_once('/')) {
        (Permission::Read | Permission::Operate, Some(("stage", stage))) if is_name(stage) => {
            Scope::Stage(stage.to_owned())
        }
        (Permission::Submit, Some(("type", pattern))) => {
            if let Some(problem) = topic_problem(pattern) {
                return Err(format!("the event type `{pattern}` {problem}"));
            }
            Scope::Type(pattern.to_owned())
        }
        (Permission::Read | Permission::Operate, _) => {
            return Err(format!("its scope must be a stage, such as `{name}:stage/payment`"));
        }
        (Permission::Submit, _) => {
            return Err(
                "its scope must be an event type, such as `submit:type/payment.*`".to_owned()
            );
        }
        _ => return Err(format!("`{name}` has no scope")),
    };
    Ok(Role { permission, scope })
}

impl TryFrom<String> for Role {
    type Error = RoleError;

    fn try_from(text: String) -> Result<Self, RoleError> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(role: &str, permission: Permission, target: Target<'_>) -> bool {
        role.parse::<Role>().unwrap().permits(permission, target)
    }

    #[test]
    fn roles_include_what_follows_from_them_and_nothing_else() {
        for (role, included) in [
            ("read", &[Permission::Read][..]),
            ("submit", &[Permission::Submit]),
            ("operate", &[Permission::Read, Permission::Operate]),
            (
                "admin",
                &[Permission::Read, Permission::Submit, Permission::Operate, Permission::Admin],
            ),
            ("payloads", &[Permission::Payloads]),
            ("secret-names", &[Permission::SecretNames]),
        ] {
            for permission in Permission::ALL {
                let expected = included.contains(&permission);
                assert_eq!(permits(role, permission, Target::Everything), expected, "{role}");
            }
        }
    }

    #[test]
    fn a_scope_limits_a_role() {
        let role = "operate:stage/payment";
        for (target, expected) in [
            (Target::Stage("payment"), true),
            (Target::Stage("shipping"), false),
            (Target::Type("payment"), false),
            (Target::Everything, false),
            (Target::Anything, true),
        ] {
            assert_eq!(permits(role, Permission::Operate, target), expected, "{target:?}");
            assert_eq!(permits(role, Permission::Read, target), expected, "{target:?}");
            assert!(!permits(role, Permission::Submit, target));
        }
        assert!(permits("submit:type/order.*", Permission::Submit, Target::Type("order.created")));
        assert!(!permits("submit:type/order.*", Permission::Submit, Target::Type("a.b")));
        assert!(permits("submit", Permission::Submit, Target::Type("a.b")));
    }

    #[test]
    fn what_is_no_role_is_refused_with_what_would_be_one() {
        for (text, hint) in [
            ("", "`read`"),
            ("operator", "`operate`"),
            ("admin:stage/payment", "has no scope"),
            ("payloads:stage/payment", "has no scope"),
            ("operate:payment", "operate:stage/payment"),
            ("operate:stage/Payment!", "operate:stage/payment"),
            ("operate:type/a.b", "operate:stage/payment"),
            ("submit:stage/payment", "submit:type/payment.*"),
            ("submit:type/", "event type"),
        ] {
            let error = text.parse::<Role>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        for text in ["read", "read:stage/a-1", "operate:stage/payment", "submit:type/order.#"] {
            assert_eq!(text.parse::<Role>().unwrap().to_string(), text);
        }
    }
}
