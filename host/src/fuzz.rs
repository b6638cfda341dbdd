//! Fuzzing of what comes from outside: plugin files, and what guests say.
//!
//! Generated from seeds that a failure prints; for how long, `POSTRIDER_FUZZ_MS` says (each test; default two seconds).

use std::sync::Arc;
use std::time::Duration;

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;

use crate::clock::ManualClock;
use crate::decide::{self, Moment, RetryPolicy, Routes, StagePolicy, Tried};
use crate::event::{DeliveryKey, Envelope, Event};
use crate::handler::{Description, Emitted, Failure, Outcome};
use crate::runtime::{Runtime, RuntimeSettings, check_description};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::status::StatusRules;
use crate::store::{Batch, NewEvent, Settlement, Store as _, StoreError, Verdict};

/// How long each fuzzer goes on.
pub(crate) fn budget() -> Duration {
    let asked = std::env::var("POSTRIDER_FUZZ_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(asked.unwrap_or(2_000))
}

fn tokio() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A plugin file with something wrong with it.
fn damaged(u: &mut Unstructured<'_>, whole: &[u8]) -> Result<Vec<u8>> {
    let mut file = whole.to_vec();
    for _ in 0..u.int_in_range(1..=4)? {
        let at = u.choose_index(file.len().max(1))?;
        match u.int_in_range(0..=5)? {
            0 => file.truncate(at),
            1 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
            2 => file.splice(at.min(file.len())..at.min(file.len()), u.arbitrary::<Vec<u8>>()?).for_each(drop),
            3 => {
                let end = (at + u.int_in_range(0..=64)?).min(file.len());
                file.drain(at.min(end)..end).for_each(drop);
            }
            // The first kilobyte is headers and types: more is decided there.
            4 => file.iter_mut().skip(at % 1024).take(1).for_each(|byte| *byte ^= 0x80),
            _ => {
                let piece = file[at.min(file.len())..].iter().take(256).copied().collect::<Vec<u8>>();
                file.extend(piece);
            }
        }
    }
    Ok(file)
}

#[test]
fn no_file_brings_the_loader_down() {
    let released = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/released/audit-for-1.0.0.wasm");
    let whole = std::fs::read(released).expect("the released guest");
    let (tokio, runtime) = (tokio(), Runtime::new(RuntimeSettings::default()).expect("an engine"));
    arbtest(|u| {
        let file = if u.ratio(1, 8)? { u.arbitrary()? } else { damaged(u, &whole)? };
        // Whatever it is, it is taken or refused, in time.
        let loaded = tokio.block_on(async { tokio::time::timeout(Duration::from_secs(30), runtime.load(file)).await });
        if let Err(refused) = loaded.expect("loading never ended") {
            assert!(!refused.to_string().is_empty());
        }
        Ok(())
    })
    .budget(budget());
}

#[test]
fn every_description_is_taken_or_refused() {
    arbtest(|u| {
        let (name, version, summary) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let (consumes, emits, attributes) = (u.arbitrary()?, u.arbitrary()?, u.arbitrary()?);
        let description = Description { name, version, summary, consumes, emits, attributes };
        if check_description(&description).is_ok() {
            assert!(!description.name.is_empty() && !description.consumes.is_empty());
            for pattern in &description.consumes {
                crate::event::topic_matches(pattern, u.arbitrary()?);
            }
        }
        Ok(())
    })
    .budget(budget());
}

struct Everywhere;

impl Routes for Everywhere {
    fn stages_for(&self, _: &str) -> Vec<Arc<str>> {
        vec!["next".into()]
    }
}

fn emitted(u: &mut Unstructured<'_>) -> Result<Emitted> {
    Ok(Emitted {
        // Now and then a declared one.
        event_type: if u.ratio(3, 4)? { "x.done".to_owned() } else { u.arbitrary()? },
        content_type: u.arbitrary()?,
        data: u.arbitrary::<Vec<u8>>()?.into(),
        subject: u.arbitrary()?,
        delay_ms: u.arbitrary()?,
        attributes: u.arbitrary()?,
    })
}

fn outcome(u: &mut Unstructured<'_>) -> Result<Outcome> {
    Ok(match u.int_in_range(0..=3)? {
        0 | 1 => Outcome::Done((0..u.int_in_range(0..=4)?).map(|_| emitted(u)).collect::<Result<_>>()?),
        2 => Outcome::Failed(Failure {
            retryable: u.arbitrary()?,
            code: u.arbitrary()?,
            message: u.arbitrary()?,
            retry_after_ms: u.arbitrary()?,
        }),
        _ => Outcome::Trapped { kind: u.arbitrary()?, message: u.arbitrary()?, backtrace: u.arbitrary()? },
    })
}

#[test]
fn whatever_a_guest_answers_is_decided_and_stored() {
    let (tokio, folder) = (tokio(), tempfile::tempdir().expect("a folder"));
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let options = SqliteOptions {
        path: folder.path().join("fuzz.db"),
        host_name: "here".to_owned(),
        clock,
        status: Arc::new(StatusRules::default()),
        lease_ms: 1_000,
        group_max_ops: 64,
        publish_all: true,
    };
    let store = tokio.block_on(SqliteStore::open(options)).expect("a store");
    let policy = StagePolicy {
        name: "x".into(),
        source: "/fuzz/stages/x".into(),
        consumes: vec!["#".into()],
        emits: vec!["x.done".into()],
        retry: RetryPolicy::default(),
        hops_max: 64,
        expiry_ms: 60_000,
    };
    let mut number = 0_u64;
    arbtest(|u| {
        number += 1;
        let event = Event {
            id: number.to_string(),
            event_type: "order.created".into(),
            source: "/fuzz".into(),
            subject: "1".into(),
            time_ms: 1_700_000_000_000,
            content_type: "application/json".into(),
            data: u.arbitrary::<Vec<u8>>()?.into(),
            attributes: Vec::new(),
        };
        let hops = u.int_in_range(0..=65)?;
        let envelope =
            Arc::new(Envelope { event, order_id: None, correlation_id: "c".into(), cause: None, hops, expires_at_ms: 1_800_000_000_000 });
        let delivery = DeliveryKey { stage: "x".into(), event: envelope.key() };
        let tried = Tried { delivery: delivery.clone(), round: 1, attempt: 1, digest: "d".into(), duration_us: 1 };
        let moment = Moment { now_ms: 1_700_000_000_001, random: 0.5 };
        let (verdict, failure) = decide::decide(&policy, &Everywhere, &envelope, &tried, outcome(u)?, moment);
        if let Verdict::Done(events) = &verdict {
            assert!(events.iter().all(|event| event.envelope.event.event_type == "x.done"), "an undeclared event left");
        }
        let arrived = NewEvent {
            envelope: Arc::clone(&envelope),
            routed_to: vec!["x".into()],
            due_at_ms: 1_700_000_000_000,
            producer: None,
            only_stage: None,
        };
        let (version, digest) = ("1".to_owned(), "d".into());
        let settlement =
            Settlement { delivery, envelope, round: 1, attempt: 1, verdict, version, digest, duration_us: 1, failure, recording: None };
        let batch = Batch { stage: "x".into(), settlements: vec![settlement], reads: Vec::new(), writes: Vec::new() };
        let stored: std::result::Result<_, StoreError> = tokio.block_on(async {
            store.accept_event(arrived).await?;
            store.commit(batch).await
        });
        stored.expect("what was decided can be stored");
        Ok(())
    })
    .budget(budget());
    tokio.block_on(store.close());
}
