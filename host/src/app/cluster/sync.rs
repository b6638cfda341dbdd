//! Reports what this host runs to the store, reads what the others report, and carries out what they ask
//! for.
//!
//! A report is written when something changed, and every [`RENEW`], which also keeps the host live. Costs:
//! a read every [`POLL`], and one small transaction for each report. A host that is alone reads no
//! commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::StageRates;
use crate::app::App;
use crate::pipeline::Stage;
use crate::pipeline::metrics::OutcomeKind;
use crate::store::{SharedSettings, StoreError};

/// Time between two reads.
const POLL: Duration = Duration::from_secs(1);
/// Longest time between two reports, and the time over which rates are measured.
const RENEW: Duration = Duration::from_secs(5);

/// Exchanges reports and commands with the other hosts.
pub(crate) struct HostSync {
    app: Arc<App>,
    settings: SharedSettings,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The report that was written last, without its figures, and when.
    written: Option<(String, Instant)>,
    measured: Option<Measured>,
}

/// What the stages had done at a time.
struct Measured {
    at: Instant,
    stages: HashMap<Arc<str>, Done>,
}

/// What a stage has done since its host started.
struct Done {
    settled: u64,
    failed: u64,
    times: Histogram<u64>,
}

impl HostSync {
    /// For a host with these settings.
    pub(crate) fn new(app: Arc<App>, settings: SharedSettings) -> Self {
        Self { app, settings, state: tokio::sync::Mutex::default() }
    }

    /// Exchanges until cancelled.
    pub(crate) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut commands = JoinSet::new();
        let mut is_failing = false;
        loop {
            let ended = self.tick(&mut commands).await;
            // Once for each outage: it tries again every second.
            if let Some(error) = ended.as_ref().err().filter(|_| !is_failing) {
                tracing::warn!(%error, "reports could not be exchanged with other hosts, retrying");
            }
            is_failing = ended.is_err();
            while let Some(ended) = commands.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a command of another host failed");
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    /// Exchanges once, and begins to carry out what other hosts ask for.
    async fn tick(self: &Arc<Self>, commands: &mut JoinSet<()>) -> Result<(), StoreError> {
        let store = &self.app.services.store;
        self.measure().await;
        self.report().await?;
        self.app.refresh_hosts().await?;
        if self.app.cluster.others().is_empty() {
            return Ok(());
        }
        for taken in store.take_commands().await? {
            let sync = Arc::clone(self);
            let work = async move { sync.carry_out(taken.id, &taken.command).await };
            commands.spawn(work.in_current_span());
        }
        Ok(())
    }

    async fn carry_out(&self, id: i64, command: &str) {
        let answer = self.app.carry_out(command).await;
        let answer = serde_json::to_string(&answer).expect("texts always serialise");
        // The host that sent the command reads the reports next.
        let reported = self.report().await;
        let answered = self.app.services.store.answer_command(id, &answer).await;
        if let Err(error) = reported.and(answered) {
            tracing::warn!(%error, "a command of another host could not be answered");
        }
    }

    /// Writes the report if it is due.
    async fn report(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().await;
        let status = self.app.own_status();
        let still = status.without_figures();
        let is_due = state
            .written
            .as_ref()
            .is_none_or(|(before, at)| *before != still || at.elapsed() >= RENEW);
        if is_due {
            self.app.services.store.record_host(&self.settings, &status.to_report()).await?;
            state.written = Some((still, Instant::now()));
        }
        Ok(())
    }

    /// Computes the rates since the last time, every [`RENEW`].
    async fn measure(&self) {
        let mut state = self.state.lock().await;
        if state.measured.as_ref().is_some_and(|before| before.at.elapsed() < RENEW) {
            return;
        }
        let stages = self.app.services.pipeline.stages();
        let done = stages.iter().map(|stage| (Arc::clone(&stage.name), Done::by(stage))).collect();
        let measured = Measured { at: Instant::now(), stages: done };
        if let Some(before) = &state.measured {
            self.app.cluster.rates.store(Arc::new(measured.rates_since(before)));
        }
        state.measured = Some(measured);
    }
}

impl Done {
    fn by(stage: &Stage) -> Self {
        let metrics = &stage.metrics;
        let count = |of: &[OutcomeKind]| of.iter().map(|outcome| metrics.count(*outcome)).sum();
        Self {
            settled: count(&[OutcomeKind::Done, OutcomeKind::Skipped, OutcomeKind::DeadLettered]),
            failed: count(&[OutcomeKind::Retried, OutcomeKind::DeadLettered]),
            times: metrics.deliveries.recorded().values,
        }
    }
}

impl Measured {
    fn rates_since(&self, before: &Self) -> HashMap<Arc<str>, StageRates> {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rates = self.stages.iter().filter_map(|(name, done)| {
            let earlier = before.stages.get(name)?;
            let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            let mut times = done.times.clone();
            times.subtract(&earlier.times).ok()?;
            let p95_us = (!times.is_empty()).then(|| times.value_at_quantile(0.95));
            let rates = StageRates {
                per_second: per_second(done.settled, earlier.settled),
                failed_per_second: per_second(done.failed, earlier.failed),
                p95_ms: p95_us.map(|us| us as f64 / 1_000.0),
            };
            Some((Arc::clone(name), rates))
        });
        rates.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(at: Instant, settled: u64, times: &[u64]) -> Measured {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap();
        for time in times {
            histogram.record(*time).unwrap();
        }
        let done = Done { settled, failed: 0, times: histogram };
        Measured { at, stages: [("payment".into(), done)].into() }
    }

    #[test]
    fn rates_are_those_since_the_last_measurement() {
        let began = Instant::now();
        let before = measured(began, 10, &[900_000; 10]);
        let times = [[900_000; 10], [2_000; 10]].concat();
        let after = measured(began + Duration::from_secs(5), 20, &times);
        let rates = after.rates_since(&before)["payment"];
        assert!((rates.per_second - 2.0).abs() < 1e-9, "{rates:?}");
        let p95_ms = rates.p95_ms.unwrap();
        assert!((1.9..2.1).contains(&p95_ms), "{rates:?}");
        let idle = measured(began + Duration::from_secs(10), 20, &times).rates_since(&after);
        assert_eq!(idle["payment"], StageRates::default());
    }
}
