//! [`Town`]: a cluster over nodes that outlive it, on logs in memory.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, HashRing, LogId, MemoryLog, Name, ServiceError,
    participant::{Endpoint, Greeting, Inline, Reply, Request},
    ring::{NodeId, RangeSet},
    sharding::{
        Cluster, ClusterBuilder, ClusterError, Connection, MemoryRingStore, Pace, ServiceClient, ShardError, ShardHost,
        ShardLink, ShardMoves, ShardRequest, ShardResponse, Tenure, shard_name,
    },
};

use crate::ledger::{Add, Faults, Kind, Ledger, Saved, position};

/// Longest time that a test waits for a change.
pub const SOON: Duration = Duration::from_secs(60);

pub const SERVICES: [&str; 2] = ["goods", "accounts"];

/// Something that a test does at a call of a shard.
type Hook = Box<dyn Fn(u64) + Send + Sync>;

/// The shards of a town, by node and service.
type Shards = BTreeMap<(String, usize), Arc<TownShard>>;

/// All that outlives a cluster.
pub struct Town {
    pub log: MemoryLog,
    pub store: Arc<MemoryRingStore>,
    shards: Arc<Mutex<Shards>>,
    first: HashRing,
    /// Called at each take of a chunk, with its number.
    pub at_take: Arc<Mutex<Option<Hook>>>,
    /// Whether no message reaches a shard any more, because the process that sends them is dying.
    pub is_cut: Arc<AtomicBool>,
}

/// A shard of a town.
pub struct TownShard {
    name: String,
    log: Mutex<MemoryLog>,
    disk: Arc<Mutex<Saved>>,
    host: Mutex<Arc<ShardHost<Ledger>>>,
    /// Where to ask the coordinator what became of its transactions.
    coordinator: Mutex<Option<(Name, Arc<dyn Endpoint>)>>,
    takes: AtomicU64,
    at_take: Arc<Mutex<Option<Hook>>>,
    is_cut: Arc<AtomicBool>,
    /// Whether no message reaches this shard.
    pub is_away: AtomicBool,
}

pub struct Open {
    pub cluster: Cluster,
    pub services: [ServiceClient<Add>; 2],
}

/// The ring of these nodes, with few virtual nodes, so that its ranges are few.
pub fn ring(nodes: &[&str]) -> HashRing {
    HashRing::builder().virtual_nodes(4).nodes(nodes.iter().copied()).build().unwrap()
}

/// Tells threads to stop when it is dropped, also if the test fails: else the test would wait for them.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pace with small chunks, one after the other.
pub fn slowly() -> Pace {
    Pace::new().unthrottled().into_each(1).out_of_each(1).chunk_bytes(60)
}

impl Town {
    pub fn new(nodes: &[&str]) -> Self {
        Self {
            log: MemoryLog::new(),
            store: Arc::default(),
            shards: Arc::default(),
            first: ring(nodes),
            at_take: Arc::default(),
            is_cut: Arc::default(),
        }
    }

    /// The builder of the town's cluster, without its services.
    pub fn builder(&self) -> ClusterBuilder {
        let builder = Cluster::builder(self.log.clone()).name("town").store(Arc::clone(&self.store));
        builder.first_ring(self.first.clone())
    }

    pub fn open(&self) -> Open {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Open, ClusterError> {
        self.open_by(self.builder())
    }

    /// Opens it on a new log in place of a lost one.
    pub fn open_after_loss(&self, lost: LogId) -> Result<Open, ClusterError> {
        self.open_by(self.builder().replaces_log(lost))
    }

    fn open_by(&self, builder: ClusterBuilder) -> Result<Open, ClusterError> {
        let (builder, goods) = self.service(builder, 0);
        let (builder, accounts) = self.service(builder, 1);
        Ok(Open { cluster: builder.open()?, services: [goods, accounts] })
    }

    fn service(&self, builder: ClusterBuilder, service: usize) -> (ClusterBuilder, ServiceClient<Add>) {
        builder.service(SERVICES[service], self.connections(service))
    }

    /// Returns what connects to a service's shard on a node, and starts it if need be.
    pub fn connections(
        &self,
        service: usize,
    ) -> impl Fn(&NodeId) -> Result<Connection<Add>, ServiceError> + Send + Sync + 'static {
        let start = self.starter(service);
        move |node: &NodeId| {
            let shard = start(node);
            Ok(Connection::with_link(Arc::clone(&shard) as Arc<dyn ShardLink<Add>>, shard))
        }
    }

    /// Returns what finds a service's shard on a node, and starts it if need be.
    pub fn starter(&self, service: usize) -> impl Fn(&NodeId) -> Arc<TownShard> + Send + Sync + 'static {
        let (shards, at_take, is_cut) = (Arc::clone(&self.shards), Arc::clone(&self.at_take), Arc::clone(&self.is_cut));
        move |node: &NodeId| {
            let mut shards = shards.lock();
            let shard = shards.entry((node.to_string(), service)).or_insert_with(|| {
                let name = shard_name(SERVICES[service], node).unwrap();
                Arc::new(TownShard::new(name.as_str(), Arc::clone(&at_take), Arc::clone(&is_cut)))
            });
            Arc::clone(shard)
        }
    }

    /// Drops the cluster, and loses what its log has not synced, as a crash does.
    pub fn crash(&mut self, open: impl Sized) {
        self.is_cut.store(true, Ordering::SeqCst);
        drop(open);
        self.log = self.log.crash();
        self.is_cut.store(false, Ordering::SeqCst);
    }

    pub fn shard(&self, node: &str, service: usize) -> Arc<TownShard> {
        Arc::clone(&self.shards.lock()[&(node.to_owned(), service)])
    }

    pub fn crash_shards(&self) {
        for shard in self.shards.lock().values() {
            shard.crash();
        }
    }

    /// Returns the sum of each key of a service, and its node. Fails if positions have two owners or
    /// none, or if a shard has records that it does not own.
    pub fn sums(&self, service: usize) -> BTreeMap<u32, (String, i64)> {
        let (mut found, mut owned) = (BTreeMap::new(), RangeSet::new());
        for ((node, of), shard) in &*self.shards.lock() {
            if *of != service {
                continue;
            }
            let host = shard.host();
            let ranges = host.owned();
            for range in ranges.iter() {
                assert!(!owned.overlaps(range), "{node} owns what another node owns, too");
                owned.insert(range);
            }
            for (key, sum) in host.shard().sums() {
                assert!(ranges.contains(position(key)), "{node} has key {key} and does not own it");
                assert_eq!(found.insert(key, (node.clone(), sum)), None, "key {key} is at two nodes");
            }
        }
        assert!(owned.is_full(), "positions have no owner");
        found
    }

    /// Fails unless each key of both services is where this ring has it, with these sums.
    pub fn assert_is(&self, ring: &HashRing, sums: &BTreeMap<u32, i64>) {
        for service in 0..SERVICES.len() {
            let found = self.sums(service);
            assert_eq!(&found.iter().map(|(key, (_, sum))| (*key, *sum)).collect::<BTreeMap<_, _>>(), sums);
            for (key, (node, _)) in found {
                assert_eq!(ring.owner_at(position(key)).id().as_str(), node, "key {key}");
            }
        }
    }
}

impl Open {
    /// Adds to a key of both services, in one transaction.
    pub fn add(&self, key: u32, amount: i64) {
        let mut txn = self.cluster.begin();
        for service in &self.services {
            service.execute(&mut txn, Add { key, amount }).unwrap();
        }
        let commit = txn.commit();
        let delivered = commit.delivered();
        commit.wait().unwrap();
        delivered.wait().unwrap();
    }

    /// Gives each of the first keys of both services its own number. Returns the sums.
    pub fn fill(&self, keys: u32) -> BTreeMap<u32, i64> {
        (0..keys).for_each(|key| self.add(key, i64::from(key) + 1));
        (0..keys).map(|key| (key, i64::from(key) + 1)).collect()
    }

    /// Waits until the change is over and nothing is in doubt.
    pub fn settle(&self) {
        if let Some(moving) = self.cluster.moving() {
            assert!(moving.wait(SOON), "{:?}", moving.progress());
        }
        assert!(self.cluster.coordinator().settle(SOON), "{}", self.cluster.coordinator().status());
    }

    /// Waits until nodes that have left are out of the coordinator.
    pub fn see_off(&self) {
        let until = Instant::now() + SOON;
        while !self.cluster.leaving().is_empty() {
            assert!(Instant::now() < until, "{}", self.cluster.coordinator().status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl TownShard {
    fn new(name: &str, at_take: Arc<Mutex<Option<Hook>>>, is_cut: Arc<AtomicBool>) -> Self {
        let (log, disk) = (MemoryLog::new(), Arc::default());
        let host = Mutex::new(Self::start(name, &log, &disk));
        Self {
            name: name.to_owned(),
            log: Mutex::new(log),
            disk,
            host,
            coordinator: Mutex::default(),
            takes: AtomicU64::new(0),
            at_take,
            is_cut,
            is_away: AtomicBool::new(false),
        }
    }

    fn start(name: &str, log: &MemoryLog, disk: &Arc<Mutex<Saved>>) -> Arc<ShardHost<Ledger>> {
        let ledger = Ledger::open(Kind::InMemory, disk, &Arc::new(Faults::default()));
        Arc::new(ShardHost::open(name, log.clone(), ledger).unwrap())
    }

    pub fn host(&self) -> Arc<ShardHost<Ledger>> {
        Arc::clone(&self.host.lock())
    }

    fn reach(&self) -> Result<Arc<ShardHost<Ledger>>, ShardError> {
        let is_lost = [&*self.is_cut, &self.is_away].iter().any(|is_lost| is_lost.load(Ordering::SeqCst));
        if is_lost { Err(ShardError::Unreachable) } else { Ok(self.host()) }
    }

    /// Loses its disk and its log, and comes back.
    pub fn lose(&self) {
        *self.disk.lock() = Saved::default();
        *self.log.lock() = MemoryLog::new();
        self.crash();
    }

    /// Loses what is in memory, and comes back.
    pub fn crash(&self) {
        let (mut host, mut log) = (self.host.lock(), self.log.lock());
        *log = log.crash();
        *host = Self::start(&self.name, &log, &self.disk);
        if let Some((coordinator, verdicts)) = &*self.coordinator.lock() {
            host.set_verdict_endpoint(coordinator.clone(), Arc::clone(verdicts));
        }
    }
}

impl ShardMoves for TownShard {
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError> {
        let is_take = matches!(request, ShardRequest::Take { .. });
        let result = self.reach()?.ask(request);
        if is_take {
            let number = self.takes.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(hook) = &*self.at_take.lock() {
                hook(number);
            }
        }
        result
    }
}

impl ShardLink<Add> for TownShard {
    fn execute(&self, branch: &BranchId, known: Tenure, work: Add, patience: Duration) -> Result<(), ShardError> {
        self.reach()?.execute(branch, known, work, patience)
    }
}

impl Endpoint for TownShard {
    fn send(&self, request: Request, reply: Reply) {
        if let Ok(host) = self.reach() {
            Inline::new(host).send(request, reply);
        }
    }
    fn greet(&self, greeting: &Greeting) {
        *self.coordinator.lock() = Some((greeting.coordinator.clone(), Arc::clone(&greeting.verdicts)));
        ringpact::Participant::greet(&*self.host(), greeting);
    }
}
