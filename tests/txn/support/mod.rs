//! Shared by the tests: a small service that remembers its calls, and fails in the calls that the
//! test names.
#![allow(dead_code)] // every test binary compiles all of it and uses its own part

pub mod copies;
pub mod held;
pub mod logs;
pub mod scripted;
pub mod wire;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, Epoch, MemoryLog, Name, ParticipantError, ResourceManager, Service, ServiceError,
    TransactionLog, TxnId, Vote,
    participant::{Call, Effort},
};

/// A call to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    Try,
    Restore,
    Confirm,
    Cancel,
    Checkpoint,
}

/// What the service does instead of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Fail,
    Panic,
}

#[derive(Debug)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the account refuses")
    }
}

impl std::error::Error for Refused {}

/// The durable state of an [`Account`]: it survives crashes, and the account is opened on it.
pub type Disk = Arc<Mutex<BTreeMap<BranchId, i64>>>;

/// Adds amounts up. It refuses odd ones; zero is read-only. In memory; written down at checkpoints.
#[derive(Default)]
pub struct Account {
    pub disk: Disk,
    pub reserved: Mutex<BTreeMap<BranchId, i64>>,
    pub applied: Mutex<BTreeMap<BranchId, i64>>,
    pub asked: Mutex<Vec<(Op, Option<BranchId>)>>,
    pub faults: Mutex<BTreeMap<Op, VecDeque<Fault>>>,
}

impl Account {
    pub fn on(disk: &Disk) -> Self {
        Self { disk: Arc::clone(disk), applied: Mutex::new(disk.lock().clone()), ..Self::default() }
    }

    /// Makes the next calls of this kind fail, each in the given way.
    pub fn fail(&self, op: Op, faults: impl IntoIterator<Item = Fault>) {
        self.faults.lock().entry(op).or_default().extend(faults);
    }

    pub fn balance(&self) -> i64 {
        self.applied.lock().values().sum()
    }

    /// Returns the branches of all calls of this kind, in order.
    pub fn asked(&self, op: Op) -> Vec<BranchId> {
        self.asked.lock().iter().filter(|(asked, _)| *asked == op).filter_map(|(_, branch)| branch.clone()).collect()
    }

    fn ask(&self, op: Op, branch: Option<&BranchId>) -> Result<(), Refused> {
        self.asked.lock().push((op, branch.cloned()));
        let fault = self.faults.lock().get_mut(&op).and_then(VecDeque::pop_front);
        match fault {
            None => Ok(()),
            Some(Fault::Fail) => Err(Refused),
            Some(Fault::Panic) => panic!("the test wants {op:?} to panic"),
        }
    }
}

impl Service for Account {
    type Work = i64;
    type Refusal = Refused;

    fn effort(&self, work: &i64) -> Effort {
        if *work == 0 { Effort::ReadOnly } else { Effort::Update }
    }

    fn try_reserve(&self, branch: &BranchId, work: &i64) -> Result<(), Refused> {
        if work % 2 != 0 {
            return Err(Refused);
        }
        if *work != 0 {
            // Sets aside first and panics then: the worst moment.
            *self.reserved.lock().entry(branch.clone()).or_default() += work;
        }
        self.ask(Op::Try, Some(branch))
    }

    fn confirm(&self, branch: &BranchId, works: &[i64]) -> Result<(), ServiceError> {
        self.ask(Op::Confirm, Some(branch))?;
        self.reserved.lock().remove(branch);
        self.applied.lock().insert(branch.clone(), works.iter().sum());
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        self.ask(Op::Cancel, Some(branch))?;
        self.reserved.lock().remove(branch);
        Ok(())
    }

    fn restore(&self, branch: &BranchId, works: &[i64]) -> Result<(), ServiceError> {
        self.ask(Op::Restore, Some(branch))?;
        self.reserved.lock().insert(branch.clone(), works.iter().sum());
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        let applied = self.applied.lock().clone();
        self.ask(Op::Checkpoint, None)?;
        *self.disk.lock() = applied;
        Ok(())
    }
}

pub type Manager = Arc<ResourceManager<Account>>;

pub fn manager(name: &str, log: impl TransactionLog) -> Manager {
    manager_on(name, log, &Disk::default())
}

pub fn manager_on(name: &str, log: impl TransactionLog, disk: &Disk) -> Manager {
    Arc::new(ResourceManager::open(name, log, Account::on(disk)).expect("the log opens"))
}

/// Returns a coordinator and resource managers that share one log.
pub fn shared(names: &[&str]) -> (MemoryLog, Coordinator, Vec<Manager>) {
    let log = MemoryLog::new();
    let managers: Vec<_> = names.iter().map(|name| manager(name, log.clone())).collect();
    let mut builder = Coordinator::builder(log.clone());
    for manager in &managers {
        builder = builder.participant(manager.name().as_str(), Arc::clone(manager));
    }
    (log, builder.open().expect("an empty log opens"), managers)
}

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

/// Returns a branch of coordinator "c" at `participant`.
pub fn branch(sequence: u64, participant: &str) -> BranchId {
    TxnId::new(name("c"), Epoch::new(1), sequence).branch(&name(participant))
}

/// Returns a call of a coordinator that has a log of its own.
pub fn call() -> Call {
    Call::new(MemoryLog::new().id())
}

/// Returns the vote of an answer to a prepare, with or without a reason.
pub fn vote(answer: Result<Vote, ParticipantError>) -> Vote {
    match answer {
        Err(ParticipantError::Refused(_)) => Vote::No,
        answer => answer.expect("a vote"),
    }
}

/// Blocks until the condition holds; panics after `limit`, so that the test fails and does not
/// hang.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The smallest executor: blocks until the future is ready, on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            // After a lost wake-up this would sleep forever; a panic shows it.
            Poll::Pending => {
                let start = Instant::now();
                thread::park_timeout(Duration::from_secs(20));
                assert!(start.elapsed() < Duration::from_secs(20), "this task was not woken for 20 s");
            }
        }
    }
}
