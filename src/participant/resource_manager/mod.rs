//! [`ResourceManager`]: makes a durable participant of a service's try, confirm and cancel.
//!
//! [`BranchProtocol`](super::BranchProtocol) decides; this carries out what it decides.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | what clients call: opening, options, [`execute`](ResourceManager::execute), status |
//! | `deliver.rs` | what coordinators call |
//! | `entry.rs` | what is kept of one branch, behind its lock |
//! | `held_lock.rs` | a lock that knows which thread holds it |
//! | `branches.rs` | the table of branches, and which of them wait to be mended |
//! | `replay.rs` | opening: the service is brought to the state that the log holds |
//! | `mending.rs` | what could not be restored at opening is tried again |
//! | `checkpoint.rs` | checkpoints: what the log forgets |
//! | `in_doubt.rs` | what is asked of coordinators |
//! | `abandoned.rs` | branches that no coordinator ends |
//! | `error.rs` | errors, troubles, and reasons of a No |

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{BranchInput, BranchPhase, Effort, Service, ServiceError, branch_table::BranchLookup, wire::cut};
use crate::{
    error_chain,
    id::{BranchId, MAX_NAME_BYTES, Name},
    log::{Claim, Durability, Fact, LogError, LogId, Lsn, MAX_RECORD_BYTES, Record, Takeover, TransactionLog},
    platform::Platform,
};

mod abandoned;
mod branches;
mod checkpoint;
mod deliver;
mod entry;
mod error;
mod held_lock;
mod in_doubt;
mod mending;
mod replay;

pub use abandoned::DEFAULT_ABANDON_AFTER;
use abandoned::Generations;
use branches::Branches;
use entry::BranchEntry;
use error::CheckpointInside;
pub use error::{BranchRefusal, BranchTrouble, ExecuteError, OpenError};
use held_lock::HeldLock;
pub use in_doubt::InDoubtResolution;
use mending::Mending;

/// Default number of commits after which a checkpoint is taken. Large enough that a service which
/// writes its whole state does so rarely, small enough that a restart has little to confirm again.
pub const DEFAULT_CHECKPOINT_EVERY: usize = 1024;

/// Maximum encoded length of a branch's work, in bytes: that of a log record, less the room for its
/// head.
pub const MAX_WORK_BYTES: usize = MAX_RECORD_BYTES - RECORD_HEAD_BYTES;

/// Room for all else in a record with work, in bytes: two names with their lengths, the
/// transaction's epoch and number, the length of the work and its number of pieces, and three tags.
/// Rounded up, so that one more field does not change the limit.
const RECORD_HEAD_BYTES: usize = 256;
const _: () = assert!(2 * (1 + MAX_NAME_BYTES) + 4 * 10 + 3 <= RECORD_HEAD_BYTES, "the head has room");

/// Turns a [`Service`] into a durable [`Participant`](super::Participant). Shared by [`Arc`], which
/// is a participant itself.
///
/// Clients do their work through [`execute`](Self::execute), under a branch id that a transaction
/// gave them. The coordinator does the rest. On the coordinator's own log the resource manager
/// needs no forced writes of its own; on another log it forces two, its promise and its commit.
///
/// If another holder [takes its log over](TransactionLog::lost), the branches are the new holder's.
/// From then on it acknowledges nothing, calls its service no more, and answers every call with
/// [`LogError::Fenced`], which a coordinator treats as no answer. A service that keeps its state
/// outside of the process, where the new holder's service works too, must refuse the old one by itself:
/// a process that was paused learns of the takeover only when it next asks the log.
///
/// ```
/// use std::{collections::BTreeMap, sync::Arc};
/// use parking_lot::Mutex;
/// use ringpact::{BranchId, Coordinator, MemoryLog, ResourceManager, Service};
///
/// /// Ten pieces of one article: those set aside, and those sold. By branch, so that a confirm or cancel
/// /// that is repeated, or comes after a restart, changes nothing more.
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
    /// The opening of the log.
    opening: LogId,
    service: S,
    options: ResourceManagerOptions,
    branches: Mutex<Branches<S::Work>>,
    /// Number of commits carried out since the last checkpoint.
    commits: AtomicUsize,
    generations: Generations,
    mending: Mending,
    /// Held while a checkpoint is taken, so that there is one at a time.
    checkpoint: HeldLock<()>,
    _claim: Claim,
}

/// Settings of a [`ResourceManager`]: a plain value; see [`ResourceManager::options`].
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
    /// Takes a checkpoint after this number of commits, at least 1. Frequent checkpoints make
    /// commits slower (the service writes its state each time), rare ones make a restart longer
    /// (more is confirmed again).
    #[must_use]
    pub const fn checkpoint_every(mut self, commits: usize) -> Self {
        self.checkpoint_every = if commits == 0 { 1 } else { commits };
        self
    }

    /// Rolls back a branch that has promised nothing when no work was done under it for this long.
    /// It may take up to half as long again.
    ///
    /// The coordinator of such a branch is gone for good, or its id was never given out; nothing
    /// else would ever give back what it has set aside. Choose more than the longest time-out of a
    /// transaction, because a branch that is rolled back votes No even if its transaction is still
    /// open. Looked at when the service refuses work, at each checkpoint, and after every 1,024
    /// new branches.
    #[must_use]
    pub const fn abandon_after(mut self, idle: Duration) -> Self {
        self.abandon_after = idle;
        self
    }

    /// Uses the threads and the clock of `platform` instead of the system's.
    #[doc(hidden)]
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    pub(crate) const fn own_platform(&self) -> &Platform {
        &self.platform
    }

    /// Opens the resource manager; see [`ResourceManager::open`].
    ///
    /// # Errors
    ///
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

/// Number of branches by state, a snapshot; see [`ResourceManager::status`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ResourceManagerStatus {
    /// Branches under which work was done, and nothing is promised.
    pub active: usize,
    /// Branches that have promised, and wait for the decision.
    pub prepared: usize,
    /// Branches that were told to commit or roll back, and where the service has not succeeded yet
    /// or is being called.
    pub settling: usize,
    /// Branches that are finished, and remembered until the coordinator says that the transaction
    /// has ended.
    pub finished: usize,
    /// Branches that could not be restored at opening. They are counted above as well.
    pub troubled: Vec<BranchTrouble>,
    /// The error of the last checkpoint, if it failed.
    pub last_checkpoint_error: Option<Arc<str>>,
    /// The takeover, if another holder has taken the log over. Then the resource manager does nothing
    /// more: it answers every call with an error.
    pub fenced: Option<Takeover>,
}

impl<S: Service> ResourceManager<S> {
    /// Opens the resource manager `name` on `log`, and brings the service to the state that the log
    /// holds: what was committed is confirmed again, what was promised is restored. Blocks until
    /// that is done.
    ///
    /// Coordinators must know it by this name, and the name must be the same at every opening. One
    /// log can't have two resource managers of one name open, because each would end what the other
    /// has promised.
    ///
    /// A branch that can't be restored does not keep the others from opening.
    /// [`status`](Self::status) lists it, and nothing of it is dropped. What the service could not do
    /// is tried again at calls of clients and coordinators (at the next one, and then after a pause
    /// that grows from 20 ms to 10 s), and at each checkpoint. Such a call then blocks for that as
    /// well.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: of the name, the log, or the service's [`opened`](Service::opened). If the
    /// name is open on this log already, it is [`LogError::Claimed`].
    pub fn open(name: &str, log: impl TransactionLog, service: S) -> Result<Self, OpenError> {
        ResourceManagerOptions::default().open(name, log, service)
    }

    /// Returns the default options, to change and to open with.
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
        let entries = replay::replay(&name, &records, &service);
        #[cfg(feature = "tracing")]
        for trouble in entries.values().filter_map(|entry| entry.trouble.as_ref()) {
            tracing::warn!(participant = %name, error = %trouble, "a branch could not be taken back");
        }
        replay::opened(&name, &entries, &service)?;
        let mut branches = Branches::found(entries);
        replay::remember_lives(&records, &mut branches);
        for txn in replay::needless_notes(&records) {
            // A crash cut off the record that the note was for, or the note's end. If the log has
            // no room for this end, the next opening tries again.
            let _ = log.append(Record { owner: name.clone(), fact: Fact::Ended { txn } }, Durability::Lazy);
        }
        let generations = Generations::new(options.abandon_after, options.platform.now());
        let mending = Mending::new(branches.troubled().1, options.platform.now());
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
            mending,
            checkpoint: HeldLock::new(()),
            _claim: claim,
        })
    }

    /// Returns the service, for everything that is not part of a transaction.
    #[must_use]
    pub const fn service(&self) -> &S {
        &self.service
    }

    /// Returns the name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Does a piece of work under a transaction's branch: the service's try. It takes effect when
    /// the transaction commits.
    ///
    /// Blocks while the service tries, and while another piece of work for the same branch is under
    /// way. O(1) beside what the service does.
    ///
    /// # Errors
    ///
    /// - [`ExecuteError::Refused`] carries the service's refusal, and dooms the transaction, unless the
    ///   service says that this refusal [does not](Service::dooms). Then the branch is what it was
    ///   before the call.
    /// - [`ExecuteError::TooMuchWork`], past [`MAX_WORK_BYTES`] of work that changes anything, and
    ///   [`ExecuteError::Unencodable`] doom it too; the service is not asked.
    /// - [`ExecuteError::Closed`]: the branch was already asked to prepare, or has ended; or a
    ///   rollback came while the service did this very work, which is undone then.
    /// - [`ExecuteError::EarlierLife`]: the coordinator has been opened again since the transaction
    ///   began, or the participant refuses its log.
    /// - [`ExecuteError::UnknownEpoch`]: the coordinator has not yet announced the branch's epoch
    ///   here.
    /// - [`ExecuteError::Misrouted`]: the branch names another participant.
    /// - [`ExecuteError::Fenced`]: another holder has taken the log over.
    /// - [`ExecuteError::Inside`]: the service calls this for a branch at which it is working itself,
    ///   on the same thread. Nothing is doomed by that.
    ///
    /// # Panics
    ///
    /// If the service panics, in its try, its [`effort`](Service::effort) or the serialisation of its
    /// work, with its panic; the transaction is doomed.
    pub fn execute(&self, branch: &BranchId, work: S::Work) -> Result<(), ExecuteError<S::Refusal>> {
        if branch.participant() != &self.name {
            return Err(ExecuteError::Misrouted { branch: branch.clone(), participant: self.name.clone() });
        }
        if let Some(Takeover { holder }) = self.log.lost() {
            return Err(ExecuteError::Fenced { participant: self.name.clone(), holder });
        }
        // Before the work: what is restored again may be what the work would take.
        self.mend_if_due();
        let closed = || ExecuteError::Closed { branch: branch.clone() };
        let mut branches = self.branches.lock();
        let lookup = branches.admit(branch.txn());
        if let BranchLookup::UnknownLife { .. } = lookup {
            branches.refuse(branch.txn());
        }
        drop(branches);
        let cell = match lookup {
            BranchLookup::Found(cell) => cell,
            BranchLookup::Ended { known } if known <= branch.txn().epoch() => return Err(closed()),
            BranchLookup::Ended { known } | BranchLookup::EarlierLife { known } => {
                return Err(ExecuteError::EarlierLife { branch: branch.clone(), known });
            }
            BranchLookup::UnknownLife { known } => {
                return Err(ExecuteError::UnknownEpoch { branch: branch.clone(), known });
            }
        };
        if self.generations.admits() {
            self.roll_back_abandoned();
        }
        // From here on under the branch's lock: pieces of work for one branch are done one by one.
        let Some(mut entry) = cell.hold(&self.options.platform) else {
            return Err(ExecuteError::Inside { branch: branch.clone() });
        };
        if cell.is_doomed() || !entry.protocol.accepts_work() {
            return Err(closed());
        }
        entry.worked_in = self.generations.current();
        // The client gets the refusal itself, the coordinator its text. All in here is code of the
        // service, its serialisation and the text of its refusal too.
        let mut effort_of_try = None;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let effort = self.service.effort(&work);
            // Work that could never be promised is refused before the service sets anything aside.
            let length = fits(branch, &entry, effort, &work)?;
            effort_of_try = Some(effort);
            match self.service.try_reserve(branch, &work) {
                Ok(()) => Ok(Ok((effort, length))),
                Err(refusal) => {
                    let reason = self.service.dooms(&refusal).then(|| cut(error_chain(&refusal)));
                    Ok(Err((reason, refusal)))
                }
            }
        }));
        match result {
            Ok(Ok(Ok((effort, length)))) => {
                entry.works.push(work);
                entry.work_bytes = length;
                entry.protocol.handle(BranchInput::Worked(effort));
                if cell.is_doomed() {
                    self.roll_back_doomed(branch, &mut entry);
                    return Err(closed());
                }
                Ok(())
            }
            Ok(Ok(Err((None, refusal)))) => {
                if cell.is_doomed() {
                    self.roll_back_doomed(branch, &mut entry);
                }
                let is_unused = entry.protocol.phase() == BranchPhase::Unknown;
                drop(entry);
                if is_unused {
                    self.branches.lock().discard_unknown(branch.txn(), cell);
                }
                Err(ExecuteError::Refused(refusal))
            }
            Ok(Ok(Err((Some(reason), refusal)))) => {
                entry.protocol.handle(BranchInput::Refused);
                entry.refuse(|| BranchRefusal::Work { reason: reason.into() });
                drop(entry);
                // Abandoned branches may hold what was lacking; the next piece of work finds it
                // free.
                self.roll_back_abandoned();
                Err(ExecuteError::Refused(refusal))
            }
            Ok(Err(error)) => {
                entry.protocol.handle(BranchInput::Refused);
                entry.refuse(|| BranchRefusal::Work { reason: cut(error_chain(&error)).into() });
                Err(error)
            }
            Err(panic) => {
                // It is not known how far the try came, if it began. So the rollback that must follow
                // cancels this work as well.
                if let Some(effort) = effort_of_try {
                    entry.works.push(work);
                    entry.protocol.handle(BranchInput::Worked(effort));
                }
                entry.protocol.handle(BranchInput::Refused);
                entry.refuse(|| BranchRefusal::Panicked);
                drop(entry);
                resume_unwind(panic)
            }
        }
    }

    /// Takes a [checkpoint](Service::checkpoint) now, and lets the log forget what it covers.
    ///
    /// Blocks while the service writes, and while another checkpoint is under way. Commits take
    /// checkpoints by themselves; call it before a planned shutdown, to have nothing to repeat
    /// afterwards.
    ///
    /// # Errors
    ///
    /// The service's error, or the log's. Nothing is forgotten then. Also if a method of the service
    /// calls this on the thread that takes a checkpoint: the checkpoint that is under way goes on.
    /// If another holder has taken the log over, the service is not asked.
    pub fn checkpoint(&self) -> Result<(), ServiceError> {
        let one_at_a_time = self.checkpoint.hold(&self.options.platform);
        self.take_checkpoint(&one_at_a_time.ok_or(CheckpointInside)?)
    }

    /// Returns the number of branches by state. Never waits for the service or the log. O(n) in the
    /// branches remembered.
    pub fn status(&self) -> ResourceManagerStatus {
        let (entries, last_checkpoint_error) = {
            let branches = self.branches.lock();
            (
                branches.all().map(|(.., entry)| Arc::clone(entry)).collect::<Vec<_>>(),
                branches.last_checkpoint_error.clone(),
            )
        };
        let fenced = self.log.lost();
        let mut status = ResourceManagerStatus { last_checkpoint_error, fenced, ..ResourceManagerStatus::default() };
        for entry in entries {
            let Some(entry) = entry.try_lock() else {
                // The branch is locked while the service is called, which may hang. This must not.
                status.settling += 1;
                continue;
            };
            status.troubled.extend(entry.trouble.clone());
            *match entry.protocol.phase() {
                BranchPhase::Unknown | BranchPhase::Active { .. } => &mut status.active,
                BranchPhase::Preparing { .. } | BranchPhase::Prepared => &mut status.prepared,
                BranchPhase::Committed | BranchPhase::RolledBack | BranchPhase::ReadOnly => &mut status.finished,
                _ => &mut status.settling,
            } += 1;
        }
        status
    }

    /// Returns an error once another holder has taken the log over, as far as the log has heard.
    fn holds_log(&self) -> Result<(), LogError> {
        self.log.lost().map_or(Ok(()), |takeover| Err(takeover.into()))
    }

    fn append(&self, fact: Fact, durability: Durability) -> Result<Lsn, LogError> {
        self.log.append(Record { owner: self.name.clone(), fact }, durability)
    }
}

impl<S: Service> fmt::Debug for ResourceManager<S> {
    /// Does not block, and asks neither the service nor the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceManager")
            .field("name", &self.name)
            .field("log", &self.log.id())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Returns the encoded length of the branch's work with this piece. It must fit into a record if
/// the work changes anything.
fn fits<W: Serialize, R>(
    branch: &BranchId,
    entry: &BranchEntry<W>,
    effort: Effort,
    work: &W,
) -> Result<usize, ExecuteError<R>> {
    let piece = postcard::experimental::serialized_size(work)
        .map_err(|error| ExecuteError::Unencodable { branch: branch.clone(), error: Arc::new(error) })?;
    let length = entry.work_bytes.saturating_add(piece);
    let changes = effort == Effort::Update
        || matches!(entry.protocol.phase(), BranchPhase::Active { effort: Effort::Update, .. });
    if length > MAX_WORK_BYTES && changes {
        return Err(ExecuteError::TooMuchWork { branch: branch.clone(), length, limit: MAX_WORK_BYTES });
    }
    Ok(length)
}
