//! What is kept of one branch: [`BranchEntry`], behind its lock in a [`BranchCell`].

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{BranchRefusal, BranchTrouble, held_lock::HeldLock};
use crate::participant::{BranchInput, BranchPhase, BranchProtocol, LogSharing, branch_table::Cell};

/// A handle to one branch.
pub(super) type BranchRef<W> = Arc<BranchCell<W>>;

/// One branch, behind its lock.
pub(super) struct BranchCell<W> {
    entry: HeldLock<BranchEntry<W>>,
    /// Whether a rollback came while the branch was locked. It is set without the lock.
    doomed: AtomicBool,
}

impl<W> BranchCell<W> {
    pub(super) const fn new(entry: BranchEntry<W>) -> Self {
        Self { entry: HeldLock::new(entry), doomed: AtomicBool::new(false) }
    }

    /// Marks the branch to be rolled back by the thread that holds its lock, or when the rollback
    /// is repeated.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }
}

impl<W> Cell for BranchCell<W> {
    fn phase(&self) -> Option<BranchPhase> {
        self.entry.try_lock().map(|entry| entry.protocol.phase())
    }

    fn is_empty(&self) -> bool {
        self.phase() == Some(BranchPhase::Unknown) && !self.is_doomed()
    }

    fn tombstone() -> Self {
        let mut entry = BranchEntry::default();
        entry.protocol.handle(BranchInput::Rollback(LogSharing::OwnLog));
        Self::new(entry)
    }

    fn wipe(&mut self) {
        *self.doomed.get_mut() = false;
        self.entry.get_mut().wipe();
    }
}

impl<W> Default for BranchCell<W> {
    fn default() -> Self {
        Self::new(BranchEntry::default())
    }
}

impl<W> Deref for BranchCell<W> {
    type Target = HeldLock<BranchEntry<W>>;

    fn deref(&self) -> &HeldLock<BranchEntry<W>> {
        &self.entry
    }
}

/// What is kept of one branch.
///
/// Its lock is held while the service and the log are called for this branch. Pieces of work wait
/// for the lock, on their clients' threads. A coordinator's message does not wait: it is answered
/// by [`Busy`](crate::ParticipantError::Busy).
pub(super) struct BranchEntry<W> {
    pub(super) protocol: BranchProtocol,
    pub(super) works: Vec<W>,
    /// Encoded length of all works together, in bytes.
    pub(super) work_bytes: usize,
    /// The generation in which work was last done under the branch.
    pub(super) worked_in: u32,
    /// What went wrong when the branch was restored at opening, until it is mended.
    pub(super) trouble: Option<BranchTrouble>,
    /// The reason why the branch can only vote No, if that is so and the reason is known.
    pub(super) refusal: Option<Arc<BranchRefusal>>,
}

impl<W> Default for BranchEntry<W> {
    fn default() -> Self {
        Self {
            protocol: BranchProtocol::new(),
            works: Vec::new(),
            work_bytes: 0,
            worked_in: 0,
            trouble: None,
            refusal: None,
        }
    }
}

impl<W> BranchEntry<W> {
    /// Drops the works, which are no longer needed.
    pub(super) fn drop_works(&mut self) {
        /// Number of works whose memory is kept for the next branch.
        const FEW: usize = 16;
        self.works.clear();
        self.works.shrink_to(FEW);
    }

    /// Notes why the branch will vote No. The first reason stays.
    pub(super) fn refuse(&mut self, reason: impl FnOnce() -> BranchRefusal) {
        self.refusal.get_or_insert_with(|| Arc::new(reason()));
    }

    fn wipe(&mut self) {
        self.drop_works();
        (self.protocol, self.trouble, self.refusal, self.work_bytes) = (BranchProtocol::new(), None, None, 0);
    }
}
