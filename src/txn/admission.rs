//! Back-pressure: how many transactions may be in flight, and how much may be queued for the disk.

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
    log::{Lsn, TransactionLog},
    platform::{Condvar, Platform},
};

/// How many transactions are in flight at the most, unless configured: each takes about a kilobyte.
pub const DEFAULT_MAX_IN_FLIGHT: usize = 1 << 17;

/// How many decisions a participant may owe an acknowledgement of, unless configured: each takes one to two kilobytes here, and a
/// promise there. A participant that is 20 ms away and takes part in 100,000 transactions a second owes 2,000 at any time.
pub const DEFAULT_MAX_UNDELIVERED: usize = 1 << 14;

/// How much may be under way at once. Over it [`Coordinator::begin`](crate::Coordinator::begin) and
/// [`begin_async`](crate::Coordinator::begin_async) wait, and [`try_begin`](crate::Coordinator::try_begin) refuses.
///
/// ```
/// use ringpact::{Coordinator, MemoryLog, txn::{BeginError, Limits}};
///
/// let limits = Limits { in_flight: 1, ..Limits::default() };
/// let coordinator = Coordinator::builder(MemoryLog::new()).limits(limits).open()?;
/// let first = coordinator.begin();
/// assert!(matches!(coordinator.try_begin(), Err(BeginError::InFlight { limit: 1 })));
/// first.commit().wait()?;
/// coordinator.try_begin()?.commit().wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Transactions whose clients have not been told an outcome. 1 at the least. What is decided and still being
    /// delivered does not count: a participant that is down must not keep others from working.
    pub in_flight: usize,
    /// Records of the log, from the last that is durable to the last that a decision was forced with. 1 at the least.
    pub log_queue: u64,
    /// Decisions that one participant has not acknowledged, parked ones included. 1 at the least. Over it
    /// [`Transaction::branch`](super::Transaction::branch) refuses new branches of that participant. Set it below what the
    /// participant can hold: a database has room for so many prepared transactions.
    pub undelivered: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { in_flight: DEFAULT_MAX_IN_FLIGHT, log_queue: u64::MAX, undelivered: DEFAULT_MAX_UNDELIVERED }
    }
}

/// Why no transaction was begun.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BeginError {
    /// As many transactions are in flight as are allowed.
    #[error("{limit} transactions are in flight, as many as allowed; try again when some have ended")]
    InFlight {
        /// The limit.
        limit: usize,
    },
    /// As much is queued for the disk as is allowed.
    #[error("{limit} records wait for the disk, as many as allowed; try again when it has caught up")]
    LogQueue {
        /// The limit.
        limit: u64,
    },
    /// The coordinator is being shut down.
    #[error("the coordinator is shutting down; begin the transaction once it is open again")]
    ShuttingDown,
}

/// Counts what is in flight, and keeps those waiting for whom there is no room.
pub(super) struct Admission {
    limits: Limits,
    counts: CachePadded<Counts>,
    /// The last record that a decision was forced with. Only written where it is limited how many there may be.
    forced: CachePadded<AtomicU64>,
    closing: AtomicBool,
    /// How many wait; those who leave look at nothing else unless somebody does.
    waiting: AtomicUsize,
    wakers: Mutex<Wakers>,
    room: Condvar,
}

/// The tasks that wait for room, in the order in which they came.
#[derive(Default)]
struct Wakers {
    waiting: BTreeMap<u64, Waker>,
    /// The next ticket.
    next: u64,
}

/// Waits for room, as a task; whether there is some, or the coordinator is being shut down. Dropped, it leaves nothing behind.
pub(super) struct Entering<'a> {
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
                Err(BeginError::ShuttingDown) => break false,
                Err(BeginError::LogQueue { .. }) => match log.poll_durable(admission.first_to_wait_for(), context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => {}
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
            // A wake-up that came meanwhile was for room that this one has found by itself, or for none.
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
        // It was woken for room that it does not take any more: that is the next one's.
        if self.ticket.is_some_and(|ticket| !self.admission.unregister(ticket)) {
            self.admission.wake_next();
        }
    }
}

/// What changes when a transaction begins: in one place, that a processor has to fetch once.
#[derive(Default)]
struct Counts {
    in_flight: AtomicUsize,
    /// The last transaction's number.
    last_sequence: AtomicU64,
}

impl Admission {
    pub(super) fn new(limits: Limits, platform: &Platform) -> Self {
        let limits = Limits { in_flight: limits.in_flight.max(1), log_queue: limits.log_queue.max(1), ..limits };
        Self {
            limits,
            counts: CachePadded::default(),
            forced: CachePadded::default(),
            closing: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            wakers: Mutex::default(),
            room: platform.condvar(),
        }
    }

    /// Lets one in, if there is room.
    pub(super) fn try_enter(&self, log: &dyn TransactionLog) -> Result<(), BeginError> {
        if self.closing.load(Ordering::SeqCst) {
            return Err(BeginError::ShuttingDown);
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

    /// One that was counted, and for whom there was no room, counts no more. Meanwhile another may have left and a third one
    /// have found this one in the last place: he waits now, and nobody else may ever come to wake him.
    fn go_away(&self) {
        let others = self.counts.in_flight.fetch_sub(1, Ordering::SeqCst) - 1;
        if others < self.limits.in_flight && self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_next();
        }
    }

    /// Waits for room. False where the coordinator is being shut down.
    pub(super) fn enter(&self, log: &dyn TransactionLog) -> bool {
        loop {
            match self.try_enter(log) {
                Ok(()) => return true,
                Err(BeginError::ShuttingDown) => return false,
                Err(BeginError::LogQueue { .. }) => {
                    if log.wait(self.first_to_wait_for()).is_err() {
                        // A log that has failed keeps nobody here: the commit tells.
                        self.counts.in_flight.fetch_add(1, Ordering::SeqCst);
                        return true;
                    }
                }
                Err(BeginError::InFlight { .. }) => {
                    let mut wakers = self.wakers.lock();
                    self.waiting.fetch_add(1, Ordering::SeqCst);
                    // Whoever leaves after this look finds somebody waiting, and needs the lock to say so.
                    if self.is_full() {
                        self.room.wait(&mut wakers);
                    }
                    self.waiting.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    }

    /// Waits for room, as a task.
    pub(super) fn enter_async<'a>(&'a self, log: &'a dyn TransactionLog) -> Entering<'a> {
        Entering { admission: self, log, ticket: None }
    }

    /// Has this waker woken when there may be room. The ticket is the task's place in the order; without one it gets one.
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

    /// Waits no longer. Says whether it still waited; otherwise it has been woken.
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

    /// Once this record is durable the queue is shorter than the limit.
    fn first_to_wait_for(&self) -> Lsn {
        Lsn::new(self.forced.load(Ordering::Relaxed).saturating_sub(self.limits.log_queue) + 1)
    }

    /// One of those let in has its outcome. Says whether others wait, who are then to be woken.
    #[must_use]
    pub(super) fn leave(&self) -> bool {
        self.counts.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Wakes the task and the thread that have waited longest for room: one of them gets it. Foreign code: no lock may be held.
    pub(super) fn wake_next(&self) {
        let first = self.wakers.lock().waiting.pop_first();
        self.room.notify_one();
        if let Some((_, waker)) = first {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            foreign::wake(waker);
        }
    }

    /// Lets nobody in from here on.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let all = mem::take(&mut self.wakers.lock().waiting);
        self.waiting.fetch_sub(all.len(), Ordering::SeqCst);
        self.room.notify_all();
        all.into_values().for_each(foreign::wake);
    }

    /// Whether nobody is let in any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(super) fn forced(&self, lsn: Lsn) {
        if self.limits.log_queue != u64::MAX {
            self.forced.fetch_max(lsn.as_u64(), Ordering::Relaxed);
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.counts.in_flight.load(Ordering::Relaxed)
    }

    /// Gives out the next transaction's number; the first is 1.
    pub(super) fn next_sequence(&self) -> u64 {
        self.counts.last_sequence.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The last number that was given out, or 0.
    pub(super) fn last_sequence(&self) -> u64 {
        self.counts.last_sequence.load(Ordering::SeqCst)
    }

    /// Records on their way to the disk for the sake of a decision, where they are limited.
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

    /// He is counted for a moment. Who had the last place left in that moment, when nobody waited yet, and who came then was
    /// kept waiting by him, with nobody in flight who would ever leave.
    #[test]
    fn one_who_is_refused_does_not_leave_another_waiting_for_the_place_he_was_counted_in() {
        let (log, limits) = (MemoryLog::new(), Limits { in_flight: 1, ..Limits::default() });
        let admission = Admission::new(limits, &Platform::default());
        admission.try_enter(&log).expect("there is room for one");
        let refused = admission.counts.in_flight.fetch_add(1, Ordering::SeqCst);
        assert_eq!(refused, limits.in_flight, "no room for him, so he is about to go away");
        assert!(!admission.leave(), "nobody waits yet");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut entering = pin!(admission.enter_async(&log));
        assert!(entering.as_mut().poll(&mut context).is_pending());
        admission.go_away();
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(entering.as_mut().poll(&mut context), Poll::Ready(true));
    }

    /// Each left its waker behind, and every attempt looked at all of them.
    #[test]
    fn attempts_that_are_given_up_leave_nothing_behind() {
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

    /// The first of those that wait is woken and then given up: the room is the next one's.
    #[test]
    fn a_wake_up_is_handed_on_by_a_task_that_is_dropped() {
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
        assert_eq!(woken(), [1, 0], "one place, one wake-up");
        drop(first);
        assert_eq!(woken(), [1, 1]);
    }
}
