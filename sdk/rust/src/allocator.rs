//! The guest's allocator: the standard library's, but it begins with memory that the module
//! declares, and grows the linear memory only for what does not fit.
//!
//! The standard library grows the memory for the first allocation. A guest that gets a fresh
//! instance for each message would do that in each call: the host maps the new pages, and takes
//! them away again when it resets the instance. An ordinary message fits into the arena, which an
//! instance has from the start. Its pages cost nothing until they are written.

#![allow(unsafe_code, reason = "an allocator hands out memory by its address")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32::memory_grow;
use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::ptr::null_mut;

use dlmalloc::Dlmalloc;

/// What an ordinary message needs, several times over.
const ARENA_BYTES: usize = 256 << 10;
/// Least that the memory grows by: growing it is expensive.
const GROWTH_BYTES: usize = 256 << 10;
const PAGE_BYTES: usize = 64 << 10;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(UnsafeCell::new(Dlmalloc::new_with_allocator(Memory {
    arena_used: Cell::new(false),
})));

static mut ARENA: [MaybeUninit<u8>; ARENA_BYTES] = [MaybeUninit::uninit(); ARENA_BYTES];

struct Allocator(UnsafeCell<Dlmalloc<Memory>>);

// SAFETY: this module is compiled only for targets without threads.
unsafe impl Sync for Allocator {}

impl Allocator {
    #[allow(clippy::mut_from_ref, reason = "no call of the allocator runs within another one")]
    fn get(&self) -> &mut Dlmalloc<Memory> {
        // SAFETY: there is one thread, and `Dlmalloc` calls only `Memory`, which allocates nothing.
        unsafe { &mut *self.0.get() }
    }
}

// SAFETY: `Dlmalloc` keeps the contract; the caller's part of it is passed on.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { self.get().malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { self.get().calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        unsafe { self.get().free(address, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        unsafe { self.get().realloc(address, layout.size(), layout.align(), bytes) }
    }
}

/// Where the allocator gets memory from; it returns none.
struct Memory {
    arena_used: Cell<bool>,
}

// SAFETY: the arena is handed out once and used by nothing else; grown pages are new.
unsafe impl dlmalloc::Allocator for Memory {
    fn alloc(&self, bytes: usize) -> (*mut u8, usize, u32) {
        if bytes <= ARENA_BYTES && !self.arena_used.replace(true) {
            return ((&raw mut ARENA).cast(), ARENA_BYTES, 0);
        }
        match grow(bytes.max(GROWTH_BYTES)).or_else(|| grow(bytes)) {
            Some((address, grown)) => (address, grown, 0),
            None => (null_mut(), 0, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE_BYTES
    }
}

/// Adds pages for so many bytes; none beyond the module's own limit.
fn grow(bytes: usize) -> Option<(*mut u8, usize)> {
    let pages = bytes.div_ceil(PAGE_BYTES);
    let first = memory_grow::<0>(pages);
    if first == usize::MAX {
        return None;
    }
    let address = first * PAGE_BYTES;
    // The last bytes of the address space stay unused: an end at address 0 is no end.
    let bytes = (pages * PAGE_BYTES).min(usize::MAX - 15 - address);
    Some((address as *mut u8, bytes))
}
