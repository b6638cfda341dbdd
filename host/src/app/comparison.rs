//! The comparison of a candidate, which is another build of a stage's plugin, with what the stage
//! decided: its recordings run through the candidate, one after another.
//!
//! Guarantee: the candidate reads only what was recorded and calls nothing; its decisions are
//! compared and dropped, so nothing is stored but the record in the audit log. Bounds: one
//! comparison at a time, [`COMPARED_MAX`] events, [`RUN_MAX`] for all calls, [`LISTED_MAX`] events of
//! each verdict in the report. It ends when its future is dropped, or when the host stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::App;
use super::audit::actor;
use crate::domain::subject::SubjectKey;
use crate::plugins::{Candidate, CandidateError};
use crate::stage::handler::StageHandler;
use crate::stage::recording::Recorded;
use crate::store::{AuditEntry, AuditOutcome, RecordingCursor, RecordingFilter, StoreError};
use crate::worker::replay::{Replay, ReplayReport};

/// Events that are compared unless the request says otherwise.
pub(crate) const COMPARED: u32 = 500;
/// Most events that are compared.
pub(crate) const COMPARED_MAX: u32 = 10_000;
/// Events of each verdict in a report.
const LISTED_MAX: usize = 50;
/// Recordings that are read at a time.
const PAGE: u32 = 100;
/// How far back events are compared unless the request says otherwise.
const SINCE_MS: u64 = 60 * 60 * 1_000;
/// After this long no further event is compared.
const RUN_MAX: Duration = Duration::from_mins(1);

/// Which recordings of a stage are compared, oldest first.
pub(crate) struct ComparisonFilter {
    pub(crate) stage: String,
    /// Settled at or after, milliseconds since 1970-01-01 UTC; none: in the last hour, or all of the
    /// subject.
    pub(crate) since_ms: Option<i64>,
    /// Only this subject's.
    pub(crate) subject: Option<SubjectKey>,
    /// Most events.
    pub(crate) limit: u32,
}

/// Why a candidate is not compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ComparisonError {
    /// No host knows such a stage.
    #[error("no stage `{0}`")]
    UnknownStage(String),
    /// The host compares another candidate.
    #[error(
        "the host compares another candidate, and compares one at a time: retry when it is done"
    )]
    Busy,
    /// There is nothing to compare with: why, and what to do.
    #[error("{0}")]
    NoRecordings(String),
    /// The candidate cannot run.
    #[error(transparent)]
    Candidate(#[from] CandidateError),
    /// The candidate is another plugin than the stage's.
    #[error(
        "the component is the plugin `{found}`, and the stage `{stage}` is served by the plugin \
         `{expected}`: send a build of `{expected}`, or compare with the stage that `{found}` serves"
    )]
    OtherPlugin { stage: String, found: String, expected: String },
    /// The host stops.
    #[error("the host is stopping: retry on another host, or later")]
    Stopping,
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A version that decided, or would.
pub(crate) struct ComparedVersion {
    pub(crate) version: String,
    /// SHA-256 of the file.
    pub(crate) digest: String,
}

impl ComparedVersion {
    fn of(handler: &dyn StageHandler) -> Self {
        let (version, digest) = (&handler.description().version, handler.digest());
        Self { version: version.clone(), digest: digest.to_owned() }
    }
}

/// What came of a comparison.
pub(crate) struct ComparisonReport {
    pub(crate) stage: String,
    pub(crate) candidate: ComparedVersion,
    /// What serves the stage on this host.
    pub(crate) serving: Option<ComparedVersion>,
    pub(crate) found: ReplayReport,
    /// Whether it ended because it took too long.
    pub(crate) timed_out: bool,
}

/// A comparison for which there is a place and something to compare with.
pub(crate) struct Comparison<'a> {
    app: &'a App,
    filter: ComparisonFilter,
    page: Vec<Recorded>,
    next: Option<RecordingCursor>,
    _place: OwnedSemaphorePermit,
}

impl App {
    /// Begins a comparison: takes the only place, and reads the first recordings.
    pub(crate) async fn begin_comparison(
        &self,
        filter: ComparisonFilter,
    ) -> Result<Comparison<'_>, ComparisonError> {
        if !self.is_known(&filter.stage) {
            return Err(ComparisonError::UnknownStage(filter.stage));
        }
        let place = Arc::clone(&self.comparing).try_acquire_owned();
        let place = place.map_err(|_| ComparisonError::Busy)?;
        let now_ms = self.services.clock.now_ms();
        let hour = || now_ms.saturating_sub(SINCE_MS) as i64;
        let since = filter.since_ms.or_else(|| filter.subject.is_none().then(hour));
        let after = since.map(RecordingCursor::before).unwrap_or_default();
        let mut comparison =
            Comparison { app: self, filter, page: Vec::new(), next: Some(after), _place: place };
        comparison.turn_page(0).await?;
        if comparison.page.is_empty() {
            return Err(ComparisonError::NoRecordings(self.why_no_recordings(&comparison.filter)));
        }
        Ok(comparison)
    }

    fn why_no_recordings(&self, filter: &ComparisonFilter) -> String {
        let stage = &filter.stage;
        if self.services.pipeline.config().recording.enabled {
            let of = filter.subject.as_ref().map(|subject| format!(" of `{subject}`"));
            format!(
                "no recording of the stage `{stage}`{} was settled in this period: choose an \
                 earlier `since`, or wait until the stage has handled events",
                of.unwrap_or_default()
            )
        } else {
            format!(
                "the stage `{stage}` has no recordings, because this host records nothing: set \
                 `recording.enabled = true`, restart it, and compare when the stage has handled events"
            )
        }
    }
}

impl Comparison<'_> {
    /// Compares a candidate with what was recorded.
    pub(crate) async fn run(self, content: Bytes) -> Result<ComparisonReport, ComparisonError> {
        let stopping = self.app.stopping.clone();
        tokio::select! {
            biased;
            () = stopping.cancelled() => Err(ComparisonError::Stopping),
            compared = self.compare(content) => compared,
        }
    }

    async fn compare(mut self, content: Bytes) -> Result<ComparisonReport, ComparisonError> {
        let serving = self.app.services.pipeline.find(&self.filter.stage);
        let serving = serving.and_then(|stage| stage.running());
        let serving = serving.as_ref().map(|running| &*running.handler);
        let handler = self.load(content, serving).await?;
        let candidate = ComparedVersion::of(&*handler);
        let pipeline = &self.app.services.pipeline;
        let stage: Arc<str> = self.filter.stage.as_str().into();
        let policy = pipeline.config().stage_policy(&stage, handler.description());
        let limits = pipeline.config_of(&stage).limits.state_limits();
        let replay = Replay::new(handler, policy, limits, BTreeMap::new());
        let (found, timed_out) = self.replay(&replay).await?;
        let serving = serving.map(ComparedVersion::of);
        Ok(ComparisonReport { stage: self.filter.stage, candidate, serving, found, timed_out })
    }

    /// Loads the candidate, and records that it is compared, or was refused.
    async fn load(
        &self,
        content: Bytes,
        serving: Option<&dyn StageHandler>,
    ) -> Result<Arc<dyn StageHandler>, ComparisonError> {
        let (app, stage) = (self.app, &self.filter.stage);
        let candidate = Candidate::of(content).await?;
        let digest = Arc::clone(&candidate.digest);
        let limits = app.services.pipeline.config_of(stage).limits;
        let loaded = app.candidates.load(candidate, limits).await.map_err(Into::into);
        let loaded = loaded.and_then(|handler| self.check_name(handler, serving));
        let before = serving.map_or(Value::Null, |serving| json!({ "digest": serving.digest() }));
        let entry = AuditEntry::new(&actor(), "plugin.compare", format!("stage/{stage}"))
            .change(before, json!({ "candidate": &*digest }));
        match &loaded {
            Ok(_) => app.record(entry).await,
            Err(why) => {
                let outcome = AuditOutcome::Refused;
                app.record(AuditEntry { outcome, ..entry.because(Some(why.to_string())) }).await;
            }
        }
        loaded
    }

    /// Refuses another plugin than the one that serves the stage, whose name need not be the stage's.
    fn check_name(
        &self,
        handler: Arc<dyn StageHandler>,
        serving: Option<&dyn StageHandler>,
    ) -> Result<Arc<dyn StageHandler>, ComparisonError> {
        let found = &handler.description().name;
        match serving.map(|serving| &serving.description().name) {
            Some(expected) if expected != found => Err(ComparisonError::OtherPlugin {
                stage: self.filter.stage.clone(),
                found: found.clone(),
                expected: expected.clone(),
            }),
            _ => Ok(handler),
        }
    }

    /// Runs the recordings through the candidate. Returns whether it took too long.
    async fn replay(&mut self, replay: &Replay) -> Result<(ReplayReport, bool), ComparisonError> {
        let (began, mut found) = (Instant::now(), ReplayReport::new(LISTED_MAX));
        while !self.page.is_empty() {
            for recorded in std::mem::take(&mut self.page) {
                if began.elapsed() >= RUN_MAX {
                    found.more = true;
                    return Ok((found, true));
                }
                let verdict = replay.run(&recorded).await;
                found.note(&recorded, verdict);
                // The messages of the stages come first.
                tokio::task::yield_now().await;
            }
            self.turn_page(found.count()).await?;
        }
        found.more = self.next.is_some();
        Ok((found, false))
    }

    /// Reads the next recordings, after so many that were compared; none at the end, or at the limit.
    async fn turn_page(&mut self, compared: u64) -> Result<(), StoreError> {
        let left = u64::from(self.filter.limit).saturating_sub(compared);
        let Some(after) = self.next.filter(|_| left > 0) else { return Ok(()) };
        let ComparisonFilter { stage, subject, .. } = &self.filter;
        let limit = PAGE.min(left as u32);
        let (stage, subject) = (stage.clone(), subject.clone());
        let filter = RecordingFilter { stage, subject, after, limit };
        let (items, next) = self.app.services.store.recordings(filter).await?;
        self.page = items.into_iter().map(|item| Recorded::of(&self.filter.stage, item)).collect();
        self.next = next;
        Ok(())
    }
}
