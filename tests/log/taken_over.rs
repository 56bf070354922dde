//! A log that another holder takes over gives a definite answer for each record, and logs that break
//! that are caught.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use ringpact::{
    Epoch, FileLog, LogError, LogId, MemoryLog, Name, TransactionLog,
    log::{
        Claim, Durability, Fact, LogStats, Lsn, Record, Takeover,
        conformance::{self, Ending, Factory},
    },
};

fn record(epoch: u64) -> Record {
    Record { owner: owner(), fact: Fact::Opened { epoch: Epoch::new(epoch) } }
}

fn owner() -> Name {
    Name::new("shop").unwrap()
}

/// A log with one durable record, and four that are in no sync.
fn log_with_five() -> MemoryLog {
    let log = MemoryLog::new();
    log.commit(record(1)).unwrap();
    for epoch in 2..=5 {
        log.append(record(epoch), Durability::Lazy).unwrap();
    }
    log
}

#[test]
fn the_new_holder_has_what_was_durable_and_the_chosen_prefix_of_the_rest() {
    for kept in 0..=6 {
        let log = log_with_five();
        assert_eq!(log.pending(), 4);
        let taken = log.take_over("standby", kept);
        let there = 1 + kept.min(4) as u64;
        assert_eq!(taken.live(&owner()).unwrap(), (1..=there).map(record).collect::<Vec<_>>());
        assert_eq!((log.durable(), taken.durable()), (Lsn::new(there), Lsn::new(there)));
        for lsn in 1..=5 {
            let answer = log.wait(Lsn::new(lsn));
            assert_eq!(answer.is_ok(), lsn <= there, "{lsn} of {there}: {answer:?}");
        }
        assert_eq!(taken.append(record(9), Durability::Lazy).unwrap(), Lsn::new(there + 1));
    }
}

#[test]
fn the_error_names_the_new_holder_and_says_what_to_do() {
    let log = log_with_five();
    let _taken = log.take_over("10.0.0.7:9000", 0);
    let error = log.commit(record(6)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.0.0.7:9000") && text.contains("send new transactions"), "{text}");
    assert_eq!(error.takeover(), log.lost());
    assert!(LogError::from(Takeover::by(None)).to_string().contains("another holder"));
    assert_eq!(LogError::Closed.takeover(), None);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// An idle coordinator learns of it. It asks each second, and so comes with the same waker again.
#[test]
fn a_task_that_writes_nothing_is_woken_once() {
    let log: Arc<dyn TransactionLog> = Arc::new(log_with_five());
    let memory = log_with_five();
    let wrapped: Arc<dyn TransactionLog> = Arc::new(Arc::new(memory.clone()));
    let (woken, other) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    for woken in [&woken, &woken, &other] {
        let waker = Waker::from(Arc::clone(woken));
        let mut context = Context::from_waker(&waker);
        assert!(wrapped.poll_lost(&mut context).is_pending() && log.poll_lost(&mut context).is_pending());
    }
    assert_eq!(wrapped.lost(), None);
    let _taken = memory.take_over("standby", 0);
    assert_eq!((woken.0.load(Ordering::SeqCst), other.0.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(wrapped.lost().unwrap().holder.as_deref(), Some("standby"), "an `Arc` passes the question on");
    assert!(wrapped.poll_lost(&mut Context::from_waker(Waker::noop())).is_ready());
}

#[test]
fn a_log_that_cannot_be_taken_over_is_never_lost() {
    let directory = tempfile::tempdir().unwrap();
    let log = FileLog::open(directory.path()).unwrap();
    assert_eq!(log.lost(), None);
    assert!(log.poll_lost(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// What is wrong with a log that can be taken over.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The old handle goes on writing: a lease instead of a compare in each write.
    HasNoFence,
    /// The new holder lacks the last record that was durable.
    LosesADurableRecord,
    /// Says "closed" where it knows that the record is not in the log.
    IsUncertain,
    /// Says "fenced" of a record that the new holder has.
    DeniesADurableRecord,
    /// Counts the new holder's records as its own.
    CountsTheHoldersRecords,
    /// Forgets that it was told.
    IsNeverLost,
}

struct Broken {
    id: LogId,
    inner: MemoryLog,
    fault: Fault,
    /// What the new holder writes to, once there is one.
    taken: parking_lot::Mutex<Option<MemoryLog>>,
}

impl Broken {
    fn new(inner: MemoryLog, fault: Fault) -> Self {
        Self { id: inner.id(), inner, fault, taken: parking_lot::Mutex::default() }
    }

    fn altered<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        match (result, self.fault) {
            (Err(LogError::Fenced { .. }), Fault::IsUncertain) => Err(LogError::Closed),
            (result, _) => result,
        }
    }
}

impl TransactionLog for Broken {
    fn id(&self) -> LogId {
        self.id
    }
    fn incarnation(&self) -> u64 {
        self.inner.incarnation()
    }
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.inner.claim(owner)
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        match &*self.taken.lock() {
            Some(taken) if self.fault == Fault::HasNoFence => taken.append(record, durability),
            _ => self.inner.append(record, durability),
        }
    }
    fn durable(&self) -> Lsn {
        match &*self.taken.lock() {
            Some(taken) if self.fault == Fault::CountsTheHoldersRecords => taken.durable(),
            _ => self.inner.durable(),
        }
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        match &*self.taken.lock() {
            Some(taken) if self.fault == Fault::HasNoFence => return taken.wait(lsn),
            Some(_) if self.fault == Fault::DeniesADurableRecord => return Err(Takeover::by(None).into()),
            _ => {}
        }
        self.altered(self.inner.wait(lsn))
    }
    fn poll_durable(&self, lsn: Lsn, _: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        Poll::Ready(self.wait(lsn))
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.inner.live(owner)
    }
    fn lost(&self) -> Option<Takeover> {
        self.inner.lost().filter(|_| self.fault != Fault::IsNeverLost)
    }
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        self.inner.poll_lost(context)
    }
    fn stats(&self) -> LogStats {
        self.inner.stats()
    }
}

impl Factory for Fault {
    type Log = Broken;
    fn create(&mut self) -> Broken {
        Broken::new(MemoryLog::new(), *self)
    }
    fn reopen(&mut self, log: Broken, ending: Ending) -> Broken {
        if ending == Ending::Close {
            log.wait(Lsn::new(u64::MAX)).unwrap();
        }
        Broken::new(log.inner.crash(), *self)
    }
    fn take_over(&mut self, log: &Broken) -> Option<Broken> {
        let mut taken = log.inner.take_over("another", 1);
        if *self == Fault::LosesADurableRecord {
            let mut kept = taken.live(&Name::new("a").unwrap()).unwrap();
            kept.pop();
            taken = MemoryLog::new();
            for record in kept {
                taken.commit(record).unwrap();
            }
        }
        *log.taken.lock() = Some(taken.clone());
        Some(Broken { id: log.id, ..Broken::new(taken, *self) })
    }
}

#[test]
fn logs_that_are_torn_by_a_takeover_are_caught() {
    for mut fault in [
        Fault::HasNoFence,
        Fault::LosesADurableRecord,
        Fault::IsUncertain,
        Fault::DeniesADurableRecord,
        Fault::CountsTheHoldersRecords,
        Fault::IsNeverLost,
    ] {
        let panic = catch_unwind(AssertUnwindSafe(|| conformance::run(&mut fault)));
        let panic = panic.expect_err(&format!("{fault:?} passes the suite"));
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let said = text.unwrap_or_else(|| panic!("{fault:?} panics without a text"));
        assert!(said.contains("check `taken over`"), "{fault:?} was caught, but by: {said}");
    }
}
