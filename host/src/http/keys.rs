//! `/keys`: create, list, rotate and revoke API keys.

mod create;
mod list;
mod revoke;
mod rotate;
mod view;

pub(super) use self::create::*;
pub(super) use self::list::*;
pub(super) use self::revoke::*;
pub(super) use self::rotate::*;

use super::problem::{Kind, Problem};
use crate::app::keys::KeyError;

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Invalid(errors) => Self::invalid("key", errors),
            KeyError::NotFound(_) => Self::not_found(error.to_string()),
            KeyError::NotLive(_) => Self::new(Kind::KEY_ENDED, error.to_string()),
            KeyError::TooMany(_) => Self::new(Kind::TOO_MANY_KEYS, error.to_string()),
            KeyError::Store(error) => error.into(),
        }
    }
}
