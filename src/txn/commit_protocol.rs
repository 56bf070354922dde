//! The coordinator's side of the protocol: [`CommitProtocol`], pure. No I/O, no threads, no clock.
//!
//! Presumed abort (Mohan, Lindsay and Obermarck 1986, section 3): a decision to commit is logged and forced before
//! anybody hears of it; a decision to roll back is not logged at all, because a coordinator that finds nothing in its
//! log answers "rolled back". With the read-only and one-phase optimisations (the same paper, sections 3 and 5).
//!
//! The driver feeds in what happened with [`handle`](CommitProtocol::handle), and carries out, in order, what
//! [`poll`](CommitProtocol::poll) says until it says nothing more. The *durability gate* is in here: no
//! [`Verb::Commit`] comes out before the number that the log gave the decision has come in as durable, so a driver
//! that carries actions out in order is correct by construction.
//!
//! | phase | what moves it on |
//! |---|---|
//! | Active | the client commits: to Preparing, or to Alone with a single branch; or rolls back: to RollingBack |
//! | Preparing | all votes are in, one of them Yes: to Deciding; none of them Yes: to Ended, nothing to carry out |
//! | | a No, a failure or the time-out: to RollingBack, at once |
//! | Deciding | the decision's record is durable: to Committing |
//! | | the log refuses the record: to RollingBack; the log fails, or has failed before: to Indeterminate |
//! | Alone | the branch says what it decided: to Ended; the time-out: to RollingBack, the client is told "indeterminate" |
//! | Committing | every branch has acknowledged: to Ended |
//! | RollingBack | every branch has acknowledged: to Ended |
//! | Indeterminate | nothing; reopening the log tells |

use std::time::Instant;

use super::{Policy, policy::after};
use crate::{
    id::{Name, TxnId},
    log::{Durability, Fact, Lsn},
    participant::{Decision, Verb, Vote},
};

/// What happened. Branches are named by their index, in the order in which they were enlisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The client asks to commit.
    Commit,
    /// The client asks to roll back.
    Rollback,
    /// A branch has voted.
    Voted(usize, Vote),
    /// A branch has carried out what it was told.
    Done(usize),
    /// The only branch has decided.
    Decided(usize, Decision),
    /// A branch has refused to roll back because it is committed.
    AlreadyCommitted(usize),
    /// A message or its answer was lost, or the participant failed.
    Failed(usize),
    /// The record is in the log under this number, not yet durable.
    Appended(Lsn),
    /// The record is not in the log and never will be.
    AppendRefused,
    /// All records up to this one are durable.
    Durable(Lsn),
    /// The log failed, now or before; nothing is known for certain of records that were given to it.
    LogFailed,
    /// Time has passed; see [`CommitProtocol::deadline`].
    Tick,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send this to the branch.
    Send(usize, Verb),
    /// Append this to the log; the result comes back as [`Input::Appended`] or [`Input::AppendRefused`], and, of a
    /// forced record, as [`Input::Durable`] or [`Input::LogFailed`].
    Append(Fact, Durability),
    /// Tell the client.
    Answer(Outcome),
    /// The transaction is over; nothing more will come out.
    Finish,
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All of it has happened or will.
    Committed,
    /// None of it has happened or will.
    RolledBack(Cause),
    /// Nobody can say yet: the log, or the only participant, failed while deciding.
    Indeterminate,
}

/// Why a transaction was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The client wanted it.
    Requested,
    /// This branch voted no.
    VotedNo(usize),
    /// This branch failed to vote.
    Failed(usize),
    /// Not all votes came in time.
    TimedOut,
    /// The log had no room for the decision, or was closed.
    LogRefused,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Branch {
    participant: Name,
    state: BranchState,
    /// Failures so far, up to where counting them changes nothing.
    failures: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BranchState {
    /// Not asked for its vote.
    Idle,
    /// Asked for its vote.
    Asked,
    /// It has promised.
    Yes,
    /// The decision (or one-phase commit) is to be sent at this time.
    Due(Instant),
    /// It was sent; at this time it will be sent again.
    Sent(Instant),
    /// Nothing more is to be said to it.
    Out,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Active,
    Preparing {
        until: Instant,
    },
    /// The only branch decides.
    Alone {
        until: Instant,
    },
    /// `appended` tells whether the record was handed to the driver; `lsn` is its number once it has one.
    Deciding {
        appended: bool,
        lsn: Option<Lsn>,
    },
    Committing,
    RollingBack,
    /// All is said; what is left is to say so.
    Ended,
    Indeterminate,
    Finished,
}

/// One transaction's state machine at its coordinator. See the [module's table](self).
///
/// It is `Clone + Eq + Hash`, so that a model checker and a simulator run the production code itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitProtocol {
    txn: TxnId,
    policy: Policy,
    phase: Phase,
    branches: Vec<Branch>,
    /// What to tell the client, once that is known and until it is told.
    answer: Option<Outcome>,
    /// Whether the log holds a decision that has to be ended.
    logged: bool,
}

impl CommitProtocol {
    /// A transaction that begins.
    #[must_use]
    pub const fn new(txn: TxnId, policy: Policy) -> Self {
        Self { txn, policy, phase: Phase::Active, branches: Vec::new(), answer: None, logged: false }
    }

    /// A transaction whose decision to commit was found in the log: `participants` may not know it yet.
    #[must_use]
    pub fn recovered(txn: TxnId, participants: &[Name], policy: Policy, now: Instant) -> Self {
        Self::settling(txn, participants, policy, now, Phase::Committing)
    }

    /// A transaction that participants hold branches of, and of which the log holds nothing: presumed abort.
    #[must_use]
    pub fn presumed_abort(txn: TxnId, participants: &[Name], policy: Policy, now: Instant) -> Self {
        Self::settling(txn, participants, policy, now, Phase::RollingBack)
    }

    fn settling(txn: TxnId, participants: &[Name], policy: Policy, now: Instant, phase: Phase) -> Self {
        let branch = |name: &Name| Branch { participant: name.clone(), state: BranchState::Due(now), failures: 0 };
        let branches = participants.iter().map(branch).collect();
        Self { logged: phase == Phase::Committing, ..Self::new(txn, policy) }.with(phase, branches)
    }

    fn with(mut self, phase: Phase, branches: Vec<Branch>) -> Self {
        self.phase = phase;
        self.branches = branches;
        self.end_if_all_out();
        self
    }

    /// The transaction's id.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        &self.txn
    }

    /// The participant behind a branch's index.
    ///
    /// `None` where no branch has this index.
    #[must_use]
    pub fn participant(&self, branch: usize) -> Option<&Name> {
        self.branches.get(branch).map(|branch| &branch.participant)
    }

    /// The branch of a participant that is already enlisted.
    #[must_use]
    pub fn branch_of(&self, participant: &Name) -> Option<usize> {
        self.branches.iter().position(|branch| branch.participant == *participant)
    }

    /// Adds a branch, before the commit. Gives its index.
    pub fn enlist(&mut self, participant: Name) -> usize {
        debug_assert_eq!(self.phase, Phase::Active, "branches are enlisted before the commit");
        self.branches.push(Branch { participant, state: BranchState::Idle, failures: 0 });
        self.branches.len() - 1
    }

    /// The record that must become durable before anything else can happen, if that is so.
    #[must_use]
    pub const fn awaits_durable(&self) -> Option<Lsn> {
        match self.phase {
            Phase::Deciding { lsn, .. } => lsn,
            _ => None,
        }
    }

    /// When to feed in the next [`Input::Tick`], if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let resend = || {
            self.branches.iter().filter_map(|branch| match branch.state {
                BranchState::Due(at) | BranchState::Sent(at) => Some(at),
                _ => None,
            })
        };
        match self.phase {
            Phase::Preparing { until } => Some(until),
            Phase::Alone { until } => resend().chain([until]).min(),
            Phase::Committing | Phase::RollingBack => resend().min(),
            _ => None,
        }
    }

    /// Whether [`Action::Finish`] has come out.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Whether the log failed while the decision was in flight. Only reopening the log tells what was decided.
    #[must_use]
    pub const fn is_indeterminate(&self) -> bool {
        matches!(self.phase, Phase::Indeterminate)
    }

    /// The decision that is being carried out, or is known at all.
    #[must_use]
    pub const fn decision(&self) -> Option<Decision> {
        match self.phase {
            Phase::Committing => Some(Decision::Commit),
            Phase::RollingBack => Some(Decision::Rollback),
            _ => None,
        }
    }

    /// Takes in what happened. What does not fit (late, doubled, of a branch that there is none of) is a no-op.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Commit => self.commit(now),
            Input::Rollback if self.phase == Phase::Active => self.roll_back(now, Cause::Requested),
            // Once the client has asked to commit, the transaction is the protocol's.
            Input::Rollback => {}
            Input::Voted(branch, vote) => self.voted(now, branch, vote),
            Input::Decided(branch, decision) => self.decided_alone(branch, decision),
            Input::Done(branch) => self.done(branch),
            // Only a branch that decided alone can be ahead of its coordinator; the client was told that nobody knows.
            Input::AlreadyCommitted(branch) if self.phase == Phase::RollingBack => self.done(branch),
            Input::AlreadyCommitted(_) => {}
            Input::Failed(branch) => self.failed(now, branch),
            Input::Appended(lsn) => {
                if let Phase::Deciding { lsn: number @ None, .. } = &mut self.phase {
                    *number = Some(lsn);
                }
            }
            Input::Durable(up_to) => {
                if self.awaits_durable().is_some_and(|lsn| lsn <= up_to) {
                    self.logged = true;
                    self.carry_out(now, Phase::Committing, Outcome::Committed);
                }
            }
            // The decision is surely in no log, so it can still be the other one.
            Input::AppendRefused => {
                if matches!(self.phase, Phase::Deciding { lsn: None, .. }) {
                    self.roll_back(now, Cause::LogRefused);
                }
            }
            Input::LogFailed => {
                if matches!(self.phase, Phase::Deciding { .. }) {
                    self.phase = Phase::Indeterminate;
                    self.answer = Some(Outcome::Indeterminate);
                }
            }
            Input::Tick => self.tick(now),
        }
    }

    /// What to do next; call it until it gives `None`, carrying each action out before the next call.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Active | Phase::Finished => None,
            Phase::Preparing { .. } => {
                let branch = self.branches.iter().position(|branch| branch.state == BranchState::Idle)?;
                self.branches[branch].state = BranchState::Asked;
                Some(Action::Send(branch, Verb::Prepare))
            }
            Phase::Deciding { appended: false, lsn } => {
                self.phase = Phase::Deciding { appended: true, lsn };
                let voted_yes = self.branches.iter().filter(|branch| branch.state == BranchState::Yes);
                let participants = voted_yes.map(|branch| branch.participant.clone()).collect();
                Some(Action::Append(Fact::Decided { txn: self.txn.clone(), participants }, Durability::Forced))
            }
            Phase::Deciding { .. } => None,
            Phase::Alone { .. } => self.send_due(now, Verb::CommitOnePhase),
            // The client hears the outcome after each branch was told for the first time: who answers at once has
            // carried it out by then, so that a client reads its own writes.
            Phase::Committing => self.send_due(now, Verb::Commit).or_else(|| self.take_answer()),
            Phase::RollingBack => self.send_due(now, Verb::Rollback).or_else(|| self.take_answer()),
            Phase::Indeterminate => self.take_answer(),
            Phase::Ended => self.take_answer().or_else(|| {
                if std::mem::take(&mut self.logged) {
                    return Some(Action::Append(Fact::Ended { txn: self.txn.clone() }, Durability::Lazy));
                }
                self.phase = Phase::Finished;
                Some(Action::Finish)
            }),
        }
    }

    fn take_answer(&mut self) -> Option<Action> {
        self.answer.take().map(Action::Answer)
    }

    fn send_due(&mut self, now: Instant, verb: Verb) -> Option<Action> {
        let again = after(now, self.policy.delivery_timeout);
        let due = |branch: &Branch| matches!(branch.state, BranchState::Due(at) if at <= now);
        let branch = self.branches.iter().position(due)?;
        self.branches[branch].state = BranchState::Sent(again);
        Some(Action::Send(branch, verb))
    }

    fn commit(&mut self, now: Instant) {
        if self.phase != Phase::Active {
            return;
        }
        let until = after(now, self.policy.prepare_timeout);
        match self.branches.as_mut_slice() {
            [] => self.end(Outcome::Committed),
            [only] => {
                only.state = BranchState::Due(now);
                self.phase = Phase::Alone { until };
            }
            _ => self.phase = Phase::Preparing { until },
        }
    }

    fn voted(&mut self, now: Instant, branch: usize, vote: Vote) {
        let Phase::Preparing { .. } = self.phase else { return };
        let Some(voter) = self.branches.get_mut(branch).filter(|branch| branch.state == BranchState::Asked) else {
            return;
        };
        voter.state = match vote {
            Vote::Yes => BranchState::Yes,
            Vote::ReadOnly | Vote::No => BranchState::Out,
        };
        if vote == Vote::No {
            return self.roll_back(now, Cause::VotedNo(branch));
        }
        if self.branches.iter().any(|branch| matches!(branch.state, BranchState::Idle | BranchState::Asked)) {
            return;
        }
        if self.branches.iter().any(|branch| branch.state == BranchState::Yes) {
            self.phase = Phase::Deciding { appended: false, lsn: None };
        } else {
            self.end(Outcome::Committed);
        }
    }

    fn decided_alone(&mut self, branch: usize, decision: Decision) {
        let Phase::Alone { .. } = self.phase else { return };
        let Some(only) = self.branches.get_mut(branch) else { return };
        only.state = BranchState::Out;
        self.end(match decision {
            Decision::Commit => Outcome::Committed,
            Decision::Rollback => Outcome::RolledBack(Cause::VotedNo(branch)),
        });
    }

    fn done(&mut self, branch: usize) {
        let (Phase::Committing | Phase::RollingBack) = self.phase else { return };
        let told = |branch: &&mut Branch| matches!(branch.state, BranchState::Due(_) | BranchState::Sent(_));
        if let Some(branch) = self.branches.get_mut(branch).filter(told) {
            branch.state = BranchState::Out;
            self.end_if_all_out();
        }
    }

    fn failed(&mut self, now: Instant, branch: usize) {
        match self.phase {
            Phase::Preparing { .. }
                if self.branches.get(branch).is_some_and(|branch| branch.state == BranchState::Asked) =>
            {
                self.roll_back(now, Cause::Failed(branch));
            }
            Phase::Alone { .. } | Phase::Committing | Phase::RollingBack => self.back_off(now, branch),
            _ => {}
        }
    }

    fn tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Preparing { until } if until <= now => self.roll_back(now, Cause::TimedOut),
            // What the branch decided, if it did, is not known; the rollback makes sure that it decides nothing later.
            Phase::Alone { until } if until <= now => self.carry_out(now, Phase::RollingBack, Outcome::Indeterminate),
            Phase::Alone { .. } | Phase::Committing | Phase::RollingBack => {
                for branch in 0..self.branches.len() {
                    if matches!(self.branches[branch].state, BranchState::Sent(until) if until <= now) {
                        self.back_off(now, branch);
                    }
                }
            }
            _ => {}
        }
    }

    fn back_off(&mut self, now: Instant, index: usize) {
        let settled = self.policy.settled_failures();
        let Some(branch) = self.branches.get_mut(index) else { return };
        if let BranchState::Sent(_) = branch.state {
            let failures = branch.failures.saturating_add(1).min(settled);
            branch.state = BranchState::Due(after(now, self.policy.backoff(&self.txn, index, failures)));
            branch.failures = failures.min(settled - 1);
        }
    }

    fn roll_back(&mut self, now: Instant, cause: Cause) {
        self.carry_out(now, Phase::RollingBack, Outcome::RolledBack(cause));
    }

    /// Has every branch told that is not out of the transaction. Those that were asked for a vote and have not
    /// answered are told too: they may have promised.
    fn carry_out(&mut self, now: Instant, phase: Phase, answer: Outcome) {
        for branch in &mut self.branches {
            if branch.state != BranchState::Out {
                branch.state = BranchState::Due(now);
                branch.failures = 0;
            }
        }
        self.phase = phase;
        self.answer = Some(answer);
        self.end_if_all_out();
    }

    fn end(&mut self, answer: Outcome) {
        self.answer = Some(answer);
        self.phase = Phase::Ended;
    }

    fn end_if_all_out(&mut self) {
        if self.branches.iter().all(|branch| branch.state == BranchState::Out) {
            self.phase = Phase::Ended;
        }
    }
}
