//! Cancels and stages on two hosts: what one reads before it writes, the other changes meanwhile.

use super::*;
use crate::store::conformance::cancelling;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_dispatch_or_cancel_and_never_both() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    tokio::join!(
        cancelling::race(&*one, &*other, "a", 100),
        cancelling::race(&*other, &*one, "b", 100)
    );
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_that_undo_at_once_end_the_cancel() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    cancelling::undo_at_once(&*one, &*other, 100).await;
    one.close().await;
    other.close().await;
}
