//! Query parameters: parsed as a whole, then checked one by one, so that one answer lists every
//! problem.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::domain::timestamp;
use crate::http::pages::{PAGE, PAGE_MAX};
use crate::http::problem::{Answer, Problem};

/// The parameters of a query; unknown ones and wrong types are refused with a problem document.
pub(crate) struct ValidQuery<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ValidQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let Query(query) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::invalid_query(rejection.body_text()))?;
        Ok(Self(query))
    }
}

/// Checks the parameters of a query and collects every problem.
#[derive(Default)]
pub(crate) struct QueryValidator {
    problems: Vec<String>,
}

impl QueryValidator {
    /// A time, as RFC 3339 or as milliseconds since 1970-01-01 UTC; returned as the latter.
    pub(crate) fn instant(&mut self, name: &str, text: Option<&str>) -> Option<u64> {
        self.record(name, timestamp::query_instant_ms(text?))
    }

    /// Anything that is parsed from text.
    pub(crate) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        name: &str,
        text: Option<&str>,
    ) -> Option<T> {
        self.record(name, text?.parse())
    }

    fn record<T>(&mut self, name: &str, read: Result<T, impl Display>) -> Option<T> {
        read.map_err(|problem| self.problems.push(format!("{name}: {problem}"))).ok()
    }

    /// A position in a list, or a number of milliseconds.
    pub(crate) fn position(&mut self, name: &str, position: Option<i64>) -> Option<i64> {
        if position.is_some_and(|position| position < 0) {
            self.problems.push(format!("{name}: must be at least 0"));
        }
        position
    }

    /// The page size; the default where none is given.
    pub(crate) fn limit(&mut self, asked: Option<u32>) -> u32 {
        self.limit_of(asked, PAGE, PAGE_MAX)
    }

    /// A number of items, up to `max`; the default where none is given.
    pub(crate) fn limit_of(&mut self, asked: Option<u32>, default: u32, max: u32) -> u32 {
        let limit = asked.unwrap_or(default);
        if !(1..=max).contains(&limit) {
            self.problems.push(format!("limit: {limit} must be from 1 to {max}"));
        }
        limit
    }

    /// Refuses the query when there were problems.
    pub(crate) fn finish(self) -> Answer<()> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid_query(self.problems.join("; ")))
        }
    }
}
