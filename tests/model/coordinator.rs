//! The coordinator: carries out what its protocols say, crashes, opens again and recovers.

use ringpact::{
    Lsn,
    log::Fact,
    participant::{BranchPhase, BranchReply, Decision},
    txn::{Action, CommitProtocol, Input, Outcome, Remembered},
};

use super::{
    LogOf, Model, Mutant, Task, Trouble,
    machine::Id,
    symmetry::{History, Memory},
    world::{Entry, InDoubtQuery, Life, MOST, Message, Place, Replies, Told, World},
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
                // Branches are not counted as stuck here, where pauses are not: see `Policy::counted`.
                Action::Narrow | Action::Park | Action::Finish => {}
                _ => unreachable!("the model knows all actions"),
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
        if matches!(fact, Fact::Parked { .. } | Fact::Heuristic { .. }) && !self.has_kept_up(world) {
            return Input::AppendRefused;
        }
        Input::Appended(match fact {
            Fact::Decided { participants, .. } => {
                world.deciders = participants.iter().map(|name| 1 << self.cast.number(name)).sum();
                world.log.append(Entry::Decided)
            }
            Fact::Ended { .. } => world.log.append(Entry::Ended),
            Fact::Parked { participants, .. } => world.log.append(Entry::Parked(self.cast.bits(participants))),
            Fact::Heuristic { participant, outcome, .. } => {
                world.log.append(Entry::Heuristic(self.cast.number(participant), *outcome))
            }
            _ => unreachable!("no record of a coordinator's transaction: {fact:?}"),
        })
    }

    /// Records that are forced, and that nobody waits for, don't pile up: the log is never more than two of them behind.
    fn has_kept_up(&self, world: &mut World) -> bool {
        if world.log.behind() < 2 {
            return true;
        }
        let keeps_up = self.first_awaited(world, LogOf::Coordinator).is_none();
        if keeps_up {
            world.log.make_durable(world.log.len);
        }
        keeps_up
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
        let input = if self.is(Mutant::TrustsTheLastResource) && self.is_last_resource(from) {
            Input::Decided(index, Decision::Commit)
        } else {
            Input::Failed(index)
        };
        self.drive(world, task, Some(input), Trouble::None);
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
            world.in_doubt_queries[number] = InDoubtQuery::Open;
            // Whoever waited for them is gone.
            world.parties[number].replies = Replies::NONE;
        }
        world.main = self.remembered(world).map(|memory| self.resumed(memory));
        self.drive(world, Task::Main, None, Trouble::None);
    }

    /// What the log tells of the transaction, by production's own reading of it.
    fn remembered(&self, world: &World) -> Option<Memory> {
        let mut records = Vec::new();
        for entry in world.log.entries() {
            match entry {
                Entry::Decided | Entry::Parked(_) | Entry::Heuristic(..) => {
                    records.push(self.cast.record(entry, world.deciders));
                }
                Entry::Ended => return None,
                Entry::Prepared(_) | Entry::Committed(_) | Entry::Forgotten(_) => {}
            }
        }
        let found = Remembered::all(&records).remove(&self.cast.txn)?;
        let mut heuristics = [None; MOST];
        found.heuristics.iter().for_each(|(name, how)| heuristics[self.cast.number(name)] = Some(*how));
        let owed = self.cast.bits(&found.owed);
        Some(Memory { decision: found.decision, owed, heuristics, parked: found.parked })
    }

    /// A participant looks which branches it holds in doubt.
    pub(super) fn answer_in_doubt_query(&self, world: &mut World, number: usize) {
        let branch = self.branch.get(world.parties[number].branch);
        let unfinished = !branch.is_finished() && branch.phase() != BranchPhase::Unknown;
        world.in_doubt_queries[number] = InDoubtQuery::Reported(unfinished);
    }

    /// The coordinator hears what the participant held when it looked.
    pub(super) fn hear_answer(&mut self, world: &mut World, number: usize) {
        let unfinished = world.in_doubt_queries[number] == InDoubtQuery::Reported(true);
        world.in_doubt_queries[number] = InDoubtQuery::Over;
        // The main protocol of a later life is that of a decision in the log, finished meanwhile or not; or else of a rollback,
        // which the log remembers only of those who did not follow it.
        let decided = world.main.is_some() && world.log.entries().any(|entry| entry == Entry::Decided);
        if unfinished && !decided {
            world.orphans[number] = Some(self.orphan(number));
            self.drive(world, Task::Orphan(number), None, Trouble::None);
        }
    }

    /// Whether this life of the coordinator has decided to commit.
    pub(super) fn is_committing(&self, world: &World) -> bool {
        self.protocol(world, Task::Main).is_some_and(|main| main.decision() == Some(Decision::Commit))
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
    /// crash would not bring it back; while it waits for an operator, to those who are not owed anything, if a crash would
    /// not change that.
    pub(super) fn mark_may_pass(&self, world: &World) -> u8 {
        if self.everybody().any(|number| world.in_doubt_queries[number] != InDoubtQuery::Over) {
            return 0;
        }
        let everybody = (1 << self.setting.participants) - 1;
        // A decision that may be in the log counts as one that is.
        let decided = world.log.entries().any(|entry| entry == Entry::Decided);
        let (mut ended, mut parked) = (false, None);
        for entry in world.log.durable_entries() {
            ended |= entry == Entry::Ended;
            if let Entry::Parked(owed) = entry {
                parked = Some(owed);
            }
        }
        if self.coordinator_is_done(world) {
            return if !decided || ended || self.is(Mutant::MarkRunsAhead) { everybody } else { 0 };
        }
        let mut passes = everybody;
        for task in self.everybody().map(Task::Orphan).chain([Task::Main]) {
            let Some(protocol) = self.protocol(world, task).filter(|protocol| !protocol.is_finished()) else {
                continue;
            };
            let owed = self.owed(protocol);
            let is_on_record = match protocol.decision() {
                // A rollback is in no log, and told to nobody but those who ask.
                Some(Decision::Rollback) => true,
                Some(Decision::Commit) => parked == Some(owed) || self.is(Mutant::MarkRunsAhead),
                None => false,
            };
            if !protocol.lies_still() || !is_on_record {
                return 0;
            }
            passes &= !owed;
        }
        passes
    }

    /// Who has not acknowledged what is parked, as bits.
    pub(super) fn owed(&self, protocol: &CommitProtocol) -> u8 {
        self.cast.bits(&protocol.owed().cloned().collect::<Vec<_>>())
    }

    /// Whether the coordinator has nothing left to do about the transaction.
    pub(super) fn coordinator_is_done(&self, world: &World) -> bool {
        let finished = |task| self.protocol(world, task).is_none_or(CommitProtocol::is_finished);
        finished(Task::Main)
            && self
                .everybody()
                .all(|number| world.in_doubt_queries[number] == InDoubtQuery::Over && finished(Task::Orphan(number)))
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
        _ => unreachable!("the model knows all outcomes"),
    };
    if before == Told::Nothing || before == now { now } else { Told::Contradiction }
}
