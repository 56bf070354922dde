//! Which moves can be made in a state, and where each leads.

use ringpact::{
    participant::{BranchInput, BranchPhase, Decision, LogSharing},
    txn::{CommitProtocol, Input, TransactionState},
};

use super::{
    CommitRun, Crashes, Feed, LastResource, LogOf, Model, Move, Mutant, Role, Symmetry, Trouble, participant,
    search::{Luck, Space, Successor},
    world::{Entry, Fate, InDoubtQuery, Life, Log, Message, Party, Place, Replies, Requests, Told, UNBOUNDED, World},
};

impl Space for Model {
    type State = World;
    type Move = Move;

    fn initial(&self) -> Vec<World> {
        self.initial.clone()
    }

    fn successors(&mut self, from: World, out: &mut Vec<Successor<World, Move>>) {
        let mut all = Moves { model: self, from, out };
        all.of_the_client();
        all.of_the_network();
        all.of_the_clock();
        all.of_the_logs();
        all.of_recovery();
        if all.model.setting.last_resource == LastResource::Remembers {
            all.of_the_last_resource();
        }
        all.of_operators();
        if all.model.setting.asks {
            all.of_asking_participants();
        }
        all.of_ended_below();
        if all.model.setting.taken_over {
            all.of_takeover();
        }
        if all.model.setting.crashes == Crashes::Possible {
            all.crashes();
        }
    }

    fn stands_for(&mut self, state: World) -> usize {
        if self.setting.symmetry == Symmetry::Used { Model::stands_for(self, state) } else { 1 }
    }

    fn broken(&self, state: &World) -> Option<&'static str> {
        self.broken_invariant(state)
    }

    fn settled(&self, state: &World) -> bool {
        self.everything_is_over(state)
    }
}

/// What it takes for a move to happen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fair,
    /// Not a fault, but nothing that a run may count on.
    Chance,
    /// One of the faults that a run may hold.
    Fault,
}

pub(super) struct Moves<'a> {
    pub(super) model: &'a mut Model,
    pub(super) from: World,
    out: &'a mut Vec<Successor<World, Move>>,
}

impl Moves<'_> {
    pub(super) fn make(&mut self, what: Move, kind: Kind, change: impl FnOnce(&mut Model, &mut World)) {
        let mut to = self.from;
        if kind == Kind::Fault && to.faults != UNBOUNDED {
            match to.faults.checked_sub(1) {
                Some(left) => to.faults = left,
                None => return,
            }
        }
        change(self.model, &mut to);
        to.decided |= to.log.durable_entries().any(|entry| entry == Entry::Decided);
        to.ended_below_sent |= self.model.ended_below_may_pass(&to);
        self.model.drop_unheard_replies(&mut to);
        if to.faults == 0 {
            to.parties.iter_mut().for_each(|party| party.requests.forget_ghosts());
        }
        if self.model.setting.symmetry == Symmetry::Used {
            to = self.model.representative(to);
        }
        if to != self.from {
            let luck = if kind == Kind::Fair { Luck::Fair } else { Luck::Chance };
            self.out.push(Successor { what, luck, to });
        }
    }

    fn of_the_client(&mut self) {
        // The client of a coordinator whose log was taken over does not notice that.
        let run = if self.from.old.is_some() { CommitRun::Old } else { CommitRun::Main };
        if self.from.life == Life::Later && run == CommitRun::Main || self.from.told != Told::Nothing {
            return;
        }
        for (what, input) in [(Move::ClientCommits, Input::Commit), (Move::ClientRollsBack, Input::Rollback)] {
            self.make(what, Kind::Fair, |model, world| model.drive(world, run, Some(input), Trouble::None));
        }
        if self.model.setting.roles.contains(&Role::Declines) {
            self.of_the_client_that_changes_branches();
        }
    }

    /// While the client works, it withdraws participants that have nothing, and comes back to them.
    fn of_the_client_that_changes_branches(&mut self) {
        let active = self.model.protocol(&self.from, CommitRun::Main).is_some_and(CommitProtocol::is_active);
        for number in self.model.participants().filter(|_| active) {
            let is_withdrawn = self.from.withdrawn & (1 << number) != 0;
            let has_nothing = self.model.state(&self.from, number) == BranchPhase::Unknown
                && self.from.parties[number].fate == Fate::NoWork
                && !self.from.parties[number].requests.any();
            if has_nothing && !is_withdrawn {
                self.make(Move::ClientWithdraws(number), Kind::Chance, |model, world| {
                    world.withdrawn |= 1 << number;
                    let main = model.protocol(world, CommitRun::Main);
                    let index = main.and_then(|main| main.branch_of(&participant(number)));
                    if !model.is(Mutant::KeepsWithdrawn) {
                        model.change_branches(world, Feed::Withdraw(index.expect("it is enlisted")));
                    }
                });
            }
            if is_withdrawn {
                self.make(Move::ClientComesBack(number), Kind::Chance, |model, world| {
                    world.withdrawn &= !(1 << number);
                    model.change_branches(world, Feed::Enlist(number, model.enlisted(number)));
                    model.client_works(world, number);
                });
            }
        }
    }

    fn of_the_network(&mut self) {
        for number in self.model.participants() {
            for message in Message::ALL {
                self.of_a_request(number, message);
            }
            for reply in Replies::ALL {
                if self.from.parties[number].replies.has(reply) {
                    self.of_a_reply(number, reply);
                }
            }
            // Also a failure that never was, and one that is reported late: a request at any time
            // is enough.
            let mut requests = self.from.parties[number].requests;
            requests.put(Message::Work, Place::Nowhere);
            if requests.any() {
                let what = Move::ReportFailure(number);
                self.make(what, Kind::Fault, |model, world| model.hear_failure(world, number));
            }
        }
    }

    fn of_a_request(&mut self, number: usize, message: Message) {
        let place = self.from.parties[number].requests.get(message);
        let deliver = |trouble| {
            move |model: &mut Model, world: &mut World| {
                world.parties[number].requests.put(message, Place::Ghost);
                model.receive(world, number, message, trouble);
            }
        };
        match place {
            Place::Nowhere => {}
            Place::OnItsWay => {
                self.make(Move::Deliver(number, message, Trouble::None), Kind::Fair, deliver(Trouble::None));
                for trouble in [Trouble::ServiceFails, Trouble::LogFull] {
                    self.make(Move::Deliver(number, message, trouble), Kind::Fault, deliver(trouble));
                }
                self.make(Move::Lose(number, message), Kind::Fault, |_, world| {
                    world.parties[number].requests.put(message, Place::Ghost);
                });
            }
            // The client makes its own calls, and no call is repeated without its knowledge.
            Place::Ghost if message == Message::Work => {}
            Place::Ghost => {
                self.make(Move::DeliverAgain(number, message), Kind::Fault, deliver(Trouble::None));
            }
        }
    }

    fn of_a_reply(&mut self, number: usize, reply: ringpact::participant::BranchReply) {
        let deliver = |trouble| {
            move |model: &mut Model, world: &mut World| {
                world.parties[number].replies.remove(reply);
                model.hear_reply(world, number, reply, trouble);
            }
        };
        self.make(Move::Reply(number, reply, Trouble::None), Kind::Fair, deliver(Trouble::None));
        self.make(Move::Reply(number, reply, Trouble::LogFull), Kind::Fault, deliver(Trouble::LogFull));
        self.make(Move::LoseReply(number, reply), Kind::Fault, |_, world| {
            world.parties[number].replies.remove(reply);
        });
    }

    fn of_the_clock(&mut self) {
        let runs = self.model.participants().map(CommitRun::Orphan).chain([CommitRun::Main, CommitRun::Old]);
        for run in runs {
            if self.model.protocol(&self.from, run).is_some_and(|protocol| protocol.deadline().is_some()) {
                self.make(Move::Tick(run), Kind::Fair, |model, world| {
                    model.drive(world, run, Some(Input::Tick), Trouble::None);
                });
            }
        }
    }

    fn of_the_logs(&mut self) {
        for of in self.model.logs() {
            let Log { len, durable, poisoned, .. } = *Model::log(&mut self.from, of);
            if poisoned {
                continue;
            }
            // Up to the first record that a protocol waits for. More of the log may become durable,
            // and at other times, too. But that only takes freedom from a later crash, which may
            // keep any part of what was not durable.
            if let Some(up_to) = self.model.first_awaited(&self.from, of).filter(|lsn| *lsn > durable) {
                self.make(Move::Sync(of, up_to), Kind::Fair, |model, world| model.sync(world, of, up_to));
            } else if of == LogOf::Coordinator && durable < len && self.model.coordinator_is_done(&self.from) {
                // `ended_below` waits for a durable end. That is luck, because nothing forces an
                // end.
                self.make(Move::Sync(of, len), Kind::Chance, |model, world| model.sync(world, of, len));
            }
            if self.model.setting.crashes == Crashes::Possible {
                self.make(Move::FailLog(of), Kind::Fault, |model, world| model.fail_log(world, of));
            }
        }
    }

    fn of_recovery(&mut self) {
        for number in self.model.participants() {
            match self.from.in_doubt_queries[number] {
                InDoubtQuery::Open => {
                    let what = Move::AnswerInDoubtQuery(number);
                    self.make(what, Kind::Fair, |model, world| model.answer_in_doubt_query(world, number));
                }
                InDoubtQuery::Reported(_) => {
                    let what = Move::HearAnswer(number);
                    self.make(what, Kind::Fair, |model, world| model.hear_answer(world, number));
                }
                InDoubtQuery::Over => {}
            }
        }
    }

    /// The last resource is asked whether it has committed. It answers at some time, from what it has
    /// done until then.
    fn of_the_last_resource(&mut self) {
        for run in self.model.participants().map(CommitRun::Orphan).chain([CommitRun::Main]) {
            let Some(index) = self.model.asks(&self.from, run) else { continue };
            self.make(Move::LastResourceAnswers(run), Kind::Fair, |model, world| {
                model.last_resource_answers(world, run)
            });
            self.make(Move::QuestionFails(run), Kind::Fault, |model, world| {
                model.drive(world, run, Some(Input::Failed(index)), Trouble::None);
            });
        }
    }

    /// At some time an operator looks after what waits for an operator.
    fn of_operators(&mut self) {
        for run in self.model.participants().map(CommitRun::Orphan).chain([CommitRun::Main]) {
            let drive =
                |input| move |model: &mut Model, world: &mut World| model.drive(world, run, Some(input), Trouble::None);
            match self.model.protocol(&self.from, run).map(CommitProtocol::state) {
                Some(TransactionState::Parked(decided)) => {
                    self.make(Move::Retry(run), Kind::Fair, drive(Input::Retry));
                    if self.model.setting.by_hand {
                        self.by_hand(run, decided);
                    }
                }
                Some(TransactionState::Heuristic(..)) => {
                    self.make(Move::Retry(run), Kind::Chance, drive(Input::Retry));
                    self.make(Move::LetBe(run), Kind::Fair, |model, world| {
                        world.seen = true;
                        model.drive(world, run, Some(Input::Forget), Trouble::None);
                    });
                }
                _ => {}
            }
        }
    }

    /// The operator looks at the parked branches, and makes each unfinished one commit or roll
    /// back. Once all have ended alike, the operator tells the coordinator so, and tells it no
    /// lies.
    fn by_hand(&mut self, run: CommitRun, decided: Decision) {
        let owed = self.model.protocol(&self.from, run).map_or(0, |protocol| self.model.owed(protocol));
        let parked: Vec<_> = self.model.promisers().filter(|number| owed & (1 << number) != 0).collect();
        for number in parked.iter().copied() {
            let can = match self.model.state(&self.from, number) {
                BranchPhase::Prepared => &[Decision::Commit, Decision::Rollback][..],
                BranchPhase::Active { .. } | BranchPhase::Cancelling { .. } => &[Decision::Rollback],
                BranchPhase::Confirming { .. } => &[Decision::Commit],
                _ => &[],
            };
            let poisoned = self.model.log_of(&mut self.from, number).poisoned;
            for decision in can.iter().copied().filter(|_| !poisoned) {
                self.make(Move::SettleByHand(number, decision), Kind::Chance, |model, world| {
                    world.overruled |= decision != decided;
                    model.told_by_hand(world, number, decision);
                });
            }
        }
        let ended = |number: &usize| match self.model.state(&self.from, *number) {
            BranchPhase::Committed => Some(Decision::Commit),
            BranchPhase::RolledBack => Some(Decision::Rollback),
            _ => None,
        };
        let Some(first) = parked.first().and_then(ended) else { return };
        if owed.count_ones() as usize == parked.len() && parked.iter().all(|number| ended(number) == Some(first)) {
            self.make(Move::Force(run, first), Kind::Chance, |model, world| {
                let said = if model.is(Mutant::BelievesOperators) { decided } else { first };
                world.overruled |= first != decided;
                model.drive(world, run, Some(Input::Force(said)), Trouble::None);
            });
        }
    }

    /// A participant asks, at any time, what became of its branch, and does what it is told. The
    /// question and the answer take no time to travel, because an answer that is a decision never
    /// changes.
    fn of_asking_participants(&mut self) {
        for number in self.model.participants() {
            let unfinished = matches!(
                self.model.state(&self.from, number),
                BranchPhase::Active { .. }
                    | BranchPhase::Prepared
                    | BranchPhase::Confirming { .. }
                    | BranchPhase::Cancelling { .. }
            );
            if let (true, Some(verdict)) = (unfinished, self.model.verdict(&self.from)) {
                self.make(Move::Ask(number), Kind::Chance, |model, world| {
                    let message = match verdict {
                        Decision::Commit => BranchInput::Commit(LogSharing::OwnLog),
                        Decision::Rollback => BranchInput::Rollback(LogSharing::OwnLog),
                    };
                    let replies = world.parties[number].replies;
                    model.exchange(world, number, message, Trouble::None);
                    // Its reply goes to itself, not to the coordinator.
                    world.parties[number].replies = replies;
                });
            }
        }
    }

    fn of_ended_below(&mut self) {
        for number in self.model.promisers() {
            let Party { learnt, .. } = self.from.parties[number];
            // An unfinished branch is not touched: to learn `ended_below` later is the same.
            let forgettable = match self.model.state(&self.from, number) {
                BranchPhase::Committed => !self.model.log_of(&mut self.from, number).poisoned,
                BranchPhase::RolledBack | BranchPhase::ReadOnly => true,
                BranchPhase::Unknown => !learnt,
                _ => false,
            };
            if self.from.ended_below_sent & (1 << number) != 0 && forgettable {
                self.make(Move::Forget(number), Kind::Chance, |model, world| model.forget(world, number));
            }
        }
    }

    fn crashes(&mut self) {
        match self.model.setting.sharing {
            LogSharing::OwnLog => {
                for of in self.model.logs() {
                    self.crash_of_one(of);
                }
            }
            LogSharing::SharedLog => self.crash_of_all(),
        }
    }

    /// Opening again after the log has failed is not a fault but its cure.
    const fn kind_of_crash(log: Log) -> Kind {
        if log.poisoned { Kind::Fair } else { Kind::Fault }
    }

    fn crash_of_one(&mut self, of: LogOf) {
        let log = *Model::log(&mut self.from, of);
        for kept in log.durable..=log.len {
            let what = match of {
                LogOf::Coordinator => Move::CrashCoordinator { kept },
                LogOf::Participant(participant) => Move::CrashParticipant { participant, kept },
            };
            self.make(what, Self::kind_of_crash(log), |model, world| {
                model.cut(world, of, kept);
                match of {
                    LogOf::Coordinator => model.reopen_coordinator(world),
                    LogOf::Participant(number) => {
                        model.reopen_participant(world, number);
                        if model.is(Mutant::ForgetsTheEpoch) {
                            world.met &= !(1 << number);
                        }
                    }
                }
            });
        }
    }

    fn crash_of_all(&mut self) {
        let log = self.from.log;
        for kept in log.durable..=log.len {
            self.make(Move::CrashAll { kept }, Self::kind_of_crash(log), |model, world| {
                model.cut(world, LogOf::Coordinator, kept);
                for number in model.participants() {
                    // All are one process: what was under way in it is gone with it.
                    world.parties[number].requests = Requests::NONE;
                }
                model.promisers().for_each(|number| model.reopen_participant(world, number));
                world.ended_below_sent = 0;
                model.reopen_coordinator(world);
            });
        }
        let active = |protocol: &CommitProtocol| !protocol.is_finished();
        if !log.poisoned && self.model.protocol(&self.from, CommitRun::Main).is_none_or(active) {
            self.make(Move::ReopenCoordinator, Kind::Fault, |model, world| {
                // The new epoch's record is forced, and makes all records before it durable.
                let len = world.log.len;
                model.sync(world, LogOf::Coordinator, len);
                model.reopen_coordinator(world);
            });
        }
    }
}
