//! The coordinator's side: the cluster over the goods processes, the payments beside it, and how goods processes join and leave.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    FileLog, HashRing, Policy,
    participant::{Endpoint, Reply, Request},
    ring::NodeId,
    sharding::{Cluster, ClusterVerdicts, Connection, FileRingStore, Moving, Pace, ServiceClient},
};

use crate::{
    Failure,
    shelf::Pick,
    transport::{MAX_REQUEST, Remote},
};

/// The coordinator's name. Participants must know it in advance, because they ask it for verdicts.
pub const COORDINATOR: &str = "shop";

/// Services come back after a moment here, so commits are repeated soon.
const POLICY: Policy = Policy::DEFAULT.longest_backoff(Duration::from_millis(500));

/// Maximum time until nothing is in doubt any more, and until a change has ended.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// Maximum number of bytes of articles that move in one transaction. One byte takes up to four characters in this transport's
/// JSON, so this is at most a quarter of what it carries, less some room for the rest of the message. Here it is far less, so
/// that a change takes many transactions and processes are killed in the middle of it.
const CHUNK_BYTES: u64 = 128;
const _: () = assert!(CHUNK_BYTES <= (MAX_REQUEST / 4 - (16 << 10)) as u64);

/// Returns the ring with which the shop begins.
pub fn first_ring() -> HashRing {
    HashRing::new(["node-1", "node-2"]).expect("two nodes of different names")
}

/// How the goods processes are reached, by node. It is filled before a node joins.
pub type Nodes = Arc<Mutex<BTreeMap<String, Remote>>>;

pub struct Shop {
    log: Arc<FileLog>,
    pub cluster: Cluster,
    pub goods: ServiceClient<Pick>,
    pub payments: Remote,
}

impl Shop {
    /// Opens the coordinator on what the directory holds. It goes on with what was under way.
    pub fn open(directory: &Path, nodes: &Nodes, payments: &Remote, desk: &Desk) -> Result<Self, Failure> {
        let log = Arc::new(FileLog::open(directory.join("coordinator"))?);
        let nodes = Arc::clone(nodes);
        let builder = Cluster::builder(Arc::clone(&log))
            .name(COORDINATOR)
            .policy(POLICY)
            .store(FileRingStore::open(directory.join("ring"))?)
            .first_ring(first_ring());
        // From here on participants get their answers, in the opening's own transaction as well.
        *desk.0.lock() = Some(builder.verdicts());
        let (builder, goods) = builder.service("goods", move |node: &NodeId| {
            let remote = nodes.lock().get(node.as_str()).cloned().ok_or("the process was not started")?;
            // Work, moves and the coordinator's messages all go this way.
            Ok(Connection::remote(Arc::new(remote)))
        });
        let cluster = builder.open()?;
        // Payments are in one process, which no ring finds.
        cluster.coordinator().add_endpoint("payments", payments.clone())?;
        Ok(Self { log, cluster, goods, payments: payments.clone() })
    }

    /// Blocks until no transaction is under way or in doubt.
    pub fn settle(&self) -> Result<(), Failure> {
        if self.cluster.coordinator().settle(SETTLED_WITHIN) {
            return Ok(());
        }
        Err(format!("still in doubt after {SETTLED_WITHIN:?}:\n{}", self.cluster.coordinator().status()).into())
    }

    /// Begins to move articles to a node that joins, whose process listens.
    pub fn join(&self, node: &str) -> Result<Moving, Failure> {
        Ok(self.cluster.change()?.join(node).plan()?.start(pace())?)
    }

    /// Begins to move all articles away from a node.
    pub fn leave(&self, node: &str) -> Result<Moving, Failure> {
        Ok(self.cluster.change()?.leave(node).plan()?.start(pace())?)
    }

    /// Blocks until no transaction names a node that has left. Then its process can be stopped.
    pub fn see_off(&self) -> Result<(), Failure> {
        let begun = Instant::now();
        while !self.cluster.leaving().is_empty() {
            if begun.elapsed() > SETTLED_WITHIN {
                return Err(format!("a node does not retire:\n{}", self.cluster.coordinator().status()).into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Shuts down, and returns the number of transactions that are in doubt.
    pub fn close(self) -> Result<usize, Failure> {
        let Self { mut log, cluster, .. } = self;
        let left = cluster.shutdown(SETTLED_WITHIN).in_doubt();
        drop(cluster);
        let begun = Instant::now();
        while begun.elapsed() < SETTLED_WITHIN {
            // The thread that takes the last answer may hold the log for a moment longer than the coordinator.
            match Arc::try_unwrap(log) {
                Ok(log) => return log.close().map(|()| left).map_err(Into::into),
                Err(shared) => log = shared,
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err("the coordinator's log is still in use".into())
    }
}

/// Answers questions for verdicts by the coordinator that is open. If there is none, it gives no answer.
#[derive(Clone, Default)]
pub struct Desk(Arc<Mutex<Option<ClusterVerdicts>>>);

impl Endpoint for Desk {
    fn send(&self, request: Request, reply: Reply) {
        let coordinator = self.0.lock().clone();
        if let Some(coordinator) = coordinator {
            coordinator.send(request, reply);
        }
    }
}

fn pace() -> Pace {
    Pace::new().chunk_bytes(CHUNK_BYTES)
}

/// Blocks until some of the change is done, but not all of it as a rule.
pub fn wait_for_a_chunk(moving: &Moving) {
    while moving.progress().chunks == 0 && !moving.wait(Duration::from_millis(1)) {}
}

/// Blocks until the change has ended. Returns how many articles it has moved.
pub fn wait_for_the_end(moving: &Moving) -> Result<u64, Failure> {
    if moving.wait(SETTLED_WITHIN) {
        return Ok(moving.progress().records);
    }
    Err(format!("the change has not ended in time: {:?}", moving.progress()).into())
}
