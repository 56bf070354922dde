//! The clients: each order takes pieces from the goods service and cents from the payment service,
//! in one transaction.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{CommitError, Coordinator, Transaction, error_chain, txn::BranchError};

use crate::{
    Failure,
    account::Take,
    participant::{NotDone, ServiceRequest},
    transport::Remote,
};

/// Number of clients. They work side by side, so that a service is killed in the middle of
/// something.
const CLIENTS: usize = 8;

/// Maximum time for one order. A service that is down for longer does not come back at all.
const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(10);

/// Price of a piece, in cents.
pub const PRICE: u64 = 1_999;

/// Returns the number of pieces of an order.
pub const fn pieces(order: u64) -> u64 {
    1 + order % 3
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Committed,
    /// A service had not enough left for the order.
    Refused,
}

pub struct Orders<'a> {
    pub coordinator: &'a Coordinator,
    pub goods: &'a Remote,
    pub payments: &'a Remote,
    next: AtomicU64,
    settled: Mutex<Vec<Option<Settled>>>,
    done: AtomicU64,
    /// Whether something failed that no repetition mends.
    failed: AtomicBool,
    pub tally: Tally,
}

/// Number of repetitions by reason.
#[derive(Debug, Default)]
pub struct Tally {
    /// Pieces of work that got no answer.
    pub unanswered: AtomicU64,
    /// Commits that ended in a rollback.
    pub rolled_back: AtomicU64,
}

/// Tells the other clients, when dropped, that an order has failed; also if its client panicked.
struct Unsettled<'a>(&'a AtomicBool);

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Why an attempt did not commit.
enum Missed {
    Refused,
    /// The transaction is rolled back, for this reason. The next attempt is another transaction.
    Again(String),
    Failed(Failure),
}

impl<'a> Orders<'a> {
    pub fn new(coordinator: &'a Coordinator, goods: &'a Remote, payments: &'a Remote, orders: u64) -> Self {
        let settled = (0..orders).map(|_| None).collect();
        Self {
            coordinator,
            goods,
            payments,
            next: AtomicU64::new(0),
            settled: Mutex::new(settled),
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            tally: Tally::default(),
        }
    }

    /// Places all orders, while `meanwhile` runs on this thread.
    pub fn place_all(&self, meanwhile: impl FnOnce() -> Result<(), Failure>) -> Result<Vec<Settled>, Failure> {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| self.client())).collect();
            let meanwhile = meanwhile();
            self.failed.fetch_or(meanwhile.is_err(), Ordering::Relaxed);
            // If both failed, the error of a client is the cause of the other.
            let clients = clients.into_iter().map(|client| client.join().map_err(|_| "a client has panicked")?);
            clients.collect::<Result<(), Failure>>().and(meanwhile)
        })?;
        self.settled.lock().iter().map(|settled| settled.ok_or_else(|| "an order was left".into())).collect()
    }

    /// Blocks until this number of orders is settled.
    pub fn wait_for(&self, orders: u64) -> Result<(), Failure> {
        while self.done.load(Ordering::Relaxed) < orders {
            if self.failed.load(Ordering::Relaxed) {
                return Err("an order has failed".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn client(&self) -> Result<(), Failure> {
        loop {
            let order = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(place) = usize::try_from(order).ok().filter(|place| *place < self.settled.lock().len()) else {
                return Ok(());
            };
            let unsettled = Unsettled(&self.failed);
            let settled = self.settle(order)?;
            std::mem::forget(unsettled);
            self.settled.lock()[place] = Some(settled);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn settle(&self, order: u64) -> Result<Settled, Failure> {
        let begun = Instant::now();
        while !self.failed.load(Ordering::Relaxed) {
            match self.attempt(order) {
                Ok(()) => return Ok(Settled::Committed),
                Err(Missed::Refused) => return Ok(Settled::Refused),
                Err(Missed::Failed(error)) => return Err(error),
                Err(Missed::Again(_)) if begun.elapsed() < PATIENCE => thread::sleep(PAUSE),
                Err(Missed::Again(why)) => return Err(format!("order {order} can't be settled: {why}").into()),
            }
        }
        Err("another order has failed".into())
    }

    /// Runs one transaction. If this returns before the commit, the transaction is rolled back.
    fn attempt(&self, order: u64) -> Result<(), Missed> {
        let mut txn = self.coordinator.begin();
        let pieces = pieces(order);
        self.work(&mut txn, "goods", self.goods, Take { order, amount: pieces })?;
        self.work(&mut txn, "payments", self.payments, Take { order, amount: pieces * PRICE })?;
        match txn.commit().wait() {
            Ok(()) => Ok(()),
            Err(error @ CommitError::RolledBack { .. }) => {
                self.tally.rolled_back.fetch_add(1, Ordering::Relaxed);
                Err(Missed::Again(error_chain(&error)))
            }
            Err(error) => Err(Missed::Failed(error.into())),
        }
    }

    /// Sends the work to its service, together with the id of the branch under which it is done
    /// there.
    fn work(&self, txn: &mut Transaction, name: &str, service: &Remote, take: Take) -> Result<(), Missed> {
        let branch = match txn.branch(name) {
            Ok(branch) => branch.clone(),
            // The transaction has timed out, or the participant takes no new branches just now.
            Err(error @ (BranchError::Over { .. } | BranchError::Refused { .. })) => {
                return Err(Missed::Again(error.to_string()));
            }
            Err(error) => return Err(Missed::Failed(error.into())),
        };
        match service.ask::<Result<(), NotDone>>(&ServiceRequest::Work { branch, take }) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotDone::Refused(_))) => Err(Missed::Refused),
            Ok(Err(NotDone::Closed(why))) => Err(Missed::Again(why)),
            Err(error) => {
                self.tally.unanswered.fetch_add(1, Ordering::Relaxed);
                Err(Missed::Again(error_chain(&error)))
            }
        }
    }
}
