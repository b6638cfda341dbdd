//! Counts the events of each chain, and knows which chains operators stopped.
//!
//! Guarantee: a chain on this host ends near `events.chain_events_max`. Events are counted when their
//! commit is decided and taken back when it is refused, so the messages of one batch see each other's
//! events. Counting costs no row per event: the numbers are in memory, and only those of large chains
//! are recorded in the store (`background::control_sync`), which adds up all hosts and survives a
//! restart. What escapes the count is a small chain that is quiet while [`SMALL_MAX`] others emit,
//! and what other hosts emitted since the last exchange. Bounds: [`SMALL_MAX`] small chains and
//! [`CHAINS_MAX`] large ones, about 2 MB.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use lru::LruCache;

use crate::domain::event::Envelope;
use crate::store::{CHAINS_MAX, ChainCount, ChainRecord, ChainStop, NewEvent, Settlement, Verdict};

#[cfg(test)]
mod tests;

/// Chains whose events are counted before they are large.
const SMALL_MAX: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();
const LARGE_MAX: NonZeroUsize = NonZeroUsize::new(CHAINS_MAX).unwrap();
/// A chain is large from this share of the limit on.
const LARGE_SHARE: u64 = 10;
/// Rows that changed this long before the last known change are read again: a transaction that began
/// earlier may have been committed later.
const OVERLAP_MS: u64 = 10_000;
/// Code of a dead letter whose outcome would have exceeded the limit.
pub const CHAIN_LIMIT_CODE: &str = "chain-limit";

/// What affects a decision about an event of a chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainStatus {
    /// Events that stages emitted in it, as far as this host knows.
    pub events: u64,
    /// An operator stopped it.
    pub stopped: bool,
}

/// A chain of events as this host knows it.
///
/// ```no_run
/// # fn example(app: &postrider::App) {
/// for chain in app.chains().iter().filter(|chain| chain.stopped_at_ms.is_none()) {
///     println!("{} events follow from {}", chain.events, chain.correlation_id);
/// }
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainReport {
    /// Id of its first event.
    pub correlation_id: String,
    /// Events that stages emitted in it, since it began or was last resumed.
    pub events: u64,
    /// When the first one was emitted, milliseconds since 1970-01-01 UTC.
    pub first_at_ms: u64,
    /// When the last one was emitted, milliseconds since 1970-01-01 UTC.
    pub last_at_ms: u64,
    /// When it was stopped, milliseconds since 1970-01-01 UTC; none: it runs.
    pub stopped_at_ms: Option<u64>,
    /// Why, as the operator gave it.
    pub reason: Option<String>,
}

/// The chains of one host.
pub struct Chains {
    /// From this number of events on a chain is large.
    large_from: u64,
    counts: Mutex<Counts>,
    stopped: ArcSwap<HashMap<Arc<str>, ChainStop>>,
    refused: AtomicU64,
}

struct Counts {
    small: LruCache<Arc<str>, Count>,
    large: LruCache<Arc<str>, Count>,
    /// The last change in the store that was read.
    read_to_ms: u64,
    /// Chains that were stopped or resumed on this host.
    controls_set: u64,
}

#[derive(Clone, Copy)]
struct Count {
    /// Events that the store knows of, or is about to.
    recorded: u64,
    /// Events that this host has counted since; negative when recorded ones were taken back.
    unrecorded: i64,
    first_at_ms: u64,
    last_at_ms: u64,
}

impl Count {
    fn starting(at_ms: u64) -> Self {
        Self { recorded: 0, unrecorded: 0, first_at_ms: at_ms, last_at_ms: at_ms }
    }

    fn events(&self) -> u64 {
        self.recorded.saturating_add_signed(self.unrecorded)
    }

    fn add(&mut self, events: i64, at_ms: u64) {
        self.unrecorded += events;
        self.last_at_ms = self.last_at_ms.max(at_ms);
    }
}

impl Counts {
    fn find(&self, correlation_id: &str) -> Option<&Count> {
        self.small.peek(correlation_id).or_else(|| self.large.peek(correlation_id))
    }

    /// Adds events; a chain that reaches `large_from` becomes large.
    fn add(&mut self, correlation_id: &str, events: i64, at_ms: u64, large_from: u64) {
        if let Some(count) = self.small.get_mut(correlation_id) {
            count.add(events, at_ms);
            if count.events() >= large_from
                && let Some((id, count)) = self.small.pop_entry(correlation_id)
            {
                self.large.push(id, count);
            }
        } else if let Some(count) = self.large.get_mut(correlation_id) {
            count.add(events, at_ms);
        } else if events > 0 {
            let mut count = Count::starting(at_ms);
            count.add(events, at_ms);
            let chains =
                if count.events() >= large_from { &mut self.large } else { &mut self.small };
            chains.push(correlation_id.into(), count);
        }
    }

    /// The count of a large chain, which may have been small or unknown.
    fn large_mut(&mut self, correlation_id: &Arc<str>, at_ms: u64) -> &mut Count {
        let small = self.small.pop(&**correlation_id);
        if let Some(count) = small {
            self.large.push(Arc::clone(correlation_id), count);
        }
        self.large.get_or_insert_mut(Arc::clone(correlation_id), || Count::starting(at_ms))
    }
}

impl Chains {
    /// No chains yet; `events_max` is the limit that large ones are measured by.
    pub fn new(events_max: u64) -> Arc<Self> {
        let counts = Counts {
            small: LruCache::new(SMALL_MAX),
            large: LruCache::new(LARGE_MAX),
            read_to_ms: 0,
            controls_set: 0,
        };
        Arc::new(Self {
            large_from: (events_max / LARGE_SHARE).max(1),
            counts: Mutex::new(counts),
            stopped: ArcSwap::default(),
            refused: AtomicU64::new(0),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a decision about an event of this chain depends on.
    pub fn status(&self, correlation_id: &str) -> ChainStatus {
        ChainStatus {
            events: self.counts().find(correlation_id).map_or(0, Count::events),
            stopped: self.is_stopped(correlation_id),
        }
    }

    /// Whether an operator stopped this chain.
    pub fn is_stopped(&self, correlation_id: &str) -> bool {
        let stopped = self.stopped.load();
        !stopped.is_empty() && stopped.contains_key(correlation_id)
    }

    /// Begins to count the events of a batch.
    pub fn begin(self: &Arc<Self>) -> Counted {
        Counted { chains: Arc::clone(self), added: Vec::new(), refused: 0 }
    }

    /// Outcomes that were refused because their chain was at its limit, since the host started.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How many chains are stopped.
    pub fn stopped_len(&self) -> usize {
        self.stopped.load().len()
    }

    /// One chain; none when this host knows nothing of it.
    pub fn find(&self, correlation_id: &str) -> Option<ChainReport> {
        let count = self.counts().find(correlation_id).copied()?;
        Some(report(correlation_id, &count, self.stopped.load().get(correlation_id)))
    }

    /// The stopped chains, then the largest ones, at most `limit` in all.
    pub fn largest(&self, limit: usize) -> Vec<ChainReport> {
        let stopped = self.stopped.load();
        // Copied, so that no lane waits while they are sorted.
        let mut chains: Vec<(Arc<str>, Count)> = {
            let counts = self.counts();
            let all = counts.small.iter().chain(counts.large.iter());
            all.map(|(id, count)| (Arc::clone(id), *count)).collect()
        };
        chains.retain(|(id, count)| count.events() > 0 || stopped.contains_key(id));
        chains.sort_by_cached_key(|(id, count)| {
            (Reverse(stopped.contains_key(id)), Reverse(count.events()), Arc::clone(id))
        });
        chains.truncate(limit);
        chains.iter().map(|(id, count)| report(id, count, stopped.get(id))).collect()
    }

    /// Takes what the store does not know of large chains. [`Chains::restore`] gives it back if it
    /// could not be recorded.
    pub fn take_unrecorded(&self) -> Vec<ChainCount> {
        let mut counts = self.counts();
        let unrecorded = counts.large.iter_mut().filter(|(_, count)| count.unrecorded != 0);
        unrecorded
            .map(|(id, count)| {
                let events = std::mem::take(&mut count.unrecorded);
                count.recorded = count.recorded.saturating_add_signed(events);
                ChainCount {
                    correlation_id: Arc::clone(id),
                    events,
                    first_at_ms: count.first_at_ms,
                    last_at_ms: count.last_at_ms,
                }
            })
            .collect()
    }

    /// Gives back what could not be recorded.
    pub fn restore(&self, unrecorded: &[ChainCount]) {
        let mut counts = self.counts();
        for one in unrecorded {
            let count = counts.large_mut(&one.correlation_id, one.first_at_ms);
            count.recorded = count.recorded.saturating_add_signed(-one.events);
            count.unrecorded += one.events;
        }
    }

    /// The time from which on changes in the store are to be read.
    pub fn changed_since_ms(&self) -> u64 {
        self.counts().read_to_ms.saturating_sub(OVERLAP_MS)
    }

    /// The number of chains that were stopped or resumed on this host: what is read from the store
    /// after this call includes all of them.
    pub fn controls_set(&self) -> u64 {
        self.counts().controls_set
    }

    /// Applies what was read from the store: every stopped chain, and every change since
    /// [`Chains::changed_since_ms`]. It is dropped if a chain was stopped or resumed here since the
    /// number of them was `seen`: what was read may be older.
    pub fn apply(&self, records: &[ChainRecord], seen: u64) {
        let mut counts = self.counts();
        if counts.controls_set != seen {
            return;
        }
        let stopped: HashMap<Arc<str>, ChainStop> = records.iter().filter_map(stop_of).collect();
        if **self.stopped.load() != stopped {
            self.stopped.store(Arc::new(stopped));
        }
        // The newest come first; they are to be the last that the cache drops.
        for record in records.iter().rev() {
            apply_count(&mut counts, record);
            counts.read_to_ms = counts.read_to_ms.max(record.changed_at_ms);
        }
    }

    /// Applies a stop or a resume of this host without waiting for the next exchange.
    pub fn apply_control(&self, record: &ChainRecord) -> ChainReport {
        let mut counts = self.counts();
        counts.controls_set += 1;
        self.stopped.rcu(|stopped| {
            let mut stopped = HashMap::clone(stopped);
            stopped.remove(&record.correlation_id);
            stopped.extend(stop_of(record));
            stopped
        });
        if record.stop.is_none() {
            // What this host had not recorded belongs to the time before.
            counts.large_mut(&record.correlation_id, record.first_at_ms).unrecorded = 0;
        }
        let count = apply_count(&mut counts, record);
        report(&record.correlation_id, count, record.stop.as_ref())
    }
}

fn stop_of(record: &ChainRecord) -> Option<(Arc<str>, ChainStop)> {
    Some((Arc::clone(&record.correlation_id), record.stop.clone()?))
}

fn apply_count<'a>(counts: &'a mut Counts, record: &ChainRecord) -> &'a Count {
    let count = counts.large_mut(&record.correlation_id, record.first_at_ms);
    if record.events < count.recorded {
        // It was resumed: its events count from zero.
        count.unrecorded = count.unrecorded.min(0);
    }
    count.recorded = record.events;
    count.first_at_ms = count.first_at_ms.min(record.first_at_ms);
    count.last_at_ms = count.last_at_ms.max(record.last_at_ms);
    count
}

fn report(correlation_id: &str, count: &Count, stop: Option<&ChainStop>) -> ChainReport {
    ChainReport {
        correlation_id: correlation_id.to_owned(),
        events: count.events(),
        first_at_ms: count.first_at_ms,
        last_at_ms: count.last_at_ms,
        stopped_at_ms: stop.map(|stop| stop.at_ms),
        reason: stop.and_then(|stop| stop.reason.clone()),
    }
}

/// Events that were counted for a batch. They are taken back unless [`Counted::keep`] says that the
/// batch was committed.
#[must_use]
pub struct Counted {
    chains: Arc<Chains>,
    added: Vec<(Arc<Envelope>, i64)>,
    refused: u64,
}

impl Counted {
    /// Counts the events that a settlement sends.
    pub fn add(&mut self, settlement: &Settlement) {
        let sent: &[NewEvent] = match &settlement.verdict {
            Verdict::Done(events) => events,
            Verdict::Dead { code, announcement, .. } => {
                self.refused += u64::from(code == CHAIN_LIMIT_CODE);
                if announcement.only_logged { &[] } else { std::slice::from_ref(announcement) }
            }
            Verdict::Retry { .. } | Verdict::Skipped | Verdict::Deferred { .. } => &[],
        };
        let Some(first) = sent.first() else { return };
        let (envelope, events) = (&settlement.envelope, sent.len() as i64);
        let (at_ms, large_from) = (first.envelope.event.time_ms, self.chains.large_from);
        self.chains.counts().add(&envelope.correlation_id, events, at_ms, large_from);
        self.added.push((Arc::clone(envelope), events));
    }

    /// The batch was committed.
    pub fn keep(mut self) {
        self.added.clear();
        self.chains.refused.fetch_add(self.refused, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.added.is_empty() {
            return;
        }
        let mut counts = self.chains.counts();
        for (envelope, events) in &self.added {
            counts.add(&envelope.correlation_id, -events, 0, u64::MAX);
        }
    }
}
