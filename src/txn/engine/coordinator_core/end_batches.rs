//! The ends of transactions, and of the coordinator.
//!
//! The record that ends a decision is written lazily, so it need not be written at once either.
//! When many transactions are under way, the ends of several are appended together. That takes the
//! log's lock, which all of them share, once. Until then the mark waits for them, as it does until
//! they are durable.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{CoordinatorCore, EndRecord, Fact, Lsn, Record, Table, TxnId, TxnKey, TxnOrdinal};

/// Maximum number of ends that are written together.
const AT_ONCE: usize = 32;

impl CoordinatorCore {
    /// Notes that the transaction has ended. Returns the ends that the caller must
    /// [write](Self::write) now.
    #[must_use]
    pub(in crate::txn) fn ended(self: &Arc<Self>, key: TxnKey, end: EndRecord) -> Vec<TxnOrdinal> {
        let mut table = self.table.lock();
        let parked = table.parked.take(key);
        let driver = self.take(&mut table, key, end);
        if let Some((_, owed)) = &parked {
            self.hold_back(&mut table, owed);
            self.tell_awaited(&table, key);
        }
        if !table.retiring.is_empty() {
            for number in table.are_left_by(key) {
                self.have_released(&table, number);
            }
        }
        let mut unwritten = Vec::new();
        if end == EndRecord::Unwritten {
            table.unwritten.push(key.ordinal);
            // With few others open, it may take long until the next one ends.
            if table.unwritten.len() >= AT_ONCE.min(table.transactions.at_once() as usize / 2) {
                unwritten = table.unwritten_ends();
            }
        }
        if parked.is_some() {
            self.note_ended(&mut table, Lsn::NONE);
        }
        drop(table);
        drop((driver, parked));
        unwritten
    }

    /// Whether the end of this transaction may be written together with those of others.
    pub(in crate::txn) fn collects_end_of(&self, key: TxnKey) -> bool {
        key.ordinal.epoch == self.epoch && key.reported_by == 0
    }

    /// Writes the ends of these transactions. It may wait for room in the log, so the caller must
    /// hold no lock.
    pub(in crate::txn) fn write(&self, mut ended: Vec<TxnOrdinal>) {
        if ended.is_empty() {
            return;
        }
        let record = |ordinal: &TxnOrdinal| {
            let txn = TxnId::new(self.name.clone(), ordinal.epoch, ordinal.sequence);
            Record { owner: self.name.clone(), fact: Fact::Ended { txn } }
        };
        let append = AssertUnwindSafe(|| self.log.append_all(&mut ended.iter().map(record)));
        let appended = if self.is_gone() { None } else { catch_unwind(append).ok() };
        if let Some(Err(error)) = &appended {
            self.hear_of_log(error);
        }
        // `None` if the log refuses or panics: then `ended_below` waits for the next opening.
        let lsn = appended.and_then(Result::ok).flatten();
        let mut table = self.table.lock();
        ended.iter().for_each(|ordinal| table.transactions.written(*ordinal, lsn));
        table.writing -= 1;
        if table.unwritten.capacity() == 0 {
            ended.clear();
            table.unwritten = ended; // its memory, for the next ones
        }
        self.wake_settling(&table);
    }

    /// Closes the coordinator: nothing is appended once this returns, because the next life decides
    /// by what it finds in the log.
    pub(in crate::txn) fn close(&self) {
        /// Pause between two looks whether an append is over. There is hardly ever one under way.
        const PAUSE: Duration = Duration::from_millis(1);
        self.is_gone.store(true, Ordering::SeqCst);
        // A transaction that is not among these comes later, and so finds the coordinator gone; as
        // does one that has not begun its append.
        let (between, pause) = (Mutex::new(()), self.platform.condvar());
        for driver in self.drivers() {
            while driver.is_appending() {
                pause.wait_for(&mut between.lock(), PAUSE);
            }
        }
        while self.table.lock().writing > 0 {
            pause.wait_for(&mut between.lock(), PAUSE);
        }
        self.closed_at.store(self.log.durable().as_u64(), Ordering::Release);
    }
}

impl Table {
    /// Takes out the ends that are not written yet. The caller must [write](CoordinatorCore::write)
    /// them.
    pub(super) fn unwritten_ends(&mut self) -> Vec<TxnOrdinal> {
        self.writing += usize::from(!self.unwritten.is_empty());
        mem::take(&mut self.unwritten)
    }
}
