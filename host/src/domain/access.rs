//! Who may do what: permissions, roles with their scopes, and principals. Pure.
//!
//! A role permits what it names, and what follows from it: `operate` includes `read`, and `admin`
//! includes `read`, `submit` and `operate`, in the same scope. Seeing payloads and seeing the names
//! of secrets follow from no other role.

mod principal;
mod role;

pub(crate) use self::principal::Requester;
pub use self::principal::{Principal, PrincipalKind};
pub use self::role::{Permission, Role, RoleError, Target};
