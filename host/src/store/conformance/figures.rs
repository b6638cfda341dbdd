//! What a store counts for metrics.

use super::build::{batch, dead, emits, settlement};
use super::{Bench, START_MS};
use crate::domain::clock::Clock as _;
use crate::store::{FinishedSubject, StageBacklog, StoreFigures, Verdict};

impl Bench {
    async fn figures(&self) -> StoreFigures {
        self.store.figures(self.clock.now_ms()).await.unwrap()
    }
}

fn backlog(waiting: u64, scheduled: u64, oldest_ms: Option<u64>) -> StageBacklog {
    StageBacklog { stage: "payment".to_owned(), waiting, scheduled, oldest_ms }
}

pub(super) async fn what_waits_is_counted(bench: Bench) {
    assert_eq!(bench.figures().await, StoreFigures::default());
    let first = bench.subject("1").await;
    bench.clock.advance(5);
    let (second, third) = (bench.subject("2").await, bench.subject("3").await);
    assert_eq!(bench.figures().await.backlog, [backlog(3, 0, Some(START_MS))]);

    // One falls due later, so its row is in the outbox, and not due either.
    let due_at_ms = bench.clock.now_ms() + 1_000;
    bench.done(batch(vec![settlement(&first, Verdict::Retry { due_at_ms })])).await;
    let figures = bench.figures().await;
    assert_eq!(figures.backlog, [backlog(3, 1, Some(START_MS + 5))]);
    assert_eq!((figures.outbox, figures.outbox_oldest_ms), (0, None));
    bench.clock.advance(1_500);
    let figures = bench.figures().await;
    assert_eq!(
        figures.backlog,
        [backlog(3, 0, Some(START_MS))],
        "its age counts from the beginning"
    );
    assert_eq!((figures.outbox, figures.outbox_oldest_ms), (1, Some(due_at_ms)));

    bench.done(batch(vec![dead(&second), settlement(&third, Verdict::Skipped)])).await;
    let figures = bench.figures().await;
    assert!(figures.backlog.contains(&backlog(1, 0, Some(START_MS))), "{figures:?}");
    assert_eq!(figures.dead_letters, [("payment".to_owned(), 1)]);
}

pub(super) async fn subjects_that_finished_are_found_by_time(bench: Bench) {
    let finished = async |after_ms, until_ms, limit| {
        bench.store.finished_subjects("order", after_ms, until_ms, limit).await.unwrap()
    };
    let mut expected = Vec::new();
    for id in ["1", "2", "3"] {
        let event = bench.subject(id).await;
        bench.clock.advance(10);
        bench.done(batch(vec![emits(&event, "payment.declined", &[])])).await;
        let finished_ms = bench.clock.now_ms();
        let status = bench.status(id).await;
        expected.push(FinishedSubject { status, created_ms: finished_ms - 10, finished_ms });
    }
    bench.subject("4").await;
    let end_ms = bench.clock.now_ms();
    assert_eq!(finished(START_MS, end_ms, 10).await, expected, "the last one is unfinished");
    assert_eq!(finished(START_MS, end_ms, 2).await, expected[..2]);
    assert_eq!(finished(START_MS + 10, end_ms - 1, 10).await, expected[1..2]);
    let documents = bench.store.finished_subjects("document", START_MS, end_ms, 10).await.unwrap();
    assert_eq!(documents, []);
}
