//! Transactions that only those have to remember who still owe them an acknowledgement.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use super::{shared::Key, task::Task};
use crate::id::{Name, TxnOrdinal};

/// What can't be delivered to some of its participants: it lies still until an operator acts (it is *parked*), or it is
/// still tried.
///
/// A transaction on the shelf holds the [mark](crate::participant::Call::ended_below) of those participants only that
/// still owe it an acknowledgement. So a participant that is stuck for ever lets nobody's outcomes pile up but its own.
#[derive(Default)]
pub(super) struct Shelf {
    tasks: BTreeMap<Key, Shelved>,
    held: BTreeMap<Name, BTreeSet<Key>>,
    parked: usize,
}

struct Shelved {
    task: Arc<Task>,
    owed: Vec<Name>,
    is_parked: bool,
}

impl Shelf {
    /// Puts the transaction up. O(log n) for each participant that is owed. Gives those whose mark may have changed.
    pub(super) fn put(&mut self, task: Arc<Task>, owed: Vec<Name>, is_parked: bool) -> Vec<Name> {
        let key = task.key();
        let mut changed = self.take(key).map_or_else(Vec::new, |(_, owed)| owed);
        for name in &owed {
            self.held.entry(name.clone()).or_default().insert(key);
        }
        changed.extend(owed.iter().cloned());
        self.parked += usize::from(is_parked);
        self.tasks.insert(key, Shelved { task, owed, is_parked });
        changed
    }

    /// Takes the transaction down, if it is there, and gives those whose mark may have changed.
    pub(super) fn take(&mut self, key: Key) -> Option<(Arc<Task>, Vec<Name>)> {
        let shelved = self.tasks.remove(&key)?;
        self.parked -= usize::from(shelved.is_parked);
        for name in &shelved.owed {
            if let Some(held) = self.held.get_mut(name) {
                held.remove(&key);
                if held.is_empty() {
                    self.held.remove(name);
                }
            }
        }
        Some((shelved.task, shelved.owed))
    }

    /// The transaction is tried again.
    pub(super) fn unpark(&mut self, key: Key) {
        if let Some(shelved) = self.tasks.get_mut(&key) {
            self.parked -= usize::from(std::mem::take(&mut shelved.is_parked));
        }
    }

    /// The first transaction that the participant must not forget.
    pub(super) fn first_held_for(&self, participant: &Name) -> Option<TxnOrdinal> {
        self.held.get(participant)?.first().map(|key| key.ordinal)
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().map(|shelved| &shelved.task)
    }

    /// Those that wait for an operator.
    pub(super) fn parked(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(|shelved| shelved.is_parked).map(|shelved| &shelved.task)
    }

    /// Those that don't.
    pub(super) fn running(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(|shelved| !shelved.is_parked).map(|shelved| &shelved.task)
    }

    /// Those of one transaction: its own, and branches of it that participants reported.
    pub(super) fn of(&self, ordinal: TxnOrdinal) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.range(Key::all_of(ordinal)).map(|(_, shelved)| &shelved.task)
    }

    /// How many wait for an operator.
    pub(super) const fn waiting(&self) -> usize {
        self.parked
    }
}

/// What holds one participant's mark back, as it is read with each message to it.
#[derive(Default)]
pub(super) struct Held {
    is_held: AtomicBool,
    below: Mutex<TxnOrdinal>,
}

impl Held {
    /// Written under the lock of the table of open transactions.
    pub(super) fn set(&self, first: Option<TxnOrdinal>) {
        if let Some(first) = first {
            *self.below.lock() = first;
        }
        self.is_held.store(first.is_some(), Ordering::Release);
    }

    /// The mark, or what holds it back. The mark must have been read before: what moves from being held for all to being held
    /// for some is held here first.
    pub(super) fn limit(&self, ordinal: TxnOrdinal) -> TxnOrdinal {
        if self.is_held.load(Ordering::Acquire) { ordinal.min(*self.below.lock()) } else { ordinal }
    }
}
