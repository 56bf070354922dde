//! What must never be, and when everything is over.

use ringpact::participant::Branch;

use super::{
    Model, Task,
    world::{Fate, Life, Told, World},
};

/// The invariants' names.
pub mod names {
    pub const TORN_BRANCH: &str = "one branch both committed and rolled back, or changed without any work";
    pub const TORN_TRANSACTION: &str = "one participant committed and another rolled back";
    pub const FALSE_COMMIT: &str = "the client was told of a commit, and a branch rolled back";
    pub const FALSE_ROLLBACK: &str = "the client was told of a rollback, and a branch committed";
    pub const TWO_ANSWERS: &str = "the client was told two different things";
    pub const NO_ANSWER: &str = "the transaction ended and the client was told nothing";
    pub const HEURISTIC: &str = "a branch was found to have ended by itself, though nobody has made it";
    pub const EARLY_EFFECT: &str = "an effect, or word of it, before the decision was durable";
}

impl Model {
    pub(super) fn broken_invariant(&self, world: &World) -> Option<&'static str> {
        let fates = || self.everybody().map(|number| world.parties[number].fate);
        let any = |wanted| fates().any(|fate| fate == wanted);
        let (applied, undone) = (any(Fate::Applied), any(Fate::Undone));
        let promised = self.setting.participants > 1 && fates().any(|fate| fate != Fate::NoWork);
        let ended = || self.protocol(world, Task::Main).is_some_and(ringpact::txn::CommitProtocol::is_finished);
        let heuristic = |task| self.protocol(world, task).is_some_and(|protocol| protocol.heuristic().is_some());
        let checks: [(&'static str, bool); 8] = [
            (names::TORN_BRANCH, any(Fate::Torn)),
            (names::TORN_TRANSACTION, applied && undone),
            (names::FALSE_COMMIT, world.told == Told::Committed && undone),
            (names::FALSE_ROLLBACK, world.told == Told::RolledBack && applied),
            (names::TWO_ANSWERS, world.told == Told::Contradiction),
            (names::NO_ANSWER, world.life == Life::First && world.told == Told::Nothing && ended()),
            (names::HEURISTIC, heuristic(Task::Main) || self.everybody().any(|number| heuristic(Task::Orphan(number)))),
            // Of one participant the commit is its own decision, and it applies it after its record is durable.
            (
                names::EARLY_EFFECT,
                match self.setting.participants {
                    1 => world.told == Told::Committed && any(Fate::Open),
                    _ => !world.decided && (applied || promised && world.told == Told::Committed),
                },
            ),
        ];
        let looked_at =
            |(name, broken): (&'static str, bool)| (broken && self.setting.overlooked != Some(name)).then_some(name);
        checks.into_iter().find_map(looked_at)
    }

    /// The coordinator is done, and so is every branch.
    pub(super) fn everything_is_over(&self, world: &World) -> bool {
        let over = |number: usize| {
            let branch = self.branch.get(world.parties[number].branch);
            branch.is_finished() || branch.state() == Branch::Unknown
        };
        self.coordinator_is_done(world) && self.everybody().all(over)
    }
}
