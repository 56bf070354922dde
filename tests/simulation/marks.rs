//! The oracle of what a participant that is stuck, or away, may cost: its own mark, its own circuit, and no more.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    Coordinator, Name, TransactionLog, TxnId, TxnOrdinal,
    participant::Request,
    txn::{CircuitState, CircuitStatus, CoordinatorStatus},
};

use super::{
    host::{Host, Life},
    mutants::Mutant,
    world::World,
};

/// After this time everything that can be delivered is, and what is not is stuck: time-outs, back-off
/// and slow syncs take less.
const GRACE: Duration = Duration::from_secs(5);

/// Number of transactions that must have failed at a participant, some time ago, before its circuit has to be open. That it opens
/// after eight is tested elsewhere.
const SURELY_OPENS: usize = 16;

/// What late messages of before may still say.
const LATE: Duration = Duration::from_secs(3);

/// What a coordinator has sent, participant by participant.
#[derive(Default)]
pub struct Sent(Mutex<BTreeMap<Name, SentTo>>);

#[derive(Default)]
struct SentTo {
    mark: TxnOrdinal,
    /// When each transaction was first spoken of.
    about: BTreeMap<TxnId, Duration>,
}

impl Sent {
    /// A request goes out; what a mutant makes of it.
    pub fn goes_out(&self, life: &Life, to: &Name, request: &mut Request) {
        let Request::Branch { branch, call, .. } = request else { return };
        let world = &life.world;
        let mut sent = self.0.lock();
        let there = sent.entry(to.clone()).or_default();
        there.mark = call.ended_below;
        there.about.entry(branch.txn().clone()).or_insert(world.clock.elapsed());
        if world.is_mutated(Mutant::HoldsAllMarks) {
            call.ended_below = sent.values().map(|there| there.mark).min().unwrap_or_default();
        }
        drop(sent);
        check_mark(life, to, branch.txn().coordinator(), call.ended_below);
    }

    /// How many transactions were first spoken of there in this time.
    fn spoken_of(&self, to: &Name, from: Duration, until: Duration) -> usize {
        let sent = self.0.lock();
        let about = sent.get(to).map(|there| there.about.values().filter(|at| (from..until).contains(at)).count());
        about.unwrap_or_default()
    }
}

/// The first transaction that a participant must not forget is one that it has to do with, or a recent one.
fn check_mark(life: &Life, to: &Name, coordinator: &Name, mark: TxnOrdinal) {
    let world = &life.world;
    let first = TxnId::new(coordinator.clone(), mark.epoch, mark.sequence);
    let long_ago = world.clock.elapsed().saturating_sub(GRACE);
    if life.opened_at() > long_ago || !world.ledger.lock().was_over(&first, to, long_ago) {
        return;
    }
    // One that has ended holds all marks until its end is durable, which no call forces; and if the log is poisoned, until that
    // is opened again.
    let is_open = |coordinator: &Coordinator| {
        coordinator.status().transactions.iter().any(|transaction| transaction.txn == first)
    };
    let is_poisoned = life.logs().iter().any(|log| log.live(coordinator).is_err());
    if is_poisoned || !life.coordinator().is_some_and(|coordinator| is_open(&coordinator)) {
        return;
    }
    world.is_wrong(format_args!("{life}: {first}, which {to} has nothing to do with, holds its mark"));
}

/// How much may be undelivered: what may be before a branch is refused, and what had a branch by then.
pub fn check_undelivered(life: &Life, status: &CoordinatorStatus, recovered: usize) {
    let world = &life.world;
    let most = world.plan.limits.undelivered.saturating_add(2 * world.plan.clients + recovered);
    for circuit in status.circuits.iter().filter(|circuit| circuit.undelivered > most) {
        let (there, owed) = (&circuit.participant, circuit.undelivered);
        world.is_wrong(format_args!("{life}: {there} owes {owed} acknowledgements, {most} are allowed"));
    }
}

/// A host that has been down since then starts again: coordinators that called its participants have found that out.
pub fn check_circuits(world: &World, host: usize, down_since: Duration) {
    let (from, until) = (down_since + LATE, world.clock.elapsed().saturating_sub(LATE));
    for life in world.hosts.iter().filter_map(Host::life).filter(|life| life.is_up()) {
        let Some(coordinator) = life.coordinator().filter(|_| life.opened_at() < from) else { continue };
        let circuits = coordinator.status().circuits;
        // One that was added again has a new circuit.
        let stays = |name: &&str| !world.plan.comes_and_goes(name);
        for name in world.hosts[host].plan.managers.iter().map(|(name, _)| *name).filter(stays) {
            let circuit = circuits.iter().find(|circuit| circuit.participant.as_str() == name);
            let Some(circuit) = circuit else { continue };
            let spoken_of = life.sent.spoken_of(&circuit.participant, from, until);
            if spoken_of > 0 {
                world.count(|counts| counts.dead_spoken_to += 1);
            }
            if spoken_of >= SURELY_OPENS && circuit.state == CircuitState::Closed {
                world.is_wrong(format_args!(
                    "{life}: {name} has answered none of {spoken_of} transactions, and its circuit is closed"
                ));
            }
        }
    }
}

/// All has been answered for a while: no circuit may refuse anything.
pub fn check_in_peace(life: &Life, status: &CoordinatorStatus) {
    let is_bad = |circuit: &&CircuitStatus| circuit.state == CircuitState::Open || circuit.kept_back > 0;
    for circuit in status.circuits.iter().filter(is_bad) {
        life.world.is_wrong(format_args!("{life}: all is well, and yet: {circuit}"));
    }
}
