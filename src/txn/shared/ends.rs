//! How transactions end, and the coordinator with them.
//!
//! The record that ends a decision is written lazily, so it need not be written at once either: where many transactions are
//! under way the ends of several are appended together, which takes the log's lock, the one that all of them meet at, once.
//! Until then the mark waits for them, as it does until they are durable.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
    time::Duration,
};

use parking_lot::Mutex;

use super::{End, Fact, Key, Lsn, Open, Record, Shared, TxnId, TxnOrdinal};

/// So many ends are written together at the most.
const AT_ONCE: usize = 32;

impl Shared {
    /// The transaction has ended. Gives the ends that are to be [written](Self::write) now.
    #[must_use]
    pub(in crate::txn) fn ended(&self, key: Key, end: End) -> Vec<TxnOrdinal> {
        let mut open = self.open.lock();
        let shelved = open.shelf.take(key);
        let task = self.take(&mut open, key, end);
        if let Some((_, owed)) = &shelved {
            self.hold(&open, owed);
            self.tell_awaited(&open, key);
        }
        let mut unwritten = Vec::new();
        if end == End::Unwritten {
            open.unwritten.push(key.ordinal);
            // Where few others are open, it may be long before the next one ends.
            if open.unwritten.len() >= AT_ONCE.min(open.transactions.at_once() as usize / 2) {
                unwritten = open.unwritten_ends();
            }
        }
        if shelved.is_some() {
            self.note_ended(&mut open, Lsn::NONE);
        }
        drop(open);
        drop((task, shelved));
        unwritten
    }

    /// Whether the end of this transaction may be written along with those of others.
    pub(in crate::txn) fn collects_end_of(&self, key: Key) -> bool {
        key.ordinal.epoch == self.epoch && key.reported_by == 0
    }

    /// Writes the ends of these transactions. No lock may be held: this may wait for room in the log.
    pub(in crate::txn) fn write(&self, mut ended: Vec<TxnOrdinal>) {
        if ended.is_empty() {
            return;
        }
        let record = |ordinal: &TxnOrdinal| {
            let txn = TxnId::new(self.name.clone(), ordinal.epoch, ordinal.sequence);
            Record { owner: self.name.clone(), fact: Fact::Ended { txn } }
        };
        let append = AssertUnwindSafe(|| self.log.append_all(&mut ended.iter().map(record)));
        // None where the log refuses, and where it panics: the mark then waits for the next opening.
        let lsn = if self.is_gone() { None } else { catch_unwind(append).ok().and_then(Result::ok).flatten() };
        let mut open = self.open.lock();
        ended.iter().for_each(|ordinal| open.transactions.written(*ordinal, lsn));
        open.writing -= 1;
        if open.unwritten.capacity() == 0 {
            ended.clear();
            open.unwritten = ended; // its memory, for the next ones
        }
        self.wake_settling(&open);
    }

    /// The coordinator goes: nothing is appended once this returns, for the next life decides by what it finds in the log.
    pub(in crate::txn) fn close(&self) {
        /// How often is looked whether an append is over. There hardly ever is one under way.
        const PAUSE: Duration = Duration::from_millis(1);
        self.is_gone.store(true, Ordering::SeqCst);
        // What is not among these is taken in later, and so finds it gone; as does whoever is not yet at it.
        let (between, pause) = (Mutex::new(()), self.platform.condvar());
        for task in self.tasks() {
            while task.is_appending() {
                pause.wait_for(&mut between.lock(), PAUSE);
            }
        }
        while self.open.lock().writing > 0 {
            pause.wait_for(&mut between.lock(), PAUSE);
        }
    }
}

impl Open {
    /// Takes out the ends that are not written yet, for somebody to write.
    pub(super) fn unwritten_ends(&mut self) -> Vec<TxnOrdinal> {
        self.writing += usize::from(!self.unwritten.is_empty());
        mem::take(&mut self.unwritten)
    }
}
