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

use crate::{
    id::{Name, TxnOrdinal},
    txn::{engine::transaction_driver::TransactionDriver, table::key::TxnKey},
};

/// Transactions that could not be delivered to some of their participants. Each is *parked*, and
/// waits for an operator; or it is still tried.
///
/// A transaction in this table holds back [`ended_below`](crate::participant::Call::ended_below)
/// only of those participants that still owe it an acknowledgement. So a participant that is stuck
/// forever makes only its own outcomes pile up.
#[derive(Default)]
pub(in crate::txn) struct ParkedTable {
    drivers: BTreeMap<TxnKey, ParkedEntry>,
    held: BTreeMap<Name, BTreeSet<TxnKey>>,
    parked: usize,
}

struct ParkedEntry {
    driver: Arc<TransactionDriver>,
    owed: Vec<Name>,
    is_parked: bool,
}

impl ParkedTable {
    /// Puts the transaction into the table. Returns the participants whose `ended_below` may have
    /// changed. O(log n) for each participant that owes.
    pub(in crate::txn) fn put(
        &mut self,
        driver: Arc<TransactionDriver>,
        owed: Vec<Name>,
        is_parked: bool,
    ) -> Vec<Name> {
        let key = driver.key();
        let mut changed = self.take(key).map_or_else(Vec::new, |(_, owed)| owed);
        for name in &owed {
            self.held.entry(name.clone()).or_default().insert(key);
        }
        changed.extend(owed.iter().cloned());
        self.parked += usize::from(is_parked);
        self.drivers.insert(key, ParkedEntry { driver, owed, is_parked });
        changed
    }

    /// Takes the transaction out, if it is there. Returns it with the participants whose
    /// `ended_below` may have changed.
    pub(in crate::txn) fn take(&mut self, key: TxnKey) -> Option<(Arc<TransactionDriver>, Vec<Name>)> {
        let parked = self.drivers.remove(&key)?;
        self.parked -= usize::from(parked.is_parked);
        for name in &parked.owed {
            if let Some(held) = self.held.get_mut(name) {
                held.remove(&key);
                if held.is_empty() {
                    self.held.remove(name);
                }
            }
        }
        Some((parked.driver, parked.owed))
    }

    /// Notes that the transaction is tried again.
    pub(in crate::txn) fn unpark(&mut self, key: TxnKey) {
        if let Some(parked) = self.drivers.get_mut(&key) {
            self.parked -= usize::from(std::mem::take(&mut parked.is_parked));
        }
    }

    /// Returns the first transaction that the participant must not forget.
    pub(in crate::txn) fn first_held_for(&self, participant: &Name) -> Option<TxnOrdinal> {
        self.held.get(participant)?.first().map(|key| key.ordinal)
    }

    pub(in crate::txn) fn drivers(&self) -> impl Iterator<Item = &Arc<TransactionDriver>> {
        self.drivers.values().map(|parked| &parked.driver)
    }

    /// Returns the transactions that wait for an operator.
    pub(in crate::txn) fn waiting(&self) -> impl Iterator<Item = &Arc<TransactionDriver>> {
        self.drivers.values().filter(|parked| parked.is_parked).map(|parked| &parked.driver)
    }

    /// Returns the transactions that are still tried.
    pub(in crate::txn) fn running(&self) -> impl Iterator<Item = &Arc<TransactionDriver>> {
        self.drivers.values().filter(|parked| !parked.is_parked).map(|parked| &parked.driver)
    }

    /// Returns the entries of one transaction: its own, and those of branches that participants
    /// reported.
    pub(in crate::txn) fn of(&self, ordinal: TxnOrdinal) -> impl Iterator<Item = &Arc<TransactionDriver>> {
        self.drivers.range(TxnKey::all_of(ordinal)).map(|(_, parked)| &parked.driver)
    }

    /// Returns the number of transactions that wait for an operator.
    pub(in crate::txn) const fn waiting_count(&self) -> usize {
        self.parked
    }
}

/// Holds one participant's `ended_below` back. It is read with each message to the participant.
#[derive(Default)]
pub(in crate::txn) struct HeldBack {
    is_held: AtomicBool,
    below: Mutex<TxnOrdinal>,
}

impl HeldBack {
    /// Sets the first transaction that is held. The caller holds the lock of the table of open
    /// transactions.
    pub(in crate::txn) fn set(&self, first: Option<TxnOrdinal>) {
        if let Some(first) = first {
            *self.below.lock() = first;
        }
        self.is_held.store(first.is_some(), Ordering::Release);
    }

    /// Returns the smaller one of `ordinal` and what is held here. The caller must have read
    /// `ordinal` before: a transaction that moves from being held for all participants to being
    /// held for some is held here first.
    pub(in crate::txn) fn limit(&self, ordinal: TxnOrdinal) -> TxnOrdinal {
        if self.is_held.load(Ordering::Acquire) { ordinal.min(*self.below.lock()) } else { ordinal }
    }
}
