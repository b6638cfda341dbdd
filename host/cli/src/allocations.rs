//! The program's allocator, which counts allocations while `bench --costs` runs.
//!
//! Costs: one comparison for each allocation while it does not count. A count goes to the slot that
//! the thread is in ([`enter`]). Counting allocates nothing.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mimalloc::MiMalloc;

/// A host allocates many small, short-lived values. This allocator cuts their cost by about a
/// sixth compared with the system's.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator(MiMalloc);

/// Slots that are counted apart.
pub(crate) const SLOTS: usize = 8;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static COUNTS: [Counter; SLOTS] = [const { Counter::new() }; SLOTS];

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(0) };
}

/// Allocations, where a block that is moved or resized counts as a new one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allocations {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

struct Counter {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    const fn new() -> Self {
        Self { count: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

/// Counts from now on.
pub(crate) fn start() {
    IS_COUNTING.store(true, Ordering::Relaxed);
}

/// Counts the allocations of this thread in a slot from now on; returns the slot that it was in.
pub(crate) fn enter(slot: usize) -> usize {
    SLOT.replace(slot)
}

/// The slot of this thread.
pub(crate) fn slot() -> usize {
    // A thread that ends has no slot of its own any more.
    SLOT.try_with(Cell::get).unwrap_or(0)
}

/// The counts so far.
pub(crate) fn counts() -> [Allocations; SLOTS] {
    std::array::from_fn(|slot| Allocations {
        count: COUNTS[slot].count.load(Ordering::Relaxed),
        bytes: COUNTS[slot].bytes.load(Ordering::Relaxed),
    })
}

fn count(bytes: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        let counter = &COUNTS[slot()];
        counter.count.fetch_add(1, Ordering::Relaxed);
        counter.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

struct CountingAllocator(MiMalloc);

// SAFETY: every call is passed on unchanged to an allocator, and counting does not allocate.
#[expect(unsafe_code, reason = "the standard library has no safe interface to count allocations")]
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.dealloc(block, layout) }
    }
}
