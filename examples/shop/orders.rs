//! The order service: each order, and which stage it has reached.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use ringpact::{BranchId, Service, ServiceError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    book::Book,
    purchases::{Customer, OrderId, Purchase, Sku},
};

/// The stage of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Goods are held for it.
    Created,
    /// The customer was charged.
    Paid,
    /// The goods are on their way. Nothing follows.
    Shipped,
    /// It was created, and then cancelled as a whole. Nothing follows.
    Cancelled,
    /// It was never created, because the shop could not serve it. Nothing follows.
    Refused,
}

impl Stage {
    /// Whether nothing more happens to the order.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Shipped | Self::Cancelled | Self::Refused)
    }

    /// The stage directly before this one; `None` if the order must not exist yet.
    const fn before(self) -> Option<Self> {
        match self {
            Self::Created | Self::Refused => None,
            Self::Paid | Self::Cancelled => Some(Self::Created),
            Self::Shipped => Some(Self::Paid),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub customer: Customer,
    pub sku: Sku,
    pub pieces: u64,
    pub cents: u64,
    pub stage: Stage,
}

/// Work of the order service in a transaction: take an order to its next stage. `details` come with
/// a new order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OrderWork {
    pub order: OrderId,
    pub stage: Stage,
    pub details: Option<Order>,
}

impl OrderWork {
    /// Work for a new order, created or refused.
    pub fn new(purchase: &Purchase, stage: Stage) -> Self {
        let Purchase { order, customer, sku, pieces, cents } = *purchase;
        Self { order, stage, details: Some(Order { customer, sku, pieces, cents, stage }) }
    }

    /// Work for an order's next stage.
    pub const fn next(order: OrderId, stage: Stage) -> Self {
        Self { order, stage, details: None }
    }
}

/// Why the service refuses.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OrderRefusal {
    #[error("{order} is {is:?}, so it can't become {wanted:?}")]
    WrongStage { order: OrderId, is: Option<Stage>, wanted: Stage },
    #[error("another transaction is working on {0}")]
    Busy(OrderId),
}

/// One shard of the order service.
pub struct Orders {
    book: Book,
    state: Mutex<BTreeMap<OrderId, Order>>,
    /// The transaction that works on each order. Not in the book: the resource manager restores it.
    busy: Mutex<HashMap<OrderId, BranchId>>,
}

impl Orders {
    pub fn open(book: Book) -> std::io::Result<Self> {
        let state = book.read()?.unwrap_or_default();
        Ok(Self { book, state: Mutex::new(state), busy: Mutex::default() })
    }

    pub fn stage(&self, order: OrderId) -> Option<Stage> {
        self.state.lock().get(&order).map(|order| order.stage)
    }

    pub fn state(&self) -> BTreeMap<OrderId, Order> {
        self.state.lock().clone()
    }

    fn let_go(&self, branch: &BranchId, works: &[OrderWork]) {
        let mut busy = self.busy.lock();
        for work in works {
            if busy.get(&work.order) == Some(branch) {
                busy.remove(&work.order);
            }
        }
    }
}

impl Service for Orders {
    type Work = OrderWork;
    type Refusal = OrderRefusal;

    fn try_reserve(&self, branch: &BranchId, work: &OrderWork) -> Result<(), OrderRefusal> {
        let is = self.stage(work.order);
        if is != work.stage.before() {
            return Err(OrderRefusal::WrongStage { order: work.order, is, wanted: work.stage });
        }
        let mut busy = self.busy.lock();
        if busy.get(&work.order).is_some_and(|other| other != branch) {
            return Err(OrderRefusal::Busy(work.order));
        }
        busy.insert(work.order, branch.clone());
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, works: &[OrderWork]) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        for work in works {
            match (state.get_mut(&work.order), &work.details) {
                // A repetition finds the order at this stage or a later one, and changes nothing.
                (Some(order), _) if Some(order.stage) == work.stage.before() => order.stage = work.stage,
                (Some(_), _) => {}
                (None, Some(details)) => drop(state.insert(work.order, details.clone())),
                (None, None) => return Err("there is no such order".into()),
            }
        }
        drop(state);
        self.let_go(branch, works);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, works: &[OrderWork]) -> Result<(), ServiceError> {
        self.let_go(branch, works);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        let state = self.state.lock().clone();
        Ok(self.book.write(&state)?)
    }
}
