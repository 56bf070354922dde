//! What was lost or confused when something opens: a shard with another shard's data, with none, or with older data, and
//! a ring that is older than the shards.

use std::sync::Arc;

use parking_lot::Mutex;
use ringpact::{
    MemoryLog,
    sharding::{
        ClusterError, ClusterFollower, GateImage, KeeperRefusal, MemoryRingStore, RingStore, ShardFault, ShardHost,
        SharedAssignment,
    },
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger, Saved, position},
    town::{Open, SOON, Town, slowly},
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
    open("sums.a").unwrap();
    // One that was made of notes has no name.
    disk.lock().image = GateImage::new();
    open("sums.b").unwrap();
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
    assert!(matches!(open.cluster.check_shards(), Ok(_) | Err(ClusterError::Keeper(KeeperRefusal::UnderWay))));
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
            false
        }
        Ok(open) => {
            let found = open.cluster.check_shards().unwrap();
            assert!(found.iter().any(|finding| matches!(finding.fault, ShardFault::IsAhead(_))), "{found:?}");
            true
        }
    };
    town.crash(open);
    is_found(&town);
    // The log has a step that follows one that is nowhere.
    town.store = Arc::clone(&present);
    let open = town.open();
    assert_eq!(findings(&open), Vec::<String>::new());
    assert!(open.cluster.change().unwrap().weight("a", 2).plan().unwrap().start(slowly()).unwrap().wait(SOON));
    town.crash(open);
    town.store = backup;
    assert!(!is_found(&town));
    town.store = present;
    let open = town.open();
    open.settle();
    assert_eq!(findings(&open), Vec::<String>::new());
}
