//! Turns of the namespaces of a process: one with a queue waits while another one that has used less is
//! at work.
//!
//! Threads of their own share the processors between namespaces, but not the disk, the database and the
//! broker: what a flooded namespace has begun there delays every other. So it begins less while others
//! work. It only saves delay. Bounds: a batch or the next request waits for at most [`WAIT_MAX`], so no
//! namespace stops; without a queue, or when it is the one that has used less, nothing waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest wait of a batch, or of the first of the requests that wait.
const WAIT_MAX: Duration = Duration::from_millis(25);
/// A namespace counts as being at work for this long after its last request or batch: between two
/// stages, a subject is in no one's hands.
const LINGER: Duration = Duration::from_millis(10);
/// Time between two looks at the others.
const STEP: Duration = Duration::from_millis(1);
/// More requests in progress, or messages at hand, are a queue.
const QUEUE_MIN: u32 = 16;
/// Messages of a batch that had to wait.
const SHORT_BATCH: usize = 8;
/// The half-life of what was used.
const HALF_LIFE: Duration = Duration::from_secs(1);

/// Where a namespace waits for its turn. One that is alone in its process never waits.
#[derive(Clone, Default)]
pub struct Turnstile(Option<Arc<Place>>);

struct Place {
    all: Arc<[Mutex<Usage>]>,
    own: usize,
    /// Requests wait one behind the other.
    requests: tokio::sync::Mutex<()>,
}

/// What a namespace does, and has done lately.
#[derive(Default)]
struct Usage {
    requests: u32,
    batches: u32,
    /// Requests and messages, each halved with every half-life.
    used: f64,
    /// When that was changed: the end of the last request or batch.
    at: Option<Instant>,
}

impl Usage {
    fn used(&self, now: Instant) -> f64 {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.used * 0.5_f64.powf(since.as_secs_f64() / HALF_LIFE.as_secs_f64())
    }

    fn add(&mut self, units: usize) {
        let now = Instant::now();
        self.used = self.used(now) + units as f64;
        self.at = Some(now);
    }

    fn is_at_work(&self, now: Instant) -> bool {
        let lately = self.at.is_some_and(|at| now.saturating_duration_since(at) < LINGER);
        self.requests > 0 || self.batches > 0 || lately
    }
}

impl Turnstile {
    /// One for each of `count` namespaces.
    pub fn of_process(count: usize) -> Vec<Self> {
        let all: Arc<[Mutex<Usage>]> = (0..count).map(|_| Mutex::default()).collect();
        let place =
            |own| Place { all: Arc::clone(&all), own, requests: tokio::sync::Mutex::default() };
        (0..count).map(|own| Self((count > 1).then(|| Arc::new(place(own))))).collect()
    }

    /// Waits for the turn of a request that writes.
    pub async fn request(&self) -> Option<Turn> {
        let place = self.0.as_ref()?;
        let has_queue = {
            let mut own = place.usage(place.own);
            own.requests += 1;
            own.requests > QUEUE_MIN
        };
        let turn = Turn { place: Arc::clone(place), kind: Kind::Request };
        if has_queue {
            let _first = place.requests.lock().await;
            place.wait().await;
        }
        Some(turn)
    }

    /// Waits for the turn of a batch for which there are `len` messages. Returns how many it may have.
    pub async fn batch(&self, len: usize) -> (usize, Option<Turn>) {
        let Some(place) = &self.0 else { return (len, None) };
        let waited = len > QUEUE_MIN as usize && place.wait().await;
        let len = if waited { len.min(SHORT_BATCH) } else { len };
        place.usage(place.own).batches += 1;
        (len, Some(Turn { place: Arc::clone(place), kind: Kind::Batch(len) }))
    }
}

impl Place {
    fn usage(&self, of: usize) -> MutexGuard<'_, Usage> {
        self.all[of].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while another namespace that has used less is at work. Whether it had to.
    async fn wait(&self) -> bool {
        let start = Instant::now();
        while self.must_wait() {
            if start.elapsed() >= WAIT_MAX {
                return true;
            }
            tokio::time::sleep(STEP).await;
        }
        start.elapsed() >= STEP
    }

    fn must_wait(&self) -> bool {
        let now = Instant::now();
        let own = self.usage(self.own).used(now);
        let mut others = (0..self.all.len()).filter(|of| *of != self.own);
        others.any(|of| {
            let other = self.usage(of);
            other.is_at_work(now) && other.used(now) < own
        })
    }
}

enum Kind {
    Request,
    /// With this many messages.
    Batch(usize),
}

/// A request or a batch in progress, until it is dropped.
pub struct Turn {
    place: Arc<Place>,
    kind: Kind,
}

impl Turn {
    /// Whether it is the turn of another namespace by now.
    pub fn is_over(&self) -> bool {
        self.place.must_wait()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut own = self.place.usage(self.place.own);
        match self.kind {
            Kind::Request => {
                own.requests -= 1;
                own.add(1);
            }
            Kind::Batch(len) => {
                own.batches -= 1;
                own.add(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_that_is_alone_never_waits() {
        let only = Turnstile::of_process(1).remove(0);
        assert_eq!(only.batch(500).await.0, 500);
        assert!(only.request().await.is_none());
    }

    #[tokio::test]
    async fn a_queue_waits_for_a_namespace_that_has_used_less() {
        let [busy, light] = <[Turnstile; 2]>::try_from(Turnstile::of_process(2)).ok().unwrap();
        // No other namespace is at work.
        assert_eq!(busy.batch(500).await.0, 500);
        let working = light.batch(1).await;
        assert_eq!(busy.batch(500).await.0, SHORT_BATCH, "it waited");
        assert_eq!(busy.batch(3).await.0, 3, "three messages are no queue");
        assert_eq!(light.batch(100).await.0, 100, "it has used less");
        drop(working);
        tokio::time::sleep(LINGER * 2).await;
        assert_eq!(busy.batch(500).await.0, 500);
    }

    #[tokio::test]
    async fn requests_wait_one_behind_the_other() {
        let [busy, light] = <[Turnstile; 2]>::try_from(Turnstile::of_process(2)).ok().unwrap();
        drop(busy.batch(500).await);
        let _working = light.request().await;
        let mut queue = Vec::new();
        for _ in 0..QUEUE_MIN {
            queue.push(busy.request().await);
        }
        let start = Instant::now();
        for _ in 0..2 {
            queue.push(busy.request().await);
        }
        assert!(start.elapsed() >= WAIT_MAX * 2, "{:?}", start.elapsed());
    }
}
