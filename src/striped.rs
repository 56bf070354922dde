//! What needs no single place in memory has one for each few threads, who would otherwise wait for each other over it: what
//! one processor writes, all others have to fetch anew.

use std::sync::atomic::{AtomicUsize, Ordering};

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
