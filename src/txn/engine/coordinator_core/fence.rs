//! The coordinator's end: it is dropped, or another holder has taken its log over.
//!
//! After a takeover the new holder settles what this coordinator has begun. So this one does what its
//! drop does, while its clients still hold it: it begins nothing, sends nothing, and its threads end.
//! Each client that waits gets the answer that is certain. What was sent just before does no harm: a
//! participant that has met the new holder refuses it, and the new holder asks no participant what is
//! in doubt before they have met.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;

use super::{CoordinatorCore, LogError, Lsn, OpenTransactions, Runnable, Runner, TransactionDriver};
use crate::{foreign::catch_panic, log::Takeover, txn::engine::observe};

/// Waker that a log keeps until it is taken over. It does not keep the coordinator in memory.
pub(in crate::txn) struct LossWatch(Mutex<Weak<CoordinatorCore>>);

impl LossWatch {
    pub(super) fn new(core: Weak<CoordinatorCore>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(core)))
    }

    fn core(&self) -> Option<Arc<CoordinatorCore>> {
        self.0.lock().upgrade()
    }
}

impl Wake for LossWatch {
    fn wake(self: Arc<Self>) {
        if let Some(core) = self.core() {
            core.scheduler.enqueue(self as Arc<dyn Runnable>);
        }
    }
}

impl Runnable for LossWatch {
    fn run(self: Arc<Self>, _: Runner) {
        if let Some(core) = self.core() {
            core.look_for_loss();
        }
    }
}

impl CoordinatorCore {
    /// Returns the takeover of the log, once this coordinator knows of it.
    pub(in crate::txn) fn takeover(&self) -> Option<&Takeover> {
        self.taken.get()
    }

    /// Whether the log was taken over, as far as this coordinator knows.
    #[inline]
    pub(in crate::txn) fn is_fenced(&self) -> bool {
        self.taken.get().is_some()
    }

    /// Asks the log whether it was taken over. From the first call on the log tells by itself.
    pub(in crate::txn) fn look_for_loss(&self) {
        let waker = Waker::from(Arc::clone(&self.loss_watch));
        let poll = || self.log.poll_lost(&mut Context::from_waker(&waker));
        if let Ok(Poll::Ready(takeover)) = catch_unwind(AssertUnwindSafe(poll)) {
            self.lose_log(takeover);
        }
    }

    /// Takes in an error of the log, which may say that the log was taken over.
    pub(in crate::txn) fn hear_of_log(&self, error: &LogError) {
        if let Some(takeover) = error.takeover() {
            self.lose_log(takeover);
        }
    }

    /// Asks the log whether it was taken over, without a waker.
    pub(in crate::txn) fn still_holds_log(&self) {
        if let Some(takeover) = self.log.lost() {
            self.lose_log(takeover);
        }
    }

    /// Abandons everything, because the log was taken over. Does not wait for the threads, which end
    /// when they are done with what they do now. The caller must hold no lock.
    pub(in crate::txn) fn lose_log(&self, takeover: Takeover) {
        if self.taken.set(takeover.clone()).is_err() {
            return;
        }
        observe::fenced(self.name.as_str(), &takeover);
        self.is_gone.store(true, Ordering::SeqCst);
        self.closed_at.store(self.log.durable().as_u64(), Ordering::Release);
        self.admission.fence();
        self.let_go(|driver| driver.fence());
        self.settled.notify_all();
        self.members.all().for_each(|slot| slot.lane.stop());
        // What waits for its time must not wait for it any more: pauses, and waits until all is settled.
        for what in self.scheduler.stop() {
            catch_panic(|| what.run(Runner::Worker));
        }
    }

    /// Drops everything that is under way, as a crash would.
    pub(in crate::txn) fn abandon(&self) {
        *self.loss_watch.0.lock() = Weak::new();
        self.let_go(|driver| driver.abandon());
    }

    /// Takes everything that is under way out of the tables, and leaves each transaction in this way.
    /// Drivers and this struct hold each other; this breaks the circle.
    fn let_go(&self, leave: impl Fn(&Arc<TransactionDriver>)) {
        let mut table = self.table.lock();
        table.abandoned = true;
        self.note_ended(&mut table, Lsn::NONE);
        let transactions = mem::replace(&mut table.transactions, OpenTransactions::new(self.epoch));
        let (queries, parked) = (mem::take(&mut table.in_doubt_queries), mem::take(&mut table.parked));
        drop(table);
        queries.values().for_each(|query| query.abandon());
        drop(queries);
        transactions.iter().chain(parked.drivers()).for_each(leave);
    }

    /// Returns the error of a log to which this coordinator no longer writes.
    pub(super) fn log_is_left(&self) -> LogError {
        self.takeover().cloned().map_or(LogError::Closed, LogError::from)
    }
}
