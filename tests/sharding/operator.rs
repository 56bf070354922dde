//! What an operator does to a change, and what must not stop one: races, panics of shards and connections,
//! plans that fail, handles of changes that have ended, and a store that has lost a ring.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    Call, LogId, Participant,
    ring::{NodeId, Position, PositionRange, RangeSet},
    sharding::{Cluster, ClusterError, KeeperRefusal, MemoryRingStore, Pace, RingStore, ServiceClient, Tenure},
    txn::Limits,
};

use crate::{
    ledger::{Add, position},
    town::{SOON, Town, ring, slowly},
};

const KEYS: u32 = 40;

/// A pace at which a change is still under way when the test goes on.
fn lazily() -> Pace {
    slowly().bytes_per_second(300)
}

#[test]
fn a_handle_of_a_change_that_has_ended_leaves_the_next_one_alone() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(KEYS);
    let first = open.cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap();
    assert!(first.wait(SOON));
    let second = open.cluster.change().unwrap().join("d").plan().unwrap().start(lazily()).unwrap();
    let ended = |result| matches!(result, Err(ClusterError::Keeper(KeeperRefusal::NothingMoves)));
    assert!(ended(first.cancel()) && ended(first.pause()) && ended(first.set_pace(Pace::new())));
    assert!(first.progress().is_over && first.wait(Duration::ZERO));
    let progress = second.progress();
    assert!(!progress.is_over && !progress.is_cancelled && !progress.is_paused, "{progress:?}");
    second.set_pace(slowly()).unwrap();
    assert!(second.wait(SOON));
    assert!(open.cluster.assignment().load().ring().node("d").is_some());
}

/// What the keeper says last counts, in whichever order the threads come to the mover.
#[test]
fn a_change_goes_on_after_any_race_of_pauses_and_paces() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(KEYS);
    let moving = open.cluster.change().unwrap().join("c").plan().unwrap().start(lazily()).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let moving = moving.clone();
            scope.spawn(move || {
                for round in 0..20 {
                    let _ = match (thread + round) % 3 {
                        0 => moving.pause(),
                        1 => moving.resume(),
                        _ => moving.set_pace(lazily()),
                    };
                }
            });
        }
    });
    // Either fails if the change has ended meanwhile.
    let _ = moving.set_pace(slowly()).and_then(|()| moving.resume());
    assert!(moving.wait(SOON), "{:?}", moving.progress());
}

#[test]
fn a_shard_that_panics_fails_its_chunk_and_not_the_mover() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let plan = open.cluster.change().unwrap().join("c").plan().unwrap();
    let after = plan.after().clone();
    let panics = AtomicU32::new(6);
    *town.at_take.lock() = Some(Box::new(move |_| {
        let left = panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "planted");
    }));
    let moving = plan.start(slowly()).unwrap();
    assert!(moving.wait(SOON), "{:?}", moving.progress());
    assert!(moving.progress().again >= 6);
    open.settle();
    town.assert_is(&after, &sums);
}

#[test]
fn any_pace_is_a_pace() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let plan = open.cluster.change().unwrap().join("c").plan().unwrap();
    let after = plan.after().clone();
    let pace = Pace::new().freeze(Duration::MAX).bytes_per_second(u64::MAX).into_each(u32::MAX).out_of_each(0);
    assert!(plan.start(pace.chunk_bytes(0)).unwrap().wait(SOON));
    town.assert_is(&after, &sums);
}

/// The keeper's own cluster, with a connection that fails as it is told to.
struct Picky {
    panics: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
}

fn picky(town: &Town) -> (Cluster, ServiceClient<Add>, Picky) {
    let picky = Picky { panics: Arc::default(), refuses: Arc::default() };
    let (panics, refuses) = (Arc::clone(&picky.panics), Arc::clone(&picky.refuses));
    let connections = town.connections(0);
    let builder = Cluster::builder(town.log.clone()).name("town").first_ring(ring(&["a", "b"]));
    let (builder, client) = builder.service("goods", move |node: &NodeId| {
        assert!(!panics.load(Ordering::SeqCst), "planted");
        if refuses.load(Ordering::SeqCst) { Err("not started yet".into()) } else { connections(node) }
    });
    (builder.open().unwrap(), client, picky)
}

#[test]
fn a_connection_that_panics_blocks_nothing() {
    let town = Town::new(&["a", "b"]);
    let (cluster, goods, picky) = picky(&town);
    picky.panics.store(true, Ordering::SeqCst);
    let plan = cluster.change().unwrap().join("c").plan().unwrap();
    let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| plan.start(slowly())));
    assert!(started.is_err());
    picky.panics.store(false, Ordering::SeqCst);
    assert!(cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    let mut txn = cluster.begin();
    (0..KEYS).for_each(|key| goods.execute(&mut txn, Add { key, amount: 1 }).unwrap());
    txn.commit().wait().unwrap();
}

/// The nodes of a plan that failed are out of the coordinator. A later plan must connect to them again.
#[test]
fn a_node_of_a_plan_that_failed_can_join_later() {
    let town = Town::new(&["a", "b"]);
    let (cluster, goods, picky) = picky(&town);
    picky.refuses.store(true, Ordering::SeqCst);
    let refused = cluster.change().unwrap().join("c").plan().unwrap().start(slowly());
    assert!(matches!(refused, Err(ClusterError::Connect { .. })));
    picky.refuses.store(false, Ordering::SeqCst);
    let outdated = cluster.change().unwrap().join("c").plan().unwrap();
    assert!(cluster.change().unwrap().weight("a", 2).plan().unwrap().start(slowly()).unwrap().wait(SOON));
    assert!(outdated.start(slowly()).is_err());
    let moving = cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap();
    assert!(moving.wait(SOON), "{:?}", moving.progress());
    let mut txn = cluster.begin();
    (0..KEYS).for_each(|key| goods.execute(&mut txn, Add { key, amount: 1 }).unwrap());
    txn.commit().wait().unwrap();
}

/// Transactions of clients that wait may have taken all slots. Just then an operator wants to do something.
#[test]
fn an_operator_needs_no_free_slot() {
    let town = Town::new(&["a", "b"]);
    let connections = town.connections(0);
    let limits = Limits::default().in_flight(2);
    let builder = Cluster::builder(town.log.clone()).name("town").limits(limits).first_ring(ring(&["a", "b"]));
    let (builder, _) = builder.service("goods", move |node: &NodeId| connections(node));
    let cluster = builder.open().unwrap();
    let taken = [(); 2].map(|()| cluster.begin());
    assert!(cluster.coordinator().try_begin().is_err());
    let moving = cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap();
    let _ = moving.pause().and_then(|()| moving.resume());
    assert!(moving.wait(SOON), "{:?}", moving.progress());
    assert!(cluster.coordinator().try_begin().is_err());
    drop(taken);
    drop(cluster.begin());
}

#[test]
fn a_plan_that_is_refused_leaves_no_ring_in_the_store() {
    let (mut town, store) = (Town::new(&["a", "b"]), Forgetful::default());
    let cluster = forgetful(&town, &store).unwrap();
    let plan = |weight| cluster.change().unwrap().weight("a", weight).plan().unwrap();
    let (other, same) = (plan(3), plan(2));
    assert!(plan(2).start(slowly()).unwrap().wait(SOON));
    let refused = |plan: ringpact::sharding::Plan| {
        assert!(matches!(plan.start(slowly()), Err(ClusterError::Keeper(KeeperRefusal::Stale))));
        store.read(store.names.lock().last().unwrap()).unwrap()
    };
    assert!(refused(other).is_none());
    // It is the ring of the change that was made, which the log may name.
    refused(same);
    drop(cluster);
    town.log = town.log.crash();
    assert_eq!(forgetful(&town, &store).unwrap().assignment().load().ring().node("a").unwrap().weight(), 2);
}

/// Many changes leave no threads behind.
#[test]
#[cfg(target_os = "linux")]
fn changes_leave_no_threads_behind() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let weigh = |weight| {
        let plan = open.cluster.change().unwrap().weight("a", weight).plan().unwrap();
        assert!(plan.start(slowly()).unwrap().wait(SOON));
    };
    (0..10).for_each(|round| weigh(1 + round % 2));
    let before = mappings();
    (0..200).for_each(|round| weigh(1 + round % 2));
    // Each change has up to four threads, and a thread that nothing joins keeps its stack. Other tests of
    // this process come and go meanwhile.
    assert!(mappings() < before + 400, "{before} mappings before, and {} after", mappings());
}

/// Takes the rings of changes away, as if they were lost.
#[derive(Clone, Default)]
struct Forgetful {
    store: Arc<MemoryRingStore>,
    names: Arc<Mutex<Vec<String>>>,
}

impl RingStore for Forgetful {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.store.read(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.names.lock().push(name.to_owned());
        self.store.write(name, bytes)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.store.remove(name)
    }
}

fn forgetful(town: &Town, store: &Forgetful) -> Result<Cluster, ClusterError> {
    let connections = town.connections(0);
    let builder = Cluster::builder(town.log.clone()).name("town").store(store.clone()).first_ring(ring(&["a", "b"]));
    let (builder, _) = builder.service("goods", move |node: &NodeId| connections(node));
    builder.open()
}

/// A ring that a change needs no more goes, and the ring of a later change to the same nodes is another one.
#[test]
fn a_checkpoint_takes_no_ring_from_a_later_change_to_the_same_nodes() {
    let (town, store) = (Town::new(&["a", "b"]), Forgetful::default());
    let cluster = forgetful(&town, &store).unwrap();
    let change = || cluster.change().unwrap();
    assert!(change().join("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    assert!(change().leave("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    let rings =
        || -> Vec<String> { store.names.lock().iter().filter(|name| name.starts_with("ring-")).cloned().collect() };
    let before = rings();
    // The chunk stops in its middle until the checkpoint is taken.
    let is_held = Arc::new(AtomicBool::new(true));
    let held = Arc::clone(&is_held);
    *town.at_take.lock() = Some(Box::new(move |_| {
        while held.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }));
    let moving = change().join("c").plan().unwrap().start(slowly()).unwrap();
    let new = rings().pop().unwrap();
    assert!(!before.contains(&new));
    cluster.checkpoint().unwrap();
    assert!(store.read(&new).unwrap().is_some());
    // The first ring and those of the changes that have ended.
    assert_eq!(before.iter().filter(|old| store.read(old).unwrap().is_none()).count(), 2);
    is_held.store(false, Ordering::SeqCst);
    assert!(moving.wait(SOON));
}

/// The ring would be an older one than the shards know.
#[test]
fn a_cluster_does_not_open_without_the_ring_that_its_log_names() {
    let (mut town, store) = (Town::new(&["a", "b"]), Forgetful::default());
    let cluster = forgetful(&town, &store).unwrap();
    // In the middle of a change, because the store has all of one that has ended.
    let moving = cluster.change().unwrap().join("c").plan().unwrap().start(lazily()).unwrap();
    moving.pause().unwrap();
    drop((cluster, moving));
    town.log = town.log.crash();
    let ring = store.names.lock().iter().rfind(|name| name.starts_with("ring-")).unwrap().clone();
    let bytes = store.read(&ring).unwrap().unwrap();
    store.remove(&ring).unwrap();
    let error = forgetful(&town, &store).unwrap_err();
    assert!(ringpact::error_chain(&error).contains(&ring), "{}", ringpact::error_chain(&error));
    store.write(&ring, &bytes).unwrap();
    let cluster = forgetful(&town, &store).unwrap();
    assert!(cluster.assignment().load().after().unwrap().node("c").is_some());
}

/// Without a store of its own, a cluster has one that is as durable as its log.
#[test]
fn a_cluster_on_files_keeps_its_rings_beside_its_log() {
    let (town, directory) = (Town::new(&["a", "b"]), tempfile::tempdir().unwrap());
    let path = directory.path().join("town.log");
    let open = || {
        let log = ringpact::FileLog::open(&path).unwrap();
        let builder = Cluster::builder(log).name("town").first_ring(ring(&["a", "b"]));
        builder.service("goods", town.connections(0)).0.open().unwrap()
    };
    let cluster = open();
    assert!(cluster.change().unwrap().join("c").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    cluster.checkpoint().unwrap();
    let moving = cluster.change().unwrap().leave("a").plan().unwrap().start(lazily()).unwrap();
    moving.pause().unwrap();
    drop((moving, cluster));
    assert!(directory.path().join("town.log.ring").join("state").is_file());
    let cluster = open();
    let moving = cluster.moving().unwrap();
    moving.set_pace(slowly()).unwrap();
    moving.resume().unwrap();
    assert!(moving.wait(SOON), "{:?}", moving.progress());
    let ring = cluster.assignment().load().ring().clone();
    assert!(ring.node("a").is_none() && ring.node("c").is_some());
}

/// Files of a storage that a test provides are not the system's, so nothing can be kept beside them.
#[test]
fn only_a_log_in_the_file_system_has_a_directory() {
    use ringpact::{FileLog, MemoryLog, TransactionLog, log::storage::Disk};
    let directory = tempfile::tempdir().unwrap();
    let log = std::sync::Arc::new(FileLog::open(directory.path().join("log")).unwrap());
    assert_eq!(log.directory(), Some(log.path()));
    drop(log);
    assert!(FileLog::options().storage(Disk).open(directory.path().join("log")).unwrap().directory().is_none());
    assert!(MemoryLog::new().directory().is_none());
}

/// Found by simulation: a node had promised to take a chunk, the keeper was opened again, and the change was
/// cancelled before the node had said what it holds. The keeper dropped it, and it kept its promise for good.
#[test]
fn a_node_that_has_left_is_not_dropped_before_it_has_said_what_it_holds() {
    let mut town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(KEYS);
    let [goods, accounts] = [0, 1].map(|service| town.starter(service)(&NodeId::from("c")));
    // So that no chunk arrives in full.
    accounts.is_away.store(true, Ordering::SeqCst);
    let plan = open.cluster.change().unwrap().join("c").plan().unwrap();
    let stays = (0..).map(position).find(|position| plan.movement().find(*position).is_none()).unwrap();
    let _ = plan.start(slowly()).unwrap();
    let mut txn = open.cluster.begin();
    let branch = txn.branch("goods.c").unwrap().clone();
    let before = Position::new(stays.as_u64().wrapping_sub(1));
    let ranges = RangeSet::from_iter([PositionRange { start: before, end: stays }]);
    goods.host().adopt(&branch, &ranges, Tenure::new(1_000)).unwrap();
    goods.host().prepare(&branch, &Call::new(LogId::from_bytes([7; 16]))).unwrap();
    goods.is_away.store(true, Ordering::SeqCst);
    drop(txn);
    town.crash(open);

    let open = town.open();
    let moving = open.cluster.moving().unwrap();
    moving.cancel().unwrap();
    accounts.is_away.store(false, Ordering::SeqCst);
    assert!(moving.wait(SOON), "{:?}", moving.progress());
    thread::sleep(Duration::from_millis(100));
    assert_eq!(open.cluster.leaving(), [NodeId::from("c")]);
    assert_eq!(goods.host().branches().prepared, 1);
    goods.is_away.store(false, Ordering::SeqCst);
    open.see_off();
    assert_eq!(goods.host().branches().prepared, 0);
}

/// The names of shards tell their service and their node.
#[test]
fn services_whose_shards_could_have_one_name_are_refused() {
    let town = Town::new(&["a"]);
    let names = |one: &str, two: &str| {
        let builder = Cluster::builder(ringpact::MemoryLog::new()).first_ring(ring(&["a"]));
        let (builder, _) = builder.service(one, town.connections(0));
        builder.service(two, town.connections(1)).0.open()
    };
    assert!(matches!(names("goods.eu", "goods"), Err(ClusterError::AmbiguousService { .. })));
    assert!(matches!(names("goods", "goods"), Err(ClusterError::DuplicateService { .. })));
}
