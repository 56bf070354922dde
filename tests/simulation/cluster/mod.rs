//! A cluster in a simulated world: production shards, keeper, mover and followers, on simulated hosts with disks and a network that
//! fail in every way they can, while nodes join and leave and clients write. It shares its clock, disks and network with the shop.
//!
//! | file | what it is |
//! |---|---|
//! | `plan` | what a seed draws beforehand |
//! | `world`, `host`, `log`, `store` | where it happens, and what goes wrong there |
//! | `network` | how hosts reach each other |
//! | `shard` | the services |
//! | `clients`, `changes` | what clients and the operator do |
//! | `oracle` | what must hold |
//! | `mutants` | bugs planted at the seams, which the oracle must notice |
//!
//! A run goes through the same phases as one of the shop. In *peace* a change that is under way must end within a bounded time while
//! clients write, the gates must have what the keeper's assignment says, and each key must be written at the first try.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fastrand::Rng;
use ringpact::{
    HashRing,
    ring::{PositionRange, RangeSet},
};

use self::{
    mutants::Mutant,
    oracle::Told,
    plan::{KEYS, NODES, Plan, SERVICES},
    world::{Counts, World},
};
use crate::{LONGEST_DAY, LONGEST_PEACE, MS, scheduler::Scheduler, world::Phase};

mod changes;
mod clients;
mod host;
mod log;
pub mod mutants;
mod network;
mod oracle;
mod plan;
mod shard;
mod store;
mod world;

/// Sets the stream of seeds apart from that of the shop.
const CLUSTER: u64 = 0x63_6c75_7374_6572;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// A hash of everything that has happened, in its order.
    pub hash: u64,
    pub took: Duration,
    pub counts: Counts,
    /// What must not have happened.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, hash, took, counts, wrong } = self;
        write!(f, "seed {seed}, trace {hash:016x}, {took:.1?} simulated, {counts:?}")?;
        wrong.iter().try_for_each(|what| write!(f, "\n  {what}"))
    }
}

/// As [`run`], on a thread of its own: a run that does not come to an end is wrong for that.
pub fn run_in_time(seed: u64, mutant: Option<Mutant>) -> Report {
    // What a planted bug does after the first thing that is wrong is of no interest, and may take forever.
    crate::in_time(seed, move || run_on(seed, mutant, false, mutant.is_some())).unwrap_or_else(|wrong| Report {
        seed,
        hash: 0,
        took: Duration::ZERO,
        counts: Counts::default(),
        wrong: vec![wrong],
    })
}

/// Runs a seed. With `shown`, prints everything that happens.
pub fn run(seed: u64, mutant: Option<Mutant>, shown: bool) -> Report {
    run_on(seed, mutant, shown, false)
}

/// Runs a seed with a planted bug up to the first thing that is wrong, and returns that.
pub fn find(seed: u64, mutant: Mutant) -> Option<String> {
    run_on(seed, Some(mutant), false, true).wrong.into_iter().next()
}

fn run_on(seed: u64, mutant: Option<Mutant>, shown: bool, stops_when_wrong: bool) -> Report {
    let plan = Plan::draw(&mut Rng::with_seed(seed ^ CLUSTER), mutant.is_some());
    if shown {
        println!("{plan:#?}");
    }
    let clock = Scheduler::new(seed ^ CLUSTER, shown);
    let world = World::new(Arc::clone(&clock), plan, mutant);
    let director = Arc::clone(&world);
    clock.start(move || direct(&director));
    let is_enough = || stops_when_wrong && !world.oracle.lock().wrong.is_empty();
    let ended = catch_unwind(AssertUnwindSafe(|| clock.run(is_enough)));
    let mut counts = world.counts();
    counts.turns = clock.turns();
    let mut wrong = std::mem::take(&mut world.oracle.lock().wrong);
    match ended {
        Ok(0) => {}
        Ok(_) if stops_when_wrong && !wrong.is_empty() => {} // they were left in the middle
        Ok(stuck) => wrong.push(format!("{stuck} threads wait forever")),
        Err(_) => wrong.push("a thread panicked".to_owned()),
    }
    Report { seed, hash: clock.hash(), took: clock.elapsed(), counts, wrong }
}

fn direct(world: &Arc<World>) {
    let clock = &world.clock;
    for host in 0..world.hosts.len() {
        let world = Arc::clone(world);
        clock.start(move || world.hosts[host].start(&world, host));
    }
    clients::start(world);
    changes::start(world);
    world.have_mishaps();
    let is_over = || world.clients.load(Ordering::Relaxed) + world.changes.load(Ordering::Relaxed) == 0;
    if !clock.await_until(LONGEST_DAY, is_over) {
        world.is_wrong(format_args!("the clients' day does not come to an end"));
    }
    world.enter(Phase::Peace);
    settle(world, "in peace");
    world.enter(Phase::PowerCut);
    world.lives().iter().for_each(|life| life.crash("in the power cut"));
    world.enter(Phase::Peace);
    settle(world, "after the power cut");
    world.enter(Phase::Over);
    world.lives().iter().for_each(|life| life.shut_down());
}

/// Waits until all is settled, new transactions included, and looks at what there is.
fn settle(world: &Arc<World>, when: &str) {
    let clock = &world.clock;
    let in_service = world.hosts.iter().filter(|host| !host.is_off()).count();
    let up = || world.lives().into_iter().filter(|life| life.is_up()).collect::<Vec<_>>();
    if !clock.await_until(LONGEST_PEACE, || up().len() == in_service) {
        return world.is_wrong(format_args!("{when}: not all hosts start, although nothing fails any more"));
    }
    clock.sleep(MS * 3_000); // what is still on its way arrives
    if !clock.await_until(LONGEST_PEACE, || up().len() == in_service) {
        return world.is_wrong(format_args!("{when}: not all hosts stay up, although nothing fails any more"));
    }
    world.faults_have_worn_off();
    if !clock.await_until(LONGEST_PEACE, || change_is_over(world)) {
        let unrest: Vec<_> = up().iter().flat_map(|life| life.unrest()).collect();
        let blocked = changes::await_keeper(world).and_then(|life| life.desk());
        let blocked = blocked.and_then(|desk| Some(desk.cluster()?.moving()?.progress()));
        return world.is_wrong(format_args!("{when}: the change does not end: {blocked:#?}, {unrest:#?}"));
    }
    let is_quiet = || {
        forget(world);
        clock.await_until(MS * 2_000, || world.lives().iter().all(|life| life.unrest().is_empty()))
    };
    if !clock.await_until(LONGEST_PEACE, is_quiet) {
        let unrest: Vec<_> = up().iter().flat_map(|life| life.unrest()).collect();
        return world.is_wrong(format_args!("{when}: no peace: {unrest:#?}"));
    }
    probe(world, when);
    if !clock.await_until(LONGEST_PEACE, is_quiet) {
        let unrest: Vec<_> = up().iter().flat_map(|life| life.unrest()).collect();
        return world.is_wrong(format_args!("{when}: no peace after the probes: {unrest:#?}"));
    }
    audit(world, when);
}

/// New transactions carry the news of what has ended. Checkpoints then forget it, and roll back work that came after that.
fn forget(world: &Arc<World>) {
    for life in world.lives() {
        if let Some(desk) = life.desk() {
            desk.coordinator().retry_all();
            drop(desk);
            for key in 0..KEYS {
                clients::transfer(&life, &clients::Wish::probe(key));
            }
        }
    }
    give_up_strays(world);
    for shard in world.lives().iter().flat_map(|life| life.shards()) {
        let _ = shard.checkpoint();
    }
}

/// A late message may begin a branch at a node that has left. No coordinator calls there any more, so its operator asks what became
/// of it. A promise does not come about so: it is never left behind.
fn give_up_strays(world: &Arc<World>) {
    let keeper = changes::await_keeper(world).and_then(|life| life.desk());
    let Some(ring) = keeper.map(|desk| desk.assignment().load().ring().clone()) else { return };
    for life in world.lives() {
        if life.node().is_none_or(|node| ring.node(node).is_some()) {
            continue;
        }
        for shard in life.shards().iter().filter(|shard| shard.branches().prepared == 0) {
            let _ = shard.resolve_in_doubt(MS * 20);
        }
    }
}

/// Whether no change is under way. Clients write meanwhile, and one that is paused goes on.
fn change_is_over(world: &Arc<World>) -> bool {
    let Some(life) = changes::await_keeper(world) else { return false };
    let Some(desk) = life.desk() else { return false };
    let Some(cluster) = desk.cluster() else { return false };
    let Some(moving) = cluster.moving() else { return true };
    world.lives().iter().filter_map(|life| life.desk()).for_each(|desk| _ = desk.coordinator().retry_all());
    if moving.progress().is_paused {
        let _ = moving.resume();
    }
    let _ = moving.set_pace(ringpact::sharding::Pace::new().unthrottled().chunk_bytes(world.plan.chunk_bytes));
    let key = world.clock.draw(|random| random.u32(..KEYS));
    clients::transfer(&life, &clients::Wish::probe(key));
    clients::read(&life, (0, key));
    moving.wait(MS * 20)
}

/// Each key can be written and read, from each coordinator. Followers may learn of changes only now.
fn probe(world: &Arc<World>, when: &str) {
    for life in world.lives().into_iter().filter(|life| life.desk().is_some()) {
        for key in 0..KEYS {
            if !(0..6).any(|_| clients::transfer(&life, &clients::Wish::probe(key)) == Some(Told::Committed)) {
                world.is_wrong(format_args!("{when}: {life} can't write to key {key}"));
            }
            for service in 0..SERVICES.len() {
                clients::read(&life, (service, key));
            }
        }
    }
}

fn audit(world: &Arc<World>, when: &str) {
    let Some(life) = changes::await_keeper(world) else { return };
    let Some(desk) = life.desk() else { return };
    let assignment = Arc::clone(&desk.assignment().load());
    if assignment.after().is_some() {
        world.is_wrong(format_args!("{when}: a change is still published"));
    }
    world.oracle.lock().has_ring(assignment.ring());
    let shares = shares(assignment.ring());
    let mut found = BTreeMap::new();
    for life in world.lives() {
        let Some(node) = life.node() else { continue };
        let share = shares.get(node).cloned().unwrap_or_default();
        for (service, shard) in life.shards().into_iter().enumerate() {
            if shard.owned() != share {
                let owned = shard.owned();
                world.is_wrong(format_args!("{when}: {} owns {owned:?} and is to own {share:?}", shard.name()));
            }
            for (key, tokens) in shard.shard().all() {
                if !share.contains(plan::position(key)) {
                    if shard.shard().is_abandoned(plan::position(key)) {
                        continue;
                    }
                    world.is_wrong(format_args!("{when}: {} has left over key {key}: {tokens:?}", shard.name()));
                } else if found.insert((service, key), tokens).is_some() {
                    world.is_wrong(format_args!("{when}: key {key} of {service} is at two nodes"));
                }
            }
        }
    }
    world.oracle.lock().audit(when, &found);
    let members: BTreeSet<_> = shares.keys().map(String::as_str).collect();
    let circuits = desk.coordinator().status().circuits;
    for node in NODES.iter().filter(|node| !members.contains(**node)) {
        if circuits.iter().any(|circuit| circuit.participant.as_str().ends_with(&format!(".{node}"))) {
            world.is_wrong(format_args!("{when}: {node} has left, and still takes part"));
        }
    }
}

/// Returns the ranges of each node.
fn shares(ring: &HashRing) -> BTreeMap<String, RangeSet> {
    let positions: BTreeSet<_> = ring.tokens().map(|token| token.position).collect();
    let mut shares = BTreeMap::<_, RangeSet>::new();
    let Some(mut start) = positions.last().copied() else { return shares };
    for end in positions {
        shares.entry(ring.owner_at(end).id().to_string()).or_default().insert(PositionRange { start, end });
        start = end;
    }
    shares
}
