//! A log whose syncs wait until the test lets them go, and that can be taken over meanwhile.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use ringpact::{
    Epoch, LogError, LogId, MemoryLog, Name, TransactionLog,
    log::{Claim, Durability, LogStats, Lsn, Record, Takeover},
};

/// Records become durable at once, until the test [holds](Self::hold) the log. A clone is another
/// handle.
#[derive(Clone)]
pub struct HeldLog(Arc<Held>);

struct Held {
    inner: MemoryLog,
    state: Mutex<State>,
    change: Condvar,
}

#[derive(Default)]
struct State {
    is_held: bool,
    /// Whether nothing is told of a takeover, as in a process that was paused. What is written is
    /// refused all the same.
    is_deaf: bool,
    wakers: Vec<Waker>,
    watchers: Vec<Waker>,
}

impl HeldLog {
    pub fn new() -> Self {
        Self::on(MemoryLog::new())
    }

    fn on(inner: MemoryLog) -> Self {
        Self(Arc::new(Held { inner, state: Mutex::default(), change: Condvar::new() }))
    }

    /// From now on nothing becomes durable, and what waits for that waits.
    pub fn hold(&self) {
        self.0.state.lock().is_held = true;
    }

    /// Makes durable what waits for it, and what comes later.
    pub fn release(&self) {
        let mut state = self.0.state.lock();
        state.is_held = false;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.0.change.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// From now on the log says only what it must: nothing before the next write.
    pub fn be_deaf(&self) {
        self.0.state.lock().is_deaf = true;
    }

    /// From now on the log says what it knows when it is asked. It still wakes no task.
    pub fn hear(&self) {
        self.0.state.lock().is_deaf = false;
    }

    /// Number of records that are not durable.
    pub fn pending(&self) -> usize {
        self.0.inner.pending()
    }

    /// Takes the log over, with this number of records that were not durable. What waits for a
    /// record is answered, and the watchers are told unless the log is deaf.
    pub fn take_over(&self, holder: &str, pending: usize) -> Self {
        let taken = self.0.inner.take_over(holder, pending);
        let mut state = self.0.state.lock();
        let mut wakers = std::mem::take(&mut state.wakers);
        if !state.is_deaf {
            wakers.append(&mut state.watchers);
        }
        drop(state);
        self.0.change.notify_all();
        wakers.into_iter().for_each(Waker::wake);
        Self::on(taken)
    }

    fn is_taken(&self) -> bool {
        self.0.inner.lost().is_some()
    }
}

impl TransactionLog for HeldLog {
    fn id(&self) -> LogId {
        self.0.inner.id()
    }
    fn incarnation(&self) -> u64 {
        self.0.inner.incarnation()
    }
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.0.inner.claim(owner)
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let is_held = self.0.state.lock().is_held;
        self.0.inner.append(record, if is_held { Durability::Lazy } else { durability })
    }
    fn durable(&self) -> Lsn {
        self.0.inner.durable()
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        let mut state = self.0.state.lock();
        while state.is_held && self.durable() < lsn && !self.is_taken() {
            let timed_out = self.0.change.wait_for(&mut state, Duration::from_secs(20)).timed_out();
            assert!(!timed_out, "the test holds the log for too long");
        }
        drop(state);
        self.0.inner.wait(lsn)
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        let mut state = self.0.state.lock();
        if state.is_held && self.durable() < lsn && !self.is_taken() {
            state.wakers.push(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(self.0.inner.wait(lsn))
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.0.inner.live(owner)
    }
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.0.inner.openings(owner)
    }
    fn lost(&self) -> Option<Takeover> {
        self.0.inner.lost().filter(|_| !self.0.state.lock().is_deaf)
    }
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        let mut state = self.0.state.lock();
        match self.0.inner.lost().filter(|_| !state.is_deaf) {
            Some(takeover) => Poll::Ready(takeover),
            None => {
                state.watchers.push(context.waker().clone());
                Poll::Pending
            }
        }
    }
    fn stats(&self) -> LogStats {
        self.0.inner.stats()
    }
}
