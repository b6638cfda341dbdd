//! Lists: their pages.

use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;
use utoipa::ToSchema;

use super::problem::{Answer, Problem};
use crate::domain::timestamp;

/// Largest page of a list.
pub(super) const PAGE_MAX: u32 = 200;
/// Its size where nobody says.
pub(super) const PAGE: u32 = 50;

/// A list that is given as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Listing<T> {
    pub(super) items: Vec<T>,
    /// The `cursor` of the next page; none at the end.
    pub(super) next: Option<i64>,
}

/// A page of a list whose cursors are taken as they are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpaqueListing<T> {
    pub(super) items: Vec<T>,
    /// The `cursor` of the next page; none at the end.
    pub(super) next: Option<String>,
}

/// What a query says, checked; every problem is kept.
#[derive(Default)]
pub(super) struct QueryValidator {
    problems: Vec<String>,
}

impl QueryValidator {
    /// A time in either form, milliseconds since 1970-01-01 UTC.
    pub(super) fn instant(&mut self, name: &str, text: Option<&str>) -> Option<u64> {
        self.kept(name, timestamp::instant_ms(text?))
    }

    /// Whatever is read from text.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        name: &str,
        text: Option<&str>,
    ) -> Option<T> {
        self.kept(name, text?.parse())
    }

    fn kept<T>(&mut self, name: &str, read: Result<T, impl Display>) -> Option<T> {
        read.map_err(|problem| self.problems.push(format!("{name}: {problem}"))).ok()
    }

    /// A place in a list, or a number of milliseconds.
    pub(super) fn position(&mut self, name: &str, position: Option<i64>) -> Option<i64> {
        if position.is_some_and(|position| position < 0) {
            self.problems.push(format!("{name}: must be at least 0"));
        }
        position
    }

    /// A page size within the bounds.
    pub(super) fn limit(&mut self, asked: Option<u32>) -> u32 {
        let limit = asked.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            self.problems.push(format!("limit: {limit} must be from 1 to {PAGE_MAX}"));
        }
        limit
    }

    /// All that was wrong, if anything was.
    pub(super) fn finish(self) -> Answer<()> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(Problem::bad_query(self.problems.join("; ")))
        }
    }
}
