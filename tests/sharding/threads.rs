//! Clients write and read while ranges go back and forth between two hosts, as transactions of a real
//! coordinator. Hosts and coordinators crash at random moments.
//!
//! Each transaction adds to a key at one of the two shards, and to the same key at a *witness*, which
//! never crashes and never moves. So the witness knows how often each key was added to, whatever the
//! clients were told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    Call, Coordinator, FileLog, LogId, MemoryLog, Participant, Policy, Vote,
    ring::{NodeId, Position, PositionRange, RangeSet},
    sharding::{ShardError, ShardHost, Tenure},
    txn::CommitError,
};

use crate::{
    ledger::{Add, Faults, Kind, Ledger, Shared, Site, only, position, txn},
    long_form,
};

/// Number of keys that clients add to.
const KEYS: u32 = 10;

/// The key of the witness for a key.
const fn witnessed(key: u32) -> u32 {
    1000 + key
}

struct World {
    sites: [Arc<Shared>; 2],
    witness: Arc<Shared>,
    /// The latest number of a hand-over.
    tenure: AtomicU64,
    moved: AtomicU64,
    committed: AtomicU64,
    crashed: AtomicU64,
    is_over: AtomicBool,
}

impl World {
    fn new(kind: Kind) -> Self {
        let shared = |site| Arc::new(Shared::new(site));
        let (x, y) = (Site::owner("x", kind), Site::new("y", kind));
        let witness = Site::owner("witness", Kind::InMemory);
        for key in 0..KEYS {
            // So that no key is absent, and each sum is that of the witness.
            x.add(1 + u64::from(key), key, 1);
            witness.add(1 + u64::from(key), witnessed(key), 1);
        }
        Self {
            sites: [shared(x), shared(y)],
            witness: shared(witness),
            tenure: AtomicU64::new(1),
            moved: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            crashed: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    fn coordinator(&self, log: &MemoryLog) -> Coordinator {
        let policy = Policy::default()
            .first_backoff(Duration::from_micros(200))
            .longest_backoff(Duration::from_millis(2))
            .park_after(Duration::MAX)
            .park_after_attempts(u32::MAX);
        let mut builder = Coordinator::builder(log.clone()).policy(policy);
        for site in self.sites.iter().chain([&self.witness]) {
            builder = builder.participant(site.host().name().as_str(), Arc::clone(site));
        }
        let coordinator = builder.open().unwrap();
        self.sites.iter().for_each(|site| site.ask(&coordinator));
        coordinator
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Adds to keys until it is over.
    fn write(&self, coordinator: &Coordinator, mut random: fastrand::Rng) {
        while self.goes_on() {
            let mut txn = coordinator.begin();
            let mut is_done = true;
            for _ in 0..random.u32(1..3) {
                let key = random.u32(0..KEYS);
                is_done = is_done && self.add(&mut txn, key, &mut random);
            }
            if random.u32(0..8) == 0 {
                // A slow client, whose holds keep ranges in place.
                thread::sleep(Duration::from_millis(random.u64(0..6)));
            }
            match random.u32(0..20) {
                0 => txn.rollback(),
                // A client that dies.
                1 => std::mem::forget(txn),
                // A client that does not wait for the outcome.
                2 if is_done => drop(txn.commit()),
                _ if is_done => match txn.commit().wait() {
                    Ok(()) => _ = self.committed.fetch_add(1, Ordering::Relaxed),
                    Err(CommitError::Heuristic { txn, outcome }) => panic!("{txn}: {outcome}"),
                    Err(_) => {}
                },
                _ => txn.rollback(),
            }
        }
    }

    /// Adds to a key at its shard, wherever that is, and at the witness.
    fn add(&self, txn: &mut ringpact::Transaction, key: u32, random: &mut fastrand::Rng) -> bool {
        let mut at = random.usize(0..2);
        for _ in 0..8 {
            let host = self.sites[at].host();
            let had_branch = txn.has_branch(host.name());
            let branch = txn.branch(host.name()).unwrap().clone();
            let known = if random.bool() { Tenure::NONE } else { Tenure::new(self.tenure.load(Ordering::Relaxed)) };
            let patience = Duration::from_micros(random.u64(0..4000));
            match host.execute(&branch, known, Add { key, amount: 1 }, patience) {
                Ok(()) => {
                    let witness = self.witness.host();
                    let branch = txn.branch(witness.name()).unwrap();
                    let added = Add { key: witnessed(key), amount: 1 };
                    witness.execute(branch, Tenure::NONE, added, Duration::ZERO).unwrap();
                    return true;
                }
                Err(ShardError::Gate(_)) => {
                    if !had_branch {
                        txn.withdraw(host.name()).unwrap();
                    }
                    at = 1 - at;
                }
                Err(_) => return false,
            }
        }
        false
    }

    /// Reads keys until it is over.
    fn read(&self, mut random: fastrand::Rng) {
        let mut seen = [1; KEYS as usize];
        while self.goes_on() {
            let key = random.u32(0..KEYS);
            let patience = Duration::from_micros(random.u64(0..500));
            let host = self.sites[random.usize(0..2)].host();
            if let Ok(read) = host.read(position(key), Tenure::NONE, patience, |ledger| ledger.sum(key)) {
                let sum = read.expect("the key exists");
                let last = &mut seen[key as usize];
                // A crash takes nothing back that a reader has seen. A process that is dead, and goes on here
                // as a thread, may answer from before.
                if Arc::ptr_eq(&host, &self.sites[0].host()) || Arc::ptr_eq(&host, &self.sites[1].host()) {
                    assert!(sum >= *last, "key {key} went from {last} to {sum}");
                    *last = sum;
                }
            }
        }
    }

    /// Moves ranges from one site to the other until it is over.
    fn hand_over(&self, coordinator: &Coordinator, mut random: fastrand::Rng) {
        while self.goes_on() {
            let from = random.usize(0..2);
            let (host, to) = (self.sites[from].host(), self.sites[1 - from].host());
            let owned = host.owned();
            let wanted = match random.u32(0..3) {
                0 => only(random.u32(0..KEYS)),
                _ => {
                    let [start, end] = [random.u64(..), random.u64(..)].map(Position::new);
                    RangeSet::from_iter([PositionRange { start, end }])
                }
            };
            let ranges: RangeSet =
                wanted.iter().flat_map(|range| owned.overlapping(range).collect::<Vec<_>>()).collect();
            if ranges.is_empty() {
                continue;
            }
            let tenure = Tenure::new(self.tenure.fetch_add(1, Ordering::Relaxed) + 1);
            let mut txn = coordinator.begin();
            let branch = txn.branch(host.name()).unwrap().clone();
            let node = NodeId::from(to.name().as_str());
            let patience = Duration::from_millis(random.u64(0..8));
            let (records, digest) = match host.release(&branch, &ranges, tenure, &node, patience) {
                Ok(released) => released,
                Err(ShardError::Held { by }) => {
                    txn.rollback();
                    if random.bool() {
                        by.iter().for_each(|txn| _ = host.give_up(txn));
                    }
                    continue;
                }
                Err(_) => {
                    txn.rollback();
                    continue;
                }
            };
            if random.u32(0..6) == 0 {
                // The call comes once more.
                let _ = host.release(&branch, &ranges, tenure, &node, patience);
            }
            let branch = txn.branch(to.name()).unwrap().clone();
            if to.take(&branch, &ranges, tenure, records, digest).is_err() || random.u32(0..8) == 0 {
                txn.rollback();
                continue;
            }
            let branch = branch.txn().branch(host.name());
            if txn.commit().wait().is_ok() {
                self.moved.fetch_add(1, Ordering::Relaxed);
            }
            if random.u32(0..6) == 0 && self.goes_on() && self.crashed.load(Ordering::Relaxed) == 0 {
                // Without crashes the branch is remembered.
                let late = host.release(&branch, &ranges, tenure, &node, patience);
                assert!(late.is_err(), "a call after the end");
            }
        }
    }

    /// Crashes hosts until it is over.
    fn crash(&self, mut random: fastrand::Rng) {
        while self.goes_on() {
            thread::sleep(Duration::from_micros(random.u64(500..12_000)));
            let site = &self.sites[random.usize(0..2)];
            if random.bool() {
                let _ = site.host().checkpoint();
            }
            if random.u32(0..3) > 0 {
                site.crash();
                self.crashed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Checks what must be so when all transactions have ended.
    fn is_whole(&self) {
        let [x, y] = [0, 1].map(|at| self.sites[at].host());
        let (mut all, of_y) = (x.owned(), y.owned());
        assert_eq!(all.width() + of_y.width(), 1 << 64, "no gap, no overlap");
        all.extend(of_y.iter());
        assert!(all.is_full());
        for host in [&x, &y] {
            let status = host.status();
            assert_eq!((status.holds, status.leaving, status.arriving), (0, 0, 0), "{status:?}");
            assert_eq!(host.branches().troubled.len(), 0);
        }
        for key in 0..KEYS {
            let (owner, other) = if x.owned().contains(position(key)) { (&x, &y) } else { (&y, &x) };
            assert_eq!(owner.shard().sum(key), self.witness.host().shard().sum(witnessed(key)), "key {key}");
            assert_eq!(other.shard().sum(key), None, "key {key} elsewhere");
        }
    }
}

fn run(kind: Kind, seed: u64, rounds: u32, crashes: bool) {
    let (world, mut log) = (World::new(kind), MemoryLog::new());
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..rounds {
        let coordinator = world.coordinator(&log);
        world.is_over.store(false, Ordering::Relaxed);
        let panicked = thread::scope(|scope| {
            let (world, coordinator) = (&world, &coordinator);
            let mut threads = Vec::new();
            for _ in 0..3 {
                let fork = random.fork();
                threads.push(scope.spawn(move || world.write(coordinator, fork)));
            }
            let forks = [random.fork(), random.fork(), random.fork(), random.fork()];
            let [reader, mover, other, crasher] = forks;
            threads.push(scope.spawn(move || world.read(reader)));
            threads.push(scope.spawn(move || world.hand_over(coordinator, mover)));
            threads.push(scope.spawn(move || world.hand_over(coordinator, other)));
            if crashes {
                threads.push(scope.spawn(move || world.crash(crasher)));
            }
            let until = Instant::now() + Duration::from_millis(150);
            while Instant::now() < until && threads.iter().all(|thread| !thread.is_finished()) {
                thread::sleep(Duration::from_millis(5));
            }
            world.is_over.store(true, Ordering::Relaxed);
            threads.into_iter().map(|thread| thread.join().is_err()).fold(false, |any, one| any | one)
        });
        assert!(!panicked, "a thread has panicked, seed {seed}");
        // With all that is not delivered yet.
        log = log.crash();
        drop(coordinator);
        if random.bool() {
            world.sites.iter().for_each(|site| site.crash());
        }
    }
    let coordinator = world.coordinator(&log);
    assert!(coordinator.settle(Duration::from_secs(20)), "{:?}, seed {seed}", coordinator.status());
    for _ in 0..2 {
        world.is_whole();
        world.sites.iter().for_each(|site| {
            site.host().checkpoint().unwrap();
            site.crash();
        });
    }
    world.is_whole();
    let [moved, committed, crashed] =
        [&world.moved, &world.committed, &world.crashed].map(|counter| counter.load(Ordering::Relaxed));
    println!("{kind:?}, seed {seed}: {committed} writes, {moved} hand-overs, {crashed} crashes");
    assert!(moved > 0 && committed > 0, "it has seen too little");
}

/// Number of seeds, and of rounds for each.
fn extent() -> (u64, u32) {
    if long_form() { (50, 20) } else { (3, 4) }
}

#[test]
fn ranges_go_back_and_forth_while_clients_write() {
    let (seeds, rounds) = extent();
    for seed in 0..seeds {
        run(Kind::InMemory, seed, rounds, false);
        run(Kind::AtOnce, seed, rounds, false);
    }
}

/// Only in memory: a shard that is durable at once and goes on as a thread after its crash would still
/// write.
#[test]
fn and_hosts_crash() {
    let (seeds, rounds) = extent();
    (0..seeds).for_each(|seed| run(Kind::InMemory, seed, rounds, true));
}

/// The same steps on logs that are files.
#[test]
fn a_promise_in_a_file_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (x_disk, y_disk) = (Arc::default(), Arc::default());
    let open = |name, disk| {
        let log = FileLog::open(dir.path().join(name)).unwrap();
        ShardHost::open(name, log, Ledger::open(Kind::InMemory, disk, &Arc::<Faults>::default())).unwrap()
    };
    let (mut x, mut y) = (open("x", &x_disk), open("y", &y_disk));
    let branch = |number, host: &ShardHost<Ledger>| txn(number).branch(host.name());
    let call = Call::new(LogId::from_bytes([7; 16]));
    let prepare = |number, host: &ShardHost<Ledger>| {
        assert_eq!(host.prepare(&branch(number, host), &call).unwrap(), Vote::Yes);
    };
    let finish = |number, host: &ShardHost<Ledger>| host.commit(&branch(number, host), &call).unwrap();
    x.adopt(&branch(1, &x), &RangeSet::full(), Tenure::FIRST).unwrap();
    prepare(1, &x);
    finish(1, &x);
    x.execute(&branch(2, &x), Tenure::NONE, Add { key: 5, amount: 3 }, Duration::ZERO).unwrap();
    prepare(2, &x);
    finish(2, &x);
    let (tenure, node) = (Tenure::new(2), NodeId::from("y"));
    let (records, digest) = x.release(&branch(3, &x), &only(5), tenure, &node, Duration::ZERO).unwrap();
    y.take(&branch(3, &y), &only(5), tenure, records, digest).unwrap();
    [&x, &y].into_iter().for_each(|host| prepare(3, host));
    let read = |host: &ShardHost<Ledger>| {
        host.read(position(5), Tenure::NONE, Duration::ZERO, |ledger| ledger.sum(5)).ok().flatten()
    };
    drop((x, y));
    (x, y) = (open("x", &x_disk), open("y", &y_disk));
    assert_eq!((read(&x), read(&y)), (None, None));
    [&x, &y].into_iter().for_each(|host| finish(3, host));
    drop((x, y));
    (x, y) = (open("x", &x_disk), open("y", &y_disk));
    assert_eq!((read(&x), read(&y)), (None, Some(3)));
    assert_eq!((x.shard().sums(), y.owned()), (vec![], only(5)));
}
