//! What a coordinator's transactions share.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{
    Input, OperatorError, Policy, TransactionState,
    admission::{Admission, Limits},
    driver::{Driven, Driver, Sweep},
    endings::{End, Endings},
    observe::{self, METERED},
    policy::after,
    recovery::Inquiry,
    shelf::Shelf,
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
    pub(super) promises: Promises,
}

/// Whether a participant can promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promises {
    Can,
    /// It is a last resource.
    Cannot,
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
    pub(super) admission: Admission,
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
    /// Those that wait for an operator.
    shelf: Shelf,
    /// When the driver next looks for transactions whose time is over, if it does.
    next_expiry: Option<Instant>,
    /// Those that have ended since, and could be open again after a crash.
    endings: Endings,
    /// Participants that have not yet said which branches they hold of earlier epochs, and who asks them.
    inquiries: BTreeMap<Name, Arc<Inquiry>>,
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

    /// Those of one transaction.
    pub(super) const fn all_of(mark: Mark) -> RangeInclusive<Self> {
        Self::of(mark)..=Self { mark, reported_by: usize::MAX }
    }
}

#[derive(Clone)]
enum Stage {
    /// The client still works under it.
    Begun(Arc<Task>),
    /// The protocol has it.
    Running(Arc<Task>),
}

impl Stage {
    const fn task(&self) -> &Arc<Task> {
        match self {
            Self::Begun(task) | Self::Running(task) => task,
        }
    }
}

impl Shared {
    pub(super) fn new(
        name: Name,
        epoch: Epoch,
        log: Arc<dyn TransactionLog>,
        policy: Policy,
        limits: Limits,
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
            admission: Admission::new(limits, &platform),
            gone: RwLock::new(false),
            open: Mutex::default(),
            settled: platform.condvar(),
            platform,
        }
    }

    /// A new transaction. It counts as open from here on, until it has ended or its time is over. It must have been
    /// admitted; one that wasn't is over at once.
    pub(super) fn begin(self: &Arc<Self>, timeout: Duration, admitted: bool) -> (Arc<Task>, TxnId) {
        let now = self.platform.now();
        let expires = after(now, timeout);
        let mut open = self.open.lock();
        open.last_sequence += 1;
        let txn = TxnId::new(self.name.clone(), self.epoch, open.last_sequence);
        let task = Task::begun(Arc::clone(self), txn.clone(), now, expires, admitted);
        if !admitted {
            return (task, txn);
        }
        if !open.abandoned {
            open.transactions.insert(task.key(), Stage::Begun(Arc::clone(&task)));
        }
        if open.next_expiry.is_none_or(|at| expires < at) {
            self.look_for_expired_at(&mut open, expires);
        }
        (task, txn)
    }

    fn look_for_expired_at(self: &Arc<Self>, open: &mut Open, at: Instant) {
        open.next_expiry = Some(at);
        let this = Arc::downgrade(self);
        let this: Weak<dyn Driven> = this;
        self.driver.enqueue_at(at, this);
    }

    /// The protocol has the transaction from here on.
    pub(super) fn running(&self, task: &Arc<Task>) {
        let mut open = self.open.lock();
        if open.abandoned {
            drop(open);
            return task.abandon();
        }
        // Where it is not there any more, its time is over, and it has ended.
        if let Some(stage) = open.transactions.get_mut(&task.key()) {
            *stage = Stage::Running(Arc::clone(task));
        }
    }

    /// A transaction of an earlier life goes on.
    pub(super) fn resumed(&self, task: Arc<Task>) {
        let mut open = self.open.lock();
        if open.abandoned {
            drop(open);
            return task.abandon();
        }
        open.transactions.insert(task.key(), Stage::Running(task));
    }

    /// The transaction waits for an operator from here on. `owed` have not acknowledged it.
    pub(super) fn shelve(&self, task: Arc<Task>, owed: Vec<Name>, end: End) {
        let mut open = self.open.lock();
        if open.abandoned {
            return;
        }
        open.endings.add(task.key().mark, end);
        let stage = open.transactions.remove(&task.key());
        open.shelf.put(task, owed);
        self.notify(&open);
        drop(open);
        drop(stage);
    }

    /// The transaction waits for no operator any more.
    pub(super) fn unshelve(&self, key: Key) {
        let mut open = self.open.lock();
        if let Some(task) = open.shelf.take(key) {
            open.transactions.insert(key, Stage::Running(task));
        }
    }

    /// Tells it again if it is parked.
    pub(super) fn retry(&self, task: &Arc<Task>) {
        if let TransactionState::Parked(_) = task.state() {
            self.retry_now(task);
        }
    }

    pub(super) fn retry_now(&self, task: &Arc<Task>) {
        if task.is_begun() {
            return; // its client is still at work, and nothing is decided that could be delivered
        }
        self.unshelve(task.key());
        task.push(Input::Retry);
        // Not here: who asks must not be kept by a participant that hangs.
        self.driver.enqueue(Arc::clone(task) as Arc<dyn Driven>);
    }

    /// Does what an operator wants to those of a transaction's tasks that `may` says it can be done to.
    pub(super) fn act(
        &self,
        txn: &TxnId,
        input: Input,
        may: impl Fn(TransactionState) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        let mut result = Err(OperatorError::Unknown { txn: txn.clone() });
        if txn.coordinator() != &self.name {
            return result;
        }
        for task in self.tasks_of(txn.mark()) {
            match may(task.state()) {
                Ok(()) => {
                    task.push(input);
                    (task as Arc<dyn Driven>).run();
                    result = Ok(());
                }
                Err(error) if result.is_err() => result = Err(error),
                Err(_) => {}
            }
        }
        result
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
        let lsn = self.log.append(Record { owner: self.name.clone(), fact }, durability)?;
        if durability == Durability::Forced {
            self.admission.forced(lsn);
        }
        Ok(lsn)
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
        let shelved = open.shelf.take(key);
        self.notify(&open);
        drop(open);
        drop((stage, shelved));
    }

    pub(super) fn inquiry_begins(&self, participant: Name, inquiry: Arc<Inquiry>) {
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

    /// Waits until there is nothing to do but for operators; says whether nothing is left at all.
    pub(super) fn settle(&self, timeout: Duration) -> bool {
        let until = after(self.platform.now(), timeout);
        let mut open = self.open.lock();
        while !open.is_settled() {
            if self.settled.wait_until(&mut open, until) == Woken::TimedOut {
                break;
            }
        }
        open.is_settled() && open.shelf.len() == 0
    }

    /// Rolls back what clients still work under.
    pub(super) fn roll_back_begun(&self) {
        let begun: Vec<_> = {
            let mut open = self.open.lock();
            let begun = open.transactions.values_mut().filter_map(|stage| match stage {
                Stage::Begun(task) => {
                    let task = Arc::clone(task);
                    *stage = Stage::Running(Arc::clone(&task));
                    Some(task)
                }
                Stage::Running(_) => None,
            });
            begun.collect()
        };
        for task in begun {
            task.push(Input::Rollback);
            self.driver.enqueue(task as Arc<dyn Driven>);
        }
    }

    /// Rolls back the transactions whose time is over.
    fn roll_back_expired(self: &Arc<Self>) {
        let now = self.platform.now();
        let mut expired = Vec::new();
        let mut open = self.open.lock();
        let mut next = None;
        for stage in open.transactions.values_mut() {
            let Stage::Begun(task) = stage else { continue };
            if task.expires() <= now {
                let task = Arc::clone(task);
                *stage = Stage::Running(Arc::clone(&task));
                expired.push(task);
            } else if next.is_none_or(|at| task.expires() < at) {
                next = Some(task.expires());
            }
        }
        open.next_expiry = None;
        if let Some(at) = next {
            self.look_for_expired_at(&mut open, at);
        }
        drop(open);
        for task in expired {
            self.driver.enqueue(task as Arc<dyn Driven>);
        }
    }

    /// The first id that has not been given out.
    pub(super) fn next_mark(&self) -> Mark {
        Mark { epoch: self.epoch, sequence: self.open.lock().last_sequence + 1 }
    }

    /// What is open of one transaction: its own task, and those of branches that participants reported.
    pub(super) fn tasks_of(&self, mark: Mark) -> Vec<Arc<Task>> {
        let open = self.open.lock();
        let running = open.transactions.range(Key::all_of(mark)).map(|(_, stage)| stage.task());
        running.chain(open.shelf.of(mark)).map(Arc::clone).collect()
    }

    pub(super) fn shelved_tasks(&self) -> Vec<Arc<Task>> {
        self.open.lock().shelf.tasks().map(Arc::clone).collect()
    }

    /// All that is open.
    pub(super) fn tasks(&self) -> Vec<Arc<Task>> {
        let open = self.open.lock();
        open.transactions.values().map(Stage::task).chain(open.shelf.tasks()).map(Arc::clone).collect()
    }

    /// Who has not said yet what it holds of earlier epochs.
    pub(super) fn inquiries(&self) -> Vec<Arc<Inquiry>> {
        self.open.lock().inquiries.values().map(Arc::clone).collect()
    }

    fn running_tasks(&self) -> Vec<Arc<Task>> {
        let open = self.open.lock();
        let running = |stage: &Stage| match stage {
            Stage::Begun(_) => None,
            Stage::Running(task) => Some(Arc::clone(task)),
        };
        open.transactions.values().filter_map(running).collect()
    }

    /// Drops everything that is under way, as a crash would. Tasks and this struct hold each other; this parts them.
    pub(super) fn abandon(&self) {
        let mut open = self.open.lock();
        open.abandoned = true;
        let (transactions, inquiries) = (std::mem::take(&mut open.transactions), std::mem::take(&mut open.inquiries));
        let shelf = std::mem::take(&mut open.shelf);
        drop(open);
        drop(inquiries);
        for stage in transactions.into_values() {
            if let Stage::Running(task) = stage {
                task.abandon();
            }
        }
        shelf.tasks().for_each(|task| task.abandon());
    }

    /// What is said along with a message to the participant.
    pub(super) fn call(&self, participant: &Name, deadline: Option<Instant>) -> Call {
        let durable = self.log.durable();
        let mut open = self.open.lock();
        open.endings.durable(durable);
        let next = Mark { epoch: self.epoch, sequence: open.last_sequence + 1 };
        let running = open.transactions.first_key_value().map(|(key, _)| key.mark);
        let held = open.shelf.first_held_for(participant);
        let first = running.into_iter().chain(open.endings.first()).chain(held).min();
        // While a participant has not reported what it holds of earlier epochs, those may hold open transactions; and a
        // coordinator that is gone knows of none any more.
        let is_known = open.inquiries.is_empty() && !open.abandoned;
        let ended_below = if is_known { first.unwrap_or(next) } else { Mark::default() };
        Call { epoch: self.epoch, ended_below, deadline, ..Call::new(self.log_id) }
    }
}

impl Open {
    fn is_settled(&self) -> bool {
        self.inquiries.is_empty() && self.transactions.values().all(|stage| matches!(stage, Stage::Begun(_)))
    }
}

impl Sweep for Shared {
    fn sweep(&self) {
        let durable = self.log.durable();
        for task in self.running_tasks() {
            task.nudge(durable);
        }
        if METERED {
            observe::gauges(self.name.as_str(), &self.status());
        }
    }
}

/// The clock has struck for the transaction that was to be over first.
impl Driven for Shared {
    fn run(self: Arc<Self>) {
        self.roll_back_expired();
    }
}
