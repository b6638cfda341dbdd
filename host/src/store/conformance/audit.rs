//! The audit log: which writes leave a record, and that the chain has no gap.

use futures::future::join_all;
use serde_json::{Value, json};

use super::api_keys::key;
use super::build::{control_change, envelope, new_event, operator, order};
use super::{Bench, START_MS};
use crate::domain::actor::Actor;
use crate::store::{
    AuditEntry, AuditFilter, AuditOutcome, AuditPage, AuditRecord, Cancelled, ControlState,
    Direction, MessageKey, NewApiKey, NewCancel, PluginLoad,
};

impl Bench {
    async fn audit_page(&self, filter: AuditFilter) -> AuditPage {
        self.store.audit_records(filter).await.unwrap()
    }

    /// All records; the chain must be whole.
    async fn audit_log(&self) -> Vec<AuditRecord> {
        let page = self.audit_page(AuditFilter { limit: 200, ..AuditFilter::default() }).await;
        assert_eq!(page.next, None);
        let mut at = page.anchor.clone();
        for record in &page.records {
            at.advance(record).unwrap();
        }
        assert_eq!(at, page.head);
        page.records
    }

    async fn cancel(&self, id: &str) -> Cancelled {
        let event = envelope("order.cancelled", &format!("cancelled-{id}"), Some(&order(id)));
        let cancel = NewCancel {
            subject_key: order(id),
            event: new_event(event, &[]),
            reason: Some("changed my mind".to_owned()),
            actor: operator(),
        };
        self.store.cancel_subject(cancel).await.unwrap().0
    }
}

/// Action, object, before, after and reason.
fn shown(record: &AuditRecord) -> (&str, &str, Value, Value, Option<&str>) {
    let json = |raw: &Option<Box<serde_json::value::RawValue>>| {
        raw.as_ref().map_or(Value::Null, |raw| serde_json::from_str(raw.get()).unwrap())
    };
    let (before, after) = (json(&record.before), json(&record.after));
    (&record.action, &record.object, before, after, record.reason.as_deref())
}

#[expect(clippy::too_many_lines, reason = "one scenario, told in order")]
pub(super) async fn every_write_of_an_operator_leaves_a_record(bench: Bench) {
    let (replayed, edited, discarded) = (
        bench.dead_letter_of("1").await.id,
        bench.dead_letter_of("2").await.id,
        bench.dead_letter_of("3").await.id,
    );
    bench.subject("4").await;
    let (store, actor) = (&bench.store, operator());
    let loaded = |digest: &str| PluginLoad {
        stage: "payment".to_owned(),
        digest: digest.to_owned(),
        version: "1.0".to_owned(),
        host: "one".to_owned(),
        loaded_at_ms: START_MS,
    };
    store.record_plugin_load(loaded("d1")).await.unwrap();
    store.record_plugin_load(loaded("d2")).await.unwrap();
    let pause = control_change("payment", ControlState::Paused, Some("a test".to_owned()));
    store.set_stage_control(pause).await.unwrap();
    store.set_stage_control(control_change("payment", ControlState::Running, None)).await.unwrap();
    store.stop_chain("first", Some("a loop".to_owned()), &actor).await.unwrap();
    store.resume_chain("first", Some("it ended".to_owned()), &actor).await.unwrap();
    store.replay(replayed, START_MS, &actor).await.unwrap();
    let event = new_event(envelope("order.created", "edited", Some(&order("2"))), &["payment"]);
    store.replay_edited(edited, event, &actor).await.unwrap();
    store.discard(discarded, "of no use".to_owned(), &actor).await.unwrap();
    bench.cancel("4").await;
    let entry = AuditEntry::new(&actor, "breaker.close", "stage/payment");
    store.audit(AuditEntry { outcome: AuditOutcome::Refused, ..entry }).await.unwrap();

    let log = bench.audit_log().await;
    let stopped = |stopped: bool| json!({ "stopped": stopped });
    let load = |digest: &str| json!({ "digest": digest, "version": "1.0" });
    let status = |status: &str| json!({ "status": status });
    let (stage, chain) = ("stage/payment", "chain/first");
    let running = json!({ "state": "running", "reason": null });
    let paused = json!({ "state": "paused", "reason": "a test" });
    let (one, two, three) = (
        format!("dead-letter/{replayed}"),
        format!("dead-letter/{edited}"),
        format!("dead-letter/{discarded}"),
    );
    let sent = json!({
        "source": "/orders", "id": "edited", "type": "order.created",
        "data_sha256": "6dc1a8d0c8e7e2c2f0a0a7be4f1d6f2f",
    });
    let mut expected = vec![
        ("plugin.load", stage, Value::Null, load("d1"), None),
        ("plugin.load", stage, load("d1"), load("d2"), None),
        ("stage.pause", stage, running.clone(), paused.clone(), Some("a test")),
        ("stage.resume", stage, paused, running, None),
        ("chain.stop", chain, stopped(false), stopped(true), Some("a loop")),
        ("chain.resume", chain, stopped(true), stopped(false), Some("it ended")),
        ("dead-letter.replay", &*one, status("open"), status("replayed"), None),
        (
            "dead-letter.edit",
            &*two,
            status("open"),
            json!({ "status": "replayed", "event": sent }),
            None,
        ),
        ("dead-letter.discard", &*three, status("open"), status("discarded"), Some("of no use")),
        (
            "subject.cancel",
            "order/4",
            status("received"),
            status("cancelling"),
            Some("changed my mind"),
        ),
        ("breaker.close", stage, Value::Null, Value::Null, None),
    ];
    let found: Vec<_> = log.iter().map(shown).collect();
    // The digest of the sample's data is that of its bytes.
    expected[7].3["event"]["data_sha256"] = found[7].3["event"]["data_sha256"].clone();
    assert_eq!(found, expected);
    assert_eq!(found[7].3["event"]["data_sha256"].as_str().map(str::len), Some(64));
    let outcomes: Vec<_> = log.iter().map(|record| record.outcome).collect();
    assert_eq!(outcomes[10], AuditOutcome::Refused);
    assert!(outcomes[..10].iter().all(|outcome| *outcome == AuditOutcome::Done));
    for record in &log[2..] {
        let actor = (record.actor.kind.as_str(), record.actor.id.as_str());
        assert_eq!(actor, ("key", "key/ada"), "{record:?}");
        assert_eq!(record.actor.address.as_deref(), Some("127.0.0.1"));
        assert_eq!(record.at_ms, START_MS);
    }
    assert_eq!(log[0].actor.id, "host/one");
}

pub(super) async fn changes_of_keys_leave_a_record(bench: Bench) {
    let (store, actor) = (&bench.store, operator());
    let successor =
        NewApiKey { replaces: Some(("a".to_owned(), START_MS + 7)), ..key("b", "checkout", None) };
    for new in [key("a", "checkout", None), successor, key("too-many", "checkout", None)] {
        store.create_api_key(new, &actor).await.unwrap();
    }
    for id in ["b", "b", "none"] {
        store.revoke_api_key(id, START_MS, &actor).await.unwrap();
    }
    let (first, second) = (MessageKey::generate(START_MS), MessageKey::generate(START_MS));
    for key in [&first, &second] {
        let _ = store.add_message_key(key.clone(), &actor).await.unwrap();
    }
    for id in [&first.id, &second.id, &first.id] {
        let _ = store.remove_message_key(id, &actor).await.unwrap();
    }

    let log = bench.audit_log().await;
    let issued = json!({
        "principal": "checkout", "roles": ["read", "submit:type/order.*"], "expires_at_ms": null,
    });
    let replaced = json!({ "replaced": "key/a", "expires_at_ms": START_MS + 7 });
    let revoked = |at_ms: Value| json!({ "principal": "checkout", "revoked_at_ms": at_ms });
    let (one, two) = (format!("message-key/{}", first.id), format!("message-key/{}", second.id));
    let nothing = || Value::Null;
    let expected = vec![
        ("key.create", "key/a", nothing(), issued.clone(), None),
        ("key.rotate", "key/b", replaced, issued, None),
        ("key.revoke", "key/b", revoked(nothing()), revoked(START_MS.into()), None),
        ("message-key.add", &*one, nothing(), nothing(), None),
        ("message-key.add", &*two, nothing(), nothing(), None),
        ("message-key.remove", &*one, nothing(), nothing(), None),
    ];
    assert_eq!(log.iter().map(shown).collect::<Vec<_>>(), expected);
    assert!(log.iter().all(|record| record.actor.id == "key/ada"));
}

pub(super) async fn a_write_that_changes_nothing_leaves_no_record(bench: Bench) {
    let (id, actor) = (bench.dead_letter_of("1").await.id, operator());
    bench.store.discard(id, String::new(), &actor).await.unwrap();
    assert_eq!(bench.audit_log().await.len(), 1);
    bench.store.replay(id, START_MS, &actor).await.unwrap();
    bench.store.replay(99, START_MS, &actor).await.unwrap();
    bench.subject("2").await;
    assert!(matches!(bench.cancel("2").await, Cancelled::Begun(_)));
    assert_eq!(bench.audit_log().await.len(), 2);
    assert!(matches!(bench.cancel("2").await, Cancelled::Already(_)));
    assert!(matches!(bench.cancel("3").await, Cancelled::NotFound));
    assert_eq!(bench.audit_log().await.len(), 2);
}

pub(super) async fn what_is_recorded_once_is_not_repeated(bench: Bench) {
    let refusal = |host: &str, file: &str, digest: &str| {
        let after = json!({ "digest": digest, "waiting_for": "other content" });
        let entry = AuditEntry::new(&Actor::host(host), "plugin.refuse", format!("plugin/{file}"))
            .change(Value::Null, after)
            .because(Some(format!("refused by {host}")));
        AuditEntry { outcome: AuditOutcome::Refused, ..entry }
    };
    let once = async |entry: AuditEntry| bench.store.audit_once(entry).await.unwrap();
    assert!(once(refusal("one", "a.wasm", "d1")).await);
    // On another host, too, and whatever the reason says.
    assert!(!once(refusal("one", "a.wasm", "d1")).await);
    assert!(!once(refusal("two", "a.wasm", "d1")).await);
    // Other content, and another file.
    assert!(once(refusal("two", "a.wasm", "d2")).await);
    assert!(once(refusal("one", "b.wasm", "d1")).await);
    assert!(!once(refusal("one", "a.wasm", "d1")).await, "also if it is not the newest");
    // Without a result.
    let plain = || AuditEntry::new(&operator(), "breaker.close", "stage/payment");
    assert!(once(plain()).await && !once(plain()).await);
    let log = bench.audit_log().await;
    let objects: Vec<_> = log.iter().map(|record| record.object.as_str()).collect();
    assert_eq!(objects, ["plugin/a.wasm", "plugin/a.wasm", "plugin/b.wasm", "stage/payment"]);
    assert_eq!((&*log[0].actor.id, log[0].outcome), ("host/one", AuditOutcome::Refused));
    assert_eq!(log[0].reason.as_deref(), Some("refused by one"));
}

pub(super) async fn concurrent_records_of_the_same_are_one(bench: Bench) {
    let entry = || AuditEntry::new(&operator(), "plugin.refuse", "plugin/a.wasm");
    let written = join_all((0..10).map(|_| bench.store.audit_once(entry()))).await;
    assert_eq!(written.into_iter().filter(|new| *new.as_ref().unwrap()).count(), 1);
    assert_eq!(bench.audit_log().await.len(), 1);
}

/// Writes records, ten milliseconds apart.
async fn write(bench: &Bench, count: usize) {
    for number in 0..count {
        let actor = Actor::new("key", format!("key/{}", number % 2));
        let action = if number % 3 == 0 { "stage.pause" } else { "stage.resume" };
        let entry = AuditEntry::new(&actor, action, format!("stage/{}", number % 4));
        bench.store.audit(entry).await.unwrap();
        bench.clock.advance(10);
    }
}

pub(super) async fn the_log_is_filtered_and_read_in_pages(bench: Bench) {
    write(&bench, 12).await;
    let all = AuditFilter { limit: 5, ..AuditFilter::default() };
    let positions = |page: &AuditPage| page.records.iter().map(|one| one.pos).collect::<Vec<_>>();
    let first = bench.audit_page(all.clone()).await;
    assert_eq!((positions(&first), first.next), (vec![1, 2, 3, 4, 5], Some(5)));
    let last = bench.audit_page(AuditFilter { after: Some(10), ..all.clone() }).await;
    assert_eq!((positions(&last), last.next), (vec![11, 12], None));
    let newest = AuditFilter { direction: Direction::Newest, ..all.clone() };
    for (after, expected, next) in [
        (None, vec![12, 11, 10, 9, 8], Some(8)),
        (Some(8), vec![7, 6, 5, 4, 3], Some(3)),
        (Some(3), vec![2, 1], None),
        // The cursor of the other order.
        (first.next, vec![4, 3, 2, 1], None),
    ] {
        let page = bench.audit_page(AuditFilter { after, ..newest.clone() }).await;
        assert_eq!((positions(&page), page.next), (expected, next), "{after:?}");
    }
    let some = |text: &str| Some(text.to_owned());
    let page = bench.audit_page(AuditFilter { actor: some("key/1"), ..newest }).await;
    assert_eq!((positions(&page), page.next), (vec![12, 10, 8, 6, 4], Some(4)));
    for (filter, expected) in [
        (AuditFilter { actor: some("key/1"), ..all.clone() }, vec![2, 4, 6, 8, 10]),
        (AuditFilter { action: some("stage.pause"), ..all.clone() }, vec![1, 4, 7, 10]),
        (AuditFilter { object: some("stage/3"), ..all.clone() }, vec![4, 8, 12]),
        (AuditFilter { since_ms: Some(START_MS + 90), ..all.clone() }, vec![10, 11, 12]),
        (AuditFilter { until_ms: Some(START_MS + 20), ..all.clone() }, vec![1, 2]),
    ] {
        assert_eq!(positions(&bench.audit_page(filter.clone()).await), expected, "{filter:?}");
    }
}

pub(super) async fn old_records_are_deleted_and_the_chain_goes_on(bench: Bench) {
    assert_eq!(bench.store.prune_audit(START_MS + 1_000).await.unwrap(), 0);
    write(&bench, 6).await;
    assert_eq!(bench.store.prune_audit(START_MS + 40).await.unwrap(), 4);
    assert_eq!(bench.store.prune_audit(START_MS + 40).await.unwrap(), 0);
    write(&bench, 1).await;
    let log = bench.audit_log().await;
    assert_eq!(log.iter().map(|record| record.pos).collect::<Vec<_>>(), [5, 6, 7]);
    assert_eq!(bench.store.prune_audit(START_MS + 10_000).await.unwrap(), 3);
    assert_eq!(bench.audit_log().await.len(), 0);
    write(&bench, 2).await;
    assert_eq!(bench.audit_log().await.len(), 2);
}

pub(super) async fn concurrent_writes_make_one_chain(bench: Bench) {
    let writes = (0..20).map(|number| {
        let state = if number % 2 == 0 { ControlState::Paused } else { ControlState::Running };
        bench.store.set_stage_control(control_change(&format!("stage-{number}"), state, None))
    });
    for written in join_all(writes).await {
        written.unwrap();
    }
    assert_eq!(bench.audit_log().await.len(), 20);
}
