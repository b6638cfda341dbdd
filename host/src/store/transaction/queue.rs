//! Operations that wait for a store's writer.
//!
//! Bounds: [`QUEUE_OPS`] operations wait, after that their callers do; those that wait or are being
//! committed have at most [`QUEUE_BYTES`], a larger one is alone. An operation keeps its bytes until it
//! is answered, also when its caller no longer waits.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::operation::{Operation, Request};
use crate::store::{CommitMetrics, StoreError};

/// Operations that wait before their callers have to.
const QUEUE_OPS: usize = 1024;
/// Bytes of events and state in the operations that wait or are being committed.
const QUEUE_BYTES: u32 = 64 << 20;

/// The callers' end of the queue: hands the writer what it commits.
pub(crate) struct WriterQueue<Op> {
    /// None once closed.
    sender: Mutex<Option<mpsc::Sender<Op>>>,
    bytes: Arc<Semaphore>,
    commits: Arc<CommitMetrics>,
}

impl<Op> WriterQueue<Op> {
    /// A queue, and the writer's end of it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Op>) {
        let (sender, receiver) = mpsc::channel(QUEUE_OPS);
        let bytes = Arc::new(Semaphore::new(QUEUE_BYTES as usize));
        (Self { sender: Mutex::new(Some(sender)), bytes, commits: Arc::default() }, receiver)
    }

    /// Queues an operation and waits for its commit. Once queued, it is carried out even if the caller
    /// stops waiting.
    pub(crate) async fn submit<O: Operation>(
        &self,
        operation: O,
        queued: impl FnOnce(Request<O>) -> Op,
    ) -> Result<O::Reply, StoreError> {
        let reserved = self.reserve(operation.bytes()).await;
        let (request, reply) = Request::new(operation, reserved);
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sender = sender.ok_or_else(StoreError::closed)?;
        sender.send(queued(request)).await.map_err(|_| StoreError::closed())?;
        reply.await.map_err(|_| StoreError::unanswered())?
    }

    /// Takes no more operations: the writer ends after those that wait.
    pub(crate) fn close(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Bytes of the operations that wait or are being committed, and the most that they may have.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let free = self.bytes.available_permits() as u64;
        (u64::from(QUEUE_BYTES).saturating_sub(free), u64::from(QUEUE_BYTES))
    }

    /// What the writer committed: it records it there.
    pub(crate) fn commits(&self) -> &Arc<CommitMetrics> {
        &self.commits
    }

    async fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES);
        if bytes == 0 {
            return None;
        }
        Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Writes this many bytes.
    struct Write(u64);

    impl Operation for Write {
        type Reply = ();

        fn bytes(&self) -> u64 {
            self.0
        }
    }

    fn submit(
        queue: &WriterQueue<Request<Write>>,
        bytes: u64,
    ) -> impl Future<Output = Result<(), StoreError>> {
        queue.submit(Write(bytes), |request| request)
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_until_it_is_answered() {
        let (queue, mut writer) = WriterQueue::new();
        let half = u64::from(QUEUE_BYTES) / 2;
        let mut abandoned = Box::pin(submit(&queue, half + 1));
        assert!(abandoned.as_mut().now_or_never().is_none());
        drop(abandoned);
        assert_eq!(queue.bytes(), (half + 1, 2 * half));
        let mut large = Box::pin(submit(&queue, half));
        assert!(large.as_mut().now_or_never().is_none());
        let first = writer.try_recv().unwrap();
        assert!(writer.try_recv().is_err(), "both together are too large");
        let mut small = Box::pin(submit(&queue, 0));
        assert!(small.as_mut().now_or_never().is_none());
        assert!(writer.try_recv().is_ok(), "what has no bytes does not wait for them");

        first.respond(Err(StoreError::closed()));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(writer.try_recv().is_ok());
    }

    #[tokio::test]
    async fn an_operation_that_is_larger_than_the_bound_is_alone() {
        let (queue, mut writer) = WriterQueue::new();
        let mut huge = Box::pin(submit(&queue, u64::MAX));
        assert!(huge.as_mut().now_or_never().is_none());
        let running = writer.try_recv().unwrap();
        let mut next = Box::pin(submit(&queue, 1));
        assert!(next.as_mut().now_or_never().is_none());
        assert!(writer.try_recv().is_err());
        drop(running);
        assert!(next.as_mut().now_or_never().is_none());
        assert!(writer.try_recv().is_ok());
    }

    #[tokio::test]
    async fn a_closed_queue_takes_nothing() {
        let (queue, mut writer) = WriterQueue::new();
        queue.close();
        assert!(submit(&queue, 1).await.is_err());
        assert!(writer.recv().await.is_none());
    }
}
