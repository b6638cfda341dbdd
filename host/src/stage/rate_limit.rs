//! Limits of what happens per second: evenly spaced, without bursts.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// Lets so much through per second.
pub type RateLimit = DefaultDirectRateLimiter;

/// At most `limit` per second, one after another; none for 0.
pub fn per_second(limit: u32) -> Option<RateLimit> {
    let quota = Quota::per_second(NonZeroU32::new(limit)?);
    Some(RateLimiter::direct(quota.allow_burst(NonZeroU32::MIN)))
}
