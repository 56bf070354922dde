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
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{BranchRefusal, ResourceManager};
use crate::participant::{BranchPhase, Call, Participant, Service};

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
            branches.all().map(|(txn, _, entry)| (txn, std::sync::Arc::clone(entry))).collect()
        };
        for (txn, entry) in entries {
            // A branch that is in use right now is not abandoned.
            let is_abandoned = entry.try_lock().is_some_and(|mut entry| {
                let is = matches!(entry.protocol.phase(), BranchPhase::Active { .. }) && entry.worked_in <= last;
                if is {
                    entry.refuse(|| BranchRefusal::Abandoned);
                }
                is
            });
            if is_abandoned {
                // If the service can't cancel now, it is asked again in the next generation.
                let _ = self.rollback(&txn.branch(&self.name), &Call::new(self.opening));
            }
        }
    }
}
