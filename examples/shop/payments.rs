//! The payment service: customers' accounts, in whole cents, and what was paid for each order.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use ringpact::{BranchId, Service, ServiceError};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    book::Book,
    purchases::{Customer, OrderId},
};

/// Work of the payment service in a transaction: charge a customer for an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Charge {
    pub order: OrderId,
    pub customer: Customer,
    pub cents: u64,
}

/// Why the service refuses.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PaymentRefusal {
    #[error("customer {} has {balance} cents, {wanted} are wanted", customer.0)]
    NoFunds { customer: Customer, balance: u64, wanted: u64 },
    #[error("{0} is already paid")]
    Paid(OrderId),
}

/// One shard of the payment service.
pub struct Payments {
    book: Book,
    state: Mutex<State>,
    /// What transactions under way have set aside. Not in the book: the resource manager restores
    /// it.
    tentative: Mutex<HashMap<BranchId, (Customer, u64)>>,
}

/// The content of the book.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub balances: BTreeMap<Customer, u64>,
    pub paid: BTreeMap<OrderId, u64>,
}

impl Payments {
    /// Opens the shard. Without a book it starts with `accounts`.
    pub fn open(book: Book, accounts: impl FnOnce() -> BTreeMap<Customer, u64>) -> std::io::Result<Self> {
        let state = match book.read()? {
            Some(state) => state,
            None => State { balances: accounts(), paid: BTreeMap::new() },
        };
        Ok(Self { book, state: Mutex::new(state), tentative: Mutex::default() })
    }

    pub fn state(&self) -> State {
        self.state.lock().clone()
    }
}

impl Service for Payments {
    type Work = Charge;
    type Refusal = PaymentRefusal;

    fn try_reserve(&self, branch: &BranchId, charge: &Charge) -> Result<(), PaymentRefusal> {
        let &Charge { order, customer, cents } = charge;
        let state = self.state.lock();
        if state.paid.contains_key(&order) {
            return Err(PaymentRefusal::Paid(order));
        }
        let balance = state.balances.get(&customer).copied().unwrap_or(0);
        let mut tentative = self.tentative.lock();
        let aside: u64 = tentative.values().filter(|(of, _)| *of == customer).map(|(_, cents)| cents).sum();
        let balance = balance.saturating_sub(aside);
        if balance < cents {
            return Err(PaymentRefusal::NoFunds { customer, balance, wanted: cents });
        }
        tentative.insert(branch.clone(), (customer, cents));
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, charges: &[Charge]) -> Result<(), ServiceError> {
        let mut state = self.state.lock();
        for charge in charges {
            // An order is paid once, however often it is confirmed.
            if state.paid.contains_key(&charge.order) {
                continue;
            }
            let balance = state.balances.entry(charge.customer).or_default();
            *balance = balance.checked_sub(charge.cents).ok_or("more was promised than there is")?;
            state.paid.insert(charge.order, charge.cents);
        }
        self.tentative.lock().remove(branch);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _charges: &[Charge]) -> Result<(), ServiceError> {
        self.tentative.lock().remove(branch);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        let state = self.state.lock().clone();
        Ok(self.book.write(&state)?)
    }
}
