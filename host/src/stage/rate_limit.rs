//! Rate limits: evenly spaced, without bursts.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Allows a number of operations per second.
pub type RateLimit = DefaultDirectRateLimiter;

/// At most `limit` operations per second; none for 0, which means no limit.
pub fn per_second(limit: u32) -> Option<RateLimit> {
    let quota = Quota::per_second(NonZeroU32::new(limit)?);
    Some(RateLimiter::direct(quota.allow_burst(NonZeroU32::MIN)))
}
