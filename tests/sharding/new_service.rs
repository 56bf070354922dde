//! A service is added to a cluster that has a ring already: at rest, in the middle of a change, with crashes while
//! its shards get their ranges; and what must not be taken for a new service.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use ringpact::{
    BranchId,
    participant::{Endpoint, Greeting, Reply, Request, Verb},
    ring::NodeId,
    sharding::{
        Cluster, ClusterError, Connection, ServiceClient, ShardError, ShardLink, ShardMoves, ShardRequest,
        ShardResponse, Tenure,
    },
};

use crate::{
    ledger::{Add, only},
    town::{SOON, Town, TownShard, slowly},
};

const KEYS: u32 = 40;
const GOODS: usize = 0;
const ACCOUNTS: usize = 1;

/// The town's cluster as it was before it had accounts.
fn open_goods(town: &Town) -> (Cluster, ServiceClient<Add>) {
    let (builder, goods) = town.builder().service("goods", town.connections(GOODS));
    (builder.open().unwrap(), goods)
}

fn fill(cluster: &Cluster, goods: &ServiceClient<Add>) {
    let mut txn = cluster.begin();
    (0..KEYS).for_each(|key| goods.execute(&mut txn, Add { key, amount: i64::from(key) + 1 }).unwrap());
    txn.commit().wait().unwrap();
}

/// Fails unless the shards of both services on each of these nodes own the same.
fn assert_together(town: &Town, nodes: &[&str]) {
    for node in nodes {
        let owned = |service| town.shard(node, service).host().owned();
        assert_eq!(owned(GOODS), owned(ACCOUNTS), "{node}");
    }
}

#[test]
fn a_service_that_comes_later_owns_what_the_ring_gives_it() {
    let mut town = Town::new(&["a", "b"]);
    let (cluster, goods) = open_goods(&town);
    fill(&cluster, &goods);
    let change = || cluster.change().unwrap();
    assert!(change().join("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    let pinned = only(3).iter().next().unwrap();
    assert!(change().pin(pinned, "b").leave("a").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    while !cluster.leaving().is_empty() {
        std::thread::yield_now();
    }
    town.crash(cluster);

    let open = town.open();
    assert_together(&town, &["b", "c"]);
    (0..KEYS).for_each(|key| open.add(key, 1));
    let plan = open.cluster.change().unwrap().join("d").leave("c").plan().unwrap();
    assert!(plan.start(slowly()).unwrap().wait(SOON));
    assert!(town.sums(ACCOUNTS).values().all(|(_, sum)| *sum == 1));
    assert_eq!(town.sums(GOODS)[&5].1, 7);
    assert_eq!(town.sums(ACCOUNTS)[&3].0, "b", "the pin holds for both");
}

/// Each position is where the assignment has it: what has moved, at the new node.
#[test]
fn a_service_may_come_in_the_middle_of_a_change_and_of_one_that_goes_back() {
    for is_cancelled in [false, true] {
        let mut town = Town::new(&["a", "b", "c"]);
        let (cluster, goods) = open_goods(&town);
        fill(&cluster, &goods);
        let before = cluster.assignment().load().ring().clone();
        let plan = cluster.change().unwrap().join("d").leave("a").plan().unwrap();
        let after = if is_cancelled { before } else { plan.after().clone() };
        let moving = plan.start(slowly().bytes_per_second(300)).unwrap();
        while moving.progress().chunks < 5 {
            assert!(!moving.wait(Duration::from_millis(1)));
        }
        moving.pause().unwrap();
        if is_cancelled {
            moving.cancel().unwrap();
            moving.pause().unwrap();
        }
        drop(moving);
        town.crash(cluster);

        let open = town.open();
        let moving = open.cluster.moving().unwrap();
        assert!(moving.progress().is_paused && moving.progress().fraction < 1.0);
        assert_together(&town, &["a", "b", "c", "d"]);
        assert!(!town.shard("d", ACCOUNTS).host().owned().is_empty());
        (0..KEYS).for_each(|key| open.add(key, 1));
        moving.set_pace(slowly()).unwrap();
        moving.resume().unwrap();
        assert!(moving.wait(SOON), "{:?}", moving.progress());
        open.settle();
        for service in [GOODS, ACCOUNTS] {
            for (key, (node, sum)) in town.sums(service) {
                assert_eq!(after.owner_at(crate::ledger::position(key)).id().as_str(), node, "key {key}");
                assert_eq!(sum, if service == GOODS { i64::from(key) + 2 } else { 1 });
            }
        }
    }
}

/// A shard whose process, or whose cluster's, dies at the adoption with this number.
struct Fatal {
    shard: Arc<TownShard>,
    adoptions: Arc<AtomicU32>,
    dies_at: u32,
    /// Whether no commit arrives: the cluster dies when it has decided.
    loses_commits: bool,
}

impl Endpoint for Fatal {
    fn send(&self, request: Request, reply: Reply) {
        if !(self.loses_commits && matches!(request, Request::Branch { verb: Verb::Commit, .. })) {
            self.shard.send(request, reply);
        }
    }
    fn greet(&self, greeting: &Greeting) {
        self.shard.greet(greeting);
    }
}

impl ShardMoves for Fatal {
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError> {
        let is_adoption = matches!(request, ShardRequest::Adopt { .. });
        let result = self.shard.ask(request);
        if is_adoption {
            assert!(self.adoptions.fetch_add(1, Ordering::SeqCst) + 1 != self.dies_at, "planted");
        }
        result
    }
}

impl ShardLink<Add> for Fatal {
    fn execute(&self, branch: &BranchId, known: Tenure, work: Add, patience: Duration) -> Result<(), ShardError> {
        self.shard.execute(branch, known, work, patience)
    }
}

/// Opens the cluster with accounts, whose shards are fatal.
fn open_fatally(town: &Town, dies_at: u32, loses_commits: bool) -> Result<Cluster, ClusterError> {
    let (builder, _) = town.builder().service("goods", town.connections(GOODS));
    let (start, adoptions) = (town.starter(ACCOUNTS), Arc::new(AtomicU32::new(0)));
    let (builder, _) = builder.service("accounts", move |node: &NodeId| {
        let fatal = || Fatal { shard: start(node), adoptions: Arc::clone(&adoptions), dies_at, loses_commits };
        Ok(Connection::with_link(Arc::new(fatal()) as Arc<dyn ShardLink<Add>>, fatal()))
    });
    builder.open()
}

/// Invariant: whichever adoption the cluster dies at, and whether or not the shards die with it, the next
/// opening does the rest.
#[test]
fn a_crash_while_the_shards_get_their_ranges_leaves_nothing_to_be_done_by_hand() {
    // The fourth never comes: the commits get lost instead.
    for (dies_at, shards_die) in [(1, false), (2, true), (3, false), (3, true), (4, true)] {
        let mut town = Town::new(&["a", "b", "c"]);
        let (cluster, goods) = open_goods(&town);
        fill(&cluster, &goods);
        town.crash(cluster);
        let opened = catch_unwind(AssertUnwindSafe(|| open_fatally(&town, dies_at, dies_at == 4)));
        assert_eq!(opened.is_ok(), dies_at == 4);
        if let Ok(cluster) = opened {
            let cluster = cluster.unwrap();
            assert!(town.shard("a", ACCOUNTS).host().owned().is_empty(), "the commit was lost");
            town.crash(cluster);
        } else {
            town.log = town.log.crash();
        }
        if shards_die {
            town.crash_shards();
        }
        let open = town.open();
        open.settle();
        assert_together(&town, &["a", "b", "c"]);
        (0..KEYS).for_each(|key| open.add(key, 1));
        assert!(open.cluster.change().unwrap().leave("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
        assert!(town.sums(ACCOUNTS).values().all(|(_, sum)| *sum == 1));
    }
}

/// A shard that does not answer may be one that owns something.
#[test]
fn a_new_service_waits_for_all_of_its_shards() {
    let mut town = Town::new(&["a", "b"]);
    let (cluster, _) = open_goods(&town);
    town.crash(cluster);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let far = town.starter(ACCOUNTS);
    let (builder, _) = town.builder().service("goods", town.connections(GOODS));
    let (builder, _) = builder.service("accounts", move |node: &NodeId| {
        let shard = far(node);
        let silent = node.as_str() == "b" && down.load(Ordering::SeqCst);
        let link: Arc<dyn ShardLink<Add>> = if silent {
            Arc::new(ringpact::sharding::RemoteShard::new(Arc::new(Silent)))
        } else {
            Arc::clone(&shard) as Arc<dyn ShardLink<Add>>
        };
        Ok(Connection::with_link(link, shard))
    });
    let error = builder.open().unwrap_err();
    assert!(matches!(&error, ClusterError::Shard { node, error: ShardError::Unreachable } if node == "b"), "{error:?}");
    assert!(town.shard("a", ACCOUNTS).host().owned().is_empty());
    town.log = town.log.crash();
    let open = town.open();
    assert_together(&town, &["a", "b"]);
    open.add(1, 1);
}

/// Drops each request, and with it the reply.
struct Silent;

impl Endpoint for Silent {
    fn send(&self, _: Request, _: Reply) {}
}

/// Shards that have lost all they had are as empty as new ones, and must not look as if nothing was wrong.
#[test]
fn shards_that_have_lost_their_data_are_not_taken_for_those_of_a_new_service() {
    let mut town = Town::new(&["a"]);
    let open = town.open();
    open.add(1, 5);
    town.crash(open);
    let (builder, _) = town.builder().service("goods", town.connections(GOODS));
    let lost = Town::new(&["a"]);
    let (builder, accounts) = builder.service("accounts", lost.connections(ACCOUNTS));
    let cluster = builder.open().unwrap();
    let mut txn = cluster.begin();
    assert!(accounts.execute_within(&mut txn, Add { key: 1, amount: 1 }, Duration::from_millis(20)).is_err());
    assert!(lost.shard("a", ACCOUNTS).host().owned().is_empty());
}
