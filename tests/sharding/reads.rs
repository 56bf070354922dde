//! Clients read outside of transactions, at shards of this process and of others, while keys move.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    MemoryLog, ServiceError,
    participant::{Endpoint, Pooled, Reply, Request},
    ring::NodeId,
    sharding::{
        Cluster, ClusterFollower, Connection, GateRefusal, RouteError, ServiceClient, ShardHost, Tenure, shard_name,
    },
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger, Sum, UNREADABLE, position},
    town::{SOON, Stop, ring, slowly},
};

const KEYS: u32 = 40;
const FEW: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Shards, reached in this process or over a wire.
#[derive(Clone, Default)]
struct Shards {
    hosts: Arc<Mutex<BTreeMap<NodeId, Arc<ShardHost<Ledger>>>>>,
    is_far: bool,
    /// Whether new shards answer no questions.
    is_mute: bool,
}

/// Sends everything through its wire form.
struct Wire<E>(E);

impl<E: Endpoint> Endpoint for Wire<E> {
    fn send(&self, request: Request, reply: Reply) {
        let request = postcard::from_bytes(&postcard::to_stdvec(&request).unwrap()).unwrap();
        let back = Reply::new(move |answer| {
            reply.send(postcard::from_bytes(&postcard::to_stdvec(&answer).unwrap()).unwrap());
        });
        self.0.send(request, back);
    }
}

impl Shards {
    fn host(&self, node: &NodeId) -> Arc<ShardHost<Ledger>> {
        Arc::clone(self.hosts.lock().entry(node.clone()).or_insert_with(|| {
            let ledger = Ledger::open(Kind::InMemory, &Arc::default(), &Arc::new(Faults::default()));
            let name = shard_name("goods", node).unwrap();
            let host = ShardHost::open(name.as_str(), MemoryLog::new(), ledger).unwrap();
            Arc::new(if self.is_mute { host } else { host.with_reads() })
        }))
    }

    fn connect(&self) -> impl Fn(&NodeId) -> Result<Connection<Add>, ServiceError> + Send + Sync + 'static {
        let shards = self.clone();
        move |node: &NodeId| {
            let host = shards.host(node);
            Ok(match shards.is_far {
                true => Connection::remote(Arc::new(Wire(Pooled::new(host, FEW)))),
                false => Connection::local(host),
            })
        }
    }

    fn open(&self) -> (Cluster, ServiceClient<Add>) {
        let builder = Cluster::builder(MemoryLog::new()).name("town").first_ring(ring(&["a", "b"]));
        let (builder, goods) = builder.service("goods", self.connect());
        (builder.open().unwrap(), goods)
    }
}

fn fill(cluster: &Cluster, goods: &ServiceClient<Add>) {
    let mut txn = cluster.begin();
    (0..KEYS).for_each(|key| goods.execute(&mut txn, Add { key, amount: i64::from(key) + 1 }).unwrap());
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.wait().unwrap();
    delivered.wait().unwrap();
}

/// Invariant: a key that exists is never absent, and one that does not exist never found, while all keys move.
#[test]
fn a_read_finds_its_key_wherever_it_moves() {
    for is_far in [false, true] {
        let shards = Shards { is_far, ..Shards::default() };
        let (cluster, goods) = shards.open();
        fill(&cluster, &goods);
        let builder = ClusterFollower::builder(MemoryLog::new(), Arc::new(cluster.feed())).name("desk");
        let (builder, followed) = builder.service("goods", shards.connect());
        let _follower = builder.open().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for client in [&goods, &followed] {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        for key in 0..KEYS {
                            assert_eq!(client.read(Sum { key }).unwrap(), Some(i64::from(key) + 1));
                        }
                        assert_eq!(client.read(Sum { key: KEYS }).unwrap(), None);
                    }
                });
            }
            for (join, leave) in [("c", "a"), ("d", "b"), ("a", "c"), ("b", "d")] {
                let plan = cluster.change().unwrap().join(join).leave(leave).plan().unwrap();
                assert!(plan.start(slowly()).unwrap().wait(SOON));
            }
        });
        // All of it has moved since the follower last heard of it.
        let plan = cluster.change().unwrap().join("e").leave("a").leave("b").plan().unwrap();
        assert!(plan.start(slowly()).unwrap().wait(SOON));
        assert_eq!(followed.read_within(Sum { key: 7 }, SOON).unwrap(), Some(8));
    }
}

/// What a client would have to wait for longer than it wants, it is told.
#[test]
fn a_read_waits_for_a_sealed_key_and_no_longer_than_it_may() {
    for is_far in [false, true] {
        let shards = Shards { is_far, ..Shards::default() };
        let (cluster, goods) = shards.open();
        fill(&cluster, &goods);
        let (node, _) = goods.locate(position(3)).unwrap();
        let (host, txn) = (shards.host(&node), cluster.begin());
        let branch = txn.id().branch(host.name());
        host.release(&branch, &crate::ledger::only(3), Tenure::new(99), &NodeId::from("x"), Duration::ZERO).unwrap();
        let refused = goods.read_within(Sum { key: 3 }, Duration::from_millis(20)).unwrap_err();
        assert!(matches!(refused, RouteError::Refused { refusal: GateRefusal::Moving, .. }), "{refused:?}");
        assert!(refused.is_moving());
        assert_eq!(goods.read(Sum { key: 4 }).unwrap(), Some(5), "others are read");
        thread::scope(|scope| {
            let read = scope.spawn(|| goods.read_within(Sum { key: 3 }, SOON).unwrap());
            thread::sleep(Duration::from_millis(20));
            let call = ringpact::Call::new(ringpact::LogId::from_bytes([7; 16]));
            ringpact::Participant::rollback(&*host, &branch, &call).unwrap();
            assert_eq!(read.join().unwrap(), Some(4));
        });
    }
}

#[test]
fn a_shard_that_can_not_read_says_why() {
    for is_far in [false, true] {
        let (_cluster, goods) = Shards { is_far, ..Shards::default() }.open();
        let failed = goods.read(Sum { key: UNREADABLE }).unwrap_err();
        assert!(ringpact::error_chain(&failed).contains("the page is damaged"), "{failed:?}");
        assert!(!failed.is_refusal() && !failed.is_unreachable());
        let (_cluster, goods) = Shards { is_far, is_mute: true, ..Shards::default() }.open();
        let failed = goods.read(Sum { key: 1 }).unwrap_err();
        assert!(ringpact::error_chain(&failed).contains("`ShardHost::with_reads`"), "{failed:?}");
    }
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_read_while_keys_move_and_no_thread_waits_for_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for is_far in [false, true] {
        let (cluster, goods) = Shards { is_far, ..Shards::default() }.open();
        fill(&cluster, &goods);
        let stop = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                let _stop = Stop(&stop);
                let plan = cluster.change().unwrap().join("c").leave("a").leave("b").plan().unwrap();
                assert!(plan.start(slowly()).unwrap().wait(SOON));
            });
            runtime.block_on(async {
                let tasks: Vec<_> = (0..8)
                    .map(|task| {
                        let (goods, stop) = (goods.clone(), Arc::clone(&stop));
                        tokio::spawn(async move {
                            while !stop.load(Ordering::Relaxed) {
                                for key in task..KEYS {
                                    assert_eq!(goods.read_async(Sum { key }).await.unwrap(), Some(i64::from(key) + 1));
                                }
                                tokio::task::yield_now().await;
                            }
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
        });
    }
}
