//! The coordinator's side of the protocol: [`CommitProtocol`], pure. No I/O, no threads, no clock.
//!
//! Presumed abort (Mohan, Lindsay and Obermarck 1986, section 3): a decision to commit is logged
//! and forced before the client or a participant hears of it. A decision to roll back is not logged
//! at all, because a coordinator that finds nothing in its log answers "rolled back". With the
//! read-only and one-phase optimisations (the same paper, sections 3 and 5).
//!
//! | file | contents |
//! |---|---|
//! | `messages.rs` | [`Input`], [`Action`], [`Outcome`], [`Cause`] |
//! | `mod.rs` | the machine, and the first phase |
//! | `asking.rs` | a last resource is asked whether it has committed |
//! | `fenced.rs` | another holder has taken the log over |
//! | `delivery.rs` | the second phase: delivering, parking, heuristic outcomes |
//! | `branches.rs` | the branches, with a tree for transactions with many of them |
//! | `memory.rs` | what the log remembers, and how a transaction goes on from there |
//! | `view.rs` | what can be read from outside |
//!
//! The driver calls [`handle`](CommitProtocol::handle) with what happened. Then it carries out, in
//! order, the actions that [`poll`](CommitProtocol::poll) returns, until that returns `None`. The
//! *durability gate* is in here: no [`Verb::Commit`] comes out before the number that the log gave
//! the decision has come in as durable. So a driver that carries actions out in order is correct by
//! construction.
//!
//! | phase | what moves it on |
//! |---|---|
//! | Active | the client [withdraws](CommitProtocol::withdraw) a branch: stays, as if the branch had never been enlisted |
//! | | the client commits: to Preparing, or to Alone with a single branch |
//! | | the client rolls back, or its time-out comes: to RollingBack |
//! | Preparing | all votes are in, one of them Yes: to Deciding; none of them Yes: to Ended, nothing to carry out |
//! | | all votes are in, none of them No, and there is a last resource: to LastResource |
//! | | a No, a failure or the time-out: to RollingBack, at once |
//! | LastResource | it has committed: as if all votes were in; it has rolled back: to RollingBack |
//! | | the time-out: to RollingBack, the client is told "indeterminate"; if it remembers: to Asking |
//! | Asking | the last resource has committed: as if all votes were in; it has not, and never will: to RollingBack |
//! | | it does not remember: to RollingBack, the client is told "indeterminate" |
//! | | it does not answer: the client is told "indeterminate", and it is asked again |
//! | Deciding | the decision's record is durable: to Committing |
//! | | the log refuses the record: to RollingBack; the log fails, or has failed before: to Indeterminate |
//! | | either, after a last resource has committed: to Committing, the client is told "indeterminate" |
//! | Alone | the branch says what it decided: to Ended; the time-out: to RollingBack, the client is told "indeterminate"; a last resource that remembers: to Asking |
//! | Committing, RollingBack | every branch has acknowledged: to Ended |
//! | Indeterminate | nothing; reopening the log tells |
//! | any but Deciding and Ended | the log was taken over: to Fenced; the client is told what is certain (`fenced.rs`) |
//! | Deciding | the log was taken over: stays until the log says whether the record is durable; then to Fenced |
//! | Fenced | nothing; the new holder settles it |
//!
//! A branch that was found in doubt, without a decision in the log, begins in Asking if there may have
//! been a last resource: the transaction commits if one of them says so, and else rolls back. That
//! commit is logged nowhere, because the last resource's own memory is its record: the next life asks
//! again. (A record would have to name all participants, and one that is down has not said whether it
//! holds a branch.)
//!
//! A decision is delivered to each branch until it acknowledges, or until it is *parked* by the
//! [`Policy`]. Once all remaining branches have failed more than once, only their participants need
//! to remember the transaction. If it commits, a record first names them, because otherwise the
//! next life would tell participants that have forgotten it. A branch that has ended by itself,
//! otherwise than decided, is *heuristic*. Once only parked and heuristic branches are left, the
//! transaction waits for an operator: [`Input::Retry`], [`Input::Force`], [`Input::Forget`]. It
//! never ends without one of them.

use std::time::Instant;

use super::{
    Policy,
    policy::{NEVER, after},
};
use crate::{
    id::{Name, TxnId},
    log::{Durability, Fact, Heuristic, Lsn},
    participant::{Decision, LastResourceAnswer, Verb, Vote},
};

mod asking;
mod branches;
mod delivery;
mod fenced;
mod memory;
mod messages;
mod view;

use branches::{BranchProgress, Branches, is_over};

pub use memory::Remembered;
pub use messages::{Action, Cause, Input, Outcome};
pub use view::{BranchState, TransactionState};

/// What the log says about a branch, beyond the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OnRecord {
    Nothing,
    /// It was parked, because it has not acknowledged.
    Owed,
    /// It has ended otherwise than decided.
    Heuristic(Heuristic),
    /// The same, and its record is being written.
    Writing(Heuristic),
    /// The same, and the log had no room for its record, which is written again at this time. A
    /// life that opens the log before that has to ask the participant again.
    Unwritten(Instant),
}

/// What a branch's participant can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    /// It can promise.
    Voter,
    /// It can promise, and is asked and told before the other voters.
    EarlyVoter,
    /// It can only commit or roll back. A transaction has at most one of them.
    LastResource,
}

/// State of the exchange with a branch.
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
    /// It was sent, and is sent again at this time.
    Sent(Instant),
    /// It is kept back until the driver lets it out.
    Kept,
    /// It is no longer sent; an operator must look.
    Parked,
    /// It has ended otherwise than decided.
    Heuristic(Heuristic),
    /// It gets no more messages.
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
    /// All others have voted; the one that cannot promise decides.
    LastResource {
        until: Instant,
    },
    /// A last resource is asked whether it has committed.
    Asking,
    /// `appended` is whether the driver got the record; `lsn` is its number, once it has one.
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
    /// Everything is delivered; the actions that say so are left.
    Ended,
    Indeterminate,
    /// Another holder has the log, and settles the transaction.
    Fenced,
    Finished,
}

/// Which participants need to remember the transaction. Each variant has the number of those that
/// owed an acknowledgement then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Narrowed {
    /// All participants of the transaction.
    Not,
    /// The same, and a record that names those that owe is being written.
    Writing(usize),
    /// The record is in the log.
    Written(usize),
    /// Only those that owe, and the driver knows.
    To(usize),
}

/// One transaction's state machine at its coordinator. See the [module's table](self).
///
/// A plain value without interior sharing. It is `Clone + Eq + Hash`, so that a model checker and a
/// simulator run the production code itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitProtocol {
    txn: TxnId,
    policy: Policy,
    phase: Phase,
    branches: Branches,
    /// Time at which it is rolled back if the client has not committed it, and until which the
    /// coordinator waits for votes.
    expires: Option<Instant>,
    /// The answer to the client, once it is known and until it is given.
    answer: Option<Outcome>,
    /// Whether it has a last resource that remembers what it has committed.
    remembers: bool,
    /// Whether a client waits for an answer, or has got one.
    has_client: bool,
    /// Whether the client has its answer, or is about to get it.
    is_answered: bool,
    /// Whether the log holds, or may hold, a record of the transaction that must be ended.
    logged: bool,
    /// Whether it commits because a last resource has committed, while no record of the decision is
    /// known to be durable.
    unrecorded: bool,
    /// Whether participants that owe no acknowledgement need to remember it.
    narrowed: Narrowed,
    /// Whether to look whether only some need to remember it: a branch has failed often enough, or
    /// is kept back.
    is_stuck: bool,
    /// Whether the log says that it is parked, and names the participants that owe.
    parked_on_record: bool,
    /// Whether [`Action::Park`] has come out, and nothing has changed since.
    lies_still: bool,
    /// Whether it was parked before the coordinator was opened. Then each branch is told once more,
    /// and parked again if that fails.
    told_once_more: bool,
    /// Whether the log was taken over.
    fenced: bool,
}

impl CommitProtocol {
    /// Returns a transaction that begins.
    #[must_use]
    pub const fn new(txn: TxnId, policy: Policy) -> Self {
        Self {
            txn,
            policy,
            phase: Phase::Active,
            branches: Branches::new(),
            expires: None,
            answer: None,
            remembers: false,
            has_client: true,
            is_answered: false,
            logged: false,
            unrecorded: false,
            narrowed: Narrowed::Not,
            is_stuck: false,
            parked_on_record: false,
            lies_still: false,
            told_once_more: false,
            fenced: false,
        }
    }

    /// Returns a transaction with a decision to commit that was found in the log: `participants`
    /// may not know it yet.
    #[must_use]
    pub fn recovered(txn: TxnId, participants: &[Name], policy: Policy, now: Instant) -> Self {
        let memory = Remembered { owed: participants.to_vec(), ..Remembered::of(Decision::Commit) };
        memory.resume(txn, policy, now)
    }

    /// Returns a transaction of which participants hold branches and the log holds nothing:
    /// presumed abort.
    #[must_use]
    pub fn presumed_abort(txn: TxnId, participants: &[Name], policy: Policy, now: Instant) -> Self {
        let memory = Remembered { owed: participants.to_vec(), ..Remembered::of(Decision::Rollback) };
        memory.resume(txn, policy, now)
    }

    /// Sets the time at which the transaction is rolled back if the client has not committed it.
    pub const fn expires(&mut self, at: Instant) {
        self.expires = Some(at);
    }

    /// Adds a branch, before the commit. Returns its index.
    pub fn enlist(&mut self, participant: Name) -> usize {
        self.enlist_as(participant, Role::Voter)
    }

    /// Adds a branch, before the commit, that is asked and told before those of
    /// [`enlist`](Self::enlist). Returns its index. For participants that take their time: what they
    /// do goes on while the others are called.
    pub fn enlist_early(&mut self, participant: Name) -> usize {
        self.enlist_as(participant, Role::EarlyVoter)
    }

    /// Adds, before the commit, a branch that cannot promise; it decides once all others have
    /// promised. Returns its index, or `None` if the transaction has one already: with two of them
    /// no outcome could be guaranteed.
    pub fn enlist_last_resource(&mut self, participant: Name) -> Option<usize> {
        let has_one = self.branches.iter().any(|branch| branch.role == Role::LastResource);
        (!has_one).then(|| self.enlist_as(participant, Role::LastResource))
    }

    fn enlist_as(&mut self, participant: Name, role: Role) -> usize {
        debug_assert_eq!(self.phase, Phase::Active, "branches are enlisted before the commit");
        self.branches.push(BranchProgress::new(participant, role, Step::Idle));
        self.branches.len() - 1
    }

    /// Takes a branch out again, before the commit, because its participant did nothing for it. From
    /// then on the transaction is what it would be if the branch had never been enlisted: the branch
    /// gets no message and is in no record, the next last resource has its place, and a single other
    /// branch is left to decide alone. Branches that were enlisted later move down by one index. Its
    /// participant can be enlisted again, as the last branch.
    ///
    /// Returns `false`, and does nothing, once the client works no longer, or if there is no such
    /// branch. O(n) in the branches.
    pub fn withdraw(&mut self, branch: usize) -> bool {
        let is_enlisted = self.phase == Phase::Active && branch < self.branches.len();
        if is_enlisted && self.branches.remove(branch).role == Role::LastResource {
            self.remembers = false;
        }
        is_enlisted
    }

    /// Takes in what happened. An input that does not fit (late, doubled, of a branch that does not
    /// exist) is a no-op.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Commit => self.commit(now),
            Input::Rollback if self.phase == Phase::Active => self.roll_back(now, Cause::Requested),
            // Once the client has asked to commit, the protocol decides.
            Input::Rollback => {}
            Input::Voted(branch, vote) => self.voted(now, branch, vote),
            Input::Decided(branch, decision) => self.decided_alone(now, branch, decision),
            Input::LastResource(branch, answer) => self.last_resource_says(now, branch, answer),
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
                    if self.fenced {
                        self.leave_to_holder(Outcome::Committed);
                    } else {
                        self.carry_out(now, Decision::Commit, Outcome::Committed);
                    }
                }
            }
            Input::AppendRefused => self.append_refused(now),
            Input::LogFailed => self.log_failed(now),
            Input::NotDurable => self.not_durable(),
            Input::Fenced => self.fence(),
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

    /// Returns what to do next. Call it until it returns `None`, and carry each action out before
    /// the next call.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        match self.phase {
            Phase::Active | Phase::Finished => None,
            Phase::Preparing { .. } => {
                let branch = self.branches.next(|some| some.unasked_early, |some| some.unasked)?;
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
            Phase::Asking => self.ask_due(now).or_else(|| self.take_answer()),
            // The client hears the outcome after each branch was told for the first time: a
            // participant that answers at once has carried it out by then, so that a client reads
            // its own writes.
            Phase::Committing { .. } => self.settle(now, Verb::Commit),
            Phase::RollingBack { .. } => self.settle(now, Verb::Rollback),
            Phase::Indeterminate | Phase::Fenced => self.take_answer(),
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

    /// Returns the time until which the coordinator waits for votes, or for the one that decides,
    /// if it asks now.
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

    /// Goes on after all votes without a No. If a branch has promised, there is a decision to log.
    fn all_agree(&mut self) {
        if self.branches.iter().any(|branch| branch.step == Step::Yes) {
            self.phase = Phase::Deciding { appended: false, lsn: None };
        } else {
            self.end(Outcome::Committed);
        }
    }

    fn decided_alone(&mut self, now: Instant, branch: usize, decision: Decision) {
        if self.phase == Phase::Asking {
            // The late answer to an earlier message.
            return self.last_resource_says(
                now,
                branch,
                match decision {
                    Decision::Commit => LastResourceAnswer::Committed,
                    Decision::Rollback => LastResourceAnswer::NotCommitted,
                },
            );
        }
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
            if self.fenced {
                self.leave_to_holder(self.without_decision());
            } else if self.last_resource_has_committed() {
                self.unrecorded = true;
                self.carry_out(now, Decision::Commit, Outcome::Indeterminate);
            } else {
                // The decision is certainly not in the log, so it can still be a rollback.
                self.roll_back(now, Cause::LogRefused);
            }
        }
    }

    fn log_failed(&mut self, now: Instant) {
        self.outcome_is_written(); // or never will be, in this life
        self.narrowing_is_unwritten();
        if let Phase::Deciding { .. } = self.phase {
            if self.fenced {
                self.leave_to_holder(Outcome::Indeterminate);
            } else if self.last_resource_has_committed() {
                // The log may hold the decision. Then the next life carries it out, and needs
                // participants that remember it.
                self.logged = true;
                self.unrecorded = true;
                self.carry_out(now, Decision::Commit, Outcome::Indeterminate);
            } else {
                self.phase = Phase::Indeterminate;
                self.tell(Outcome::Indeterminate);
            }
        }
    }

    /// Whether a last resource has committed: the one case in which the decision is known before it
    /// is durable. The others follow it, because any other end would be wrong.
    fn last_resource_has_committed(&self) -> bool {
        self.branches.iter().any(|branch| branch.role == Role::LastResource)
    }

    fn tick(&mut self, now: Instant) {
        match self.phase {
            Phase::Active if self.expires.is_some_and(|at| at <= now) => self.roll_back(now, Cause::Expired),
            Phase::Preparing { until } if until <= now => self.roll_back(now, Cause::TimedOut),
            // If the branch was asked, its decision is not known. The rollback makes sure that it
            // decides nothing later.
            Phase::Alone { until } | Phase::LastResource { until } if until <= now => {
                let is_unasked = |branch: &BranchProgress| matches!(branch.step, Step::Due(_)) && branch.failures == 0;
                let is_certain = self.branches.iter().any(is_unasked);
                if !is_certain && self.remembers {
                    return self.ask_last_resource(now);
                }
                let answer = if is_certain { Outcome::RolledBack(Cause::TimedOut) } else { Outcome::Indeterminate };
                self.carry_out(now, Decision::Rollback, answer);
            }
            Phase::Asking => self.tick_while_asking(now),
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

    /// Sets the answer to the client, if there is a client without one.
    fn tell(&mut self, answer: Outcome) {
        if self.has_client && !std::mem::replace(&mut self.is_answered, true) {
            self.answer = Some(answer);
        }
    }

    fn end(&mut self, answer: Outcome) {
        self.tell(answer);
        self.phase = Phase::Ended;
    }
}
