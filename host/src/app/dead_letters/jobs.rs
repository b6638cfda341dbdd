//! Work on many dead letters: a job takes the open dead letters of a filter, oldest first, and replays
//! or discards them at a bounded rate.
//!
//! Bounds: [`RUNNING_MAX`] jobs run at once, [`WAITING_MAX`] wait, [`KEPT_MAX`] are remembered; a
//! job holds one page of ids and has [`AT_ONCE`] dead letters under way. Jobs live in this host's memory
//! and end with it. Nothing is lost by that: a dead letter that no job has come to is still open, and
//! one that was settled meanwhile is passed over, so the same wish can be said again.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use governor::{Quota, RateLimiter};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{DeadLetterService, Edit, Prepared, Replayed};
use crate::store::{
    DeadLetterAction, DeadLetterCount, DeadLetterFilter, DeadLetterStatus, StoreError,
};

/// Letters a second where nothing else is said.
pub const RATE: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Most dead letters a second.
pub const RATE_MAX: u32 = 10_000;

const RUNNING_MAX: usize = 4;
const WAITING_MAX: usize = 16;
const KEPT_MAX: usize = 100;
/// Letters under way at once in one job.
const AT_ONCE: usize = 8;
const PAGE: u32 = 500;
/// Failures that are kept with their reason.
const FAILURES_MAX: usize = 20;
/// First and longest wait for a store that does not answer.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is to be done with each dead letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Run it again; the merge patch (RFC 7396) is applied to each body.
    Replay {
        /// None: as it was.
        patch: Option<Value>,
    },
    /// Close it for good.
    Discard {
        /// Why.
        reason: String,
    },
}

/// What a job is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The dead letters: those of them that are open when the job begins. Status, page and cursor do not
    /// count.
    pub filter: DeadLetterFilter,
    /// What is to be done.
    pub work: Work,
    /// Letters a second, at most.
    pub rate_per_second: NonZeroU32,
}

/// Why a job was not begun.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There are enough.
    #[error("too many jobs wait already; wait for one to end, or cancel one")]
    TooMany,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Others run before it.
    Waiting,
    /// Under way.
    Running,
    /// All dead letters were looked at.
    Done,
    /// Somebody cancelled it; what was not settled is still open.
    Cancelled,
    /// The host stopped; what was not settled is still open.
    Stopped,
}

/// A dead letter that a job could not settle; it is still open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobFailure {
    /// Its id.
    pub id: i64,
    /// Why.
    pub reason: String,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct JobStatus {
    /// How it stands.
    pub state: JobState,
    /// Letters that were open when it was asked for.
    pub total: u64,
    /// Letters that it settled.
    pub done: u64,
    /// Letters that somebody else settled, or that retention took.
    pub skipped: u64,
    /// Letters that it could not settle.
    pub failed: u64,
    /// The first of those.
    pub failures: Vec<JobFailure>,
    /// Milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub started_at_ms: Option<u64>,
    /// Milliseconds since 1970-01-01 UTC.
    pub ended_at_ms: Option<u64>,
}

/// A job of this host.
#[derive(Debug)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it was asked to do.
    pub task: Task,
    /// Only dead letters below are part of it: what dies while it runs is not.
    before: i64,
    cancel: CancellationToken,
    status: Mutex<JobStatus>,
}

impl Job {
    pub(super) fn new(
        task: Task,
        DeadLetterCount { count, last }: DeadLetterCount,
        now_ms: u64,
    ) -> Self {
        let status = JobStatus {
            state: JobState::Waiting,
            total: count,
            done: 0,
            skipped: 0,
            failed: 0,
            failures: Vec::new(),
            created_at_ms: now_ms,
            started_at_ms: None,
            ended_at_ms: None,
        };
        let id = uuid::Uuid::now_v7().to_string();
        Self {
            id,
            task,
            before: last + 1,
            cancel: CancellationToken::new(),
            status: Mutex::new(status),
        }
    }

    /// How far it is.
    pub fn status(&self) -> JobStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it where it is; what it settled stays settled.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    fn change(&self, change: impl FnOnce(&mut JobStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn has_ended(&self) -> bool {
        self.status().ended_at_ms.is_some()
    }
}

/// The jobs of a host.
pub(super) struct Jobs {
    kept: Mutex<VecDeque<Arc<Job>>>,
    waiting: mpsc::Sender<Arc<Job>>,
    /// Taken by whoever runs them.
    queue: Mutex<Option<mpsc::Receiver<Arc<Job>>>>,
}

impl Default for Jobs {
    fn default() -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        Self { kept: Mutex::default(), waiting, queue: Mutex::new(Some(queue)) }
    }
}

impl Jobs {
    pub(super) fn add(&self, job: Job) -> Result<Arc<Job>, StartError> {
        let job = Arc::new(job);
        self.waiting.try_send(Arc::clone(&job)).map_err(|_| StartError::TooMany)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front(Arc::clone(&job));
        // Those that are not over are few: they are bounded by the queue.
        while kept.len() > KEPT_MAX
            && let Some(oldest) = kept.iter().rposition(|job| job.has_ended())
        {
            kept.remove(oldest);
        }
        Ok(job)
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.all().into_iter().find(|job| job.id == id)
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Runs jobs as they come.
pub(super) async fn run(workbench: Arc<DeadLetterService>, stop: CancellationToken) {
    let queue = workbench.jobs.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut queue) = queue else { return };
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = running.join_next(), if !running.is_empty() => note_panic(ended),
            Some(job) = queue.recv(), if running.len() < RUNNING_MAX => {
                let (workbench, stop) = (Arc::clone(&workbench), stop.clone());
                running.spawn(async move { workbench.run_job(&job, &stop).await });
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        note_panic(ended);
    }
    queue.close();
    while let Some(job) = queue.recv().await {
        let now_ms = workbench.services.clock.now_ms();
        job.change(|status| (status.state, status.ended_at_ms) = (JobState::Stopped, Some(now_ms)));
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a job on dead letters panicked; what it did not settle is still open");
    }
}

/// What became of one dead letter.
enum Came {
    Done,
    Skipped,
    Failed(String),
    /// The job ended before.
    Left,
}

/// Says how a job ended, also when it panicked.
struct Ending<'a> {
    job: &'a Job,
    workbench: &'a DeadLetterService,
    state: JobState,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let (state, now_ms) = (self.state, self.workbench.services.clock.now_ms());
        self.job.change(|status| (status.state, status.ended_at_ms) = (state, Some(now_ms)));
        let JobStatus { done, skipped, failed, .. } = self.job.status();
        tracing::info!(job = %self.job.id, ?state, done, skipped, failed, "a job on dead letters ended");
    }
}

impl DeadLetterService {
    async fn run_job(&self, job: &Job, stop: &CancellationToken) {
        let mut ending = Ending { job, workbench: self, state: JobState::Stopped };
        let now_ms = self.services.clock.now_ms();
        job.change(|status| {
            (status.state, status.started_at_ms) = (JobState::Running, Some(now_ms))
        });
        // One token for both ways to end early: the job's own.
        let walk = self.walk(job);
        tokio::pin!(walk);
        let complete = tokio::select! {
            complete = &mut walk => complete,
            () = stop.cancelled() => {
                job.cancel();
                // What is under way is finished.
                walk.await;
                return;
            }
        };
        ending.state = if complete { JobState::Done } else { JobState::Cancelled };
        if complete {
            // What was settled before the job came to its page was passed over, too.
            job.change(|status| {
                status.skipped = status.total.saturating_sub(status.done + status.failed)
            });
        }
    }

    /// Goes through the dead letters; false when the job was cancelled.
    async fn walk(&self, job: &Job) -> bool {
        let rate = job.task.rate_per_second;
        // A tenth of a second's worth at once: timers are coarse.
        let burst = NonZeroU32::new(rate.get() / 10).unwrap_or(NonZeroU32::MIN);
        let pace = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        let mut after = 0;
        while let Some(ids) = self.next_ids(job, after).await {
            let Some(last) = ids.last() else { return true };
            after = *last;
            let mut ids = ids.into_iter().peekable();
            let mut settling = FuturesUnordered::new();
            loop {
                let more = ids.peek().is_some() && !job.cancel.is_cancelled();
                tokio::select! {
                    biased;
                    Some((id, came)) = settling.next(), if !settling.is_empty() => job.change(|status| note(status, id, came)),
                    () = job.cancel.cancelled(), if more => {}
                    () = pace.until_ready(), if more && settling.len() < AT_ONCE => settling.extend(ids.next().map(|id| self.settle(job, id))),
                    else => break,
                }
            }
        }
        false
    }

    /// The next dead letters; none when the job was cancelled.
    async fn next_ids(&self, job: &Job, after: i64) -> Option<Vec<i64>> {
        let open = Some(DeadLetterStatus::Open);
        let filter = DeadLetterFilter {
            status: open,
            before: Some(job.before),
            limit: PAGE,
            ..job.task.filter.clone()
        };
        let mut backoff = BACKOFF;
        while !job.cancel.is_cancelled() {
            match self.services.store.dead_letter_ids(filter.clone(), after).await {
                Ok(ids) => return Some(ids),
                Err(error) => pause(job, &mut backoff, &error).await,
            }
        }
        None
    }

    /// Settles one dead letter, waiting for the store as long as the job is wanted.
    async fn settle(&self, job: &Job, id: i64) -> (i64, Came) {
        (id, self.settle_patiently(job, id).await)
    }

    async fn settle_patiently(&self, job: &Job, id: i64) -> Came {
        let mut backoff = BACKOFF;
        let mut prepared = None;
        // A try whose answer was lost may have settled it.
        let mut tried = false;
        loop {
            match self.try_settle(job, id, &mut prepared).await {
                Ok(Came::Skipped) if tried => return self.came_of(job, id).await,
                Ok(came) => return came,
                Err(StoreError::Corrupt(why)) => return Came::Failed(why),
                Err(error) => pause(job, &mut backoff, &error).await,
            }
            if job.cancel.is_cancelled() {
                return Came::Left;
            }
            tried = true;
        }
    }

    async fn try_settle(
        &self,
        job: &Job,
        id: i64,
        prepared: &mut Option<Prepared>,
    ) -> Result<Came, StoreError> {
        let action = match &job.task.work {
            Work::Discard { reason } => self.discard(id, reason).await?,
            Work::Replay { patch } => {
                let prepared = match prepared {
                    Some(prepared) => prepared,
                    None => {
                        let edit = patch.clone().map_or(Edit::None, Edit::Patch);
                        match self.prepare(id, &edit).await? {
                            Ok(ready) => prepared.insert(ready),
                            Err(Replayed::NotEditable(why)) => return Ok(Came::Failed(why)),
                            Err(Replayed::Settled { .. }) => return Ok(Came::Skipped),
                        }
                    }
                };
                match self.replay_prepared(id, prepared).await? {
                    Replayed::Settled { action, .. } => action,
                    Replayed::NotEditable(why) => return Ok(Came::Failed(why)),
                }
            }
        };
        Ok(match action {
            DeadLetterAction::Done(_) => Came::Done,
            DeadLetterAction::AlreadySettled(_) | DeadLetterAction::NotFound => Came::Skipped,
        })
    }

    /// Whether a dead letter that is settled after a try without an answer is what this job wanted.
    async fn came_of(&self, job: &Job, id: i64) -> Came {
        let wanted = match job.task.work {
            Work::Replay { .. } => DeadLetterStatus::Replayed,
            Work::Discard { .. } => DeadLetterStatus::Discarded,
        };
        match self.services.store.dead_letter(id).await {
            Ok(Some(dead_letter)) if dead_letter.status == wanted => Came::Done,
            _ => Came::Skipped,
        }
    }
}

fn note(status: &mut JobStatus, id: i64, came: Came) {
    match came {
        Came::Done => status.done += 1,
        Came::Skipped => status.skipped += 1,
        Came::Failed(reason) => {
            status.failed += 1;
            if status.failures.len() < FAILURES_MAX {
                status.failures.push(JobFailure { id, reason });
            }
        }
        Came::Left => {}
    }
}

/// Waits for the store, or until the job is cancelled.
async fn pause(job: &Job, backoff: &mut Duration, error: &StoreError) {
    tracing::debug!(job = %job.id, %error, "a job on dead letters waits for the store");
    let wait = *backoff;
    *backoff = (wait * 2).min(BACKOFF_MAX);
    tokio::select! {
        () = job.cancel.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}
