//! [`Shared`]: what a coordinator's transactions share. Every message reads it, and every begin and
//! end writes it.
//!
//! The files of the folder are its children because they use its private fields: `end_batches`
//! (ends), `settling` (waiting for them). It and the transaction driver (`transaction_driver`) call
//! each other on the hot path: the driver tells it of begins, ends and messages, and it finds
//! drivers in its table. Keep that pair together; everything else calls one of the two.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use super::{
    Input, Openings, OperatorError, Policy, Remembered, TransactionState,
    admission::{Admission, Limits},
    breakers::Breaker,
    circuit::Settings,
    driver::{By, Driven, Driver, Sweep},
    endings::End,
    expiry::Expiry,
    lanes::Lane,
    members::Members,
    observe::{self, METERED},
    open::OpenTransactions,
    policy::after,
    recovery::InDoubtQuery,
    shelf::{Held, Shelf},
    task::Task,
    unclaimed::Unclaimed,
};
use crate::{
    error_chain,
    id::{Epoch, Name, TxnId, TxnOrdinal},
    log::{Durability, Fact, LogError, LogId, Lsn, Record, TransactionLog},
    participant::{Call, Decision, Life, Verb},
    platform::{Condvar, Platform},
    striped::Striped,
};

mod ends;
mod settling;

/// Maximum number of ended transactions of which participants are not told yet, while others are
/// open.
const MOST_UNSAID: u64 = 16;

pub(super) struct Shared {
    pub(super) name: Name,
    pub(super) epoch: Epoch,
    pub(super) log: Arc<dyn TransactionLog>,
    /// Identity of this opening of the log.
    opening: LogId,
    /// Identity of this opening of the coordinator.
    pub(super) life: Life,
    /// Says which transactions are the coordinator's own.
    pub(super) openings: Openings,
    pub(super) unclaimed: Unclaimed,
    pub(super) policy: Policy,
    pub(super) members: Members,
    pub(super) driver: Arc<Driver>,
    /// The lane of each participant, by its number.
    pub(super) lanes: Box<[Arc<Lane>]>,
    /// The circuit of each participant, by its number.
    pub(super) breakers: Box<[Breaker]>,
    /// What holds back `ended_below` of each participant alone, by its number.
    held: Box<[CachePadded<Held>]>,
    pub(super) platform: Platform,
    pub(super) admission: Admission,
    is_gone: AtomicBool,
    /// All of this epoch's transactions before this one have ended, except those that hold back
    /// `ended_below` of [some](Held) participants. 0: transactions of earlier epochs have not
    /// ended. Written under the lock, and read with each message. A message may carry a smaller
    /// number, never a larger one.
    ended_below: CachePadded<AtomicU64>,
    /// Number of records of the log that are durable, at least. Written and read as `ended_below`
    /// is.
    position: CachePadded<AtomicU64>,
    pub(super) open: CachePadded<Mutex<Open>>,
    settled: Condvar,
}

/// A transaction's handle to its coordinator. Striped, so that threads do not contend on one
/// reference count.
pub(super) type Hold = Arc<CachePadded<Arc<Shared>>>;

/// All handles of a coordinator.
pub(super) struct Holds(Striped<Hold>);

impl Holds {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Striped::new(|| Arc::new(CachePadded::new(Arc::clone(shared)))))
    }

    /// Returns the handle of the calling thread's stripe.
    pub(super) fn own(&self) -> Hold {
        Arc::clone(self.0.own())
    }
}

/// The table of what has begun and has not ended.
pub(super) struct Open {
    pub(super) transactions: OpenTransactions,
    /// Transactions that have ended, with ends that are not in the log yet.
    unwritten: Vec<TxnOrdinal>,
    /// Number of threads that write ends, or are about to.
    writing: usize,
    /// Transactions that only some participants have to remember.
    shelf: Shelf,
    /// State of the search for expired transactions.
    pub(super) expiry: Expiry,
    /// Transactions that a thread or task waits for in [`Shared::settle`].
    awaited: Vec<Key>,
    /// Tasks that wait until the coordinator is settled.
    sleepers: Vec<Arc<settling::Sleeper>>,
    /// Participants that have not yet said which branches they hold of earlier epochs, with the
    /// query that asks them.
    in_doubt_queries: BTreeMap<Name, Arc<InDoubtQuery>>,
    /// Whether the coordinator is gone. Then nothing more is taken in.
    abandoned: bool,
}

/// Key of an open transaction: its place in the order, and 0. For a branch that a participant
/// reported and the log does not know, it has the participant's number instead of 0, because each
/// such branch is settled by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) ordinal: TxnOrdinal,
    pub(super) reported_by: usize,
}

impl Key {
    pub(super) const fn of(ordinal: TxnOrdinal) -> Self {
        Self { ordinal, reported_by: 0 }
    }

    /// Returns the range of all keys of one transaction.
    pub(super) const fn all_of(ordinal: TxnOrdinal) -> RangeInclusive<Self> {
        Self::of(ordinal)..=Self { ordinal, reported_by: usize::MAX }
    }
}

/// A transaction number that was given out, and is not in the table yet. If the thread that has it
/// panics, the drop frees its place: otherwise later transactions would count as open forever.
struct Number<'a> {
    shared: &'a Shared,
    sequence: u64,
}

impl Number<'_> {
    fn begins(self, open: &mut Open, task: Option<Arc<Task>>) {
        if !open.abandoned {
            open.transactions.begin(self.sequence, task);
        }
        mem::forget(self);
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.shared.open.lock().transactions.begin(self.sequence, None);
    }
}

impl Shared {
    pub(super) fn new(
        name: Name,
        (life, openings): (Life, Openings),
        log: Arc<dyn TransactionLog>,
        policy: Policy,
        limits: Limits,
        members: Members,
        platform: Platform,
    ) -> Self {
        let (opening, epoch) = (log.opening(), life.epoch);
        let settings = Settings { undelivered: limits.undelivered.max(1), policy };
        let open = Open {
            transactions: OpenTransactions::new(epoch),
            unwritten: Vec::new(),
            writing: 0,
            shelf: Shelf::default(),
            expiry: Expiry::default(),
            awaited: Vec::new(),
            sleepers: Vec::new(),
            in_doubt_queries: BTreeMap::new(),
            abandoned: false,
        };
        Self {
            name,
            epoch,
            log,
            opening,
            life,
            openings,
            unclaimed: Unclaimed::default(),
            policy,
            driver: Arc::new(Driver::new(platform.clone())),
            breakers: members.iter().map(|_| Breaker::new(settings)).collect(),
            held: members.iter().map(|_| CachePadded::default()).collect(),
            lanes: members.iter().map(|_| Lane::new(platform.clone())).collect(),
            admission: Admission::new(limits, &platform),
            is_gone: AtomicBool::new(false),
            ended_below: CachePadded::default(),
            position: CachePadded::new(AtomicU64::new(life.position)),
            open: CachePadded::new(Mutex::new(open)),
            settled: platform.condvar(),
            members,
            platform,
        }
    }

    /// Begins a transaction. It counts as open from here on, until it has ended. A transaction that
    /// was not admitted is over at once.
    pub(super) fn begin(self: &Arc<Self>, hold: Hold, timeout: Duration, admitted: bool) -> Arc<Task> {
        let now = self.platform.now();
        let expires = after(now, timeout);
        // As much as possible before the lock. Its number counts as open before it is in the table.
        let number = Number { shared: self, sequence: self.admission.next_sequence() };
        let txn = TxnId::new(self.name.clone(), self.epoch, number.sequence);
        let task = Task::begun(hold, txn, now, expires, admitted);
        let durable = self.log.durable();
        let mut open = self.open.lock();
        number.begins(&mut open, admitted.then(|| Arc::clone(&task)));
        if admitted {
            self.will_expire(&mut open, timeout, expires);
        }
        self.note_ended(&mut open, durable);
        drop(open);
        // A shutdown closes first, and then rolls back what is in the table. A transaction that was
        // admitted before and enters the table after that finds the coordinator closed, and rolls
        // back here.
        if self.admission.is_closed() && admitted && task.take_over() {
            task.push(Input::Rollback);
            Arc::clone(&task).run(By::Caller);
        }
        task
    }

    /// Adds a transaction of an earlier life. `owed` have not acknowledged it; no other participant
    /// is told of it any more.
    pub(super) fn resumed(&self, task: Arc<Task>, owed: Vec<Name>) {
        let mut open = self.open.lock();
        if open.abandoned {
            drop(open);
            return task.abandon();
        }
        let changed = open.shelf.put(task, owed, false);
        self.hold(&open, &changed);
    }

    /// Notes that from here on only `owed`, which have not acknowledged the transaction, need to
    /// remember it. If it is parked, it waits for an operator.
    pub(super) fn shelve(&self, task: Arc<Task>, owed: Vec<Name>, is_parked: bool, end: End) {
        let mut open = self.open.lock();
        if open.abandoned {
            return;
        }
        let key = task.key();
        let changed = open.shelf.put(task, owed, is_parked);
        self.hold(&open, &changed);
        let task = self.take(&mut open, key, end);
        if is_parked && task.is_none() {
            self.tell_awaited(&open, key);
        }
        self.note_ended(&mut open, Lsn::NONE);
        drop(open);
        drop(task);
    }

    /// Notes that the transaction no longer waits for an operator.
    pub(super) fn unshelve(&self, key: Key) {
        self.open.lock().shelf.unpark(key);
    }

    /// Delivers the transaction's decision again, if it is parked.
    pub(super) fn retry(self: &Arc<Self>, task: &Arc<Task>) {
        if let TransactionState::Parked(_) = task.state_to_come() {
            self.retry_now(task);
        }
    }

    pub(super) fn retry_now(self: &Arc<Self>, task: &Arc<Task>) {
        if task.is_begun() {
            return; // its client is still at work, and nothing is decided that could be delivered
        }
        self.unshelve(task.key());
        task.push(Input::Retry);
        // On a worker, because a participant that hangs must not block the caller.
        self.driver.enqueue(Arc::clone(task) as Arc<dyn Driven>);
        task.owing()
            .into_iter()
            .filter_map(|name| self.members.find(name.as_str()))
            .for_each(|number| self.probe_now(number));
    }

    /// Gives an operator's input to those drivers of a transaction that `may` allows it for.
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
        for task in self.tasks_of(txn.ordinal()) {
            match may(task.state_to_come()) {
                Ok(()) => {
                    task.push(input);
                    (task as Arc<dyn Driven>).run(By::Caller);
                    result = Ok(());
                }
                Err(error) if result.is_err() => result = Err(error),
                Err(_) => {}
            }
        }
        result
    }

    /// Appends to the log, unless the coordinator is gone: transactions that clients still hold
    /// must not write beside the coordinator that was opened since.
    ///
    /// Only for a transaction that is open, and says meanwhile that it is
    /// [appending](Task::is_appending).
    pub(super) fn append(&self, fact: Fact, durability: Durability) -> Result<Lsn, LogError> {
        if self.is_gone() {
            return Err(LogError::Closed);
        }
        let lsn = self.log.append(Record { owner: self.name.clone(), fact }, durability)?;
        if durability == Durability::Forced {
            self.admission.forced(lsn);
        }
        Ok(lsn)
    }

    /// Whether the coordinator is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst)
    }

    /// Takes a transaction out of the table of open ones.
    fn take(&self, open: &mut Open, key: Key, end: End) -> Option<Arc<Task>> {
        let task = open.transactions.take(key, end)?;
        self.tell_awaited(open, key);
        Some(task)
    }

    fn tell_awaited(&self, open: &Open, key: Key) {
        if open.awaited.contains(&key) {
            self.wake_settling(open);
        }
    }

    /// Sets what holds back `ended_below` of these participants.
    fn hold(&self, open: &Open, participants: &[Name]) {
        for participant in participants {
            let Some(number) = self.members.find(participant.as_str()) else { continue };
            // While the participant has not said what it holds of earlier epochs, it may have to be
            // told of any of them.
            let unknown = open.in_doubt_queries.contains_key(participant).then(TxnOrdinal::default);
            self.held[number].set(unknown.or_else(|| open.shelf.first_held_for(participant)));
        }
    }

    pub(super) fn in_doubt_query_begins(&self, participant: Name, query: Arc<InDoubtQuery>) {
        let mut open = self.open.lock();
        open.in_doubt_queries.insert(participant.clone(), query);
        self.hold(&open, &[participant]);
    }

    pub(super) fn in_doubt_query_ends(&self, participant: &Name) {
        let mut open = self.open.lock();
        let query = open.in_doubt_queries.remove(participant);
        self.hold(&open, std::slice::from_ref(participant));
        self.wake_settling(&open);
        drop(open);
        drop(query);
    }

    /// Rolls back the transactions under which clients still work. Workers carry that out.
    pub(super) fn roll_back_begun(&self) {
        let mut begun = self.tasks();
        begun.retain(|task| task.take_over());
        for task in begun {
            task.push(Input::Rollback);
            self.driver.enqueue(task as Arc<dyn Driven>);
        }
    }

    /// Ends a transaction that none of its log's openings has given out, with the operator's
    /// decision. Blocks for one write of the log for a commit.
    pub(super) fn settle_unclaimed(self: &Arc<Self>, txn: &TxnId, decision: Decision) -> Result<(), OperatorError> {
        let holders = self.unclaimed.take(txn);
        if holders.is_empty() {
            return Err(OperatorError::Unknown { txn: txn.clone() });
        }
        if decision == Decision::Commit {
            // As for its own decisions: a later life must not undo it.
            let decided = Fact::Decided { txn: txn.clone(), participants: holders.clone() };
            let logged = self.append(decided, Durability::Forced).and_then(|lsn| self.log.wait(lsn));
            if let Err(error) = logged {
                let now = self.platform.now();
                holders.iter().for_each(|holder| self.unclaimed.report(&txn.branch(holder), now));
                return Err(OperatorError::Log { txn: txn.clone(), error: error_chain(&error) });
            }
        }
        let now = self.platform.now();
        let memory = Remembered { owed: holders.clone(), ..Remembered::of(decision) };
        let protocol = memory.resume(txn.clone(), self.policy, now);
        let task = Task::resumed(Arc::clone(self), protocol, Key::of(txn.ordinal()), now);
        self.resumed(Arc::clone(&task), holders);
        task.run(By::Caller);
        Ok(())
    }

    /// Returns the first number that has not been given out.
    pub(super) fn next_ordinal(&self) -> TxnOrdinal {
        TxnOrdinal { epoch: self.epoch, sequence: self.admission.last_sequence() + 1 }
    }

    /// Returns the open drivers of one transaction: its own, and those of branches that
    /// participants reported.
    pub(super) fn tasks_of(&self, ordinal: TxnOrdinal) -> Vec<Arc<Task>> {
        let open = self.open.lock();
        open.transactions.of(ordinal).chain(open.shelf.of(ordinal)).map(Arc::clone).collect()
    }

    pub(super) fn parked_tasks(&self) -> Vec<Arc<Task>> {
        self.open.lock().shelf.parked().map(Arc::clone).collect()
    }

    /// Returns the drivers of all open transactions. O(n).
    pub(super) fn tasks(&self) -> Vec<Arc<Task>> {
        let mut all = Vec::new();
        self.look_at_open(|task| all.push(Arc::clone(task)));
        // A transaction that was parked meanwhile is there twice.
        let shelved: Vec<_> = self.open.lock().shelf.tasks().map(Arc::clone).collect();
        let keys: HashSet<Key> = shelved.iter().map(|task| task.key()).collect();
        all.retain(|task| !keys.contains(&task.key()));
        all.extend(shelved);
        all
    }

    /// Returns the queries of participants that have not said yet what they hold of earlier epochs.
    pub(super) fn in_doubt_queries(&self) -> Vec<Arc<InDoubtQuery>> {
        self.open.lock().in_doubt_queries.values().map(Arc::clone).collect()
    }

    fn running_tasks(&self) -> Vec<Arc<Task>> {
        let mut running = Vec::new();
        self.look_at_open(|task| {
            if !task.is_clients() {
                running.push(Arc::clone(task));
            }
        });
        running.extend(self.open.lock().shelf.running().map(Arc::clone));
        running
    }

    /// Drops everything that is under way, as a crash would. Drivers and this struct hold each
    /// other; this breaks the circle.
    pub(super) fn abandon(&self) {
        let mut open = self.open.lock();
        open.abandoned = true;
        self.note_ended(&mut open, Lsn::NONE);
        let transactions = mem::replace(&mut open.transactions, OpenTransactions::new(self.epoch));
        let (queries, shelf) = (mem::take(&mut open.in_doubt_queries), mem::take(&mut open.shelf));
        drop(open);
        queries.values().for_each(|query| query.abandon());
        drop(queries);
        transactions.iter().chain(shelf.tasks()).for_each(|task| task.abandon());
    }

    /// Updates `ended_below`, because something may have ended. `durable` is a record that the log
    /// has made durable. The log must not be asked under this lock; a smaller number only delays
    /// `ended_below`.
    fn note_ended(&self, open: &mut Open, durable: Lsn) {
        let first = open.transactions.first(durable);
        let is_known = first.epoch == self.epoch && !open.abandoned;
        let (known, below) = (self.ended_below.load(Ordering::Relaxed), if is_known { first.sequence } else { 0 });
        // All threads read it with each message, so it is written the less often the more
        // transactions are open.
        let news = below.saturating_sub(known);
        if known == 0 || below < known || news >= open.transactions.at_once().min(MOST_UNSAID) {
            self.ended_below.store(below, Ordering::Release);
            self.position.fetch_max(durable.number(), Ordering::Relaxed);
        }
    }

    /// Returns what a message to the participant carries. A commit carries how far the log is
    /// durable with its decision in it; for all others what was known a moment ago is enough.
    pub(super) fn call(&self, number: usize, verb: Verb, deadline: Option<Instant>) -> Call {
        let ended_below = match self.ended_below.load(Ordering::Acquire) {
            0 => TxnOrdinal::default(),
            sequence => self.held[number].limit(TxnOrdinal { epoch: self.epoch, sequence }),
        };
        let position = match verb {
            Verb::Commit => self.log.durable().number(),
            _ => self.position.load(Ordering::Relaxed),
        };
        Call { epoch: self.epoch, ended_below, deadline, identity: self.life.log, position, ..Call::new(self.opening) }
    }
}

impl Open {
    /// Returns the transactions that neither a client nor an operator has to act on.
    fn running(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.transactions.iter().filter(|task| !task.is_clients()).chain(self.shelf.running())
    }
}

impl Sweep for Shared {
    fn sweep(&self) {
        let durable = self.log.durable();
        for task in self.running_tasks() {
            task.nudge(durable);
        }
        let unwritten = self.open.lock().unwritten_ends();
        self.write(unwritten);
        if METERED {
            observe::gauges(self.name.as_str(), &self.status());
        }
    }
}

/// The timer of the transaction that expires first.
impl Driven for Shared {
    fn run(self: Arc<Self>, _: By) {
        self.roll_back_expired();
    }
}
