//! The log of a cluster's or a follower's coordinator is gone for good, or is an older copy.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use ringpact::{
    MemoryLog, ServiceError,
    ring::NodeId,
    sharding::{
        AssignmentFeed, Cluster, ClusterBuilder, ClusterError, ClusterFollower, Connection, FollowerBuilder,
        MemoryRingStore, ServiceClient, ShardHost, shard_name,
    },
    txn::{CoordinatorError, Transaction},
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger},
    town::{SOON, ring, slowly},
};

/// Shards of this process, which outlive the coordinators.
#[derive(Clone, Default)]
struct Shards(Arc<Mutex<BTreeMap<NodeId, Arc<ShardHost<Ledger>>>>>);

impl Shards {
    fn connect(&self) -> impl Fn(&NodeId) -> Result<Connection<Add>, ServiceError> + Send + Sync + 'static {
        let shards = self.clone();
        move |node: &NodeId| {
            let host = Arc::clone(shards.0.lock().entry(node.clone()).or_insert_with(|| {
                let ledger = Ledger::open(Kind::AtOnce, &Arc::default(), &Arc::new(Faults::default()));
                let name = shard_name("goods", node).unwrap();
                Arc::new(ShardHost::open(name.as_str(), MemoryLog::new(), ledger).unwrap())
            }));
            Ok(Connection::local(host))
        }
    }

    fn cluster(&self, log: &MemoryLog, store: &Arc<MemoryRingStore>) -> (ClusterBuilder, ServiceClient<Add>) {
        let builder = Cluster::builder(log.clone()).name("town").store(Arc::clone(store));
        builder.first_ring(ring(&["a", "b"])).service("goods", self.connect())
    }

    fn follower(&self, log: &MemoryLog, feed: AssignmentFeed) -> (FollowerBuilder, ServiceClient<Add>) {
        ClusterFollower::builder(log.clone(), Arc::new(feed)).name("desk").service("goods", self.connect())
    }
}

fn write(mut txn: Transaction, goods: &ServiceClient<Add>) {
    (0..20).for_each(|key| goods.execute(&mut txn, Add { key, amount: 1 }).unwrap());
    txn.commit().wait().unwrap();
}

fn is_refused<T>(opened: &Result<T, ClusterError>) -> bool {
    matches!(opened, Err(ClusterError::Coordinator(error)) if matches!(**error, CoordinatorError::Refused { .. }))
}

#[test]
fn a_cluster_goes_on_with_a_log_that_replaces_a_lost_one() {
    let (shards, store, lost) = (Shards::default(), Arc::default(), MemoryLog::new());
    let (builder, goods) = shards.cluster(&lost, &store);
    let cluster = builder.open().unwrap();
    assert!(cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    write(cluster.begin(), &goods);
    cluster.checkpoint().unwrap();
    drop(cluster);

    let log = MemoryLog::new();
    assert!(is_refused(&shards.cluster(&log, &store).0.open()));
    let (builder, goods) = shards.cluster(&log, &store);
    let cluster = builder.replaces_log(ringpact::TransactionLog::id(&lost)).open().unwrap();
    write(cluster.begin(), &goods);
    assert!(cluster.change().unwrap().leave("a").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    write(cluster.begin(), &goods);
    drop(cluster);

    // Once they have accepted the new log, the old one is another one.
    assert!(is_refused(&shards.cluster(&lost.crash(), &store).0.open()));
}

#[test]
fn a_follower_goes_on_with_a_new_log_and_with_an_older_copy() {
    let (shards, store, log) = (Shards::default(), Arc::default(), MemoryLog::new());
    let cluster = shards.cluster(&log, &store).0.open().unwrap();
    let lost = MemoryLog::new();
    let (builder, goods) = shards.follower(&lost, cluster.feed());
    let follower = builder.open().unwrap();
    write(follower.begin(), &goods);
    drop(follower);

    let log = MemoryLog::new();
    assert!(is_refused(&shards.follower(&log, cluster.feed()).0.open()));
    let (builder, goods) = shards.follower(&log, cluster.feed());
    let follower = builder.replaces_log(ringpact::TransactionLog::id(&lost)).open().unwrap();
    write(follower.begin(), &goods);
    let older_copy = log.crash();
    drop(follower);
    let (builder, goods) = shards.follower(&log.crash(), cluster.feed());
    let follower = builder.open().unwrap();
    write(follower.begin(), &goods);
    drop(follower);

    assert!(is_refused(&shards.follower(&older_copy, cluster.feed()).0.open()));
    let (builder, goods) = shards.follower(&older_copy, cluster.feed());
    let follower = builder.log_was_restored().open().unwrap();
    write(follower.begin(), &goods);
}
