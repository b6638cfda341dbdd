//! Jobs: replay or discard the open dead letters of a filter, oldest first, at a bounded rate.
//!
//! Bounds: [`RUNNING_MAX`] jobs run at the same time, [`WAITING_MAX`] wait, [`REMEMBERED_MAX`] are
//! remembered; a job holds one page of ids and settles [`CONCURRENCY`] dead letters at a time. Jobs
//! live in this host's memory and end with it. Nothing is lost: a dead letter that no job has
//! reached is still open, and one that was settled meanwhile is skipped, so a job can be repeated.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use governor::{Quota, RateLimiter};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{DeadLetterService, Edit, Prepared, Replayed};
use crate::app::App;
use crate::app::audit::actor;
use crate::domain::actor::Actor;
use crate::store::{
    DeadLetterAction, DeadLetterCount, DeadLetterFilter, DeadLetterStatus, StoreError,
};

/// Default rate, dead letters per second.
pub const RATE: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
/// Highest rate, dead letters per second.
pub const RATE_MAX: u32 = 10_000;

const RUNNING_MAX: usize = 4;
const WAITING_MAX: usize = 16;
const REMEMBERED_MAX: usize = 100;
const CONCURRENCY: usize = 8;
const PAGE: u32 = 500;
/// Failures whose reason is kept.
const FAILURES_MAX: usize = 20;
/// First and longest pause while the store does not answer.
const BACKOFF: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a job does with each dead letter.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Replay it.
    Replay {
        /// Merge patch (RFC 7396) for each body; none: unchanged.
        patch: Option<Value>,
    },
    /// Discard it.
    Discard {
        /// Why; kept with each dead letter.
        reason: String,
    },
}

/// The task of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Which dead letters, of those that are open when the job is requested. Status, cursor and
    /// limit are ignored.
    pub filter: DeadLetterFilter,
    /// What to do with each.
    pub work: Work,
    /// Maximum of dead letters per second.
    pub rate_per_second: NonZeroU32,
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Too many jobs wait.
    #[error("too many jobs are waiting: wait for one to end, or cancel one")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Other jobs run first.
    Waiting,
    /// Under way.
    Running,
    /// Every dead letter was visited.
    Done,
    /// It was cancelled; what it did not settle is still open.
    Cancelled,
    /// The host stopped; what it did not settle is still open.
    Stopped,
}

/// A dead letter that a job could not settle; it is still open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobFailure {
    /// Id of the dead letter.
    pub id: i64,
    /// Why it could not be settled.
    pub reason: String,
}

/// The progress of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// Its state.
    pub state: JobState,
    /// Dead letters that were open when it was requested.
    pub total: u64,
    /// Dead letters that it settled.
    pub done: u64,
    /// Dead letters that were settled by others, or deleted by retention.
    pub skipped: u64,
    /// Dead letters that it could not settle.
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
    /// Its task.
    pub task: Task,
    /// Who started it.
    actor: Actor,
    /// Dead letters with this id or a higher one are not part of it: they were dead-lettered later.
    before: i64,
    cancel: CancellationToken,
    status: Mutex<JobStatus>,
}

impl Job {
    pub(super) fn new(task: Task, open: DeadLetterCount, now_ms: u64) -> Self {
        let DeadLetterCount { count, last } = open;
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
            actor: actor(),
            before: last + 1,
            cancel: CancellationToken::new(),
            status: Mutex::new(status),
        }
    }

    /// Returns its progress.
    pub fn status(&self) -> JobStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops it; what it has settled stays settled.
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
    remembered: Mutex<VecDeque<Arc<Job>>>,
    waiting: mpsc::Sender<Arc<Job>>,
    /// Survives a restart of the task.
    queue: tokio::sync::Mutex<mpsc::Receiver<Arc<Job>>>,
}

impl Default for Jobs {
    fn default() -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        Self { remembered: Mutex::default(), waiting, queue: tokio::sync::Mutex::new(queue) }
    }
}

impl Jobs {
    pub(super) fn add(&self, job: Job) -> Result<Arc<Job>, StartError> {
        let job = Arc::new(job);
        self.waiting.try_send(Arc::clone(&job)).map_err(|_| StartError::TooMany)?;
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.push_front(Arc::clone(&job));
        // Jobs that have not ended are never forgotten; the queue bounds their number.
        while remembered.len() > REMEMBERED_MAX
            && let Some(oldest) = remembered.iter().rposition(|job| job.has_ended())
        {
            remembered.remove(oldest);
        }
        Ok(job)
    }

    pub(super) fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.all().into_iter().find(|job| job.id == id)
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Runs jobs as they arrive.
pub(super) async fn run(service: Arc<DeadLetterService>, stop: CancellationToken) {
    let mut queue = service.jobs.queue.lock().await;
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = running.join_next(), if !running.is_empty() => note_panic(ended),
            Some(job) = queue.recv(), if running.len() < RUNNING_MAX => {
                let (service, stop) = (Arc::clone(&service), stop.clone());
                let run = async move {
                    App::acting_as(job.actor.clone(), service.run_job(&job, &stop)).await;
                };
                running.spawn(run.in_current_span());
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        note_panic(ended);
    }
    queue.close();
    while let Some(job) = queue.recv().await {
        let now_ms = service.services.clock.now_ms();
        job.change(|status| (status.state, status.ended_at_ms) = (JobState::Stopped, Some(now_ms)));
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a dead-letter job panicked; what it did not settle is still open");
    }
}

/// The result for one dead letter.
enum Settled {
    Done,
    Skipped,
    Failed(String),
    /// The job ended first; the dead letter is still open.
    Open,
}

/// Records the end of a job, even when it panics.
struct EndGuard<'a> {
    job: &'a Job,
    service: &'a DeadLetterService,
    state: JobState,
}

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        let (state, now_ms) = (self.state, self.service.services.clock.now_ms());
        self.job.change(|status| (status.state, status.ended_at_ms) = (state, Some(now_ms)));
        let JobStatus { done, skipped, failed, .. } = self.job.status();
        tracing::info!(job = %self.job.id, ?state, done, skipped, failed, "dead-letter job ended");
    }
}

impl DeadLetterService {
    async fn run_job(&self, job: &Job, stop: &CancellationToken) {
        let mut guard = EndGuard { job, service: self, state: JobState::Stopped };
        let now_ms = self.services.clock.now_ms();
        job.change(|status| {
            (status.state, status.started_at_ms) = (JobState::Running, Some(now_ms));
        });
        // One token for both ways to end early: the job's own.
        let walk = self.walk(job);
        tokio::pin!(walk);
        let complete = tokio::select! {
            complete = &mut walk => complete,
            () = stop.cancelled() => {
                job.cancel();
                // Dead letters in progress are settled before the host stops.
                walk.await;
                return;
            }
        };
        guard.state = if complete { JobState::Done } else { JobState::Cancelled };
        if complete {
            // Dead letters that were settled before the job reached their page count as skipped too.
            job.change(|status| {
                status.skipped = status.total.saturating_sub(status.done + status.failed);
            });
        }
    }

    /// Visits the dead letters; false when the job was cancelled.
    async fn walk(&self, job: &Job) -> bool {
        let rate = job.task.rate_per_second;
        // Bursts of a tenth of a second, because timers are coarse.
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
                    Some((id, settled)) = settling.next(), if !settling.is_empty() => job.change(|status| count(status, id, settled)),
                    () = job.cancel.cancelled(), if more => {}
                    () = pace.until_ready(), if more && settling.len() < CONCURRENCY => settling.extend(ids.next().map(|id| self.settle(job, id))),
                    else => break,
                }
            }
        }
        false
    }

    /// The next page of dead letters; none when the job was cancelled.
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

    async fn settle(&self, job: &Job, id: i64) -> (i64, Settled) {
        (id, self.settle_with_retries(job, id).await)
    }

    /// Settles one dead letter, and retries while the store does not answer and the job is not
    /// cancelled.
    async fn settle_with_retries(&self, job: &Job, id: i64) -> Settled {
        let mut backoff = BACKOFF;
        let mut prepared = None;
        // An attempt whose answer was lost may have settled it.
        let mut retried = false;
        loop {
            match self.attempt(job, id, &mut prepared).await {
                Ok(Settled::Skipped) if retried => return self.settled_by_retry(job, id).await,
                Ok(settled) => return settled,
                Err(error) if !error.is_transient() => return Settled::Failed(error.to_string()),
                Err(error) => pause(job, &mut backoff, &error).await,
            }
            if job.cancel.is_cancelled() {
                return Settled::Open;
            }
            retried = true;
        }
    }

    async fn attempt(
        &self,
        job: &Job,
        id: i64,
        prepared: &mut Option<Prepared>,
    ) -> Result<Settled, StoreError> {
        let action = match &job.task.work {
            Work::Discard { reason } => self.discard(id, reason).await?,
            Work::Replay { patch } => {
                let prepared = match prepared {
                    Some(prepared) => prepared,
                    None => {
                        let edit = patch.clone().map_or(Edit::None, Edit::Patch);
                        match self.prepare(id, &edit).await? {
                            Ok(ready) => prepared.insert(ready),
                            Err(Replayed::NotEditable(why)) => return Ok(Settled::Failed(why)),
                            Err(Replayed::Settled { .. }) => return Ok(Settled::Skipped),
                        }
                    }
                };
                match self.replay_prepared(id, prepared).await? {
                    Replayed::Settled { action, .. } => action,
                    Replayed::NotEditable(why) => return Ok(Settled::Failed(why)),
                }
            }
        };
        Ok(match action {
            DeadLetterAction::Done(_) => Settled::Done,
            DeadLetterAction::AlreadySettled(_) | DeadLetterAction::NotFound => Settled::Skipped,
        })
    }

    /// Whether a dead letter that is found settled after an unanswered attempt has the status that
    /// this job gives it.
    async fn settled_by_retry(&self, job: &Job, id: i64) -> Settled {
        let wanted = match job.task.work {
            Work::Replay { .. } => DeadLetterStatus::Replayed,
            Work::Discard { .. } => DeadLetterStatus::Discarded,
        };
        match self.services.store.dead_letter(id).await {
            Ok(Some(dead_letter)) if dead_letter.status == wanted => Settled::Done,
            _ => Settled::Skipped,
        }
    }
}

fn count(status: &mut JobStatus, id: i64, settled: Settled) {
    match settled {
        Settled::Done => status.done += 1,
        Settled::Skipped => status.skipped += 1,
        Settled::Failed(reason) => {
            status.failed += 1;
            if status.failures.len() < FAILURES_MAX {
                status.failures.push(JobFailure { id, reason });
            }
        }
        Settled::Open => {}
    }
}

/// Waits for the store, or until the job is cancelled.
async fn pause(job: &Job, backoff: &mut Duration, error: &StoreError) {
    tracing::debug!(job = %job.id, %error, "the store does not answer, the dead-letter job is waiting");
    let wait = *backoff;
    *backoff = (wait * 2).min(BACKOFF_MAX);
    tokio::select! {
        () = job.cancel.cancelled() => {}
        () = tokio::time::sleep(wait) => {}
    }
}
