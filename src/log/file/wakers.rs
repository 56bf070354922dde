//! The wakers of tasks that wait for one batch.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// So many wakers are taken before anybody asks whether they are all different.
const FEW: usize = 1 << 10;

/// A list of wakers, with at most about twice as many as there are tasks. Looking a waker up at each registration would
/// cost every task; instead, once the list has doubled, whoever made it so drops those that are in it twice.
#[derive(Debug, Default)]
#[repr(C)] // the list first: see `Queue`
pub(super) struct Wakers {
    list: Vec<Waker>,
    /// How many there were, all different, when that was last looked at, or when they were woken.
    distinct: usize,
}

impl Wakers {
    pub(super) fn push(&mut self, waker: Waker) {
        self.list.push(waker);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether it is time to drop those that are in it twice.
    pub(super) const fn is_crowded(&self) -> bool {
        self.list.len() >= FEW && self.list.len() > 2 * self.distinct
    }

    /// Drops those that are in it twice. That is foreign code: no lock may be held.
    pub(super) fn thin_out(&mut self) {
        self.list.sort_unstable_by_key(|waker| (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr()));
        self.list.dedup_by(|a, b| a.will_wake(b));
        self.distinct = self.list.len();
    }

    /// Takes in all of the other's.
    pub(super) fn append(&mut self, mut other: Self) {
        self.list.append(&mut other.list);
        self.distinct = self.distinct.max(other.distinct);
    }

    /// Wakes all, whatever one of them does: a waker that panics must not cost the others their wake-up. Foreign code:
    /// no lock may be held.
    pub(super) fn wake_all(&mut self) {
        self.distinct = self.list.len(); // about as many are going to come again
        for waker in self.list.drain(..) {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}
