//! Clients of the cluster: they write to several keys in one transaction, read, follow hints, stop in the middle, and remember what they
//! were told.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ringpact::{
    CommitError, Transaction, error_chain,
    ring::NodeId,
    sharding::{DEFAULT_PATIENCE, GateRefusal, RouteError, ShardError, Tenure, shard_name},
};

use super::{
    host::{Desk, Life, Seated},
    network::Link,
    oracle::{Place, Told},
    plan::{KEYS, SERVICES, position},
    shard::Put,
    world::World,
};
use crate::MS;

/// How often a client asks again for a key that is on its way, or follows a hint.
const HOPS: usize = 6;

/// Starts all clients, spread over the coordinators.
pub fn start(world: &Arc<World>) {
    let desks: Vec<_> = (0..world.hosts.len()).filter(|host| world.hosts[*host].plan.seat.is_some()).collect();
    for client in 0..world.plan.clients {
        let (world, host) = (Arc::clone(world), desks[client % desks.len()]);
        world.clients.fetch_add(1, Ordering::Relaxed);
        world.clock.clone().start(move || {
            let mut left = world.plan.transfers;
            // For as long as there are changes, so that they have clients in their way.
            while left > 0 || world.is_day() && world.changes.load(Ordering::Relaxed) > 0 {
                left = left.saturating_sub(1);
                let pause = world.plan.pause * if left == 0 { 8 } else { 1 };
                world.clock.sleep(pause.mul_f64(world.clock.draw(fastrand::Rng::f64)));
                let Some(life) = await_life(&world, host) else { continue };
                match world.clock.draw(|random| random.u8(..3)) {
                    0 => read(&life, world.clock.draw(place)),
                    _ => drop(transfer(&life, &Wish::draw(&world))),
                }
            }
            world.clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn place(random: &mut fastrand::Rng) -> Place {
    (random.usize(..SERVICES.len()), random.u32(..KEYS))
}

fn await_life(world: &World, host: usize) -> Option<Arc<Life>> {
    let mut life = None;
    world.clock.await_until(MS * 5_000, || {
        life = world.hosts[host].life().filter(|life| life.is_up());
        life.is_some()
    });
    life
}

/// What a client wants, and how it goes about it.
pub struct Wish {
    /// Places, and whether it only looks there.
    places: Vec<(Place, bool)>,
    patience: Duration,
    follows_hints: bool,
    dawdles: Duration,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It waits until all shards have confirmed.
    Delivered,
    Wait,
    WalkAway,
    RollBack,
}

impl Wish {
    fn draw(world: &World) -> Self {
        world.clock.draw(|random| {
            let mut places = Vec::new();
            let first = place(random);
            places.push((first, random.u8(..6) == 0));
            match random.u8(..4) {
                0 => {}
                1 => places.push(((1 - first.0, first.1), false)),
                2 => places.push((place(random), random.u8(..6) == 0)),
                _ => places.extend((0..3).map(|_| (place(random), false))),
            }
            places.sort_unstable();
            places.dedup_by_key(|(place, _)| *place);
            random.shuffle(&mut places);
            let dawdles = world.plan.dawdles > 0 && random.u32(..world.plan.dawdles) == 0;
            Self {
                places,
                patience: [DEFAULT_PATIENCE, DEFAULT_PATIENCE, MS * 30, Duration::ZERO][random.usize(..4)],
                follows_hints: random.u8(..4) == 0,
                dawdles: if dawdles { MS * random.u32(100..1_500) } else { Duration::ZERO },
                end: [End::Delivered, End::Delivered, End::Wait, End::WalkAway, End::RollBack][random.usize(..5)],
            }
        })
    }

    /// One key of both services, in peace.
    pub fn probe(key: u32) -> Self {
        let places = vec![((0, key), false), ((1, key), false)];
        let dawdles = Duration::ZERO;
        Self { places, patience: DEFAULT_PATIENCE, follows_hints: false, dawdles, end: End::Delivered }
    }
}

/// Why a client does not go on.
struct GivesUp;

/// Goes through with it, as far as it goes. Returns what the client was told, if it was told anything.
pub fn transfer(life: &Arc<Life>, wish: &Wish) -> Option<Told> {
    let world = &life.world;
    let desk = life.desk()?;
    observe(life, &desk);
    let mut txn = desk.begin();
    if !life.is_alive() {
        return None;
    }
    let token = world.oracle.lock().begun(txn.id());
    for ((service, key), is_look) in &wish.places {
        let put = Put { key: *key, token: if *is_look { 0 } else { token } };
        let done = if wish.follows_hints {
            work_by_hints(life, &desk, &mut txn, *service, put)
        } else {
            work(life, &desk, &mut txn, *service, put, wish.patience)
        };
        match done {
            Ok(true) if !is_look && life.is_alive() => world.oracle.lock().worked(token, (*service, *key)),
            Ok(_) => {}
            Err(GivesUp) => return None,
        }
        world.clock.sleep(wish.dawdles / wish.places.len() as u32);
    }
    drop(desk);
    if wish.end == End::RollBack || !life.is_alive() {
        return None;
    }
    world.oracle.lock().committing(token);
    let id = txn.id().clone();
    world.clock.note(format_args!("{life} commits {id}, token {token}, {:?}", wish.end));
    let commit = txn.commit();
    if wish.end == End::WalkAway {
        drop(commit);
        return None;
    }
    let delivered = (wish.end == End::Delivered).then(|| commit.delivered());
    let result = commit.wait();
    if !life.is_alive() {
        return None;
    }
    let told = match &result {
        Ok(()) => Told::Committed,
        Err(CommitError::RolledBack { .. }) => Told::RolledBack,
        Err(_) => Told::Indeterminate,
    };
    world.clock.note(format_args!("{life} is told about {id}: {told:?}"));
    world.oracle.lock().told(token, told);
    world.count(|counts| match told {
        Told::Committed => counts.committed += 1,
        Told::RolledBack => counts.rolled_back += 1,
        Told::Indeterminate => counts.indeterminate += 1,
    });
    if let Some(delivered) = delivered.filter(|_| told == Told::Committed)
        && delivered.wait().is_ok()
        && life.is_alive()
    {
        world.oracle.lock().delivered(token);
    }
    Some(told)
}

/// Has a shard do a piece of work. Returns whether it was done; if not, the transaction goes on without it.
fn work(
    life: &Arc<Life>,
    desk: &Desk,
    txn: &mut Transaction,
    service: usize,
    put: Put,
    patience: Duration,
) -> Result<bool, GivesUp> {
    let world = &life.world;
    let result = desk.services[service].execute_within(txn, put, patience);
    if !life.is_alive() {
        return Err(GivesUp);
    }
    match result {
        Ok(()) => Ok(true),
        Err(RouteError::Refused { node, refusal }) => {
            world.clock.note(format_args!("{life}: {node} does not let {put:?} in: {refusal}"));
            world.count(|counts| counts.refused += 1);
            if patience >= DEFAULT_PATIENCE && world.plan.is_calm && world.mutant.is_none() {
                world.is_wrong(format_args!("{life}: key {} of {service} is not served for {patience:?}", put.key));
            }
            Ok(false)
        }
        Err(error) => {
            note_failure(life, put, &error);
            Err(GivesUp)
        }
    }
}

fn note_failure(life: &Life, put: Put, error: &(dyn std::error::Error + 'static)) {
    let text = error_chain(error);
    life.world.clock.note(format_args!("{life}: {put:?} fails: {text}"));
    if text.contains("the key does not exist") && life.world.mutant.is_none() {
        life.world.is_wrong(format_args!("{life}: {put:?}: key {} is said not to exist", put.key));
    }
}

/// The same by a transport of the client's own, which goes where shards send it.
fn work_by_hints(
    life: &Arc<Life>,
    desk: &Desk,
    txn: &mut Transaction,
    service: usize,
    put: Put,
) -> Result<bool, GivesUp> {
    let world = &life.world;
    let located = desk.services[service].locate(position(put.key)).map_err(|_| GivesUp)?;
    let (mut node, mut known) = {
        let remembers = world.clock.draw(|random| random.u8(..8)) > 0;
        let mut remembered = world.remembered.lock();
        // At first, from before all changes.
        let first = || (world.plan.first_ring().owner_at(position(put.key)).id().clone(), Tenure::FIRST);
        let place = remembered.entry((service, put.key)).or_insert_with(first);
        if !remembers {
            *place = located;
        }
        place.clone()
    };
    let mut is_hinted = false;
    for _ in 0..HOPS {
        let name = shard_name(SERVICES[service], &node).map_err(|_| GivesUp)?;
        let had_branch = txn.has_branch(&name);
        // A follower may not have met the node yet.
        let branch = txn.branch(&name).map_err(|_| GivesUp)?.clone();
        let to = world.plan.site_of(node.as_str()).ok_or(GivesUp)?;
        let done = match life.shard(service) {
            Some(shard) if to == life.host => shard.execute(&branch, known, put, MS * 10),
            _ => Link { from: Arc::clone(life), to, service }.work(&branch, known, put, MS * 10, is_hinted),
        };
        if !life.is_alive() {
            return Err(GivesUp);
        }
        let refusal = match done {
            Ok(()) => return Ok(true),
            Err(ShardError::Gate(refusal)) => refusal,
            Err(error) => {
                note_failure(life, put, &error);
                return Err(GivesUp);
            }
        };
        if !had_branch {
            txn.withdraw(&name).map_err(|_| GivesUp)?;
        }
        if let GateRefusal::NotOwner { since, owner } = refusal {
            world.clock.note(format_args!("{life} follows a hint for {put:?} to {owner}, {since}"));
            world.count(|counts| counts.hints += 1);
            (node, known, is_hinted) = (owner, since, true);
        }
    }
    world.count(|counts| counts.refused += 1);
    Ok(false)
}

/// What the client sees of the ring.
fn observe(life: &Life, desk: &Desk) {
    if let Seated::Keeper(cluster) = &desk.seat
        && life.is_alive()
    {
        let assignment = cluster.assignment().load();
        let known = |key| assignment.place(position(key)).known;
        life.world.oracle.lock().is_published(assignment.epoch(), known);
    }
}

/// Reads a key.
pub fn read(life: &Arc<Life>, place: Place) {
    let (world, (service, key)) = (&life.world, place);
    let Some(desk) = life.desk() else { return };
    observe(life, &desk);
    let visible = world.oracle.lock().visible(place);
    let locate = || desk.services[service].locate(position(key)).ok();
    let Some((mut node, mut known)): Option<(NodeId, Tenure)> = locate() else { return };
    for _ in 0..HOPS {
        let Some(to) = world.plan.site_of(node.as_str()) else { return };
        let answer = match life.shard(service) {
            Some(shard) if to == life.host => Some(shard.read(position(key), known, MS * 20, |ledger| ledger.get(key))),
            _ => Link { from: Arc::clone(life), to, service }.read(key, known, MS * 20),
        };
        if !life.is_alive() {
            return;
        }
        match answer {
            None => return,
            Some(Ok(None)) => return world.is_wrong(format_args!("{life}: a read at {node} finds no key {place:?}")),
            Some(Ok(Some(tokens))) => {
                world.clock.note(format_args!("{life} reads {place:?} at {node}: {tokens:?}"));
                world.count(|counts| counts.reads += 1);
                return world.oracle.lock().is_read(place, &tokens, &visible);
            }
            Some(Err(GateRefusal::NotOwner { since, owner })) if world.clock.draw(fastrand::Rng::bool) => {
                (node, known) = (owner, since);
            }
            Some(Err(_)) => {
                match &desk.seat {
                    Seated::Follower(follower) => follower.refresh(),
                    Seated::Keeper(_) => world.clock.sleep(MS),
                }
                if let Some(there) = locate() {
                    (node, known) = there;
                }
            }
        }
    }
}
