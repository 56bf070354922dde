//! The coordinator: it carries out what its protocols say, crashes, opens again and recovers.

use ringpact::{
    log::{Fact, Lsn},
    participant::{BranchPhase, BranchReply, Decision, LastResourceAnswer},
    txn::{Action, CommitProtocol, Input, Outcome, Remembered, TransactionState},
};

use super::{
    CommitRun, Feed, LastResource, LogOf, Model, Mutant, Trouble,
    machine::Id,
    symmetry::{History, Memory},
    world::{Entry, Fate, InDoubtQuery, Life, MAX_PARTICIPANTS, Message, Place, Replies, Told, World},
};

impl Model {
    /// The number of the protocol's state, if there is such a protocol.
    pub(super) fn state_id(world: &World, run: CommitRun) -> Option<Id> {
        match run {
            CommitRun::Main => world.main,
            CommitRun::Old => world.old,
            CommitRun::Orphan(number) => world.orphans[number],
        }
    }

    pub(super) fn protocol(&self, world: &World, run: CommitRun) -> Option<&CommitProtocol> {
        Self::state_id(world, run).map(|id| self.commit.get(id))
    }

    /// Feeds an input, if there is one, to a protocol, and carries out all that follows.
    pub(super) fn drive(&mut self, world: &mut World, run: CommitRun, input: Option<Input>, trouble: Trouble) {
        let Some(mut id) = Self::state_id(world, run) else { return };
        let (before, mut appended) = (id, None);
        if let Some(input) = input {
            self.commit.step(&mut id, Feed::Input(input));
        }
        while let Some(action) = self.commit.step(&mut id, Feed::Poll) {
            match action {
                Action::Send(branch, verb) => {
                    let name = self.commit.get(id).participant(branch).expect("it sends to its own branches");
                    let to = self.cast.number(name);
                    if run == CommitRun::Old && world.met & (1 << to) != 0 {
                        continue; // refused, as if it were lost
                    }
                    world.parties[to].requests.put(Message::of(verb), Place::OnItsWay);
                }
                Action::AskLastResource(branch) => self.ask_at_once(&mut id, branch),
                Action::Append(fact, _) => {
                    let result = match run {
                        CommitRun::Old => self.append_after_takeover(),
                        _ => self.append_decision(world, &fact, trouble),
                    };
                    appended = Some(result);
                    self.append_result(&mut id, result);
                }
                Action::Answer(outcome) => world.told = told(world.told, outcome),
                // Pauses are not modelled, so branches are never counted as stuck: see
                // `Policy::counted`.
                Action::Narrow | Action::Park | Action::Finish => {}
                _ => unreachable!("the model knows all actions"),
            }
        }
        self.renumbering.note(id, History::Went { before, feed: input.map(Feed::Input), appended });
        match run {
            CommitRun::Main => world.main = Some(id),
            CommitRun::Old => world.old = Some(id),
            CommitRun::Orphan(number) => world.orphans[number] = Some(id),
        }
    }

    /// A last resource that has lost its memory says so at once. One that remembers takes its time.
    pub(super) fn ask_at_once(&mut self, id: &mut Id, branch: usize) {
        if self.is(Mutant::ForgetsItsCommit) {
            self.commit.step(id, Feed::Input(Input::LastResource(branch, LastResourceAnswer::Unknown)));
        }
    }

    /// The index of the last resource's branch in a protocol that asks it and awaits the answer.
    pub(super) fn asks(&self, world: &World, run: CommitRun) -> Option<usize> {
        let protocol = self.protocol(world, run)?;
        let is_asked = protocol.state() == TransactionState::AskingLastResource;
        protocol.branch_of(&self.cast.names[self.setting.promisers()]).filter(|_| is_asked)
    }

    /// The last resource answers from what it has done. If it has done nothing, it gives the work up.
    pub(super) fn last_resource_answers(&mut self, world: &mut World, run: CommitRun) {
        let Some(index) = self.asks(world, run) else { return };
        let fate = &mut world.parties[self.setting.promisers()].fate;
        let answer =
            if *fate == Fate::Applied { LastResourceAnswer::Committed } else { LastResourceAnswer::NotCommitted };
        let had_work = *fate != Fate::NoWork;
        if answer == LastResourceAnswer::NotCommitted && had_work && !self.is(Mutant::CommitsLater) {
            fate.undo();
        }
        self.drive(world, run, Some(Input::LastResource(index, answer)), Trouble::None);
    }

    /// Appends a decision or its end, if the log takes it. As in production, a log that has failed
    /// does not refuse: of its records nothing is known for certain.
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

    /// Whether the log has kept up. Forced records that no protocol waits for do not pile up: the
    /// log is never more than two of them behind.
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

    /// The client changes which participants take part.
    pub(super) fn change_branches(&mut self, world: &mut World, feed: Feed) {
        let Some(before) = world.main else { return };
        let mut id = before;
        self.commit.step(&mut id, feed);
        self.renumbering.note(id, History::Went { before, feed: Some(feed), appended: None });
        world.main = Some(id);
    }

    /// Takes a participant's reply.
    pub(super) fn hear_reply(&mut self, world: &mut World, from: usize, reply: BranchReply, trouble: Trouble) {
        let (run, index) = self.addressee(world, from);
        self.drive(world, run, Some(heard(index, reply)), trouble);
        let committing = |protocol: &CommitProtocol| protocol.decision() == Some(Decision::Commit);
        if self.is(Mutant::ForgetsEarly)
            && reply == BranchReply::Done
            && self.protocol(world, CommitRun::Main).is_some_and(committing)
        {
            world.log.append(Entry::Ended);
            world.main = None;
        }
    }

    /// Takes a report of a failure, true or not.
    pub(super) fn hear_failure(&mut self, world: &mut World, from: usize) {
        let (run, index) = self.addressee(world, from);
        let input = if self.is(Mutant::TrustsTheLastResource) && self.is_last_resource(from) {
            Input::Decided(index, Decision::Commit)
        } else {
            Input::Failed(index)
        };
        self.drive(world, run, Some(input), Trouble::None);
    }

    /// The protocol that talks with the participant, and the participant's number in that protocol.
    fn addressee(&self, world: &World, from: usize) -> (CommitRun, usize) {
        if world.orphans[from].is_some() {
            return (CommitRun::Orphan(from), 0);
        }
        let index = self.protocol(world, CommitRun::Main).and_then(|main| main.branch_of(&self.cast.names[from]));
        // A number without a branch: production takes such inputs, too, and must do nothing.
        (CommitRun::Main, index.unwrap_or(usize::MAX))
    }

    /// The coordinator opens again, on its log as it now is, and begins to recover.
    pub(super) fn reopen_coordinator(&mut self, world: &mut World) {
        world.life = Life::Later;
        world.orphans = [None; MAX_PARTICIPANTS];
        for number in self.participants() {
            world.in_doubt_queries[number] = InDoubtQuery::Open;
            // What waited for them is gone with the crash.
            world.parties[number].replies = Replies::NONE;
        }
        world.main = self.remembered(world).map(|memory| self.resumed(memory));
        self.drive(world, CommitRun::Main, None, Trouble::None);
    }

    /// What the log says about the transaction, as production's own code reads it.
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
        let mut heuristics = [None; MAX_PARTICIPANTS];
        found.heuristics.iter().for_each(|(name, how)| heuristics[self.cast.number(name)] = Some(*how));
        let owed = self.cast.bits(&found.owed);
        Some(Memory { decision: found.decision, owed, heuristics, parked: found.parked })
    }

    /// A participant looks whether it holds the branch in doubt.
    pub(super) fn answer_in_doubt_query(&self, world: &mut World, number: usize) {
        let branch = self.branch.get(world.parties[number].branch);
        let unfinished = !branch.is_finished() && branch.phase() != BranchPhase::Unknown;
        world.in_doubt_queries[number] = InDoubtQuery::Reported(unfinished);
        self.meets(world, number);
    }

    /// The coordinator hears what the participant held when it looked.
    pub(super) fn hear_answer(&mut self, world: &mut World, number: usize) {
        let unfinished = world.in_doubt_queries[number] == InDoubtQuery::Reported(true);
        world.in_doubt_queries[number] = InDoubtQuery::Over;
        // The main protocol of a later life is that of a decision in the log, finished meanwhile or
        // not. Or it is that of a rollback, which the log remembers only for branches that did not
        // follow it.
        let decided = world.main.is_some() && world.log.entries().any(|entry| entry == Entry::Decided);
        if unfinished && !decided {
            world.orphans[number] = Some(self.orphan(number));
            self.drive(world, CommitRun::Orphan(number), None, Trouble::None);
        }
    }

    /// Whether this life of the coordinator has decided to commit, or has heard from a last resource
    /// that the participant's branch is committed.
    pub(super) fn is_committing(&self, world: &World, number: usize) -> bool {
        let commits = |protocol: &CommitProtocol| protocol.decision() == Some(Decision::Commit);
        [CommitRun::Main, CommitRun::Orphan(number)]
            .into_iter()
            .any(|run| self.protocol(world, run).is_some_and(commits))
    }

    /// What a participant that asks is told; `None` if it has to wait.
    pub(super) fn verdict(&self, world: &World) -> Option<Decision> {
        let may_presume = self.setting.last_resource != LastResource::Remembers
            || world.life == Life::First
            || self.is(Mutant::AnswersWithoutAsking);
        if !may_presume {
            return self.verdict_of_open_ones(world);
        }
        match self.protocol(world, CommitRun::Main) {
            // Presumed abort: the coordinator knows nothing of it any more.
            None => Some(Decision::Rollback),
            Some(main) if main.is_finished() => Some(Decision::Rollback),
            Some(main) => main.decision(),
        }
    }

    /// What a participant is told in a life in which nothing is presumed before the last resource was
    /// asked.
    fn verdict_of_open_ones(&self, world: &World) -> Option<Decision> {
        let runs = self.participants().map(CommitRun::Orphan).chain([CommitRun::Main]);
        let open = runs.filter_map(|run| self.protocol(world, run)).filter(|protocol| !protocol.is_finished());
        let decisions: Vec<_> = open.map(CommitProtocol::decision).collect();
        let is_commit = decisions.contains(&Some(Decision::Commit));
        let all_roll_back = !decisions.is_empty() && decisions.iter().all(|known| *known == Some(Decision::Rollback));
        if is_commit { Some(Decision::Commit) } else { all_roll_back.then_some(Decision::Rollback) }
    }

    /// The participants, as bits, that may be sent an `ended_below` above this transaction: all of
    /// them once nothing of it is open and a crash would not bring it back. While it waits for an
    /// operator: those that are not owed anything, if a crash would not change that.
    pub(super) fn ended_below_may_pass(&self, world: &World) -> u8 {
        if self.participants().any(|number| world.in_doubt_queries[number] != InDoubtQuery::Over) {
            return 0;
        }
        let all = (1 << self.setting.participants) - 1;
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
            return if !decided || ended || self.is(Mutant::EndedBelowRunsAhead) { all } else { 0 };
        }
        let mut passes = all;
        for run in self.participants().map(CommitRun::Orphan).chain([CommitRun::Main]) {
            let Some(protocol) = self.protocol(world, run).filter(|protocol| !protocol.is_finished()) else {
                continue;
            };
            let owed = self.owed(protocol);
            let is_on_record = match protocol.decision() {
                // A rollback is in no log, and only participants that ask are told of it.
                Some(Decision::Rollback) => true,
                Some(Decision::Commit) => parked == Some(owed) || self.is(Mutant::EndedBelowRunsAhead),
                None => false,
            };
            if !protocol.lies_still() || !is_on_record {
                return 0;
            }
            passes &= !owed;
        }
        passes
    }

    /// The participants, as bits, that have not acknowledged what is parked.
    pub(super) fn owed(&self, protocol: &CommitProtocol) -> u8 {
        self.cast.bits(&protocol.owed().cloned().collect::<Vec<_>>())
    }

    /// Whether the coordinator has nothing left to do about the transaction.
    pub(super) fn coordinator_is_done(&self, world: &World) -> bool {
        let finished = |run| self.protocol(world, run).is_none_or(CommitProtocol::is_finished);
        finished(CommitRun::Main)
            && self.participants().all(|number| {
                world.in_doubt_queries[number] == InDoubtQuery::Over && finished(CommitRun::Orphan(number))
            })
    }

    /// Drops replies to protocols that have finished, because they make no difference any more.
    pub(super) fn drop_unheard_replies(&self, world: &mut World) {
        for number in self.participants() {
            let (run, _) = self.addressee(world, number);
            if self.protocol(world, run).is_none_or(CommitProtocol::is_finished) && self.old_is_over(world) {
                world.parties[number].replies = Replies::NONE;
            }
        }
    }

    /// The record that the transaction's own protocol waits for.
    pub(super) fn coordinator_awaits(&self, world: &World) -> Option<Lsn> {
        self.protocol(world, CommitRun::Main).and_then(CommitProtocol::awaits_durable)
    }
}

/// The input that a branch's reply is.
pub(super) fn heard(index: usize, reply: BranchReply) -> Input {
    match reply {
        BranchReply::Voted(vote) => Input::Voted(index, vote),
        BranchReply::Done => Input::Done(index),
        BranchReply::Decided(decision) => Input::Decided(index, decision),
        BranchReply::AlreadyCommitted => Input::AlreadyCommitted(index),
        BranchReply::AlreadyRolledBack => Input::AlreadyRolledBack(index),
        BranchReply::UnknownBranch => Input::Unknown(index),
        _ => Input::Failed(index),
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
