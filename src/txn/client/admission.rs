//! Back-pressure: limits the transactions in flight and the records that are queued for the disk.

use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    task::{Context, Poll, Waker},
};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use thiserror::Error;

use crate::{
    foreign,
    log::{LogError, Lsn, TransactionLog},
    platform::{Condvar, Platform},
};

/// Default of [`Limits::in_flight`], in transactions. Each takes about a kilobyte.
pub const DEFAULT_MAX_IN_FLIGHT: usize = 1 << 17;

/// Default of [`Limits::undelivered`], in decisions of one participant. Each takes one to two
/// kilobytes at the coordinator, and a promise at the participant. A participant that is 20 ms away
/// and takes part in 100,000 transactions a second owes 2,000 at any time.
pub const DEFAULT_MAX_UNDELIVERED: usize = 1 << 14;

/// Limits on what may be under way at once. A plain value. When they are reached,
/// [`Coordinator::begin`](crate::Coordinator::begin) and
/// [`begin_async`](crate::Coordinator::begin_async) wait, and
/// [`try_begin`](crate::Coordinator::try_begin) refuses.
///
/// ```
/// use ringpact::{Coordinator, MemoryLog, txn::{BeginError, Limits}};
///
/// let limits = Limits::default().in_flight(1);
/// let coordinator = Coordinator::builder(MemoryLog::new()).limits(limits).open()?;
/// let first = coordinator.begin();
/// assert!(matches!(coordinator.try_begin(), Err(BeginError::InFlight { limit: 1 })));
/// first.commit().wait()?;
/// coordinator.try_begin()?.commit().wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of transactions without an answer to their client. At least 1. A decision
    /// that is still being delivered does not count, because a participant that is down must not
    /// stop other clients.
    pub in_flight: usize,
    /// Maximum number of log records from the last durable one to the last forced decision. At
    /// least 1.
    pub log_queue: u64,
    /// Maximum number of decisions that one participant has not acknowledged, parked ones included,
    /// and of branches that it has ended otherwise than decided (heuristic outcomes), until an
    /// operator [forgets](crate::Coordinator::forget) them. At least 1. When it is reached,
    /// [`Transaction::branch`](crate::txn::Transaction::branch) refuses new branches of that
    /// participant. Set it below what the participant can hold: a database has room for a limited
    /// number of prepared transactions.
    pub undelivered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Limits {
    /// The limits of a coordinator that is opened without any.
    pub const DEFAULT: Self =
        Self { in_flight: DEFAULT_MAX_IN_FLIGHT, log_queue: u64::MAX, undelivered: DEFAULT_MAX_UNDELIVERED };

    /// Sets the maximum number of transactions without an answer to their client. At least 1.
    #[must_use]
    pub const fn in_flight(mut self, transactions: usize) -> Self {
        self.in_flight = transactions;
        self
    }

    /// Sets the maximum number of log records from the last durable one to the last forced
    /// decision. At least 1.
    #[must_use]
    pub const fn log_queue(mut self, records: u64) -> Self {
        self.log_queue = records;
        self
    }

    /// Sets the maximum number of decisions that one participant has not acknowledged. At least 1.
    #[must_use]
    pub const fn undelivered(mut self, decisions: usize) -> Self {
        self.undelivered = decisions;
        self
    }
}

/// Reason why no transaction was begun.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeginError {
    /// The maximum number of transactions is in flight.
    #[error("{limit} transactions are in flight, which is the limit; try again when some have ended")]
    InFlight {
        /// The limit.
        limit: usize,
    },
    /// The maximum number of records waits for the disk.
    #[error("{limit} records wait for the disk, which is the limit; try again when the disk has caught up")]
    LogQueue {
        /// The limit.
        limit: u64,
    },
    /// The coordinator is being shut down.
    #[error("the coordinator is shutting down; begin the transaction once it is open again")]
    ShuttingDown,
    /// Another holder has taken the coordinator's log over.
    #[error(
        "another holder has taken the coordinator's log over, so this coordinator begins nothing more; begin the transaction at \
         the holder that the status names"
    )]
    Fenced,
}

/// Counts the transactions in flight, and makes clients wait while the limits are reached.
pub(in crate::txn) struct Admission {
    limits: Limits,
    counts: CachePadded<Counts>,
    /// Number of the last record that was forced for a decision. Written only if `log_queue` is
    /// limited.
    forced: CachePadded<AtomicU64>,
    closing: AtomicBool,
    /// Whether it is closing because the log was taken over.
    fenced: AtomicBool,
    /// Number of waiting threads and tasks. A transaction that leaves reads only this while it is
    /// zero.
    waiting: AtomicUsize,
    wakers: Mutex<Wakers>,
    room: Condvar,
}

/// The tasks that wait for a slot, in the order of their tickets.
#[derive(Default)]
struct Wakers {
    waiting: BTreeMap<u64, Waker>,
    /// The next ticket.
    next: u64,
}

/// Future that waits for a slot. It returns `false` if the coordinator is being shut down. A
/// dropped one leaves nothing behind.
pub(in crate::txn) struct Entering<'a> {
    admission: &'a Admission,
    log: &'a dyn TransactionLog,
    ticket: Option<u64>,
}

impl Future for Entering<'_> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let Self { admission, log, ticket } = &mut *self;
        let entered = loop {
            match admission.try_enter(*log) {
                Ok(()) => break true,
                Err(BeginError::ShuttingDown | BeginError::Fenced) => break false,
                Err(BeginError::LogQueue { .. }) => match log.poll_durable(admission.first_to_wait_for(), context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(LogError::Fenced { .. })) => break false,
                    Poll::Ready(Err(_)) => {
                        admission.counts.in_flight.fetch_add(1, Ordering::SeqCst);
                        break true;
                    }
                },
                Err(BeginError::InFlight { .. }) => {
                    admission.register(ticket, context.waker().clone());
                    if admission.is_full() {
                        return Poll::Pending;
                    }
                }
            }
        };
        if let Some(ticket) = ticket.take() {
            // A wake-up that came meanwhile was for the slot that this task has found by itself, or
            // for another one.
            let waited = admission.unregister(ticket);
            if !waited && !admission.is_full() && admission.waiting.load(Ordering::SeqCst) > 0 {
                admission.wake_next();
            }
        }
        Poll::Ready(entered)
    }
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        // The task was woken for a slot that it will not take: the next one gets it.
        if self.ticket.is_some_and(|ticket| !self.admission.unregister(ticket)) {
            self.admission.wake_next();
        }
    }
}

/// The counters that change when a transaction begins, in one cache line, so that a processor
/// fetches only one.
#[derive(Default)]
struct Counts {
    in_flight: AtomicUsize,
    /// Number of the last transaction.
    last_sequence: AtomicU64,
}

impl Admission {
    pub(in crate::txn) fn new(limits: Limits, platform: &Platform) -> Self {
        let limits = Limits { in_flight: limits.in_flight.max(1), log_queue: limits.log_queue.max(1), ..limits };
        Self {
            limits,
            counts: CachePadded::default(),
            forced: CachePadded::default(),
            closing: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            wakers: Mutex::default(),
            room: platform.condvar(),
        }
    }

    /// Takes a slot, if one is free.
    pub(in crate::txn) fn try_enter(&self, log: &dyn TransactionLog) -> Result<(), BeginError> {
        if self.closing.load(Ordering::SeqCst) {
            let is_fenced = self.fenced.load(Ordering::SeqCst);
            return Err(if is_fenced { BeginError::Fenced } else { BeginError::ShuttingDown });
        }
        let Limits { in_flight: limit, log_queue, .. } = self.limits;
        if log_queue != u64::MAX && self.queued(log.durable()) >= log_queue {
            return Err(BeginError::LogQueue { limit: log_queue });
        }
        if self.counts.in_flight.fetch_add(1, Ordering::SeqCst) >= limit {
            self.go_away();
            return Err(BeginError::InFlight { limit });
        }
        Ok(())
    }

    /// Takes back the count of a transaction that was refused. Meanwhile another transaction may
    /// have left, and a third one may wait because this one was counted in the last slot. No other
    /// may ever come to wake it, so this one does.
    fn go_away(&self) {
        let others = self.counts.in_flight.fetch_sub(1, Ordering::SeqCst) - 1;
        if others < self.limits.in_flight && self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_next();
        }
    }

    /// Blocks until a slot is free, and takes it. Returns `false` if the coordinator is being shut
    /// down.
    pub(in crate::txn) fn enter(&self, log: &dyn TransactionLog) -> bool {
        loop {
            match self.try_enter(log) {
                Ok(()) => return true,
                Err(BeginError::ShuttingDown | BeginError::Fenced) => return false,
                Err(BeginError::LogQueue { .. }) => match log.wait(self.first_to_wait_for()) {
                    Ok(()) => {}
                    Err(LogError::Fenced { .. }) => return false,
                    Err(_) => {
                        // A failed log lets all clients pass: their commits return the error.
                        self.counts.in_flight.fetch_add(1, Ordering::SeqCst);
                        return true;
                    }
                },
                Err(BeginError::InFlight { .. }) => {
                    let mut wakers = self.wakers.lock();
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    // A transaction that leaves after this check sees that one waits, and needs the
                    // lock to wake it.
                    if self.is_full() {
                        self.room.wait(&mut wakers);
                    }
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    }

    /// Takes a slot whether one is free or not. Returns `false` if the coordinator is being shut down.
    pub(in crate::txn) fn enter_beyond(&self) -> bool {
        let is_open = !self.is_closed();
        if is_open {
            self.counts.in_flight.fetch_add(1, Ordering::SeqCst);
        }
        is_open
    }

    /// Returns a future that waits for a slot, and takes it.
    pub(in crate::txn) fn enter_async<'a>(&'a self, log: &'a dyn TransactionLog) -> Entering<'a> {
        Entering { admission: self, log, ticket: None }
    }

    /// Registers a waker for the next free slot. The ticket is the task's place in the order; a
    /// task without one gets one.
    fn register(&self, ticket: &mut Option<u64>, waker: Waker) {
        let mut wakers = self.wakers.lock();
        let known = ticket.filter(|ticket| wakers.waiting.contains_key(ticket));
        let ticket = *ticket.insert(known.unwrap_or(wakers.next));
        if known.is_none() {
            wakers.next += 1;
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        let old = wakers.waiting.insert(ticket, waker);
        drop(wakers);
        foreign::drop_value(old);
    }

    /// Removes the task from the waiting ones. Returns whether it still waited; otherwise it was
    /// woken.
    fn unregister(&self, ticket: u64) -> bool {
        let waker = self.wakers.lock().waiting.remove(&ticket);
        let waited = waker.is_some();
        if waited {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        foreign::drop_value(waker);
        waited
    }

    fn is_full(&self) -> bool {
        self.counts.in_flight.load(Ordering::SeqCst) >= self.limits.in_flight && !self.closing.load(Ordering::SeqCst)
    }

    /// Returns the record that must become durable so that the queue is shorter than the limit.
    fn first_to_wait_for(&self) -> Lsn {
        Lsn::new(self.forced.load(Ordering::Relaxed).saturating_sub(self.limits.log_queue) + 1)
    }

    /// Gives a slot back, because its transaction has its outcome. Returns whether others wait:
    /// then the caller must [wake](Self::wake_next) one.
    #[must_use]
    pub(in crate::txn) fn leave(&self) -> bool {
        self.counts.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Wakes the task and the thread that have waited longest: one of them gets the slot. It runs
    /// foreign code, so the caller must hold no lock.
    pub(in crate::txn) fn wake_next(&self) {
        let first = self.wakers.lock().waiting.pop_first();
        self.room.notify_one();
        if let Some((_, waker)) = first {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            foreign::wake(waker);
        }
    }

    /// Refuses every transaction from now on.
    pub(in crate::txn) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let all = mem::take(&mut self.wakers.lock().waiting);
        self.waiting.fetch_sub(all.len(), Ordering::SeqCst);
        self.room.notify_all();
        all.into_values().for_each(foreign::wake);
    }

    /// Refuses every transaction from now on, because the log was taken over.
    pub(in crate::txn) fn fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
        self.close();
    }

    /// Whether every transaction is refused.
    pub(in crate::txn) fn is_closed(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(in crate::txn) fn forced(&self, lsn: Lsn) {
        if self.limits.log_queue != u64::MAX {
            self.forced.fetch_max(lsn.as_u64(), Ordering::Relaxed);
        }
    }

    pub(in crate::txn) fn in_flight(&self) -> usize {
        self.counts.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the next transaction's number; the first is 1.
    pub(in crate::txn) fn next_sequence(&self) -> u64 {
        self.counts.last_sequence.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns the last number that was given out, or 0.
    pub(in crate::txn) fn last_sequence(&self) -> u64 {
        self.counts.last_sequence.load(Ordering::SeqCst)
    }

    /// Returns the number of records from the last durable one to the last forced decision, if that
    /// is limited.
    fn queued(&self, durable: Lsn) -> u64 {
        self.forced.load(Ordering::Relaxed).saturating_sub(durable.as_u64())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Wake, Waker},
    };

    use super::*;
    use crate::log::MemoryLog;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A bug: a refused transaction is counted for a moment. In that moment the transaction in the
    /// last slot left, when no task waited yet. A third one came, found the refused one in the last
    /// slot, and waited with no transaction in flight.
    #[test]
    fn a_refused_transaction_wakes_another_that_waits_for_the_slot_it_was_counted_in() {
        let (log, limits) = (MemoryLog::new(), Limits { in_flight: 1, ..Limits::default() });
        let admission = Admission::new(limits, &Platform::default());
        admission.try_enter(&log).expect("there is room for one");
        let refused = admission.counts.in_flight.fetch_add(1, Ordering::SeqCst);
        assert_eq!(refused, limits.in_flight, "no slot is free, so it is about to take its count back");
        assert!(!admission.leave(), "no task waits yet");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut entering = pin!(admission.enter_async(&log));
        assert!(entering.as_mut().poll(&mut context).is_pending());
        admission.go_away();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(entering.as_mut().poll(&mut context), Poll::Ready(true));
    }

    /// A bug: each attempt left its waker behind, and every later attempt looked at all of them.
    #[test]
    fn dropped_attempts_leave_nothing_behind() {
        let (log, limits) = (MemoryLog::new(), Limits { in_flight: 1, ..Limits::default() });
        let admission = Admission::new(limits, &Platform::default());
        admission.try_enter(&log).expect("there is room for one");
        let mut held = Box::pin(admission.enter_async(&log));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert!(held.as_mut().poll(&mut context).is_pending());
        for _ in 0..100_000 {
            let other = Waker::from(Arc::new(Woken::default()));
            let mut given_up = Box::pin(admission.enter_async(&log));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(&other)).is_pending());
        }
        assert_eq!((admission.wakers.lock().waiting.len(), admission.waiting.load(Ordering::SeqCst)), (1, 1));
        assert!(admission.leave());
        admission.wake_next();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(held.as_mut().poll(&mut context), Poll::Ready(true));
    }

    /// The first waiting task is woken and then dropped: the next one gets the slot.
    #[test]
    fn a_dropped_task_passes_its_wake_up_on() {
        let (log, limits) = (MemoryLog::new(), Limits { in_flight: 1, ..Limits::default() });
        let admission = Admission::new(limits, &Platform::default());
        admission.try_enter(&log).expect("there is room for one");
        let both = [(); 2].map(|()| Arc::new(Woken::default()));
        let [mut first, mut second] = [(); 2].map(|()| Box::pin(admission.enter_async(&log)));
        for (entering, woken) in [(&mut first, &both[0]), (&mut second, &both[1])] {
            let waker = Waker::from(Arc::clone(woken));
            assert!(entering.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(admission.leave());
        admission.wake_next();
        let woken = || both.each_ref().map(|woken| woken.0.load(Ordering::SeqCst));
        assert_eq!(woken(), [1, 0], "one slot, one wake-up");
        drop(first);
        assert_eq!(woken(), [1, 1]);
    }
}
