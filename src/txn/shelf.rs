//! The table of parked transactions, and of others that only the participants that still owe an
//! acknowledgement remember.

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

/// Transactions that could not be delivered to some of their participants. Each is *parked*, and
/// waits for an operator; or it is still tried.
///
/// A transaction in this table holds back [`ended_below`](crate::participant::Call::ended_below)
/// only of those participants that still owe it an acknowledgement. So a participant that is stuck
/// forever makes only its own outcomes pile up.
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
    /// Puts the transaction into the table. Returns the participants whose `ended_below` may have
    /// changed. O(log n) for each participant that owes.
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

    /// Takes the transaction out, if it is there. Returns it with the participants whose
    /// `ended_below` may have changed.
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

    /// Notes that the transaction is tried again.
    pub(super) fn unpark(&mut self, key: Key) {
        if let Some(shelved) = self.tasks.get_mut(&key) {
            self.parked -= usize::from(std::mem::take(&mut shelved.is_parked));
        }
    }

    /// Returns the first transaction that the participant must not forget.
    pub(super) fn first_held_for(&self, participant: &Name) -> Option<TxnOrdinal> {
        self.held.get(participant)?.first().map(|key| key.ordinal)
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().map(|shelved| &shelved.task)
    }

    /// Returns the transactions that wait for an operator.
    pub(super) fn parked(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(|shelved| shelved.is_parked).map(|shelved| &shelved.task)
    }

    /// Returns the transactions that are still tried.
    pub(super) fn running(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(|shelved| !shelved.is_parked).map(|shelved| &shelved.task)
    }

    /// Returns the entries of one transaction: its own, and those of branches that participants
    /// reported.
    pub(super) fn of(&self, ordinal: TxnOrdinal) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.range(Key::all_of(ordinal)).map(|(_, shelved)| &shelved.task)
    }

    /// Returns the number of transactions that wait for an operator.
    pub(super) const fn waiting(&self) -> usize {
        self.parked
    }
}

/// Holds one participant's `ended_below` back. It is read with each message to the participant.
#[derive(Default)]
pub(super) struct Held {
    is_held: AtomicBool,
    below: Mutex<TxnOrdinal>,
}

impl Held {
    /// Sets the first transaction that is held. The caller holds the lock of the table of open
    /// transactions.
    pub(super) fn set(&self, first: Option<TxnOrdinal>) {
        if let Some(first) = first {
            *self.below.lock() = first;
        }
        self.is_held.store(first.is_some(), Ordering::Release);
    }

    /// Returns the smaller one of `ordinal` and what is held here. The caller must have read
    /// `ordinal` before: a transaction that moves from being held for all participants to being
    /// held for some is held here first.
    pub(super) fn limit(&self, ordinal: TxnOrdinal) -> TxnOrdinal {
        if self.is_held.load(Ordering::Acquire) { ordinal.min(*self.below.lock()) } else { ordinal }
    }
}
