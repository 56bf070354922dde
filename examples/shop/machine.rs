//! The machine on which everything runs: one transaction log, the shards of the three services, and
//! the coordinator. Shards crash and come back one by one; the machine does so as a whole.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ringpact::{
    Coordinator, HashRing, Policy, ResourceManager, RingKey, Service,
    participant::{OpenError, ResourceManagerStatus},
    txn::{CoordinatorStatus, Recovered},
};

use crate::{
    book::Book,
    faults::Faults,
    goods::Goods,
    machine_log::MachineLog,
    orders::{Orders, Stage},
    payments::Payments,
    purchases::{Day, OrderId},
    shard::{Shard, Wire},
};

/// Number of shards of each service.
const SHARDS: usize = 3;

/// Number of commits between two writings of a shard's book.
const CHECKPOINT_EVERY: usize = 500;

/// Short time-outs: in one process answers take microseconds, so a vote that is late does not come.
const POLICY: Policy = Policy::DEFAULT
    .prepare_timeout(Duration::from_millis(250))
    .delivery_timeout(Duration::from_secs(1))
    .first_backoff(Duration::from_millis(2))
    .longest_backoff(Duration::from_millis(50));

/// An error that ends the run.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A service: its shards, and the ring that says which shard has which key. The data stays in place
/// while a shard is down, so this ring never changes.
pub struct Sharded<S: Service> {
    pub ring: HashRing,
    pub shards: BTreeMap<String, Arc<Shard<S>>>,
}

impl<S: Service> Sharded<S> {
    fn new(service: &str) -> Result<Self, Failure> {
        let names: Vec<String> = (1..=SHARDS).map(|number| format!("{service}-{number}")).collect();
        let ring = HashRing::new(names.iter().map(String::as_str))?;
        let shards = names.into_iter().map(|name| (name.clone(), Arc::new(Shard::new(name)))).collect();
        Ok(Self { ring, shards })
    }

    /// Returns the shard that has this key's data.
    pub fn owner(&self, key: impl RingKey) -> &Arc<Shard<S>> {
        &self.shards[self.ring.owner(key).id().as_str()]
    }

    /// Calls `each` for every shard that is up.
    pub fn for_each(&self, mut each: impl FnMut(&ResourceManager<S>)) {
        for shard in self.shards.values() {
            shard.with(&mut each);
        }
    }

    /// Starts each shard that is down, and returns their names.
    fn start_all(
        &self,
        log: &Arc<MachineLog>,
        open: impl Fn(&str) -> std::io::Result<S>,
    ) -> Result<Vec<String>, Failure> {
        let mut started = Vec::new();
        for shard in self.shards.values().filter(|shard| !shard.is_up()) {
            let options = ResourceManager::<S>::options().checkpoint_every(CHECKPOINT_EVERY);
            let manager: Result<_, OpenError> = options.open(&shard.name, Arc::clone(log), open(&shard.name)?);
            shard.start(manager?);
            started.push(shard.name.clone());
        }
        Ok(started)
    }

    fn crash_all(&self) {
        self.shards.values().for_each(|shard| shard.crash());
    }
}

pub struct Machine {
    directory: PathBuf,
    day: Arc<Day>,
    faults: Arc<Faults>,
    pub goods: Sharded<Goods>,
    pub orders: Sharded<Orders>,
    pub payments: Sharded<Payments>,
    running: Option<Running>,
}

/// The state that a crash loses.
struct Running {
    coordinator: Coordinator,
    log: Arc<MachineLog>,
}

impl Machine {
    pub fn new(directory: &Path, day: Arc<Day>, faults: Arc<Faults>) -> Result<Self, Failure> {
        Ok(Self {
            directory: directory.to_owned(),
            day,
            faults,
            goods: Sharded::new("goods")?,
            orders: Sharded::new("orders")?,
            payments: Sharded::new("payments")?,
            running: None,
        })
    }

    /// Starts what is not running: everything after a crash of the machine, otherwise the shards
    /// that are down. Returns the names of the shards that it started.
    pub fn start(&mut self) -> Result<Vec<String>, Failure> {
        let log = match &self.running {
            Some(running) => Arc::clone(&running.log),
            None => Arc::new(MachineLog::open(&self.directory.join("log"), Arc::clone(&self.faults))?),
        };
        let book = |name: &str| Book::new(&self.directory, name);
        let mut started = self.goods.start_all(&log, |name| {
            let owned = |sku: u32| self.goods.ring.owner(sku).id().as_str() == name;
            let stock = || self.day.stock.iter().filter(|(sku, _)| owned(sku.0)).map(|(s, n)| (*s, *n)).collect();
            Goods::open(book(name), stock)
        })?;
        started.extend(self.orders.start_all(&log, |name| Orders::open(book(name)))?);
        started.extend(self.payments.start_all(&log, |name| {
            let owned = |customer: u32| self.payments.ring.owner(customer).id().as_str() == name;
            let own = || self.day.accounts.iter().filter(|(c, _)| owned(c.0)).map(|(c, n)| (*c, *n)).collect();
            Payments::open(book(name), own)
        })?);
        if self.running.is_none() {
            let coordinator = self.coordinator(&log)?;
            self.running = Some(Running { coordinator, log });
        }
        Ok(started)
    }

    fn coordinator(&self, log: &Arc<MachineLog>) -> Result<Coordinator, Failure> {
        let mut builder = Coordinator::builder(Arc::clone(log)).policy(POLICY);
        for shard in self.goods.shards.values() {
            builder = builder.endpoint(&shard.name, Wire::new(Arc::clone(shard), Arc::clone(&self.faults)));
        }
        for shard in self.orders.shards.values() {
            builder = builder.endpoint(&shard.name, Wire::new(Arc::clone(shard), Arc::clone(&self.faults)));
        }
        for shard in self.payments.shards.values() {
            builder = builder.endpoint(&shard.name, Wire::new(Arc::clone(shard), Arc::clone(&self.faults)));
        }
        Ok(builder.open()?)
    }

    fn running(&self) -> Result<&Running, Failure> {
        self.running.as_ref().ok_or_else(|| "the machine is down".into())
    }

    pub fn coordinator_ref(&self) -> Result<&Coordinator, Failure> {
        Ok(&self.running()?.coordinator)
    }

    pub fn log(&self) -> Result<&Arc<MachineLog>, Failure> {
        Ok(&self.running()?.log)
    }

    /// Crashes the machine: loses all memory, and the part of the log that is not on disk.
    pub fn crash(&mut self) {
        if let Some(running) = self.running.take() {
            running.log.crash();
            drop(running);
        }
        self.goods.crash_all();
        self.orders.crash_all();
        self.payments.crash_all();
    }

    /// Blocks until every transaction is settled everywhere.
    pub fn settle(&self) -> Result<(), Failure> {
        let coordinator = &self.running()?.coordinator;
        if coordinator.settle(Duration::from_secs(30)) {
            return Ok(());
        }
        Err(format!("still in doubt after 30 seconds: {}", coordinator.status()).into())
    }

    pub fn recovered(&self) -> Result<Recovered, Failure> {
        Ok(self.running()?.coordinator.recovered())
    }

    pub fn status(&self) -> Result<(CoordinatorStatus, ResourceManagerStatus), Failure> {
        let mut sum = ResourceManagerStatus::default();
        let mut add = |status: ResourceManagerStatus| {
            sum.active += status.active;
            sum.prepared += status.prepared;
            sum.settling += status.settling;
        };
        self.goods.for_each(|manager| add(manager.status()));
        self.orders.for_each(|manager| add(manager.status()));
        self.payments.for_each(|manager| add(manager.status()));
        Ok((self.running()?.coordinator.status(), sum))
    }

    pub fn stage(&self, order: OrderId) -> Option<Stage> {
        self.orders.owner(order.0).with(|manager| manager.service().stage(order)).flatten()
    }

    /// Writes all books and stops, so that there is nothing to recover.
    pub fn shut_down(mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        let mut note = |done: Result<(), Failure>| {
            if done.is_err() {
                result = done;
            }
        };
        self.goods.for_each(|manager| note(manager.checkpoint()));
        self.orders.for_each(|manager| note(manager.checkpoint()));
        self.payments.for_each(|manager| note(manager.checkpoint()));
        self.running = None;
        result
    }
}
