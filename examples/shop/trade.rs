//! A day's trade: each purchase is created, paid and confirmed, wave by wave, until all are
//! settled.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ringpact::{Commit, CommitError, Transaction};

use crate::{
    faults::Faults,
    gateway::{Bearer, Gateway, GatewayError, LEASE, Listing, Operation, recommended},
    machine::{Failure, Machine},
    orders::Stage,
    purchases::{Day, OrderId, Purchase},
};

/// Number of transactions that are under way at once. They share the log's syncs.
const WAVE: usize = 64;

/// Number of times that an order's creation or payment is tried before the shop gives the order up.
const MAX_ATTEMPTS: u32 = 6;

/// Number of failures of one step at which the run stops with an error. Chance does not cause so
/// many.
const MAX_TRIES: u32 = 1_000;

/// The counts of this run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub committed: u64,
    pub rolled_back: u64,
    pub by_operation: HashMap<Operation, [u64; 2]>,
    pub shard_crashes: u64,
    pub machine_crashes: u64,
    pub expired: usize,
    /// What recovery did after crashes of the machine: decisions delivered again, branches rolled
    /// back.
    pub redelivered: usize,
    pub undone: usize,
    /// What the last customer that looked at titles saw.
    pub window: Vec<Listing>,
}

pub struct Trade<'a> {
    pub machine: &'a mut Machine,
    pub gateway: &'a mut Gateway,
    pub faults: Arc<Faults>,
    pub day: Arc<Day>,
    pub clock: Instant,
    pub tally: Tally,
    attempts: HashMap<(OrderId, Operation), u32>,
    given_up: HashSet<OrderId>,
}

/// A transaction of a wave, before and after it is committed.
struct Step<'a, T> {
    purchase: &'a Purchase,
    operation: Operation,
    target: Stage,
    state: T,
}

impl<'a, T> Step<'a, T> {
    fn with<U>(self, f: impl FnOnce(T) -> U) -> Step<'a, U> {
        Step { purchase: self.purchase, operation: self.operation, target: self.target, state: f(self.state) }
    }
}

/// Whether a transaction took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Yes,
    No,
    /// The answer was lost in the crash of the machine; the order's stage tells.
    Unknown,
}

impl<'a> Trade<'a> {
    pub fn new(
        machine: &'a mut Machine,
        gateway: &'a mut Gateway,
        faults: Arc<Faults>,
        day: Arc<Day>,
        clock: Instant,
    ) -> Self {
        Self {
            machine,
            gateway,
            faults,
            day,
            clock,
            tally: Tally::default(),
            attempts: HashMap::new(),
            given_up: HashSet::new(),
        }
    }

    /// Trades until every purchase is settled. Calls `progress` now and then with the number of
    /// settled purchases.
    pub fn run(&mut self, mut progress: impl FnMut(u64)) -> Result<(), Failure> {
        let day = Arc::clone(&self.day);
        let open = |machine: &Machine, purchase: &Purchase| !machine.stage(purchase.order).is_some_and(Stage::is_end);
        let mut todo: VecDeque<&Purchase> = day.purchases.iter().filter(|p| open(self.machine, p)).collect();
        let total = day.purchases.len() as u64;
        for wave in 0.. {
            if todo.is_empty() {
                break;
            }
            progress(total - todo.len() as u64);
            let purchases: Vec<&Purchase> = todo.drain(..WAVE.min(todo.len())).collect();
            self.gateway.heartbeat(self.machine, self.clock)?;
            self.wave(wave, &purchases)?;
            self.browse(&purchases)?;
            self.restart()?;
            for purchase in purchases.into_iter().rev().filter(|p| open(self.machine, p)) {
                todo.push_front(purchase);
            }
        }
        progress(total);
        Ok(())
    }

    fn wave(&mut self, wave: u64, purchases: &[&Purchase]) -> Result<(), Failure> {
        let mut begun = Vec::with_capacity(purchases.len());
        for purchase in purchases {
            begun.extend(self.begin(purchase)?);
        }
        let crash = self.faults.machine_crash(wave, begun.len());
        let results = match crash {
            None => {
                // All are started before the first is waited for.
                let commits: Vec<_> = begun.into_iter().map(|step| step.with(Transaction::commit)).collect();
                commits.into_iter().map(|step| step.with(wait)).collect()
            }
            Some(on_disk) => self.crash_while_committing(begun, on_disk)?,
        };
        for step in results {
            self.note(&step);
        }
        Ok(())
    }

    /// Begins the purchase's next operation, and returns it with its transaction open; `None` if
    /// the shop refuses.
    fn begin<'p>(&mut self, purchase: &'p Purchase) -> Result<Option<Step<'p, Transaction>>, Failure> {
        let given_up = self.given_up.contains(&purchase.order);
        let (operation, target) = match self.machine.stage(purchase.order) {
            None if given_up => (Operation::RefuseOrder, Stage::Refused),
            None => (Operation::CreateOrder, Stage::Created),
            Some(Stage::Created) if given_up => (Operation::CancelOrder, Stage::Cancelled),
            Some(Stage::Created) => (Operation::PayOrder, Stage::Paid),
            Some(_) => (Operation::ConfirmPayment, Stage::Shipped),
        };
        let attempt = self.attempts.entry((purchase.order, operation)).or_default();
        *attempt += 1;
        let attempt = *attempt;
        if attempt > MAX_TRIES {
            return Err(format!("{}: {} failed {MAX_TRIES} times", purchase.order, operation.name()).into());
        }
        let may_give_up = matches!(operation, Operation::CreateOrder | Operation::PayOrder);
        if may_give_up && attempt >= MAX_ATTEMPTS {
            self.given_up.insert(purchase.order);
        }
        let mut bearer = self.gateway.token(purchase.customer);
        if purchase.order.0 % 97 == 13 && attempt == 1 {
            // A mistyped token: the gateway must refuse it. The next attempt has the right one.
            bearer = Bearer(bearer.0 + "0");
        }
        let call = match operation {
            Operation::CreateOrder => Gateway::create_order,
            Operation::PayOrder => Gateway::pay_order,
            Operation::ConfirmPayment => Gateway::confirm_payment,
            Operation::CancelOrder => Gateway::cancel_order,
            Operation::RefuseOrder | Operation::ListGoods => Gateway::refuse_order,
        };
        match call(self.gateway, &bearer, self.machine, purchase, attempt) {
            Ok(txn) => Ok(Some(Step { purchase, operation, target, state: txn })),
            Err(error) => {
                if error.is_final() && may_give_up && !matches!(error, GatewayError::Unauthorized) {
                    self.given_up.insert(purchase.order);
                }
                if !matches!(error, GatewayError::Unauthorized) {
                    self.count(operation, Taken::No);
                }
                Ok(None)
            }
        }
    }

    /// Crashes the machine when all decisions are made and none is carried out, with `on_disk` of
    /// the wave's records on disk; then starts it again.
    fn crash_while_committing<'p>(
        &mut self,
        begun: Vec<Step<'p, Transaction>>,
        on_disk: u64,
    ) -> Result<Vec<Step<'p, Taken>>, Failure> {
        let log = Arc::clone(self.machine.log()?);
        log.hold_back_after(on_disk);
        let commits: Vec<_> = begun.into_iter().map(|step| step.with(Transaction::commit)).collect();
        drop(log);
        self.machine.crash();
        let lost = commits.into_iter().map(|step| step.with(|_lost_answer| Taken::Unknown)).collect();
        self.tally.machine_crashes += 1;
        self.faults.all_over();
        self.machine.start()?;
        self.machine.settle()?;
        let recovered = self.machine.recovered()?;
        self.tally.redelivered += recovered.committed;
        self.tally.undone += recovered.rolled_back;
        Ok(lost)
    }

    fn note(&mut self, step: &Step<'_, Taken>) {
        let reached = || match self.machine.stage(step.purchase.order) == Some(step.target) {
            true => Taken::Yes,
            false => Taken::No,
        };
        let taken = match step.state {
            Taken::Unknown => reached(),
            known => known,
        };
        self.count(step.operation, taken);
    }

    fn count(&mut self, operation: Operation, taken: Taken) {
        let by_operation = self.tally.by_operation.entry(operation).or_default();
        match taken {
            Taken::Yes => {
                self.tally.committed += 1;
                by_operation[0] += 1;
            }
            Taken::No | Taken::Unknown => {
                self.tally.rolled_back += 1;
                by_operation[1] += 1;
            }
        }
    }

    /// The wave's customers look at more titles: half of them before the gateway knows which shards
    /// are down, half of them afterwards.
    fn browse(&mut self, purchases: &[&Purchase]) -> Result<(), Failure> {
        let (before, after) = purchases.split_at(purchases.len() / 2);
        self.look(before);
        self.clock += LEASE / 2;
        self.gateway.heartbeat(self.machine, self.clock)?;
        self.clock += LEASE / 2 + Duration::from_secs(1);
        self.tally.expired += self.gateway.expire(self.clock);
        self.look(after);
        Ok(())
    }

    fn look(&mut self, purchases: &[&Purchase]) {
        for purchase in purchases {
            let bearer = self.gateway.token(purchase.customer);
            // A customer that gets no answer goes on without one; the gateway has counted it.
            if let Ok(listings) =
                self.gateway.list_goods(&bearer, self.machine, &recommended(purchase.order), self.clock)
            {
                self.tally.window = listings;
            }
        }
    }

    /// Starts the shards that are down, and blocks until what they missed is settled.
    fn restart(&mut self) -> Result<(), Failure> {
        self.faults.let_crash(false);
        let started = self.machine.start()?;
        self.tally.shard_crashes += started.len() as u64;
        self.machine.settle()?;
        self.faults.let_crash(true);
        self.faults.all_over();
        Ok(())
    }
}

fn wait(commit: Commit) -> Taken {
    match commit.wait() {
        Ok(()) => Taken::Yes,
        Err(CommitError::RolledBack { .. }) => Taken::No,
        Err(_) => Taken::Unknown,
    }
}
