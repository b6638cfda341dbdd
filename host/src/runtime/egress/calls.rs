//! Admits the calls of one stage: by its grants, its rate and its number of concurrent calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::request::Parts;
use tokio::sync::Semaphore;

use super::dial::Dialer;
use super::rule::Rule;
use super::{CallError, Grants, Target};
use crate::stage::rate_limit::{self, RateLimit};

/// Hosts that are counted apart, times the outcomes.
const COUNTED_MAX: usize = 200;
/// What further ones are counted as.
const OTHERS: &str = "others";

/// The calls of one stage on this host.
pub struct Egress {
    pub(super) rules: Vec<Rule>,
    pub(super) timeout: Duration,
    pub(super) body_max_bytes: usize,
    pub(super) calls_max: u32,
    pub(super) slots: Arc<Semaphore>,
    pub(super) rate: Option<RateLimit>,
    pub(super) dialer: Dialer,
    counts: Mutex<BTreeMap<(String, &'static str), u64>>,
}

impl Egress {
    /// None without grants. Grants are validated with the configuration; an invalid one grants
    /// nothing.
    pub fn new(grants: &Grants) -> Option<Arc<Self>> {
        let secure = grants.http.iter().any(|grant| grant.scheme == "https");
        (!grants.http.is_empty())
            .then(|| Arc::new(Self::with_dialer(grants, Dialer::system(secure))))
    }

    pub(super) fn with_dialer(grants: &Grants, dialer: Dialer) -> Self {
        Self {
            rules: grants.http.iter().filter_map(|grant| Rule::parse(grant).ok()).collect(),
            timeout: Duration::from_millis(grants.http_timeout_ms),
            body_max_bytes: grants.http_body_max_bytes,
            calls_max: grants.http_calls_max,
            slots: Arc::new(Semaphore::new(grants.http_concurrency as usize)),
            rate: grants.http_rate_per_s.and_then(rate_limit::per_second),
            dialer,
            counts: Mutex::default(),
        }
    }

    /// The calls so far, by host and whether it answered.
    pub fn counts(&self) -> BTreeMap<(String, &'static str), u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a call.
    pub(super) fn count(&self, host: &str, answered: bool) {
        let outcome = if answered { "answered" } else { "failed" };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), outcome);
        // A grant may cover names without number.
        let key = if counts.len() >= COUNTED_MAX && !counts.contains_key(&key) {
            (OTHERS.to_owned(), outcome)
        } else {
            key
        };
        *counts.entry(key).or_default() += 1;
    }

    /// The target of a call, if it is granted as call number `number` (from 1) of its attempt. Does
    /// no I/O.
    pub fn admit(&self, request: &Parts, number: u32) -> Result<Target, CallError> {
        if number > self.calls_max {
            return Err(CallError::TooManyCalls(self.calls_max));
        }
        let mut target = Target::of(&request.uri)?;
        let mut covering =
            self.rules.iter().filter(|rule| rule.covers(&target, &request.method)).peekable();
        if covering.peek().is_none() {
            return Err(CallError::NotGranted(format!("{} {}", request.method, target.written)));
        }
        target.allow_private = covering.any(|rule| rule.allow_private);
        Ok(target)
    }
}
