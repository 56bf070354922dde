//! What all services of the shop are made of: articles, each with its stock, and which branch has taken how much.
//!
//! It keeps its state in memory and writes it down at checkpoints, as [`Service`] allows. Along the way it watches the
//! resource manager keep its side of the contract.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use ringpact::{BranchId, Service, ServiceError, participant::Effort};
use serde::{Deserialize, Serialize};

use super::{host::Life, ledger::Books, mutants::Mutant};

/// Stock of each article.
pub const STOCK: u64 = 40;

/// Articles of each service.
pub const ARTICLES: u8 = 3;

/// The article that never runs out.
pub const PLENTY: u8 = ARTICLES;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    pub article: u8,
    /// How many; none to have a look.
    pub quantity: u64,
    /// What they are worth, which is what the services must agree upon.
    pub value: u64,
}

impl Work {
    pub const fn changes(&self) -> bool {
        self.quantity > 0
    }
}

#[derive(Debug)]
pub struct SoldOut;

impl fmt::Display for SoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sold out")
    }
}

impl std::error::Error for SoldOut {}

/// The service whose reservations survive a restart.
const LASTING: &str = "payments";

/// What a store has written down; it survives its host.
#[derive(Clone, Default)]
pub struct Book {
    sold: Arc<Mutex<Books>>,
    /// What it has set aside, if it writes that down at once, as a database does.
    reserved: Option<Arc<Mutex<Books>>>,
}

impl Book {
    pub fn of(service: &str) -> Self {
        Self { reserved: (service == LASTING).then(Arc::default), ..Self::default() }
    }
}

pub struct Store {
    life: Arc<Life>,
    book: Book,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reserved: Books,
    sold: Books,
    /// What has become of each branch since the store was opened.
    seen: BTreeMap<BranchId, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Reserved,
    Sold,
    Cancelled,
}

impl State {
    fn free(&self, article: u8, stock: u64) -> Option<u64> {
        if article == PLENTY {
            return Some(u64::MAX);
        }
        let works = self.reserved.values().chain(self.sold.values()).flatten();
        let taken: u64 = works.filter(|work| work.article == article).map(|work| work.quantity).sum();
        stock.checked_sub(taken)
    }
}

impl Store {
    pub fn open(life: &Arc<Life>, book: &Book) -> Self {
        let reserved = book.reserved.as_ref().map(|reserved| reserved.lock().clone()).unwrap_or_default();
        let seen = reserved.keys().map(|branch| (branch.clone(), Seen::Reserved)).collect();
        let state = State { sold: book.sold.lock().clone(), reserved, seen };
        Self { life: Arc::clone(life), book: book.clone(), state: Mutex::new(state) }
    }

    /// Writes down what is set aside, where that is done at once.
    fn write_reserved(&self, state: &State) {
        if let Some(reserved) = self.book.reserved.as_ref().filter(|_| self.life.is_alive()) {
            reserved.lock().clone_from(&state.reserved);
        }
    }

    /// Where there are more purchases, there is more to be had.
    fn stock(&self) -> u64 {
        STOCK * self.life.world.plan.busier
    }

    pub fn sold(&self) -> Books {
        self.state.lock().sold.clone()
    }

    pub fn reserved(&self) -> Vec<BranchId> {
        self.state.lock().reserved.keys().cloned().collect()
    }

    fn check(&self, branch: &BranchId, fine: bool, what: &str, seen: Option<Seen>) {
        // What happens in a process that has crashed has not happened.
        if !fine && self.life.is_alive() {
            self.life.world.is_wrong(format_args!("{branch} was asked to {what}, after {seen:?}"));
        }
    }

    fn fail_now_and_then(&self) -> Result<(), ServiceError> {
        let world = &self.life.world;
        if world.faulty() && world.clock.once_in(world.plan.service_fails) {
            return Err("the service has a bad moment".into());
        }
        Ok(())
    }

    fn reserve(&self, branch: &BranchId, works: &[Work]) -> Result<(), SoldOut> {
        let mut state = self.state.lock();
        let seen = state.seen.get(branch).copied();
        self.check(branch, matches!(seen, None | Some(Seen::Reserved)), "reserve", seen);
        for work in works.iter().filter(|work| work.changes()) {
            if state.free(work.article, self.stock()).is_none_or(|free| free < work.quantity) {
                return Err(SoldOut);
            }
            state.seen.insert(branch.clone(), Seen::Reserved);
            state.reserved.entry(branch.clone()).or_default().push(*work);
        }
        self.write_reserved(&state);
        Ok(())
    }

    fn sell(&self, branch: &BranchId, works: &[Work]) {
        let mut state = self.state.lock();
        let changes: Vec<_> = works.iter().copied().filter(Work::changes).collect();
        let seen = state.seen.insert(branch.clone(), Seen::Sold);
        // After a restart commits are repeated without a reservation; else there must be one, and it must be this one.
        let fine = match seen {
            Some(Seen::Reserved) => state.reserved.get(branch) == Some(&changes),
            Some(Seen::Sold | Seen::Cancelled) => false,
            None => true,
        };
        self.check(branch, fine, "confirm", seen);
        state.reserved.remove(branch);
        self.write_reserved(&state);
        state.sold.insert(branch.clone(), changes);
        let oversold = (0..ARTICLES).find(|article| state.free(*article, self.stock()).is_none());
        if let Some(article) = oversold {
            self.life.world.is_wrong(format_args!("article {article} is oversold by {branch}"));
        }
    }
}

impl Service for Store {
    type Work = Work;
    type Refusal = SoldOut;

    fn effort(&self, work: &Work) -> Effort {
        if work.changes() { Effort::Update } else { Effort::ReadOnly }
    }

    fn try_reserve(&self, branch: &BranchId, work: &Work) -> Result<(), SoldOut> {
        let world = &self.life.world;
        if world.faulty() && world.clock.once_in(world.plan.try_blocks) {
            world.clock.sleep((super::MS * 1_500).mul_f64(world.clock.draw(fastrand::Rng::f64)));
        }
        self.reserve(branch, std::slice::from_ref(work))
    }

    fn confirm(&self, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        self.fail_now_and_then()?;
        self.sell(branch, works);
        if self.life.world.is_mutated(Mutant::ConfirmsTwice) {
            self.sell(branch, works);
        }
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[Work]) -> Result<(), ServiceError> {
        self.fail_now_and_then()?;
        let mut state = self.state.lock();
        let seen = state.seen.insert(branch.clone(), Seen::Cancelled);
        self.check(branch, seen != Some(Seen::Sold), "cancel", seen);
        state.reserved.remove(branch);
        self.write_reserved(&state);
        Ok(())
    }

    fn restore(&self, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        if self.book.reserved.is_some() {
            return Ok(());
        }
        Ok(self.reserve(branch, works)?)
    }

    fn opened(&self, promised: &[BranchId]) -> Result<(), ServiceError> {
        if self.life.world.is_mutated(Mutant::KeepsWhatIsVoid) {
            return Ok(());
        }
        let mut state = self.state.lock();
        state.reserved.retain(|branch, _| promised.contains(branch));
        state.seen.retain(|branch, seen| *seen != Seen::Reserved || promised.contains(branch));
        self.write_reserved(&state);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        self.fail_now_and_then()?;
        let sold = self.sold();
        let world = &self.life.world;
        world.clock.sleep(world.clock.draw(|random| super::MS.mul_f64(random.f64())));
        if !self.life.is_alive() {
            return Err("the machine is off".into());
        }
        *self.book.sold.lock() = sold;
        Ok(())
    }
}
