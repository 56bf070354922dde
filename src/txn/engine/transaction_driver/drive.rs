//! The loop that drives a transaction.
//!
//! Three rules keep it sound. No lock is held while a participant or the log is called. One thread
//! drives at a time: inputs that come in meanwhile are queued and not recursed into. And a
//! transaction is always driven: by the thread or task that waits for the outcome, or else by the
//! workers of the coordinator's [`Scheduler`](crate::txn::engine::scheduler).

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use parking_lot::MutexGuard;

use super::{DriverState, MemberBranch, Progress, TransactionDriver, Waiting, wake_all};
use crate::{
    foreign,
    id::{BranchId, Name},
    log::{Durability, Fact, LogError, LogId, Lsn},
    participant::{Call, CallerSpan, ParticipantError, Reply, ReplySink, Request, Response, Verb, call_about},
    txn::{
        Action, Cause, Input, Outcome, Policy,
        engine::{
            circuit::Pass,
            members::{Reach, Slot},
            observe::WATCHED,
            scheduler::{Runnable, Runner},
        },
        table::unsettled_ends::EndRecord,
    },
};

impl TransactionDriver {
    /// Commits, and goes on as far as possible without waiting. A `Commit` exists from here on.
    pub(in crate::txn) fn commit(self: &Arc<Self>, member_branches: Vec<MemberBranch>) -> Progress {
        let mut state = self.state.lock();
        if !state.driving {
            state.member_branches = member_branches;
        }
        state.driven_by_commit = true;
        self.go_on(state, Some(Input::Commit), Runner::Caller)
    }

    /// Takes in whether this record is durable, and goes on as far as possible without waiting.
    pub(in crate::txn) fn durable(self: &Arc<Self>, lsn: Lsn, result: Result<(), LogError>, by: Runner) -> Progress {
        match &result {
            Err(error) => self.core.hear_of_log(error),
            // A decision that was durable just before a takeover is the new holder's to deliver.
            Ok(()) => self.core.still_holds_log(),
        }
        let mut state = self.state.lock();
        let input = state.learns(lsn, result);
        self.go_on(state, Some(input), by)
    }

    /// Goes on as far as possible without waiting.
    pub(in crate::txn) fn progress(self: &Arc<Self>, by: Runner) -> Progress {
        self.go_on(self.state.lock(), None, by)
    }

    // With the loop in it: two calls for each step cost a transaction in memory 2%.
    #[inline(never)]
    fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, DriverState>, input: Option<Input>, by: Runner) -> Progress {
        let waiting = self.drive(&mut state, input, by);
        Progress { waiting, explained: state.explained_outcome() }
    }

    #[inline(always)]
    fn drive(self: &Arc<Self>, state: &mut MutexGuard<'_, DriverState>, input: Option<Input>, by: Runner) -> Waiting {
        if state.driving {
            state.inbox.extend(input);
            return Waiting::OtherThread;
        }
        state.driving = true;
        state.is_woken &= by == Runner::Worker;
        let member_branches = self.member_branches(state);
        let all_at_once = by == Runner::Caller
            && member_branches.iter().all(|member_branch| self.core.members.answers_at_once(member_branch.member));
        let (mut now, mut time_has_passed) = (self.core.platform.now(), false);
        let mut next = input;
        loop {
            // What has come in, then the time, then the next action.
            while let Some(input) = state.inbox.pop_front().or_else(|| next.take()) {
                state.protocol.handle(now, input);
            }
            if self.core.is_fenced() {
                // Before anything more is sent, whichever thread has come to drive.
                state.protocol.handle(now, Input::Fenced);
            }
            if let Some(at) = state.protocol.deadline() {
                // If all participants are called from here, what is due stays due, so the clock is
                // not read again. Other participants get a time-out for their answer, which earlier
                // calls must not have used up.
                if (at > now || !all_at_once) && mem::take(&mut time_has_passed) {
                    now = self.core.platform.now();
                }
                if at <= now {
                    state.protocol.handle(now, Input::Tick);
                }
            }
            if state.parked && !state.protocol.lies_still() {
                // An operator acted between the parking and the entry in the table of parked ones.
                state.parked = false;
                MutexGuard::unlocked(state, || self.core.unpark(self.key));
            }
            // The protocol has seen all inputs: the action can be carried out.
            let action = state.protocol.poll(now);
            if WATCHED {
                let stands = state.protocol.state();
                state.watch.stands(stands);
            }
            match action {
                None => break,
                Some(Action::Send(branch, verb)) => {
                    let Some(member_branch) = member_branches.get(branch) else { continue };
                    let deadline = state.protocol.answer_by(branch);
                    let forced = match verb {
                        Verb::Prepare => state.protocol.forces_promises(),
                        _ => state.protocol.is_unrecorded(),
                    };
                    let terms = Terms { deadline, forced, decided: state.decided, by };
                    if state.protocol.failures(branch) > 0 {
                        self.look_for_stalled(state, [(branch, member_branch)]);
                    }
                    // As a rule nothing is wrong, and the circuit is not asked.
                    let calm = member_branch.member.is_none_or(|number| self.core.is_calm(number));
                    if !calm && let Some(input) = self.asks_circuit(state, branch, member_branch.member, verb) {
                        state.protocol.handle(now, input);
                        continue;
                    }
                    next = self.exchange(state, branch, member_branch, verb, terms, calm);
                    // Also after a participant that is said to answer at once.
                    time_has_passed = true;
                }
                Some(Action::AskLastResource(branch)) => {
                    let Some(member_branch) = member_branches.get(branch) else { continue };
                    next = MutexGuard::unlocked(state, || self.ask_last_resource(branch, member_branch, by))
                        .map(|answer| state.hears_last_resource(branch, answer));
                    time_has_passed = true;
                }
                Some(Action::Append(Fact::Ended { .. }, _)) if self.core.collects_end_of(self.key) => {
                    state.end = EndRecord::Unwritten; // the protocol does not depend on it
                }
                Some(Action::Append(fact, durability)) => {
                    let input = self.append(state, fact, durability);
                    state.protocol.handle(now, input);
                }
                Some(Action::Answer(outcome)) => {
                    self.answer(state, outcome, &member_branches);
                }
                Some(Action::Narrow) => {
                    let owed = state.protocol.owing().cloned().collect();
                    let end = mem::take(&mut state.end);
                    MutexGuard::unlocked(state, || self.core.keep_parked(Arc::clone(self), owed, false, end));
                }
                Some(Action::Park) => self.park(state, &member_branches),
                Some(Action::Finish) => self.finish(state),
            }
        }
        // Nothing is left to do. Other threads may drive again.
        state.driving = false;
        state.member_branches = member_branches;
        self.set_timer(state);
        let listeners = state.take_listeners();
        if !listeners.is_empty() {
            MutexGuard::unlocked(state, || wake_all(listeners));
        }
        state.waiting()
    }

    /// Sends one message. Returns the answer, if it has come already.
    #[inline]
    fn exchange(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, DriverState>,
        branch: usize,
        member_branch: &MemberBranch,
        verb: Verb,
        terms: Terms,
        calm: bool,
    ) -> Option<Input> {
        let watched = state.watch.sends(branch, &member_branch.branch, verb);
        let send = || watched.call(|| self.send(branch, member_branch, verb, terms));
        let answer = MutexGuard::unlocked(state, send)?;
        let (id, members) = ((self.key, branch), &self.core.members);
        if (!calm || answer.is_err())
            && let Some(report) = state.tickets.answered(id, member_branch.member, members, Some(verb), &answer)
        {
            MutexGuard::unlocked(state, || self.core.report(report));
        }
        Some(state.hears(branch, answer))
    }

    /// Gives the client its answer.
    #[inline]
    fn answer(&self, state: &mut MutexGuard<'_, DriverState>, outcome: Outcome, member_branches: &[MemberBranch]) {
        if matches!(outcome, Outcome::RolledBack(Cause::TimedOut) | Outcome::Indeterminate) {
            self.look_for_stalled(state, member_branches.iter().enumerate());
        }
        state.outcome = Some(outcome);
        state.heuristic = state.protocol.heuristic();
        let heuristic = state.heuristic.is_some();
        state.watch.answers(outcome, heuristic);
        let others_wait = mem::take(&mut state.in_flight) && self.core.admission.leave();
        let waker = state.waker.take();
        if others_wait || waker.is_some() {
            MutexGuard::unlocked(state, || {
                if others_wait {
                    self.core.admission.wake_next();
                }
                if let Some(waker) = waker {
                    foreign::wake(waker);
                }
            });
        }
    }

    /// Hands the transaction over to an operator.
    fn park(self: &Arc<Self>, state: &mut MutexGuard<'_, DriverState>, member_branches: &[MemberBranch]) {
        let mut owed: Vec<_> = state.protocol.owed().cloned().collect();
        if state.protocol.is_unrecorded() {
            // Only the last resource's memory says that it commits.
            owed.extend(self.core.members.remembering().iter().cloned());
        }
        let end = mem::take(&mut state.end);
        state.parked = true;
        let mut tickets = mem::take(&mut state.tickets);
        let heuristics = state.heuristic_branches(member_branches);
        MutexGuard::unlocked(state, || {
            self.core.owe_heuristics(self.key, &mut tickets, heuristics);
            self.core.hand_in(self.key, &mut tickets, false);
            self.core.keep_parked(Arc::clone(self), owed, true, end);
        });
        state.tickets = tickets;
    }

    /// Takes the transaction, which is over, out of the table.
    #[inline]
    fn finish(&self, state: &mut MutexGuard<'_, DriverState>) {
        let mut tickets = mem::take(&mut state.tickets);
        if !tickets.is_empty() {
            MutexGuard::unlocked(state, || self.core.hand_in(self.key, &mut tickets, true));
        }
        let unwritten = self.core.ended(self.key, state.end);
        if !unwritten.is_empty() {
            MutexGuard::unlocked(state, || self.core.write(unwritten));
        }
    }

    /// Called at the time-out of an answer. If a participant has not even begun the call, that is
    /// noted as the reason.
    fn look_for_stalled<'a>(
        &self,
        state: &mut MutexGuard<'_, DriverState>,
        member_branches: impl IntoIterator<Item = (usize, &'a MemberBranch)>,
    ) {
        let Policy { prepare_timeout, delivery_timeout, .. } = self.core.policy;
        let stalled = |(index, member_branch): (usize, &MemberBranch)| {
            let member = self.core.members[member_branch.member?].member();
            let Reach::Later(endpoint) = &member.as_ref()?.reach else { return None };
            let waited = catch_unwind(AssertUnwindSafe(|| endpoint.stalled())).ok().flatten()?;
            (waited >= prepare_timeout.min(delivery_timeout) / 2).then_some((index, waited))
        };
        if let Some((branch, waited)) = MutexGuard::unlocked(state, || member_branches.into_iter().find_map(stalled)) {
            state.note_not_begun(branch, ParticipantError::NotBegun { waited });
        }
    }

    /// Asks the circuit whether the message may go out. If not, returns the protocol's input
    /// instead of an answer.
    fn asks_circuit(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, DriverState>,
        branch: usize,
        member: Option<usize>,
        verb: Verb,
    ) -> Option<Input> {
        let (number, failures) = (member?, state.protocol.failures(branch));
        let (pass, effects) = self.core.passes(&mut state.tickets, (self.key, branch), number, verb, failures);
        if !effects.is_empty() {
            // The decisions that it lets out are queued, and so come after this message.
            MutexGuard::unlocked(state, || self.core.carry_out(number, effects));
        }
        match pass {
            Pass::Go => None,
            Pass::KeepBack => Some(Input::Kept(branch)),
            Pass::Fail => Some(state.hears(branch, Err(ParticipantError::CircuitOpen))),
        }
    }

    /// Takes the branches out while the transaction is driven. Those of a transaction that was not
    /// committed are looked up.
    fn member_branches(&self, state: &mut DriverState) -> Vec<MemberBranch> {
        let branches = state.protocol.branches();
        let find = |name: &Name| self.core.members.find(name.as_str());
        if state.member_branches.len() == branches.len() {
            let mut known = mem::take(&mut state.member_branches);
            if state.is_one_missing {
                // It may have been added since.
                known
                    .iter_mut()
                    .filter(|at| at.member.is_none())
                    .for_each(|at| at.member = find(at.branch.participant()));
                state.is_one_missing = known.iter().any(|at| at.member.is_none());
            }
            return known;
        }
        let member_branch = |name| MemberBranch { branch: self.txn.branch(name), member: find(name), is_trial: false };
        let found: Vec<_> = branches.map(|(name, ..)| member_branch(name)).collect();
        state.is_one_missing = found.iter().any(|at| at.member.is_none());
        found
    }

    /// Appends a record, and returns the log's answer as the protocol's next input.
    fn append(&self, state: &mut MutexGuard<'_, DriverState>, fact: Fact, durability: Durability) -> Input {
        let ends = matches!(fact, Fact::Ended { .. } | Fact::Parked { .. });
        let decides = matches!(fact, Fact::Decided { .. });
        let narrows = decides && durability == Durability::Lazy;
        state.appending = true;
        let append = AssertUnwindSafe(|| self.core.append(fact, durability));
        let result = MutexGuard::unlocked(state, || catch_unwind(append));
        state.appending = false;
        // After a panic it is uncertain whether the log holds the record.
        let panicked = |_| Err(LogError::Poisoned { cause: Arc::new(io::Error::other("the log panicked")) });
        let result = result.unwrap_or_else(panicked);
        if ends {
            state.end = result.as_ref().map_or(EndRecord::Refused, |lsn| EndRecord::Logged(*lsn));
        }
        if decides && let Ok(lsn) = result {
            state.decided = lsn;
        }
        match result {
            Ok(lsn) if narrows => {
                state.end = EndRecord::Logged(lsn);
                Input::Appended(lsn)
            }
            Ok(lsn) => Input::Appended(lsn),
            Err(error) => {
                // Nothing is certain about a log that has failed a write or sync, not even a
                // refusal. So neither outcome follows from it.
                let input = match error {
                    LogError::Poisoned { .. } => Input::LogFailed,
                    LogError::Fenced { .. } => Input::NotDurable,
                    _ => Input::AppendRefused,
                };
                if input == Input::NotDurable {
                    MutexGuard::unlocked(state, || self.core.hear_of_log(&error));
                }
                state.note_of_log(error);
                input
            }
        }
    }

    fn set_timer(self: &Arc<Self>, state: &mut DriverState) {
        let Some(at) = state.protocol.deadline() else { return };
        if state.timer.is_none_or(|set| at < set) {
            state.timer = Some(at);
            let driver = Arc::downgrade(self);
            let driver: Weak<dyn Runnable> = driver;
            self.core.scheduler.enqueue_at(at, driver);
        }
    }

    /// Sends a message. Returns the answer, if it is there already.
    fn send(
        self: &Arc<Self>,
        index: usize,
        member_branch: &MemberBranch,
        verb: Verb,
        terms: Terms,
    ) -> Option<Result<Response, ParticipantError>> {
        let Some(number) = member_branch.member else { return Some(Err(ParticipantError::NotRegistered)) };
        if verb == Verb::Prepare && self.core.is_gone() {
            // No coordinator would tell the participant how the promise ends. The one that was
            // opened since, if there is one, has already asked what is in doubt.
            return Some(Err(ParticipantError::Unreachable));
        }
        let slot = &self.core.members[number];
        let sends_at_once = || slot.member().as_ref().is_none_or(|member| member.sends_at_once());
        if terms.by == Runner::Worker && !sends_at_once() {
            let (driver, branch, caller_span) = (Arc::clone(self), member_branch.branch.clone(), CallerSpan::current());
            let send = move |over: &dyn Fn()| {
                if !driver.core.members.answers_at_once(Some(number)) {
                    over(); // it may answer before this returns
                }
                let answer = caller_span.call(|| driver.send_now(index, number, &branch, verb, terms));
                caller_span.close(); // before the answer is passed on
                over();
                if let Some(answer) = answer {
                    driver.deliver(index, answer);
                }
            };
            slot.lane.run(Some((self.key, index, Some(verb))), send);
            return None;
        }
        self.send_now(index, number, &member_branch.branch, verb, terms)
    }

    fn send_now(
        self: &Arc<Self>,
        index: usize,
        number: usize,
        branch: &BranchId,
        verb: Verb,
        terms: Terms,
    ) -> Option<Result<Response, ParticipantError>> {
        if self.core.is_fenced() {
            return Some(Err(ParticipantError::Unreachable)); // it waited in the lane meanwhile
        }
        let slot = &self.core.members[number];
        let mut call = self.core.call(slot, verb, terms.deadline, terms.decided);
        if terms.forced {
            call.log = LogId::NONE;
        }
        match slot.kept() {
            Some(participant) => Some(call_about(&**participant, branch, verb, &call)),
            None => self.send_to_member(index, slot, branch, verb, call),
        }
    }

    /// Sends a message to a participant that may go meanwhile, or takes its time.
    #[inline(never)]
    fn send_to_member(
        self: &Arc<Self>,
        index: usize,
        slot: &Slot,
        branch: &BranchId,
        verb: Verb,
        call: Call,
    ) -> Option<Result<Response, ParticipantError>> {
        let member = slot.member();
        let Some(member) = member.as_ref() else { return Some(Err(ParticipantError::NotRegistered)) };
        match &member.reach {
            Reach::AtOnce(participant) => Some(call_about(&**participant, branch, verb, &call)),
            Reach::Later(endpoint) => {
                let reply = Reply::to(Arc::clone(self) as Arc<dyn ReplySink>, index);
                let request = Request::Branch { branch: branch.clone(), verb, call };
                // An endpoint that panics drops the reply, which counts as a failure.
                let _ = catch_unwind(AssertUnwindSafe(|| endpoint.send(request, reply)));
                None
            }
        }
    }
}

/// How a message is sent.
#[derive(Clone, Copy)]
struct Terms {
    deadline: Option<Instant>,
    /// Whether the participant must force its own record, also on the coordinator's log.
    forced: bool,
    /// Number of the decision's record, if this life has appended it.
    decided: Lsn,
    by: Runner,
}

impl Runnable for TransactionDriver {
    fn run(self: Arc<Self>, by: Runner) {
        {
            let mut state = self.state.lock();
            if state.timer.is_some_and(|at| at <= self.core.platform.now()) {
                state.timer = None;
            }
        }
        let mut progress = self.progress(by);
        while let Waiting::Durable(lsn) = progress.waiting {
            if self.is_driven_by_commit() {
                // The holder of the `Commit` waits for the record and the outcome: one wake-up for
                // both.
                if let Some(waker) = self.take_waker() {
                    foreign::wake(waker);
                }
                return;
            }
            let waker = Waker::from(Arc::new(Rerun(Arc::clone(&self))));
            match self.core.log.poll_durable(lsn, &mut Context::from_waker(&waker)) {
                Poll::Ready(result) => progress = self.durable(lsn, result, by),
                Poll::Pending => return,
            }
        }
    }
}

/// Waker that queues a transaction for the workers.
struct Rerun(Arc<TransactionDriver>);

impl Wake for Rerun {
    fn wake(self: Arc<Self>) {
        self.0.core.scheduler.enqueue(Arc::clone(&self.0) as Arc<dyn Runnable>);
    }
}
