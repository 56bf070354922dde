//! The loop that drives a transaction.
//!
//! Three rules keep it sound. No lock is held while a participant or the log is called. One thread
//! drives at a time: inputs that come in meanwhile are queued and not recursed into. And a
//! transaction is always driven: by the thread or task that waits for the outcome, or else by the
//! workers of the coordinator's [`Driver`](crate::txn::driver).

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use parking_lot::MutexGuard;

use super::{Contact, Progress, State, Task, Waiting, wake_all};
use crate::{
    foreign,
    id::BranchId,
    log::{Durability, Fact, LogError, LogId, Lsn},
    participant::{CallerSpan, ParticipantError, Reply, ReplySink, Request, Response, Verb, call_about},
    txn::{
        Action, Cause, Input, Outcome, Policy,
        circuit::Pass,
        driver::{By, Driven},
        endings::End,
        members::Reach,
        observe::WATCHED,
    },
};

impl Task {
    /// Commits, and goes on as far as possible without waiting. A `Commit` exists from here on.
    pub(in crate::txn) fn commit(self: &Arc<Self>, contacts: Vec<Contact>) -> Progress {
        let mut state = self.state.lock();
        if !state.driving {
            state.contacts = contacts;
        }
        state.attended = true;
        self.go_on(state, Some(Input::Commit), By::Caller)
    }

    /// Takes in whether this record is durable, and goes on as far as possible without waiting.
    pub(in crate::txn) fn durable(self: &Arc<Self>, lsn: Lsn, result: Result<(), LogError>, by: By) -> Progress {
        let mut state = self.state.lock();
        let input = state.learns(lsn, result);
        self.go_on(state, Some(input), by)
    }

    /// Goes on as far as possible without waiting.
    pub(in crate::txn) fn progress(self: &Arc<Self>, by: By) -> Progress {
        self.go_on(self.state.lock(), None, by)
    }

    fn go_on(self: &Arc<Self>, mut state: MutexGuard<'_, State>, input: Option<Input>, by: By) -> Progress {
        let waiting = self.drive(&mut state, input, by);
        Progress { waiting, explained: state.explained_outcome() }
    }

    fn drive(self: &Arc<Self>, state: &mut MutexGuard<'_, State>, input: Option<Input>, by: By) -> Waiting {
        if state.driving {
            state.inbox.extend(input);
            return Waiting::Elsewhere;
        }
        state.driving = true;
        let contacts = self.contacts(state);
        let all_at_once =
            by == By::Caller && contacts.iter().all(|contact| self.shared.members.answers_at_once(contact.member));
        let (mut now, mut time_has_passed) = (self.shared.platform.now(), false);
        let mut next = input;
        loop {
            while let Some(input) = state.inbox.pop_front().or_else(|| next.take()) {
                state.protocol.handle(now, input);
            }
            if let Some(at) = state.protocol.deadline() {
                // If all participants are called from here, what is due stays due, so the clock is
                // not read again. Other participants get a time-out for their answer, which earlier
                // calls must not have used up.
                if (at > now || !all_at_once) && mem::take(&mut time_has_passed) {
                    now = self.shared.platform.now();
                }
                if at <= now {
                    state.protocol.handle(now, Input::Tick);
                }
            }
            if state.shelved && !state.protocol.lies_still() {
                // An operator acted between the parking and the entry in the table of parked ones.
                state.shelved = false;
                MutexGuard::unlocked(state, || self.shared.unshelve(self.key));
            }
            let action = state.protocol.poll(now);
            if WATCHED {
                let stands = state.protocol.state();
                state.watch.stands(stands);
            }
            match action {
                None => break,
                Some(Action::Send(branch, verb)) => {
                    let Some(contact) = contacts.get(branch) else { continue };
                    let (deadline, unrecorded) = (state.protocol.answer_by(branch), state.protocol.is_unrecorded());
                    if state.protocol.failures(branch) > 0 {
                        self.look_for_stalled(state, [(branch, contact)]);
                    }
                    // As a rule nothing is wrong, and the circuit is not asked.
                    let calm = contact.member.is_none_or(|number| self.shared.is_calm(number));
                    if !calm && let Some(input) = self.asks_circuit(state, branch, contact.member, verb) {
                        state.protocol.handle(now, input);
                        continue;
                    }
                    let watched = state.watch.sends(branch, &contact.branch, verb);
                    let send = || watched.call(|| self.send(branch, contact, verb, Terms { deadline, unrecorded, by }));
                    if let Some(answer) = MutexGuard::unlocked(state, send) {
                        let (id, breakers) = ((self.key, branch), &self.shared.breakers);
                        if (!calm || answer.is_err())
                            && let Some(report) =
                                state.tickets.answered(id, contact.member, breakers, Some(verb), &answer)
                        {
                            MutexGuard::unlocked(state, || self.shared.report(report));
                        }
                        next = Some(state.hears(branch, answer));
                    }
                    // Also after a participant that is said to answer at once.
                    time_has_passed = true;
                }
                Some(Action::Append(Fact::Ended { .. }, _)) if self.shared.collects_end_of(self.key) => {
                    state.end = End::Unwritten; // the protocol does not depend on it
                }
                Some(Action::Append(fact, durability)) => {
                    let input = self.append(state, fact, durability);
                    state.protocol.handle(now, input);
                }
                Some(Action::Answer(outcome)) => {
                    if matches!(outcome, Outcome::RolledBack(Cause::TimedOut) | Outcome::Indeterminate) {
                        self.look_for_stalled(state, contacts.iter().enumerate());
                    }
                    state.outcome = Some(outcome);
                    state.heuristic = state.protocol.heuristic();
                    let heuristic = state.heuristic.is_some();
                    state.watch.answers(outcome, heuristic);
                    let others_wait = mem::take(&mut state.in_flight) && self.shared.admission.leave();
                    let waker = state.waker.take();
                    if others_wait || waker.is_some() {
                        MutexGuard::unlocked(state, || {
                            if others_wait {
                                self.shared.admission.wake_next();
                            }
                            if let Some(waker) = waker {
                                foreign::wake(waker);
                            }
                        });
                    }
                }
                Some(Action::Narrow) => {
                    let owed = state.protocol.owing().cloned().collect();
                    let end = mem::take(&mut state.end);
                    MutexGuard::unlocked(state, || self.shared.shelve(Arc::clone(self), owed, false, end));
                }
                Some(Action::Park) => {
                    let owed = state.protocol.owed().cloned().collect();
                    let end = mem::take(&mut state.end);
                    state.shelved = true;
                    let mut tickets = mem::take(&mut state.tickets);
                    MutexGuard::unlocked(state, || {
                        self.shared.hand_in(self.key, &mut tickets, false);
                        self.shared.shelve(Arc::clone(self), owed, true, end);
                    });
                    state.tickets = tickets;
                }
                Some(Action::Finish) => {
                    let mut tickets = mem::take(&mut state.tickets);
                    if !tickets.is_empty() {
                        MutexGuard::unlocked(state, || self.shared.hand_in(self.key, &mut tickets, true));
                    }
                    let unwritten = self.shared.ended(self.key, state.end);
                    if !unwritten.is_empty() {
                        MutexGuard::unlocked(state, || self.shared.write(unwritten));
                    }
                }
            }
        }
        state.driving = false;
        state.contacts = contacts;
        self.set_timer(state);
        let listeners = state.take_listeners();
        if !listeners.is_empty() {
            MutexGuard::unlocked(state, || wake_all(listeners));
        }
        state.waiting()
    }

    /// Called at the time-out of an answer. If a participant has not even begun the call, that is
    /// noted as the reason.
    fn look_for_stalled<'a>(
        &self,
        state: &mut MutexGuard<'_, State>,
        contacts: impl IntoIterator<Item = (usize, &'a Contact)>,
    ) {
        let Policy { prepare_timeout, delivery_timeout, .. } = self.shared.policy;
        let stalled = |(index, contact): (usize, &Contact)| {
            let Reach::Later(endpoint) = &self.shared.members[contact.member?].1.reach else { return None };
            let waited = catch_unwind(AssertUnwindSafe(|| endpoint.stalled())).ok().flatten()?;
            (waited >= prepare_timeout.min(delivery_timeout) / 2).then_some((index, waited))
        };
        if let Some((branch, waited)) = MutexGuard::unlocked(state, || contacts.into_iter().find_map(stalled)) {
            state.note_not_begun(branch, ParticipantError::NotBegun { waited });
        }
    }

    /// Asks the circuit whether the message may go out. If not, returns the protocol's input
    /// instead of an answer.
    fn asks_circuit(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        branch: usize,
        member: Option<usize>,
        verb: Verb,
    ) -> Option<Input> {
        let (number, failures) = (member?, state.protocol.failures(branch));
        let (pass, effects) = self.shared.passes(&mut state.tickets, (self.key, branch), number, verb, failures);
        if !effects.is_empty() {
            // The decisions that it lets out are queued, and so come after this message.
            MutexGuard::unlocked(state, || self.shared.carry_out(number, effects));
        }
        match pass {
            Pass::Go => None,
            Pass::Hold => Some(Input::Kept(branch)),
            Pass::Fail => Some(state.hears(branch, Err(ParticipantError::CircuitOpen))),
        }
    }

    /// Takes the branches out while the transaction is driven. Those of a transaction that was not
    /// committed are looked up.
    fn contacts(&self, state: &mut State) -> Vec<Contact> {
        let branches = state.protocol.branches();
        if state.contacts.len() == branches.len() {
            return mem::take(&mut state.contacts);
        }
        let contact = |name| Contact { branch: self.txn.branch(name), member: self.shared.members.find(name.as_str()) };
        branches.map(|(name, ..)| contact(name)).collect()
    }

    /// Appends a record, and returns the log's answer as the protocol's next input.
    fn append(&self, state: &mut MutexGuard<'_, State>, fact: Fact, durability: Durability) -> Input {
        let ends = matches!(fact, Fact::Ended { .. } | Fact::Parked { .. });
        let narrows = matches!(fact, Fact::Decided { .. }) && durability == Durability::Lazy;
        state.appending = true;
        let append = AssertUnwindSafe(|| self.shared.append(fact, durability));
        let result = MutexGuard::unlocked(state, || catch_unwind(append));
        state.appending = false;
        // After a panic it is uncertain whether the log holds the record.
        let panicked = |_| Err(LogError::Poisoned { cause: Arc::new(io::Error::other("the log panicked")) });
        let result = result.unwrap_or_else(panicked);
        if ends {
            state.end = result.as_ref().map_or(End::Refused, |lsn| End::Logged(*lsn));
        }
        match result {
            Ok(lsn) if narrows => {
                state.end = End::Logged(lsn);
                Input::Appended(lsn)
            }
            Ok(lsn) => Input::Appended(lsn),
            Err(error) => {
                // Nothing is certain about a log that has failed a write or sync, not even a
                // refusal. So neither outcome follows from it.
                let is_poisoned = matches!(error, LogError::Poisoned { .. });
                state.note_of_log(error);
                if is_poisoned { Input::LogFailed } else { Input::AppendRefused }
            }
        }
    }

    fn set_timer(self: &Arc<Self>, state: &mut State) {
        let Some(at) = state.protocol.deadline() else { return };
        if state.timer.is_none_or(|set| at < set) {
            state.timer = Some(at);
            let task = Arc::downgrade(self);
            let task: Weak<dyn Driven> = task;
            self.shared.driver.enqueue_at(at, task);
        }
    }

    /// Sends a message. Returns the answer, if it is there already.
    fn send(
        self: &Arc<Self>,
        index: usize,
        contact: &Contact,
        verb: Verb,
        terms: Terms,
    ) -> Option<Result<Response, ParticipantError>> {
        let Some(number) = contact.member else { return Some(Err(ParticipantError::Unreachable)) };
        if verb == Verb::Prepare && self.shared.is_gone() {
            // No coordinator would tell the participant how the promise ends. The one that was
            // opened since, if there is one, has already asked what is in doubt.
            return Some(Err(ParticipantError::Unreachable));
        }
        if terms.by == By::Worker {
            let (task, branch, caller_span) = (Arc::clone(self), contact.branch.clone(), CallerSpan::current());
            let send = move |over: &dyn Fn()| {
                if !task.shared.members.answers_at_once(Some(number)) {
                    over(); // it may answer before this returns
                }
                let answer = caller_span.call(|| task.send_now(index, number, &branch, verb, terms));
                drop(caller_span); // before the answer is passed on
                over();
                if let Some(answer) = answer {
                    task.deliver(index, answer);
                }
            };
            self.shared.lanes[number].run(Some((self.key, index, verb)), send);
            return None;
        }
        self.send_now(index, number, &contact.branch, verb, terms)
    }

    fn send_now(
        self: &Arc<Self>,
        index: usize,
        number: usize,
        branch: &BranchId,
        verb: Verb,
        terms: Terms,
    ) -> Option<Result<Response, ParticipantError>> {
        let member = &self.shared.members[number].1;
        let mut call = self.shared.call(number, verb, terms.deadline);
        if terms.unrecorded {
            call.log = LogId::NONE;
        }
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
    unrecorded: bool,
    by: By,
}

impl Driven for Task {
    fn run(self: Arc<Self>, by: By) {
        {
            let mut state = self.state.lock();
            if state.timer.is_some_and(|at| at <= self.shared.platform.now()) {
                state.timer = None;
            }
        }
        let mut progress = self.progress(by);
        while let Waiting::Durable(lsn) = progress.waiting {
            if self.is_attended() {
                // The holder of the `Commit` waits for the record and the outcome: one wake-up for
                // both.
                if let Some(waker) = self.take_waker() {
                    foreign::wake(waker);
                }
                return;
            }
            let waker = Waker::from(Arc::new(Rerun(Arc::clone(&self))));
            match self.shared.log.poll_durable(lsn, &mut Context::from_waker(&waker)) {
                Poll::Ready(result) => progress = self.durable(lsn, result, by),
                Poll::Pending => return,
            }
        }
    }
}

/// Waker that queues a transaction for the workers.
struct Rerun(Arc<Task>);

impl Wake for Rerun {
    fn wake(self: Arc<Self>) {
        self.0.shared.driver.enqueue(Arc::clone(&self.0) as Arc<dyn Driven>);
    }
}
