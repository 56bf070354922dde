//! What must never be true, and when a run is over.

use ringpact::{
    TxnId,
    participant::{BranchPhase, Effort},
    sharding::Tenure,
};

use super::{
    Model, Mutant,
    world::{CHUNKS, Outcome, ReleaseCall, SHARDS, World},
};

/// Names of the invariants.
pub mod names {
    /// Two shards let new work in.
    pub const TWO_OWNERS: &str = "two shards let work in";
    /// A shard lets a read in, and does not have all that was carried out.
    pub const OLD_READ: &str = "a read sees old data, or none";
    /// A client's work is twice in the records.
    pub const DOUBLED: &str = "work is done twice";
    /// The ring says what is not decided.
    pub const EARLY_RECORD: &str = "the ring is ahead of the decision";
    /// All is over, and the ring names another shard than the one that lets work in.
    pub const DISAGREEMENT: &str = "gates and ring disagree";
    /// All is over, and the records are not what was committed.
    pub const LOST: &str = "the records are not what was committed";
}

impl Model {
    fn lets_in(&self, world: &World, at: usize, effort: Effort) -> bool {
        if effort == Effort::ReadOnly && self.is(Mutant::ReadsWithoutTheGate) {
            return world.ring.side == at;
        }
        self.gate(world, at).admit(self.position, Tenure::NONE, &self.reader, effort).is_ok()
    }

    pub(super) fn broken_by(&self, world: &World) -> Option<&'static str> {
        let writes = SHARDS.map(|at| self.lets_in(world, at, Effort::Update));
        let reads = SHARDS.map(|at| self.lets_in(world, at, Effort::ReadOnly));
        if writes == [true, true] {
            return Some(names::TWO_OWNERS);
        }
        for at in SHARDS.into_iter().filter(|at| reads[*at]) {
            let data = world.shards[at].data;
            match data.clients() {
                None => return Some(names::DOUBLED),
                Some(found) => {
                    if writes[1 - at] || !data.present || world.carried_out & !found != 0 {
                        return Some(names::OLD_READ);
                    }
                }
            }
        }
        let is_early = |chunk: &super::world::Chunk| chunk.recorded && chunk.outcome != Outcome::Committed;
        if world.chunks.iter().any(is_early) {
            return Some(names::EARLY_RECORD);
        }
        if !self.is_over(world) {
            return None;
        }
        let owner = world.ring.side;
        if !writes[owner] || writes[1 - owner] || world.shards[1 - owner].data.present {
            return Some(names::DISAGREEMENT);
        }
        let is_committed = |client: usize| world.clients[client].outcome == Outcome::Committed;
        let committed = (0..world.clients.len()).filter(|client| is_committed(*client)).map(|client| 1 << client).sum();
        (world.shards[owner].data.clients() != Some(committed)).then_some(names::LOST)
    }

    /// Whether everything has ended that has begun: the change, or all of its chunks; transactions, at
    /// the coordinator and at the shards.
    pub(super) fn is_over(&self, world: &World) -> bool {
        let has_chunks_left = world.chunks.iter().any(|chunk| chunk.outcome == Outcome::NotBegun);
        if has_chunks_left && !world.ring.ended {
            return false;
        }
        for (number, chunk) in world.chunks.iter().enumerate() {
            let is_done = chunk.call == ReleaseCall::None
                && SHARDS.iter().all(|at| self.has_followed(world, *at, number, chunk.outcome));
            if !is_done || (chunk.outcome == Outcome::Committed && !chunk.recorded) {
                return false;
            }
        }
        for (number, client) in world.clients.iter().enumerate() {
            let is_done = match client.admitted {
                Some((at, _)) if client.worked => self.has_followed(world, at, CHUNKS + number, client.outcome),
                Some(_) => false,
                None => client.outcome != Outcome::Open,
            };
            if !is_done {
                return false;
            }
        }
        world.shards.iter().all(|shard| shard.log.durable == shard.log.len)
    }

    fn has_followed(&self, world: &World, at: usize, txn: usize, outcome: Outcome) -> bool {
        let phase = self.phase(world, at, txn);
        match outcome {
            Outcome::NotBegun => true,
            Outcome::Open => false,
            Outcome::Committed => phase == BranchPhase::Committed,
            Outcome::RolledBack => matches!(phase, BranchPhase::RolledBack | BranchPhase::Unknown),
        }
    }
}

/// A transaction that only looks.
pub(super) fn reader(of: impl Fn(u64) -> TxnId) -> TxnId {
    of(99)
}
