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
//! | Active | the client commits: to Preparing, or to Alone with a single branch |
//! | | the client rolls back, or its time is over: to RollingBack |
//! | Preparing | all votes are in, one of them Yes: to Deciding; none of them Yes: to Ended, nothing to carry out |
//! | | all votes are in, none of them No, and there is a last resource: to LastResource |
//! | | a No, a failure or the time-out: to RollingBack, at once |
//! | LastResource | it has committed: as if all votes were in; it has rolled back: to RollingBack |
//! | | the time-out: to RollingBack, the client is told "indeterminate" |
//! | Deciding | the decision's record is durable: to Committing |
//! | | the log refuses the record: to RollingBack; the log fails, or has failed before: to Indeterminate |
//! | | either, after a last resource has committed: to Committing, the client is told "indeterminate" |
//! | Alone | the branch says what it decided: to Ended; the time-out: to RollingBack, the client is told "indeterminate" |
//! | Committing, RollingBack | every branch has acknowledged: to Ended |
//! | Indeterminate | nothing; reopening the log tells |
//!
//! A decision is delivered to each branch until it acknowledges, or until the [`Policy`] has it *parked*. Once all that are
//! left have failed more than once, only these need to remember it: of a commit the log is told who they are, for otherwise the
//! next life would tell those who have forgotten. A branch that
//! has ended by itself, otherwise than decided, is *heuristic*. Once nothing but these is left the transaction waits for an
//! operator: [`Input::Retry`], [`Input::Force`], [`Input::Forget`]. It never ends without one of them.

use std::time::Instant;

use super::{
    Policy,
    policy::{NEVER, after},
};
use crate::{
    id::{Name, TxnId},
    log::{Durability, Fact, Heuristic, Lsn},
    participant::{Decision, Verb, Vote},
};

mod branches;
mod delivery;
mod memory;
mod messages;
mod view;

use branches::{BranchProgress, Branches, is_over};

pub use memory::Remembered;
pub use messages::{Action, Cause, Input, Outcome};
pub use view::{BranchState, TransactionState};

/// What the log says of a branch, beyond the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OnRecord {
    Nothing,
    /// It was parked: it has not acknowledged.
    Owed,
    /// It has ended otherwise than decided.
    Heuristic(Heuristic),
    /// The same, and the log is being told.
    Writing(Heuristic),
    /// The same, and the log had no room for it: it is told again at this time. Whoever opens it before that has to ask again.
    Unwritten(Instant),
}

/// What a branch's participant can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    /// It can promise.
    Voter,
    /// It can only commit or roll back. There is one of them at the most.
    LastResource,
}

/// Where the talk with a branch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
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
    /// It is not sent before the driver says so.
    Kept,
    /// It was sent often enough; an operator is to look at it.
    Parked,
    /// It has ended otherwise than decided.
    Heuristic(Heuristic),
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
    /// All others have voted; the one that can't promise decides.
    LastResource {
        until: Instant,
    },
    /// `appended` tells whether the record was handed to the driver; `lsn` is its number once it has one.
    Deciding {
        appended: bool,
        lsn: Option<Lsn>,
    },
    Committing {
        since: Instant,
    },
    RollingBack {
        since: Instant,
    },
    /// All is said; what is left is to say so.
    Ended,
    Indeterminate,
    Finished,
}

/// Who needs to remember the transaction; each with how many owed an acknowledgement then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Narrowed {
    /// All who take part.
    Not,
    /// The same, and the log is being told who owes.
    Writing(usize),
    /// The log has been told.
    Written(usize),
    /// Those who owe, and the driver has been told.
    To(usize),
}

/// One transaction's state machine at its coordinator. See the [module's table](self).
///
/// It is `Clone + Eq + Hash`, so that a model checker and a simulator run the production code itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitProtocol {
    txn: TxnId,
    policy: Policy,
    phase: Phase,
    branches: Branches,
    /// When it is rolled back if nobody has committed it, and no vote is waited for any longer.
    expires: Option<Instant>,
    /// What to tell the client, once that is known and until it is told.
    answer: Option<Outcome>,
    /// Whether the log holds something of the transaction that has to be ended, or may hold it.
    logged: bool,
    /// It is decided to commit because a last resource has committed, and no record of the decision is known to be durable.
    unrecorded: bool,
    /// Whether others than those who owe an acknowledgement need to remember it.
    narrowed: Narrowed,
    /// Whether a branch has failed so often that this may be worth while.
    is_stuck: bool,
    /// Whether the log says that it is parked, and so whom it is owed to.
    parked_on_record: bool,
    /// [`Action::Park`] has come out, and nothing has changed since.
    lies_still: bool,
    /// It was parked before the coordinator was opened: each branch is told once more, and parked again if that fails.
    told_once_more: bool,
}

impl CommitProtocol {
    /// A transaction that begins.
    #[must_use]
    pub const fn new(txn: TxnId, policy: Policy) -> Self {
        Self {
            txn,
            policy,
            phase: Phase::Active,
            branches: Branches::new(),
            expires: None,
            answer: None,
            logged: false,
            unrecorded: false,
            narrowed: Narrowed::Not,
            is_stuck: false,
            parked_on_record: false,
            lies_still: false,
            told_once_more: false,
        }
    }

    /// A transaction whose decision to commit was found in the log: `participants` may not know it yet.
    #[must_use]
    pub fn recovered(txn: TxnId, participants: &[Name], policy: Policy, now: Instant) -> Self {
        let memory = Remembered { owed: participants.to_vec(), ..Remembered::of(Decision::Commit) };
        memory.resume(txn, policy, now)
    }

    /// A transaction that participants hold branches of, and of which the log holds nothing: presumed abort.
    #[must_use]
    pub fn presumed_abort(txn: TxnId, participants: &[Name], policy: Policy, now: Instant) -> Self {
        let memory = Remembered { owed: participants.to_vec(), ..Remembered::of(Decision::Rollback) };
        memory.resume(txn, policy, now)
    }

    /// Sets when the transaction is rolled back if nobody has committed it by then.
    pub const fn expires(&mut self, at: Instant) {
        self.expires = Some(at);
    }

    /// Adds a branch, before the commit. Gives its index.
    pub fn enlist(&mut self, participant: Name) -> usize {
        self.may_enlist();
        self.branches.push(BranchProgress::new(participant, Role::Voter, Step::Idle));
        self.branches.len() - 1
    }

    /// Adds a branch, before the commit, and before all others: it is asked for its vote first. The others' indices grow
    /// by one. Amortised O(1).
    pub fn enlist_first(&mut self, participant: Name) {
        self.may_enlist();
        self.branches.push_first(BranchProgress::new(participant, Role::Voter, Step::Idle));
    }

    /// Adds, before the commit, a branch that can't promise; it decides once all others have promised. False where there
    /// is such a one already: with two of them nothing could be made sure of.
    pub fn enlist_last_resource(&mut self, participant: Name) -> bool {
        if self.branches.iter().any(|branch| branch.role == Role::LastResource) {
            return false;
        }
        self.may_enlist();
        self.branches.push(BranchProgress::new(participant, Role::LastResource, Step::Idle));
        true
    }

    fn may_enlist(&self) {
        debug_assert_eq!(self.phase, Phase::Active, "branches are enlisted before the commit");
    }

    /// Takes in what happened. What does not fit (late, doubled, of a branch that there is none of) is a no-op.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Commit => self.commit(now),
            Input::Rollback if self.phase == Phase::Active => self.roll_back(now, Cause::Requested),
            // Once the client has asked to commit, the transaction is the protocol's.
            Input::Rollback => {}
            Input::Voted(branch, vote) => self.voted(now, branch, vote),
            Input::Decided(branch, decision) => self.decided_alone(now, branch, decision),
            Input::Done(branch) => self.done(branch),
            Input::Unknown(branch) => self.unknown(now, branch),
            Input::AlreadyCommitted(branch) => self.already(now, branch, Decision::Commit),
            Input::AlreadyRolledBack(branch) => self.already(now, branch, Decision::Rollback),
            Input::Heuristic(branch, outcome) => self.ended_by_itself(now, branch, outcome),
            Input::Failed(branch) => self.failed(now, branch),
            Input::Appended(lsn) => {
                self.outcome_is_written();
                self.narrowing_is_written();
                if let Phase::Deciding { lsn: number @ None, .. } = &mut self.phase {
                    *number = Some(lsn);
                }
            }
            Input::Durable(up_to) => {
                if self.awaits_durable().is_some_and(|lsn| lsn <= up_to) {
                    self.logged = true;
                    self.carry_out(now, Decision::Commit, Outcome::Committed);
                }
            }
            Input::AppendRefused => self.append_refused(now),
            Input::LogFailed => self.log_failed(now),
            Input::Tick => self.tick(now),
            Input::Kept(branch) => self.keep(branch),
            Input::LetOut(branch) => self.let_out(now, branch),
            Input::GiveUp(branch) => self.give_up(branch),
            Input::Park => (0..self.branches.len()).for_each(|branch| self.give_up(branch)),
            Input::Retry => self.retry(now),
            Input::Force(decision) => self.force(decision),
            Input::Forget => self.forget(),
        }
    }

    /// What to do next; call it until it gives `None`, carrying each action out before the next call.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Active | Phase::Finished => None,
            Phase::Preparing { .. } => {
                let branch = self.branches.first(|some| some.unasked)?;
                self.branches.change(branch, |branch| branch.step = Step::Asked);
                Some(Action::Send(branch, Verb::Prepare))
            }
            Phase::Deciding { appended: false, lsn } => {
                self.phase = Phase::Deciding { appended: true, lsn };
                let voted_yes = self.branches.iter().filter(|branch| branch.step == Step::Yes);
                let participants = voted_yes.map(|branch| branch.participant.clone()).collect();
                Some(Action::Append(Fact::Decided { txn: self.txn.clone(), participants }, Durability::Forced))
            }
            Phase::Deciding { .. } => None,
            Phase::Alone { .. } | Phase::LastResource { .. } => self.send_due(now, Verb::CommitOnePhase),
            // The client hears the outcome after each branch was told for the first time: who answers at once has
            // carried it out by then, so that a client reads its own writes.
            Phase::Committing { .. } => self.settle(now, Verb::Commit),
            Phase::RollingBack { .. } => self.settle(now, Verb::Rollback),
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

    /// Until when those are waited for who are asked now whether they can commit, or have committed.
    fn votes_are_due(&self, now: Instant) -> Instant {
        after(now, self.policy.prepare_timeout).min(self.expires.unwrap_or_else(|| after(now, NEVER)))
    }

    fn commit(&mut self, now: Instant) {
        if self.phase != Phase::Active {
            return;
        }
        let until = self.votes_are_due(now);
        match self.branches.len() {
            0 => self.end(Outcome::Committed),
            1 => {
                self.branches.change(0, |only| only.step = Step::Due(now));
                self.phase = Phase::Alone { until };
            }
            _ => {
                self.branches.close();
                self.phase = Phase::Preparing { until };
            }
        }
    }

    fn voted(&mut self, now: Instant, branch: usize, vote: Vote) {
        let Phase::Preparing { .. } = self.phase else { return };
        let voted = match vote {
            Vote::Yes => Step::Yes,
            Vote::ReadOnly | Vote::No => Step::Out,
        };
        if !self.branches.step(branch, |step| step == Step::Asked, voted) {
            return;
        }
        if vote == Vote::No {
            return self.roll_back(now, Cause::VotedNo(branch));
        }
        if self.branches.any(|some| some.unvoted) {
            return;
        }
        let until = self.votes_are_due(now);
        match self.branches.iter().position(|branch| branch.role == Role::LastResource) {
            Some(last) => {
                self.branches.change(last, |last| last.step = Step::Due(now));
                self.phase = Phase::LastResource { until };
            }
            None => self.all_agree(),
        }
    }

    /// Nobody has said no. Where anybody has promised there is a decision to be logged.
    fn all_agree(&mut self) {
        if self.branches.iter().any(|branch| branch.step == Step::Yes) {
            self.phase = Phase::Deciding { appended: false, lsn: None };
        } else {
            self.end(Outcome::Committed);
        }
    }

    fn decided_alone(&mut self, now: Instant, branch: usize, decision: Decision) {
        let (Phase::Alone { .. } | Phase::LastResource { .. }) = self.phase else { return };
        if !self.branches.step(branch, Step::awaits_answer, Step::Out) {
            return;
        }
        match decision {
            Decision::Commit => self.all_agree(),
            Decision::Rollback => self.roll_back(now, Cause::VotedNo(branch)),
        }
    }

    fn append_refused(&mut self, now: Instant) {
        self.outcome_is_unwritten(now);
        self.narrowing_is_unwritten();
        if let Phase::Deciding { lsn: None, .. } = self.phase {
            if self.last_resource_has_committed() {
                self.unrecorded = true;
                self.carry_out(now, Decision::Commit, Outcome::Indeterminate);
            } else {
                // The decision is surely in no log, so it can still be the other one.
                self.roll_back(now, Cause::LogRefused);
            }
        }
    }

    fn log_failed(&mut self, now: Instant) {
        self.outcome_is_written(); // or never will be, in this life
        self.narrowing_is_unwritten();
        if let Phase::Deciding { .. } = self.phase {
            if self.last_resource_has_committed() {
                // Perhaps it does. Then whoever opens it next carries the decision out, and needs those who know of it.
                self.logged = true;
                self.unrecorded = true;
                self.carry_out(now, Decision::Commit, Outcome::Indeterminate);
            } else {
                self.phase = Phase::Indeterminate;
                self.answer = Some(Outcome::Indeterminate);
            }
        }
    }

    /// The one case in which the decision is known before it is durable: the others follow the last resource as best they
    /// can, because whatever else they did would be wrong for sure.
    fn last_resource_has_committed(&self) -> bool {
        self.branches.iter().any(|branch| branch.role == Role::LastResource)
    }

    fn tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Active if self.expires.is_some_and(|at| at <= now) => self.roll_back(now, Cause::Expired),
            Phase::Preparing { until } if until <= now => self.roll_back(now, Cause::TimedOut),
            // What the branch decided, if it was asked, is not known; the rollback makes sure that it decides nothing later.
            Phase::Alone { until } | Phase::LastResource { until } if until <= now => {
                let is_unasked = |branch: &BranchProgress| matches!(branch.step, Step::Due(_)) && branch.failures == 0;
                let is_certain = self.branches.iter().any(is_unasked);
                let answer = if is_certain { Outcome::RolledBack(Cause::TimedOut) } else { Outcome::Indeterminate };
                self.carry_out(now, Decision::Rollback, answer);
            }
            Phase::Alone { .. } | Phase::LastResource { .. } | Phase::Committing { .. } | Phase::RollingBack { .. } => {
                while let Some(branch) = self.branches.first(|some| is_over(some.lapses, now)) {
                    if matches!(self.branches[branch].on_record, OnRecord::Unwritten(again) if again <= now) {
                        self.branches.change(branch, |branch| branch.on_record = OnRecord::Nothing);
                    }
                    if matches!(self.branches[branch].step, Step::Sent(until) if until <= now) {
                        self.back_off(now, branch);
                    }
                }
            }
            _ => {}
        }
    }

    fn roll_back(&mut self, now: Instant, cause: Cause) {
        self.carry_out(now, Decision::Rollback, Outcome::RolledBack(cause));
    }

    fn end(&mut self, answer: Outcome) {
        self.answer = Some(answer);
        self.phase = Phase::Ended;
    }
}
