//! Nodes join and leave a cluster: what moves, what a cancel, a pause and a restart leave, and what
//! clients see meanwhile.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    ring::RingError,
    sharding::{ClusterError, KeeperRefusal, Moving, Pace, RouteError},
};

use crate::{
    ledger::{Add, only, position},
    town::{SOON, Stop, Town, ring, slowly},
};

const KEYS: u32 = 60;

#[test]
fn a_node_that_joins_gets_what_the_ring_gives_it_and_nothing_else_moves() {
    let town = Town::new(&["a", "b", "c"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    town.assert_is(&ring(&["a", "b", "c"]), &sums);

    let plan = open.cluster.change().unwrap().join("d").plan().unwrap();
    let (fraction, bytes) = (plan.movement().fraction(), plan.bytes().unwrap());
    let moved_keys = (0..KEYS).filter(|key| plan.movement().find(position(*key)).is_some()).count() as u64;
    assert!(fraction > 0.0 && moved_keys > 0);
    let moving = plan.start(slowly()).unwrap();
    assert!(moving.wait(SOON));
    let progress = moving.progress();
    assert!(progress.is_over && progress.chunks > 3, "{progress:?}");
    assert_eq!((progress.bytes, progress.records), (bytes, 2 * moved_keys), "each record once, and no other");
    assert_eq!(progress.again, 0);
    town.assert_is(&ring(&["a", "b", "c", "d"]), &sums);
    open.add(1, 10);
    assert_eq!(town.sums(0)[&1].1, 12);
}

#[test]
fn several_joins_leaves_and_weights_are_one_change() {
    let town = Town::new(&["a", "b", "c"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let plan = open.cluster.change().unwrap().join("d").join("e").leave("a").weight("b", 2).plan().unwrap();
    let after = plan.after().clone();
    assert!(plan.start(slowly()).unwrap().wait(SOON));
    town.assert_is(&after, &sums);
    open.see_off();
    assert!(town.shard("a", 0).host().owned().is_empty());
    // The name is free again.
    let back = open.cluster.change().unwrap().join("a").plan().unwrap();
    let after = back.after().clone();
    assert!(back.start(Pace::new()).unwrap().wait(SOON));
    town.assert_is(&after, &sums);
}

/// The coordinator's list of participants that retire is empty before the first of them retires, too. So it does not say when the
/// process of a node can be stopped.
#[test]
fn a_node_is_leaving_until_no_transaction_can_reach_it() {
    for _ in 0..20 {
        let town = Town::new(&["a", "b"]);
        let open = town.open();
        open.fill(6);
        assert!(open.cluster.leaving().is_empty());
        assert!(open.cluster.change().unwrap().leave("a").plan().unwrap().start(slowly()).unwrap().wait(SOON));
        open.see_off();
        let retired = open.cluster.coordinator().retire("goods.a");
        assert!(matches!(retired, Err(ringpact::txn::RetireError::Unknown { .. })), "{retired:?}");
    }
}

#[test]
fn a_change_that_the_ring_can_not_make_is_refused_and_so_is_a_second_one() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(4);
    let change = || open.cluster.change().unwrap();
    assert!(matches!(change().join("a").plan(), Err(ClusterError::Ring(_))));
    assert!(matches!(change().leave("z").plan(), Err(ClusterError::Ring(_))));
    let (first, outdated) = (change().join("c").plan().unwrap(), change().join("d").plan().unwrap());
    let moving = first.start(slowly()).unwrap();
    assert!(
        matches!(open.cluster.change(), Err(ClusterError::Keeper(KeeperRefusal::UnderWay)))
            || moving.progress().is_over
    );
    assert!(moving.wait(SOON));
    assert!(matches!(
        outdated.start(slowly()),
        Err(ClusterError::Keeper(KeeperRefusal::Stale | KeeperRefusal::UnderWay))
    ));
    assert!(matches!(moving.cancel(), Err(ClusterError::Keeper(KeeperRefusal::NothingMoves))));
    open.see_off();
}

/// A plan that came too late takes nothing away from the one that was faster.
#[test]
fn of_two_plans_for_one_node_one_is_carried_out() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let plans: Vec<_> = (0..4).map(|_| open.cluster.change().unwrap().join("c").plan().unwrap()).collect();
    let after = plans[0].after().clone();
    let started = thread::scope(|scope| {
        let starts: Vec<_> = plans.into_iter().map(|plan| scope.spawn(|| plan.start(slowly()).ok())).collect();
        starts.into_iter().filter_map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(started.len(), 1);
    assert!(started[0].wait(SOON));
    open.settle();
    town.assert_is(&after, &sums);
    (0..KEYS).for_each(|key| open.add(key, 1));
}

/// Invariant: epochs that clients see never go back, in whatever life of the keeper.
#[test]
fn epochs_go_on_each_time_that_the_keeper_is_opened() {
    let mut town = Town::new(&["a", "b"]);
    let mut latest = None;
    for opening in 0..20 {
        let open = town.open();
        let epoch = || open.cluster.assignment().load().epoch();
        assert!(latest < Some(epoch()), "opening {opening}: {:?} after {latest:?}", epoch());
        let change = open.cluster.change().unwrap();
        let change = if opening % 2 == 0 { change.join("c") } else { change.leave("c") };
        assert!(change.plan().unwrap().start(Pace::new()).unwrap().wait(SOON));
        latest = Some(epoch());
        open.see_off();
        town.crash(open);
    }
}

/// Runs `at` in the middle of the chunk with this number, once.
fn in_the_middle_of(town: &Town, chunk: u64, at: impl Fn() + Send + Sync + 'static) -> Arc<AtomicBool> {
    let (count, done) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let is_done = Arc::clone(&done);
    *town.at_take.lock() = Some(Box::new(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == chunk && !done.swap(true, Ordering::SeqCst) {
            at();
        }
    }));
    is_done
}

/// Invariant: a cancel in the middle of any chunk ends in the former ring, with all data.
#[test]
fn a_cancel_in_the_middle_of_any_chunk_brings_everything_back() {
    for chunk in 1.. {
        let town = Town::new(&["a", "b", "c"]);
        let open = town.open();
        let sums = open.fill(KEYS);
        let before = open.cluster.assignment().load().ring().clone();
        let plan = open.cluster.change().unwrap().join("d").leave("a").plan().unwrap();
        let place: Arc<Mutex<Option<Moving>>> = Arc::default();
        let moving = Arc::clone(&place);
        let cancelled = in_the_middle_of(&town, chunk, move || {
            let moving = loop {
                match &*moving.lock() {
                    Some(moving) => break moving.clone(),
                    None => thread::yield_now(),
                }
            };
            moving.cancel().unwrap();
        });
        let moving = plan.start(slowly()).unwrap();
        *place.lock() = Some(moving.clone());
        assert!(moving.wait(SOON), "{:?}", moving.progress());
        if !cancelled.load(Ordering::SeqCst) {
            assert!(chunk > 5, "the change had {chunk} chunks");
            return;
        }
        open.settle();
        *place.lock() = None;
        assert_eq!(*open.cluster.assignment().load().ring(), before);
        town.assert_is(&before, &sums);
        open.add(3, 1);
        open.see_off();
    }
}

/// Invariant: a change goes on by itself, whichever chunk the keeper dies in.
#[test]
fn a_change_goes_on_after_a_crash_in_the_middle_of_any_chunk() {
    for chunk in 1.. {
        let mut town = Town::new(&["a", "b", "c"]);
        let open = town.open();
        let sums = open.fill(KEYS);
        let plan = open.cluster.change().unwrap().join("d").plan().unwrap();
        let after = plan.after().clone();
        let is_cut = Arc::clone(&town.is_cut);
        let reached = in_the_middle_of(&town, chunk, move || is_cut.store(true, Ordering::SeqCst));
        let moving = plan.start(slowly()).unwrap();
        while !reached.load(Ordering::SeqCst) && !moving.wait(Duration::from_millis(1)) {}
        let was_reached = reached.load(Ordering::SeqCst);
        drop(moving);
        town.crash(open);
        if chunk % 2 == 0 {
            town.crash_shards();
        }
        *town.at_take.lock() = None;
        let open = town.open();
        open.settle();
        town.assert_is(&after, &sums);
        open.add(5, 1);
        if !was_reached {
            assert!(chunk > 3, "the change had {chunk} chunks");
            return;
        }
    }
}

#[test]
fn a_paused_change_stands_still_and_survives_a_restart() {
    let mut town = Town::new(&["a", "b"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let plan = open.cluster.change().unwrap().join("c").plan().unwrap();
    let after = plan.after().clone();
    let moving = plan.start(slowly().bytes_per_second(200)).unwrap();
    moving.pause().unwrap();
    thread::sleep(Duration::from_millis(30));
    let (before, later) = (moving.progress(), {
        thread::sleep(Duration::from_millis(60));
        moving.progress()
    });
    assert!(before.is_paused && !before.is_over && before.remaining.is_none());
    assert_eq!(before.chunks, later.chunks, "nothing moves");
    drop(moving);
    town.crash(open);
    let open = town.open();
    let moving = open.cluster.moving().unwrap();
    assert!(moving.progress().is_paused);
    open.add(2, 5);
    moving.set_pace(slowly()).unwrap();
    moving.resume().unwrap();
    assert!(moving.wait(SOON));
    let mut sums = sums;
    *sums.get_mut(&2).unwrap() += 5;
    town.assert_is(&after, &sums);
}

/// Invariant: a change ends although every key is written all the time, and no write is lost.
#[test]
fn a_change_ends_while_all_keys_are_written() {
    let town = Town::new(&["a", "b", "c"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let written: Vec<AtomicI64> = (0..KEYS).map(|_| AtomicI64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let after = thread::scope(|scope| {
        let _stop = Stop(&stop);
        for client in 0..4 {
            let (open, written, stop) = (&open, &written, &stop);
            scope.spawn(move || {
                let mut key = client;
                while !stop.load(Ordering::Relaxed) {
                    key = (key + 7) % KEYS;
                    open.add(key, 1);
                    written[key as usize].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut last = None;
        for round in 0..3 {
            let change = open.cluster.change().unwrap();
            let change = if round == 1 { change.leave("a") } else { change.join(format!("d{round}").as_str()) };
            let plan = change.plan().unwrap();
            last = Some(plan.after().clone());
            let moving = plan.start(slowly()).unwrap();
            assert!(moving.wait(SOON), "{:?}", moving.progress());
        }
        last.unwrap()
    });
    open.settle();
    let sums: BTreeMap<u32, i64> =
        sums.into_iter().map(|(key, sum)| (key, sum + written[key as usize].load(Ordering::Relaxed))).collect();
    town.assert_is(&after, &sums);
}

/// Invariant: a transaction that never ends holds up its own ranges and no others. It is shown; and one
/// that has promised nothing is given up in the end.
#[test]
fn a_transaction_that_does_not_end_holds_up_only_its_own_ranges() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let plan = open.cluster.change().unwrap().join("c").plan().unwrap();
    let key = (0..KEYS).find(|key| plan.movement().find(position(*key)).is_some()).unwrap();
    let mut hung = open.cluster.begin_within(Duration::from_secs(600));
    open.services[0].execute(&mut hung, Add { key, amount: 1000 }).unwrap();
    let after = plan.after().clone();
    let moving = plan.start(slowly()).unwrap();
    let mut was_blocked = false;
    while !moving.wait(Duration::from_millis(5)) {
        let progress = moving.progress();
        was_blocked |= progress.blocked.iter().any(|blocked| blocked.by.contains(hung.id()));
    }
    assert!(was_blocked, "{:?}", moving.progress());
    assert!(hung.commit().wait().is_err(), "it was given up, because it had promised nothing");
    open.settle();
    town.assert_is(&after, &sums);
}

/// A client that asks for a key on its way waits, and does not fail.
#[test]
fn clients_wait_for_keys_on_their_way_and_the_transaction_goes_on() {
    let town = Town::new(&["a", "b"]);
    let open = town.open();
    open.fill(KEYS);
    let plan = open.cluster.change().unwrap().join("c").plan().unwrap();
    let key = (0..KEYS).find(|key| plan.movement().find(position(*key)).is_some()).unwrap();
    let (reached, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (reach, hold) = (Arc::clone(&reached), Arc::clone(&gate));
    let _ = in_the_middle_of(&town, 1, move || {
        reach.store(true, Ordering::SeqCst);
        while !hold.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    });
    let moving = plan.start(Pace::new()).unwrap();
    while !reached.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    // Some key is sealed now, and perhaps this one.
    let sealed = (0..KEYS).find(|key| {
        let mut txn = open.cluster.begin();
        let add = Add { key: *key, amount: 1 };
        let result = open.services[0].execute_within(&mut txn, add, Duration::from_millis(20));
        matches!(result, Err(RouteError::Refused { .. }))
    });
    let sealed = sealed.unwrap_or(key);
    let mut txn = open.cluster.begin();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(30));
            gate.store(true, Ordering::SeqCst);
        });
        open.services[0].execute(&mut txn, Add { key: sealed, amount: 1 }).unwrap();
    });
    txn.commit().wait().unwrap();
    assert!(open.cluster.refused() > 0);
    assert!(moving.wait(SOON));
    open.settle();
    assert_eq!(town.sums(0)[&sealed].1, i64::from(sealed) + 2);
}

#[test]
fn a_pinned_range_is_held_on_its_node_until_it_is_unpinned() {
    let town = Town::new(&["a", "b", "c"]);
    let open = town.open();
    let sums = open.fill(KEYS);
    let key = (0..KEYS).find(|key| town.sums(0)[key].0 != "b").unwrap();
    let range = only(key).iter().next().unwrap();
    let plan = open.cluster.change().unwrap().pin(range, "b").plan().unwrap();
    assert_eq!(plan.movement().width(), 1);
    assert!(plan.start(slowly()).unwrap().wait(SOON));
    assert_eq!(town.sums(0)[&key].0, "b");
    open.add(key, 0);
    let change = || open.cluster.change().unwrap();
    assert!(matches!(change().leave("b").plan(), Err(ClusterError::Ring(RingError::PinnedNode { .. }))));
    assert!(matches!(change().pin(range, "z").plan(), Err(ClusterError::Ring(RingError::UnknownNode { .. }))));
    // A ring may change around its pins.
    assert!(change().join("d").plan().unwrap().start(slowly()).unwrap().wait(SOON));
    assert_eq!(town.sums(1)[&key].0, "b");
    let mut town = town;
    town.crash(open);
    let open = town.open();
    assert_eq!(open.cluster.assignment().load().pins().width(), 1);
    let plan = open.cluster.change().unwrap().unpin(range).plan().unwrap();
    assert!(plan.start(slowly()).unwrap().wait(SOON));
    town.assert_is(&ring(&["a", "b", "c", "d"]), &sums);
}
