//! The wakers of tasks that wait for one batch.

use std::{mem, task::Waker};

/// Number of wakers from which on the list is searched for wakers that are in it twice.
const FEW: usize = 1 << 10;

/// A list of wakers. It has at most about twice as many as there are tasks. Looking a waker up at
/// each registration would cost every task. Instead, the caller that makes the list twice as long
/// takes out the wakers that are in it twice.
#[derive(Debug, Default)]
#[repr(C)] // the list comes first: see `Queue`
pub(super) struct Wakers {
    list: Vec<Waker>,
    /// Number of different wakers when the list was last searched, or when its wakers were last
    /// woken.
    distinct: usize,
}

impl Wakers {
    pub(super) fn push(&mut self, waker: Waker) {
        self.list.push(waker);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether it is time to take out the wakers that are in the list twice.
    pub(super) const fn is_crowded(&self) -> bool {
        self.list.len() >= FEW && self.list.len() > 2 * self.distinct
    }

    /// Takes out the wakers that are in the list twice, and returns them. Their drop is foreign
    /// code, so the [`Notifier`](super::notifier) must do it.
    pub(super) fn thin_out(&mut self) -> Vec<Waker> {
        self.list.sort_unstable_by_key(|waker| (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr()));
        let mut doubles = Vec::new();
        let mut distinct: Vec<Waker> = Vec::with_capacity(self.list.len());
        for waker in self.list.drain(..) {
            if distinct.last().is_some_and(|last| last.will_wake(&waker)) {
                doubles.push(waker);
            } else {
                distinct.push(waker);
            }
        }
        self.list = distinct;
        self.distinct = self.list.len();
        doubles
    }

    /// Takes in all wakers of the other list.
    pub(super) fn append(&mut self, mut other: Self) {
        self.list.append(&mut other.list);
        self.distinct = self.distinct.max(other.distinct);
    }

    /// Takes out all wakers, to be woken, and continues in the empty buffer.
    pub(super) fn take(&mut self, empty: Vec<Waker>) -> Vec<Waker> {
        debug_assert!(empty.is_empty(), "nothing is dropped here");
        self.distinct = self.list.len(); // about as many tasks are going to wait again
        mem::replace(&mut self.list, empty)
    }
}
