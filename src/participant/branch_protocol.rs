//! The participant's side of the protocol: [`BranchProtocol`], pure. No I/O, no threads, no clock.
//!
//! A driver (a [`ResourceManager`](super::ResourceManager), a model checker) feeds in what
//! happened. Each input gives at most one [`BranchAction`]. The driver carries the action out; its
//! result is the next input. A [`BranchAction::Reply`] ends the exchange:
//!
//! | action | its result, as the next input |
//! |---|---|
//! | `Append` | `Appended`, `AppendRefused`, `Unwritable`, or `NotDurable`; for a promise also `ChangedNothing` |
//! | `AwaitDurable` | `Durable`, `LogFailed`, or `NotDurable` |
//! | `Confirm` | `Confirmed`, or `Failed` |
//! | `Cancel` | `Cancelled`, or `Failed` |
//! | `Reply` | none |
//!
//! What each message does in each phase (`..` = work under way, its reply follows):
//!
//! | phase | Prepare | Commit | CommitOnePhase | Rollback |
//! |---|---|---|---|---|
//! | Unknown | No, RolledBack | UnknownBranch | RolledBack | Done, RolledBack (a tombstone) |
//! | Active | .. Prepared, Yes | Stale | .. Committed | .. RolledBack, Done |
//! | Active, read-only | ReadOnly | Stale | Committed | Done |
//! | Active, doomed | .. RolledBack, No | Stale | .. RolledBack | .. RolledBack, Done |
//! | Preparing | Stale | Stale | Stale | .. RolledBack, Done |
//! | Prepared | Yes | .. Committed, Done | .. Committed | .. RolledBack, Done |
//! | Committing | Stale | Stale | Stale | Stale |
//! | Confirming | Stale | .. Committed, Done | .. Committed | AlreadyCommitted |
//! | Committed | Stale | Done | Committed | AlreadyCommitted |
//! | Cancelling | .. RolledBack, No | AlreadyRolledBack | .. RolledBack | .. RolledBack, Done |
//! | Ending | Stale | AlreadyRolledBack | Stale | Stale |
//! | RolledBack | No | AlreadyRolledBack | RolledBack | Done |
//! | ReadOnly | ReadOnly | Done | Committed | Done |
//! | Broken | LogFailed | LogFailed | LogFailed | LogFailed |
//!
//! If another holder has taken the log over (`NotDurable`), the branch is Broken. It answers no No: a No
//! ends the exchange, and the new holder may have a promise of the branch that waits for an end. There
//! is one exception. A branch that decides alone, and whose commit is surely not in the log, has decided
//! to roll back.

// Exhaustive on purpose.
#![expect(clippy::exhaustive_enums, reason = "a driver must handle every phase, input, action and reply")]

use super::{Decision, Effort};
use crate::log::{Durability, Lsn};

/// The phase that one branch is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum BranchPhase {
    /// Nothing is known of the branch.
    #[default]
    Unknown,
    /// Work was done under the branch; nothing is promised.
    Active {
        /// Whether any of the work changes something.
        effort: Effort,
        /// Whether some of the work was refused: the branch will vote No.
        doomed: bool,
    },
    /// The promise is being written.
    Preparing {
        /// Whether the coordinator's decision goes to the same log.
        sharing: LogSharing,
        /// The record's number, once the log has given one.
        lsn: Option<Lsn>,
    },
    /// The branch has promised, and waits for the decision.
    Prepared,
    /// The commit is being written. The service has not been told yet.
    Committing {
        /// Whether the record must be durable before the service is told.
        sharing: LogSharing,
        /// The record's number, once the log has given one.
        lsn: Option<Lsn>,
        /// The message that asked for the commit, which decides the form of the answer.
        verb: CommitVerb,
    },
    /// The commit is in the log; the service is carrying it out.
    Confirming {
        /// The answer once that is done.
        answer: BranchReply,
    },
    /// The commit is carried out.
    Committed,
    /// The service is undoing the work.
    Cancelling {
        /// Set if the log may hold a promise, which must be ended: whether the end must be durable
        /// first.
        promised: Option<LogSharing>,
        /// The answer once that is done.
        answer: BranchReply,
    },
    /// The work is undone; the log is being told that the promise is void.
    Ending {
        /// Whether the end must be durable before the coordinator is told.
        sharing: LogSharing,
        /// The record's number, once the log has given one.
        lsn: Option<Lsn>,
        /// The answer once that is done.
        answer: BranchReply,
    },
    /// The work is undone. Kept as a tombstone, so that late messages and late work can't start the
    /// branch again.
    RolledBack,
    /// The branch changed nothing and has left the transaction.
    ReadOnly,
    /// The log failed while a record was in flight. Only opening it again tells whether the record
    /// is durable. Or another holder has taken the log over, and the branch with it.
    Broken,
}

/// Which log the participant writes to, and so whether a record must be durable by itself before
/// the protocol goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogSharing {
    /// The participant has a log of its own: its records are forced and waited for.
    OwnLog,
    /// The coordinator's decision follows in the same log and takes this record along.
    SharedLog,
}

impl LogSharing {
    const fn durability(self) -> Durability {
        match self {
            Self::OwnLog => Durability::Forced,
            Self::SharedLog => Durability::Lazy,
        }
    }
}

/// The message that asked for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitVerb {
    /// A commit, the second phase of two.
    SecondPhase,
    /// A one-phase commit.
    OnePhase,
}

impl CommitVerb {
    const fn answer(self) -> BranchReply {
        match self {
            Self::SecondPhase => BranchReply::Done,
            Self::OnePhase => BranchReply::Decided(Decision::Commit),
        }
    }
}

/// What happened, as a driver feeds it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchInput {
    /// The service has done a piece of work under the branch.
    Worked(Effort),
    /// The service has refused a piece of work.
    Refused,
    /// The coordinator asks for the vote.
    Prepare(LogSharing),
    /// The coordinator has decided to commit.
    Commit(LogSharing),
    /// The coordinator leaves the decision to this branch, the only one of the transaction.
    CommitOnePhase,
    /// The coordinator has decided to roll back.
    Rollback(LogSharing),
    /// The record is in the log under this number, not yet durable.
    Appended(Lsn),
    /// The record is not in the log and never will be.
    AppendRefused,
    /// Like `AppendRefused`, and no repeat of the message would change it: the record is too large,
    /// or can't be encoded.
    Unwritable,
    /// All records up to this one are durable.
    Durable(Lsn),
    /// The log failed; records in flight are indeterminate.
    LogFailed,
    /// The record is surely not in the log, because another holder has taken the log over.
    NotDurable,
    /// The service has carried the commit out.
    Confirmed,
    /// The service has undone the work.
    Cancelled,
    /// Instead of a promise there is nothing to promise: the branch has only read, which turned out
    /// when it was asked.
    ChangedNothing,
    /// The service could not confirm or cancel.
    Failed,
}

/// What the driver is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchAction {
    /// Append the promise, with the branch's work.
    AppendPrepared(Durability),
    /// Append the commit. The record carries the branch's work if no promise in the log does.
    AppendCommitted {
        /// The message that asked; the record carries the work if it is a one-phase commit.
        verb: CommitVerb,
        /// Whether to force it.
        durability: Durability,
    },
    /// Append that the branch need not be remembered.
    AppendEnded(Durability),
    /// Wait until this record is durable.
    AwaitDurable(Lsn),
    /// Have the service carry the commit out.
    Confirm,
    /// Have the service undo the work.
    Cancel,
    /// Answer the coordinator.
    Reply(BranchReply),
}

/// The answer to the coordinator's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchReply {
    /// To a prepare: the vote.
    Voted(super::Vote),
    /// To a commit or a rollback: it is done.
    Done,
    /// To a one-phase commit: the decision.
    Decided(Decision),
    /// To a commit: there is no such prepared branch.
    UnknownBranch,
    /// To a commit: the branch was rolled back.
    AlreadyRolledBack,
    /// To a rollback: the branch was committed.
    AlreadyCommitted,
    /// The message does not fit the phase: it is late, or came twice and the first is still under
    /// way.
    Stale,
    /// The service failed; repeat the message.
    Failed,
    /// The log failed; the participant must be opened again.
    LogFailed,
}

/// One branch's state machine at its participant, a plain value; see the [module's table](self).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct BranchProtocol {
    phase: BranchPhase,
}

impl BranchProtocol {
    /// Returns a branch of which nothing is known.
    #[must_use]
    pub const fn new() -> Self {
        Self { phase: BranchPhase::Unknown }
    }

    /// Returns a branch of which the log holds a promise after a restart, and no decision.
    #[must_use]
    pub const fn recovered_prepared() -> Self {
        Self { phase: BranchPhase::Prepared }
    }

    /// Returns a branch of which the log holds a commit after a restart. The service may not know
    /// of the commit yet.
    #[must_use]
    pub const fn recovered_committed() -> Self {
        Self { phase: BranchPhase::Confirming { answer: BranchReply::Done } }
    }

    /// Returns the phase that the branch is in.
    #[must_use]
    pub const fn phase(&self) -> BranchPhase {
        self.phase
    }

    /// Whether work may still be done under the branch.
    #[must_use]
    pub const fn accepts_work(&self) -> bool {
        matches!(self.phase, BranchPhase::Unknown | BranchPhase::Active { .. })
    }

    /// Whether the branch has ended: nothing more happens to it.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.phase, BranchPhase::Committed | BranchPhase::RolledBack | BranchPhase::ReadOnly)
    }

    /// Takes in what happened and returns what to do next. Returns `None` if there is nothing to
    /// do: after work, and after results that no longer matter.
    pub fn handle(&mut self, input: BranchInput) -> Option<BranchAction> {
        use BranchInput as In;
        match input {
            In::Worked(_) | In::Refused => {
                self.worked(input);
                None
            }
            In::Prepare(sharing) => Some(self.prepare(sharing)),
            In::Commit(sharing) => Some(self.commit(sharing)),
            In::CommitOnePhase => Some(self.commit_one_phase()),
            In::Rollback(sharing) => Some(self.rollback(sharing)),
            In::ChangedNothing => self.changed_nothing(),
            In::Appended(_) | In::AppendRefused | In::Unwritable | In::Durable(_) | In::LogFailed | In::NotDurable => {
                self.logged(input)
            }
            In::Confirmed | In::Cancelled | In::Failed => self.serviced(input),
        }
    }

    fn worked(&mut self, input: BranchInput) {
        let (effort, doomed) = match self.phase {
            BranchPhase::Unknown => (Effort::ReadOnly, false),
            BranchPhase::Active { effort, doomed } => (effort, doomed),
            // The driver asks `accepts_work` first. If work slipped through anyway, it changes no
            // promise.
            _ => return,
        };
        self.phase = match input {
            BranchInput::Worked(more) => BranchPhase::Active { effort: effort.max(more), doomed },
            _ => BranchPhase::Active { effort, doomed: true },
        };
    }

    fn prepare(&mut self, sharing: LogSharing) -> BranchAction {
        use super::Vote;
        let no = BranchReply::Voted(Vote::No);
        let reply = match self.phase {
            BranchPhase::Active { effort, doomed: true } => return self.undo(effort, no),
            BranchPhase::Active { effort: Effort::Update, doomed: false } => {
                self.phase = BranchPhase::Preparing { sharing, lsn: None };
                return BranchAction::AppendPrepared(sharing.durability());
            }
            BranchPhase::Active { effort: Effort::ReadOnly, doomed: false } => {
                self.phase = BranchPhase::ReadOnly;
                BranchReply::Voted(Vote::ReadOnly)
            }
            BranchPhase::Unknown => {
                self.phase = BranchPhase::RolledBack;
                no
            }
            BranchPhase::RolledBack => no,
            // The coordinator sends nothing after a No, so the work must be undone before the No.
            BranchPhase::Cancelling { promised, .. } => return self.cancel(promised, no),
            BranchPhase::Prepared => BranchReply::Voted(Vote::Yes),
            BranchPhase::ReadOnly => BranchReply::Voted(Vote::ReadOnly),
            BranchPhase::Broken => BranchReply::LogFailed,
            BranchPhase::Preparing { .. }
            | BranchPhase::Committing { .. }
            | BranchPhase::Confirming { .. }
            | BranchPhase::Committed
            | BranchPhase::Ending { .. } => BranchReply::Stale,
        };
        BranchAction::Reply(reply)
    }

    fn commit(&mut self, sharing: LogSharing) -> BranchAction {
        let verb = CommitVerb::SecondPhase;
        BranchAction::Reply(match self.phase {
            BranchPhase::Prepared => {
                self.phase = BranchPhase::Committing { sharing, lsn: None, verb };
                return BranchAction::AppendCommitted { verb, durability: sharing.durability() };
            }
            BranchPhase::Confirming { .. } => return self.confirm(verb.answer()),
            BranchPhase::Committed | BranchPhase::ReadOnly => BranchReply::Done,
            BranchPhase::Unknown => BranchReply::UnknownBranch,
            BranchPhase::Cancelling { .. } | BranchPhase::Ending { .. } | BranchPhase::RolledBack => {
                BranchReply::AlreadyRolledBack
            }
            BranchPhase::Active { .. } | BranchPhase::Preparing { .. } | BranchPhase::Committing { .. } => {
                BranchReply::Stale
            }
            BranchPhase::Broken => BranchReply::LogFailed,
        })
    }

    fn commit_one_phase(&mut self) -> BranchAction {
        let verb = CommitVerb::OnePhase;
        let rolled_back = BranchReply::Decided(Decision::Rollback);
        BranchAction::Reply(match self.phase {
            BranchPhase::Active { effort, doomed: true } => return self.undo(effort, rolled_back),
            BranchPhase::Active { effort: Effort::Update, doomed: false } | BranchPhase::Prepared => {
                // No decision of the coordinator follows this record, so it must be durable by
                // itself in any log.
                self.phase = BranchPhase::Committing { sharing: LogSharing::OwnLog, lsn: None, verb };
                return BranchAction::AppendCommitted { verb, durability: Durability::Forced };
            }
            BranchPhase::Active { effort: Effort::ReadOnly, doomed: false } => {
                self.phase = BranchPhase::ReadOnly;
                verb.answer()
            }
            BranchPhase::Unknown => {
                self.phase = BranchPhase::RolledBack;
                rolled_back
            }
            BranchPhase::Confirming { .. } => return self.confirm(verb.answer()),
            BranchPhase::Committed | BranchPhase::ReadOnly => verb.answer(),
            BranchPhase::Cancelling { promised, .. } => return self.cancel(promised, rolled_back),
            BranchPhase::RolledBack => rolled_back,
            BranchPhase::Preparing { .. } | BranchPhase::Committing { .. } | BranchPhase::Ending { .. } => {
                BranchReply::Stale
            }
            BranchPhase::Broken => BranchReply::LogFailed,
        })
    }

    fn rollback(&mut self, sharing: LogSharing) -> BranchAction {
        BranchAction::Reply(match self.phase {
            BranchPhase::Active { effort, .. } => return self.undo(effort, BranchReply::Done),
            // A promise in flight counts as made: an end too many does no harm, one too few would.
            BranchPhase::Preparing { .. } | BranchPhase::Prepared => {
                return self.cancel(Some(sharing), BranchReply::Done);
            }
            BranchPhase::Cancelling { promised, .. } => return self.cancel(promised, BranchReply::Done),
            BranchPhase::Unknown => {
                self.phase = BranchPhase::RolledBack;
                BranchReply::Done
            }
            BranchPhase::RolledBack | BranchPhase::ReadOnly => BranchReply::Done,
            BranchPhase::Committing { .. } | BranchPhase::Ending { .. } => BranchReply::Stale,
            // The branch has decided alone, and its coordinator no longer waits for the answer.
            // After the answer to this rollback the coordinator sends nothing more, so the service
            // must have confirmed before it.
            BranchPhase::Confirming { .. } => return self.confirm(BranchReply::AlreadyCommitted),
            BranchPhase::Committed => BranchReply::AlreadyCommitted,
            BranchPhase::Broken => BranchReply::LogFailed,
        })
    }

    fn changed_nothing(&mut self) -> Option<BranchAction> {
        let BranchPhase::Preparing { .. } = self.phase else { return None };
        self.phase = BranchPhase::ReadOnly;
        Some(BranchAction::Reply(BranchReply::Voted(super::Vote::ReadOnly)))
    }

    fn logged(&mut self, input: BranchInput) -> Option<BranchAction> {
        use BranchInput as In;
        match (self.phase, input) {
            (BranchPhase::Preparing { sharing: LogSharing::SharedLog, .. }, In::Appended(_)) => Some(self.promise()),
            (BranchPhase::Preparing { sharing, .. }, In::Appended(lsn)) => {
                self.phase = BranchPhase::Preparing { sharing, lsn: Some(lsn) };
                Some(BranchAction::AwaitDurable(lsn))
            }
            (BranchPhase::Preparing { lsn: Some(lsn), .. }, In::Durable(up_to)) if lsn <= up_to => Some(self.promise()),
            // The promise is certainly in no log, so the participant may break it.
            (BranchPhase::Preparing { .. }, In::AppendRefused | In::Unwritable) => {
                Some(self.cancel(None, BranchReply::Voted(super::Vote::No)))
            }
            (BranchPhase::Committing { sharing: LogSharing::SharedLog, verb, .. }, In::Appended(_)) => {
                Some(self.confirm(verb.answer()))
            }
            (BranchPhase::Committing { sharing, verb, .. }, In::Appended(lsn)) => {
                self.phase = BranchPhase::Committing { sharing, lsn: Some(lsn), verb };
                Some(BranchAction::AwaitDurable(lsn))
            }
            (BranchPhase::Committing { lsn: Some(lsn), verb, .. }, In::Durable(up_to)) if lsn <= up_to => {
                Some(self.confirm(verb.answer()))
            }
            // The branch can never commit alone. A promise that it may have made is ended, too: an
            // end too many does no harm.
            (BranchPhase::Committing { sharing, verb: CommitVerb::OnePhase, .. }, In::Unwritable) => {
                Some(self.cancel(Some(sharing), BranchReply::Decided(Decision::Rollback)))
            }
            (BranchPhase::Committing { verb, .. }, In::AppendRefused | In::Unwritable) => {
                self.phase = match verb {
                    CommitVerb::SecondPhase => BranchPhase::Prepared,
                    CommitVerb::OnePhase => BranchPhase::Active { effort: Effort::Update, doomed: false },
                };
                Some(BranchAction::Reply(BranchReply::Failed))
            }
            (BranchPhase::Committing { verb: CommitVerb::OnePhase, .. }, In::NotDurable) => {
                self.phase = BranchPhase::Broken;
                Some(BranchAction::Reply(BranchReply::Decided(Decision::Rollback)))
            }
            (
                BranchPhase::Preparing { .. } | BranchPhase::Committing { .. } | BranchPhase::Ending { .. },
                In::LogFailed | In::NotDurable,
            ) => {
                self.phase = BranchPhase::Broken;
                Some(BranchAction::Reply(BranchReply::LogFailed))
            }
            // A lost end leaves the promise in the log, and the branch in doubt after a restart. If
            // both share the log, a crash that loses the end stops the coordinator too, and it asks
            // when it opens. A coordinator that lives on does not ask, so it must not be answered
            // before the end is durable.
            (BranchPhase::Ending { sharing: LogSharing::SharedLog, answer, .. }, In::Appended(_)) => {
                Some(self.rolled_back(answer))
            }
            (BranchPhase::Ending { sharing, answer, .. }, In::Appended(lsn)) => {
                self.phase = BranchPhase::Ending { sharing, lsn: Some(lsn), answer };
                Some(BranchAction::AwaitDurable(lsn))
            }
            (BranchPhase::Ending { lsn: Some(lsn), answer, .. }, In::Durable(up_to)) if lsn <= up_to => {
                Some(self.rolled_back(answer))
            }
            (BranchPhase::Ending { sharing, answer, .. }, In::AppendRefused | In::Unwritable) => {
                self.phase = BranchPhase::Cancelling { promised: Some(sharing), answer };
                Some(BranchAction::Reply(BranchReply::Failed))
            }
            _ => None,
        }
    }

    fn serviced(&mut self, input: BranchInput) -> Option<BranchAction> {
        use BranchInput as In;
        match (self.phase, input) {
            (BranchPhase::Confirming { answer }, In::Confirmed) => {
                self.phase = BranchPhase::Committed;
                Some(BranchAction::Reply(answer))
            }
            (BranchPhase::Cancelling { promised: Some(sharing), answer }, In::Cancelled) => {
                self.phase = BranchPhase::Ending { sharing, lsn: None, answer };
                Some(BranchAction::AppendEnded(sharing.durability()))
            }
            (BranchPhase::Cancelling { promised: None, answer }, In::Cancelled) => Some(self.rolled_back(answer)),
            (BranchPhase::Confirming { .. } | BranchPhase::Cancelling { .. }, In::Failed) => {
                Some(BranchAction::Reply(BranchReply::Failed))
            }
            _ => None,
        }
    }

    const fn promise(&mut self) -> BranchAction {
        self.phase = BranchPhase::Prepared;
        BranchAction::Reply(BranchReply::Voted(super::Vote::Yes))
    }

    const fn rolled_back(&mut self, answer: BranchReply) -> BranchAction {
        self.phase = BranchPhase::RolledBack;
        BranchAction::Reply(answer)
    }

    const fn confirm(&mut self, answer: BranchReply) -> BranchAction {
        self.phase = BranchPhase::Confirming { answer };
        BranchAction::Confirm
    }

    /// Undoes work about which nothing was promised.
    const fn undo(&mut self, effort: Effort, answer: BranchReply) -> BranchAction {
        match effort {
            Effort::Update => self.cancel(None, answer),
            Effort::ReadOnly => self.rolled_back(answer),
        }
    }

    const fn cancel(&mut self, promised: Option<LogSharing>, answer: BranchReply) -> BranchAction {
        self.phase = BranchPhase::Cancelling { promised, answer };
        BranchAction::Cancel
    }
}

#[cfg(test)]
mod tests;
