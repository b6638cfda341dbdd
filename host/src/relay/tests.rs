//! A broker that refuses an event because of one of several queues.

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::broker::{Binding, Capacity, Consumer, Gap, RejectedConsumer};
use crate::config::Config;
use crate::domain::clock::ManualClock;
use crate::store::conformance::{START_MS, sample_event};
use crate::store::sqlite::tests::open as open_store;

/// The queue of `full` rejects messages; publication by type includes it.
#[derive(Default)]
struct OneFullQueue {
    /// Stages that confirmed a message of their own.
    confirmed: Mutex<Vec<Arc<str>>>,
    /// Publications by type.
    by_type: Mutex<usize>,
}

#[async_trait]
impl Broker for OneFullQueue {
    async fn declare(&self, _: Binding) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn bind(&self, _: &Arc<str>, _: &str) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn unbind(&self, _: &Arc<str>, _: &str) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Result<(), BrokerError>> {
        let answer = |message: Outgoing| match message.direct {
            Some(direct) if &*direct.stage != "full" => {
                self.confirmed.lock().unwrap().push(direct.stage);
                Ok(())
            }
            direct => {
                *self.by_type.lock().unwrap() += usize::from(direct.is_none());
                Err(BrokerError::Refused("a queue is full".to_owned()))
            }
        };
        messages.into_iter().map(answer).collect()
    }

    async fn consume(&self, _: &Arc<str>, _: Capacity) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Unavailable("no queue".to_owned()))
    }

    async fn consume_rejected(
        &self,
        _: &Arc<str>,
    ) -> Result<Option<Box<dyn RejectedConsumer>>, BrokerError> {
        Ok(None)
    }

    fn take_gaps(&self) -> Vec<Gap> {
        Vec::new()
    }

    async fn gap(&self) {
        std::future::pending::<()>().await;
    }

    async fn depth(&self, _: &str) -> Result<u64, BrokerError> {
        Ok(0)
    }

    fn has_outside_consumers(&self) -> bool {
        false
    }

    async fn up(&self) {}

    async fn ping(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(&self) {}
}

const MAX_BYTES: u64 = 64 << 20;

fn group(relay: &Relay, rows: Vec<OutboxRow>) -> Group {
    let reserved = relay.budget.take(bytes_of(&rows));
    Group { rows, reserved }
}

#[tokio::test]
async fn only_the_queue_that_did_not_confirm_receives_the_event_again() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START_MS));
    let store = open_store(&folder.path().join("store.db"), Arc::clone(&clock)).await;
    let event = sample_event("e1", &["full", "other"]);
    let pipeline = Pipeline::new(&Config::default(), Config::default().kinds().expect("valid"));
    for stage in ["full", "other"] {
        let consumes = [event.envelope.event.event_type.clone()];
        pipeline.route(&pipeline.stage(stage), &consumes);
    }
    let broker = Arc::new(OneFullQueue::default());
    let (relay, _handle) = Relay::new(
        Arc::clone(&store) as Arc<_>,
        Arc::clone(&broker) as Arc<_>,
        pipeline,
        MAX_BYTES,
    );
    let (sent, mut confirmed) = mpsc::channel(8);
    let (_, rows) = store.accept_event(event).await.unwrap();
    assert!(relay.outlet.send(group(&relay, rows), &sent).await);
    for _ in 0..3 {
        clock.advance(POSTPONE_MS);
        let (Some(claimed), _) = relay.outlet.claim(&relay.budget).await else {
            panic!("nothing is due")
        };
        let [row] = &claimed.rows[..] else { panic!("{:?}", claimed.rows) };
        assert_eq!(row.direct.as_ref().map(|direct| &*direct.stage), Some("full"));
        assert!(relay.outlet.send(claimed, &sent).await);
    }
    assert_eq!(*broker.confirmed.lock().unwrap(), ["other".into()], "once");
    assert_eq!(*broker.by_type.lock().unwrap(), 1);
    assert!(confirmed.try_recv().is_err(), "the event is not sent yet");
}

#[tokio::test]
async fn rows_beyond_the_budget_are_released_and_claimed_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(START_MS));
    let store = open_store(&folder.path().join("store.db"), Arc::clone(&clock)).await;
    let broker =
        crate::broker::embedded::Embedded::new(Capacity::UNBOUNDED, Arc::clone(&clock) as _);
    let pipeline = Pipeline::new(&Config::default(), Config::default().kinds().expect("valid"));
    let mut groups = Vec::new();
    for number in 1..=3 {
        let mut event = sample_event(&format!("e{number}"), &["payment"]);
        let mut envelope = crate::domain::event::Envelope::clone(&event.envelope);
        envelope.event.data = vec![b'x'; 1_000].into();
        event.envelope = Arc::new(envelope);
        groups.push(store.accept_event(event).await.unwrap().1);
    }
    let bytes = 2 * bytes_of(&groups[0]);
    let (relay, handle) =
        Relay::new(Arc::clone(&store) as Arc<_>, Arc::clone(&broker) as Arc<_>, pipeline, bytes);
    for rows in groups {
        handle.enqueue(rows);
    }
    assert_eq!(relay.budget.free(), None, "the third one is not held");
    let mut queues = relay.queues.lock().await;
    let ids = queues.excess.try_recv().expect("the third row was queued");
    relay.outlet.release(ids).await;
    assert!(relay.outlet.claim(&relay.budget).await.0.is_none(), "there is no room yet");
    let held = queues.groups.recv().await.unwrap();
    let batch = gather(held, &mut queues.groups);
    assert_eq!(batch.rows.len(), 2);
    let (sent, mut confirmed) = mpsc::channel(8);
    assert!(relay.outlet.send(batch, &sent).await);
    assert_eq!(confirmed.recv().await.unwrap().len(), 2);
    let (Some(claimed), false) = relay.outlet.claim(&relay.budget).await else {
        panic!("the released row is not due")
    };
    assert_eq!(claimed.rows[0].envelope.event.id, "e3");
}
