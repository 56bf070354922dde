//! A node: its log, and one shard of each service. It can crash and come back.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::RwLock;
use ringpact::{
    BranchId, FileLog, HashRing, Name, Node as RingNode, ServiceError,
    participant::{Endpoint, Greeting, Inline, Reply, Request},
    ring::NodeId,
    sharding::{
        Connection, ShardError, ShardHost, ShardLink, ShardMoves, ShardRequest, ShardResponse, Tenure, shard_name,
    },
};

use crate::shelf::{Shelf, Take};

/// The services of the shop.
pub const SERVICES: [&str; 2] = ["goods", "accounts"];

/// What a process needs to know to start a node.
pub struct World {
    pub directory: PathBuf,
    /// The ring of the first day, by which the first records are spread.
    pub first_ring: HashRing,
    /// The first records of each service.
    pub first: [Vec<(u64, u64)>; 2],
    /// Number of chunks taken, and the one in whose middle the process is to die.
    pub taken: AtomicU64,
    pub crash_at: Option<u64>,
}

/// One node.
pub struct Node {
    name: String,
    world: Arc<World>,
    shards: [Arc<NodeShard>; 2],
}

/// A shard that may be down. A message to it then gets no answer.
pub struct NodeShard {
    host: RwLock<Option<Arc<ShardHost<Shelf>>>>,
    /// The coordinator, once it has introduced itself: where to ask what became of its transactions.
    coordinator: RwLock<Option<(Name, Arc<dyn Endpoint>)>>,
    world: Arc<World>,
}

impl Node {
    /// Starts the node on what is there of it.
    pub fn start(world: &Arc<World>, name: &str) -> Result<Self, ServiceError> {
        let shard = || {
            Arc::new(NodeShard { host: RwLock::new(None), coordinator: RwLock::new(None), world: Arc::clone(world) })
        };
        let node = Self { name: name.to_owned(), world: Arc::clone(world), shards: [shard(), shard()] };
        node.come_back()?;
        Ok(node)
    }

    /// Loses all that is in memory, as a crash does.
    pub fn crash(&self) {
        for shard in &self.shards {
            *shard.host.write() = None;
        }
    }

    /// Opens the shards again.
    pub fn come_back(&self) -> Result<(), ServiceError> {
        let directory = self.world.directory.join(&self.name);
        std::fs::create_dir_all(&directory)?;
        let log = Arc::new(FileLog::open(directory.join("log"))?);
        for ((service, first), shard) in SERVICES.iter().zip(&self.world.first).zip(&self.shards) {
            let shelf = Shelf::open(directory.join(service), first, &self.world.first_ring, &self.name)?;
            let name = shard_name(service, &NodeId::from(self.name.as_str()))?;
            let host = ShardHost::open(name.as_str(), Arc::clone(&log), shelf)?;
            // Before any work is done: so the shard learns which transactions began earlier and may have
            // lost work.
            if let Some((coordinator, verdicts)) = &*shard.coordinator.read() {
                host.set_verdict_endpoint(coordinator.clone(), Arc::clone(verdicts));
            }
            *shard.host.write() = Some(Arc::new(host));
        }
        Ok(())
    }

    pub fn shard(&self, service: usize) -> &Arc<NodeShard> {
        &self.shards[service]
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl NodeShard {
    /// Returns how the cluster reaches this shard.
    pub fn connection(self: &Arc<Self>) -> Connection<Take> {
        Connection::with_link(Arc::clone(self) as Arc<dyn ShardLink<Take>>, Arc::clone(self))
    }

    /// Calls the shard if it is up. A crash waits until the call has returned, so that no two shards of
    /// one name ever write to one log.
    pub fn with<R>(&self, call: impl FnOnce(&ShardHost<Shelf>) -> R) -> Option<R> {
        self.host.read().as_deref().map(call)
    }

    fn call<R>(&self, call: impl FnOnce(&ShardHost<Shelf>) -> Result<R, ShardError>) -> Result<R, ShardError> {
        self.with(call).unwrap_or(Err(ShardError::Unreachable))
    }
}

impl ShardMoves for NodeShard {
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError> {
        let is_take = matches!(request, ShardRequest::Take { .. });
        let result = self.call(|host| host.ask(request));
        if is_take && Some(self.world.taken.fetch_add(1, Ordering::Relaxed) + 1) == self.world.crash_at {
            eprintln!("cluster: the process dies in the middle of a chunk, as it was told to");
            std::process::abort();
        }
        result
    }
}

impl ShardLink<Take> for NodeShard {
    fn execute(&self, branch: &BranchId, known: Tenure, work: Take, patience: Duration) -> Result<(), ShardError> {
        self.call(|host| host.execute(branch, known, work, patience))
    }
}

impl Endpoint for NodeShard {
    fn send(&self, request: Request, reply: Reply) {
        let host = self.host.read();
        // Without a host the reply is dropped: the coordinator sees a broken connection.
        if let Some(host) = &*host {
            Inline::new(Arc::clone(host)).send(request, reply);
        }
    }

    fn greet(&self, greeting: &Greeting) {
        *self.coordinator.write() = Some((greeting.coordinator.clone(), Arc::clone(&greeting.verdicts)));
        self.with(|host| ringpact::Participant::greet(host, greeting));
    }
}

/// Returns the ring of these nodes.
pub fn ring_of(numbers: std::ops::RangeInclusive<u32>) -> HashRing {
    HashRing::new(numbers.map(|number| RingNode::new(node_name(number)))).expect("a few nodes of different names")
}

pub fn node_name(number: u32) -> String {
    format!("node-{number}")
}
