//! A global allocator that counts. In: every allocation of this program. Out: how many calls a thread made while it
//! was counted. Frees count too: they take the same locks.
#![expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait; every call is handed on to the system's allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    /// `None`: not counted. Constant and without destructor, so that the allocator may touch it at any time.
    static CALLS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The system's allocator with a counter in front.
#[derive(Debug)]
pub struct Counting;

fn count() {
    // A thread that is ending has no cell any more; nobody counts it then.
    let _ = CALLS.try_with(|calls| calls.set(calls.get().map(|n| n + 1)));
}

/// From now on the calls of this thread count, from 0.
pub fn start() {
    CALLS.set(Some(0));
}

/// Ends the count of this thread; the calls since [`start`], 0 without it.
pub fn stop() -> u64 {
    CALLS.take().unwrap_or(0)
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
