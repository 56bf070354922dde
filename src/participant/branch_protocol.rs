//! The participant's side of the protocol: [`BranchProtocol`], pure. No I/O, no threads, no clock.
//!
//! The driver (a [`ResourceManager`](super::ResourceManager), a model checker) feeds in what happened; each input is
//! answered by at most one [`BranchAction`], and carrying that action out gives the next input, until a
//! [`BranchAction::Reply`] ends the exchange:
//!
//! | action | its result, as the next input |
//! |---|---|
//! | `Append` | `Appended`, `AppendRefused`, or `Unwritable` |
//! | `AwaitDurable` | `Durable`, or `LogFailed` |
//! | `Confirm` | `Confirmed`, or `Failed` |
//! | `Cancel` | `Cancelled`, or `Failed` |
//! | `Reply` | none |
//!
//! What each message does in each state (`..` = work under way, its reply follows):
//!
//! | state | Prepare | Commit | CommitOnePhase | Rollback |
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

use super::{Decision, Effort};
use crate::log::{Durability, Lsn};

/// The state of one branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BranchPhase {
    /// Nothing is known of it.
    #[default]
    Unknown,
    /// Work was done under it; nothing is promised.
    Active {
        /// Whether any of the work changes something.
        effort: Effort,
        /// Whether some of the work was refused: it will vote no.
        doomed: bool,
    },
    /// The promise is being written.
    Preparing {
        /// Which log the coordinator's decision goes to.
        sharing: LogSharing,
        /// The record's number, once it has one.
        lsn: Option<Lsn>,
    },
    /// It has promised, and awaits the decision.
    Prepared,
    /// The commit is being written. The service has not been told yet.
    Committing {
        /// Whether the record must be durable before the service is told.
        sharing: LogSharing,
        /// The record's number, once it has one.
        lsn: Option<Lsn>,
        /// How the coordinator asked, and so wants to be answered.
        verb: CommitVerb,
    },
    /// The commit is in the log; the service is carrying it out.
    Confirming {
        /// What to answer once it is done.
        answer: BranchReply,
    },
    /// Carried out.
    Committed,
    /// The service is undoing the work.
    Cancelling {
        /// Where the log holds a promise to be ended: what the end has to wait for.
        promised: Option<LogSharing>,
        /// What to answer once it is done.
        answer: BranchReply,
    },
    /// Undone; the log is being told that the promise is void.
    Ending {
        /// Whether the end must be durable before the coordinator is told.
        sharing: LogSharing,
        /// The record's number, once it has one.
        lsn: Option<Lsn>,
        /// What to answer once it is done.
        answer: BranchReply,
    },
    /// Undone. Kept as a tombstone, so that what comes late can't start the branch anew.
    RolledBack,
    /// It changed nothing and is out of the transaction.
    ReadOnly,
    /// The log failed while a record was in flight. Whether it is durable only reopening tells.
    Broken,
}

/// Whether a record must be durable by itself before the protocol goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogSharing {
    /// The participant has a log of its own: its records are forced and awaited.
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

/// Which message asked for a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommitVerb {
    /// The second phase of two.
    SecondPhase,
    /// The only phase.
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

/// What happened.
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
    /// The coordinator leaves the decision to this branch, the only one.
    CommitOnePhase,
    /// The coordinator has decided to roll back.
    Rollback(LogSharing),
    /// The record is in the log under this number, not yet durable.
    Appended(Lsn),
    /// The record is not in the log and never will be.
    AppendRefused,
    /// The same, and no repeat of the message would change that: the record is too large, or can't be encoded.
    Unwritable,
    /// All records up to this one are durable.
    Durable(Lsn),
    /// The log failed; records in flight are indeterminate.
    LogFailed,
    /// The service has carried the commit out.
    Confirmed,
    /// The service has undone the work.
    Cancelled,
    /// The service could not confirm or cancel.
    Failed,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BranchAction {
    /// Append the promise, with the branch's work.
    AppendPrepared(Durability),
    /// Append the commit; with the branch's work where no promise holds it.
    AppendCommitted {
        /// Whether the record carries the work.
        verb: CommitVerb,
        /// Whether to force it.
        durability: Durability,
    },
    /// Append that the branch needs no remembering.
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
    /// To prepare.
    Voted(super::Vote),
    /// To commit and rollback: it is so.
    Done,
    /// To one-phase commit.
    Decided(Decision),
    /// To commit: no such prepared branch.
    UnknownBranch,
    /// To commit: it has been rolled back.
    AlreadyRolledBack,
    /// To rollback: it has been committed.
    AlreadyCommitted,
    /// The message does not fit the state: it is late or doubled, or its twin is still under way.
    Stale,
    /// The service failed; repeat the message.
    Failed,
    /// The log failed; the participant must be opened anew.
    LogFailed,
}

/// One branch's state machine at its participant. See the [module's table](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BranchProtocol {
    phase: BranchPhase,
}

impl BranchProtocol {
    /// A branch that nothing is known of.
    #[must_use]
    pub const fn new() -> Self {
        Self { phase: BranchPhase::Unknown }
    }

    /// A branch as the log tells of it after a restart: promised, not decided.
    #[must_use]
    pub const fn recovered_prepared() -> Self {
        Self { phase: BranchPhase::Prepared }
    }

    /// A branch as the log tells of it after a restart: committed, though the service may not know yet.
    #[must_use]
    pub const fn recovered_committed() -> Self {
        Self { phase: BranchPhase::Confirming { answer: BranchReply::Done } }
    }

    /// Its state.
    #[must_use]
    pub const fn phase(&self) -> BranchPhase {
        self.phase
    }

    /// Whether work may still be done under it.
    #[must_use]
    pub const fn accepts_work(&self) -> bool {
        matches!(self.phase, BranchPhase::Unknown | BranchPhase::Active { .. })
    }

    /// Whether nothing more is to happen to it.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.phase, BranchPhase::Committed | BranchPhase::RolledBack | BranchPhase::ReadOnly)
    }

    /// Takes in what happened and says what to do next. `None` where there is nothing to do: after work, and for
    /// results that no longer matter.
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
            In::Appended(_) | In::AppendRefused | In::Unwritable | In::Durable(_) | In::LogFailed => self.logged(input),
            In::Confirmed | In::Cancelled | In::Failed => self.serviced(input),
        }
    }

    fn worked(&mut self, input: BranchInput) {
        let (effort, doomed) = match self.phase {
            BranchPhase::Unknown => (Effort::ReadOnly, false),
            BranchPhase::Active { effort, doomed } => (effort, doomed),
            // The driver asks `accepts_work` first; work that slipped through anyway changes no promise.
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
            // A No ends the coordinator's interest in this branch, so the undoing must be over by then.
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
                // No decision of a coordinator's follows this record, so it stands for itself in any log.
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
            // While the promise is in flight it counts as made: an end too many does no harm, one too few would.
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
            // It has decided alone, and its coordinator has given up on the answer. This one ends the coordinator's
            // interest in the branch, so the confirming must be over by then.
            BranchPhase::Confirming { .. } => return self.confirm(BranchReply::AlreadyCommitted),
            BranchPhase::Committed => BranchReply::AlreadyCommitted,
            BranchPhase::Broken => BranchReply::LogFailed,
        })
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
            // The promise is surely in no log, so nothing stands in the way of breaking it.
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
            // It can never commit alone. A promise that it may have made is ended, too: an end too many does no harm.
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
            (
                BranchPhase::Preparing { .. } | BranchPhase::Committing { .. } | BranchPhase::Ending { .. },
                In::LogFailed,
            ) => {
                self.phase = BranchPhase::Broken;
                Some(BranchAction::Reply(BranchReply::LogFailed))
            }
            // An end that is lost leaves the promise in the log, and the branch in doubt after a restart. Where a crash
            // of the one is a crash of both, the coordinator asks then; but one that lives on does not, so it must not
            // be told before the end is durable.
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

    /// Undoes work that nothing was promised about.
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
