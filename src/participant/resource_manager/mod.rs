//! [`ResourceManager`]: makes a durable participant of a service's try, confirm and cancel.
//!
//! The decisions are [`BranchProtocol`](super::BranchProtocol)'s. Here is what clients call; `deliver` is what
//! coordinators call, `replay` what happens at opening, `checkpoint` and `branches` what is forgotten and when.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{BranchInput, BranchPhase, Effort, Service, ServiceError};
use crate::{
    error_chain,
    id::{BranchId, MAX_NAME_BYTES, Name},
    log::{Claim, Durability, Fact, LogError, LogId, Lsn, MAX_RECORD_BYTES, Record, TransactionLog},
    platform::Platform,
};

mod abandoned;
mod branches;
mod checkpoint;
mod deliver;
mod error;
mod in_doubt;
mod replay;
mod slots;

pub use abandoned::DEFAULT_ABANDON_AFTER;
use abandoned::Generations;
pub use branches::MAX_REMEMBERED_OUTCOMES;
use branches::{Admission, Branches, Slot};
pub use error::{BranchRefusal, BranchTrouble, ExecuteError, OpenError};
pub use in_doubt::InDoubtResolution;

/// After how many commits a checkpoint is taken, unless the options say otherwise. Long enough that a service which
/// writes its whole state down does so rarely, short enough that a restart has little to confirm again.
pub const DEFAULT_CHECKPOINT_EVERY: usize = 1024;

/// Maximum encoded length of a branch's work, in bytes: a log record less room for its head.
pub const MAX_WORK_BYTES: usize = MAX_RECORD_BYTES - RECORD_HEAD_BYTES;

/// Room for all else that a record with work holds: two names with their lengths, the transaction's epoch and number, the
/// length of the work and how many pieces it has, and three tags. Rounded up, so that a field more does not change the limit.
const RECORD_HEAD_BYTES: usize = 256;
const _: () = assert!(2 * (1 + MAX_NAME_BYTES) + 4 * 10 + 3 <= RECORD_HEAD_BYTES, "the head has room");

/// Turns a [`Service`] into a durable [`Participant`](super::Participant).
///
/// Clients do their work through [`execute`](Self::execute), under a branch id that a transaction gave them; the
/// coordinator does the rest. With the coordinator's own log it needs no forced writes of its own; with another one
/// it forces two, its promise and its commit.
///
/// ```
/// use std::{collections::BTreeMap, sync::Arc};
/// use parking_lot::Mutex;
/// use ringpact::{BranchId, Coordinator, MemoryLog, ResourceManager, Service};
///
/// /// Ten pieces of one article: who has set some aside, and who has bought some. By branch, so that what is
/// /// confirmed or cancelled twice, or after a restart, comes to the same.
/// #[derive(Default)]
/// struct Stock(Mutex<Pieces>);
///
/// #[derive(Default)]
/// struct Pieces { set_aside: BTreeMap<BranchId, u32>, sold: BTreeMap<BranchId, u32> }
///
/// impl Pieces {
///     fn free(&self) -> u32 { 10 - self.set_aside.values().chain(self.sold.values()).sum::<u32>() }
/// }
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
///     fn try_reserve(&self, branch: &BranchId, wanted: &u32) -> Result<(), SoldOut> {
///         let mut pieces = self.0.lock();
///         if pieces.free() < *wanted {
///             return Err(SoldOut);
///         }
///         *pieces.set_aside.entry(branch.clone()).or_default() += wanted;
///         Ok(())
///     }
///     fn confirm(&self, branch: &BranchId, wanted: &[u32]) -> Result<(), ringpact::ServiceError> {
///         let mut pieces = self.0.lock();
///         pieces.set_aside.remove(branch);
///         pieces.sold.insert(branch.clone(), wanted.iter().sum());
///         Ok(())
///     }
///     fn cancel(&self, branch: &BranchId, _: &[u32]) -> Result<(), ringpact::ServiceError> {
///         self.0.lock().set_aside.remove(branch);
///         Ok(())
///     }
/// }
///
/// let log = Arc::new(MemoryLog::new());
/// let goods = Arc::new(ResourceManager::open("goods", log.clone(), Stock::default())?);
/// let coordinator = Coordinator::builder(log).participant("goods", goods.clone()).open()?;
///
/// let mut txn = coordinator.begin();
/// goods.execute(txn.branch("goods")?, 3)?;
/// txn.commit().wait()?;
/// assert_eq!(goods.service().0.lock().free(), 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ResourceManager<S: Service> {
    name: Name,
    log: Arc<dyn TransactionLog>,
    /// Which opening of the log that is.
    opening: LogId,
    service: S,
    options: ResourceManagerOptions,
    branches: Mutex<Branches<S::Work>>,
    /// Carried out since the last checkpoint.
    commits: AtomicUsize,
    generations: Generations,
    /// Held while a checkpoint is taken, so that there is one at a time.
    checkpoint: Mutex<()>,
    _claim: Claim,
}

/// How a [`ResourceManager`] is to behave; see [`ResourceManager::options`].
#[derive(Clone, Debug)]
pub struct ResourceManagerOptions {
    checkpoint_every: usize,
    abandon_after: Duration,
    platform: Platform,
}

impl Default for ResourceManagerOptions {
    fn default() -> Self {
        Self {
            checkpoint_every: DEFAULT_CHECKPOINT_EVERY,
            abandon_after: DEFAULT_ABANDON_AFTER,
            platform: Platform::default(),
        }
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

    /// Rolls back a branch that has promised nothing once nothing was done under it for this long, or for up to half as long
    /// again. Its coordinator is gone for good, or the id was never given out: nothing else would ever give back what the
    /// branch has set aside. Make it longer than the longest time-out of a transaction; a branch whose transaction
    /// is still open then votes No. Looked at when the service refuses work, and now and then.
    #[must_use]
    pub const fn abandon_after(mut self, idle: Duration) -> Self {
        self.abandon_after = idle;
        self
    }

    /// Has it live on other threads and another clock than the system's.
    #[doc(hidden)]
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
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
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ResourceManagerStatus {
    /// Work was done, nothing promised.
    pub active: usize,
    /// Promised, decision awaited.
    pub prepared: usize,
    /// Told to commit or roll back; the service has not managed to yet, or is just at it.
    pub settling: usize,
    /// Finished, and remembered until the coordinator says that the transaction has ended.
    pub finished: usize,
    /// Branches that could not be taken back when it was opened. They are counted above, too.
    pub troubled: Vec<BranchTrouble>,
    /// What went wrong at the last checkpoint, where something did.
    pub last_checkpoint_error: Option<Arc<str>>,
}

impl<S: Service> ResourceManager<S> {
    /// Opens the resource manager `name` on `log`, and brings the service to where the log says it is: what was
    /// committed is confirmed again, what was promised is restored.
    ///
    /// The name is the one under which the coordinator knows it, and must be the same at every opening. No two of one name
    /// can be open on one log, for each would end what the other has promised.
    ///
    /// A branch that the service can't take back does not keep the others from opening: [`status`](Self::status) tells
    /// of it, nothing of it is dropped, and it is tried again at each checkpoint and when its coordinator calls.
    ///
    /// # Errors
    /// [`OpenError`]: the name, the log, or the service's [`opened`](Service::opened); of a name that is open on it already, [`LogError::Claimed`].
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
        let claim = log.claim(&name)?;
        let records = log.live(&name)?;
        let slots = replay::replay(&name, &records, &service);
        #[cfg(feature = "tracing")]
        for trouble in slots.values().filter_map(|slot| slot.trouble.as_ref()) {
            tracing::warn!(participant = %name, error = %trouble, "a branch could not be taken back");
        }
        replay::opened(&name, &slots, &service)?;
        let mut branches = Branches::found(slots);
        replay::remember_lives(&records, &mut branches);
        for txn in replay::needless_notes(&records) {
            // What it was noted for, or its end, was cut off by a crash. A log without room is told at the next opening.
            let _ = log.append(Record { owner: name.clone(), fact: Fact::Ended { txn } }, Durability::Lazy);
        }
        let generations = Generations::new(options.abandon_after, options.platform.now());
        let (branches, commits, opening) = (Mutex::new(branches), AtomicUsize::new(0), log.opening());
        Ok(Self {
            name,
            log,
            opening,
            service,
            options,
            branches,
            commits,
            generations,
            checkpoint: Mutex::new(()),
            _claim: claim,
        })
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
    /// [`ExecuteError::Refused`] carries the service's refusal, and dooms the transaction. So do
    /// [`ExecuteError::TooMuchWork`], past [`MAX_WORK_BYTES`] of work that changes anything, and
    /// [`ExecuteError::Unencodable`]: the service is not asked.
    /// [`ExecuteError::Closed`] says that the branch has already been asked to prepare, or is over; or that it was to be
    /// rolled back while the service was at this very work, which is undone then. [`ExecuteError::UnknownEpoch`] says that its
    /// coordinator has not said yet that it is in that epoch.
    pub fn execute(&self, branch: &BranchId, work: S::Work) -> Result<(), ExecuteError<S::Refusal>> {
        if branch.participant() != &self.name {
            return Err(ExecuteError::Misrouted { branch: branch.clone(), participant: self.name.clone() });
        }
        let closed = || ExecuteError::Closed { branch: branch.clone() };
        let mut branches = self.branches.lock();
        let admission = branches.admit(branch.txn());
        if let Admission::UnknownLife { .. } = admission {
            branches.refuse(branch.txn());
        }
        drop(branches);
        let place = match admission {
            Admission::Open(place) => place,
            Admission::Ended | Admission::EarlierLife => return Err(closed()),
            Admission::UnknownLife { known } => {
                return Err(ExecuteError::UnknownEpoch { branch: branch.clone(), known });
            }
        };
        if self.generations.admits() {
            self.roll_back_abandoned();
        }
        let mut slot = place.lock();
        if place.is_doomed() || !slot.protocol.accepts_work() {
            return Err(closed());
        }
        slot.worked_in = self.generations.current();
        let effort = self.service.effort(&work);
        let length = match fits(branch, &slot, effort, &work) {
            Ok(length) => length,
            Err(error) => {
                slot.protocol.handle(BranchInput::Refused);
                slot.refuse(|| BranchRefusal::Work { reason: error_chain(&error).into() });
                return Err(error);
            }
        };
        // What a refusal says is the service's code, too. The client is given the refusal itself, the coordinator its text.
        let result = catch_unwind(AssertUnwindSafe(|| {
            self.service.try_reserve(branch, &work).map_err(|refusal| (error_chain(&refusal), refusal))
        }));
        match result {
            Ok(Ok(())) => {
                slot.works.push(work);
                slot.work_bytes = length;
                slot.protocol.handle(BranchInput::Worked(effort));
                if place.is_doomed() {
                    self.roll_back_doomed(branch, &mut slot);
                    return Err(closed());
                }
                Ok(())
            }
            Ok(Err((reason, refusal))) => {
                slot.protocol.handle(BranchInput::Refused);
                slot.refuse(|| BranchRefusal::Work { reason: reason.into() });
                drop(slot);
                // What it was refused for may have been set aside for nothing; the next one finds it free.
                self.roll_back_abandoned();
                Err(ExecuteError::Refused(refusal))
            }
            // How far the try came is not known, so the rollback that must follow cancels this work as well.
            Err(panic) => {
                slot.works.push(work);
                slot.protocol.handle(BranchInput::Worked(effort));
                slot.protocol.handle(BranchInput::Refused);
                slot.refuse(|| BranchRefusal::Panicked);
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
            (
                branches.all().map(|(.., slot)| Arc::clone(slot)).collect::<Vec<_>>(),
                branches.last_checkpoint_error.clone(),
            )
        };
        let mut status = ResourceManagerStatus { last_checkpoint_error, ..ResourceManagerStatus::default() };
        for slot in slots {
            let Some(slot) = slot.try_lock() else {
                // The service is at it. It may hang, and this must not.
                status.settling += 1;
                continue;
            };
            status.troubled.extend(slot.trouble.clone());
            *match slot.protocol.phase() {
                BranchPhase::Unknown | BranchPhase::Active { .. } => &mut status.active,
                BranchPhase::Preparing { .. } | BranchPhase::Prepared => &mut status.prepared,
                BranchPhase::Committed | BranchPhase::RolledBack | BranchPhase::ReadOnly => &mut status.finished,
                _ => &mut status.settling,
            } += 1;
        }
        status
    }

    fn append(&self, fact: Fact, durability: Durability) -> Result<Lsn, LogError> {
        self.log.append(Record { owner: self.name.clone(), fact }, durability)
    }
}

/// Encoded length of the branch's work with this piece, which must fit into a record if anything is to be written of it.
fn fits<W: Serialize, R>(
    branch: &BranchId,
    slot: &Slot<W>,
    effort: Effort,
    work: &W,
) -> Result<usize, ExecuteError<R>> {
    let piece = postcard::experimental::serialized_size(work)
        .map_err(|error| ExecuteError::Unencodable { branch: branch.clone(), error: Arc::new(error) })?;
    let length = slot.work_bytes.saturating_add(piece);
    let changes =
        effort == Effort::Update || matches!(slot.protocol.phase(), BranchPhase::Active { effort: Effort::Update, .. });
    if length > MAX_WORK_BYTES && changes {
        return Err(ExecuteError::TooMuchWork { branch: branch.clone(), length, limit: MAX_WORK_BYTES });
    }
    Ok(length)
}
