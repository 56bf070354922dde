//! The goods service: how many pieces of each title there are, and for which orders some are held.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use ringpact::{BranchId, Service, ServiceError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    book::Book,
    purchases::{OrderId, Sku},
};

/// Work of the goods service in a transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum GoodsWork {
    /// Hold pieces for an order.
    Hold { order: OrderId, sku: Sku, pieces: u64 },
    /// Hand over what is held for an order.
    Ship { order: OrderId },
    /// Give back what is held for an order.
    Release { order: OrderId },
}

/// Why the service refuses.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GoodsRefusal {
    #[error("title {} is sold out: {free} left, {wanted} wanted", sku.0)]
    SoldOut { sku: Sku, free: u64, wanted: u64 },
    #[error("nothing is held for {0}")]
    NotHeld(OrderId),
}

/// One shard of the goods service.
pub struct Goods {
    book: Book,
    state: Mutex<State>,
    /// What transactions under way have set aside. Not in the book: the resource manager restores
    /// it.
    tentative: Mutex<HashMap<BranchId, (Sku, u64)>>,
}

/// The content of the book.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub free: BTreeMap<Sku, u64>,
    pub sold: BTreeMap<Sku, u64>,
    pub orders: BTreeMap<OrderId, Hold>,
}

/// Pieces of one title for one order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hold {
    pub sku: Sku,
    pub pieces: u64,
    pub stage: HoldStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoldStage {
    Held,
    Sold,
    Released,
}

impl Goods {
    /// Opens the shard. Without a book it starts with `stock`.
    pub fn open(book: Book, stock: impl FnOnce() -> BTreeMap<Sku, u64>) -> std::io::Result<Self> {
        let state = match book.read()? {
            Some(state) => state,
            None => State { free: stock(), ..State::default() },
        };
        Ok(Self { book, state: Mutex::new(state), tentative: Mutex::default() })
    }

    /// Number of pieces that are neither sold nor set aside.
    pub fn available(&self, sku: Sku) -> u64 {
        self.available_beside(sku, &self.tentative.lock())
    }

    fn available_beside(&self, sku: Sku, tentative: &HashMap<BranchId, (Sku, u64)>) -> u64 {
        let free = self.state.lock().free.get(&sku).copied().unwrap_or(0);
        let aside: u64 = tentative.values().filter(|(of, _)| *of == sku).map(|(_, pieces)| pieces).sum();
        free.saturating_sub(aside)
    }

    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    fn holds(&self, order: OrderId) -> Result<(), GoodsRefusal> {
        match self.state.lock().orders.get(&order) {
            Some(Hold { stage: HoldStage::Held, .. }) => Ok(()),
            _ => Err(GoodsRefusal::NotHeld(order)),
        }
    }
}

impl Service for Goods {
    type Work = GoodsWork;
    type Refusal = GoodsRefusal;

    fn try_reserve(&self, branch: &BranchId, work: &GoodsWork) -> Result<(), GoodsRefusal> {
        match *work {
            GoodsWork::Hold { sku, pieces, .. } => {
                // Counted and set aside under one lock. Otherwise two customers could be promised
                // the same pieces.
                let mut tentative = self.tentative.lock();
                let free = self.available_beside(sku, &tentative);
                if free < pieces {
                    return Err(GoodsRefusal::SoldOut { sku, free, wanted: pieces });
                }
                tentative.insert(branch.clone(), (sku, pieces));
                Ok(())
            }
            GoodsWork::Ship { order } | GoodsWork::Release { order } => self.holds(order),
        }
    }

    fn confirm(&self, branch: &BranchId, works: &[GoodsWork]) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        for work in works {
            state.apply(work)?;
        }
        drop(state);
        self.tentative.lock().remove(branch);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _works: &[GoodsWork]) -> Result<(), ServiceError> {
        self.tentative.lock().remove(branch);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        let state = self.state.lock().clone();
        Ok(self.book.write(&state)?)
    }
}

impl State {
    /// Carries the work out, unless that has been done. An order's stages only go forward, so a
    /// repetition changes nothing.
    fn apply(&mut self, work: &GoodsWork) -> Result<(), ServiceError> {
        match *work {
            GoodsWork::Hold { order, sku, pieces } => {
                if self.orders.contains_key(&order) {
                    return Ok(());
                }
                let free = self.free.entry(sku).or_default();
                *free = free.checked_sub(pieces).ok_or("more was promised than there is")?;
                self.orders.insert(order, Hold { sku, pieces, stage: HoldStage::Held });
            }
            GoodsWork::Ship { order } => {
                let hold = self.orders.get_mut(&order).ok_or("nothing was held for the order")?;
                if hold.stage == HoldStage::Held {
                    hold.stage = HoldStage::Sold;
                    *self.sold.entry(hold.sku).or_default() += hold.pieces;
                }
            }
            GoodsWork::Release { order } => {
                let hold = self.orders.get_mut(&order).ok_or("nothing was held for the order")?;
                if hold.stage == HoldStage::Held {
                    hold.stage = HoldStage::Released;
                    *self.free.entry(hold.sku).or_default() += hold.pieces;
                }
            }
        }
        Ok(())
    }
}
