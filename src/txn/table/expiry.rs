//! Rolls back transactions that no client has committed in time, without delaying others.
//!
//! A timer for each transaction would be a cost for all of them, although nearly all end long
//! before their time-out. So a worker searches the open transactions instead, from the oldest on,
//! when the first of them is due. Three rules keep that cheap if hundreds of thousands are open:
//!
//! - The search takes the table's lock for a few hundred places at a time.
//! - It ends at the first transaction that is younger than the shortest time-out in use.
//! - It takes a tenth of the time at most. So with very many open transactions a time-out comes a
//!   little late, and no other work does.

use std::{
    mem,
    ops::ControlFlow,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use crate::{
    id::TxnOrdinal,
    txn::{
        engine::{
            coordinator_core::{CoordinatorCore, Table},
            scheduler::Runnable,
            transaction_driver::TransactionDriver,
        },
        table::alarms::Alarms,
    },
};

/// Number of places that one hold of the table's lock covers: some ten microseconds.
pub(in crate::txn) const SLICE: usize = 256;

/// Number of expired transactions that are queued for the workers at once. Others go on beside
/// them, even if a million expire in one moment.
const MOST_AT_ONCE: usize = 128;

/// Pause after that number, and shortest pause between two searches.
const PAUSE: Duration = Duration::from_millis(1);

/// Factor by which the pause after a search is longer than the search.
const PAUSE_PER_LOOK: u32 = 9;

pub(in crate::txn) struct Expiry {
    alarms: Alarms,
    /// No open transaction of a client has a shorter time-out than this.
    shortest: Duration,
    /// The same, for transactions that have begun since the present search began.
    shortest_begun: Duration,
    /// Whether a worker is searching.
    looking: bool,
    /// Whether that worker must search again at once, because an alarm went off meanwhile.
    again: bool,
    not_before: Option<Instant>,
}

impl Default for Expiry {
    fn default() -> Self {
        let longest = Duration::MAX;
        let alarms = Alarms::default();
        Self { alarms, shortest: longest, shortest_begun: longest, looking: false, again: false, not_before: None }
    }
}

impl Expiry {
    fn begins(&mut self, timeout: Duration) {
        self.shortest = self.shortest.min(timeout);
        self.shortest_begun = self.shortest_begun.min(timeout);
    }
}

/// Findings of one search.
struct ExpirySearch {
    now: Instant,
    shortest: Duration,
    expired: Vec<Arc<TransactionDriver>>,
    /// Time at which the next transaction expires, as far as that is known.
    next: Option<Instant>,
    /// The shortest time-out that was seen.
    shortest_seen: Duration,
    saw_all: bool,
}

impl ExpirySearch {
    fn expires_next(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn at(&mut self, driver: &Arc<TransactionDriver>) -> ControlFlow<()> {
        if !driver.is_owned_by_client() {
            return ControlFlow::Continue(());
        }
        if driver.expires() <= self.now {
            if driver.take_from_client() {
                self.expired.push(Arc::clone(driver));
            }
            return ControlFlow::Continue(());
        }
        self.expires_next(driver.expires());
        self.shortest_seen = self.shortest_seen.min(driver.expires().saturating_duration_since(driver.since()));
        match driver.since().checked_add(self.shortest) {
            // Transactions that began after this one are not due either.
            Some(first) if first > self.now => {
                self.expires_next(first);
                self.saw_all = false;
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl CoordinatorCore {
    /// Notes that a client's transaction with this time-out begins.
    pub(in crate::txn) fn will_expire(self: &Arc<Self>, table: &mut Table, timeout: Duration, at: Instant) {
        table.expiry.begins(timeout);
        self.look_for_expired_at(table, at);
    }

    fn look_for_expired_at(self: &Arc<Self>, table: &mut Table, at: Instant) {
        if table.expiry.alarms.sets(at) {
            let this = Arc::downgrade(self);
            let this: Weak<dyn Runnable> = this;
            self.scheduler.enqueue_at(at, this);
        }
    }

    /// Queues expired transactions for the workers, which roll them back.
    pub(in crate::txn) fn roll_back_expired(self: &Arc<Self>) {
        let now = self.platform.now();
        let shortest = {
            let mut table = self.table.lock();
            table.expiry.alarms.go_off(now);
            // One search at a time, and with a pause after the last one.
            if table.expiry.looking {
                table.expiry.again = true;
                return;
            }
            if let Some(at) = table.expiry.not_before.filter(|at| now < *at) {
                return self.look_for_expired_at(&mut table, at);
            }
            table.expiry.looking = true;
            table.expiry.shortest_begun = Duration::MAX;
            table.expiry.shortest
        };
        let shortest_seen = Duration::MAX;
        let mut look = ExpirySearch { now, shortest, expired: Vec::new(), next: None, shortest_seen, saw_all: true };
        // Slice by slice, so that no other thread waits long for the lock.
        let (mut from, mut found) = (Some(TxnOrdinal::default()), 0);
        while let Some(ordinal) = from {
            from = self.table.lock().transactions.look(ordinal, SLICE, |driver| look.at(driver));
            found += look.expired.len();
            for driver in look.expired.drain(..) {
                self.scheduler.enqueue(driver as Arc<dyn Runnable>);
            }
            if from.is_some() && found >= MOST_AT_ONCE {
                look.expires_next(now + PAUSE);
                look.saw_all = false;
                break;
            }
        }
        let end = self.platform.now();
        // When to search next.
        let pause = (end.saturating_duration_since(now) * PAUSE_PER_LOOK).max(PAUSE);
        let mut table = self.table.lock();
        let expiry = &mut table.expiry;
        expiry.looking = false;
        if mem::take(&mut expiry.again) {
            look.expires_next(now);
        }
        expiry.not_before = Some(end + pause);
        if look.saw_all {
            expiry.shortest = look.shortest_seen.min(expiry.shortest_begun);
        }
        if let Some(at) = look.next {
            self.look_for_expired_at(&mut table, at.max(end + pause));
        }
    }

    /// Calls `see` with all open transactions that are not parked, in the order in which they
    /// began. Not all of them at the same moment, because the lock is taken slice by slice.
    pub(in crate::txn) fn look_at_open(&self, mut see: impl FnMut(&Arc<TransactionDriver>)) {
        let mut from = Some(TxnOrdinal::default());
        while let Some(ordinal) = from {
            from = self.table.lock().transactions.look(ordinal, SLICE, |driver| {
                see(driver);
                ControlFlow::Continue(())
            });
        }
    }
}
