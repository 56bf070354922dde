//! The machine's inputs and outputs.

use crate::{
    log::{Durability, Fact, Heuristic, Lsn},
    participant::{Decision, LastResourceAnswer, Verb, Vote},
};

/// What happened. Branches are named by their index, in the order in which they were enlisted. Those
/// that were [withdrawn](super::CommitProtocol::withdraw) do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Input {
    /// The client asks to commit.
    Commit,
    /// The client asks to roll back.
    Rollback,
    /// A branch has voted.
    Voted(usize, Vote),
    /// A branch has carried out the decision.
    Done(usize),
    /// The only branch, or the last resource, has decided.
    Decided(usize, Decision),
    /// The last resource says whether it has committed.
    LastResource(usize, LastResourceAnswer),
    /// The participant does not know the branch: a success for a rollback, a
    /// [hazard](Heuristic::Hazard) for a commit.
    Unknown(usize),
    /// A branch has refused to roll back because it is committed.
    AlreadyCommitted(usize),
    /// A branch has refused to commit because it is rolled back.
    AlreadyRolledBack(usize),
    /// A branch has ended by itself, in this way.
    Heuristic(usize, Heuristic),
    /// A message or its answer was lost, or the participant failed.
    Failed(usize),
    /// The record is in the log under this number, not yet durable.
    Appended(Lsn),
    /// The record is not in the log, and never will be.
    AppendRefused,
    /// All records up to this one are durable.
    Durable(Lsn),
    /// The record is surely not durable and never will be, because another holder has taken the log
    /// over. It implies [`Fenced`](Self::Fenced).
    NotDurable,
    /// Another holder has taken the log over, and settles the transaction. Nothing more is sent or
    /// decided here. Whether a record that was given to the log is durable is still to be heard.
    Fenced,
    /// The log failed, now or before. It is uncertain which records it holds of those that were
    /// given to it.
    LogFailed,
    /// Time has passed; see [`CommitProtocol::deadline`](super::CommitProtocol::deadline).
    Tick,
    /// The last message to this branch was not sent, because the participant does not answer others
    /// either. It is kept back until the driver lets it out, and costs no timer meanwhile.
    Kept(usize),
    /// The message that was kept back from this branch must be sent now.
    LetOut(usize),
    /// This branch gets no more messages: it is parked.
    GiveUp(usize),
    /// An operator parks all branches that have not acknowledged the decision.
    Park,
    /// An operator retries all branches that have not acknowledged the decision.
    Retry,
    /// An operator has resolved the parked branches by hand: they have ended like this.
    Force(Decision),
    /// An operator has dealt with the heuristic outcome, which need not be remembered any more.
    Forget,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Send this to the branch.
    Send(usize, Verb),
    /// Ask this branch, a last resource, whether it has committed. The answer comes back as
    /// [`Input::LastResource`], or as [`Input::Failed`].
    AskLastResource(usize),
    /// Append this to the log. The result comes back as [`Input::Appended`] or
    /// [`Input::AppendRefused`]; and, for a decision, as [`Input::Durable`], [`Input::NotDurable`] or
    /// [`Input::LogFailed`].
    Append(Fact, Durability),
    /// Give the client this answer.
    Answer(Outcome),
    /// Once the last record is durable, only participants that [owe](super::CommitProtocol::owing)
    /// an acknowledgement need to remember the transaction. The transaction goes on.
    Narrow,
    /// Nothing more comes out until an operator acts; see
    /// [`CommitProtocol::owed`](super::CommitProtocol::owed).
    Park,
    /// The transaction is over; nothing more will come out.
    Finish,
}

/// The answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The whole transaction has happened or will happen.
    Committed,
    /// No part of it has happened or will happen.
    RolledBack(Cause),
    /// It is not known yet: the log, the only participant, or the last resource failed while
    /// deciding.
    Indeterminate,
}

/// Reason why a transaction was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The client asked for it.
    Requested,
    /// This branch voted No.
    VotedNo(usize),
    /// This branch failed to vote.
    Failed(usize),
    /// Not all votes came in time.
    TimedOut,
    /// The client had not committed it before its time-out.
    Expired,
    /// The log had no room for the decision, or was closed.
    LogRefused,
    /// Another holder has taken the log over before a decision was durable, so there is none.
    Fenced,
}
