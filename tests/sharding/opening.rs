//! What was lost or confused when something opens: a shard with another shard's data, with none, or with older data, and
//! a ring that is older than the shards.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use ringpact::{
    MemoryLog,
    ring::NodeId,
    sharding::{
        Cluster, ClusterError, ClusterFollower, Connection, GateImage, KeeperRefusal, MemoryRingStore, RingStore,
        ShardFault, ShardHost, SharedAssignment, shard_name,
    },
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger, Saved, position},
    town::{Open, SOON, Town, ring, slowly},
};

const KEYS: u32 = 40;

/// Two directories that were confused: each shard would serve the keys of the other node.
#[test]
fn a_shard_does_not_open_with_another_ones_data() {
    let disk = Arc::new(Mutex::new(Saved::default()));
    let open = |name: &str| {
        ShardHost::open(name, MemoryLog::new(), Ledger::open(Kind::InMemory, &disk, &Arc::new(Faults::default())))
    };
    open("sums.a").unwrap().checkpoint().unwrap();
    assert_eq!(disk.lock().image.shard().unwrap().as_str(), "sums.a");
    let error = ringpact::error_chain(&open("sums.b").unwrap_err());
    assert!(error.contains("the data is that of shard sums.a, and this is shard sums.b"), "{error}");
    // One that was made of notes has no name.
    disk.lock().image = GateImage::new();
    open("sums.b").unwrap();
}

/// What was committed since the last checkpoint is in the shard's log and nowhere else.
#[test]
fn a_shard_does_not_open_on_another_log() {
    let (disk, log) = (Arc::new(Mutex::new(Saved::default())), MemoryLog::new());
    let ledger = || Ledger::open(Kind::InMemory, &disk, &Arc::new(Faults::default()));
    ShardHost::open("sums.a", log.clone(), ledger()).unwrap().checkpoint().unwrap();
    let log = log.crash();
    let error = ringpact::error_chain(&ShardHost::open("sums.a", MemoryLog::new(), ledger()).unwrap_err());
    assert!(error.contains("open the shard on its own log"), "{error}");
    drop(ShardHost::open("sums.a", log, ledger()).unwrap());
    let new = MemoryLog::new();
    ShardHost::open_after_loss("sums.a", new.clone(), ledger()).unwrap().checkpoint().unwrap();
    ShardHost::open("sums.a", new.crash(), ledger()).unwrap();
}

fn findings(open: &Open) -> Vec<String> {
    open.cluster.check_shards().unwrap().iter().map(ToString::to_string).collect()
}

/// No client gets wrong answers from it, and the keeper tells which it is and takes it on again.
#[test]
fn a_shard_that_has_lost_its_disk_is_found_and_can_begin_again() {
    let town = Town::new(&["a", "b", "c"]);
    let open = town.open();
    open.fill(KEYS);
    open.settle();
    assert_eq!(findings(&open), Vec::<String>::new());
    town.shard("b", 1).lose();
    let found = open.cluster.check_shards().unwrap();
    let [finding] = &*found else { panic!("{found:?}") };
    assert_eq!((&*finding.service, finding.node.as_str()), ("accounts", "b"));
    assert!(finding.to_string().contains("lacks") && matches!(finding.fault, ShardFault::Lacks(_)), "{finding}");
    // Work at the other nodes goes on, and no key of this one is served as if it were absent.
    let owner = |key| open.cluster.assignment().load().place(position(key)).node.to_string();
    let key = |node: &str| (0..KEYS).find(|key| owner(*key) == node).unwrap();
    let at_a = key("a");
    open.add(at_a, 1);
    let mut txn = open.cluster.begin();
    let refused =
        open.services[1].execute_within(&mut txn, Add { key: key("b"), amount: 1 }, std::time::Duration::ZERO);
    assert!(refused.is_err());
    drop(txn);
    let node = finding.node.clone();
    assert!(matches!(open.cluster.replace_lost_shard("nothing", &node), Err(ClusterError::NoShard { .. })));
    let ShardFault::Lacks(lacks) = &finding.fault else { unreachable!() };
    assert_eq!(open.cluster.replace_lost_shard("accounts", &node).unwrap(), *lacks);
    assert!(open.cluster.replace_lost_shard("accounts", &node).unwrap().is_empty());
    open.settle();
    assert_eq!(findings(&open), Vec::<String>::new());
    open.add(key("b"), 1);
    // And it takes part in changes.
    assert!(open.cluster.change().unwrap().leave("b").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    open.settle();
    assert_eq!(findings(&open), Vec::<String>::new());
    assert_eq!(town.sums(1)[&at_a].1, i64::from(at_a) + 2);
}

/// The empty shard does not know to which node the lost one had given ranges away.
#[test]
fn a_client_that_is_behind_finds_what_a_lost_shard_had_given_away() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(KEYS);
    let builder = ClusterFollower::builder(MemoryLog::new(), Arc::new(open.cluster.feed())).name("behind");
    let (builder, goods) = builder.service("goods", town.connections(0));
    let follower = builder.open().unwrap();
    assert!(open.cluster.change().unwrap().weight("a", 4).plan().unwrap().start(slowly()).unwrap().wait(SOON));
    open.settle();
    town.shard("b", 0).lose();
    let lost: Vec<_> = open.cluster.check_shards().unwrap();
    assert!(!open.cluster.replace_lost_shard("goods", &lost[0].node).unwrap().is_empty());
    open.settle();
    let node = |assignment: &SharedAssignment, key| assignment.load().place(position(key)).node.to_string();
    let moved = |key: &u32| node(follower.assignment(), *key) != node(open.cluster.assignment(), *key);
    let key = (0..KEYS).find(moved).unwrap();
    let mut txn = follower.begin();
    goods.execute(&mut txn, Add { key, amount: 1 }).unwrap();
    txn.commit().wait().unwrap();
}

/// The ring store was restored from a backup that is older than what the log remembers: the ring would be an older one
/// than the shards know. If the log remembers nothing of it any more, the shards do.
#[test]
fn a_ring_store_from_an_older_backup_is_found() {
    let mut town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(KEYS);
    open.settle();
    open.cluster.checkpoint().unwrap();
    let backup = Arc::new(MemoryRingStore::new());
    for name in ["state", "services"] {
        backup.write(name, &town.store.read(name).unwrap().unwrap()).unwrap();
    }
    let moving = open.cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap();
    let _ = moving.pause();
    assert!(matches!(open.cluster.check_shards(), Ok(_) | Err(ClusterError::Keeper(KeeperRefusal::InMotion))));
    let _ = moving.resume();
    assert!(moving.wait(SOON));
    open.settle();
    assert_eq!(findings(&open), Vec::<String>::new());
    open.cluster.checkpoint().unwrap();
    let present = std::mem::replace(&mut town.store, Arc::clone(&backup));
    let is_found = |town: &Town| match town.try_open() {
        Err(error) => {
            let error = ringpact::error_chain(&error);
            assert!(error.contains("the ring store is older than the coordinator's log"), "{error}");
        }
        Ok(open) => {
            let found = open.cluster.check_shards().unwrap();
            assert!(found.iter().any(|finding| matches!(finding.fault, ShardFault::IsAhead(_))), "{found:?}");
        }
    };
    town.crash(open);
    is_found(&town);
    // The log may have a step that follows one that is nowhere.
    town.store = Arc::clone(&present);
    let open = town.open();
    assert_eq!(findings(&open), Vec::<String>::new());
    assert!(open.cluster.change().unwrap().weight("a", 2).plan().unwrap().start(slowly()).unwrap().wait(SOON));
    town.crash(open);
    town.store = backup;
    is_found(&town);
    town.store = present;
    let open = town.open();
    open.settle();
    assert_eq!(findings(&open), Vec::<String>::new());
}

/// The coordinator must not keep the shard that it was opened with: its log would stay open.
#[test]
fn a_node_of_the_opening_can_leave_and_come_back_with_its_shard_opened_again() {
    let disks: Arc<Mutex<BTreeMap<String, Arc<Mutex<Saved>>>>> = Arc::default();
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().to_owned();
    let builder = Cluster::builder(MemoryLog::new()).first_ring(ring(&["a", "b"]));
    let (builder, sums) = builder.service("sums", move |node: &NodeId| {
        let disk = Arc::clone(disks.lock().entry(node.to_string()).or_default());
        let ledger = Ledger::open(Kind::InMemory, &disk, &Arc::new(Faults::default()));
        let log = ringpact::FileLog::open(at.join(node.as_str()))?;
        Ok(Connection::local(Arc::new(ShardHost::open(shard_name("sums", node)?.as_str(), log, ledger)?)))
    });
    let cluster = builder.open().unwrap();
    for joins in [false, true] {
        let change = cluster.change().unwrap();
        let change = if joins { change.join("a") } else { change.leave("a") };
        let mut txn = cluster.begin();
        (0..KEYS).for_each(|key| sums.execute(&mut txn, Add { key, amount: 1 }).unwrap());
        txn.commit().wait().unwrap();
        let moving = change.plan().unwrap().start(slowly()).unwrap();
        assert!(moving.wait(SOON), "{:?}", moving.progress());
        assert!(cluster.coordinator().settle(SOON));
        let until = std::time::Instant::now() + SOON;
        while !cluster.leaving().is_empty() {
            assert!(std::time::Instant::now() < until);
            std::thread::yield_now();
        }
    }
}

/// The keeper's log is lost, and its ring store is there.
#[test]
fn a_cluster_whose_log_is_lost_opens_with_the_ring_of_its_last_change() {
    let mut town = Town::new(&["a", "b"]);
    for joins in [None, Some("c")] {
        let open = town.open();
        open.fill(KEYS);
        if let Some(node) = joins {
            assert!(open.cluster.change().unwrap().join(node).plan().unwrap().start(slowly()).unwrap().wait(SOON));
        }
        open.settle();
        let lost = ringpact::TransactionLog::id(&town.log);
        open.cluster.shutdown(SOON);
        drop(open);
        town.log = MemoryLog::new();
        let open = town.open_after_loss(lost).unwrap();
        assert_eq!(findings(&open), Vec::<String>::new());
        open.add(1, 1);
        assert_eq!(open.cluster.assignment().load().ring().node("c").is_some(), joins.is_some());
        open.settle();
        open.cluster.shutdown(SOON);
    }
}

/// Its ranges would stay where they are while nodes come and go.
#[test]
fn a_cluster_does_not_open_without_a_service_that_it_had_unless_that_is_given_up() {
    let town = Town::new(&["a", "b"]);
    drop(town.open());
    let goods = || town.builder().service("goods", town.connections(0)).0;
    let error = goods().open().unwrap_err();
    assert!(matches!(&error, ClusterError::MissingService { service } if service == "accounts"), "{error}");
    drop(goods().drops_service("accounts").open().unwrap());
    goods().open().unwrap();
}
