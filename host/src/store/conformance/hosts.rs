//! What hosts tell each other. Here one host speaks; what several do to each other is for the
//! stores that have several.

use super::{Bench, START_MS};
use crate::store::{KnownBindings, StageBinding};

const LIVE_MS: u64 = 30_000;

fn bindings(of: &[(&str, &str)]) -> Vec<StageBinding> {
    of.iter()
        .map(|(stage, pattern)| StageBinding {
            stage: (*stage).into(),
            pattern: (*pattern).to_owned(),
        })
        .collect()
}

impl Bench {
    async fn uses(&self, used: &[(&str, &str)]) -> KnownBindings {
        self.clock.advance(1);
        self.store.record_bindings(bindings(used), LIVE_MS).await.unwrap()
    }

    async fn forgets(&self, stage: &str, pattern: &str) -> bool {
        self.store.delete_binding(bindings(&[(stage, pattern)]).remove(0), LIVE_MS).await.unwrap()
    }
}

pub(super) async fn a_binding_stays_while_it_is_used(bench: Bench) {
    let both = [("payment", "order.cancelled"), ("payment", "order.created")];
    let known = bench.uses(&both).await;
    assert_eq!(known, KnownBindings { kept: bindings(&both), unused: Vec::new() });
    let known = bench.uses(&both[1..]).await;
    assert_eq!(known, KnownBindings { kept: bindings(&both[1..]), unused: bindings(&both[..1]) });
    assert!(!bench.forgets("payment", "order.created").await, "it is in use");
    assert!(bench.forgets("payment", "order.cancelled").await);
    assert_eq!(
        bench.uses(&both[1..]).await,
        KnownBindings { kept: bindings(&both[1..]), unused: Vec::new() }
    );
}

pub(super) async fn a_stage_without_a_host_keeps_its_bindings(bench: Bench) {
    bench.uses(&[("payment", "order.created")]).await;
    bench.clock.advance(LIVE_MS * 2);
    let known = bench.uses(&[("shipping", "order.paid")]).await;
    let all = bindings(&[("payment", "order.created"), ("shipping", "order.paid")]);
    assert_eq!(known, KnownBindings { kept: all, unused: Vec::new() });
    // It comes back with another binding: the old one is not needed any more.
    let known = bench.uses(&[("payment", "order.paid"), ("shipping", "order.paid")]).await;
    assert_eq!(known.unused, bindings(&[("payment", "order.created")]));
    assert!(bench.forgets("payment", "order.created").await);
}

pub(super) async fn a_lease_is_renewed_by_its_holder(bench: Bench) {
    assert!(bench.store.lease_stage("payment", 1_000).await.unwrap());
    bench.clock.advance(START_MS);
    assert!(bench.store.lease_stage("payment", 1_000).await.unwrap());
    bench.store.release_stage("payment").await.unwrap();
    assert!(bench.store.lease_stage("payment", 1_000).await.unwrap());
}

pub(super) async fn a_host_is_live_while_it_reports(bench: Bench) {
    let settings = [("events.hops_max".to_owned(), "64".to_owned())].into();
    let live = bench.store.record_host(&settings).await.unwrap();
    let [host] = &live[..] else { panic!("{live:?}") };
    assert_eq!((host.host.as_str(), &host.settings), ("here", &settings));
    bench.store.ping().await.unwrap();
}
