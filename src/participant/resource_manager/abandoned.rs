//! Branches that no coordinator ends: under an id that none has given out, or of a coordinator that
//! is gone for good.
//!
//! Until it has promised, a participant may roll a branch back on its own. So the resource manager
//! rolls back a branch under which nothing was done for
//! [`abandon_after`](super::ResourceManagerOptions::abandon_after). There is no thread for that.
//! What an abandoned branch has set aside matters when other work is refused for lack of it, so
//! that is when abandoned branches are looked for; and also after every [`LOOK_EVERY`] new
//! branches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    BranchRefusal, ResourceManager,
    entry::{BranchEntry, BranchRef},
};
use crate::{
    id::TxnId,
    participant::{BranchInput, BranchPhase, Service},
};

/// Default time without work after which an unpromised branch is rolled back. It is far longer than
/// a transaction lasts by default (a minute), and far shorter than goods may stay set aside for
/// nothing.
pub const DEFAULT_ABANDON_AFTER: Duration = Duration::from_secs(15 * 60);

/// Number of new branches after which abandoned branches are looked for although nothing was
/// refused.
const LOOK_EVERY: u32 = 1 << 10;

/// Time in generations of half the limit, so that work under a branch needs no look at the clock. A
/// branch carries the generation in which work was last done under it, and is abandoned two
/// generations later.
pub(super) struct Generations {
    length: Duration,
    current: AtomicU32,
    begun: Mutex<Instant>,
    admitted: AtomicU32,
}

impl Generations {
    pub(super) fn new(abandon_after: Duration, now: Instant) -> Self {
        let (current, admitted) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { length: abandon_after / 2, current, begun: Mutex::new(now), admitted }
    }

    pub(super) fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// Counts a new branch, and returns whether it is time to look for abandoned ones.
    pub(super) fn admits(&self) -> bool {
        self.admitted.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == LOOK_EVERY - 1
    }

    /// Begins the next generation if this one is over, and returns the last one whose branches are
    /// abandoned.
    fn go_on(&self, now: Instant) -> Option<u32> {
        let mut begun = self.begun.lock();
        if now.saturating_duration_since(*begun) < self.length {
            return None;
        }
        *begun = now;
        (self.current.fetch_add(1, Ordering::Relaxed) + 1).checked_sub(2)
    }
}

impl<S: Service> ResourceManager<S> {
    /// Rolls back the abandoned branches. O(n) in the branches remembered, at most twice in the
    /// time after which a branch is abandoned.
    pub(super) fn roll_back_abandoned(&self) {
        let Some(last) = self.generations.go_on(self.options.platform.now()) else { return };
        let entries: Vec<_> = {
            let branches = self.branches.lock();
            branches.all().map(|(txn, _, entry)| (txn, Arc::clone(entry))).collect()
        };
        for (txn, entry) in entries {
            // If the service can't cancel now, it is asked again in the next generation.
            self.roll_back_active(&txn, &entry, |entry| entry.worked_in <= last, || BranchRefusal::Abandoned);
        }
    }

    /// Rolls back this transaction's branch if it has promised nothing, because `refusal`. Returns
    /// `Some(true)` if it is rolled back, `Some(false)` if it has promised, and `None` if it is
    /// finished, unknown, or in use right now. O(n) in the branches remembered.
    pub(crate) fn roll_back_unpromised(&self, txn: &TxnId, refusal: BranchRefusal) -> Option<bool> {
        let entry = {
            let branches = self.branches.lock();
            let found = branches.all().find(|(other, ..)| other == txn);
            found.map(|(_, _, entry)| Arc::clone(entry))
        }?;
        if self.roll_back_active(txn, &entry, |_| true, || refusal) {
            return Some(true);
        }
        let phase = entry.try_lock()?.protocol.phase();
        matches!(phase, BranchPhase::Preparing { .. } | BranchPhase::Prepared).then_some(false)
    }

    /// Rolls the branch back if it is active and `which` says so. Returns whether it is rolled back. A
    /// branch that is in use right now is left alone. The lock is held from the look to the end, so
    /// that no promise comes in between.
    fn roll_back_active(
        &self,
        txn: &TxnId,
        entry: &BranchRef<S::Work>,
        which: impl FnOnce(&BranchEntry<S::Work>) -> bool,
        refusal: impl FnOnce() -> BranchRefusal,
    ) -> bool {
        let Some(mut entry) = entry.try_hold(self.options.platform.thread_number()) else { return false };
        if !matches!(entry.protocol.phase(), BranchPhase::Active { .. }) || !which(&entry) {
            return false;
        }
        entry.protocol.handle(BranchInput::Refused);
        entry.refuse(refusal);
        self.roll_back_doomed(&txn.branch(&self.name), &mut entry);
        entry.protocol.phase() == BranchPhase::RolledBack
    }
}
