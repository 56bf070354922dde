//! The coordinator: carries out what its protocols say, crashes, opens again and recovers.

use ringpact::{
    Lsn,
    log::Fact,
    participant::{Branch, BranchReply, Decision},
    txn::{Action, CommitProtocol, Input, Outcome, TransactionState},
};

use super::{
    Model, Mutant, Task, Trouble,
    machine::Id,
    symmetry::History,
    world::{Entry, Inquiry, Life, MOST, Message, Place, Replies, Told, World},
};

impl Model {
    /// The protocol's number, where there is one.
    pub(super) fn task(world: &World, task: Task) -> Option<Id> {
        match task {
            Task::Main => world.main,
            Task::Orphan(number) => world.orphans[number],
        }
    }

    pub(super) fn protocol(&self, world: &World, task: Task) -> Option<&CommitProtocol> {
        Self::task(world, task).map(|id| self.commit.get(id))
    }

    /// Feeds an input to a protocol, if any, and carries out all that follows.
    pub(super) fn drive(&mut self, world: &mut World, task: Task, input: Option<Input>, trouble: Trouble) {
        let Some(mut id) = Self::task(world, task) else { return };
        let (before, mut appended) = (id, None);
        if input.is_some() {
            self.commit.step(&mut id, input);
        }
        while let Some(action) = self.commit.step(&mut id, None) {
            match action {
                Action::Send(branch, verb) => {
                    let name = self.commit.get(id).participant(branch).expect("it sends to its own branches");
                    let to = self.cast.number(name);
                    world.parties[to].requests.put(Message::of(verb), Place::OnItsWay);
                }
                Action::Append(fact, _) => {
                    let result = self.append_decision(world, &fact, trouble);
                    appended = Some(result);
                    self.append_result(&mut id, result);
                }
                Action::Answer(outcome) => world.told = told(world.told, outcome),
                Action::Park | Action::Finish => {}
            }
        }
        self.renumbering.note(id, History::Went { before, input, appended });
        match task {
            Task::Main => world.main = Some(id),
            Task::Orphan(number) => world.orphans[number] = Some(id),
        }
    }

    /// Appends a decision or its end to the log, if that takes it. As in production, a log that has failed does not refuse: of
    /// such a one nothing is known for certain.
    fn append_decision(&self, world: &mut World, fact: &Fact, trouble: Trouble) -> Input {
        if world.log.poisoned {
            return Input::LogFailed;
        }
        if trouble == Trouble::LogFull {
            return Input::AppendRefused;
        }
        Input::Appended(match fact {
            Fact::Decided { participants, .. } => {
                world.deciders = participants.iter().map(|name| 1 << self.cast.number(name)).sum();
                world.log.append(Entry::Decided)
            }
            Fact::Ended { .. } => world.log.append(Entry::Ended),
            Fact::Parked { participants, .. } => world.log.append(Entry::Parked(self.cast.bits(participants))),
            // Only comes where something is heuristic, which is a broken invariant.
            _ => return Input::AppendRefused,
        })
    }

    /// A participant's reply has come.
    pub(super) fn hear_reply(&mut self, world: &mut World, from: usize, reply: BranchReply, trouble: Trouble) {
        let (task, index) = self.addressee(world, from);
        let input = match reply {
            BranchReply::Voted(vote) => Input::Voted(index, vote),
            BranchReply::Done => Input::Done(index),
            BranchReply::Decided(decision) => Input::Decided(index, decision),
            BranchReply::AlreadyCommitted => Input::AlreadyCommitted(index),
            BranchReply::AlreadyRolledBack => Input::AlreadyRolledBack(index),
            BranchReply::UnknownBranch => Input::Unknown(index),
            _ => Input::Failed(index),
        };
        self.drive(world, task, Some(input), trouble);
        let committing = |protocol: &CommitProtocol| protocol.decision() == Some(Decision::Commit);
        if self.is(Mutant::ForgetsEarly)
            && reply == BranchReply::Done
            && self.protocol(world, Task::Main).is_some_and(committing)
        {
            world.log.append(Entry::Ended);
            world.main = None;
        }
    }

    /// News of a failure has come, true or not.
    pub(super) fn hear_failure(&mut self, world: &mut World, from: usize) {
        let (task, index) = self.addressee(world, from);
        self.drive(world, task, Some(Input::Failed(index)), Trouble::None);
    }

    /// The protocol that talks with the participant, and the number that it knows it by.
    fn addressee(&self, world: &World, from: usize) -> (Task, usize) {
        if world.orphans[from].is_some() {
            return (Task::Orphan(from), 0);
        }
        let index = self.protocol(world, Task::Main).and_then(|main| main.branch_of(&self.cast.names[from]));
        // A number that there is no branch of: production takes such inputs, too, and must do nothing.
        (Task::Main, index.unwrap_or(usize::MAX))
    }

    /// The coordinator opens again, on its log as it now is, and begins to recover.
    pub(super) fn reopen_coordinator(&mut self, world: &mut World) {
        world.life = Life::Later;
        world.orphans = [None; MOST];
        for number in self.everybody() {
            world.inquiries[number] = Inquiry::Open;
            // Whoever waited for them is gone.
            world.parties[number].replies = Replies::NONE;
        }
        let (mut decided, mut ended, mut parked) = (false, false, None);
        for entry in world.log.entries() {
            decided |= entry == Entry::Decided;
            ended |= entry == Entry::Ended;
            if let Entry::Parked(owed) = entry {
                parked = Some(owed);
            }
        }
        world.main = (decided && !ended).then(|| match parked {
            None => self.recovered(world.deciders),
            Some(owed) => self.resumed(owed),
        });
        self.drive(world, Task::Main, None, Trouble::None);
    }

    /// A participant looks which branches it holds in doubt.
    pub(super) fn answer_inquiry(&self, world: &mut World, number: usize) {
        let branch = self.branch.get(world.parties[number].branch);
        let unfinished = !branch.is_finished() && branch.state() != Branch::Unknown;
        world.inquiries[number] = Inquiry::Reported(unfinished);
    }

    /// The coordinator hears what the participant held when it looked.
    pub(super) fn hear_answer(&mut self, world: &mut World, number: usize) {
        let unfinished = world.inquiries[number] == Inquiry::Reported(true);
        world.inquiries[number] = Inquiry::Over;
        // The main protocol of a later life is that of a decision in the log, finished meanwhile or not.
        if unfinished && world.main.is_none() {
            world.orphans[number] = Some(self.orphan(number));
            self.drive(world, Task::Orphan(number), None, Trouble::None);
        }
    }

    /// What a participant is told that asks; `None` where it has to wait.
    pub(super) fn verdict(&self, world: &World) -> Option<Decision> {
        match self.protocol(world, Task::Main) {
            // Presumed abort: nobody knows of it any more.
            None => Some(Decision::Rollback),
            Some(main) if main.is_finished() => Some(Decision::Rollback),
            Some(main) => main.decision(),
        }
    }

    /// To whom a mark that this transaction lies below may go out, as bits: to everybody when nothing of it is open, and a
    /// crash would not bring it back; to those who are not owed anything while it is parked, and a crash would not change
    /// that.
    pub(super) fn mark_may_pass(&self, world: &World) -> u8 {
        let everybody = (1 << self.setting.participants) - 1;
        let (mut decided, mut ended, mut parked) = (false, false, None);
        for entry in world.log.durable_entries() {
            decided |= entry == Entry::Decided;
            ended |= entry == Entry::Ended;
            if let Entry::Parked(owed) = entry {
                parked = Some(owed);
            }
        }
        if self.coordinator_is_done(world) {
            return if !decided || ended || self.is(Mutant::MarkRunsAhead) { everybody } else { 0 };
        }
        let parked_commit = |main: &CommitProtocol| main.state() == TransactionState::Parked(Decision::Commit);
        let lies_still =
            self.protocol(world, Task::Main).is_some_and(parked_commit) && parked == Some(self.owed(world));
        let asked = self.everybody().all(|number| world.inquiries[number] == Inquiry::Over);
        if self.is(Mutant::MarkRunsAhead) && asked && self.protocol(world, Task::Main).is_some_and(parked_commit) {
            // As soon as it is parked, whether or not the record of that is durable.
            return everybody & !self.owed(world);
        }
        match parked {
            Some(owed) if asked && lies_still => everybody & !owed,
            _ => 0,
        }
    }

    /// Who has not acknowledged what is parked, as bits.
    fn owed(&self, world: &World) -> u8 {
        let owed = self.protocol(world, Task::Main).into_iter().flat_map(CommitProtocol::owed).cloned();
        self.cast.bits(&owed.collect::<Vec<_>>())
    }

    /// Whether the coordinator has nothing left to do about the transaction.
    pub(super) fn coordinator_is_done(&self, world: &World) -> bool {
        let finished = |task| self.protocol(world, task).is_none_or(CommitProtocol::is_finished);
        finished(Task::Main)
            && self.everybody().all(|number| world.inquiries[number] == Inquiry::Over && finished(Task::Orphan(number)))
    }

    /// Replies to a protocol that has finished make no difference any more.
    pub(super) fn drop_unheard_replies(&self, world: &mut World) {
        for number in self.everybody() {
            let (task, _) = self.addressee(world, number);
            if self.protocol(world, task).is_none_or(CommitProtocol::is_finished) {
                world.parties[number].replies = Replies::NONE;
            }
        }
    }

    /// The record that the transaction's protocol waits for.
    pub(super) fn coordinator_awaits(&self, world: &World) -> Option<Lsn> {
        self.protocol(world, Task::Main).and_then(CommitProtocol::awaits_durable)
    }
}

fn told(before: Told, outcome: Outcome) -> Told {
    let now = match outcome {
        Outcome::Committed => Told::Committed,
        Outcome::RolledBack(_) => Told::RolledBack,
        Outcome::Indeterminate => Told::Indeterminate,
    };
    if before == Told::Nothing || before == now { now } else { Told::Contradiction }
}
