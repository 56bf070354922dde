//! The wakers of tasks that wait for one batch.

use std::{mem, task::Waker};

/// So many wakers are taken before anybody asks whether they are all different.
const FEW: usize = 1 << 10;

/// A list of wakers, with at most about twice as many as there are tasks. Looking a waker up at each registration would
/// cost every task; instead, once the list has doubled, whoever made it so takes out those that are in it twice.
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

    /// Whether it is time to take out those that are in it twice.
    pub(super) const fn is_crowded(&self) -> bool {
        self.list.len() >= FEW && self.list.len() > 2 * self.distinct
    }

    /// Takes out those that are in it twice. To drop them is foreign code, and for the [`Notifier`](super::notifier) to do.
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

    /// Takes in all of the other's.
    pub(super) fn append(&mut self, mut other: Self) {
        self.list.append(&mut other.list);
        self.distinct = self.distinct.max(other.distinct);
    }

    /// Takes out all, to be woken, and goes on in the empty buffer.
    pub(super) fn take(&mut self, empty: Vec<Waker>) -> Vec<Waker> {
        debug_assert!(empty.is_empty(), "nothing is dropped here");
        self.distinct = self.list.len(); // about as many are going to come again
        mem::replace(&mut self.list, empty)
    }
}
