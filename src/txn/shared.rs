//! What a coordinator's transactions share.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{
    Policy,
    driver::{Driven, Driver, Sweep},
    endings::{End, Endings},
    policy::after,
    task::Task,
};
use crate::{
    id::{Epoch, Mark, Name, TxnId},
    log::{Durability, Fact, LogError, LogId, Lsn, Record, TransactionLog},
    participant::{Call, Endpoint},
    platform::{Condvar, Platform, Woken},
};

/// A participant as the coordinator knows it.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) endpoint: Arc<dyn Endpoint>,
    /// Where on the list of participants it stands; those that answer late are asked first.
    pub(super) answers: Answers,
}

/// Whether a participant answers before `send` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answers {
    Later,
    AtOnce,
}

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) epoch: Epoch,
    pub(super) log: Arc<dyn TransactionLog>,
    pub(super) log_id: LogId,
    pub(super) policy: Policy,
    pub(super) members: BTreeMap<Name, Member>,
    pub(super) driver: Arc<Driver>,
    pub(super) platform: Platform,
    /// Whether the coordinator is gone. Read-locked while a record is appended, so that once it is set nothing more
    /// of this life gets into the log: the next life decides by what it finds there.
    gone: RwLock<bool>,
    open: Mutex<Open>,
    settled: Condvar,
}

/// What has begun and has not ended.
#[derive(Default)]
struct Open {
    last_sequence: u64,
    transactions: BTreeMap<Key, Stage>,
    /// Those that have ended since, and could be open again after a crash.
    endings: Endings,
    /// Participants that have not yet said which branches they hold of earlier epochs, and who asks them.
    inquiries: BTreeMap<Name, Arc<dyn Driven>>,
    /// The coordinator is gone; nothing more is taken in.
    abandoned: bool,
}

/// Which of the open transactions: its place in the order, and 0; or, for a branch that a participant reported and
/// the log knows nothing of, the participant's number, because each such branch is settled by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) mark: Mark,
    pub(super) reported_by: usize,
}

impl Key {
    pub(super) const fn of(mark: Mark) -> Self {
        Self { mark, reported_by: 0 }
    }
}

enum Stage {
    /// The client still works under it.
    Begun,
    /// The protocol has it.
    Running(Arc<Task>),
}

/// How many transactions stand where.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) begun: usize,
    pub(super) running: usize,
    pub(super) inquiries: usize,
}

impl Shared {
    pub(super) fn new(
        name: Name,
        epoch: Epoch,
        log: Arc<dyn TransactionLog>,
        policy: Policy,
        members: BTreeMap<Name, Member>,
        platform: Platform,
    ) -> Self {
        let log_id = log.id();
        Self {
            name,
            epoch,
            log,
            log_id,
            policy,
            members,
            driver: Arc::new(Driver::new(platform.clone())),
            gone: RwLock::new(false),
            open: Mutex::default(),
            settled: platform.condvar(),
            platform,
        }
    }

    /// A new transaction's id. It counts as open from here on.
    pub(super) fn begin(&self) -> TxnId {
        let mut open = self.open.lock();
        open.last_sequence += 1;
        let txn = TxnId::new(self.name.clone(), self.epoch, open.last_sequence);
        open.transactions.insert(Key::of(txn.mark()), Stage::Begun);
        txn
    }

    /// The protocol has the transaction from here on.
    pub(super) fn running(&self, task: Arc<Task>) {
        let mut open = self.open.lock();
        if open.abandoned {
            drop(open);
            return task.abandon();
        }
        open.transactions.insert(task.key(), Stage::Running(task));
    }

    /// Appends to the log, unless the coordinator is gone: what is left of its transactions in the hands of clients
    /// must not write beside the coordinator that has been opened since.
    ///
    /// The lock that is held meanwhile delays nobody but the coordinator's drop, and appending never waits.
    pub(super) fn append(&self, fact: Fact, durability: Durability) -> Result<Lsn, LogError> {
        let gone = self.gone.read();
        if *gone {
            return Err(LogError::Closed);
        }
        self.log.append(Record { owner: self.name.clone(), fact }, durability)
    }

    /// Whether the coordinator has gone.
    pub(super) fn is_gone(&self) -> bool {
        *self.gone.read()
    }

    /// The coordinator goes: nothing is appended from here on.
    pub(super) fn close(&self) {
        *self.gone.write() = true;
    }

    /// The transaction has ended.
    pub(super) fn ended(&self, key: Key, end: End) {
        let mut open = self.open.lock();
        open.endings.add(key.mark, end);
        let stage = open.transactions.remove(&key);
        self.notify(&open);
        drop(open);
        drop(stage);
    }

    pub(super) fn inquiry_begins(&self, participant: Name, inquiry: Arc<dyn Driven>) {
        self.open.lock().inquiries.insert(participant, inquiry);
    }

    pub(super) fn inquiry_ends(&self, participant: &Name) {
        let mut open = self.open.lock();
        let inquiry = open.inquiries.remove(participant);
        self.notify(&open);
        drop(open);
        drop(inquiry);
    }

    fn notify(&self, open: &Open) {
        if open.is_settled() {
            self.settled.notify_all();
        }
    }

    /// Waits until the protocol has nothing to do; says whether it came to that.
    pub(super) fn settle(&self, timeout: Duration) -> bool {
        let until = after(self.platform.now(), timeout);
        let mut open = self.open.lock();
        while !open.is_settled() {
            if self.settled.wait_until(&mut open, until) == Woken::TimedOut {
                return open.is_settled();
            }
        }
        true
    }

    pub(super) fn counts(&self) -> Counts {
        let open = self.open.lock();
        let running = open.transactions.values().filter(|stage| matches!(stage, Stage::Running(_))).count();
        Counts { begun: open.transactions.len() - running, running, inquiries: open.inquiries.len() }
    }

    pub(super) fn running_tasks(&self) -> Vec<Arc<Task>> {
        let open = self.open.lock();
        let running = |stage: &Stage| match stage {
            Stage::Begun => None,
            Stage::Running(task) => Some(Arc::clone(task)),
        };
        open.transactions.values().filter_map(running).collect()
    }

    /// Drops everything that is under way, as a crash would. Tasks and this struct hold each other; this parts them.
    pub(super) fn abandon(&self) {
        let mut open = self.open.lock();
        open.abandoned = true;
        let (transactions, inquiries) = (std::mem::take(&mut open.transactions), std::mem::take(&mut open.inquiries));
        drop(open);
        drop(inquiries);
        for stage in transactions.into_values() {
            if let Stage::Running(task) = stage {
                task.abandon();
            }
        }
    }

    /// What is said along with a message.
    pub(super) fn call(&self, deadline: Option<Instant>) -> Call {
        let durable = self.log.durable();
        let mut open = self.open.lock();
        open.endings.durable(durable);
        let next = Mark { epoch: self.epoch, sequence: open.last_sequence + 1 };
        let running = open.transactions.first_key_value().map(|(key, _)| key.mark);
        let first = running.into_iter().chain(open.endings.first()).min();
        // While a participant has not reported what it holds of earlier epochs, those may hold open transactions; and a
        // coordinator that is gone knows of none any more.
        let is_known = open.inquiries.is_empty() && !open.abandoned;
        let ended_below = if is_known { first.unwrap_or(next) } else { Mark::default() };
        Call { ended_below, deadline, ..Call::new(self.log_id) }
    }
}

impl Open {
    fn is_settled(&self) -> bool {
        self.inquiries.is_empty() && self.transactions.values().all(|stage| matches!(stage, Stage::Begun))
    }
}

impl Sweep for Shared {
    fn sweep(&self) {
        let durable = self.log.durable();
        for task in self.running_tasks() {
            task.nudge(durable);
        }
    }
}
