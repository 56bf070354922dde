//! Counts what is allocated, for the memory that a ring takes. All rings pay the same for the
//! counting. The logs do not: all threads share the counters, and would contend on them as in no
//! real program.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicBool, Ordering},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// The allocator that counts, once [`start`] was called.
pub static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static COUNTING: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static SWITCHED: Switched = Switched;

struct Switched;

/// Starts counting.
pub fn start() {
    COUNTING.store(true, Ordering::Relaxed);
}

// SAFETY: both forward to the system's allocator, so each may release what the other one allocated.
unsafe impl GlobalAlloc for Switched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on, here and below.
        unsafe { if COUNTING.load(Ordering::Relaxed) { ALLOCATOR.alloc(layout) } else { System.alloc(layout) } }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe {
            if COUNTING.load(Ordering::Relaxed) {
                ALLOCATOR.dealloc(pointer, layout);
            } else {
                System.dealloc(pointer, layout);
            }
        }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe {
            if COUNTING.load(Ordering::Relaxed) { ALLOCATOR.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) }
        }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        unsafe {
            if COUNTING.load(Ordering::Relaxed) {
                ALLOCATOR.realloc(pointer, layout, bytes)
            } else {
                System.realloc(pointer, layout, bytes)
            }
        }
    }
}
