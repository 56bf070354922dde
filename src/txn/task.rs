//! One transaction on its way: the thin driver around [`CommitProtocol`].
//!
//! Three rules keep it sound. No lock is held while a participant or the log is called. Whoever drives does so alone:
//! what comes in meanwhile, an inline answer above all, is queued and not recursed into. And somebody always drives:
//! the thread or task that waits for the outcome, or, where nobody does, the coordinator's [`Driver`](super::driver).

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use parking_lot::Mutex;

use super::{
    Action, BranchError, BranchStatus, CommitProtocol, Input, Outcome, TransactionState, TransactionStatus,
    driver::Driven,
    endings::End,
    observe::{WATCHED, Watch},
    shared::{Answers, Key, Member, Promises, Shared},
};
use crate::{
    id::{BranchId, Name, TxnId},
    log::{Fact, Heuristic, LogError, Lsn},
    participant::{
        Decision, ParticipantError, Reply, ReplySink, Request, Response, Verb, Verdict as ParticipantsVerdict,
    },
};

pub(super) struct Task {
    shared: Arc<Shared>,
    key: Key,
    /// When it began, or was found in the log.
    since: Instant,
    /// When it is rolled back if nobody has committed it.
    expires: Instant,
    state: Mutex<State>,
}

struct State {
    protocol: CommitProtocol,
    watch: Watch,
    inbox: VecDeque<Input>,
    /// Somebody is in `drive`; everybody else only queues.
    driving: bool,
    /// The coordinator is gone, and with it whoever minds the clock.
    abandoned: bool,
    /// A `Commit` exists, and its holder drives.
    attended: bool,
    /// How to tell the `Commit`'s holder to come and drive.
    waker: Option<Waker>,
    outcome: Option<Outcome>,
    /// What went wrong first: where it is a failed vote, this is what the transaction is rolled back for.
    participant_error: Option<ParticipantError>,
    /// What went wrong last with each branch with which anything did.
    last_errors: Vec<(usize, ParticipantError)>,
    /// How branches have ended otherwise than decided, as far as was known when the client was told.
    heuristic: Option<Heuristic>,
    /// It waits for an operator, or did when it was last looked at.
    shelved: bool,
    /// It counts as in flight until its client is told.
    in_flight: bool,
    /// What the log said last.
    log_error: Option<LogError>,
    /// What became of the record that ends the transaction.
    end: End,
    /// The driver runs this task at this time or before.
    timer: Option<Instant>,
}

impl State {
    const fn of(protocol: CommitProtocol, watch: Watch) -> Self {
        Self {
            protocol,
            watch,
            inbox: VecDeque::new(),
            driving: false,
            abandoned: false,
            attended: false,
            waker: None,
            outcome: None,
            participant_error: None,
            last_errors: Vec::new(),
            heuristic: None,
            shelved: false,
            in_flight: false,
            log_error: None,
            end: End::Unlogged,
            timer: None,
        }
    }

    /// What it waits for while nobody drives it.
    fn waiting(&self) -> Waiting {
        if let Some(lsn) = self.protocol.awaits_durable() {
            Waiting::Durable(lsn)
        } else if self.protocol.is_finished() || self.protocol.is_indeterminate() {
            Waiting::Nothing
        } else {
            Waiting::Answers
        }
    }

    fn note(&mut self, branch: usize, error: ParticipantError) {
        self.participant_error.get_or_insert_with(|| error.clone());
        self.last_errors.retain(|(of, _)| *of != branch);
        self.last_errors.push((branch, error));
    }

    /// Its coordinator has left it behind, and it needs more than its client can do for it: nobody will ever tell its
    /// outcome. (A record that is on its way to the disk still tells.)
    fn is_lost(&self) -> bool {
        self.abandoned && self.waiting() == Waiting::Answers
    }
}

/// What a transaction that can't go on right now waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For this record to be durable.
    Durable(Lsn),
    /// For answers, or for time to pass.
    Answers,
    /// For nothing: somebody else is driving it.
    Elsewhere,
    /// For nothing: it is over, or lies still until the log is reopened.
    Nothing,
}

/// The outcome with what is known of its reasons.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) outcome: Outcome,
    pub(super) heuristic: Option<Heuristic>,
    pub(super) participant_error: Option<ParticipantError>,
    pub(super) log_error: Option<LogError>,
}

impl Task {
    /// A client's transaction. One that was not admitted is rolled back before anybody has worked under it.
    pub(super) fn begun(
        shared: Arc<Shared>,
        txn: TxnId,
        since: Instant,
        expires: Instant,
        admitted: bool,
    ) -> Arc<Self> {
        let key = Key::of(txn.mark());
        let watch = Watch::begun(&txn, since);
        let mut protocol = CommitProtocol::new(txn, shared.policy);
        protocol.expires(expires);
        if !admitted {
            protocol.handle(since, Input::Rollback);
        }
        let mut state = State::of(protocol, watch);
        state.in_flight = admitted;
        Arc::new(Self { shared, key, since, expires, state: Mutex::new(state) })
    }

    /// A transaction of an earlier life, or the branch of one that a participant has reported.
    pub(super) fn resumed(shared: Arc<Shared>, protocol: CommitProtocol, key: Key, since: Instant) -> Arc<Self> {
        let watch = Watch::resumed(protocol.txn(), since);
        Arc::new(Self { shared, key, since, expires: since, state: Mutex::new(State::of(protocol, watch)) })
    }

    pub(super) const fn key(&self) -> Key {
        self.key
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Queues an input without driving.
    pub(super) fn push(&self, input: Input) {
        self.state.lock().inbox.push_back(input);
    }

    /// Queues the log's answer about durability without driving.
    pub(super) fn push_durable(&self, lsn: Lsn, result: Result<(), LogError>) {
        let mut state = self.state.lock();
        match result {
            Ok(()) => state.inbox.push_back(Input::Durable(lsn)),
            Err(error) => {
                state.log_error = Some(error);
                state.inbox.push_back(Input::LogFailed);
            }
        }
    }

    /// Goes on as far as possible without waiting.
    pub(super) fn drive(self: &Arc<Self>) -> Waiting {
        let mut state = self.state.lock();
        if state.driving {
            return Waiting::Elsewhere;
        }
        state.driving = true;
        loop {
            let now = self.shared.platform.now();
            while let Some(input) = state.inbox.pop_front() {
                state.protocol.handle(now, input);
            }
            if state.protocol.deadline().is_some_and(|at| at <= now) {
                state.protocol.handle(now, Input::Tick);
            }
            if state.shelved && !state.protocol.lies_still() {
                // An operator acted between its being parked and its being put on the shelf.
                state.shelved = false;
                drop(state);
                self.shared.unshelve(self.key);
                state = self.state.lock();
            }
            let action = state.protocol.poll(now);
            if WATCHED {
                let stands = state.protocol.state();
                state.watch.stands(stands);
            }
            match action {
                None => break,
                Some(Action::Send(branch, verb)) => {
                    let to = state.protocol.participant(branch).map(|name| state.protocol.txn().branch(name));
                    let deadline = state.protocol.answer_by(branch);
                    if let Some(to) = to {
                        let watched = state.watch.sends(branch, &to, verb);
                        drop(state);
                        watched.call(|| self.send(branch, to, verb, deadline));
                        state = self.state.lock();
                    }
                }
                Some(Action::Append(fact, durability)) => {
                    drop(state);
                    let ends = matches!(fact, Fact::Ended { .. } | Fact::Parked { .. });
                    let result = self.shared.append(fact, durability);
                    state = self.state.lock();
                    if ends {
                        state.end = result.as_ref().map_or(End::Refused, |lsn| End::Logged(*lsn));
                    }
                    match result {
                        Ok(lsn) => state.protocol.handle(now, Input::Appended(lsn)),
                        Err(error) => {
                            // Nothing is known for certain of a log whose write or sync has failed, not even what a
                            // refusal says: neither answer is given on its word.
                            let is_poisoned = matches!(error, LogError::Poisoned { .. });
                            state.log_error = Some(error);
                            let input = if is_poisoned { Input::LogFailed } else { Input::AppendRefused };
                            state.protocol.handle(now, input);
                        }
                    }
                }
                Some(Action::Answer(outcome)) => {
                    state.outcome = Some(outcome);
                    state.heuristic = state.protocol.heuristic();
                    let heuristic = state.heuristic.is_some();
                    state.watch.answers(outcome, heuristic);
                    let (waker, leaves) = (state.waker.take(), std::mem::take(&mut state.in_flight));
                    drop(state);
                    if leaves {
                        self.shared.admission.leave();
                    }
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    state = self.state.lock();
                }
                Some(Action::Park) => {
                    let owed = state.protocol.owed().cloned().collect();
                    let end = std::mem::take(&mut state.end);
                    state.shelved = true;
                    drop(state);
                    self.shared.shelve(Arc::clone(self), owed, end);
                    state = self.state.lock();
                }
                Some(Action::Finish) => {
                    let end = state.end;
                    drop(state);
                    self.shared.ended(self.key, end);
                    state = self.state.lock();
                }
            }
        }
        state.driving = false;
        self.set_timer(&mut state);
        state.waiting()
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

    fn send(self: &Arc<Self>, index: usize, branch: BranchId, verb: Verb, deadline: Option<Instant>) {
        let reply = Reply::to(Arc::clone(self) as Arc<dyn ReplySink>, index);
        let Some(member) = self.shared.members.get(branch.participant()) else {
            // A recovered transaction can name a participant that this opening does not have. It stays open and
            // visible, and is tried again; dropping the reply says that it failed.
            return;
        };
        if verb == Verb::Prepare && self.shared.is_gone() {
            // Nobody would be there to tell the promise's end. The coordinator that was opened since, if there is one,
            // has asked already what is in doubt.
            return;
        }
        let call = self.shared.call(branch.participant(), deadline);
        let request = Request::Branch { branch, verb, call };
        // An endpoint that panics drops the reply, which is answer enough.
        let _ = catch_unwind(AssertUnwindSafe(|| member.endpoint.send(request, reply)));
    }

    /// What the client is to be told, once it is known.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let state = self.state.lock();
        state.outcome.or(state.is_lost().then_some(Outcome::Indeterminate)).map(|outcome| Verdict {
            outcome,
            heuristic: state.heuristic,
            participant_error: state.participant_error.clone(),
            log_error: state.log_error.clone(),
        })
    }

    /// Whether its client still works under it.
    pub(super) fn is_begun(&self) -> bool {
        self.state.lock().protocol.is_active()
    }

    /// The participant behind a branch's index.
    pub(super) fn participant(&self, branch: usize) -> Option<Name> {
        self.state.lock().protocol.participant(branch).cloned()
    }

    /// When it is rolled back if nobody has committed it.
    pub(super) const fn expires(&self) -> Instant {
        self.expires
    }

    /// Where it stands.
    pub(super) fn state(&self) -> TransactionState {
        self.state.lock().protocol.state()
    }

    /// What there is to be seen of it. No lock is held while a participant is called, so this never waits for one.
    pub(super) fn status(&self, now: Instant) -> TransactionStatus {
        let state = self.state.lock();
        let error = |index| state.last_errors.iter().find(|(of, _)| *of == index).map(|(_, error)| error.clone());
        let branches = state.protocol.branches().enumerate().map(|(index, (participant, branch, failures))| {
            BranchStatus { participant: participant.clone(), state: branch, failures, last_error: error(index) }
        });
        TransactionStatus {
            txn: state.protocol.txn().clone(),
            state: state.protocol.state(),
            age: now.saturating_duration_since(self.since),
            branches: branches.collect(),
        }
    }

    /// What a participant is told that asks.
    pub(super) fn verdict_for_participants(&self) -> ParticipantsVerdict {
        let state = self.state.lock();
        match (state.protocol.decision(), state.protocol.state()) {
            (Some(Decision::Commit), _) => ParticipantsVerdict::Commit,
            // Everybody has acknowledged, so whoever asks has come too late, as for a transaction that nobody knows.
            (Some(Decision::Rollback), _) | (None, TransactionState::Ended) => ParticipantsVerdict::Rollback,
            (None, _) => ParticipantsVerdict::Undecided,
        }
    }

    /// Adds a branch, while the client works under it.
    pub(super) fn enlist(&self, participant: &Name, member: &Member) -> Result<(), BranchError> {
        let mut state = self.state.lock();
        if !state.protocol.is_active() || !state.inbox.is_empty() {
            return Err(BranchError::Over { txn: state.protocol.txn().clone() });
        }
        match (member.promises, member.answers) {
            (Promises::Cannot, _) => {
                if !state.protocol.enlist_last_resource(participant.clone()) {
                    return Err(BranchError::SecondLastResource { participant: participant.clone() });
                }
            }
            // Those who answer late are asked first, and work on it while the others are asked.
            (Promises::Can, Answers::Later) => state.protocol.enlist_first(participant.clone()),
            (Promises::Can, Answers::AtOnce) => drop(state.protocol.enlist(participant.clone())),
        }
        Ok(())
    }

    /// The coordinator is gone.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.abandoned = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A `Commit` exists from here on.
    pub(super) fn attend(&self) {
        self.state.lock().attended = true;
    }

    /// The `Commit` is gone; the driver takes over what is left.
    pub(super) fn leave(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.attended = false;
        state.waker = None;
        let over = state.protocol.is_finished();
        drop(state);
        if !over {
            self.shared.driver.enqueue(Arc::clone(self) as Arc<dyn Driven>);
        }
    }

    /// Has `waker` woken when there is something to drive, or the outcome is known. Says whether that is so already;
    /// `seen` is what the caller last saw it wait for.
    pub(super) fn wake_later(&self, waker: &Waker, seen: Waiting) -> Wakeable {
        let mut state = self.state.lock();
        let moved_on = !state.driving && (!state.inbox.is_empty() || state.waiting() != seen);
        if state.outcome.is_some() || state.is_lost() || moved_on {
            return Wakeable::Now;
        }
        match &mut state.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Wakeable::Later
    }

    /// Something may have happened that nobody was woken for, or that who was woken for it has not come to drive.
    pub(super) fn nudge(self: &Arc<Self>, durable: Lsn) {
        let mut state = self.state.lock();
        if state.protocol.awaits_durable().is_some_and(|lsn| lsn <= durable) {
            state.inbox.push_back(Input::Durable(durable));
        }
        if state.driving || state.inbox.is_empty() {
            return;
        }
        drop(state);
        self.shared.driver.enqueue(Arc::clone(self) as Arc<dyn Driven>);
    }

    fn take_waker(&self) -> Option<Waker> {
        self.state.lock().waker.take()
    }

    fn is_attended(&self) -> bool {
        self.state.lock().attended
    }
}

/// Whether there is something to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wakeable {
    Now,
    Later,
}

impl ReplySink for Task {
    fn deliver(self: Arc<Self>, branch: usize, result: Result<Response, ParticipantError>) {
        let mut state = self.state.lock();
        state.watch.hears(branch, &result);
        let input = match result {
            Ok(Response::Voted(vote)) => Input::Voted(branch, vote),
            Ok(Response::Done) => Input::Done(branch),
            Ok(Response::Decided(decision)) => Input::Decided(branch, decision),
            // Not answers to any question that a transaction asks.
            Ok(Response::InDoubt(_) | Response::Verdict { .. }) => Input::Failed(branch),
            Err(error) => {
                let input = match &error {
                    ParticipantError::UnknownBranch => Input::Unknown(branch),
                    ParticipantError::AlreadyCommitted => Input::AlreadyCommitted(branch),
                    ParticipantError::AlreadyRolledBack => Input::AlreadyRolledBack(branch),
                    ParticipantError::Heuristic(outcome) => Input::Heuristic(branch, *outcome),
                    _ => Input::Failed(branch),
                };
                state.note(branch, error);
                input
            }
        };
        state.inbox.push_back(input);
        if state.driving {
            return;
        }
        let waker = state.waker.take();
        drop(state);
        match waker {
            Some(waker) => waker.wake(),
            None => self.shared.driver.enqueue(Arc::clone(&self) as Arc<dyn Driven>),
        }
    }
}

impl Driven for Task {
    fn run(self: Arc<Self>) {
        {
            let mut state = self.state.lock();
            if state.timer.is_some_and(|at| at <= self.shared.platform.now()) {
                state.timer = None;
            }
        }
        while let Waiting::Durable(lsn) = self.drive() {
            if self.is_attended() {
                // Whoever waits for the outcome waits for the record, too: one wake-up for both.
                if let Some(waker) = self.take_waker() {
                    waker.wake();
                }
                return;
            }
            let waker = Waker::from(Arc::new(Rerun(Arc::clone(&self))));
            match self.shared.log.poll_durable(lsn, &mut Context::from_waker(&waker)) {
                Poll::Ready(result) => self.push_durable(lsn, result),
                Poll::Pending => return,
            }
        }
    }
}

/// Wakes a task by having the driver run it.
struct Rerun(Arc<Task>);

impl Wake for Rerun {
    fn wake(self: Arc<Self>) {
        self.0.shared.driver.enqueue(Arc::clone(&self.0) as Arc<dyn Driven>);
    }
}
