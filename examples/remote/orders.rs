//! The clients: each order takes pieces of an article from the goods service and cents from the payment service, in one
//! transaction. The cluster finds the process that has the article.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{CommitError, Transaction, error_chain, txn::BranchError};

use crate::{
    Failure,
    account::Take,
    participant::{NotDone, ServiceRequest},
    shelf::Pick,
    shop::Shop,
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

/// Number of articles.
const ARTICLES: u64 = 60;

/// Returns the article of an order.
const fn article(order: u64) -> u64 {
    order % ARTICLES
}

/// What there is before the first order.
pub struct Stock {
    /// The pieces of each article: enough for all orders.
    pub articles: BTreeMap<u64, u64>,
    /// Not enough money for all orders, so that some are refused after their goods were set aside.
    pub cents: u64,
}

impl Stock {
    /// Returns the stock for this number of orders.
    pub fn of(orders: u64) -> Self {
        let mut articles: BTreeMap<_, _> = (0..ARTICLES).map(|article| (article, 0)).collect();
        (0..orders).for_each(|order| *articles.entry(article(order)).or_default() += pieces(order));
        let cents = articles.values().sum::<u64>() * PRICE / 10 * 9;
        Self { articles, cents }
    }
}

/// How an order ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    Committed,
    /// A service had not enough left for the order.
    Refused,
}

pub struct Orders<'a> {
    shop: &'a Shop,
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
    /// Pieces of work that were not done, because a process was down or an article was on its way for too long.
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
    pub fn new(shop: &'a Shop, orders: u64) -> Self {
        let settled = (0..orders).map(|_| None).collect();
        Self {
            shop,
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
        let mut txn = self.shop.cluster.begin();
        let pieces = pieces(order);
        self.pick(&mut txn, Pick { order, article: article(order), pieces })?;
        self.pay(&mut txn, Take { order, amount: pieces * PRICE })?;
        match txn.commit().wait() {
            Ok(()) => Ok(()),
            Err(error @ CommitError::RolledBack { .. }) => {
                self.tally.rolled_back.fetch_add(1, Ordering::Relaxed);
                Err(Missed::Again(error_chain(&error)))
            }
            Err(error) => Err(Missed::Failed(error.into())),
        }
    }

    /// Has the process that has the article set pieces aside. While the article is on its way, this waits.
    fn pick(&self, txn: &mut Transaction, pick: Pick) -> Result<(), Missed> {
        // There is enough of each article. So what was not done now may be done in another transaction.
        self.shop.goods.execute(txn, pick).map_err(|error| {
            self.tally.unanswered.fetch_add(1, Ordering::Relaxed);
            Missed::Again(error_chain(&error))
        })
    }

    /// Sends the work to the payment service, together with the id of the branch under which it is done there.
    fn pay(&self, txn: &mut Transaction, take: Take) -> Result<(), Missed> {
        let branch = match txn.branch("payments") {
            Ok(branch) => branch.clone(),
            // The transaction has timed out, or the participant takes no new branches just now.
            Err(error @ (BranchError::Over { .. } | BranchError::Refused { .. })) => {
                return Err(Missed::Again(error.to_string()));
            }
            Err(error) => return Err(Missed::Failed(error.into())),
        };
        match self.shop.payments.ask::<Result<(), NotDone>>(&ServiceRequest::Work { branch, take }) {
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
