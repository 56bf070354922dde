//! Shards and keepers in other processes: all messages go through their wire form, on threads of their
//! own; a follower uses the shards of a cluster whose ring it does not keep; and clients are async.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    thread,
};

use parking_lot::Mutex;
use ringpact::{
    Coordinator, MemoryLog,
    participant::{Endpoint, Greeting, Pooled, Reply, Request},
    ring::{NodeId, RangeSet},
    sharding::{
        AssignmentFeed, Cluster, ClusterFollower, Connection, RouteError, ServiceClient, ShardError, ShardHost,
        shard_name,
    },
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger, position},
    town::{SOON, Stop, ring, slowly},
};

const KEYS: u32 = 40;
const FEW: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Sends everything through its wire form, as a network does.
struct Wire<E>(E);

impl<E: Endpoint> Endpoint for Wire<E> {
    fn send(&self, request: Request, reply: Reply) {
        let request = postcard::from_bytes(&postcard::to_stdvec(&request).unwrap()).unwrap();
        let back = Reply::new(move |answer| {
            let bytes = postcard::to_stdvec(&answer).unwrap();
            reply.send(postcard::from_bytes(&bytes).unwrap());
        });
        self.0.send(request, back);
    }
    // What comes from another process introduces itself by its calls.
    fn greet(&self, _: &Greeting) {}
}

/// The shards, each reached over a wire.
#[derive(Clone, Default)]
struct Far(Arc<Mutex<BTreeMap<String, Arc<ShardHost<Ledger>>>>>);

impl Far {
    fn connection(&self, node: &NodeId) -> Connection<Add> {
        let name = shard_name("sums", node).unwrap();
        let host = Arc::clone(self.0.lock().entry(node.to_string()).or_insert_with(|| {
            let ledger = Ledger::open(Kind::AtOnce, &Arc::default(), &Arc::new(Faults::default()));
            Arc::new(ShardHost::open(name.as_str(), MemoryLog::new(), ledger).unwrap())
        }));
        Connection::remote(Arc::new(Wire(Pooled::new(host, FEW))))
    }

    fn open(&self, nodes: &[&str]) -> (Cluster, ServiceClient<Add>) {
        let far = self.clone();
        let builder = Cluster::builder(MemoryLog::new()).name("keeper").first_ring(ring(nodes));
        let (builder, sums) = builder.service("sums", move |node: &NodeId| Ok(far.connection(node)));
        (builder.open().unwrap(), sums)
    }

    fn follow(&self, name: &str, feed: AssignmentFeed) -> (ClusterFollower, ServiceClient<Add>) {
        let far = self.clone();
        let builder = ClusterFollower::builder(MemoryLog::new(), Arc::new(Wire(feed))).name(name);
        let (builder, sums) = builder.service("sums", move |node: &NodeId| Ok(far.connection(node)));
        (builder.open().unwrap(), sums)
    }

    /// All keys, each at the node that owns it.
    fn sums(&self) -> BTreeMap<u32, i64> {
        let (mut found, mut owned) = (BTreeMap::new(), RangeSet::new());
        for (node, host) in &*self.0.lock() {
            for range in host.owned().iter() {
                assert!(!owned.overlaps(range), "{node} owns what another node owns, too");
                owned.insert(range);
            }
            for (key, sum) in host.shard().sums() {
                assert!(host.owned().contains(position(key)));
                assert_eq!(found.insert(key, sum), None);
            }
        }
        assert!(owned.is_full());
        found
    }
}

fn commit(coordinator: &Coordinator, client: &ServiceClient<Add>, key: u32, amount: i64) -> bool {
    let mut txn = coordinator.begin();
    let other = (key + KEYS / 2) % KEYS;
    for add in [Add { key, amount }, Add { key: other, amount: -amount }] {
        client.execute(&mut txn, add).unwrap();
    }
    let commit = txn.commit();
    let delivered = commit.delivered();
    let committed = commit.wait().is_ok();
    let _ = delivered.wait();
    committed
}

#[test]
fn keeper_and_followers_write_while_nodes_join_and_leave() {
    let far = Far::default();
    let (cluster, sums) = far.open(&["a", "b"]);
    for key in 0..KEYS {
        assert!(commit(cluster.coordinator(), &sums, key, 0));
    }
    let followers: Vec<_> = ["one", "two"].iter().map(|name| far.follow(name, cluster.feed())).collect();
    let expected: Vec<AtomicI64> = (0..KEYS).map(|_| AtomicI64::new(0)).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        let coordinators = followers.iter().map(|(follower, sums)| (follower.coordinator(), sums));
        for (number, (coordinator, sums)) in coordinators.chain([(cluster.coordinator(), &sums)]).enumerate() {
            let (expected, stop) = (&expected, &stop);
            scope.spawn(move || {
                let mut key = number as u32;
                while !stop.load(Ordering::Relaxed) {
                    key = (key + 3) % KEYS;
                    if commit(coordinator, sums, key, 1) {
                        expected[key as usize].fetch_add(1, Ordering::Relaxed);
                        expected[((key + KEYS / 2) % KEYS) as usize].fetch_sub(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for (join, leave) in [("c", "a"), ("d", "b"), ("e", "c")] {
            let plan = cluster.change().unwrap().join(join).leave(leave).plan().unwrap();
            let moving = plan.start(slowly()).unwrap();
            assert!(moving.wait(SOON), "{:?}", moving.progress());
        }
    });
    for (follower, client) in &followers {
        assert!(follower.coordinator().settle(SOON), "{}", follower.coordinator().status());
        follower.refresh();
        let (seen, kept) = (follower.assignment().load(), cluster.assignment().load());
        assert_eq!((seen.epoch(), seen.ring()), (kept.epoch(), kept.ring()));
        assert!(commit(follower.coordinator(), client, 1, 0));
    }
    assert!(cluster.coordinator().settle(SOON), "{}", cluster.coordinator().status());
    let expected: BTreeMap<_, _> = (0..).zip(&expected).map(|(key, sum)| (key, sum.load(Ordering::Relaxed))).collect();
    // A key that only ever got zeros was never written.
    let found: BTreeMap<_, _> = (0..KEYS).map(|key| (key, far.sums().get(&key).copied().unwrap_or(0))).collect();
    assert_eq!(found, expected);
}

/// Otherwise a process that runs for long would keep a connection to each node that there ever was.
#[test]
fn a_follower_lets_go_of_nodes_that_have_left_and_connects_again_if_they_come_back() {
    let far = Far::default();
    let (cluster, _) = far.open(&["a", "b"]);
    let connections = Arc::new(Mutex::new(Vec::new()));
    let (made, there) = (Arc::clone(&connections), far.clone());
    let builder = ClusterFollower::builder(MemoryLog::new(), Arc::new(Wire(cluster.feed()))).name("one");
    let (builder, sums) = builder.service("sums", move |node: &NodeId| {
        made.lock().push(node.to_string());
        Ok(there.connection(node))
    });
    let follower = builder.open().unwrap();
    let write = || (0..KEYS).for_each(|key| assert!(commit(follower.coordinator(), &sums, key, 1)));
    let change = |plan: ringpact::sharding::ChangeBuilder| {
        assert!(plan.plan().unwrap().start(slowly()).unwrap().wait(SOON));
        assert!(follower.coordinator().settle(SOON));
        follower.refresh();
        write();
    };
    change(cluster.change().unwrap().leave("a"));
    change(cluster.change().unwrap().join("a"));
    let connections = connections.lock();
    assert_eq!(connections.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "a"]);
}

/// Whether a new transaction may help is known of errors from far away, too.
#[test]
fn a_far_shard_says_what_it_refuses_and_whether_that_may_pass() {
    let far = Far::default();
    let (cluster, sums) = far.open(&["a"]);
    let mut txn = cluster.begin();
    let refused = sums.execute(&mut txn, Add { key: 1, amount: i64::MAX });
    let Err(RouteError::Shard(error @ ShardError::Refused(_))) = refused else { panic!("{refused:?}") };
    assert!(ringpact::error_chain(&error).contains("no more may be added"), "{error:?}");
    let tries = AtomicI64::new(0);
    let result = cluster.coordinator().run_blocking(|txn| {
        tries.fetch_add(1, Ordering::Relaxed);
        sums.execute(txn, Add { key: 1, amount: i64::MAX })?;
        Ok::<_, ringpact::txn::WorkError>(())
    });
    assert!(result.is_err());
    assert_eq!(tries.load(Ordering::Relaxed), 1, "the service's refusal comes again");
}

#[cfg(feature = "tokio")]
#[test]
fn tasks_write_while_a_node_joins_and_no_thread_waits_for_a_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let far = Far::default();
    let (cluster, sums) = far.open(&["a", "b"]);
    let (follower, followed) = far.follow("one", cluster.feed());
    let (cluster, follower) = (Arc::new(cluster), Arc::new(follower));
    let stop = Arc::new(AtomicBool::new(false));
    let mover = {
        let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
        thread::spawn(move || {
            let plan = cluster.change().unwrap().join("c").leave("a").plan().unwrap();
            let moving = plan.start(ringpact::sharding::Pace::new().chunk_bytes(60)).unwrap();
            assert!(moving.wait(SOON), "{:?}", moving.progress());
            stop.store(true, Ordering::Relaxed);
        })
    };
    // All tasks share one thread.
    let written: i64 = runtime.block_on(async {
        let tasks: Vec<_> = (0..16)
            .map(|task| {
                let (cluster, follower, stop) = (Arc::clone(&cluster), Arc::clone(&follower), Arc::clone(&stop));
                let client = if task % 2 == 0 { sums.clone() } else { followed.clone() };
                let key = task as u32 % KEYS;
                tokio::spawn(async move {
                    let mut written = 0;
                    while written == 0 || !stop.load(Ordering::Relaxed) {
                        let coordinator = if task % 2 == 0 { cluster.coordinator() } else { follower.coordinator() };
                        let mut txn = coordinator.begin_async().await;
                        client.execute_async(&mut txn, Add { key, amount: 1 }).await.unwrap();
                        written += i64::from(txn.commit().await.is_ok());
                    }
                    written
                })
            })
            .collect();
        let mut written = 0;
        for task in tasks {
            written += task.await.unwrap();
        }
        written
    });
    mover.join().unwrap();
    assert!(cluster.coordinator().settle(SOON) && follower.coordinator().settle(SOON));
    assert_eq!(far.sums().values().sum::<i64>(), written);
}
