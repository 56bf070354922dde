//! Keeping apart in memory what threads would otherwise wait for each other over.
//!
//! What one processor writes, all others have to fetch anew, along with whatever lies beside it. So what is written with
//! each transaction lies in cache lines of its own, beside what is written with it; and what needs no single place has one
//! for each few threads.

use std::{
    ops::Deref,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Keeps what is in it in cache lines of its own (which many processors fetch two at a time).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Apart<T>(pub(crate) T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The same thing several times over, of which each thread uses one, and always the same.
pub(crate) struct Striped<T>([T; STRIPES]);

/// More than processors that a program usually has to itself, so that with about a thread for each of them, as runtimes
/// have it, hardly any two meet.
const STRIPES: usize = 32;

impl<T> Striped<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Self(std::array::from_fn(|_| make()))
    }

    /// That of the thread that calls.
    pub(crate) fn own(&self) -> &T {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static STRIPE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        // A thread that ends may have lost it already.
        &self.0[STRIPE.try_with(|stripe| *stripe).unwrap_or_default()]
    }
}
