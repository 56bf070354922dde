//! Where threads wait for a batch: one lock and one condition for all of them, and none of the queue's.

use parking_lot::{Condvar, Mutex};

/// Opens for one batch after the other.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open_for: Mutex<u64>,
    opened: Condvar,
}

impl Gate {
    /// Blocks until the gate was opened for this batch or a later one.
    pub(super) fn wait(&self, batch: u64) {
        let mut open_for = self.open_for.lock();
        while *open_for < batch {
            self.opened.wait(&mut open_for);
        }
    }

    /// Lets everybody through who waits for this batch or an earlier one.
    pub(super) fn open(&self, batch: u64) {
        *self.open_for.lock() = batch;
        self.opened.notify_all();
    }
}
