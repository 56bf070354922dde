//! Another process takes the coordinator's log over. The coordinator that had it lives on, as one that
//! was paused: it does not know of the takeover before its log says so.
//!
//! A participant that has met the new holder refuses messages of the old one, also after a restart.
//! The meeting comes before it answers what it holds in doubt.

use ringpact::{
    participant::{BranchReply, LogSharing},
    txn::{CommitProtocol, Input},
};

use super::{
    CommitRun, LogOf, Model, Move, Mutant, Trouble,
    coordinator::heard,
    moves::{Kind, Moves},
    world::{Life, Log, Message, Place, Replies, Requests, Told, World},
};

impl Moves<'_> {
    pub(super) fn of_takeover(&mut self) {
        let Log { len, durable, poisoned, .. } = self.from.log;
        if self.from.life == Life::First && !poisoned {
            for kept in durable..=len {
                self.make(Move::TakeOver { kept }, Kind::Fault, |model, world| model.take_over(world, kept));
            }
        }
        let Some(old) = self.model.protocol(&self.from, CommitRun::Old).filter(|old| !is_over(old)) else { return };
        if old.awaits_durable().is_some() {
            self.make(Move::OldHearsLog, Kind::Fair, |model, world| {
                let lsn = model.protocol(world, CommitRun::Old).and_then(CommitProtocol::awaits_durable);
                let is_said = world.old_is_durable || model.is(Mutant::WritesAfterTakeover);
                let is_durable = is_said && !model.is(Mutant::DeniesWhatIsDurable);
                let word = lsn.filter(|_| is_durable).map_or(Input::NotDurable, Input::Durable);
                model.drive(world, CommitRun::Old, Some(word), Trouble::None);
            });
        }
        self.make(Move::OldLearns, Kind::Fair, |model, world| {
            model.drive(world, CommitRun::Old, Some(Input::Fenced), Trouble::None);
        });
        for number in self.model.participants() {
            for reply in Replies::ALL {
                if self.from.parties[number].replies.has(reply) {
                    let what = Move::OldHears(number, reply);
                    self.make(what, Kind::Chance, |model, world| model.old_hears(world, number, reply));
                }
            }
            let what = Move::OldHearsFailure(number);
            self.make(what, Kind::Fault, |model, world| model.old_hears(world, number, BranchReply::Failed));
        }
    }
}

impl Model {
    fn take_over(&mut self, world: &mut World, kept: u8) {
        debug_assert_eq!(
            self.setting.sharing,
            LogSharing::OwnLog,
            "participants that share the log move along with it"
        );
        let awaited = self.protocol(world, CommitRun::Main).and_then(CommitProtocol::awaits_durable);
        world.old_is_durable = awaited.is_some_and(|lsn| lsn.as_u64() <= u64::from(kept));
        world.old = world.main;
        self.cut(world, LogOf::Coordinator, kept);
        // Answers that are on their way may still reach the old coordinator.
        let replies = world.parties.map(|party| party.replies);
        self.reopen_coordinator(world);
        for (party, on_their_way) in world.parties.iter_mut().zip(replies) {
            party.replies = on_their_way;
        }
    }

    /// The participant meets the new holder. What is on its way from the old one will be refused. A commit
    /// may be the new one's, and is the same.
    pub(super) fn meets(&self, world: &mut World, number: usize) {
        let hears = !self.is_last_resource(number) && !self.is(Mutant::ListensToAll);
        if world.old.is_none() || !hears {
            return;
        }
        world.met |= 1 << number;
        let requests = &mut world.parties[number].requests;
        let mut kept = Requests::NONE;
        for message in [Message::Commit, Message::Work] {
            if requests.get(message) != Place::Nowhere {
                kept.put(message, requests.get(message));
            }
        }
        *requests = kept;
    }

    /// The old coordinator hears a reply. The reply stays, because the new one may hear it, too.
    fn old_hears(&mut self, world: &mut World, number: usize, reply: BranchReply) {
        let old = self.protocol(world, CommitRun::Old);
        let index = old.and_then(|old| old.branch_of(&self.cast.names[number])).unwrap_or(usize::MAX);
        self.drive(world, CommitRun::Old, Some(heard(index, reply)), Trouble::None);
    }

    /// What the log says to an append of the old coordinator.
    pub(super) fn append_after_takeover(&self) -> Input {
        if self.is(Mutant::WritesAfterTakeover) {
            Input::Appended(ringpact::log::Lsn::new(1))
        } else {
            Input::NotDurable
        }
    }

    /// Whether there is no old coordinator, or nothing more happens to the transaction there.
    pub(super) fn old_is_over(&self, world: &World) -> bool {
        self.protocol(world, CommitRun::Old).is_none_or(is_over)
    }

    /// Whether there is no old coordinator, or its client was told something.
    pub(super) fn old_is_answered(&self, world: &World) -> bool {
        self.old_is_over(world) && (world.old.is_none() || world.told != Told::Nothing)
    }
}

fn is_over(protocol: &CommitProtocol) -> bool {
    protocol.is_finished() || protocol.is_fenced() || protocol.is_indeterminate()
}
