//! The shop: goods and accounts, divided over nodes, sharded or not.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, FileLog, HashRing, MemoryLog, Node, ResourceManager, Service, ServiceError, Transaction,
    TransactionLog,
    ring::{KeyHasher, NodeId, Position, PositionRange, Xxh3},
    sharding::{
        ByPosition, Cluster, Connection, Export, GateImage, Keyed, MemoryRingStore, Moving, Pace, Records,
        ServiceClient, Shard, ShardHost,
    },
};
use serde::{Deserialize, Serialize};

use crate::log::failed;

/// Number of nodes before one joins.
pub const NODES: usize = 4;

/// The services, all of which are on each node.
pub const SERVICES: [&str; 2] = ["goods", "accounts"];

/// Number of threads of each shard whose log is a file.
const THREADS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// The node that joins.
pub const JOINS: &str = "node-5";

/// Adds to the record of one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Add {
    pub key: u64,
    pub pieces: i64,
}

impl Keyed for Add {
    fn position(&self) -> Position {
        position(self.key)
    }
}

/// Returns the position of a key.
pub fn position(key: u64) -> Position {
    Xxh3::default().hash_key(&key.to_le_bytes())
}

/// A record of about a kibibyte: what a row of a shop has.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    pieces: i64,
    #[serde(with = "serde_bytes")]
    rest: Vec<u8>,
}

/// Records in memory. A checkpoint costs nothing, sharded or not: what a service writes then is its own.
#[derive(Default)]
pub struct Shelf(Mutex<ByPosition<u64, Record>>);

impl Shelf {
    /// Returns a shelf with these keys.
    fn with(keys: impl Iterator<Item = u64>, record_bytes: usize) -> Self {
        let mut records = ByPosition::new();
        keys.for_each(|key| drop(records.insert(key, Record { pieces: 0, rest: vec![7; record_bytes] })));
        Self(Mutex::new(records))
    }

    /// Returns the number of records, and the sum of their pieces.
    pub fn count(&self) -> (usize, i64) {
        let records = self.0.lock();
        records.iter().fold((0, 0), |(count, pieces), (_, record)| (count + 1, pieces + record.pieces))
    }
}

/// A key that is not on the shelf.
#[derive(Debug)]
pub struct Absent(#[expect(dead_code, reason = "for the message")] u64);

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Absent {}

impl Service for Shelf {
    type Work = Add;
    type Refusal = Absent;

    fn try_reserve(&self, _branch: &BranchId, add: &Add) -> Result<(), Absent> {
        self.0.lock().get(&add.key).map(|_| ()).ok_or(Absent(add.key))
    }

    fn confirm(&self, _branch: &BranchId, adds: &[Add]) -> Result<(), ServiceError> {
        let mut records = self.0.lock();
        for add in adds {
            records.get_mut(&add.key).ok_or("a record that was promised is gone")?.pieces += add.pieces;
        }
        Ok(())
    }

    fn cancel(&self, _branch: &BranchId, _adds: &[Add]) -> Result<(), ServiceError> {
        Ok(())
    }
}

impl Shard for Shelf {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        self.0.lock().export(range, into)
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        self.0.lock().import(range, records)
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        self.0.lock().discard(range);
        Ok(())
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(GateImage::new())
    }

    fn save(&self, image: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        drop(image());
        Ok(())
    }
}

/// Bytes under a key: what a plain transaction writes that is to carry as much as a chunk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Blob {
    pub key: u64,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// A service that keeps bytes.
#[derive(Default)]
pub struct Blobs(Mutex<BTreeMap<u64, Vec<u8>>>);

impl Service for Blobs {
    type Work = Blob;
    type Refusal = Infallible;

    fn try_reserve(&self, _branch: &BranchId, _blob: &Blob) -> Result<(), Infallible> {
        Ok(())
    }

    fn confirm(&self, _branch: &BranchId, blobs: &[Blob]) -> Result<(), ServiceError> {
        let mut kept = self.0.lock();
        for blob in blobs {
            kept.insert(blob.key, blob.bytes.clone());
        }
        Ok(())
    }

    fn cancel(&self, _branch: &BranchId, _blobs: &[Blob]) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// Where logs are.
#[derive(Clone)]
pub enum Logs {
    /// In this directory, one for each node and one for the coordinator.
    Files(PathBuf),
    /// In memory, as many.
    Memory,
}

impl Logs {
    pub fn open(&self, name: &str) -> io::Result<Arc<dyn TransactionLog>> {
        Ok(match self {
            Self::Files(directory) => Arc::new(FileLog::open(directory.join(name)).map_err(failed)?),
            Self::Memory => Arc::new(MemoryLog::new()),
        })
    }
}

/// How many records there are, and how large they are.
#[derive(Clone, Copy, Debug)]
pub struct Stock {
    pub keys: u64,
    pub record_bytes: usize,
}

impl Stock {
    fn of(self, ring: &HashRing, node: &str) -> Shelf {
        Shelf::with((0..self.keys).filter(|key| ring.owner_at(position(*key)).id() == node), self.record_bytes)
    }
}

/// Returns the ring of the first nodes.
pub fn first_ring() -> HashRing {
    HashRing::new((1..=NODES).map(|number| Node::new(format!("node-{number}")))).expect("a few nodes")
}

/// One node of the sharded shop.
#[derive(Clone)]
struct Place {
    log: Arc<dyn TransactionLog>,
    hosts: [Arc<ShardHost<Shelf>>; 2],
}

/// The sharded shop.
pub struct Sharded {
    pub cluster: Cluster,
    pub clients: [ServiceClient<Add>; 2],
    places: Arc<Mutex<BTreeMap<NodeId, Place>>>,
    blobs: Mutex<BTreeMap<NodeId, [Arc<ResourceManager<Blobs>>; 2]>>,
}

impl Sharded {
    pub fn open(logs: &Logs, stock: Stock) -> io::Result<Self> {
        let places: Arc<Mutex<BTreeMap<NodeId, Place>>> = Arc::default();
        let mut builder =
            Cluster::builder(logs.open("coordinator")?).store(MemoryRingStore::new()).first_ring(first_ring());
        let mut clients = Vec::new();
        for (service, name) in SERVICES.into_iter().enumerate() {
            let (logs, places) = (logs.clone(), Arc::clone(&places));
            let connect = move |id: &NodeId| {
                let mut places = places.lock();
                let place = match places.get(id) {
                    Some(place) => place.clone(),
                    None => {
                        let place = Place::start(&logs, id, stock)?;
                        places.insert(id.clone(), place.clone());
                        place
                    }
                };
                let host = Arc::clone(&place.hosts[service]);
                // One that waits for a log of its own gets threads of its own.
                Ok(match &logs {
                    Logs::Files(_) => Connection::slow(host, THREADS),
                    Logs::Memory => Connection::local(host),
                })
            };
            let (next, client) = builder.service(name, connect);
            builder = next;
            clients.push(client);
        }
        let cluster = builder.open().map_err(|error| failed(ringpact::error_chain(&error)))?;
        let clients = clients.try_into().expect("one for each service");
        Ok(Self { cluster, clients, places, blobs: Mutex::default() })
    }

    /// Starts the join of the fifth node.
    pub fn join(&self, pace: Pace) -> io::Result<Moving> {
        let change = self.cluster.change().map_err(failed)?;
        change
            .join(JOINS)
            .plan()
            .and_then(|plan| plan.start(pace))
            .map_err(|error| failed(ringpact::error_chain(&error)))
    }

    /// Has the fifth node leave again, and blocks until it has.
    pub fn leave(&self) -> io::Result<()> {
        let change = self.cluster.change().map_err(failed)?;
        let plan = change.leave(JOINS).plan().map_err(failed)?;
        wait(&plan.start(Pace::new().unthrottled()).map_err(failed)?)?;
        // Until it is out of the coordinator. A join would wait for that.
        std::thread::sleep(std::time::Duration::from_millis(200));
        Ok(())
    }

    /// Returns the keys that the join of the fifth node moves.
    pub fn moving_keys(&self, stock: Stock) -> io::Result<Vec<u64>> {
        let plan = self.cluster.change().map_err(failed)?.join(JOINS).plan().map_err(failed)?;
        let after = plan.after();
        Ok((0..stock.keys).filter(|key| after.owner_at(position(*key)).id() == JOINS).collect())
    }

    /// Returns the fewest bytes that the join can move.
    pub fn bytes_to_join(&self) -> io::Result<u64> {
        self.cluster.change().and_then(|change| change.join(JOINS).plan()?.bytes()).map_err(failed)
    }

    pub fn host(&self, service: usize, node: &NodeId) -> Arc<ShardHost<Shelf>> {
        Arc::clone(&self.places.lock()[node].hosts[service])
    }

    /// Commits a transaction that writes as much as a chunk from `from` to the fifth node: a name at
    /// `from`, and `bytes` in all at the fifth node, for both services, into the same logs.
    pub fn write_like_a_chunk(&self, from: usize, key: u64, bytes: u64) -> io::Result<()> {
        let ids = [NodeId::from(format!("node-{from}").as_str()), NodeId::from(JOINS)];
        let mut txn = self.cluster.begin();
        for (id, length) in ids.iter().zip([32, bytes / 2]) {
            let managers = self.blobs(id)?;
            for manager in &managers {
                let branch = txn.branch(manager.name()).map_err(failed)?;
                let blob = Blob { key: key % 64, bytes: vec![7; length as usize] };
                manager.execute(branch, blob).map_err(failed)?;
            }
        }
        txn.commit().wait().map(drop).map_err(failed)
    }

    fn blobs(&self, id: &NodeId) -> io::Result<[Arc<ResourceManager<Blobs>>; 2]> {
        let mut blobs = self.blobs.lock();
        if let Some(found) = blobs.get(id) {
            return Ok(found.clone());
        }
        let log = Arc::clone(&self.places.lock()[id].log);
        let open = |service: &str| {
            let name = format!("blobs-{service}.{id}");
            let manager = ResourceManager::open(&name, Arc::clone(&log), Blobs::default()).map_err(failed)?;
            let manager = Arc::new(manager);
            let added = self.cluster.coordinator().add_slow_participant(&name, Arc::clone(&manager), THREADS);
            added.map_err(failed)?;
            Ok::<_, io::Error>(manager)
        };
        let opened = [open(SERVICES[0])?, open(SERVICES[1])?];
        blobs.insert(id.clone(), opened.clone());
        Ok(opened)
    }

    /// Checks that nothing was lost or doubled, after this number of committed pieces of each service.
    pub fn check(&self, stock: Stock, committed: [u64; 2]) -> io::Result<()> {
        if !self.cluster.coordinator().settle(std::time::Duration::from_secs(30)) {
            return Err(failed(self.cluster.coordinator().status()));
        }
        for (service, committed) in committed.into_iter().enumerate() {
            let places = self.places.lock();
            let counts = places.values().map(|place| place.hosts[service].shard().count());
            let found = counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
            if found != (stock.keys as usize, committed as i64) {
                return Err(failed(format!("{found:?} records and pieces, not {} and {committed}", stock.keys)));
            }
        }
        Ok(())
    }
}

impl Place {
    fn start(logs: &Logs, id: &NodeId, stock: Stock) -> Result<Self, ServiceError> {
        let log = logs.open(id.as_str())?;
        let host = |service: &str| {
            let shelf = stock.of(&first_ring(), id.as_str());
            ShardHost::open(&format!("{service}.{id}"), Arc::clone(&log), shelf).map(Arc::new)
        };
        let hosts = [host(SERVICES[0])?, host(SERVICES[1])?];
        Ok(Self { log, hosts })
    }
}

/// Blocks until the change has ended.
pub fn wait(moving: &Moving) -> io::Result<()> {
    if moving.wait(std::time::Duration::from_secs(300)) {
        return Ok(());
    }
    Err(failed(format!("the change does not end: {:?}", moving.progress())))
}

/// The same services on the same nodes, found by the same ring, and not sharded: they can't move.
pub struct Plain {
    pub coordinator: Coordinator,
    ring: HashRing,
    managers: BTreeMap<NodeId, [Arc<ResourceManager<Shelf>>; 2]>,
}

impl Plain {
    pub fn open(logs: &Logs, stock: Stock) -> io::Result<Self> {
        let ring = first_ring();
        let mut builder = Coordinator::builder(logs.open("coordinator")?);
        let mut managers = BTreeMap::new();
        for node in ring.nodes() {
            let log = logs.open(node.id().as_str())?;
            let open = |service: &str| {
                let name = format!("{service}.{}", node.id());
                ResourceManager::open(&name, Arc::clone(&log), stock.of(&ring, node.id().as_str())).map(Arc::new)
            };
            let both = [open(SERVICES[0]).map_err(failed)?, open(SERVICES[1]).map_err(failed)?];
            for manager in &both {
                builder = match logs {
                    Logs::Files(_) => builder.slow_participant(manager.name().as_str(), Arc::clone(manager), THREADS),
                    Logs::Memory => builder.participant(manager.name().as_str(), Arc::clone(manager)),
                };
            }
            managers.insert(node.id().clone(), both);
        }
        Ok(Self { coordinator: builder.open().map_err(failed)?, ring, managers })
    }

    /// Finds the branch for a key.
    #[inline]
    pub fn route(&self, txn: &mut Transaction, service: usize, key: u64) -> BranchId {
        let manager = &self.managers[self.ring.owner_at(position(key)).id()][service];
        txn.branch(manager.name()).expect("it is a participant").clone()
    }

    /// Has the service's resource manager do the work.
    #[inline]
    pub fn execute(&self, txn: &mut Transaction, service: usize, add: Add) {
        let manager = &self.managers[self.ring.owner_at(add.position()).id()][service];
        let branch = txn.branch(manager.name()).expect("it is a participant");
        manager.execute(branch, add).expect("the key is there");
    }
}

/// A shop that clients buy in.
pub trait Buy: Sync {
    fn begin(&self) -> Transaction;
    /// Takes a piece from each service.
    fn work(&self, txn: &mut Transaction, keys: [u64; 2]) -> Result<(), String>;

    /// Returns whether the transaction was committed.
    fn buy(&self, keys: [u64; 2]) -> bool {
        let mut txn = self.begin();
        match self.work(&mut txn, keys) {
            Ok(()) => txn.commit().wait().is_ok(),
            Err(_) => false,
        }
    }
}

impl Buy for Sharded {
    fn begin(&self) -> Transaction {
        self.cluster.begin()
    }
    fn work(&self, txn: &mut Transaction, keys: [u64; 2]) -> Result<(), String> {
        for (client, key) in self.clients.iter().zip(keys) {
            client.execute(txn, Add { key, pieces: 1 }).map_err(|error| ringpact::error_chain(&error))?;
        }
        Ok(())
    }
}

impl Buy for Plain {
    fn begin(&self) -> Transaction {
        self.coordinator.begin()
    }
    fn work(&self, txn: &mut Transaction, keys: [u64; 2]) -> Result<(), String> {
        (0..keys.len()).for_each(|service| self.execute(txn, service, Add { key: keys[service], pieces: 1 }));
        Ok(())
    }
}

/// Returns the directory of a fresh shop.
pub fn files(directory: &Path) -> Logs {
    Logs::Files(directory.to_owned())
}
