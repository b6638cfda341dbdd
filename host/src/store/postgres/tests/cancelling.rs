//! Cancellations on two hosts: one changes what the other has read and not yet written.

use super::*;
use crate::store::conformance::cancelling;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_never_both_dispatch_and_cancel() {
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
async fn concurrent_compensations_on_two_hosts_complete_the_cancellation() {
    let database = Database::create().await;
    let clock = Arc::new(ManualClock::at(conformance::START_MS));
    let (one, other) = tokio::join!(
        database.open("one", Arc::clone(&clock)),
        database.open("other", Arc::clone(&clock))
    );
    cancelling::compensate_concurrently(&*one, &*other, 100).await;
    one.close().await;
    other.close().await;
}
