//! What hosts tell each other. Here one host speaks; what several do to each other is for the
//! stores that have several.

use super::{Bench, START_MS};
use crate::store::commands::{KEPT_MS, VALID_MS};
use crate::store::{KnownBindings, LiveHost, NewCommand, StageBinding, TakenCommand};

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
    assert_eq!(bench.store.live_hosts().await.unwrap(), []);
    bench.store.record_host(&settings, r#"{"stages":[]}"#).await.unwrap();
    bench.store.ping().await.unwrap();
    let mut here = LiveHost {
        host: "here".to_owned(),
        seen_at_ms: START_MS,
        report: Some(r#"{"stages":[]}"#.to_owned()),
    };
    assert_eq!(bench.store.live_hosts().await.unwrap(), [here.clone()]);
    bench.clock.advance(LIVE_MS - 1);
    here.report = Some("{}".to_owned());
    here.seen_at_ms = START_MS + LIVE_MS - 1;
    bench.store.record_host(&settings, "{}").await.unwrap();
    bench.clock.advance(LIVE_MS - 1);
    assert_eq!(bench.store.live_hosts().await.unwrap(), [here]);
    bench.clock.advance(1);
    assert_eq!(bench.store.live_hosts().await.unwrap(), []);
}

fn commands(to: &[(&str, &str)]) -> Vec<NewCommand> {
    let commands = to.iter().map(|(host, command)| NewCommand {
        host: (*host).to_owned(),
        command: (*command).to_owned(),
    });
    commands.collect()
}

pub(super) async fn a_command_is_taken_once_by_its_host(bench: Bench) {
    let store = &bench.store;
    let sent = commands(&[("here", "1"), ("elsewhere", "2"), ("here", "3")]);
    let ids = store.send_commands(sent).await.unwrap();
    let taken = store.take_commands().await.unwrap();
    let here = [
        TakenCommand { id: ids[0], command: "1".to_owned() },
        TakenCommand { id: ids[2], command: "3".to_owned() },
    ];
    assert_eq!(taken, here);
    assert_eq!(store.take_commands().await.unwrap(), []);
    assert_eq!(store.command_answers(&ids).await.unwrap(), []);
    store.answer_command(ids[2], "done").await.unwrap();
    store.answer_command(ids[1], "not for this host").await.unwrap();
    let answers = store.command_answers(&ids).await.unwrap();
    assert_eq!(answers, [(ids[2], "done".to_owned())]);
}

pub(super) async fn a_command_that_is_not_taken_expires(bench: Bench) {
    let ids = bench.store.send_commands(commands(&[("here", "1")])).await.unwrap();
    bench.store.answer_command(ids[0], "late").await.unwrap();
    bench.clock.advance(VALID_MS);
    assert_eq!(bench.store.take_commands().await.unwrap(), []);
    assert_eq!(bench.store.command_answers(&ids).await.unwrap().len(), 1);
    bench.clock.advance(KEPT_MS);
    bench.store.send_commands(commands(&[("elsewhere", "2")])).await.unwrap();
    assert_eq!(bench.store.command_answers(&ids).await.unwrap(), []);
}
