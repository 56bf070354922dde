//! Services that coordinators are opened without, that are added to them later, and that retire and are added again. And the operator
//! that settles what a service reports so late that the post may have forgotten whether it has sent the letter.

use std::sync::Arc;

use fastrand::Rng;
use ringpact::{Coordinator, txn::CoordinatorError};

use super::{
    host::{Life, OpeningError},
    operator,
    world::World,
};

/// Has services come and go, at each coordinator, if the plan says so.
pub fn start(world: &Arc<World>) {
    if world.plan.coming.is_empty() {
        return;
    }
    for host in (0..world.hosts.len()).filter(|host| world.hosts[*host].plan.coordinator.is_some()) {
        let world = Arc::clone(world);
        world.clock.clone().start(move || {
            while !world.is_over() {
                world.clock.sleep((world.plan.comes_every * 2).mul_f64(world.clock.draw(Rng::f64)));
                if let Some(life) = world.hosts[host].life().filter(|life| life.is_up() && !world.is_over()) {
                    look(&world, &life);
                }
            }
        });
    }
}

fn look(world: &Arc<World>, life: &Arc<Life>) {
    for service in &world.plan.coming {
        let Some(coordinator) = life.coordinator() else { return };
        let status = coordinator.status();
        let draw = world.clock.draw(|random| random.u8(..4));
        if status.retiring.iter().any(|retiring| retiring.participant.as_str() == *service) {
            continue;
        }
        let takes_part = status.circuits.iter().any(|circuit| circuit.participant.as_str() == *service);
        if !takes_part && (draw < 2 || !world.faulty()) {
            add(world, life, &coordinator, service);
        } else if takes_part && draw == 0 && world.faulty() {
            let retires = coordinator.retire(service);
            world.clock.note(format_args!("{life}: {service} is to retire: {retires:?}"));
            world.count(|counts| counts.retired += 1);
            if let Err(error) = retires
                && life.is_alive()
            {
                world.is_wrong(format_args!("{life}: {service} does not retire: {error}"));
            }
        }
    }
    let Some(coordinator) = life.coordinator() else { return };
    let status = coordinator.status();
    // Before all have said what they hold, one of them may still be told otherwise.
    if status.unanswered == 0 {
        for unclaimed in status.unclaimed {
            operator::settle(world, life, &coordinator, unclaimed.branch.txn());
        }
    }
}

fn add(world: &Arc<World>, life: &Arc<Life>, coordinator: &Coordinator, service: &'static str) {
    let there = world.hosts.iter().position(|host| host.plan.managers.iter().any(|(name, _)| *name == service));
    let Some(there) = there else { return };
    world.clock.note(format_args!("{life}: {service} is added"));
    world.count(|counts| counts.added += 1);
    match life.reach(there, service, coordinator) {
        // It is being closed.
        Ok(_) | Err(OpeningError::Coordinator(CoordinatorError::ShuttingDown)) => {}
        Err(error) if life.is_alive() => world.is_wrong(format_args!("{life}: {service} is not added: {error}")),
        Err(_) => {}
    }
}
