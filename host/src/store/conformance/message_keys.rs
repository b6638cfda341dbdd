//! The keys with which hosts sign their messages.

use super::{Bench, START_MS};
use crate::domain::actor::Actor;
use crate::store::message_keys::KEYS_MAX;
use crate::store::{KeyAdded, KeyRemoved, MessageKey};

impl Bench {
    /// Adds a new key; all keys, the newest first.
    async fn adds_key(&self) -> Vec<MessageKey> {
        let key = MessageKey::generate(START_MS);
        match self.store.add_message_key(key.clone(), &Actor::program()).await.unwrap() {
            KeyAdded::Added(all) => {
                assert_eq!(all.first(), Some(&key));
                all
            }
            KeyAdded::TooMany => panic!("there are few keys"),
        }
    }
}

pub(super) async fn the_first_key_is_added_once(bench: Bench) {
    assert!(bench.store.message_keys().await.unwrap().is_empty());
    let hosts = (0..4).map(|_| bench.store.message_keys_or(MessageKey::generate(START_MS)));
    let found = futures::future::join_all(hosts).await;
    let all = bench.store.message_keys().await.unwrap();
    assert_eq!(all.len(), 1);
    for keys in found {
        assert_eq!(keys.unwrap(), all);
    }
}

pub(super) async fn a_new_key_is_the_newest(bench: Bench) {
    let first = bench.adds_key().await;
    let second = bench.adds_key().await;
    assert_eq!(second[1..], first);
    assert_eq!(bench.store.message_keys().await.unwrap(), second);
    assert_eq!(
        bench.store.message_keys_or(MessageKey::generate(START_MS)).await.unwrap(),
        second,
        "there are keys"
    );
}

pub(super) async fn a_key_is_removed_unless_it_is_the_newest(bench: Bench) {
    bench.adds_key().await;
    let all = bench.adds_key().await;
    let [newest, old] = &all[..] else { panic!("{all:?}") };
    let remove =
        async |id: &str| bench.store.remove_message_key(id, &Actor::program()).await.unwrap();
    assert_eq!(remove(&newest.id).await, KeyRemoved::Newest);
    assert_eq!(remove("00000000x").await, KeyRemoved::NotFound);
    assert_eq!(remove(&old.id).await, KeyRemoved::Removed);
    assert_eq!(remove(&old.id).await, KeyRemoved::NotFound);
    assert_eq!(bench.store.message_keys().await.unwrap(), all[..1]);
    // The next one is newer than the one that is left.
    assert_eq!(bench.adds_key().await[1..], all[..1]);
}

pub(super) async fn the_number_of_keys_is_bounded(bench: Bench) {
    for _ in 0..KEYS_MAX {
        bench.adds_key().await;
    }
    let all = bench.store.message_keys().await.unwrap();
    let more = bench
        .store
        .add_message_key(MessageKey::generate(START_MS), &Actor::program())
        .await
        .unwrap();
    assert_eq!(more, KeyAdded::TooMany);
    assert_eq!(bench.store.message_keys().await.unwrap(), all);
}
