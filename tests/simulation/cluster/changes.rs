//! The operator of the cluster: nodes join, leave and get other weights, several at once; and while data moves, the operator pauses,
//! goes on at another pace, or cancels.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ringpact::{
    HashRing,
    ring::RingEpoch,
    sharding::{AssignmentStep, AssignmentUpdate, Cluster, ClusterError, Moving, Pace, Side},
};

use super::{
    host::{Desk, Life},
    mutants::Mutant,
    plan::NODES,
    world::World,
};
use crate::MS;

/// How long the operator looks on while a change is under way and things go wrong.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Changes the nodes of the cluster as often as the plan says.
pub fn start(world: &Arc<World>) {
    let world = Arc::clone(world);
    world.changes.fetch_add(1, Ordering::Relaxed);
    world.clock.clone().start(move || {
        // A follower that finds no keeper at first comes late, and would miss all changes.
        world.clock.await_until(MS * 3_000, || (0..world.hosts.len()).all(|host| is_up(&world, host)));
        for _ in 0..world.plan.changes {
            world.clock.sleep((MS * 100).mul_f64(world.clock.draw(fastrand::Rng::f64)));
            if let Some(life) = await_keeper(&world) {
                change(&world, &life);
            }
            if world.faulty() && world.clock.once_in(world.plan.crash_after_change) {
                let host = world.clock.draw(|random| random.usize(..world.hosts.len()));
                world.hosts[host].life().iter().for_each(|life| life.crash("after a change"));
            }
        }
        world.changes.fetch_sub(1, Ordering::Relaxed);
    });
}

fn is_up(world: &World, host: usize) -> bool {
    world.hosts[host].life().is_some_and(|life| life.is_up())
}

pub fn await_keeper(world: &World) -> Option<Arc<Life>> {
    let mut life = None;
    world.clock.await_until(MS * 10_000, || {
        life = world.hosts[World::KEEPER].life().filter(|life| life.is_up());
        life.is_some()
    });
    life
}

fn pace(world: &World) -> Pace {
    let (into, out_of, rate) = world
        .clock
        .draw(|random| (random.u32(1..=3), random.u32(1..=2), [None, Some(2_000), Some(200)][random.usize(..3)]));
    let pace = Pace::new().into_each(into).out_of_each(out_of).chunk_bytes(world.plan.chunk_bytes);
    match rate {
        Some(rate) => pace.bytes_per_second(rate),
        None => pace.unthrottled(),
    }
}

/// Makes one change, if the keeper lives long enough, and looks after it.
fn change(world: &Arc<World>, life: &Arc<Life>) {
    let Some(desk) = life.desk() else { return };
    let Some(cluster) = desk.cluster() else { return };
    let (before, begun) = match cluster.moving() {
        // One that an earlier life has begun.
        Some(_) => (cluster.assignment().load().ring().clone(), None),
        None => match begin(world, life, cluster) {
            Some((before, begun)) => (before, Some(begun)),
            None => return,
        },
    };
    look_after(world, life, &desk, &before, begun);
}

/// The epoch before a change, and how many positions it is to move.
type Begun = (RingEpoch, u128);

/// Returns the ring before the change.
fn begin(world: &World, life: &Life, cluster: &Cluster) -> Option<(HashRing, Begun)> {
    let (before, epoch) = {
        let assignment = cluster.assignment().load();
        (assignment.ring().clone(), assignment.epoch())
    };
    world.oracle.lock().has_ring(&before);
    let builder = cluster.change().ok()?;
    let nodes = &NODES[..world.plan.nodes()];
    let (mut builder, mut members, edits) =
        (builder, before.nodes().len(), world.clock.draw(|random| random.usize(1..=3)));
    let mut order: Vec<_> = nodes.to_vec();
    world.clock.draw(|random| random.shuffle(&mut order));
    for node in order.into_iter().take(edits) {
        let is_member = before.node(node).is_some();
        let (kind, weight) = world.clock.draw(|random| (random.u8(..3), random.u32(1..=3)));
        builder = match (is_member, kind) {
            (false, _) => {
                members += 1;
                builder.join(node)
            }
            (true, 0 | 1) if members > 1 => {
                members -= 1;
                builder.leave(node)
            }
            _ => builder.weight(node, weight),
        };
    }
    let plan = match builder.plan() {
        Ok(plan) => plan,
        Err(error) => {
            world.is_wrong(format_args!("{life}: a change can't be planned: {}", ringpact::error_chain(&error)));
            return None;
        }
    };
    let (after, width) =
        (plan.after().clone(), plan.movement().ranges().iter().map(|part| part.range.width()).sum::<u128>());
    world.clock.note(format_args!("{life} changes {:?} to {:?}", before.nodes(), after.nodes()));
    world.oracle.lock().starts(&after, plan.movement().ranges().iter().map(|part| part.range));
    let started = plan.start(pace(world));
    if !life.is_alive() {
        return None;
    }
    match started {
        Ok(_) => {
            world.count(|counts| counts.changes += 1);
            world.oracle.lock().leads_to(&after);
            Some((before, (epoch, width)))
        }
        Err(error) => {
            world.clock.note(format_args!("{life}: the change does not start: {}", ringpact::error_chain(&error)));
            if world.plan.is_calm && world.mutant.is_none() && !matches!(error, ClusterError::StillLeaving { .. }) {
                world.is_wrong(format_args!("{life}: a change does not start: {}", ringpact::error_chain(&error)));
            }
            None
        }
    }
}

fn look_after(world: &Arc<World>, life: &Arc<Life>, desk: &Desk, before: &HashRing, begun: Option<Begun>) {
    let Some(cluster) = desk.cluster() else { return };
    let Some(moving) = cluster.moving() else { return };
    let after = cluster.assignment().load().after().cloned();
    let leavers: Vec<_> =
        after.iter().flat_map(|after| before.nodes().iter().filter(|node| after.node(node.id()).is_none())).collect();
    let mut is_cancelled = moving.progress().is_cancelled;
    let until = world.clock.elapsed() + LONGEST_WAIT;
    while life.is_alive() && world.clock.elapsed() < until {
        let pause = (MS * 60).mul_f64(world.clock.draw(fastrand::Rng::f64));
        if moving.wait(pause) && cluster.moving().is_none() {
            break;
        }
        if !life.is_alive() {
            return;
        }
        let done = match world.clock.draw(|random| random.u8(..16)) {
            0 => moving.pause(),
            1..4 => moving.resume(),
            4 | 5 => moving.set_pace(pace(world)),
            6 if !is_cancelled => {
                is_cancelled = true;
                cancel(world, life, &moving, before)
            }
            _ => Ok(()),
        };
        if let Err(error) = done {
            world.clock.note(format_args!("{life}: the change is not steered: {}", ringpact::error_chain(&error)));
        }
    }
    if !life.is_alive() || cluster.moving().is_some() {
        return;
    }
    let progress = moving.progress();
    world.count(|counts| {
        counts.chunks += progress.chunks;
        counts.chunks_again += progress.again;
        counts.left += leavers.len() as u64;
    });
    if let Some((epoch, width)) = begun.filter(|_| !is_cancelled)
        && let Some(moved) = moved_since(cluster, epoch)
        && moved != width
    {
        world.is_wrong(format_args!("{life}: {moved} positions have moved, and {width} were to move"));
    }
    let ring = cluster.assignment().load().ring().clone();
    world.clock.note(format_args!("{life}: the change is over: {progress:?}"));
    world.oracle.lock().has_ring(&ring);
    if world.is_mutated(Mutant::RetiresTooEarly) {
        for node in leavers.into_iter().filter(|node| ring.node(node.id()).is_none()) {
            let there = world.plan.site_of(node.id().as_str()).and_then(|host| world.hosts[host].life());
            there.iter().for_each(|life| life.turn_off());
        }
    }
}

fn cancel(world: &World, life: &Life, moving: &Moving, before: &HashRing) -> Result<(), ClusterError> {
    world.oracle.lock().may_lead_to(before);
    world.clock.note(format_args!("{life} cancels"));
    moving.cancel()?;
    if life.is_alive() {
        world.count(|counts| counts.cancelled += 1);
        world.oracle.lock().leads_to(before);
    }
    Ok(())
}

/// How many positions have moved since this epoch, or `None` if the keeper does not know any more.
fn moved_since(cluster: &Cluster, epoch: RingEpoch) -> Option<u128> {
    match cluster.assignment().since(epoch) {
        AssignmentUpdate::Steps(steps) => {
            let moved = steps.iter().map(|step| match step {
                AssignmentStep::Moved { ranges, side: Side::After, .. } => ranges.width(),
                _ => 0,
            });
            Some(moved.sum())
        }
        _ => None,
    }
}
