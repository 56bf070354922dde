//! A participant: it carries out what its branch's machine says, as `ResourceManager` does, and
//! crashes.
//!
//! It does one thing that a resource manager does not: it takes the next message while an exchange
//! still waits for the log. The machine is made for that, too.

use ringpact::{
    log::Lsn,
    participant::{BranchAction, BranchInput, BranchPhase, BranchProtocol, BranchReply, Decision, Effort, LogSharing},
    txn::CommitProtocol,
};

use super::{
    CommitRun, LastResource, LogOf, Model, Mutant, Trouble,
    world::{Entry, Fate, Log, Message, Party, World},
};

impl Model {
    pub(super) fn state(&self, world: &World, number: usize) -> BranchPhase {
        self.branch.get(world.parties[number].branch).phase()
    }

    /// Takes a request.
    pub(super) fn receive(&mut self, world: &mut World, number: usize, message: Message, trouble: Trouble) {
        if self.is_last_resource(number) {
            return Self::last_resource_receives(&mut world.parties[number], message);
        }
        let before = self.state(world, number);
        if world.parties[number].learnt && before == BranchPhase::Unknown {
            // There is no place for the branch, and none is made, because the transaction is known
            // to have ended. Told a decision, the participant answers so.
            if matches!(message, Message::Commit | Message::Rollback) {
                world.parties[number].replies.add(BranchReply::UnknownBranch);
            }
            return;
        }
        let input = match message {
            Message::Prepare => BranchInput::Prepare(self.sharing_of_promise(world)),
            Message::Commit => BranchInput::Commit(self.sharing_of_commit(world)),
            Message::Rollback => BranchInput::Rollback(self.setting.sharing),
            Message::CommitOnePhase => BranchInput::CommitOnePhase,
            Message::Work => return self.work(world, number),
        };
        let replies = world.parties[number].replies;
        self.exchange(world, number, input, trouble);
        if message == Message::Commit && !self.is_committing(world, number) {
            // An earlier life has sent it, and what waited for the answer is gone.
            world.parties[number].replies = replies;
        }
        if self.is(Mutant::LeavesNoTombstone) && before == BranchPhase::Unknown && message == Message::Rollback {
            world.parties[number].branch = self.branch.intern(BranchProtocol::new());
        }
    }

    /// A last resource that remembers commits before the decision, which therefore takes no promise
    /// along; and each message says so.
    fn sharing_of_promise(&self, world: &World) -> LogSharing {
        let takes_part = world.withdrawn & (1 << self.setting.promisers()) == 0;
        let remembers = self.setting.last_resource == LastResource::Remembers && takes_part;
        let forced = remembers && !self.is(Mutant::PromisesLazily);
        if forced { LogSharing::OwnLog } else { self.setting.sharing }
    }

    /// A decision that the log has not taken makes no promise durable with it, and the message says
    /// so, also when a later life does not know of the decision.
    fn sharing_of_commit(&self, world: &World) -> LogSharing {
        let unrecorded = self.protocol(world, CommitRun::Main).is_some_and(CommitProtocol::is_unrecorded);
        let in_log = world.log.entries().any(|entry| entry == Entry::Decided);
        if unrecorded || !in_log { LogSharing::OwnLog } else { self.setting.sharing }
    }

    /// A last resource does what it is told first.
    fn last_resource_receives(party: &mut Party, message: Message) {
        let reply = match (message, party.fate) {
            (Message::CommitOnePhase, Fate::Open | Fate::Applied) => {
                party.fate.apply();
                BranchReply::Decided(Decision::Commit)
            }
            (Message::CommitOnePhase, _) => BranchReply::Decided(Decision::Rollback),
            (Message::Rollback, Fate::Applied) => BranchReply::AlreadyCommitted,
            (Message::Rollback, Fate::NoWork) => BranchReply::Done,
            (Message::Rollback, _) => {
                party.fate.undo();
                BranchReply::Done
            }
            (message, _) => unreachable!("a last resource is told {message:?}"),
        };
        party.replies.add(reply);
    }

    /// An operator tells the participant a decision, in place of the coordinator. The answer goes
    /// to the operator; the operator waits until the decision is durable there.
    pub(super) fn told_by_hand(&mut self, world: &mut World, number: usize, decision: Decision) {
        let replies = world.parties[number].replies;
        let input = match decision {
            Decision::Commit => BranchInput::Commit(LogSharing::OwnLog),
            Decision::Rollback => BranchInput::Rollback(LogSharing::OwnLog),
        };
        self.exchange(world, number, input, Trouble::None);
        if let Some(lsn) = self.branch_awaits(world, number) {
            let of = match self.setting.sharing {
                LogSharing::OwnLog => LogOf::Participant(number),
                LogSharing::SharedLog => LogOf::Coordinator,
            };
            self.sync(world, of, u8::try_from(lsn.as_u64()).expect("a log has few records"));
        }
        world.parties[number].replies = replies;
    }

    /// A client that waits for the answer has work done.
    pub(super) fn client_works(&mut self, world: &mut World, number: usize) {
        if self.is_last_resource(number) {
            world.parties[number].fate = Fate::Open;
        } else {
            self.work(world, number);
        }
    }

    fn work(&mut self, world: &mut World, number: usize) {
        let party = &mut world.parties[number];
        if self.branch.get(party.branch).accepts_work() {
            self.branch.step(&mut party.branch, BranchInput::Worked(Effort::Update));
            party.fate = Fate::Open;
        }
    }

    /// Feeds an input to the branch, and carries out what follows, until the branch has replied or
    /// waits for the log.
    pub(super) fn exchange(&mut self, world: &mut World, number: usize, input: BranchInput, trouble: Trouble) {
        let mut input = input;
        loop {
            let party = &mut world.parties[number];
            let Some(action) = self.branch.step(&mut party.branch, input) else { return };
            input = match action {
                BranchAction::Reply(reply) => return party.replies.add(reply),
                BranchAction::AwaitDurable(lsn) => {
                    let state = self.state(world, number);
                    let early = match state {
                        BranchPhase::Preparing { .. } => Mutant::VotesEarly,
                        _ => Mutant::AcknowledgesRollbackEarly,
                    };
                    if !self.is(early) || matches!(state, BranchPhase::Committing { .. }) {
                        return;
                    }
                    BranchInput::Durable(lsn)
                }
                BranchAction::Confirm | BranchAction::Cancel if trouble == Trouble::ServiceFails => BranchInput::Failed,
                BranchAction::Confirm => {
                    party.fate.apply();
                    BranchInput::Confirmed
                }
                BranchAction::Cancel => {
                    party.fate.undo();
                    BranchInput::Cancelled
                }
                BranchAction::AppendPrepared(_) => {
                    self.append(world, number, Entry::Prepared(self.writer(number)), trouble)
                }
                BranchAction::AppendCommitted { .. } => {
                    self.append(world, number, Entry::Committed(self.writer(number)), trouble)
                }
                BranchAction::AppendEnded(_) => {
                    self.append(world, number, Entry::Forgotten(self.writer(number)), trouble)
                }
            };
        }
    }

    fn append(&self, world: &mut World, number: usize, entry: Entry, trouble: Trouble) -> BranchInput {
        let log = self.log_of(world, number);
        if log.poisoned || trouble == Trouble::LogFull {
            return BranchInput::AppendRefused;
        }
        BranchInput::Appended(log.append(entry))
    }

    /// The number under which the participant writes to its log.
    const fn writer(&self, number: usize) -> usize {
        match self.setting.sharing {
            LogSharing::OwnLog => 0,
            LogSharing::SharedLog => number,
        }
    }

    /// The log that the participant writes to.
    pub(super) fn log_of<'a>(&self, world: &'a mut World, number: usize) -> &'a mut Log {
        match self.setting.sharing {
            LogSharing::OwnLog => &mut world.parties[number].log,
            LogSharing::SharedLog => &mut world.log,
        }
    }

    /// The record that the branch waits for.
    pub(super) fn branch_awaits(&self, world: &World, number: usize) -> Option<Lsn> {
        match self.state(world, number) {
            BranchPhase::Preparing { lsn, .. }
            | BranchPhase::Committing { lsn, .. }
            | BranchPhase::Ending { lsn, .. } => lsn,
            _ => None,
        }
    }

    /// The participant opens again, on its log as it now is. What is committed is confirmed, what
    /// is promised is restored, and nothing else is known.
    pub(super) fn reopen_participant(&mut self, world: &mut World, number: usize) {
        let writer = self.writer(number);
        let (mut prepared, mut committed) = (false, false);
        for entry in self.log_of(world, number).entries() {
            prepared |= entry == Entry::Prepared(writer);
            committed |= entry == Entry::Committed(writer);
        }
        let may_differ = self.setting.by_hand || self.setting.last_resource != LastResource::None;
        let party = &mut world.parties[number];
        party.learnt = false;
        let protocol = if committed {
            party.fate.apply();
            let mut protocol = BranchProtocol::recovered_committed();
            protocol.handle(BranchInput::Confirmed);
            protocol
        } else if prepared {
            // What the promise set aside is set aside again, even if it had been given up. Without
            // an operator or a last resource it is never wanted again.
            if may_differ && party.fate == Fate::Undone {
                party.fate = Fate::Open;
            }
            BranchProtocol::recovered_prepared()
        } else {
            if party.fate == Fate::Open {
                party.fate.undo();
            }
            BranchProtocol::new()
        };
        party.branch = self.branch.intern(protocol);
    }

    /// The participant learns that the transaction has ended, and forgets its branch at a
    /// checkpoint or sweep.
    pub(super) fn forget(&mut self, world: &mut World, number: usize) {
        if self.state(world, number) == BranchPhase::Committed {
            let forgotten = Entry::Forgotten(self.writer(number));
            self.log_of(world, number).append(forgotten);
        }
        world.parties[number].learnt = true;
        world.parties[number].branch = self.branch.intern(BranchProtocol::new());
    }
}
