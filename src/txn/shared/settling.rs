//! Waiting until a coordinator is settled: a thread blocks, a task is woken.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use super::{By, Driven, Key, Open, Shared};
use crate::{foreign, platform::Woken, txn::policy::after};

/// A task that waits in [`Shared::settle_async`]. A worker runs it to wake the task: when a
/// transaction that the task waits for has ended, and at its time-out.
pub(super) struct Sleeper(Mutex<Option<Waker>>);

impl Driven for Sleeper {
    fn run(self: Arc<Self>, _: By) {
        let waker = self.0.lock().take();
        waker.into_iter().for_each(foreign::wake);
    }
}

impl Shared {
    /// Blocks until only clients and operators have work left, or until `timeout` has passed.
    /// Returns whether nothing is left at all.
    ///
    /// It waits for one transaction after the other, so that no other thread has to count the
    /// running ones. O(n) in the open transactions, each time that the one it waits for has ended;
    /// most others have ended, too, by then.
    pub(in crate::txn) fn settle(&self, timeout: Duration) -> bool {
        let until = after(self.platform.now(), timeout);
        let mut open = self.open.lock();
        loop {
            let running = match self.look_for_running(&mut open) {
                Ok(settled) => return settled,
                Err(running) => running,
            };
            open.awaited.extend(running);
            let woken = self.settled.wait_until(&mut open, until);
            open.awaits_no_more(running);
            if woken == Woken::TimedOut {
                return self.is_settled(&open);
            }
        }
    }

    /// As [`settle`](Self::settle), for tasks. The time-out begins with this call.
    pub(in crate::txn) fn settle_async(&self, timeout: Duration) -> Settling<'_> {
        Settling { shared: self, until: after(self.platform.now(), timeout), awaited: None, sleeper: None }
    }

    /// Returns whether the coordinator is settled, once only clients and operators have work left.
    /// Until then returns, as an error, a running transaction to wait for; `None` if only ends in
    /// the log or participants' answers are missing.
    fn look_for_running(&self, open: &mut MutexGuard<'_, Open>) -> Result<bool, Option<Key>> {
        loop {
            let running = open.running().next().map(|task| task.key());
            if running.is_none() && open.in_doubt_queries.is_empty() {
                let unwritten = open.unwritten_ends();
                if !unwritten.is_empty() {
                    MutexGuard::unlocked(open, || self.write(unwritten));
                    continue;
                }
                if open.writing == 0 {
                    return Ok(self.is_settled(open));
                }
            }
            return Err(running);
        }
    }

    /// Whether nothing is left, neither for the coordinator nor for an operator.
    fn is_settled(&self, open: &Open) -> bool {
        let runs = open.running().next().is_some() || !open.in_doubt_queries.is_empty();
        !runs && open.shelf.waiting() == 0 && self.unclaimed.count() == 0
    }

    /// Wakes the threads and tasks that wait until the coordinator is settled. Tasks are woken by a
    /// worker, because the caller holds the table's lock.
    pub(super) fn wake_settling(&self, open: &Open) {
        self.settled.notify_all();
        for sleeper in &open.sleepers {
            self.driver.enqueue(Arc::clone(sleeper) as Arc<dyn Driven>);
        }
    }
}

impl Open {
    /// Removes one entry of this transaction from the awaited ones.
    fn awaits_no_more(&mut self, key: Option<Key>) {
        if let Some(place) = self.awaited.iter().position(|awaited| Some(*awaited) == key) {
            self.awaited.swap_remove(place);
        }
    }
}

/// Future of [`Shared::settle_async`]. A dropped one leaves nothing behind.
#[must_use = "futures do nothing unless polled"]
pub(in crate::txn) struct Settling<'a> {
    shared: &'a Shared,
    until: Instant,
    /// The transaction that it waits for.
    awaited: Option<Key>,
    /// What wakes the task, once it has been pending.
    sleeper: Option<Arc<Sleeper>>,
}

impl Settling<'_> {
    /// Registers the task's waker. It must be registered before the table is searched, so that no
    /// wake-up is lost in between.
    fn register(&mut self, waker: Waker) {
        if let Some(sleeper) = &self.sleeper {
            let old = sleeper.0.lock().replace(waker);
            return foreign::drop_value(old);
        }
        let sleeper = Arc::new(Sleeper(Mutex::new(Some(waker))));
        self.shared.open.lock().sleepers.push(Arc::clone(&sleeper));
        let weak = Arc::downgrade(&sleeper);
        let timed: Weak<dyn Driven> = weak;
        self.shared.driver.enqueue_at(self.until, timed);
        self.sleeper = Some(sleeper);
    }
}

impl Future for Settling<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        self.register(context.waker().clone());
        let shared = self.shared;
        let mut open = shared.open.lock();
        open.awaits_no_more(self.awaited.take());
        match shared.look_for_running(&mut open) {
            Ok(settled) => Poll::Ready(settled),
            Err(_) if shared.platform.now() >= self.until => Poll::Ready(shared.is_settled(&open)),
            Err(running) => {
                open.awaited.extend(running);
                self.awaited = running;
                Poll::Pending
            }
        }
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let Some(sleeper) = self.sleeper.take() else { return };
        let mut open = self.shared.open.lock();
        open.awaits_no_more(self.awaited.take());
        open.sleepers.retain(|other| !Arc::ptr_eq(other, &sleeper));
        drop(open);
        // A worker may still have it in its queue: without the waker it does nothing.
        let waker = sleeper.0.lock().take();
        foreign::drop_value(waker);
    }
}
