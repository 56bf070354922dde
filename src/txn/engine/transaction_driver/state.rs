//! The state of a transaction under way, which only its driver changes, and what the client is told
//! of it.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error as StdError,
    sync::Arc,
    task::Waker,
    time::Instant,
};

use super::MemberBranch;
use crate::{
    log::{Heuristic, LogError, Lsn},
    participant::{Decision, LastResourceAnswer, ParticipantError, Response, Vote},
    txn::{
        BranchState, CommitProtocol, Input, Outcome, TransactionState,
        client::delivered::{Delivery, Listeners},
        engine::{breakers::Tickets, observe::Watch},
        table::unsettled_ends::EndRecord,
    },
};

pub(super) struct DriverState {
    pub(super) protocol: CommitProtocol,
    pub(super) watch: Watch,
    /// Each branch, by its index. Empty until the transaction is first driven, and while a thread
    /// drives it.
    pub(super) member_branches: Vec<MemberBranch>,
    /// Whether a participant of one of them was not there when it was last looked for.
    pub(super) is_one_missing: bool,
    pub(super) inbox: VecDeque<Input>,
    /// Whether a thread is in `drive`. All other threads only queue inputs then.
    pub(super) driving: bool,
    /// Whether that thread appends to the log, or is about to.
    pub(super) appending: bool,
    /// Whether the coordinator is gone, and with it the threads that drive and keep time.
    pub(super) abandoned: bool,
    /// Whether the log was taken over. Then the threads that drive and keep time are gone, and the holder
    /// of a `Commit` still gets its answer.
    pub(super) fenced: bool,
    /// Whether a `Commit` exists. Then its holder drives.
    pub(super) driven_by_commit: bool,
    /// Waker of the `Commit`'s holder, for when there is something to drive.
    pub(super) waker: Option<Waker>,
    /// Whether that holder was woken, and has not come to drive yet.
    pub(super) is_woken: bool,
    /// Tasks and threads that wait until all branches have acknowledged, if there are any.
    pub(super) listeners: Option<Box<Listeners>>,
    pub(super) outcome: Option<Outcome>,
    /// What went wrong, if anything did.
    pub(super) trouble: Option<Box<Trouble>>,
    /// The heuristic outcome, as far as it was known when the client got its answer.
    pub(super) heuristic: Option<Heuristic>,
    /// Whether it waits for an operator, or did when it was last driven.
    pub(super) parked: bool,
    /// Whether it counts as in flight, because its client has no answer.
    pub(super) in_flight: bool,
    /// What the circuits know of its messages.
    pub(super) tickets: Tickets,
    /// State of the record that ends the transaction.
    pub(super) end: EndRecord,
    /// Number of the decision's record, once it is appended.
    pub(super) decided: Lsn,
    /// The scheduler runs this transaction at this time or before.
    pub(super) timer: Option<Instant>,
}

/// What went wrong with a transaction. Boxed, because nearly all transactions have none.
#[derive(Default)]
pub(super) struct Trouble {
    pub(super) reasons: Reasons,
    /// The last error of each branch that had one.
    pub(super) last_errors: BTreeMap<usize, ParticipantError>,
}

/// What the client gets besides the outcome.
#[derive(Clone, Debug, Default)]
pub(in crate::txn) struct Reasons {
    /// The first error of a participant. If a vote failed, this is the reason of the rollback.
    pub(in crate::txn) participant_error: Option<ParticipantError>,
    /// The first branch that gave a reason for its No, with the reason.
    pub(in crate::txn) refusal: Option<(usize, Arc<dyn StdError + Send + Sync>)>,
    /// A branch with a participant that had not even begun the call at the time-out.
    pub(in crate::txn) not_begun: Option<(usize, ParticipantError)>,
    /// The log's last error.
    pub(in crate::txn) log_error: Option<LogError>,
}

impl DriverState {
    pub(super) fn of(protocol: CommitProtocol, watch: Watch) -> Self {
        Self {
            protocol,
            watch,
            member_branches: Vec::new(),
            is_one_missing: false,
            inbox: VecDeque::new(),
            driving: false,
            appending: false,
            abandoned: false,
            fenced: false,
            driven_by_commit: false,
            waker: None,
            is_woken: false,
            listeners: None,
            outcome: None,
            trouble: None,
            heuristic: None,
            parked: false,
            in_flight: false,
            tickets: Tickets::default(),
            end: EndRecord::Unlogged,
            decided: Lsn::NONE,
            timer: None,
        }
    }

    /// Returns what it waits for while no thread drives it.
    pub(super) fn waiting(&self) -> Waiting {
        if let Some(lsn) = self.protocol.awaits_durable() {
            Waiting::Durable(lsn)
        } else if self.is_over() {
            Waiting::Nothing
        } else {
            Waiting::Answers
        }
    }

    /// Whether nothing more happens to it here.
    fn is_over(&self) -> bool {
        self.protocol.is_finished() || self.protocol.is_indeterminate() || self.protocol.is_fenced()
    }

    /// Whether there may be something to do. What waits for answers and has none is driven when one comes,
    /// or at its time-out.
    pub(super) fn goes_on(&self) -> bool {
        self.driving || !self.inbox.is_empty() || self.waiting() != Waiting::Answers
    }

    pub(super) fn note(&mut self, branch: usize, error: ParticipantError) {
        let Trouble { reasons, last_errors } = &mut **self.trouble.get_or_insert_default();
        reasons.participant_error.get_or_insert_with(|| error.clone());
        if let ParticipantError::Refused(reason) = &error {
            reasons.refusal.get_or_insert_with(|| (branch, Arc::clone(reason)));
        }
        last_errors.insert(branch, error);
    }

    pub(super) fn note_not_begun(&mut self, branch: usize, error: ParticipantError) {
        self.note(branch, error.clone());
        let Trouble { reasons, .. } = &mut **self.trouble.get_or_insert_default();
        reasons.not_begun.get_or_insert((branch, error));
    }

    pub(super) fn note_of_log(&mut self, error: LogError) {
        self.trouble.get_or_insert_default().reasons.log_error = Some(error);
    }

    /// Takes in a branch's answer, and returns it in the protocol's terms.
    pub(super) fn hears(&mut self, branch: usize, result: Result<Response, ParticipantError>) -> Input {
        self.watch.hears(branch, &result);
        match result {
            Ok(Response::Voted(vote)) => Input::Voted(branch, vote),
            Ok(Response::Done) => Input::Done(branch),
            Ok(Response::Decided(decision)) => Input::Decided(branch, decision),
            // These answer no question that a transaction asks.
            Ok(Response::InDoubt(_) | Response::Verdict { .. } | Response::Message { .. }) => Input::Failed(branch),
            Err(error) => {
                let input = match &error {
                    ParticipantError::UnknownBranch => Input::Unknown(branch),
                    ParticipantError::AlreadyCommitted => Input::AlreadyCommitted(branch),
                    ParticipantError::AlreadyRolledBack => Input::AlreadyRolledBack(branch),
                    ParticipantError::Heuristic(outcome) => Input::Heuristic(branch, *outcome),
                    ParticipantError::Refused(_) => self.no(branch),
                    _ => Input::Failed(branch),
                };
                self.note(branch, error);
                input
            }
        }
    }

    /// Takes in whether a last resource has committed, and returns it in the protocol's terms.
    pub(super) fn hears_last_resource(
        &mut self,
        branch: usize,
        answer: Result<LastResourceAnswer, ParticipantError>,
    ) -> Input {
        match answer {
            Ok(answer) => Input::LastResource(branch, answer),
            Err(error) => {
                self.note(branch, error);
                Input::Failed(branch)
            }
        }
    }

    /// Returns a No with its reason, as the answer to what was asked. After the decision it answers
    /// nothing.
    pub(super) fn no(&self, branch: usize) -> Input {
        match self.protocol.state() {
            TransactionState::Preparing => Input::Voted(branch, Vote::No),
            // The latter is the late answer of a last resource that is being asked by now.
            TransactionState::Delegated | TransactionState::AskingLastResource => {
                Input::Decided(branch, Decision::Rollback)
            }
            _ => Input::Failed(branch),
        }
    }

    /// Takes in what the log has said about a record's durability.
    pub(super) fn learns(&mut self, lsn: Lsn, result: Result<(), LogError>) -> Input {
        match result {
            Ok(()) => Input::Durable(lsn),
            Err(error) => {
                let is_fenced = error.takeover().is_some();
                self.note_of_log(error);
                if is_fenced { Input::NotDurable } else { Input::LogFailed }
            }
        }
    }

    /// Returns the answer to the client, once it is known.
    pub(super) fn explained_outcome(&self) -> Option<ExplainedOutcome> {
        self.outcome.or(self.is_lost().then_some(Outcome::Indeterminate)).map(|outcome| ExplainedOutcome {
            outcome,
            heuristic: self.heuristic,
            reasons: self.trouble.as_ref().map(|trouble| Box::new(trouble.reasons.clone())),
        })
    }

    /// Returns the branches that ended otherwise than decided, with the numbers of their participants.
    pub(super) fn heuristic_branches(&self, members: &[MemberBranch]) -> Vec<(usize, usize)> {
        let branches = self.protocol.branches().zip(members).enumerate();
        let heuristic = branches.filter(|(_, ((_, state, _), _))| matches!(state, BranchState::Heuristic(_)));
        heuristic.filter_map(|(index, (_, at))| Some((index, at.member?))).collect()
    }

    /// Returns how the delivery of the decision has ended or stopped, once it has.
    pub(super) fn delivery(&self) -> Option<Delivery> {
        let is_over = self.is_over();
        if self.outcome == Some(Outcome::Committed) && self.protocol.is_fenced() {
            return Some(Delivery::Fenced); // the new holder delivers it
        }
        if (is_over || self.parked) && self.outcome.is_some() {
            if let (TransactionState::Parked(decision), false) = (self.protocol.state(), is_over) {
                return Some(Delivery::Parked(decision, self.protocol.owed().cloned().collect()));
            }
            let mut explained = self.explained_outcome()?;
            explained.heuristic = explained.heuristic.or_else(|| self.protocol.heuristic());
            return Some(Delivery::Told(Box::new(explained)));
        }
        if self.fenced {
            return Some(Delivery::Fenced);
        }
        self.abandoned.then_some(Delivery::Abandoned)
    }

    /// Whether a [`Delivered`](crate::txn::Delivered) waits. Then the workers drive, too, because
    /// the `Commit`'s holder may not.
    pub(super) fn is_listened_to(&self) -> bool {
        self.listeners.as_ref().is_some_and(|listeners| !listeners.is_empty())
    }

    /// Takes out the listeners of the delivery, if there is something to tell them. The caller
    /// wakes them without a lock.
    pub(super) fn take_listeners(&mut self) -> Vec<(u64, Waker)> {
        if !self.is_listened_to() || self.delivery().is_none() {
            return Vec::new();
        }
        self.listeners.as_mut().map(|listeners| listeners.take_all()).unwrap_or_default()
    }

    /// Whether its outcome will never be known here: the coordinator is gone, and the client cannot
    /// finish it alone. (A record that is on its way to the disk still tells the outcome.)
    pub(super) fn is_lost(&self) -> bool {
        self.abandoned && self.waiting() == Waiting::Answers
    }
}

/// What a transaction that can't go on right now waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Waiting {
    /// This record must become durable.
    Durable(Lsn),
    /// Answers, or a time-out.
    Answers,
    /// Nothing: another thread drives it.
    OtherThread,
    /// Nothing: it has ended, or is indeterminate until the log is opened again.
    Nothing,
}

/// Progress of the transaction, as its client sees it.
#[derive(Debug)]
pub(in crate::txn) struct Progress {
    pub(in crate::txn) waiting: Waiting,
    pub(in crate::txn) explained: Option<ExplainedOutcome>,
}

/// The outcome with what is known of its reasons.
#[derive(Clone, Debug)]
pub(in crate::txn) struct ExplainedOutcome {
    pub(in crate::txn) outcome: Outcome,
    pub(in crate::txn) heuristic: Option<Heuristic>,
    pub(in crate::txn) reasons: Option<Box<Reasons>>,
}
