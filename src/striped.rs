//! Some things need no single place in memory. They have one for every few threads, because
//! otherwise these threads would wait for each other: what one processor writes, all others have to
//! fetch again.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Several copies of the same thing. Each thread uses one copy, and always the same one.
pub(crate) struct Striped<T>([T; STRIPES]);

/// Number of copies: more than the processors that a program usually has to itself. So with about
/// one thread for each processor, as runtimes have it, hardly any two threads meet.
const STRIPES: usize = 32;

impl<T> Striped<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> Self {
        Self(std::array::from_fn(|_| make()))
    }

    /// Returns the copy of the calling thread.
    pub(crate) fn own(&self) -> &T {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static STRIPE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        // A thread that is ending may have lost its number already.
        &self.0[STRIPE.try_with(|stripe| *stripe).unwrap_or_default()]
    }
}
