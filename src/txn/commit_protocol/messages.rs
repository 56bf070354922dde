//! What goes into the machine and what comes out.

use crate::{
    log::{Durability, Fact, Heuristic, Lsn},
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
    /// The only branch, or the last resource, has decided.
    Decided(usize, Decision),
    /// A branch does not know itself: fine where it is to roll back, a [hazard](Heuristic::Hazard) where it is to commit.
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
    /// The record is not in the log and never will be.
    AppendRefused,
    /// All records up to this one are durable.
    Durable(Lsn),
    /// The log failed, now or before; nothing is known for certain of records that were given to it.
    LogFailed,
    /// Time has passed; see [`CommitProtocol::deadline`](super::CommitProtocol::deadline).
    Tick,
    /// What was to be sent to this branch last was not: the participant does not answer others either. It is kept back until
    /// the driver lets it out, and costs no timer meanwhile.
    Kept(usize),
    /// What was kept back from this branch is to be sent now.
    LetOut(usize),
    /// This branch is told no more: it is parked.
    GiveUp(usize),
    /// An operator has all that have not acknowledged the decision told no more: they are parked.
    Park,
    /// An operator wants the decision delivered again to all who have not acknowledged it.
    Retry,
    /// An operator has settled by hand the branches that are parked: they have ended like this.
    Force(Decision),
    /// An operator has seen how branches have ended by themselves, and nobody needs to remember it any more.
    Forget,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send this to the branch.
    Send(usize, Verb),
    /// Append this to the log; the result comes back as [`Input::Appended`] or [`Input::AppendRefused`], and, of a
    /// decision, as [`Input::Durable`] or [`Input::LogFailed`].
    Append(Fact, Durability),
    /// Tell the client.
    Answer(Outcome),
    /// From here on nobody but those who [owe](super::CommitProtocol::owing) an acknowledgement needs to remember the transaction,
    /// once what the log was told last is durable. The transaction goes on.
    Narrow,
    /// Nothing more comes out until an operator acts; see [`CommitProtocol::owed`](super::CommitProtocol::owed).
    Park,
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
    /// Nobody can say yet: the log, the only participant, or the last resource failed while deciding.
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
    /// Nobody had committed it when its time was over.
    Expired,
    /// The log had no room for the decision, or was closed.
    LogRefused,
}
