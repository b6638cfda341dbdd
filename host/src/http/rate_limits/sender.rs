//! Whose requests are in progress: what a request holds is counted for its principal and its address.

use std::sync::Arc;

use super::clients::Usage;

/// Who sent a request.
#[derive(Clone, Default)]
pub(in crate::http) struct RequestSender {
    principal: Arc<Usage>,
    /// None: not known.
    address: Option<Arc<Usage>>,
}

/// Counts a request of its sender as in progress until it is dropped.
pub(in crate::http) struct InProgress(RequestSender);

impl RequestSender {
    pub(super) fn new(principal: Arc<Usage>, address: Option<Arc<Usage>>) -> Self {
        Self { principal, address }
    }

    /// Begins a request.
    pub(in crate::http) fn begin(&self) -> InProgress {
        self.each().for_each(Usage::begin_request);
        InProgress(self.clone())
    }

    /// A request holds so many bytes more.
    pub(in crate::http) fn hold(&self, bytes: u64) {
        self.each().for_each(|usage| usage.hold(bytes));
    }

    /// A request holds so many bytes less.
    pub(in crate::http) fn release(&self, bytes: u64) {
        self.each().for_each(|usage| usage.release(bytes));
    }

    fn each(&self) -> impl Iterator<Item = &Usage> {
        [Some(&self.principal), self.address.as_ref()].into_iter().flatten().map(Arc::as_ref)
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.each().for_each(Usage::end_request);
    }
}
