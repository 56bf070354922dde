//! Which moves can be made in a state, and where they lead.

use ringpact::{
    participant::{BranchInput, BranchPhase, Effort, LogSharing},
    sharding::{Gate, Tenure},
};

use super::{
    Kind, Model, Move, Mutant,
    world::{CHUNKS, Outcome, ReleaseCall, SHARDS, World},
};
use crate::support::search::{Luck, Successor};

/// The moves that are collected from one state.
pub(super) struct Moves<'a> {
    pub(super) from: World,
    pub(super) out: &'a mut Vec<Successor<World, Move>>,
}

impl Moves<'_> {
    fn add(&mut self, what: Move, luck: Luck, to: World) {
        let to = to.tidied();
        if to != self.from {
            self.out.push(Successor { what, luck, to });
        }
    }

    fn fair(&mut self, what: Move, to: World) {
        self.add(what, Luck::Fair, to);
    }
}

impl Model {
    pub(super) fn moves(&mut self, moves: &mut Moves<'_>) {
        for number in 0..CHUNKS {
            self.mover(number, moves);
            self.chunk_is_decided(number, moves);
        }
        for number in 0..self.clients {
            self.client(number, moves);
        }
        self.keeper(moves);
        self.shards(moves);
        if self.sharing == LogSharing::SharedLog {
            self.crash_all(moves);
        }
    }

    /// A message that was sent before may come again, or late. That is a fault.
    fn late(world: &World) -> Option<World> {
        let faults = world.faults.checked_sub(1)?;
        Some(World { faults, ..*world })
    }

    fn mover(&mut self, number: usize, moves: &mut Moves<'_>) {
        let world = moves.from;
        let chunk = world.chunks[number];
        let (id, ranges) = (self.txns[number].clone(), self.ranges.clone());
        if chunk.outcome == Outcome::NotBegun {
            let is_first = world.chunks[..number].iter().all(|chunk| !is_in_flight(chunk));
            let is_next = world.chunks[..number].iter().all(|chunk| chunk.outcome != Outcome::NotBegun);
            if is_first && is_next && !world.ring.ended && world.ring.side != world.ring.toward {
                let mut next = world;
                next.ring.given += 1;
                let begun = &mut next.chunks[number];
                (begun.outcome, begun.to, begun.tenure) = (Outcome::Open, world.ring.toward, next.ring.given);
                moves.fair(Move::Begin(number), next);
            }
            return;
        }
        let (from, to, tenure) = (chunk.from(), chunk.to, Tenure::new(chunk.tenure));
        let is_on_time = chunk.outcome == Outcome::Open && chunk.sent.is_none();
        match chunk.call {
            ReleaseCall::None => {
                let arrives = if is_on_time { Some(world) } else { Self::late(&world) };
                // If the range is sealed already, it is the same call again: see below.
                if let Some(mut next) = arrives
                    && !self.gate(&world, from).is_sealed(&id, &ranges)
                    && self.change(&mut next, from, |gate| gate.freeze(&id, &ranges, tenure)).is_ok()
                {
                    next.chunks[number].call = ReleaseCall::Draining;
                    let luck = if is_on_time { Luck::Fair } else { Luck::Chance };
                    moves.add(Move::Freeze(number), luck, next);
                }
            }
            ReleaseCall::Draining => {
                let mut next = world;
                if self.is(Mutant::SealsOverPins) {
                    let (position, clients) = (self.position, self.txns[CHUNKS..].to_vec());
                    let drop_hold = |gate: &mut Gate| clients.iter().all(|client| gate.drop_hold(position, client));
                    self.change(&mut next, from, drop_hold);
                }
                let sealed = self.change(&mut next, from, |gate| gate.seal(&id));
                if sealed {
                    next.chunks[number].call = ReleaseCall::Sealed(world.shards[from].data);
                    moves.fair(Move::Seal(number), next);
                }
                self.give_back(number, moves);
            }
            ReleaseCall::Sealed(records) => {
                let mut next = world;
                next.chunks[number].call = ReleaseCall::None;
                if self.accepts_work(&world, from, number)
                    && self.change(&mut next, from, |gate| gate.register(&id, &ranges))
                {
                    self.worked(&mut next, from, number);
                    next.chunks[number].sent.get_or_insert(records);
                } else {
                    self.change(&mut next, from, |gate| gate.give_back(&id));
                }
                moves.fair(Move::Register(number), next);
                self.give_back(number, moves);
            }
        }
        if chunk.sent.is_some() {
            let is_on_time = chunk.outcome == Outcome::Open && !chunk.taken;
            let arrives = if is_on_time { Some(world) } else { Self::late(&world) };
            if let Some(mut next) = arrives
                && self.accepts_work(&world, to, number)
                && self.stages(&mut next, to, number)
            {
                self.worked(&mut next, to, number);
                next.chunks[number].taken = true;
                let luck = if is_on_time { Luck::Fair } else { Luck::Chance };
                moves.add(Move::Take(number), luck, next);
            }
        }
        self.repeat(number, moves);
    }

    /// The patience of a release is over, or it fails.
    fn give_back(&mut self, number: usize, moves: &mut Moves<'_>) {
        let (mut next, id) = (moves.from, self.txns[number].clone());
        let from = next.chunks[number].from();
        next.chunks[number].call = ReleaseCall::None;
        self.change(&mut next, from, |gate| gate.give_back(&id));
        moves.fair(Move::GiveBack(number), next);
    }

    /// The call of a release comes once more, when the range is sealed already.
    fn repeat(&mut self, number: usize, moves: &mut Moves<'_>) {
        let world = moves.from;
        let (from, id, ranges) = (world.chunks[number].from(), self.txns[number].clone(), self.ranges.clone());
        let is_quiet = world.chunks[number].call == ReleaseCall::None;
        if !is_quiet || !self.gate(&world, from).is_sealed(&id, &ranges) {
            return;
        }
        let Some(mut next) = Self::late(&world) else { return };
        if self.accepts_work(&world, from, number) {
            self.change(&mut next, from, |gate| gate.register(&id, &ranges));
            self.worked(&mut next, from, number);
        } else if self.is(Mutant::RepeatedReleaseThaws) {
            self.change(&mut next, from, |gate| gate.thaw(&id));
        } else {
            self.change(&mut next, from, |gate| gate.give_back(&id));
        }
        moves.add(Move::ReleaseAgain(number), Luck::Chance, next);
    }

    fn chunk_is_decided(&mut self, number: usize, moves: &mut Moves<'_>) {
        let world = moves.from;
        let chunk = world.chunks[number];
        if chunk.outcome == Outcome::Open {
            if chunk.taken && chunk.votes == 0b11 {
                let mut next = world;
                next.chunks[number].outcome = Outcome::Committed;
                self.is_forced(&mut next);
                moves.fair(Move::Decide(number), next);
            }
            let mut next = world;
            next.chunks[number].outcome = Outcome::RolledBack;
            moves.fair(Move::RollBack(number), next);
        }
        for at in SHARDS {
            if chunk.taken {
                self.prepares(number, at, chunk.outcome, moves);
            }
            self.delivers(number, at, chunk.outcome, moves);
        }
        let is_decided = chunk.outcome == Outcome::Committed;
        let is_early =
            self.is(Mutant::RecordsBeforeTheDecision) && chunk.outcome == Outcome::Open && chunk.votes == 0b11;
        if (is_decided || is_early) && !chunk.recorded {
            let mut next = world;
            next.chunks[number].recorded = true;
            if !world.ring.ended {
                (next.ring.side, next.ring.tenure) = (chunk.to, chunk.tenure);
            }
            moves.fair(Move::Record(number), next);
        }
        if self.is(Mutant::ThawsByTimeOut) && self.phase(&world, chunk.from(), number) == BranchPhase::Prepared {
            let (mut next, id) = (world, self.txns[number].clone());
            self.change(&mut next, chunk.from(), |gate| gate.thaw(&id));
            moves.add(Move::TimesOut(number), Luck::Chance, next);
        }
        if self.is(Mutant::OpensByTimeOut) && self.phase(&world, chunk.to, number) == BranchPhase::Prepared {
            let mut next = world;
            self.confirm(&mut next, chunk.to, number);
            moves.add(Move::TimesOut(number), Luck::Chance, next);
        }
    }

    fn prepares(&mut self, txn: usize, at: usize, outcome: Outcome, moves: &mut Moves<'_>) {
        let is_on_time = outcome == Outcome::Open;
        let arrives = if is_on_time { Some(moves.from) } else { Self::late(&moves.from) };
        if let Some(mut next) = arrives {
            let is_older = next.shards[at].older & (1 << txn) != 0;
            let wants_promise = matches!(self.phase(&next, at, txn), BranchPhase::Active { .. });
            if is_older && wants_promise && !self.is(Mutant::PromisesWhatMayBeLost) {
                self.exchange(&mut next, at, txn, BranchInput::Refused);
            }
            self.exchange(&mut next, at, txn, BranchInput::Prepare(self.sharing));
            let luck = if is_on_time { Luck::Fair } else { Luck::Chance };
            moves.add(Move::Prepare(txn, at), luck, next);
        }
    }

    /// The coordinator repeats what is decided, and every message can be lost.
    fn delivers(&mut self, txn: usize, at: usize, outcome: Outcome, moves: &mut Moves<'_>) {
        let message = match outcome {
            Outcome::Committed => BranchInput::Commit(self.sharing),
            Outcome::RolledBack => BranchInput::Rollback(self.sharing),
            Outcome::NotBegun | Outcome::Open => return,
        };
        let mut next = moves.from;
        if outcome == Outcome::Committed && !self.is_restored(&mut next, at, txn) {
            return;
        }
        self.exchange(&mut next, at, txn, message);
        moves.fair(Move::Deliver(txn, at), next);
    }

    /// The decision is forced. On a log of all it takes along what was written before.
    fn is_forced(&mut self, world: &mut World) {
        if self.sharing == LogSharing::SharedLog {
            SHARDS.into_iter().for_each(|at| self.sync(world, at));
        }
    }

    fn client(&mut self, number: usize, moves: &mut Moves<'_>) {
        let world = moves.from;
        let (client, txn) = (world.clients[number], CHUNKS + number);
        let (id, position) = (self.txns[txn].clone(), self.position);
        let is_open = matches!(client.outcome, Outcome::NotBegun | Outcome::Open);
        if is_open && client.admitted.is_none() {
            let mut next = world;
            next.clients[number].view = (world.ring.side, world.ring.tenure);
            moves.fair(Move::Refresh(number), next);
            let (at, known) = client.view;
            let admitted = self.gate(&world, at).admit(position, Tenure::new(known), &id, Effort::Update);
            let admitted = match admitted {
                Err(_) if self.is(Mutant::WorksWithoutTheGate) => Ok(self.gate(&world, at).image().latest()),
                admitted => admitted,
            };
            if let Ok(stamp) = admitted {
                let mut next = world;
                next.clients[number].outcome = Outcome::Open;
                next.clients[number].admitted = Some((at, stamp.as_u64()));
                moves.fair(Move::Admit(number), next);
            }
        }
        if let Some((at, stamp)) = client.admitted.filter(|_| !client.worked) {
            let mut next = world;
            let entered = self.accepts_work(&world, at, txn)
                && self
                    .change(&mut next, at, |gate| gate.enter(position, Tenure::new(stamp), &id, Effort::Update))
                    .is_ok();
            if entered || self.is(Mutant::WorksWithoutTheGate) {
                self.worked(&mut next, at, txn);
                next.clients[number].worked = true;
            } else {
                next.clients[number].admitted = None;
            }
            moves.fair(Move::Enter(number), next);
        }
        if client.outcome == Outcome::Open {
            if client.voted {
                let mut next = world;
                next.clients[number].outcome = Outcome::Committed;
                self.is_forced(&mut next);
                moves.fair(Move::Decide(txn), next);
            }
            let mut next = world;
            next.clients[number].outcome = Outcome::RolledBack;
            moves.fair(Move::RollBack(txn), next);
        }
        if let Some((at, _)) = client.admitted.filter(|_| client.worked) {
            self.prepares(txn, at, client.outcome, moves);
            self.delivers(txn, at, client.outcome, moves);
            let is_in_the_way =
                world.chunks.iter().any(|chunk| chunk.call == ReleaseCall::Draining && chunk.from() == at);
            if is_in_the_way && matches!(self.phase(&world, at, txn), BranchPhase::Active { .. }) {
                let mut next = world;
                self.exchange(&mut next, at, txn, BranchInput::Rollback(self.sharing));
                moves.add(Move::GiveUp(number), Luck::Chance, next);
            }
        }
    }

    fn keeper(&self, moves: &mut Moves<'_>) {
        let world = moves.from;
        if world.ring.ended {
            return;
        }
        if world.ring.toward == 1 {
            let mut next = world;
            next.ring.toward = 0;
            moves.add(Move::Turn, Luck::Chance, next);
        }
        let forgets = self.is(Mutant::CancelForgetsChunks) && world.ring.toward == 0;
        if world.ring.side == world.ring.toward && (forgets || !world.chunks.iter().any(is_in_flight)) {
            let mut next = world;
            next.ring.ended = true;
            moves.fair(Move::End, next);
        }
        if self.sharing == LogSharing::OwnLog
            && let Some(mut next) = Self::late(&world)
        {
            Self::restart_coordinator(&mut next);
            moves.add(Move::CrashCoordinator, Luck::Chance, next);
        }
    }

    fn restart_coordinator(next: &mut World) {
        for chunk in &mut next.chunks {
            if chunk.outcome == Outcome::Open {
                chunk.outcome = Outcome::RolledBack;
            }
        }
        for client in &mut next.clients {
            if client.outcome == Outcome::Open {
                client.outcome = Outcome::RolledBack;
            }
        }
        // The keeper is on the coordinator's log: what is decided is confirmed again.
        for chunk in &mut next.chunks {
            if chunk.outcome == Outcome::Committed && !chunk.recorded {
                chunk.recorded = true;
                (next.ring.side, next.ring.tenure) = (chunk.to, chunk.tenure);
            }
        }
        next.ring.given = next.ring.tenure;
    }

    /// All that share one log crash at once.
    fn crash_all(&mut self, moves: &mut Moves<'_>) {
        let Some(crashed) = Self::late(&moves.from) else { return };
        let [first, second] = crashed.shards.map(|shard| shard.log.durable..=shard.log.len);
        for kept in first.flat_map(|first| second.clone().map(move |second| [first, second])) {
            for fails in [false, true] {
                let mut next = crashed;
                Self::restart_coordinator(&mut next);
                SHARDS.into_iter().for_each(|at| self.restart(&mut next, at, kept[at], fails));
                // The commit of work can be lost again, as long as the coordinator repeats it.
                let owns = |at: &usize| self.gate(&next, *at).image().tenure(self.position).is_some();
                let found = SHARDS.into_iter().filter(owns).filter_map(|at| next.shards[at].data.clients());
                next.carried_out &= found.fold(0, |found, clients| found | clients);
                moves.add(Move::CrashAll { kept, fails }, Luck::Chance, next);
            }
        }
    }

    fn shards(&mut self, moves: &mut Moves<'_>) {
        let world = moves.from;
        for at in SHARDS {
            let shard = world.shards[at];
            if shard.log.durable < shard.log.len {
                let mut next = world;
                self.sync(&mut next, at);
                moves.fair(Move::Sync(at), next);
            }
            if self.kind == Kind::InMemory {
                let mut next = world;
                let image = self.gate(&world, at).image().clone();
                next.shards[at].saved_gate = self.gates.intern(Gate::new(image));
                if !self.is(Mutant::SavesTenuresApart) {
                    next.shards[at].saved = shard.data;
                }
                moves.add(Move::Save(at), Luck::Chance, next);
            }
            if self.sharing == LogSharing::OwnLog
                && let Some(crashed) = Self::late(&world)
            {
                for kept in shard.log.durable..=shard.log.len {
                    for fails in [false, true] {
                        let mut next = crashed;
                        self.restart(&mut next, at, kept, fails);
                        moves.add(Move::Crash { at, kept, fails }, Luck::Chance, next);
                    }
                }
            }
        }
    }
}

/// Whether the keeper waits for the end of the chunk.
const fn is_in_flight(chunk: &super::world::Chunk) -> bool {
    match chunk.outcome {
        Outcome::NotBegun | Outcome::RolledBack => false,
        Outcome::Open => true,
        Outcome::Committed => !chunk.recorded,
    }
}
