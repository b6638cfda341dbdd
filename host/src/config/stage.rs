//! The configuration of one stage.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::StageStoreConfig;
use super::validate::at_least_one;
use crate::domain::event::topic_problem;
use crate::runtime::egress::Grants;
use crate::runtime::{InstanceMode, InstancePolicy, StageLimits, WarmPolicy};
use crate::stage::circuit_breaker::BreakerPolicy;
use crate::stage::policy::RetryPolicy;
use crate::stage::rollout_guard::RolloutGuardPolicy;
use crate::stage::settings::{SecretSource, Secrets};

/// The configuration of a stage.
///
/// ```
/// use postrider::{Config, StageConfig};
///
/// let mut config = Config::default();
/// let payment = StageConfig { lanes: 4, rate_per_s: Some(100), ..StageConfig::default() };
/// config.stages.insert("payment".to_owned(), payment);
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StageConfig {
    /// Plugin file; default: the one whose `describe` returns the stage's name.
    pub plugin: Option<String>,
    /// Topic patterns instead of the plugin's own.
    pub consumes: Option<Vec<String>>,
    /// Messages processed in parallel, split by subject; a stage with an HTTP grant has at least as many as
    /// `grants.http_concurrency`.
    pub lanes: u32,
    /// Most messages in one transaction; a stage with an HTTP grant commits each message by itself.
    pub batch_max: u32,
    /// A batch is committed once it has run for this long.
    pub batch_time_ms: u64,
    /// A batch is committed once its events, and those that they led to, have this many bytes.
    pub batch_max_bytes: u64,
    /// Most messages held, those in flight included.
    pub prefetch: u32,
    /// Most bytes of messages held, those in flight included; a larger message is held alone. A
    /// broker that counts messages only may exceed it when messages become larger, until it
    /// receives no more than fit.
    pub prefetch_max_bytes: u64,
    /// State keys that a lane caches between batches.
    pub state_cache_keys: u32,
    /// Fresh instance per message, or warm ones.
    pub instances: InstanceMode,
    /// How long a warm instance lives.
    pub warm: WarmPolicy,
    /// Retries.
    pub retry: RetryPolicy,
    /// When the stage is suspended because a service that it depends on is down.
    pub breaker: BreakerPolicy,
    /// When a new version of its plugin is rolled back.
    pub guard: RolloutGuardPolicy,
    /// Only one host at a time consumes the stage; the others are on standby.
    pub single_active: bool,
    /// Most messages per second on this host; none: no limit.
    pub rate_per_s: Option<u32>,
    /// Limits of one call.
    pub limits: StageLimits,
    /// What `config.get` returns.
    pub settings: BTreeMap<String, String>,
    /// External services that it may call. None by default.
    pub grants: Grants,
    /// Where it keeps its state.
    pub store: StageStoreConfig,
    /// Confidential settings that `config.get` returns as well: where to read each.
    pub secrets: BTreeMap<String, SecretSource>,
    /// The values, read when the configuration is loaded. Never serialised or logged.
    #[serde(skip)]
    pub secret_values: Secrets,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            plugin: None,
            consumes: None,
            lanes: 1,
            batch_max: 128,
            batch_time_ms: 50,
            batch_max_bytes: 16 << 20,
            prefetch: 512,
            prefetch_max_bytes: 64 << 20,
            state_cache_keys: 10_000,
            instances: InstanceMode::default(),
            warm: WarmPolicy::default(),
            retry: RetryPolicy::default(),
            breaker: BreakerPolicy::default(),
            guard: RolloutGuardPolicy::default(),
            single_active: false,
            rate_per_s: None,
            limits: StageLimits::default(),
            settings: BTreeMap::new(),
            grants: Grants::default(),
            store: StageStoreConfig::default(),
            secrets: BTreeMap::new(),
            secret_values: Secrets::default(),
        }
    }
}

impl StageConfig {
    /// Whether it calls external services: then each message is committed by itself, so that none
    /// waits for another's call.
    pub fn calls_out(&self) -> bool {
        !self.grants.http.is_empty()
    }

    /// Messages processed in parallel on this host: for a stage that calls external services, as
    /// many as its calls.
    pub fn at_once(&self) -> usize {
        let calls = if self.calls_out() { self.grants.http_concurrency } else { 1 };
        self.lanes.max(calls).max(1) as usize
    }

    /// Most messages in one transaction.
    pub fn batch_most(&self) -> usize {
        if self.calls_out() { 1 } else { self.batch_max.max(1) as usize }
    }

    /// How the stage's instances live.
    pub fn instance_policy(&self) -> InstancePolicy {
        match self.instances {
            InstanceMode::Fresh => InstancePolicy::Fresh,
            InstanceMode::Warm => InstancePolicy::Warm(self.warm),
        }
    }

    pub(super) fn validate(&self, key: &str, problems: &mut Vec<String>) {
        self.validate_numbers(key, problems);
        if !(0.0..=1.0).contains(&self.breaker.failure_share) {
            problems.push(format!(
                "{key}.breaker.failure_share: {} must be between 0 and 1",
                self.breaker.failure_share
            ));
        }
        at_least_one(
            &format!("{key}.breaker.min_subjects"),
            u64::from(self.breaker.min_subjects),
            problems,
        );
        if self.breaker.unavailable.iter().any(|code| code.trim().is_empty()) {
            problems.push(format!("{key}.breaker.unavailable: a code is empty"));
        }
        if !(0.0..=1.0).contains(&self.retry.jitter) {
            problems
                .push(format!("{key}.retry.jitter: {} must be between 0 and 1", self.retry.jitter));
        }
        if !(1.0..=100.0).contains(&self.retry.multiplier) {
            problems.push(format!(
                "{key}.retry.multiplier: {} must be between 1 and 100",
                self.retry.multiplier
            ));
        }
        if self.plugin.as_ref().is_some_and(|file| {
            file.contains('/') || Path::new(file).extension().is_none_or(|end| end != "wasm")
        }) {
            problems.push(format!("{key}.plugin: must be the name of a .wasm file in the plugins folder, without a path"));
        }
        if self.consumes.as_ref().is_some_and(Vec::is_empty) {
            problems.push(format!("{key}.consumes: name at least one event type or pattern"));
        }
        for pattern in self.consumes.iter().flatten() {
            if let Some(why) = topic_problem(pattern) {
                problems.push(format!("{key}.consumes: the event type `{pattern}` {why}"));
            }
        }
        self.grants.validate(&format!("{key}.grants"), problems);
        let both = self.secrets.keys().filter(|name| self.settings.contains_key(*name));
        problems.extend(
            both.map(|name| format!("{key}.secrets.{name}: {key}.settings has this name, too")),
        );
    }

    fn validate_numbers(&self, key: &str, problems: &mut Vec<String>) {
        let limits = &self.limits;
        for (name, value) in [
            ("lanes", u64::from(self.lanes)),
            ("batch_max", u64::from(self.batch_max)),
            ("batch_max_bytes", self.batch_max_bytes),
            ("prefetch", u64::from(self.prefetch)),
            ("prefetch_max_bytes", self.prefetch_max_bytes),
            ("warm.calls_max", u64::from(self.warm.calls_max)),
            ("retry.max_attempts", u64::from(self.retry.max_attempts)),
            ("rate_per_s", u64::from(self.rate_per_s.unwrap_or(1))),
            ("breaker.window_ms", self.breaker.window_ms),
            ("limits.deadline_ms", limits.deadline_ms),
            ("limits.memory_max_bytes", limits.memory_max_bytes as u64),
        ] {
            at_least_one(&format!("{key}.{name}"), value, problems);
        }
        if self.lanes > 64 {
            problems.push(format!("{key}.lanes: {} is more than 64", self.lanes));
        }
        if self.retry.max_ms < self.retry.initial_ms {
            problems.push(format!(
                "{key}.retry.max_ms: {} is less than {key}.retry.initial_ms: {}",
                self.retry.max_ms, self.retry.initial_ms
            ));
        }
    }
}
