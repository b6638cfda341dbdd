//! What is counted, taken back, recorded, and read from other hosts.

use super::*;
use crate::domain::event::{DeliveryKey, Event};

const LIMIT: u64 = 100;

fn envelope(chain: &str, id: &str) -> Envelope {
    let event = Event {
        id: id.into(),
        event_type: "a.b".into(),
        source: "/s".into(),
        subject: "7".into(),
        time_ms: 5,
        content_type: "text/plain".into(),
        data: "".into(),
        attributes: vec![],
    };
    Envelope { correlation_id: chain.into(), ..Envelope::first(event, None, 10) }
}

fn settlement(chain: &str, verdict: Verdict) -> Settlement {
    let envelope = Arc::new(envelope(chain, "cause"));
    Settlement {
        delivery: DeliveryKey { stage: "a".into(), event: envelope.key() },
        envelope,
        round: 1,
        attempt: 1,
        scheduled_ms: None,
        verdict,
        version: "1".into(),
        digest: "d".into(),
        host: Some("here".into()),
        duration_us: 0,
        failure: None,
        recording: None,
    }
}

fn emits(chain: &str, events: usize) -> Settlement {
    let events = (0..events)
        .map(|at| NewEvent::new(envelope(chain, &at.to_string()), 5, Vec::new()))
        .collect();
    settlement(chain, Verdict::Done(events))
}

fn dead(chain: &str, code: &str, announced: bool) -> Settlement {
    let announcement = NewEvent::new(envelope(chain, "dead"), 5, Vec::new());
    let announcement = if announced { announcement } else { announcement.only_logged() };
    settlement(chain, Verdict::Dead { code: code.into(), message: String::new(), announcement })
}

fn commit(chains: &Arc<Chains>, settlement: &Settlement) {
    let mut counted = chains.begin();
    counted.add(settlement);
    counted.keep();
}

fn events(chains: &Chains, chain: &str) -> u64 {
    chains.status(chain).events
}

fn record(chain: &str, events: u64, changed_at_ms: u64, stopped: bool) -> ChainRecord {
    ChainRecord {
        correlation_id: chain.into(),
        events,
        first_at_ms: 1,
        last_at_ms: changed_at_ms,
        changed_at_ms,
        stop: stopped.then(|| ChainStop { at_ms: changed_at_ms, reason: Some("why".into()) }),
    }
}

#[test]
fn events_count_when_decided_and_not_when_refused() {
    let chains = Chains::new(LIMIT);
    let mut batch = chains.begin();
    batch.add(&emits("c", 3));
    assert_eq!(events(&chains, "c"), 3, "the next message of the batch sees them");
    batch.add(&emits("c", 30));
    drop(batch);
    assert_eq!(events(&chains, "c"), 0);
    commit(&chains, &emits("c", 2));
    commit(&chains, &emits("d", 1));
    assert_eq!((events(&chains, "c"), events(&chains, "d")), (2, 1));
}

#[test]
fn what_is_sent_counts() {
    let chains = Chains::new(LIMIT);
    for (settlement, expected, refused) in [
        (emits("c", 0), 0, 0),
        (settlement("c", Verdict::Skipped), 0, 0),
        (settlement("c", Verdict::Retry { due_at_ms: 1 }), 0, 0),
        (dead("c", "expired", true), 1, 0),
        (dead("c", CHAIN_LIMIT_CODE, false), 1, 1),
        (dead("c", CHAIN_LIMIT_CODE, true), 2, 2),
    ] {
        commit(&chains, &settlement);
        assert_eq!((events(&chains, "c"), chains.refused()), (expected, refused));
    }
}

#[test]
fn large_chains_alone_are_recorded() {
    let chains = Chains::new(LIMIT);
    commit(&chains, &emits("small", 9));
    commit(&chains, &emits("large", 9));
    commit(&chains, &emits("large", 1));
    let taken = chains.take_unrecorded();
    assert_eq!(taken.len(), 1);
    assert_eq!(
        (&*taken[0].correlation_id, taken[0].events, taken[0].first_at_ms),
        ("large", 10, 5)
    );
    assert!(chains.take_unrecorded().is_empty(), "they are taken once");
    assert_eq!(events(&chains, "large"), 10);
    // The store did not answer.
    chains.restore(&taken);
    assert_eq!(events(&chains, "large"), 10);
    assert_eq!(chains.take_unrecorded()[0].events, 10);
}

#[test]
fn recorded_events_whose_commit_is_refused_are_taken_back() {
    let chains = Chains::new(LIMIT);
    let mut batch = chains.begin();
    batch.add(&emits("c", 50));
    assert_eq!(chains.take_unrecorded()[0].events, 50);
    drop(batch);
    assert_eq!(events(&chains, "c"), 0);
    assert_eq!(chains.take_unrecorded()[0].events, -50);
}

#[test]
fn events_of_other_hosts_count() {
    let chains = Chains::new(LIMIT);
    commit(&chains, &emits("c", 20));
    let _ = chains.take_unrecorded();
    commit(&chains, &emits("c", 1));
    chains
        .apply(&[record("theirs", 40, 8, false), record("c", 70, 7, false)], chains.controls_set());
    assert_eq!((events(&chains, "c"), events(&chains, "theirs")), (71, 40));
    assert_eq!(chains.changed_since_ms(), 0);
    chains.apply(&[record("c", 70, 2 * OVERLAP_MS, false)], chains.controls_set());
    assert_eq!(chains.changed_since_ms(), OVERLAP_MS);
}

#[test]
fn a_resumed_chain_is_counted_from_zero() {
    for here in [true, false] {
        let chains = Chains::new(LIMIT);
        commit(&chains, &emits("c", 60));
        let _ = chains.take_unrecorded();
        commit(&chains, &emits("c", 40));
        let resumed = record("c", 0, 9, false);
        if here {
            assert_eq!(chains.apply_control(&resumed).events, 0);
        } else {
            chains.apply(&[resumed], chains.controls_set());
        }
        assert_eq!(events(&chains, "c"), 0, "here: {here}");
        commit(&chains, &emits("c", 1));
        assert_eq!(events(&chains, "c"), 1, "here: {here}");
    }
}

#[test]
fn a_stop_holds_until_the_store_no_longer_has_it() {
    let chains = Chains::new(LIMIT);
    assert_eq!(chains.apply_control(&record("c", 0, 5, true)).reason.as_deref(), Some("why"));
    assert!(chains.status("c").stopped && !chains.status("d").stopped);
    commit(&chains, &emits("d", 50));
    chains.apply(&[record("c", 0, 5, true), record("e", 0, 5, true)], chains.controls_set());
    let listed: Vec<(String, bool)> = chains
        .largest(2)
        .into_iter()
        .map(|chain| (chain.correlation_id, chain.stopped_at_ms.is_some()))
        .collect();
    assert_eq!(listed, [("c".to_owned(), true), ("e".to_owned(), true)], "stopped ones first");
    chains.apply(&[record("c", 0, 6, false)], chains.controls_set());
    assert!(!chains.status("c").stopped && !chains.status("e").stopped);
    assert_eq!(chains.largest(1)[0].correlation_id, "d");
}

#[test]
fn an_older_answer_of_the_store_does_not_undo_a_stop() {
    let chains = Chains::new(LIMIT);
    // The store was read before the chain was stopped, and the answer arrives afterwards.
    let seen = chains.controls_set();
    chains.apply_control(&record("c", 0, 5, true));
    chains.apply(&[], seen);
    assert!(chains.status("c").stopped);
    chains.apply(&[], chains.controls_set());
    assert!(!chains.status("c").stopped);
}

#[test]
fn other_chains_do_not_push_a_large_one_out() {
    let chains = Chains::new(LIMIT);
    commit(&chains, &emits("large", 10));
    for subject in 0..2 * SMALL_MAX.get() {
        commit(&chains, &emits(&format!("subject-{subject}"), 1));
    }
    assert_eq!(events(&chains, "large"), 10);
    assert_eq!(events(&chains, "subject-0"), 0);
    assert!(chains.counts().small.len() <= SMALL_MAX.get());
}
