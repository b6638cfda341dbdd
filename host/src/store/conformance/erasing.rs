//! Erasing a customer, and the keys of what is stored.

use super::Bench;
use super::build::{batch, emits, failure, operator, order, recorded, writing};
use crate::domain::encryption::{ERASED, unreadable};
use crate::store::{
    AuditFilter, DataKeyCount, Erased, Erasure, RecordingCursor, RecordingFilter, Rewrapped,
    Settlement,
};

fn erasure(customer: &str) -> Erasure {
    Erasure {
        kinds: vec!["document".to_owned(), "order".to_owned()],
        customer: customer.to_owned(),
        reason: Some("asked to".to_owned()),
        actor: operator(),
    }
}

pub(super) async fn a_customer_is_erased_and_the_skeleton_remains(bench: Bench) {
    let event = bench.subject("1").await;
    let declined = recorded(emits(&event, "payment.declined", &[]), "{}");
    let failed = Settlement { failure: Some(failure(1, 1)), ..declined };
    bench.done(writing(vec![failed], "order/1/paid", 0, Some("yes"))).await;
    bench.done(writing(Vec::new(), "order/12/paid", 0, Some("yes"))).await;
    bench.subject("2").await;
    let store = &bench.store;
    let others = store.erase(erasure("43")).await.unwrap();
    assert_eq!(others, Erased::default(), "another customer");
    let before = bench.events("1").await;

    let erased = store.erase(erasure("42")).await.unwrap();
    let unfinished = vec![order("2")];
    assert_eq!(erased, Erased { subjects: 1, more: false, unfinished: unfinished.clone() });
    let subject = store.subject(&order("1")).await.unwrap().expect("it remains");
    assert_eq!((subject.status.as_str(), subject.customer), ("declined", None));
    assert_eq!((subject.body.is_null(), subject.unreadable.as_deref()), (true, Some(ERASED)));
    let after = bench.events("1").await;
    assert_eq!(after.len(), before.len());
    for (after, before) in after.iter().zip(&before) {
        let (after, before) = (&after.envelope, &before.envelope);
        assert_eq!((after.key(), &after.cause), (before.key(), &before.cause));
        assert_eq!(unreadable(&after.event.data).as_deref(), Some(ERASED));
        assert!(after.event.attributes.is_empty());
    }
    let delivery = bench.delivery("1", "payment").await;
    let text = &delivery.failures[0];
    assert!(text.message.contains(ERASED) && text.backtrace.is_none(), "{text:?}");
    let recordings = RecordingFilter {
        stage: "payment".to_owned(),
        subject: None,
        after: RecordingCursor::default(),
        limit: 100,
    };
    assert!(store.recordings(recordings).await.unwrap().0.is_empty());
    assert_eq!(store.state_keys("payment", "", "", 10).await.unwrap(), ["order/12/paid"]);
    assert_eq!(bench.events("2").await[0].envelope.event.data[..3], b"\x00\xff "[..], "kept");
    let again = store.erase(erasure("42")).await.unwrap();
    assert_eq!(again, Erased { subjects: 0, more: false, unfinished });
    let filter = AuditFilter { limit: 10, ..AuditFilter::default() };
    let records = store.audit_records(filter).await.unwrap().records;
    assert_eq!(records.len(), 1, "{records:?}");
    assert!(records[0].object.starts_with("customer/sha256:"), "{records:?}");
}

pub(super) async fn values_are_sealed_with_the_key_of_their_subject(bench: Bench) {
    let event = bench.subject("1").await;
    bench.done(batch(vec![emits(&event, "payment.authorized", &["inventory"])])).await;
    // The subject's key, and the shared one.
    let used = bench.store.data_keys().await.unwrap();
    assert_eq!(used, [DataKeyCount { id: "test".to_owned(), count: 2 }]);
    let key = event.data_key.as_ref().expect("a key").wrapped().to_owned();
    let first = bench.events("1").await.remove(0);
    assert_eq!(first.envelope.data_key.map(|key| key.wrapped().to_owned()), Some(key));
    // The primary key wraps all of them.
    assert_eq!(bench.store.rewrap_keys(0, &operator()).await.unwrap(), Rewrapped::default());
}
