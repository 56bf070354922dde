//! The gateway: the shop's front door. It checks each customer's token, finds the shard by the
//! ring, and counts what it did.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    Instance, LeaseToken, Registry, Service, Transaction, participant::ExecuteError, registry::RingFollower,
    txn::BranchError,
};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    faults::Faults,
    goods::{GoodsRefusal, GoodsWork},
    machine::{Failure, Machine},
    orders::{OrderRefusal, OrderWork, Stage},
    payments::{Charge, PaymentRefusal},
    purchases::{Customer, OrderId, Purchase, Sku},
    shard::Shard,
};

/// Time for which an instance counts as alive after its last heartbeat.
pub const LEASE: Duration = Duration::from_secs(60);

/// Number of shards that can be asked about a title: its own, and the next ones on the ring.
const READ_REPLICAS: usize = 2;

/// What a customer sees of a title.
#[derive(Clone, Debug)]
pub struct Listing {
    pub title: String,
    /// Pieces left; `None` from a replica. Only the title's own shard knows them, replicas know the
    /// catalogue only.
    pub pieces_left: Option<u64>,
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pieces_left {
            Some(0) => write!(f, "{} (sold out)", self.title),
            Some(pieces) => write!(f, "{} ({pieces} left)", self.title),
            None => write!(f, "{}", self.title),
        }
    }
}

/// An operation of the gateway, as the report lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    ListGoods,
    CreateOrder,
    PayOrder,
    ConfirmPayment,
    CancelOrder,
    RefuseOrder,
}

impl Operation {
    pub const fn name(self) -> &'static str {
        match self {
            Self::ListGoods => "list goods",
            Self::CreateOrder => "create order",
            Self::PayOrder => "pay order",
            Self::ConfirmPayment => "confirm payment",
            Self::CancelOrder => "cancel order",
            Self::RefuseOrder => "refuse order",
        }
    }
}

/// The gateway's counts for one operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub requests: u64,
    pub unauthorized: u64,
    pub refused: u64,
    pub unavailable: u64,
    pub fallbacks: u64,
}

/// A token that proves a customer's identity. A stand-in for real tokens: any program with the
/// secret can make one.
#[derive(Clone, Debug)]
pub struct Bearer(pub String);

pub struct Gateway {
    secret: u64,
    faults: Arc<Faults>,
    registry: Registry,
    leases: BTreeMap<String, LeaseToken>,
    /// The ring for reading, which follows the live instances. The catalogue is the same
    /// everywhere, so reading may move between shards; the data may not.
    readers: Mutex<RingFollower>,
    counts: Mutex<BTreeMap<Operation, Count>>,
}

impl Gateway {
    pub fn new(secret: u64, faults: Arc<Faults>, now: Instant) -> Result<Self, Failure> {
        let registry = Registry::new();
        let readers = Mutex::new(RingFollower::new(registry.watch("goods", now)?));
        Ok(Self { secret, faults, registry, leases: BTreeMap::new(), readers, counts: Mutex::default() })
    }

    /// Logs a customer in, and returns the token.
    pub fn token(&self, customer: Customer) -> Bearer {
        Bearer(format!("Bearer {}.{:016x}", customer.0, self.signature(customer)))
    }

    fn signature(&self, customer: Customer) -> u64 {
        xxh3_64_with_seed(&customer.0.to_le_bytes(), self.secret)
    }

    fn authorize(&self, operation: Operation, bearer: &Bearer) -> Result<Customer, GatewayError> {
        self.count(operation, |count| count.requests += 1);
        let customer = || {
            let (customer, signature) = bearer.0.strip_prefix("Bearer ")?.split_once('.')?;
            let customer = Customer(customer.parse().ok()?);
            (signature == format!("{:016x}", self.signature(customer))).then_some(customer)
        };
        customer().ok_or_else(|| {
            self.count(operation, |count| count.unauthorized += 1);
            GatewayError::Unauthorized
        })
    }

    fn count(&self, operation: Operation, change: impl FnOnce(&mut Count)) {
        change(self.counts.lock().entry(operation).or_default());
    }

    pub fn counts(&self) -> BTreeMap<Operation, Count> {
        self.counts.lock().clone()
    }

    /// Every shard that is up renews its lease, or registers again. A shard that is down does
    /// nothing.
    pub fn heartbeat(&mut self, machine: &Machine, now: Instant) -> Result<(), Failure> {
        self.heartbeat_of("goods", machine.goods.shards.values(), now)?;
        self.heartbeat_of("orders", machine.orders.shards.values(), now)?;
        self.heartbeat_of("payments", machine.payments.shards.values(), now)
    }

    fn heartbeat_of<'a, S: Service>(
        &mut self,
        service: &str,
        shards: impl Iterator<Item = &'a Arc<Shard<S>>>,
        now: Instant,
    ) -> Result<(), Failure> {
        for shard in shards.filter(|shard| shard.is_up()) {
            let renewed = self.leases.get(&shard.name).is_some_and(|token| self.registry.renew(*token, now).is_ok());
            if !renewed {
                let instance = Instance::new(shard.name.as_str(), "in this process");
                let lease = self.registry.register(service, instance, LEASE, now)?;
                self.leases.insert(shard.name.clone(), lease.token());
            }
        }
        Ok(())
    }

    /// Removes instances without a heartbeat within [`LEASE`], and returns their number.
    pub fn expire(&self, now: Instant) -> usize {
        self.registry.expire(now)
    }

    /// Looks titles up, each at the first of its shards that answers.
    pub fn list_goods(
        &self,
        bearer: &Bearer,
        machine: &Machine,
        titles: &[Sku],
        now: Instant,
    ) -> Result<Vec<Listing>, GatewayError> {
        let operation = Operation::ListGoods;
        self.authorize(operation, bearer)?;
        let mut readers = self.readers.lock();
        readers.update(now).map_err(|_| GatewayError::Unavailable)?;
        let ring = readers.ring().ok_or(GatewayError::Unavailable)?;
        let mut listings = Vec::with_capacity(titles.len());
        for &sku in titles {
            let read = |name: &str| {
                let own = machine.goods.ring.owner(sku.0).id().as_str() == name;
                machine.goods.shards.get(name)?.with(|manager| Listing {
                    title: format!("CD {:03}", sku.0),
                    pieces_left: own.then(|| manager.service().available(sku)),
                })
            };
            let mut replicas = ring.replicas(sku.0).take(READ_REPLICAS);
            let listing = replicas.find_map(|node| {
                let listing = read(node.id().as_str());
                if listing.is_none() {
                    self.count(operation, |count| count.fallbacks += 1);
                }
                listing
            });
            listings.push(listing.ok_or_else(|| {
                self.count(operation, |count| count.unavailable += 1);
                GatewayError::Unavailable
            })?);
        }
        Ok(listings)
    }

    /// Holds the goods and creates the order. Returns the transaction open, so that many can be
    /// committed at once.
    pub fn create_order(
        &self,
        bearer: &Bearer,
        machine: &Machine,
        purchase: &Purchase,
        attempt: u32,
    ) -> Result<Transaction, GatewayError> {
        let &Purchase { order, sku, pieces, .. } = purchase;
        self.transact(Operation::CreateOrder, bearer, machine, purchase, attempt, |txn| {
            work(txn, machine.goods.owner(sku.0), GoodsWork::Hold { order, sku, pieces })?;
            work(txn, machine.orders.owner(order.0), OrderWork::new(purchase, Stage::Created))
        })
    }

    /// Charges the customer and marks the order paid.
    pub fn pay_order(
        &self,
        bearer: &Bearer,
        machine: &Machine,
        purchase: &Purchase,
        attempt: u32,
    ) -> Result<Transaction, GatewayError> {
        let &Purchase { order, customer, cents, .. } = purchase;
        self.transact(Operation::PayOrder, bearer, machine, purchase, attempt, |txn| {
            work(txn, machine.payments.owner(customer.0), Charge { order, customer, cents })?;
            work(txn, machine.orders.owner(order.0), OrderWork::next(order, Stage::Paid))
        })
    }

    /// Hands the goods over and marks the order shipped.
    pub fn confirm_payment(
        &self,
        bearer: &Bearer,
        machine: &Machine,
        purchase: &Purchase,
        attempt: u32,
    ) -> Result<Transaction, GatewayError> {
        let &Purchase { order, sku, .. } = purchase;
        self.transact(Operation::ConfirmPayment, bearer, machine, purchase, attempt, |txn| {
            work(txn, machine.goods.owner(sku.0), GoodsWork::Ship { order })?;
            work(txn, machine.orders.owner(order.0), OrderWork::next(order, Stage::Shipped))
        })
    }

    /// Cancels an order that cannot be paid: gives back the goods, and marks the order cancelled.
    pub fn cancel_order(
        &self,
        bearer: &Bearer,
        machine: &Machine,
        purchase: &Purchase,
        attempt: u32,
    ) -> Result<Transaction, GatewayError> {
        let &Purchase { order, sku, .. } = purchase;
        self.transact(Operation::CancelOrder, bearer, machine, purchase, attempt, |txn| {
            work(txn, machine.goods.owner(sku.0), GoodsWork::Release { order })?;
            work(txn, machine.orders.owner(order.0), OrderWork::next(order, Stage::Cancelled))
        })
    }

    /// Records that a purchase could not be served. One participant, so one-phase commit.
    pub fn refuse_order(
        &self,
        bearer: &Bearer,
        machine: &Machine,
        purchase: &Purchase,
        attempt: u32,
    ) -> Result<Transaction, GatewayError> {
        self.transact(Operation::RefuseOrder, bearer, machine, purchase, attempt, |txn| {
            work(txn, machine.orders.owner(purchase.order.0), OrderWork::new(purchase, Stage::Refused))
        })
    }

    fn transact(
        &self,
        operation: Operation,
        bearer: &Bearer,
        machine: &Machine,
        purchase: &Purchase,
        attempt: u32,
        works: impl FnOnce(&mut Transaction) -> Result<(), GatewayError>,
    ) -> Result<Transaction, GatewayError> {
        let customer = self.authorize(operation, bearer)?;
        if customer != purchase.customer {
            self.count(operation, |count| count.unauthorized += 1);
            return Err(GatewayError::Unauthorized);
        }
        let coordinator = machine.coordinator_ref().map_err(|_| GatewayError::Unavailable)?;
        let mut txn = coordinator.begin();
        self.faults.begins(txn.id().ordinal(), purchase.order, operation as u8, attempt);
        // On an error `txn` is dropped, which rolls it back.
        works(&mut txn).inspect_err(|error| {
            self.count(operation, |count| match error {
                GatewayError::SoldOut(_) | GatewayError::NoFunds(_) | GatewayError::Order(_) => count.refused += 1,
                _ => count.unavailable += 1,
            });
        })?;
        Ok(txn)
    }
}

/// Does a piece of work at a shard, under the transaction's branch there.
fn work<S: Service>(txn: &mut Transaction, shard: &Shard<S>, work: S::Work) -> Result<(), GatewayError>
where
    GatewayError: From<ExecuteError<S::Refusal>>,
{
    let branch = txn.branch(&shard.name)?;
    Ok(shard.with(|manager| manager.execute(branch, work)).ok_or(GatewayError::Unavailable)??)
}

/// Why a customer's request was not carried out.
#[derive(Debug, Error)]
pub enum GatewayError {
    #[error("the token is not valid; log in and try again")]
    Unauthorized,
    #[error(transparent)]
    SoldOut(GoodsRefusal),
    #[error(transparent)]
    NoFunds(PaymentRefusal),
    #[error(transparent)]
    Order(OrderRefusal),
    #[error("the shop is having trouble; try again")]
    Unavailable,
}

impl GatewayError {
    /// Whether another attempt would be refused again.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::SoldOut(_) | Self::NoFunds(_))
    }
}

impl From<BranchError> for GatewayError {
    fn from(_: BranchError) -> Self {
        Self::Unavailable
    }
}

macro_rules! from_refusal {
    ($refusal:ty, $variant:ident) => {
        impl From<ExecuteError<$refusal>> for GatewayError {
            fn from(error: ExecuteError<$refusal>) -> Self {
                match error {
                    ExecuteError::Refused(refusal) => Self::$variant(refusal),
                    _ => Self::Unavailable,
                }
            }
        }
    };
}
from_refusal!(GoodsRefusal, SoldOut);
from_refusal!(PaymentRefusal, NoFunds);
from_refusal!(OrderRefusal, Order);

/// Titles that the customer of this order may look at next.
pub fn recommended(order: OrderId) -> [Sku; 3] {
    let title =
        |n: u64| Sku((order.0.wrapping_mul(7).wrapping_add(n * 131) % u64::from(crate::purchases::TITLES)) as u32);
    [title(1), title(2), title(3)]
}
