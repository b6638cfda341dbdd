//! Keys that another host adds and removes.

use super::*;
use crate::domain::actor::Actor;
use crate::domain::clock::ManualClock;
use crate::store::conformance::START_MS;
use crate::store::sqlite::tests::open as open_store;
use crate::store::{KeyAdded, KeyRemoved};

async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let clock = Arc::new(ManualClock::at(START_MS));
    open_store(&folder.path().join("store.db"), clock).await
}

fn ids(keys: &MessageKeys) -> Vec<String> {
    keys.signers().iter().map(|signer| signer.id().to_owned()).collect()
}

/// Adds a key, as another host does; its name.
async fn rotate(store: &Arc<dyn Store>) -> String {
    let added =
        store.add_message_key(MessageKey::generate(START_MS), &Actor::program()).await.unwrap();
    let KeyAdded::Added(all) = added else { panic!("there are few keys") };
    all[0].id.clone()
}

#[tokio::test]
async fn a_key_of_another_host_is_learned_when_a_message_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let keys = MessageKeys::open(Arc::clone(&store), START_MS).await.unwrap();
    let first = ids(&keys);
    assert_eq!(first.len(), 1);
    let newest = rotate(&store).await;
    // What is known is not looked up.
    keys.learn(first.iter().map(String::as_str)).await;
    assert_eq!(ids(&keys), first);
    keys.learn([first[0].as_str(), &newest].into_iter()).await;
    assert_eq!(ids(&keys), [newest, first[0].clone()], "the newest one signs");
}

#[tokio::test]
async fn a_name_that_no_key_has_is_looked_up_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let keys = MessageKeys::open(Arc::clone(&store), START_MS).await.unwrap();
    keys.learn(["deadbeef"].into_iter()).await;
    let newest = rotate(&store).await;
    keys.learn(["deadbeef"].into_iter()).await;
    assert_eq!(ids(&keys).len(), 1, "it was looked up again");
    keys.learn(["deadbeef", &newest].into_iter()).await;
    assert_eq!(ids(&keys).len(), 2);
}

#[tokio::test]
async fn a_removed_key_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let keys = MessageKeys::open(Arc::clone(&store), START_MS).await.unwrap();
    let first = ids(&keys).remove(0);
    let newest = rotate(&store).await;
    keys.refresh().await.unwrap();
    assert_eq!(ids(&keys), [newest.clone(), first.clone()]);
    assert_eq!(
        store.remove_message_key(&first, &Actor::program()).await.unwrap(),
        KeyRemoved::Removed
    );
    keys.refresh().await.unwrap();
    assert_eq!(ids(&keys), [newest]);
}

#[tokio::test]
async fn hosts_of_one_store_have_the_same_keys() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder).await;
    let one = MessageKeys::open(Arc::clone(&store), START_MS).await.unwrap();
    let other = MessageKeys::open(store, START_MS).await.unwrap();
    assert_eq!(ids(&one), ids(&other));
}
