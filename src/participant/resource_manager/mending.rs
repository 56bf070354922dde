//! Branches that the service could not confirm again or restore at opening: it is asked again.
//!
//! Their coordinators may have been told long ago that all is done, and then no message ever comes
//! for them. There is no thread for that. So calls of clients and coordinators about other branches
//! do it, at the pace that [`Pace`] sets, and checkpoints do it at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{BranchTrouble, ResourceManager, replay::restore};
use crate::{
    foreign::catch_panic,
    participant::{BranchInput, BranchPhase, LogSharing, Service},
};

/// Pause after the first attempt that mends nothing. The first attempt comes at the first call, because
/// most errors at opening are gone moments later.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Maximum pause between two attempts. It doubles until then. Short beside the time that an operator
/// needs, long beside what an attempt costs.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Maximum number of branches that one call mends, because a client waits for that call.
const MENDED_PER_CALL: usize = 16;

/// Maximum number of branches at which the service may fail in one call.
const FAILED_PER_CALL: usize = 64;

/// Time after which one call tries no other branch, if the service has failed at one: each failure may be
/// a time-out of the service's database. Those that fail at once are passed over, because the service may
/// want another branch first.
const LONGEST_FAILURES: Duration = Duration::from_millis(5);

/// When it is time to ask the service again.
pub(super) struct Mending {
    /// Whether there is anything to mend: what a call usually reads, and all of it.
    is_needed: AtomicBool,
    pace: Mutex<Pace>,
}

/// When the next attempt is due. Pure.
#[derive(Debug)]
struct Pace {
    due: Instant,
    pause: Duration,
    /// Whether a thread is at it. One at a time, because the service may hang.
    is_under_way: bool,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mended {
    mended: usize,
    failed: usize,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { due: now, pause: FIRST_PAUSE, is_under_way: false }
    }

    /// Returns whether an attempt is due. The caller is to make it.
    fn begin(&mut self, now: Instant) -> bool {
        let begins = !self.is_under_way && self.due <= now;
        self.is_under_way |= begins;
        begins
    }

    /// Takes in the end of the attempt.
    fn end(&mut self, now: Instant, has_mended: bool) {
        if has_mended {
            self.pause = FIRST_PAUSE;
        }
        (self.due, self.is_under_way) = (now + self.pause, false);
        if !has_mended {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Mending {
    pub(super) fn new(is_needed: bool, now: Instant) -> Self {
        Self { is_needed: AtomicBool::new(is_needed), pace: Mutex::new(Pace::new(now)) }
    }
}

impl<S: Service> ResourceManager<S> {
    /// Tries again to restore or confirm a few branches, if there are any and it is time. The caller
    /// holds no lock of a branch.
    pub(crate) fn mend_if_due(&self) {
        if !self.mending.is_needed.load(Ordering::Relaxed) || self.holds_log().is_err() {
            return;
        }
        let platform = &self.options.platform;
        if !self.mending.pace.lock().begin(platform.now()) {
            return;
        }
        let mut result = Mended::default();
        let until = platform.now() + LONGEST_FAILURES;
        let has_enough = |so_far: Mended| {
            so_far.mended >= MENDED_PER_CALL
                || so_far.failed >= FAILED_PER_CALL
                || so_far.failed > 0 && platform.now() >= until
        };
        // The drop of the service's error may panic.
        catch_panic(|| result = self.mend(has_enough));
        self.mending.pace.lock().end(platform.now(), result.mended > 0);
    }

    /// Tries again to restore or confirm the branches that could not be restored or confirmed at
    /// opening, until `has_enough` of what was done so far.
    pub(super) fn mend(&self, has_enough: impl Fn(Mended) -> bool) -> Mended {
        let thread = self.options.platform.thread_number();
        let mut result = Mended::default();
        let (troubled, _) = self.branches.lock().troubled();
        for (txn, entry) in troubled {
            if has_enough(result) {
                break;
            }
            let branch = txn.branch(&self.name);
            // If the branch is locked, its holder does it, or the next attempt.
            let Some(mut entry) = entry.try_hold(thread) else { continue };
            match &entry.trouble {
                Some(BranchTrouble::Unrestored { .. }) if entry.protocol.phase() == BranchPhase::Prepared => {
                    entry.trouble = restore(&self.service, &branch, &entry.works);
                }
                Some(BranchTrouble::Unconfirmed { .. }) => {
                    // This makes the protocol confirm. Its reply goes to no coordinator, and after
                    // an error the trouble stays.
                    let confirmed = self.carry_out(&branch, &mut entry, BranchInput::Commit(LogSharing::OwnLog));
                    if confirmed.is_ok() {
                        (entry.works, entry.trouble) = (Vec::new(), None);
                    }
                }
                _ => continue,
            }
            let is_mended = entry.trouble.is_none();
            drop(entry);
            if is_mended {
                result.mended += 1;
            } else {
                result.failed += 1;
                self.branches.lock().put_last(&txn);
            }
        }
        // No branch gets into trouble after the opening, so this is for good.
        let is_any_left = self.branches.lock().troubled().1;
        self.mending.is_needed.store(is_any_left, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_due_at_once_and_pauses_double_up_to_the_limit() {
        let opened = Instant::now();
        let (mut pace, mut now, mut pauses) = (Pace::new(opened), opened, Vec::new());
        for _ in 0..12 {
            assert!(pace.begin(now));
            assert!(!pace.begin(now), "one at a time");
            pace.end(now, false);
            let pause = pace.due - now;
            assert!(!pace.begin(now + pause - Duration::from_nanos(1)));
            now += pause;
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000, 10_000, 10_000]);
        assert!(pace.begin(now));
        pace.end(now, true);
        assert_eq!(pace.due - now, FIRST_PAUSE, "what is mended shows that the service can again");
    }
}
