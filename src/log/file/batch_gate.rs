//! Where threads wait for a batch: one word for all of them, and no lock.
//!
//! From some 64 threads on, waking them takes the time, not the disk. A condition variable hands
//! its mutex from one thread to the next, so that each waits for the one before. Here one system
//! call wakes all, and no thread needs anything of the others to go on. (`src/docs/log_speed.md`
//! has the figures.)

use std::sync::atomic::{AtomicU32, Ordering};

use crate::platform::Platform;

/// Opens for one batch after the other.
#[derive(Debug)]
pub(super) struct BatchGate {
    platform: Platform,
    opened: AtomicU32,
}

impl BatchGate {
    pub(super) fn new(platform: &Platform) -> Self {
        Self { platform: platform.clone(), opened: AtomicU32::new(0) }
    }

    /// Blocks until `may_pass` returns true. It is asked again each time the gate is opened, so
    /// what makes it true must be written before that.
    pub(super) fn wait(&self, may_pass: impl Fn() -> bool) {
        loop {
            // The count is read before the question is asked. An opening in between changes the
            // count, and then the thread does not sleep.
            let opened = self.opened.load(Ordering::Acquire);
            if may_pass() {
                return;
            }
            self.platform.wait_on(&self.opened, opened);
        }
    }

    /// Lets all waiting threads ask again.
    pub(super) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Release);
        self.platform.wake_all_on(&self.opened);
    }
}
