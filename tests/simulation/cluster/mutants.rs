//! Bugs that moving data could have, planted at the seams: in shards, in messages, in what they answer, and in logs. So the production
//! code stays as it is, and the world around it behaves as if it were wrong.

/// Each must be found by the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A shard does work at positions that it does not own.
    ForgetsGateAtWork,
    /// A shard answers reads of positions that it does not own.
    ForgetsGateAtReads,
    /// A shard deletes what it gives away when it votes.
    DiscardsBeforeDecision,
    /// A shard owns what arrives from its vote on.
    OpensAtPrepare,
    /// A shard that has promised to give ranges away lets work in there after a restart.
    FreezeNotRestored,
    /// A shard confirms work again that was let in under an earlier tenure.
    TenureNotChecked,
    /// A shard takes work that was let in under the tenure itself for outdated: `<` for `<=`.
    TenureItselfIsTooLate,
    /// A client that was told an epoch takes the steps after the next one.
    SkipsAStep,
    /// A shard deletes the record at the start of a range, too.
    StartInclusive,
    /// A shard leaves the record at the end of a range out of what it gives away.
    EndExclusive,
    /// A shard takes a range across position 0 for an empty one.
    WrapIgnored,
    /// A shard does what a client asks that was sent by another shard's hint.
    FollowsHintsBlindly,
    /// A shard that waits for the decision of a hand-over takes it for done after a while.
    HandsOverByTimeOut,
    /// The keeper publishes a hand-over before its decision is durable.
    PublishesBeforeDurable,
    /// The keeper forgets, when its change is cancelled, which chunks are in flight.
    CancelForgetsChunks,
    /// A shard saves tenures and data one after the other.
    TenuresSavedApart,
    /// A node that leaves is turned off when its last range has moved.
    RetiresTooEarly,
}

/// Each with the number of seeds within which it must be found: large enough that less than one in ten thousand such rows of seeds
/// would miss it by bad luck, rounded up, at the rate at which 40 to 200 seeds have found it (`simulate --cluster --mutant M`). The
/// rates of `FreezeNotRestored` and `TenureNotChecked` are rough: one seed in about a hundred finds them.
const ALL: [(Mutant, u64); 17] = [
    (Mutant::ForgetsGateAtWork, 20),
    (Mutant::ForgetsGateAtReads, 100),
    (Mutant::DiscardsBeforeDecision, 20),
    (Mutant::OpensAtPrepare, 20),
    (Mutant::FreezeNotRestored, 2_000),
    (Mutant::TenureNotChecked, 1_000),
    (Mutant::TenureItselfIsTooLate, 20),
    (Mutant::SkipsAStep, 300),
    (Mutant::StartInclusive, 30),
    (Mutant::EndExclusive, 20),
    (Mutant::WrapIgnored, 40),
    (Mutant::FollowsHintsBlindly, 800),
    (Mutant::HandsOverByTimeOut, 50),
    (Mutant::PublishesBeforeDurable, 50),
    (Mutant::CancelForgetsChunks, 50),
    (Mutant::TenuresSavedApart, 20),
    (Mutant::RetiresTooEarly, 50),
];

impl Mutant {
    /// All of them, in their order.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(mutant, _)| mutant)
    }

    /// Number of seeds within which it is found.
    pub fn limit(self) -> u64 {
        ALL.into_iter().find(|(mutant, _)| *mutant == self).map_or(0, |(_, limit)| limit)
    }
}
