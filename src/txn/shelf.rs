//! Transactions that wait for an operator, and what their participants must not forget meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{shared::Key, task::Task};
use crate::id::{Mark, Name};

/// What lies still until an operator acts.
///
/// A transaction on the shelf holds the [mark](crate::participant::Call::ended_below) of those participants only that
/// still owe it an acknowledgement. So a participant that is stuck for ever lets nobody's outcomes pile up but its own.
#[derive(Default)]
pub(super) struct Shelf {
    tasks: BTreeMap<Key, Shelved>,
    held: BTreeMap<Name, BTreeSet<Key>>,
}

struct Shelved {
    task: Arc<Task>,
    owed: Vec<Name>,
}

impl Shelf {
    /// Puts the transaction up. O(log n) for each participant that is owed.
    pub(super) fn put(&mut self, task: Arc<Task>, owed: Vec<Name>) {
        let key = task.key();
        self.take(key);
        for name in &owed {
            self.held.entry(name.clone()).or_default().insert(key);
        }
        self.tasks.insert(key, Shelved { task, owed });
    }

    /// Takes the transaction down, if it is there.
    pub(super) fn take(&mut self, key: Key) -> Option<Arc<Task>> {
        let shelved = self.tasks.remove(&key)?;
        for name in &shelved.owed {
            if let Some(held) = self.held.get_mut(name) {
                held.remove(&key);
                if held.is_empty() {
                    self.held.remove(name);
                }
            }
        }
        Some(shelved.task)
    }

    /// The first transaction that the participant must not forget.
    pub(super) fn first_held_for(&self, participant: &Name) -> Option<Mark> {
        self.held.get(participant)?.first().map(|key| key.mark)
    }

    pub(super) fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().map(|shelved| &shelved.task)
    }

    /// Those of one transaction: its own, and branches of it that participants reported.
    pub(super) fn of(&self, mark: Mark) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.range(Key::all_of(mark)).map(|(_, shelved)| &shelved.task)
    }

    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }
}
