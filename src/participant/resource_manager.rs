//! [`ResourceManager`]: makes a durable participant of a service's try, confirm and cancel.
//!
//! The decisions are [`BranchProtocol`]'s; this file carries them out.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use thiserror::Error;

use super::{
    Branch, BranchAction, BranchInput, BranchProtocol, BranchReply, Call, Decision, Participant, ParticipantError,
    Service, ServiceError, Vote,
    branch_protocol::{CommitVerb, Gate},
};
use crate::{
    id::{BranchId, IdError, Mark, Name, TxnId},
    log::{Durability, Fact, LogError, LogId, Lsn, Record, TransactionLog},
};

/// After how many commits a checkpoint is taken, unless the options say otherwise. Long enough that a service which
/// writes its whole state down does so rarely, short enough that a restart has little to confirm again.
pub const DEFAULT_CHECKPOINT_EVERY: usize = 1024;

/// How many outcomes are remembered at the most for coordinators that don't say they have ended. Past it the oldest
/// are forgotten, and a commit that is re-delivered for one of them is answered by
/// [`ParticipantError::UnknownBranch`]. It bounds memory and log under a transaction that never ends.
pub const MAX_REMEMBERED_OUTCOMES: usize = 1 << 16;

/// Turns a [`Service`] into a durable [`Participant`].
///
/// Clients do their work through [`execute`](Self::execute), under a branch id that a transaction gave them; the
/// coordinator does the rest. With the coordinator's own log it needs no forced writes of its own; with another one
/// it forces two, its promise and its commit.
///
/// ```
/// use std::sync::Arc;
/// use parking_lot::Mutex;
/// use ringpact::{BranchId, Coordinator, MemoryLog, ResourceManager, Service};
///
/// /// Free and sold pieces of one article.
/// struct Stock { free: Mutex<u32>, sold: Mutex<std::collections::BTreeMap<BranchId, u32>> }
///
/// #[derive(Debug)]
/// struct SoldOut;
/// # impl std::fmt::Display for SoldOut {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("sold out") }
/// # }
/// impl std::error::Error for SoldOut {}
///
/// impl Service for Stock {
///     type Work = u32;
///     type Refusal = SoldOut;
///     fn try_reserve(&self, _: &BranchId, pieces: &u32) -> Result<(), SoldOut> {
///         let mut free = self.free.lock();
///         *free = free.checked_sub(*pieces).ok_or(SoldOut)?;
///         Ok(())
///     }
///     fn confirm(&self, branch: &BranchId, pieces: &[u32]) -> Result<(), ringpact::ServiceError> {
///         self.sold.lock().insert(branch.clone(), pieces.iter().sum());
///         Ok(())
///     }
///     fn cancel(&self, _: &BranchId, pieces: &[u32]) -> Result<(), ringpact::ServiceError> {
///         *self.free.lock() += pieces.iter().sum::<u32>();
///         Ok(())
///     }
/// }
///
/// let log = Arc::new(MemoryLog::new());
/// let stock = Stock { free: Mutex::new(10), sold: Mutex::default() };
/// let goods = Arc::new(ResourceManager::open("goods", log.clone(), stock)?);
/// let coordinator = Coordinator::builder(log).participant("goods", goods.clone()).open()?;
///
/// let mut txn = coordinator.begin();
/// goods.execute(txn.branch("goods")?, 3)?;
/// txn.commit().wait()?;
/// assert_eq!(*goods.service().free.lock(), 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ResourceManager<S: Service> {
    name: Name,
    log: Arc<dyn TransactionLog>,
    service: S,
    options: ResourceManagerOptions,
    branches: Mutex<Branches<S::Work>>,
    /// Held while a checkpoint is taken, so that there is one at a time.
    checkpoint: Mutex<()>,
}

/// All branches that are remembered. Its lock is never held while the service or the log is called.
struct Branches<W> {
    slots: HashMap<TxnId, Arc<Mutex<Slot<W>>>>,
    ended_below: HashMap<Name, Mark>,
    /// Commits carried out since the last checkpoint.
    commits: usize,
    /// Slots there were left after the last sweep; the next one comes when there are twice as many.
    swept_to: usize,
    last_checkpoint_error: Option<Arc<str>>,
}

/// One branch. Its lock is held while the service and the log are called for this branch, and so is what makes the
/// calls for one branch come one after the other.
struct Slot<W> {
    protocol: BranchProtocol,
    works: Vec<W>,
}

impl<W> Default for Slot<W> {
    fn default() -> Self {
        Self { protocol: BranchProtocol::new(), works: Vec::new() }
    }
}

/// How a [`ResourceManager`] is to behave; see [`ResourceManager::options`].
#[derive(Clone, Copy, Debug)]
pub struct ResourceManagerOptions {
    checkpoint_every: usize,
}

impl Default for ResourceManagerOptions {
    fn default() -> Self {
        Self { checkpoint_every: DEFAULT_CHECKPOINT_EVERY }
    }
}

impl ResourceManagerOptions {
    /// Takes a checkpoint after every so many commits, 1 at the least. More of them make each commit dearer (the
    /// service writes its state down), fewer make a restart longer (more is confirmed again).
    #[must_use]
    pub const fn checkpoint_every(mut self, commits: usize) -> Self {
        self.checkpoint_every = if commits == 0 { 1 } else { commits };
        self
    }

    /// Opens the resource manager; see [`ResourceManager::open`].
    ///
    /// # Errors
    /// As for [`ResourceManager::open`].
    pub fn open<S: Service>(
        self,
        name: &str,
        log: impl TransactionLog,
        service: S,
    ) -> Result<ResourceManager<S>, OpenError> {
        ResourceManager::open_with(self, name, Arc::new(log), service)
    }
}

/// How many branches are in which state; see [`ResourceManager::status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceManagerStatus {
    /// Work was done, nothing promised.
    pub active: usize,
    /// Promised, decision awaited.
    pub prepared: usize,
    /// Told to commit or roll back; the service has not managed to yet.
    pub settling: usize,
    /// Finished, and remembered until the coordinator says that the transaction has ended.
    pub finished: usize,
    /// What went wrong at the last checkpoint, where something did.
    pub last_checkpoint_error: Option<Arc<str>>,
}

impl<S: Service> ResourceManager<S> {
    /// Opens the resource manager `name` on `log`, and brings the service to where the log says it is: what was
    /// committed is confirmed again, what was promised is restored.
    ///
    /// The name is the one under which the coordinator knows it, and must be the same at every opening.
    ///
    /// # Errors
    /// [`OpenError`] says which record the service could not take; nothing is dropped.
    pub fn open(name: &str, log: impl TransactionLog, service: S) -> Result<Self, OpenError> {
        ResourceManagerOptions::default().open(name, log, service)
    }

    /// For opening with other options than the usual ones.
    #[must_use]
    pub fn options() -> ResourceManagerOptions {
        ResourceManagerOptions::default()
    }

    fn open_with(
        options: ResourceManagerOptions,
        name: &str,
        log: Arc<dyn TransactionLog>,
        service: S,
    ) -> Result<Self, OpenError> {
        let name = Name::new(name)?;
        let slots = replay(&name, &log.live(&name)?, &service)?;
        let branches = Branches {
            swept_to: slots.len(),
            slots: slots.into_iter().map(|(txn, slot)| (txn, Arc::new(Mutex::new(slot)))).collect(),
            ended_below: HashMap::new(),
            commits: 0,
            last_checkpoint_error: None,
        };
        Ok(Self { name, log, service, options, branches: Mutex::new(branches), checkpoint: Mutex::new(()) })
    }

    /// The service, for everything that is not part of a transaction.
    pub const fn service(&self) -> &S {
        &self.service
    }

    /// Its name.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Does a piece of work under a transaction's branch: the service's try. It takes effect when the transaction
    /// commits. O(1) beside what the service does.
    ///
    /// # Errors
    /// [`ExecuteError::Refused`] carries the service's refusal, and dooms the transaction.
    /// [`ExecuteError::Closed`] says that the branch has already been asked to prepare, or is over.
    pub fn execute(&self, branch: &BranchId, work: S::Work) -> Result<(), ExecuteError<S::Refusal>> {
        if branch.participant() != &self.name {
            return Err(ExecuteError::Misrouted { branch: branch.clone(), participant: self.name.clone() });
        }
        let closed = || ExecuteError::Closed { branch: branch.clone() };
        let slot = self.slot(branch.txn()).ok_or_else(closed)?;
        let mut slot = slot.lock();
        if !slot.protocol.accepts_work() {
            return Err(closed());
        }
        let effort = self.service.effort(&work);
        let result = catch_unwind(AssertUnwindSafe(|| self.service.try_reserve(branch, &work)));
        match result {
            Ok(Ok(())) => {
                slot.works.push(work);
                slot.protocol.handle(BranchInput::Worked(effort));
                Ok(())
            }
            Ok(Err(refusal)) => {
                slot.protocol.handle(BranchInput::Refused);
                Err(ExecuteError::Refused(refusal))
            }
            // How far the try came is not known, so the rollback that must follow cancels this work as well.
            Err(panic) => {
                slot.works.push(work);
                slot.protocol.handle(BranchInput::Worked(effort));
                slot.protocol.handle(BranchInput::Refused);
                drop(slot);
                resume_unwind(panic)
            }
        }
    }

    /// Takes a [checkpoint](Service::checkpoint) now, and lets the log forget what it covers. Called by itself every
    /// so many commits; call it before a planned shutdown to have nothing to repeat afterwards.
    ///
    /// # Errors
    /// The service's error, or the log's. Nothing is forgotten then.
    pub fn checkpoint(&self) -> Result<(), ServiceError> {
        self.take_checkpoint(&self.checkpoint.lock())
    }

    /// How many branches are in which state. O(n) in the branches remembered.
    pub fn status(&self) -> ResourceManagerStatus {
        let (slots, last_checkpoint_error) = {
            let branches = self.branches.lock();
            (branches.slots.values().cloned().collect::<Vec<_>>(), branches.last_checkpoint_error.clone())
        };
        let mut status = ResourceManagerStatus { last_checkpoint_error, ..ResourceManagerStatus::default() };
        for slot in slots {
            *match slot.lock().protocol.state() {
                Branch::Unknown | Branch::Active { .. } => &mut status.active,
                Branch::Preparing { .. } | Branch::Prepared => &mut status.prepared,
                Branch::Committed | Branch::RolledBack | Branch::ReadOnly => &mut status.finished,
                _ => &mut status.settling,
            } += 1;
        }
        status
    }

    fn take_checkpoint(&self, _one_at_a_time: &MutexGuard<'_, ()>) -> Result<(), ServiceError> {
        // Collected before the service is asked: a commit carried out meanwhile may not be in what it writes down.
        let forgettable = {
            let mut branches = self.branches.lock();
            branches.commits = 0;
            branches.forgettable()
        };
        let done = catch_unwind(AssertUnwindSafe(|| self.service.checkpoint()))
            .unwrap_or_else(|_| Err(ParticipantError::Panicked.into()))
            .and_then(|()| {
                for txn in &forgettable {
                    self.append(Fact::Ended { txn: txn.clone() }, Durability::Lazy)?;
                }
                Ok(())
            });
        let mut branches = self.branches.lock();
        branches.last_checkpoint_error = done.as_ref().err().map(|error| error.to_string().into());
        if done.is_ok() {
            for txn in &forgettable {
                branches.slots.remove(txn);
            }
        }
        done
    }

    fn append(&self, fact: Fact, durability: Durability) -> Result<Lsn, LogError> {
        self.log.append(Record { owner: self.name.clone(), fact }, durability)
    }

    fn gate(&self, decisions: LogId) -> Gate {
        if decisions == self.log.id() { Gate::SharedLog } else { Gate::OwnLog }
    }

    /// The branch's slot, made anew where there is none; `None` where the transaction is known to have ended.
    fn slot(&self, txn: &TxnId) -> Option<Arc<Mutex<Slot<S::Work>>>> {
        let mut branches = self.branches.lock();
        if let Some(slot) = branches.slots.get(txn) {
            return Some(Arc::clone(slot));
        }
        if branches.has_ended(txn) {
            return None;
        }
        let slot = Arc::<Mutex<Slot<S::Work>>>::default();
        branches.slots.insert(txn.clone(), Arc::clone(&slot));
        branches.sweep();
        Some(slot)
    }

    /// Puts a coordinator's message to the branch and carries out what follows from it, up to the reply.
    fn deliver(&self, branch: &BranchId, call: &Call, message: BranchInput) -> Result<BranchReply, ParticipantError> {
        if branch.participant() != &self.name {
            return Err(ParticipantError::Misrouted { branch: branch.clone(), participant: self.name.clone() });
        }
        self.branches.lock().learn(branch.txn().coordinator(), call.ended_below);
        let Some(slot) = self.slot(branch.txn()) else {
            // Nobody waits for this answer: the coordinator has ended the transaction.
            return Err(ParticipantError::Stale);
        };
        let mut guard = slot.lock();
        let before = guard.protocol.state();
        let result = self.carry_out(branch, &mut guard, message);
        let after = guard.protocol.state();
        if guard.protocol.is_finished() {
            guard.works = Vec::new();
        }
        drop(guard);
        if after == Branch::Unknown {
            self.branches.lock().discard_unknown(branch.txn(), &slot);
        }
        if after == Branch::Committed && before != Branch::Committed {
            self.checkpoint_if_due();
        }
        result
    }

    fn carry_out(
        &self,
        branch: &BranchId,
        slot: &mut Slot<S::Work>,
        message: BranchInput,
    ) -> Result<BranchReply, ParticipantError> {
        let mut input = message;
        let mut error = None;
        while let Some(action) = slot.protocol.handle(input) {
            let failed = match action {
                BranchAction::Reply(reply) => return answer(reply, error),
                BranchAction::AwaitDurable(lsn) => match self.log.wait(lsn) {
                    Ok(()) => {
                        input = BranchInput::Durable(lsn);
                        continue;
                    }
                    Err(failure) => (BranchInput::LogFailed, failure.into()),
                },
                BranchAction::Confirm => match guarded(|| self.service.confirm(branch, &slot.works)) {
                    Ok(()) => {
                        input = BranchInput::Confirmed;
                        continue;
                    }
                    Err(failure) => (BranchInput::Failed, failure),
                },
                BranchAction::Cancel => match guarded(|| self.service.cancel(branch, &slot.works)) {
                    Ok(()) => {
                        input = BranchInput::Cancelled;
                        continue;
                    }
                    Err(failure) => (BranchInput::Failed, failure),
                },
                append => match self.append_for(branch.txn(), &slot.works, append) {
                    Ok(lsn) => {
                        input = BranchInput::Appended(lsn);
                        continue;
                    }
                    Err(failure) => (BranchInput::AppendRefused, failure),
                },
            };
            input = failed.0;
            error = Some(failed.1);
        }
        Err(ParticipantError::Stale)
    }

    fn append_for(&self, txn: &TxnId, works: &[S::Work], action: BranchAction) -> Result<Lsn, ParticipantError> {
        let encoded = || postcard::to_stdvec(works).map_err(ParticipantError::resource);
        let txn = txn.clone();
        let (fact, durability) = match action {
            BranchAction::AppendPrepared(durability) => (Fact::Prepared { txn, work: encoded()? }, durability),
            BranchAction::AppendCommitted { verb: CommitVerb::OnePhase, durability } => {
                (Fact::Committed { txn, work: Some(encoded()?) }, durability)
            }
            BranchAction::AppendCommitted { verb: CommitVerb::SecondPhase, durability } => {
                (Fact::Committed { txn, work: None }, durability)
            }
            BranchAction::AppendEnded(durability) => (Fact::Ended { txn }, durability),
            _ => (Fact::Ended { txn }, Durability::Lazy),
        };
        Ok(self.append(fact, durability)?)
    }

    fn checkpoint_if_due(&self) {
        let due = {
            let mut branches = self.branches.lock();
            branches.commits += 1;
            branches.commits >= self.options.checkpoint_every
        };
        if due && let Some(guard) = self.checkpoint.try_lock() {
            // The commit that happens to be the n-th has succeeded whatever becomes of this; the error is kept for
            // `status`, nothing is forgotten, and the next n-th commit tries again.
            let _ = self.take_checkpoint(&guard);
        }
    }
}

impl<S: Service> Participant for ResourceManager<S> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        match self.deliver(branch, call, BranchInput::Prepare(self.gate(call.log)))? {
            BranchReply::Voted(vote) => Ok(vote),
            _ => Err(ParticipantError::Stale),
        }
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.deliver(branch, call, BranchInput::Commit(self.gate(call.log))).map(drop)
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.deliver(branch, call, BranchInput::Rollback(self.gate(call.log))).map(drop)
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.deliver(branch, call, BranchInput::CommitOnePhase)? {
            BranchReply::Decided(decision) => Ok(decision),
            _ => Err(ParticipantError::Stale),
        }
    }

    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let slots: Vec<_> = {
            let branches = self.branches.lock();
            let of = branches.slots.iter().filter(|(txn, _)| txn.coordinator() == coordinator);
            of.map(|(txn, slot)| (txn.clone(), Arc::clone(slot))).collect()
        };
        Ok(slots
            .into_iter()
            .filter(|(_, slot)| {
                let protocol = &slot.lock().protocol;
                !protocol.is_finished() && protocol.state() != Branch::Unknown
            })
            .map(|(txn, _)| txn.branch(&self.name))
            .collect())
    }
}

impl<W> Branches<W> {
    fn has_ended(&self, txn: &TxnId) -> bool {
        self.ended_below.get(txn.coordinator()).is_some_and(|mark| txn.mark() < *mark)
    }

    fn learn(&mut self, coordinator: &Name, ended_below: Mark) {
        match self.ended_below.get_mut(coordinator) {
            Some(known) => *known = ended_below.max(*known),
            None => {
                self.ended_below.insert(coordinator.clone(), ended_below);
            }
        }
    }

    /// Drops the tombstones that the coordinator's mark makes needless. Amortised O(1) for each new branch.
    fn sweep(&mut self) {
        const SMALLEST: usize = 1024;
        if self.slots.len() < SMALLEST.max(2 * self.swept_to) {
            return;
        }
        let ended_below = &self.ended_below;
        self.slots.retain(|txn, slot| {
            let needless = matches!(
                slot.try_lock().map(|slot| slot.protocol.state()),
                Some(Branch::RolledBack | Branch::ReadOnly)
            );
            !(needless && ended_below.get(txn.coordinator()).is_some_and(|mark| txn.mark() < *mark))
        });
        self.swept_to = self.slots.len();
    }

    /// A commit for a branch that nobody knows made an empty slot; it goes again unless somebody has come to use it.
    fn discard_unknown(&mut self, txn: &TxnId, slot: &Arc<Mutex<Slot<W>>>) {
        // Two hands hold an unused slot: this map and the caller. No third can come while this map is locked.
        if Arc::strong_count(slot) == 2 && slot.try_lock().is_some_and(|s| s.protocol.state() == Branch::Unknown) {
            self.slots.remove(txn);
        }
    }

    /// The committed branches that need not be remembered once the service has made them durable.
    fn forgettable(&self) -> Vec<TxnId> {
        let (mut ended, mut kept) = (Vec::new(), Vec::new());
        for (txn, slot) in &self.slots {
            if slot.try_lock().is_some_and(|slot| slot.protocol.state() == Branch::Committed) {
                if self.has_ended(txn) { ended.push(txn.clone()) } else { kept.push(txn.clone()) }
            }
        }
        if kept.len() > MAX_REMEMBERED_OUTCOMES {
            kept.sort_unstable_by_key(TxnId::mark);
            ended.extend(kept.drain(..kept.len() - MAX_REMEMBERED_OUTCOMES));
        }
        ended
    }
}

/// Brings the service to where the log says it is. Records come in the order in which they were written, and a commit
/// is written before the service is told, so what was possible then is possible now.
fn replay<S: Service>(
    name: &Name,
    records: &[Record],
    service: &S,
) -> Result<HashMap<TxnId, Slot<S::Work>>, OpenError> {
    let committed: HashSet<&TxnId> = records
        .iter()
        .filter_map(|record| match &record.fact {
            Fact::Committed { txn, .. } => Some(txn),
            _ => None,
        })
        .collect();
    let mut slots = HashMap::<TxnId, Slot<S::Work>>::new();
    for record in records {
        let Some(txn) = record.fact.txn() else { continue };
        let branch = txn.branch(name);
        let failed = |error| OpenError::Service { branch: branch.clone(), error };
        match &record.fact {
            Fact::Prepared { work, .. } => {
                let works = decode::<S>(&branch, work)?;
                if !committed.contains(txn) {
                    service.restore(&branch, &works).map_err(failed)?;
                }
                slots.insert(txn.clone(), Slot { protocol: BranchProtocol::recovered_prepared(), works });
            }
            Fact::Committed { work, .. } => {
                let works = match (work, slots.get_mut(txn)) {
                    (Some(work), _) => decode::<S>(&branch, work)?,
                    (None, Some(slot)) => std::mem::take(&mut slot.works),
                    (None, None) => return Err(OpenError::Incomplete { branch }),
                };
                let mut protocol = BranchProtocol::recovered_committed();
                service.confirm(&branch, &works).map_err(failed)?;
                protocol.handle(BranchInput::Confirmed);
                slots.insert(txn.clone(), Slot { protocol, works: Vec::new() });
            }
            Fact::Opened { .. } | Fact::Decided { .. } | Fact::Ended { .. } => {}
        }
    }
    Ok(slots)
}

fn decode<S: Service>(branch: &BranchId, work: &[u8]) -> Result<Vec<S::Work>, OpenError> {
    postcard::from_bytes(work).map_err(|error| OpenError::Work { branch: branch.clone(), error: error.into() })
}

/// Calls the service; a panic of its own is its failure, to be tried again.
fn guarded(call: impl FnOnce() -> Result<(), ServiceError>) -> Result<(), ParticipantError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(ParticipantError::resource),
        Err(_) => Err(ParticipantError::Panicked),
    }
}

/// Makes the protocol's reply the trait's answer; `error` is what went wrong on the way to it.
fn answer(reply: BranchReply, error: Option<ParticipantError>) -> Result<BranchReply, ParticipantError> {
    match reply {
        BranchReply::Voted(_) | BranchReply::Done | BranchReply::Decided(_) => Ok(reply),
        BranchReply::UnknownBranch => Err(ParticipantError::UnknownBranch),
        BranchReply::AlreadyRolledBack => Err(ParticipantError::AlreadyRolledBack),
        BranchReply::AlreadyCommitted => Err(ParticipantError::AlreadyCommitted),
        BranchReply::Stale => Err(ParticipantError::Stale),
        BranchReply::Failed | BranchReply::LogFailed => Err(error.unwrap_or(LogError::Closed.into())),
    }
}

/// Why a piece of work was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecuteError<R> {
    /// The service refused; the transaction can only be rolled back.
    #[error("{0}")]
    Refused(#[source] R),
    /// The branch takes no more work: it was asked to prepare, or is over.
    #[error("branch {branch} takes no more work: its transaction is being committed or is over; begin a new one")]
    Closed {
        /// The branch.
        branch: BranchId,
    },
    /// The branch names another participant.
    #[error("branch {branch} is not for participant {participant}; pass the id that the transaction gave for it")]
    Misrouted {
        /// The branch as it came.
        branch: BranchId,
        /// Who got it.
        participant: Name,
    },
}

/// Why a resource manager could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its name is not one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the log holds of a branch is not this service's work.
    #[error("the work of branch {branch} can't be read ({error}); open it with the service version that wrote it")]
    Work {
        /// The branch.
        branch: BranchId,
        /// What the decoder said.
        error: ServiceError,
    },
    /// The log says that a branch is committed, and not what that means.
    #[error("the log says that {branch} is committed but not with what work; it was not written by this library")]
    Incomplete {
        /// The branch.
        branch: BranchId,
    },
    /// The service could not take back what it had promised or done.
    #[error("the service could not restore or confirm branch {branch}: {error}; mend it and open again")]
    Service {
        /// The branch.
        branch: BranchId,
        /// What the service said.
        error: ServiceError,
    },
}
