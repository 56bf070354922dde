//! Waiting until a coordinator is settled: a thread blocks, a task is woken.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::MutexGuard;

use super::{CoordinatorCore, Runnable, Sleeper, Table, TxnKey};
use crate::{platform::Woken, txn::policy::after};

impl CoordinatorCore {
    /// Blocks until only clients and operators have work left, or until `timeout` has passed.
    /// Returns whether nothing is left at all.
    ///
    /// It waits for one transaction after the other, so that no other thread has to count the
    /// running ones. O(n) in the open transactions, each time that the one it waits for has ended;
    /// most others have ended, too, by then.
    pub(in crate::txn) fn settle(&self, timeout: Duration) -> bool {
        let until = after(self.platform.now(), timeout);
        let mut table = self.table.lock();
        loop {
            let running = match self.look_for_running(&mut table) {
                Ok(settled) => return settled,
                Err(running) => running,
            };
            table.awaited.extend(running);
            let woken = self.settled.wait_until(&mut table, until);
            table.awaits_no_more(running);
            if woken == Woken::TimedOut {
                return self.is_settled(&table);
            }
        }
    }

    /// As [`settle`](Self::settle), for tasks. The time-out begins with this call.
    pub(in crate::txn) fn settle_async(&self, timeout: Duration) -> Settling<'_> {
        Settling { core: self, until: after(self.platform.now(), timeout), awaited: None, sleeper: None }
    }

    /// Returns whether the coordinator is settled, once only clients and operators have work left.
    /// Until then returns, as an error, a running transaction to wait for; `None` if only ends in
    /// the log or participants' answers are missing.
    fn look_for_running(&self, table: &mut MutexGuard<'_, Table>) -> Result<bool, Option<TxnKey>> {
        loop {
            if self.is_fenced() {
                return Ok(false); // the new holder settles it
            }
            let running = table.running().next().map(|driver| driver.key());
            if running.is_none() && table.in_doubt_queries.is_empty() {
                let unwritten = table.unwritten_ends();
                if !unwritten.is_empty() {
                    MutexGuard::unlocked(table, || self.write(unwritten));
                    continue;
                }
                if table.writing == 0 {
                    // Not the question whether any runs, again: a client that drops its transaction needs
                    // no lock for that, and what it has begun since the look above is not waited for.
                    return Ok(self.needs_no_operator(table));
                }
            }
            return Err(running);
        }
    }

    /// Whether nothing is left, neither for the coordinator nor for an operator.
    fn is_settled(&self, table: &Table) -> bool {
        let runs = self.is_fenced() || table.running().next().is_some() || !table.in_doubt_queries.is_empty();
        !runs && self.needs_no_operator(table)
    }

    fn needs_no_operator(&self, table: &Table) -> bool {
        table.parked.waiting_count() == 0 && self.unclaimed.count() == 0
    }

    /// Wakes the threads and tasks that wait until the coordinator is settled. Tasks are woken by a
    /// worker, because the caller holds the table's lock.
    pub(super) fn wake_settling(&self, table: &Table) {
        self.settled.notify_all();
        for sleeper in &table.sleepers {
            self.scheduler.enqueue(Arc::clone(sleeper) as Arc<dyn Runnable>);
        }
    }
}

impl Table {
    /// Removes one entry of this transaction from the awaited ones.
    fn awaits_no_more(&mut self, key: Option<TxnKey>) {
        if let Some(place) = self.awaited.iter().position(|awaited| Some(*awaited) == key) {
            self.awaited.swap_remove(place);
        }
    }
}

/// Future of [`CoordinatorCore::settle_async`]. A dropped one leaves nothing behind.
#[must_use = "futures do nothing unless polled"]
pub(in crate::txn) struct Settling<'a> {
    core: &'a CoordinatorCore,
    until: Instant,
    /// The transaction that it waits for.
    awaited: Option<TxnKey>,
    /// What wakes the task, once it has been pending: when a transaction that it waits for has ended, and
    /// at its time-out.
    sleeper: Option<Arc<Sleeper>>,
}

impl Settling<'_> {
    /// Registers the task's waker. It must be registered before the table is searched, so that no
    /// wake-up is lost in between.
    fn register(&mut self, waker: Waker) {
        if let Some(sleeper) = &self.sleeper {
            return sleeper.set(Some(waker));
        }
        let sleeper = Arc::new(Sleeper::default());
        sleeper.set(Some(waker));
        self.core.table.lock().sleepers.push(Arc::clone(&sleeper));
        let weak = Arc::downgrade(&sleeper);
        let timed: Weak<dyn Runnable> = weak;
        self.core.scheduler.enqueue_at(self.until, timed);
        self.sleeper = Some(sleeper);
    }
}

impl Future for Settling<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        self.register(context.waker().clone());
        let core = self.core;
        let mut table = core.table.lock();
        table.awaits_no_more(self.awaited.take());
        match core.look_for_running(&mut table) {
            Ok(settled) => Poll::Ready(settled),
            Err(_) if core.platform.now() >= self.until => Poll::Ready(core.is_settled(&table)),
            Err(running) => {
                table.awaited.extend(running);
                self.awaited = running;
                Poll::Pending
            }
        }
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let Some(sleeper) = self.sleeper.take() else { return };
        let mut table = self.core.table.lock();
        table.awaits_no_more(self.awaited.take());
        table.sleepers.retain(|other| !Arc::ptr_eq(other, &sleeper));
        drop(table);
        // A worker may still have it in its queue: without the waker it does nothing.
        sleeper.set(None);
    }
}
