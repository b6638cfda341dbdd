//! A live stage: its configuration, the version that serves, and what this host knows about it.
//!
//! Replacing a version is atomic: a batch takes one version and keeps it, so a message in flight
//! finishes on the version it began with. Bounds: one digest for each version that ran here.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::hand_over::Window;
use super::in_flight::InFlight;
use super::metrics::StageMetrics;
use crate::config::{RecordingConfig, StageConfig};
use crate::domain::event::Envelope;
#[cfg(feature = "wasm")]
use crate::runtime::egress::Egress;
use crate::stage::circuit_breaker::CircuitBreaker;
use crate::stage::handler::StageHandler;
use crate::stage::log_level::LogThreshold;
use crate::stage::outcome::Outcome;
use crate::stage::policy::StagePolicy;
use crate::stage::rate_limit::{self, RateLimit};
use crate::stage::recording::Recorder;
use crate::stage::rollout_guard::{CallEnd, Finding, RolloutGuard};
use crate::stage::settings::Settings;
use crate::store::{ControlState, StageControl, StageLogLevel};

/// A version of a stage that serves.
pub struct Running {
    /// Decides about events.
    pub handler: Arc<dyn StageHandler>,
    /// SHA-256 of its plugin file in hex, or `native`.
    pub digest: Arc<str>,
    /// What decisions about its deliveries follow.
    pub policy: StagePolicy,
    /// Name of the plugin file; none for a native stage.
    pub file: Option<String>,
    /// When it began to serve, milliseconds since 1970-01-01 UTC.
    pub loaded_at_ms: u64,
}

/// Whether a host consumes a stage's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consumption {
    /// No version of the stage runs here.
    #[default]
    Idle,
    /// The consumer is not open yet.
    Connecting,
    /// The consumer is open.
    Consuming,
    /// An operator is draining the stage.
    Drained,
    /// Another host holds the lease of a single-active stage.
    Standby,
}

/// A stage of the pipeline, for as long as this host knows it.
pub struct Stage {
    /// The name under which the operator runs it.
    pub name: Arc<str>,
    /// The operator's configuration of it.
    pub config: StageConfig,
    /// Settings and secrets that the stage may read.
    pub settings: Arc<Settings>,
    /// Its outgoing HTTP calls; none: no host was granted.
    #[cfg(feature = "wasm")]
    pub egress: Option<Arc<Egress>>,
    recording: RecordingConfig,
    running: ArcSwapOption<Running>,
    /// The control that operators set; none: it runs.
    control: watch::Sender<Option<StageControl>>,
    /// Controls and log levels that were set on this host; changed under the lock of what is set.
    controls_set: AtomicU64,
    breaker: Mutex<CircuitBreaker>,
    /// Messages per second, shared by its lanes; none: no limit.
    pub rate: Option<RateLimit>,
    /// What this host counts about it.
    pub metrics: StageMetrics,
    /// Its messages that this host holds.
    pub in_flight: InFlight,
    /// What is handed over to it on this host.
    pub window: Window,
    consumption: Mutex<Consumption>,
    rollout: Mutex<Rollout>,
    /// What is logged about its deliveries.
    pub log_threshold: Arc<LogThreshold>,
    /// The log level that operators set, of which `log_threshold` has what holds now.
    log_level: Mutex<Option<StageLogLevel>>,
}

/// What this host knows about the versions that ran here.
#[derive(Default)]
struct Rollout {
    /// Watches the version that was loaded last.
    guard: Option<RolloutGuard<Running>>,
    /// Digests that passed, or that were never watched.
    passed: HashSet<String>,
    /// Digests that trapped too often.
    rolled_back: HashSet<String>,
}

impl Stage {
    pub(super) fn new(name: Arc<str>, config: StageConfig, recording: RecordingConfig) -> Self {
        let settings = Arc::new(Settings::new(&config.settings, &config.secret_values));
        #[cfg(feature = "wasm")]
        let egress = Egress::new(&config.grants);
        let breaker = Mutex::new(CircuitBreaker::new(config.breaker.clone()));
        let rate = config.rate_per_s.and_then(rate_limit::per_second);
        let window = Window::new(config.prefetch, config.prefetch_max_bytes);
        Self {
            name,
            config,
            settings,
            recording,
            #[cfg(feature = "wasm")]
            egress,
            running: ArcSwapOption::empty(),
            control: watch::Sender::new(None),
            controls_set: AtomicU64::new(0),
            breaker,
            rate,
            metrics: StageMetrics::default(),
            in_flight: InFlight::default(),
            window,
            consumption: Mutex::default(),
            rollout: Mutex::default(),
            log_threshold: Arc::default(),
            log_level: Mutex::default(),
        }
    }

    /// A recorder for one call; it records nothing when recording is disabled.
    pub fn recorder(&self) -> Recorder {
        if self.recording.enabled {
            Recorder::new(self.recording.max_bytes, Arc::clone(&self.settings))
        } else {
            Recorder::default()
        }
    }

    /// Applies a control that an operator set on this host; none: the stage runs. A resumed stage
    /// tries again: its circuit breaker is closed.
    pub fn apply_control(&self, control: Option<StageControl>) {
        self.replace_control(control, || {
            self.controls_set.fetch_add(1, Ordering::AcqRel);
            true
        });
    }

    /// The number of controls and log levels that were set on this host: what is read from the store after this
    /// call includes all of them.
    pub fn controls_set(&self) -> u64 {
        self.controls_set.load(Ordering::Acquire)
    }

    /// Applies a control that was read from the store, unless one was set here since the number of
    /// them was `seen`: what was read may be older.
    pub fn refresh_control(&self, control: Option<StageControl>, seen: u64) {
        self.replace_control(control, || self.controls_set() == seen);
    }

    fn replace_control(&self, control: Option<StageControl>, is_current: impl FnOnce() -> bool) {
        self.control.send_if_modified(|present| {
            let changed = is_current() && *present != control;
            if changed {
                let state = control.as_ref().map_or(ControlState::Running, |control| control.state);
                tracing::info!(stage = %self.name, ?state, "stage control changed");
                if state == ControlState::Running && self.breaker().close() {
                    tracing::info!(stage = %self.name, "circuit breaker closed: the stage was resumed");
                }
                *present = control;
            }
            changed
        });
    }

    /// Applies a log level that an operator set on this host.
    pub fn apply_log_level(&self, level: Option<StageLogLevel>, now_ms: u64) {
        let mut present = self.locked_log_level();
        self.controls_set.fetch_add(1, Ordering::AcqRel);
        self.replace_log_level(&mut present, level, now_ms);
    }

    /// Applies a log level that was read from the store, as [`Stage::refresh_control`] does.
    pub fn refresh_log_level(&self, level: Option<StageLogLevel>, seen: u64, now_ms: u64) {
        let mut present = self.locked_log_level();
        if self.controls_set() == seen {
            self.replace_log_level(&mut present, level, now_ms);
        }
    }

    /// Ends a log level whose time is over.
    pub fn expire_log_level(&self, now_ms: u64) {
        let mut present = self.locked_log_level();
        let level = present.clone();
        self.replace_log_level(&mut present, level, now_ms);
    }

    /// The log level that an operator set and that holds; none: the filter of the process decides.
    pub fn log_level(&self) -> Option<StageLogLevel> {
        self.locked_log_level().clone()
    }

    fn locked_log_level(&self) -> MutexGuard<'_, Option<StageLogLevel>> {
        self.log_level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace_log_level(
        &self,
        present: &mut Option<StageLogLevel>,
        level: Option<StageLogLevel>,
        now_ms: u64,
    ) {
        let level = level.filter(|level| level.holds(now_ms));
        if *present == level {
            return;
        }
        let name = level.as_ref().map_or("default", |level| level.level.name());
        let until_ms = level.as_ref().and_then(|level| level.until_ms);
        tracing::info!(stage = %self.name, log_level = name, until_ms, "log level changed");
        self.log_threshold.set(level.as_ref().map(|level| level.level));
        *present = level;
    }

    /// The control that applies now; none: the stage runs.
    pub fn control(&self) -> Option<StageControl> {
        self.control.borrow().clone()
    }

    /// Follows the control that applies.
    pub fn watch_control(&self) -> watch::Receiver<Option<StageControl>> {
        self.control.subscribe()
    }

    /// Its circuit breaker on this host, locked.
    pub fn breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When an event of this stage expires, milliseconds since 1970-01-01 UTC. An event that
    /// expired while the stage was paused gets `expiry_ms` more from the moment it was resumed.
    pub fn expires_at_ms(&self, envelope_expires_at_ms: u64, expiry_ms: u64) -> u64 {
        let control = self.control.borrow();
        let held =
            control.as_ref().and_then(|control| Some((control.held_from_ms?, control.since_ms)));
        match held {
            Some((from_ms, until_ms)) if (from_ms..=until_ms).contains(&envelope_expires_at_ms) => {
                until_ms + expiry_ms
            }
            _ => envelope_expires_at_ms,
        }
    }

    /// Whether this host consumes the stage's queue.
    pub fn consumption(&self) -> Consumption {
        *self.consumption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets whether this host consumes the stage's queue.
    pub fn set_consumption(&self, consumption: Consumption) {
        *self.consumption.lock().unwrap_or_else(PoisonError::into_inner) = consumption;
    }

    fn rollout(&self) -> MutexGuard<'_, Rollout> {
        self.rollout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports a call of the version `digest` with a message. When the rollout guard rolls that version back, the
    /// previous one runs from the next batch on; returns the reason.
    pub fn report_call(
        &self,
        digest: &str,
        envelope: &Envelope,
        outcome: &Outcome,
    ) -> Option<String> {
        let mut rollout = self.rollout();
        match rollout.guard.as_mut()?.report(digest, envelope, CallEnd::of(outcome)) {
            Finding::Watching => None,
            Finding::Passed => {
                rollout.guard = None;
                rollout.passed.insert(digest.to_owned());
                None
            }
            Finding::RolledBack { previous, reason } => {
                rollout.guard = None;
                rollout.rolled_back.insert(digest.to_owned());
                self.run(previous);
                Some(reason)
            }
        }
    }

    /// Runs `next` from the next batch on. The rollout guard watches a version that is new here.
    pub(super) fn replace(&self, next: Running) {
        let mut rollout = self.rollout();
        let before = self.running.load_full();
        let watched = rollout.guard.take().map(|guard| Arc::clone(guard.previous()));
        let digest = next.handler.digest().to_owned();
        // While several new versions follow one another, a rollback goes to the last that passed.
        let previous = watched.or(before).filter(|previous| {
            let previous = previous.handler.digest();
            next.file.is_some() && previous != digest && !rollout.rolled_back.contains(previous)
        });
        match previous {
            Some(previous)
                if self.config.guard.messages > 0 && !rollout.passed.contains(&digest) =>
            {
                rollout.guard = Some(RolloutGuard::new(self.config.guard, &digest, previous));
            }
            _ => _ = rollout.passed.insert(digest),
        }
        self.run(Arc::new(next));
    }

    fn run(&self, next: Arc<Running>) {
        self.running.store(Some(next));
        self.breaker().reset_for_new_version();
    }

    /// The version that serves; none before the first one and after its plugin was removed.
    pub fn running(&self) -> Option<Arc<Running>> {
        self.running.load_full()
    }

    /// Runs nothing from the next batch on.
    pub(super) fn stop(&self) {
        self.running.store(None);
    }

    /// Whether a version serves.
    pub(super) fn is_running(&self) -> bool {
        self.running.load().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_control_of_the_store_does_not_replace_one_that_was_set_here() {
        let stage =
            Stage::new("payment".into(), StageConfig::default(), RecordingConfig::default());
        let control = |state| {
            let stage = "payment".to_owned();
            Some(StageControl { stage, state, reason: None, since_ms: 1, held_from_ms: None })
        };
        // The store was read before the stage was drained, and the answer arrives afterwards.
        let seen = stage.controls_set();
        stage.apply_control(control(ControlState::Draining));
        stage.refresh_control(None, seen);
        assert_eq!(stage.control(), control(ControlState::Draining));
        // What was read afterwards applies.
        let seen = stage.controls_set();
        stage.refresh_control(control(ControlState::Paused), seen);
        assert_eq!(stage.control(), control(ControlState::Paused));
        stage.refresh_control(None, seen);
        assert_eq!(stage.control(), None);
    }
}
