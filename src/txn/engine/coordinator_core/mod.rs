//! [`CoordinatorCore`]: what a coordinator's transactions share. Every message reads it, and every
//! begin and end writes it.
//!
//! The files of the folder are its children because they use its private fields: `calls` (what
//! each message carries), `end_batches` (ends), `fence` (its own end), `settling` (waiting for them), `membership` (participants
//! that come and go). It and the transaction driver (`transaction_driver`) call
//! each other on the hot path: the driver tells it of begins, ends and messages, and it finds
//! drivers in its table. Keep that pair together; everything else calls one of the two.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use fence::LossWatch;
use membership::Retirement;
use parking_lot::Mutex;

use crate::{
    id::{Epoch, Name, TxnId, TxnOrdinal},
    log::{Durability, Fact, LogError, LogId, Lsn, Record, Takeover, TransactionLog},
    participant::{Decision, Life},
    platform::{Condvar, Platform},
    striped::Striped,
    txn::{
        Input, Openings, OperatorError, Policy, Remembered, TransactionState,
        client::admission::{Admission, Limits},
        engine::{
            circuit::Settings,
            members::{Member, Members},
            observe::{self, METERED},
            pause::Sleeper,
            scheduler::{Runnable, Runner, Scheduler, Sweep},
            transaction_driver::TransactionDriver,
        },
        operator::unclaimed::Unclaimed,
        policy::after,
        recovery::{InDoubtQuery, Recovery},
        table::{
            expiry::Expiry, key::TxnKey, open_transactions::OpenTransactions, parked::ParkedTable,
            unsettled_ends::EndRecord,
        },
    },
};

mod calls;
mod end_batches;
mod fence;
pub(in crate::txn) mod membership;
mod settling;

pub(in crate::txn) struct CoordinatorCore {
    pub(in crate::txn) name: Name,
    pub(in crate::txn) epoch: Epoch,
    pub(in crate::txn) log: Arc<dyn TransactionLog>,
    /// Identity of this opening of the log.
    opening: LogId,
    /// Identity of this opening of the coordinator.
    pub(in crate::txn) life: Life,
    /// Says which transactions are the coordinator's own.
    pub(in crate::txn) openings: Openings,
    pub(in crate::txn) unclaimed: Unclaimed,
    pub(in crate::txn) policy: Policy,
    /// What each participant's circuit is set to.
    pub(in crate::txn) settings: Settings,
    pub(in crate::txn) members: Members,
    pub(in crate::txn) scheduler: Arc<Scheduler>,
    /// What recovery needs for a participant that is added, from the opening on.
    pub(in crate::txn) recovery: OnceLock<Recovery>,
    /// This value, for what the sweep hands to a worker.
    this: Weak<Self>,
    pub(in crate::txn) platform: Platform,
    pub(in crate::txn) admission: Admission,
    is_gone: AtomicBool,
    /// Set once the log was taken over. Then the coordinator is gone, too.
    taken: OnceLock<Takeover>,
    /// Hears from the log that it was taken over.
    loss_watch: Arc<LossWatch>,
    /// Number of records of the log that were durable when the coordinator was closed.
    closed_at: AtomicU64,
    /// All of this epoch's transactions before this one have ended, except those that hold back
    /// `ended_below` of [some](HeldBack) participants. 0: transactions of earlier epochs have not
    /// ended. Written under the lock, and read with each message. A message may carry a smaller
    /// number, never a larger one.
    ended_below: CachePadded<AtomicU64>,
    /// Number of records of the log that are durable, at least. Written and read as `ended_below`
    /// is.
    position: CachePadded<AtomicU64>,
    pub(in crate::txn) table: CachePadded<Mutex<Table>>,
    settled: Condvar,
}

/// A transaction's handle to its coordinator. Striped, so that threads do not contend on one
/// reference count.
pub(in crate::txn) type CoreHandle = Arc<CachePadded<Arc<CoordinatorCore>>>;

/// All handles of a coordinator.
pub(in crate::txn) struct CoreHandles(Striped<CoreHandle>);

impl CoreHandles {
    pub(in crate::txn) fn new(core: &Arc<CoordinatorCore>) -> Self {
        Self(Striped::new(|| Arc::new(CachePadded::new(Arc::clone(core)))))
    }

    /// Returns the handle of the calling thread's stripe.
    #[inline]
    pub(in crate::txn) fn own(&self) -> CoreHandle {
        Arc::clone(self.0.own())
    }
}

/// The table of what has begun and has not ended.
pub(in crate::txn) struct Table {
    pub(in crate::txn) transactions: OpenTransactions,
    /// Transactions that have ended, with ends that are not in the log yet.
    unwritten: Vec<TxnOrdinal>,
    /// Number of threads that write ends, or are about to.
    writing: usize,
    /// Transactions that only some participants have to remember.
    pub(in crate::txn) parked: ParkedTable,
    /// State of the search for expired transactions.
    pub(in crate::txn) expiry: Expiry,
    /// Transactions that a thread or task waits for in [`CoordinatorCore::settle`].
    awaited: Vec<TxnKey>,
    /// Tasks that wait until the coordinator is settled.
    sleepers: Vec<Arc<Sleeper>>,
    /// Participants that have not yet said which branches they hold of earlier epochs, with the
    /// query that asks them.
    pub(in crate::txn) in_doubt_queries: BTreeMap<Name, Arc<InDoubtQuery>>,
    /// The participants that retire, by their numbers.
    retiring: BTreeMap<usize, Retirement>,
    /// Whether a participant has gone without saying what it holds.
    left_unreported: bool,
    /// Whether a last resource may have forgotten transactions of earlier epochs, because all
    /// participants that were there had said what they hold.
    pub(in crate::txn) last_resources_forget: bool,
    /// Whether the coordinator is gone. Then nothing more is taken in.
    pub(in crate::txn) abandoned: bool,
}

/// A transaction number that was given out, and is not in the table yet. If the thread that has it
/// panics, the drop frees its place: otherwise later transactions would count as open forever.
struct GivenNumber<'a> {
    core: &'a CoordinatorCore,
    sequence: u64,
}

impl GivenNumber<'_> {
    fn begins(self, table: &mut Table, driver: Option<Arc<TransactionDriver>>) {
        if !table.abandoned {
            table.transactions.begin(self.sequence, driver);
        }
        mem::forget(self);
    }
}

impl Drop for GivenNumber<'_> {
    fn drop(&mut self) {
        self.core.table.lock().transactions.begin(self.sequence, None);
    }
}

impl CoordinatorCore {
    pub(in crate::txn) fn new(
        name: Name,
        (life, openings): (Life, Openings),
        log: Arc<dyn TransactionLog>,
        policy: Policy,
        limits: Limits,
        members: BTreeMap<Name, Member>,
        platform: Platform,
    ) -> Arc<Self> {
        let (opening, epoch) = (log.opening(), life.epoch);
        let settings = Settings { undelivered: limits.undelivered.max(1), policy };
        let table = Table {
            transactions: OpenTransactions::new(epoch),
            unwritten: Vec::new(),
            writing: 0,
            parked: ParkedTable::default(),
            expiry: Expiry::default(),
            awaited: Vec::new(),
            sleepers: Vec::new(),
            in_doubt_queries: BTreeMap::new(),
            retiring: BTreeMap::new(),
            left_unreported: false,
            last_resources_forget: false,
            abandoned: false,
        };
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            name,
            epoch,
            log,
            opening,
            life,
            openings,
            unclaimed: Unclaimed::default(),
            policy,
            scheduler: Arc::new(Scheduler::new(platform.clone())),
            settings,
            recovery: OnceLock::new(),
            admission: Admission::new(limits, &platform),
            is_gone: AtomicBool::new(false),
            taken: OnceLock::new(),
            loss_watch: LossWatch::new(Weak::clone(this)),
            closed_at: AtomicU64::new(0),
            ended_below: CachePadded::default(),
            position: CachePadded::new(AtomicU64::new(life.position)),
            table: CachePadded::new(Mutex::new(table)),
            settled: platform.condvar(),
            members: Members::new(members, settings, &platform),
            platform,
        })
    }

    /// Begins a transaction. It counts as open from here on, until it has ended. A transaction that
    /// was not admitted is over at once.
    pub(in crate::txn) fn begin(
        self: &Arc<Self>,
        handle: CoreHandle,
        timeout: Duration,
        admitted: bool,
    ) -> Arc<TransactionDriver> {
        let now = self.platform.now();
        let expires = after(now, timeout);
        // As much as possible before the lock. Its number counts as open before it is in the table.
        let number = GivenNumber { core: self, sequence: self.admission.next_sequence() };
        let txn = TxnId::new(self.name.clone(), self.epoch, number.sequence);
        let driver = TransactionDriver::begun(handle, txn, now, expires, admitted);
        let durable = self.log.durable();
        let mut table = self.table.lock();
        number.begins(&mut table, admitted.then(|| Arc::clone(&driver)));
        if admitted {
            self.will_expire(&mut table, timeout, expires);
        }
        self.note_ended(&mut table, durable);
        drop(table);
        // A shutdown closes first, and then rolls back what is in the table. A transaction that was
        // admitted before and enters the table after that finds the coordinator closed, and rolls
        // back here.
        if self.admission.is_closed() && admitted && driver.take_from_client() {
            driver.push(if self.is_fenced() { Input::Fenced } else { Input::Rollback });
            Arc::clone(&driver).run(Runner::Caller);
        }
        driver
    }

    /// Adds a transaction of an earlier life. `owed` have not acknowledged it; no other participant
    /// is told of it any more.
    pub(in crate::txn) fn resumed(&self, driver: Arc<TransactionDriver>, owed: Vec<Name>) {
        let mut table = self.table.lock();
        if table.abandoned {
            drop(table);
            return driver.abandon();
        }
        table.are_needed_by(self, driver.key(), &owed);
        let changed = table.parked.put(driver, owed, false);
        self.hold_back(&mut table, &changed);
    }

    /// Notes that from here on only `owed`, which have not acknowledged the transaction, need to
    /// remember it. If it is parked, it waits for an operator.
    pub(in crate::txn) fn keep_parked(
        self: &Arc<Self>,
        driver: Arc<TransactionDriver>,
        owed: Vec<Name>,
        is_parked: bool,
        end: EndRecord,
    ) {
        let mut table = self.table.lock();
        if table.abandoned {
            return;
        }
        let key = driver.key();
        let changed = table.parked.put(Arc::clone(&driver), owed, is_parked);
        self.hold_back(&mut table, &changed);
        let taken = self.take(&mut table, key, end);
        if is_parked && taken.is_none() {
            self.tell_awaited(&table, key);
        }
        self.note_ended(&mut table, Lsn::NONE);
        let is_any_retiring = !table.retiring.is_empty();
        drop(table);
        drop(taken);
        if is_any_retiring {
            self.may_let_go(&driver);
        }
    }

    /// Notes that the transaction no longer waits for an operator.
    pub(in crate::txn) fn unpark(&self, key: TxnKey) {
        self.table.lock().parked.unpark(key);
    }

    /// Delivers the transaction's decision again, if it is parked.
    pub(in crate::txn) fn retry(self: &Arc<Self>, driver: &Arc<TransactionDriver>) {
        if let TransactionState::Parked(_) = driver.state_to_come() {
            self.retry_now(driver);
        }
    }

    pub(in crate::txn) fn retry_now(self: &Arc<Self>, driver: &Arc<TransactionDriver>) {
        if driver.is_active() {
            return; // its client is still at work, and nothing is decided that could be delivered
        }
        self.unpark(driver.key());
        driver.push(Input::Retry);
        // On a worker, because a participant that hangs must not block the caller.
        self.scheduler.enqueue(Arc::clone(driver) as Arc<dyn Runnable>);
        driver
            .owing()
            .into_iter()
            .filter_map(|name| self.members.find(name.as_str()))
            .for_each(|number| self.probe_now(number));
    }

    /// Gives an operator's input to those drivers of a transaction that `may` allows it for.
    pub(in crate::txn) fn act(
        &self,
        txn: &TxnId,
        input: Input,
        may: impl Fn(TransactionState) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        let mut result = Err(OperatorError::Unknown { txn: txn.clone() });
        if txn.coordinator() != &self.name {
            return result;
        }
        for driver in self.drivers_of(txn.ordinal()) {
            match may(driver.state_to_come()) {
                Ok(()) => {
                    driver.push(input);
                    (driver as Arc<dyn Runnable>).run(Runner::Caller);
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
    /// [appending](TransactionDriver::is_appending).
    pub(in crate::txn) fn append(&self, fact: Fact, durability: Durability) -> Result<Lsn, LogError> {
        if self.is_gone() {
            return Err(self.log_is_left());
        }
        let lsn = self.log.append(Record { owner: self.name.clone(), fact }, durability)?;
        if durability == Durability::Forced {
            self.admission.forced(lsn);
        }
        Ok(lsn)
    }

    /// Whether the coordinator is gone.
    pub(in crate::txn) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::SeqCst)
    }

    /// Takes a transaction out of the table of open ones.
    fn take(&self, table: &mut Table, key: TxnKey, end: EndRecord) -> Option<Arc<TransactionDriver>> {
        let driver = table.transactions.take(key, end)?;
        self.tell_awaited(table, key);
        Some(driver)
    }

    fn tell_awaited(&self, table: &Table, key: TxnKey) {
        if table.awaited.contains(&key) {
            self.wake_settling(table);
        }
    }

    /// Sets what holds back `ended_below` of these participants.
    pub(in crate::txn) fn hold_back(&self, table: &mut Table, participants: &[Name]) {
        for participant in participants {
            let Some(number) = self.members.find(participant.as_str()) else { continue };
            let slot = &self.members[number];
            // While the participant has not said what it holds of earlier epochs, it may have to be
            // told of any of them.
            let is_unknown = table.in_doubt_queries.contains_key(participant)
                // A last resource may be asked about any branch that is reported yet.
                || slot.is_last_resource && (!table.in_doubt_queries.is_empty() || table.left_unreported);
            table.last_resources_forget |= slot.remembers && !is_unknown;
            let unknown = is_unknown.then(TxnOrdinal::default);
            slot.held.set(unknown.or_else(|| table.parked.first_held_for(participant)));
        }
    }

    pub(in crate::txn) fn in_doubt_query_begins(&self, participant: Name, query: Arc<InDoubtQuery>) {
        let mut table = self.table.lock();
        table.in_doubt_queries.insert(participant.clone(), query);
        self.hold_back(&mut table, &[participant]);
        self.hold_back_last_resources(&mut table);
    }

    pub(in crate::txn) fn in_doubt_query_ends(self: &Arc<Self>, participant: &Name, number: usize) {
        let mut table = self.table.lock();
        // The participant may be gone, and another query may ask the next one of this name.
        if table.in_doubt_queries.get(participant).is_none_or(|query| query.number() != number) {
            return;
        }
        let query = table.in_doubt_queries.remove(participant);
        self.hold_back(&mut table, std::slice::from_ref(participant));
        if table.in_doubt_queries.is_empty() {
            self.hold_back_last_resources(&mut table);
        }
        self.have_released(&table, number);
        self.wake_settling(&table);
        drop(table);
        drop(query);
    }

    /// Rolls back the transactions under which clients still work. Workers carry that out.
    pub(in crate::txn) fn roll_back_begun(&self) {
        let mut begun = self.drivers();
        begun.retain(|driver| driver.take_from_client());
        for driver in begun {
            driver.push(Input::Rollback);
            self.scheduler.enqueue(driver as Arc<dyn Runnable>);
        }
    }

    /// Ends a transaction that none of its log's openings has given out, with the operator's
    /// decision. Blocks for one write of the log for a commit.
    pub(in crate::txn) fn settle_unclaimed(
        self: &Arc<Self>,
        txn: &TxnId,
        decision: Decision,
    ) -> Result<(), OperatorError> {
        let holders = self.unclaimed.take(txn);
        if holders.is_empty() {
            return Err(OperatorError::Unknown { txn: txn.clone() });
        }
        if decision == Decision::Commit {
            // As for its own decisions: a later life must not undo it.
            let decided = Fact::Decided { txn: txn.clone(), participants: holders.clone() };
            let logged = self.append(decided, Durability::Forced).and_then(|lsn| self.log.wait(lsn));
            if let Err(error) = logged {
                self.hear_of_log(&error);
                let now = self.platform.now();
                holders.iter().for_each(|holder| self.unclaimed.report(&txn.branch(holder), now));
                return Err(OperatorError::Log { txn: txn.clone(), error });
            }
        }
        let now = self.platform.now();
        let memory = Remembered { owed: holders.clone(), ..Remembered::of(decision) };
        let protocol = memory.resume(txn.clone(), self.policy, now);
        let driver = TransactionDriver::resumed(Arc::clone(self), protocol, TxnKey::of(txn.ordinal()), now);
        self.resumed(Arc::clone(&driver), holders);
        driver.run(Runner::Caller);
        Ok(())
    }

    /// Returns the first number that has not been given out.
    pub(in crate::txn) fn next_ordinal(&self) -> TxnOrdinal {
        TxnOrdinal { epoch: self.epoch, sequence: self.admission.last_sequence() + 1 }
    }

    /// Returns the open drivers of one transaction: its own, and those of branches that
    /// participants reported.
    pub(in crate::txn) fn drivers_of(&self, ordinal: TxnOrdinal) -> Vec<Arc<TransactionDriver>> {
        let table = self.table.lock();
        table.transactions.of(ordinal).chain(table.parked.of(ordinal)).map(Arc::clone).collect()
    }

    pub(in crate::txn) fn parked_drivers(&self) -> Vec<Arc<TransactionDriver>> {
        self.table.lock().parked.waiting().map(Arc::clone).collect()
    }

    /// Returns the drivers of all open transactions. O(n).
    pub(in crate::txn) fn drivers(&self) -> Vec<Arc<TransactionDriver>> {
        let mut all = Vec::new();
        self.look_at_open(|driver| all.push(Arc::clone(driver)));
        // A transaction that was parked meanwhile is there twice.
        let parked: Vec<_> = self.table.lock().parked.drivers().map(Arc::clone).collect();
        let keys: HashSet<TxnKey> = parked.iter().map(|driver| driver.key()).collect();
        all.retain(|driver| !keys.contains(&driver.key()));
        all.extend(parked);
        all
    }

    /// Returns the queries of participants that have not said yet what they hold of earlier epochs.
    pub(in crate::txn) fn in_doubt_queries(&self) -> Vec<Arc<InDoubtQuery>> {
        self.table.lock().in_doubt_queries.values().map(Arc::clone).collect()
    }

    fn running_drivers(&self) -> Vec<Arc<TransactionDriver>> {
        let mut running = Vec::new();
        self.look_at_open(|driver| {
            if !driver.is_owned_by_client() {
                running.push(Arc::clone(driver));
            }
        });
        running.extend(self.table.lock().parked.running().map(Arc::clone));
        running
    }
}

impl Table {
    /// Returns the transactions that neither a client nor an operator has to act on.
    fn running(&self) -> impl Iterator<Item = &Arc<TransactionDriver>> {
        self.transactions.iter().filter(|driver| !driver.is_owned_by_client()).chain(self.parked.running())
    }
}

impl Sweep for CoordinatorCore {
    fn sweep(&self) {
        self.still_holds_log();
        if self.is_gone() {
            return;
        }
        let durable = self.log.durable();
        for driver in self.running_drivers() {
            driver.nudge(durable);
        }
        let (unwritten, is_any_retiring) = {
            let mut table = self.table.lock();
            (table.unwritten_ends(), !table.retiring.is_empty())
        };
        self.write(unwritten);
        if is_any_retiring && let Some(this) = self.this.upgrade() {
            this.look_at_retiring();
        }
        if METERED {
            observe::gauges(self.name.as_str(), &self.status());
        }
    }
}

/// The timer of the transaction that expires first.
impl Runnable for CoordinatorCore {
    fn run(self: Arc<Self>, _: Runner) {
        self.roll_back_expired();
    }
}
