//! Logs around a [`MemoryLog`]: one that is slow, as a disk is, and one that fails in the way that
//! the test names.

use std::{
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use ringpact::{
    Epoch, LogError, LogId, MemoryLog, Name, TransactionLog,
    log::{Claim, Durability, Fact, LogStats, Lsn, Record, Takeover},
};

/// Records become durable a little later, on another thread, so that waiters really wait.
#[derive(Clone)]
pub struct SlowLog(Arc<Slow>);

struct Slow {
    inner: MemoryLog,
    state: Mutex<SlowState>,
    change: Condvar,
}

#[derive(Default)]
struct SlowState {
    wanted: Lsn,
    durable: Lsn,
    wakers: Vec<Waker>,
}

impl SlowLog {
    pub fn new(sync_takes: Duration) -> Self {
        let slow = Arc::new(Slow { inner: MemoryLog::new(), state: Mutex::default(), change: Condvar::new() });
        let weak = Arc::downgrade(&slow);
        thread::spawn(move || Self::write(&weak, sync_takes));
        Self(slow)
    }

    fn write(slow: &Weak<Slow>, sync_takes: Duration) {
        while let Some(slow) = slow.upgrade() {
            let wanted = {
                let mut state = slow.state.lock();
                if state.wanted <= state.durable {
                    slow.change.wait_for(&mut state, Duration::from_millis(20));
                }
                state.wanted
            };
            if wanted <= slow.state.lock().durable {
                continue;
            }
            thread::sleep(sync_takes);
            slow.inner.wait(wanted).expect("a memory log does not fail");
            let wakers = {
                let mut state = slow.state.lock();
                state.durable = wanted;
                std::mem::take(&mut state.wakers)
            };
            slow.change.notify_all();
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Returns the log that would be opened after a crash at this moment.
    pub fn crash(&self) -> MemoryLog {
        self.0.inner.crash()
    }

    fn want(&self, lsn: Lsn) {
        let mut state = self.0.state.lock();
        state.wanted = state.wanted.max(lsn);
        drop(state);
        self.0.change.notify_all();
    }
}

impl TransactionLog for SlowLog {
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
        let lsn = self.0.inner.append(record, Durability::Lazy)?;
        if durability == Durability::Forced {
            self.want(lsn);
        }
        Ok(lsn)
    }
    fn durable(&self) -> Lsn {
        self.0.state.lock().durable
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.want(lsn);
        let mut state = self.0.state.lock();
        while state.durable < lsn {
            let timed_out = self.0.change.wait_for(&mut state, Duration::from_secs(20)).timed_out();
            assert!(!timed_out, "the test's own log is stuck");
        }
        Ok(())
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        self.want(lsn);
        let mut state = self.0.state.lock();
        if state.durable >= lsn {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.0.inner.live(owner)
    }
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.0.inner.openings(owner)
    }
    fn lost(&self) -> Option<Takeover> {
        self.0.inner.lost()
    }
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        self.0.inner.poll_lost(context)
    }
    fn stats(&self) -> LogStats {
        self.0.inner.stats()
    }
}

/// How a [`FaultyLog`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFault {
    /// Decisions are refused: the disk is full.
    RefusesDecisions,
    /// A decision is written and its sync fails; a restart finds it.
    FailsAfterWriting,
    /// A decision is lost in a failed sync; a restart does not find it.
    FailsBeforeWriting,
    /// A sync has failed before: every record is refused.
    HasFailed,
    /// The log takes a decision and then panics.
    Panics,
}

/// Fails at decisions after [`FaultyLog::break_down`].
#[derive(Clone)]
pub struct FaultyLog {
    pub inner: MemoryLog,
    fault: LogFault,
    broken: Arc<AtomicBool>,
}

impl FaultyLog {
    pub fn new(fault: LogFault) -> Self {
        Self { inner: MemoryLog::new(), fault, broken: Arc::default() }
    }

    pub fn break_down(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    fn failure(&self) -> Result<(), LogError> {
        if self.broken.load(Ordering::SeqCst) && self.fault != LogFault::RefusesDecisions {
            return Err(LogError::Poisoned { cause: Arc::new(io::Error::other("the test wants a failed sync")) });
        }
        Ok(())
    }
}

impl TransactionLog for FaultyLog {
    fn id(&self) -> LogId {
        self.inner.id()
    }
    fn incarnation(&self) -> u64 {
        self.inner.incarnation()
    }
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.inner.claim(owner)
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let decision = matches!(record.fact, Fact::Decided { .. });
        if !decision || !self.broken.load(Ordering::SeqCst) {
            return self.inner.append(record, durability);
        }
        match self.fault {
            LogFault::RefusesDecisions => Err(LogError::Full {
                path: "test".into(),
                error: Arc::new(io::Error::other("the test wants a full disk")),
            }),
            LogFault::HasFailed => self.failure().and_then(|()| self.inner.append(record, durability)),
            LogFault::FailsAfterWriting => self.inner.append(record, Durability::Forced),
            LogFault::FailsBeforeWriting => self.inner.append(record, Durability::Lazy),
            LogFault::Panics => {
                self.inner.append(record, Durability::Forced)?;
                panic!("the test wants this to panic");
            }
        }
    }
    fn durable(&self) -> Lsn {
        match self.failure() {
            Ok(()) => self.inner.durable(),
            Err(_) => Lsn::NONE,
        }
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.failure()?;
        self.inner.wait(lsn)
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        if let Err(error) = self.failure() {
            return Poll::Ready(Err(error));
        }
        self.inner.poll_durable(lsn, context)
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.inner.live(owner)
    }
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.inner.openings(owner)
    }
    fn lost(&self) -> Option<Takeover> {
        self.inner.lost()
    }
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        self.inner.poll_lost(context)
    }
    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}
