//! A bounded number of clients: the rate at which each may send requests, and what its requests hold.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use lru::LruCache;

/// Clients that are shown for each of what they may use a lot of.
const SHOWN_MAX: usize = 10;
const MINUTE_S: u64 = 60;

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Clients by their keys.
pub(in crate::http) struct Clients<K, C: Clock = DefaultClock> {
    /// Of each client; none: no limit.
    quota: Option<Quota>,
    most: NonZeroUsize,
    clock: C,
    start: C::Instant,
    known: Mutex<LruCache<K, Client<C>>>,
}

struct Client<C: Clock> {
    limiter: Option<Limiter<C>>,
    recent: RecentRequests,
    refused: u64,
    usage: Arc<Usage>,
}

/// What the requests of a client hold. It outlives its client if that is forgotten.
#[derive(Default)]
pub(in crate::http) struct Usage {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// What a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) struct Figures {
    /// Requests whose answer was not sent yet.
    pub(in crate::http) requests: u64,
    /// Bytes of their bodies, with what their JSON needs once it is parsed.
    pub(in crate::http) bytes: u64,
    /// Requests in the last minute, about.
    pub(in crate::http) last_minute: u64,
    /// Requests that were refused because of the rate limit, since the client is known.
    pub(in crate::http) refused: u64,
}

impl<K: Hash + Eq> Clients<K> {
    /// Without clients, of which at most so many are remembered.
    pub(super) fn new(quota: Option<Quota>, most: NonZeroUsize) -> Self {
        Self::with_clock(quota, most, DefaultClock::default())
    }
}

impl<K: Hash + Eq, C: Clock + Clone> Clients<K, C> {
    fn with_clock(quota: Option<Quota>, most: NonZeroUsize, clock: C) -> Self {
        // Its bound would be allocated.
        let known = Mutex::new(LruCache::unbounded());
        Self { quota, most, start: clock.now(), clock, known }
    }

    /// Counts a request of a client, and returns what that client holds.
    ///
    /// # Errors
    /// The client sent too many, and may send the next one after this time.
    pub(super) fn admit<Q>(&self, key: &Q) -> Result<Arc<Usage>, Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut known = self.lock();
        if known.len() >= self.most.get() && !known.contains(key) {
            known.pop_lru();
        }
        let client = known.get_or_insert_mut_ref(key, || self.newcomer());
        client.recent.add(self.now_s());
        if let Some(limiter) = &client.limiter
            && let Err(until) = limiter.check()
        {
            client.refused += 1;
            return Err(until.wait_time_from(self.clock.now()));
        }
        Ok(Arc::clone(&client.usage))
    }

    /// The clients that hold the most bytes, then those of the others that sent the most requests in
    /// the last minute.
    pub(in crate::http) fn largest(&self) -> Vec<(K, Figures)>
    where
        K: Clone,
    {
        let (known, now_s) = (self.lock(), self.now_s());
        let mut all: Vec<(&K, Figures)> =
            known.iter().map(|(key, client)| (key, client.figures(now_s))).collect();
        all.sort_unstable_by_key(|(_, one)| Reverse((one.bytes, one.last_minute, one.refused)));
        let (by_bytes, others) = all.split_at_mut(SHOWN_MAX.min(known.len()));
        others.sort_unstable_by_key(|(_, one)| Reverse((one.last_minute, one.refused)));
        let shown = by_bytes.iter().chain(others.iter().take(SHOWN_MAX));
        shown.map(|(key, figures)| ((*key).clone(), *figures)).collect()
    }

    fn newcomer(&self) -> Client<C> {
        let limiter = self.quota.map(|quota| Limiter::direct_with_clock(quota, self.clock.clone()));
        Client { limiter, recent: RecentRequests::default(), refused: 0, usage: Arc::default() }
    }

    fn now_s(&self) -> u64 {
        Duration::from(self.clock.now().duration_since(self.start)).as_secs()
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<K, Client<C>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Clock> Client<C> {
    fn figures(&self, now_s: u64) -> Figures {
        Figures {
            requests: self.usage.requests.load(Ordering::Relaxed),
            bytes: self.usage.bytes.load(Ordering::Relaxed),
            last_minute: self.recent.last_minute(now_s),
            refused: self.refused,
        }
    }
}

impl Usage {
    pub(super) fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_request(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The requests of a minute and of the one before it.
#[derive(Debug, Clone, Copy, Default)]
struct RecentRequests {
    minute: u64,
    now: u64,
    before: u64,
}

impl RecentRequests {
    fn add(&mut self, now_s: u64) {
        *self = self.at(now_s / MINUTE_S);
        self.now += 1;
    }

    /// Those of this minute, and the part of the ones before that is as long as the rest of it.
    fn last_minute(self, now_s: u64) -> u64 {
        let Self { now, before, .. } = self.at(now_s / MINUTE_S);
        now + before * (MINUTE_S - now_s % MINUTE_S) / MINUTE_S
    }

    fn at(self, minute: u64) -> Self {
        match minute.saturating_sub(self.minute) {
            0 => self,
            1 => Self { minute, now: 0, before: self.now },
            _ => Self { minute, now: 0, before: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn clients(
        quota: Option<Quota>,
        most: usize,
    ) -> (Clients<String, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Clients::with_clock(quota, NonZeroUsize::new(most).unwrap(), clock.clone()), clock)
    }

    fn two_per_second() -> Quota {
        let two = NonZeroU32::new(2).unwrap();
        Quota::per_second(two).allow_burst(NonZeroU32::new(3).unwrap())
    }

    #[test]
    fn a_client_sends_a_burst_and_then_at_its_rate() {
        let (clients, clock) = clients(Some(two_per_second()), 10);
        let is_admitted = |key: &str| clients.admit(key).is_ok();
        assert_eq!([(); 4].map(|()| is_admitted("a")), [true, true, true, false]);
        assert!(is_admitted("b"), "another one is not concerned");
        assert_eq!(clients.admit("a").err(), Some(Duration::from_millis(500)));
        clock.advance(Duration::from_millis(499));
        assert!(!is_admitted("a"));
        clock.advance(Duration::from_millis(1));
        assert_eq!([(); 2].map(|()| is_admitted("a")), [true, false], "refusals cost nothing");
    }

    #[test]
    fn without_a_quota_requests_are_only_counted() {
        let (clients, _) = clients(None, 10);
        assert!((0..1_000).all(|_| clients.admit("a").is_ok()));
        assert_eq!(clients.largest()[0].1.last_minute, 1_000);
    }

    #[test]
    fn the_client_that_was_quiet_for_the_longest_is_forgotten() {
        let (clients, _) = clients(Some(two_per_second()), 2);
        let known = || {
            let mut keys: Vec<String> = clients.largest().into_iter().map(|(key, _)| key).collect();
            keys.sort_unstable();
            keys
        };
        for key in ["a", "b", "a", "c"] {
            clients.admit(key).unwrap();
        }
        assert_eq!(known(), ["a", "c"]);
        clients.admit("a").unwrap();
        assert!(clients.admit("a").is_err(), "what is remembered of it counts");
    }

    #[test]
    fn a_forgotten_client_ends_its_requests() {
        let (clients, _) = clients(None, 1);
        let usage = clients.admit("a").unwrap();
        usage.begin_request();
        clients.admit("b").unwrap();
        usage.end_request();
        assert_eq!(clients.largest().len(), 1);
    }

    #[test]
    fn the_largest_by_bytes_come_before_the_largest_by_requests() {
        let (clients, _) = clients(Some(two_per_second()), 1_000);
        for number in 0..100 {
            clients.admit(&number.to_string()).unwrap();
        }
        clients.admit("large").unwrap().hold(7);
        for _ in 0..5 {
            let _ = clients.admit("often");
        }
        let usage = clients.admit("small").unwrap();
        usage.hold(6);
        usage.begin_request();
        let largest = clients.largest();
        let keys: Vec<&str> = largest.iter().take(3).map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["large", "small", "often"]);
        assert_eq!(largest.len(), 2 * SHOWN_MAX);
        assert_eq!(largest[1].1, Figures { requests: 1, bytes: 6, last_minute: 1, refused: 0 });
        assert_eq!(largest[2].1, Figures { requests: 0, bytes: 0, last_minute: 5, refused: 2 });
        usage.release(6);
        usage.end_request();
        assert_ne!(clients.largest()[1].0, "small");
    }

    #[test]
    fn requests_of_the_last_minute_fade_away() {
        let mut recent = RecentRequests::default();
        (0..60).for_each(|_| recent.add(59));
        assert_eq!(recent.last_minute(59), 60);
        recent.add(75);
        assert_eq!(recent.last_minute(75), 1 + 45);
        assert_eq!(recent.last_minute(119), 1 + 1);
        assert_eq!(recent.last_minute(120), 1);
        assert_eq!(recent.last_minute(180), 0);
    }
}
