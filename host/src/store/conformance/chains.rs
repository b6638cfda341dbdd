//! Recorded chains of events.

use super::build::operator;
use super::{Bench, START_MS};
use crate::store::{ChainCount, ChainRecord, ChainStop};

fn count(id: &str, events: i64, at_ms: u64) -> ChainCount {
    ChainCount { correlation_id: id.into(), events, first_at_ms: at_ms, last_at_ms: at_ms }
}

impl Bench {
    async fn chain(&self, id: &str) -> ChainRecord {
        let chains = self.store.chains(0).await.unwrap();
        chains.into_iter().find(|chain| &*chain.correlation_id == id).expect("no such chain")
    }
}

pub(super) async fn counts_of_hosts_are_added(bench: Bench) {
    bench.store.count_chains(vec![count("b", 5, 7), count("a", 100, 5)]).await.unwrap();
    bench.clock.advance(10);
    bench.store.count_chains(vec![count("a", 23, 9)]).await.unwrap();
    bench.store.count_chains(vec![count("a", -3, 9)]).await.unwrap();
    let expected = ChainRecord {
        correlation_id: "a".into(),
        events: 120,
        first_at_ms: 5,
        last_at_ms: 9,
        changed_at_ms: START_MS + 10,
        stop: None,
    };
    assert_eq!(bench.chain("a").await, expected);
    // What one host takes back may arrive before what another one counted.
    bench.store.count_chains(vec![count("b", -9, 7)]).await.unwrap();
    assert_eq!(bench.chain("b").await.events, 0);
}

pub(super) async fn a_chain_is_stopped_and_resumed(bench: Bench) {
    bench.store.count_chains(vec![count("a", 100, 5)]).await.unwrap();
    let stopped = bench.store.stop_chain("a", Some("a loop".into()), &operator()).await.unwrap();
    let reason = Some("a loop".to_owned());
    assert_eq!(stopped.stop, Some(ChainStop { at_ms: START_MS, reason }));
    assert_eq!(stopped, bench.chain("a").await);
    bench.clock.advance(10);
    // Events that were on their way are counted all the same.
    bench.store.count_chains(vec![count("a", 1, 9)]).await.unwrap();
    let again = bench.store.stop_chain("a", None, &operator()).await.unwrap();
    assert_eq!((again.events, again.changed_at_ms), (101, START_MS + 10));
    assert_eq!(again.stop, Some(ChainStop { at_ms: START_MS, reason: None }), "the first stop");
    let resumed = bench.store.resume_chain("a", None, &operator()).await.unwrap();
    assert_eq!((resumed.events, &resumed.stop), (0, &None));
    assert_eq!(resumed, bench.chain("a").await);
    // A chain that was never recorded.
    assert!(bench.store.stop_chain("b", None, &operator()).await.unwrap().stop.is_some());
    assert_eq!(bench.store.resume_chain("c", None, &operator()).await.unwrap().stop, None);
}

pub(super) async fn changed_chains_are_listed(bench: Bench) {
    bench.store.stop_chain("stopped", None, &operator()).await.unwrap();
    bench.store.count_chains(vec![count("old", 1, 5)]).await.unwrap();
    for id in ["first", "second"] {
        bench.clock.advance(10);
        bench.store.count_chains(vec![count(id, 1, 5)]).await.unwrap();
    }
    let listed = async |since_ms| {
        let chains = bench.store.chains(since_ms).await.unwrap();
        chains.into_iter().map(|chain| chain.correlation_id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(0).await, ["stopped", "second", "first", "old"]);
    assert_eq!(listed(START_MS + 10).await, ["stopped", "second", "first"]);
    assert_eq!(listed(START_MS + 21).await, ["stopped"], "a stop is always listed");
}
