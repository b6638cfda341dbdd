//! Log levels of stages.

use serde_json::json;

use super::build::operator;
use super::{Bench, START_MS};
use crate::domain::log_level::LogLevel;
use crate::store::{AuditFilter, LogLevelChange, StageLogLevel};

fn change(stage: &str, level: Option<LogLevel>, until_ms: Option<u64>) -> LogLevelChange {
    let reason = level.map(|level| format!("it should log at {level:?}"));
    LogLevelChange { stage: stage.to_owned(), level, until_ms, reason, actor: operator() }
}

fn level(stage: &str, level: LogLevel, since_ms: u64, until_ms: Option<u64>) -> StageLogLevel {
    StageLogLevel { stage: stage.to_owned(), level, since_ms, until_ms }
}

impl Bench {
    async fn set_level(&self, change: LogLevelChange) -> Option<StageLogLevel> {
        self.store.set_stage_log_level(change).await.unwrap()
    }
}

pub(super) async fn log_levels_are_kept(bench: Bench) {
    assert_eq!(bench.store.stage_log_levels().await.unwrap(), []);
    let shipping = level("shipping", LogLevel::Trace, START_MS, None);
    let set = bench.set_level(change("shipping", Some(LogLevel::Trace), None)).await;
    assert_eq!(set.as_ref(), Some(&shipping));
    bench.set_level(change("payment", Some(LogLevel::Error), None)).await;
    bench.clock.advance(10);
    let until_ms = Some(START_MS + 20);
    bench.set_level(change("payment", Some(LogLevel::Debug), until_ms)).await;
    let payment = level("payment", LogLevel::Debug, START_MS + 10, until_ms);
    let listed = bench.store.stage_log_levels().await.unwrap();
    assert_eq!(listed, [payment, shipping.clone()]);
    assert!(listed[0].holds(START_MS + 19) && !listed[0].holds(START_MS + 20));
    assert_eq!(bench.set_level(change("payment", None, None)).await, None);
    assert_eq!(bench.store.stage_log_levels().await.unwrap(), [shipping]);
}

pub(super) async fn changes_of_log_levels_leave_a_record(bench: Bench) {
    let until_ms = Some(START_MS + 20);
    bench.set_level(change("payment", None, None)).await;
    bench.set_level(change("payment", Some(LogLevel::Debug), until_ms)).await;
    bench.set_level(change("payment", Some(LogLevel::Warn), None)).await;
    bench.set_level(change("payment", None, None)).await;
    // A level that has ended is none.
    bench.set_level(change("payment", Some(LogLevel::Debug), until_ms)).await;
    bench.clock.advance(20);
    bench.set_level(change("payment", None, None)).await;
    let filter = AuditFilter {
        action: Some("stage.log-level".to_owned()),
        object: Some("stage/payment".to_owned()),
        limit: 10,
        ..AuditFilter::default()
    };
    let records = bench.store.audit_records(filter).await.unwrap().records;
    let json = |raw: &Option<Box<serde_json::value::RawValue>>| {
        raw.as_ref().map(|raw| serde_json::from_str::<serde_json::Value>(raw.get()).unwrap())
    };
    let reasons: Vec<_> = records.iter().map(|one| one.reason.as_deref()).collect();
    let (debug, warn) = (Some("it should log at Debug"), Some("it should log at Warn"));
    assert_eq!(reasons[..4], [debug, warn, None, debug]);
    let changes: Vec<_> = records.iter().map(|one| (json(&one.before), json(&one.after))).collect();
    let value =
        |level: &str, until_ms: Option<u64>| Some(json!({ "level": level, "until_ms": until_ms }));
    let (default, debug, warn) =
        (value("default", None), value("debug", until_ms), value("warn", None));
    let expected = [
        (default.clone(), debug.clone()),
        (debug.clone(), warn.clone()),
        (warn, default.clone()),
        (default, debug),
    ];
    assert_eq!(changes, expected);
}

pub(super) async fn log_levels_that_ended_are_deleted(bench: Bench) {
    bench.set_level(change("payment", Some(LogLevel::Debug), Some(START_MS + 20))).await;
    bench.set_level(change("shipping", Some(LogLevel::Debug), None)).await;
    bench.clock.advance(2 * 3_600_000);
    bench.prune(START_MS + 3_600_000, 10).await.unwrap();
    let left = bench.store.stage_log_levels().await.unwrap();
    assert_eq!(left, [level("shipping", LogLevel::Debug, START_MS, None)], "it has no end");
}
