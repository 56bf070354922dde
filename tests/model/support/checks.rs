//! What must never be true of a state, and when everything is over.

use ringpact::participant::{BranchPhase, LogSharing};

use super::{
    CommitRun, LastResource, Model,
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
    pub const HEURISTIC: &str =
        "a branch was found to have ended otherwise than decided, though no operator made it do so";
    pub const EARLY_EFFECT: &str = "an effect, or word of it, before the decision was durable";
    pub const MESSAGE_TO_NONE: &str = "a message to a participant that was withdrawn, or a record that names it";
    pub const SILENT: &str = "branches did not end alike, and that was over before an operator had seen it";
}

impl Model {
    pub(super) fn broken_invariant(&self, world: &World) -> Option<&'static str> {
        let fates = || self.promisers().map(|number| world.parties[number].fate);
        let any = |wanted| fates().any(|fate| fate == wanted);
        let last = (self.promisers().end..self.setting.participants).map(|number| world.parties[number].fate).next();
        let (applied, undone) = (any(Fate::Applied), any(Fate::Undone));
        let (last_applied, last_undone) = (last == Some(Fate::Applied), last == Some(Fate::Undone));
        let (all_applied, all_undone) = (applied || last_applied, undone || last_undone);
        // Those that were withdrawn count as if they had never been there.
        let taking_part = self.participants().filter(|number| world.withdrawn & (1 << number) == 0).count();
        let promised = taking_part > 1 && fates().any(|fate| fate != Fate::NoWork);
        let main = self.protocol(world, CommitRun::Main);
        let ended = main.is_some_and(ringpact::txn::CommitProtocol::is_finished);
        let heuristic = |run| self.protocol(world, run).is_some_and(|protocol| protocol.heuristic().is_some());
        // The window of a last resource that does not remember: if it has committed, and the client
        // was told nothing for certain, the other branches may have ended in any way.
        let remembers = self.setting.last_resource == LastResource::Remembers;
        let unsure = !remembers && last_applied && !matches!(world.told, Told::Committed | Told::RolledBack);
        // Or an operator has decided so.
        let may_differ = unsure || world.overruled;
        let false_commit = world.told == Told::Committed && all_undone;
        let false_rollback = world.told == Told::RolledBack && all_applied;
        let is_told = |number: usize| world.parties[number].requests.any() || world.deciders & (1 << number) != 0;
        let checks: [(&'static str, bool); 11] = [
            // In a shared log a crash may take back the record of what was carried out; then an
            // operator may undo it.
            (
                names::TORN_BRANCH,
                any(Fate::Torn) && !(world.overruled && self.setting.sharing == LogSharing::SharedLog)
                    || last == Some(Fate::Torn),
            ),
            (names::TORN_TRANSACTION, !may_differ && all_applied && all_undone),
            (names::TORN_TRANSACTION, !may_differ && applied && last == Some(Fate::Open)),
            (names::FALSE_COMMIT, !world.overruled && false_commit),
            (names::FALSE_ROLLBACK, !world.overruled && false_rollback),
            (names::TWO_ANSWERS, world.told == Told::Contradiction),
            (names::NO_ANSWER, world.life == Life::First && world.told == Told::Nothing && ended),
            (
                names::HEURISTIC,
                !may_differ
                    && (heuristic(CommitRun::Main)
                        || self.participants().any(|number| heuristic(CommitRun::Orphan(number)))),
            ),
            (
                names::MESSAGE_TO_NONE,
                self.participants().any(|number| world.withdrawn & (1 << number) != 0 && is_told(number)),
            ),
            (names::SILENT, ended && !world.seen && (all_applied && all_undone || false_commit || false_rollback)),
            // A single participant decides itself, and applies its commit after its record is
            // durable. A last resource commits before the decision, and the others follow it even
            // if the log fails, or if the next life hears from it what it did.
            (
                names::EARLY_EFFECT,
                match taking_part {
                    0 => applied,
                    1 => world.told == Told::Committed && any(Fate::Open),
                    _ => {
                        !world.decided
                            && (applied && !may_differ && !(remembers && last_applied)
                                || promised && world.told == Told::Committed)
                    }
                },
            ),
        ];
        let looked_at =
            |(name, broken): (&'static str, bool)| (broken && self.setting.overlooked != Some(name)).then_some(name);
        checks.into_iter().find_map(looked_at)
    }

    /// Whether the coordinator and every branch are done.
    pub(super) fn everything_is_over(&self, world: &World) -> bool {
        let over = |number: usize| {
            let branch = self.branch.get(world.parties[number].branch);
            branch.is_finished() || branch.phase() == BranchPhase::Unknown
        };
        self.coordinator_is_done(world) && self.old_is_answered(world) && self.participants().all(over)
    }
}
