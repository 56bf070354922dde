//! The payment service: it keeps an account with a limited number of cents, and orders take from it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use parking_lot::Mutex;
use ringpact::{BranchId, Service, ServiceError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::book::Book;

/// A piece of work: take this amount for an order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Take {
    pub order: u64,
    pub amount: u64,
}

/// Why a piece of work is refused.
#[derive(Debug, Error)]
pub enum Refusal {
    #[error("{free} left, {wanted} wanted")]
    NotEnough { free: u64, wanted: u64 },
    #[error("order {0} has already taken")]
    Taken(u64),
}

/// The service. Its state is in memory. The book has the state of the last checkpoint, the log has
/// the rest.
pub struct Account {
    book: Book,
    sums: Mutex<Sums>,
}

struct Sums {
    state: State,
    /// By branch of a transaction under way. Not in the book, because the resource manager restores
    /// it.
    set_aside: HashMap<BranchId, u64>,
}

/// What the book holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub left: u64,
    /// What each order has taken.
    pub taken: BTreeMap<u64, u64>,
}

impl Account {
    /// Opens the account. It has `stock` if there is no book yet.
    pub fn open(book: Book, stock: u64) -> io::Result<Self> {
        let state = book.read()?.unwrap_or(State { left: stock, taken: BTreeMap::new() });
        Ok(Self { book, sums: Mutex::new(Sums { state, set_aside: HashMap::new() }) })
    }

    pub fn state(&self) -> State {
        self.sums.lock().state.clone()
    }
}

impl Service for Account {
    type Work = Take;
    type Refusal = Refusal;

    fn try_reserve(&self, branch: &BranchId, take: &Take) -> Result<(), Refusal> {
        let mut sums = self.sums.lock();
        if sums.state.taken.contains_key(&take.order) {
            return Err(Refusal::Taken(take.order));
        }
        let free = sums.state.left.saturating_sub(sums.set_aside.values().sum());
        if free < take.amount {
            return Err(Refusal::NotEnough { free, wanted: take.amount });
        }
        *sums.set_aside.entry(branch.clone()).or_default() += take.amount;
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, takes: &[Take]) -> Result<(), ServiceError> {
        let mut sums = self.sums.lock();
        sums.set_aside.remove(branch);
        for take in takes {
            // An order takes once, however often its branch is confirmed.
            if !sums.state.taken.contains_key(&take.order) {
                sums.state.left = sums.state.left.checked_sub(take.amount).ok_or("more was promised than there is")?;
                sums.state.taken.insert(take.order, take.amount);
            }
        }
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[Take]) -> Result<(), ServiceError> {
        self.sums.lock().set_aside.remove(branch);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        Ok(self.book.write(&self.state())?)
    }
}
