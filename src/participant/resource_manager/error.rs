//! Errors of [`execute`](super::ResourceManager::execute) and
//! [`open`](super::ResourceManager::open), the trouble that a branch can be in, and the reasons of
//! a No.

use std::{error::Error as StdError, sync::Arc};

use thiserror::Error;

use crate::{
    id::{BranchId, Epoch, IdError, Name},
    log::{LogError, holder_in_words},
    participant::ParticipantError,
};

/// Why a piece of work was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecuteError<R> {
    /// The service refused. The transaction can only be rolled back, unless the service says that this
    /// refusal [does not doom](super::Service::dooms) it.
    #[error(transparent)]
    Refused(R),
    /// The branch takes no more work, because it was asked to prepare or has ended.
    #[error("branch {branch} takes no more work: its transaction is being committed or is over; begin a new one")]
    Closed {
        /// The branch.
        branch: BranchId,
    },
    /// The branch is of an earlier life of its coordinator than the one that this participant has met
    /// last. Nothing was done, and the transaction can only be rolled back. Either the coordinator was
    /// opened again since, or the participant refuses its log: that of a second coordinator of the same
    /// name, or an older copy.
    #[error(
        "branch {branch} is of an earlier life of its coordinator than this participant has met ({known}). If the \
         coordinator was opened again since, begin a new transaction with the one that is open now; if this is the one that \
         is open now, no new transaction helps: the participant refuses its log, and `CoordinatorStatus::unanswered_by` says \
         why"
    )]
    EarlierLife {
        /// The branch.
        branch: BranchId,
        /// The coordinator's epoch, as far as the participant has heard.
        known: Epoch,
    },
    /// The branch is of a later epoch than the one that its coordinator has announced here. Nothing
    /// was done, and the transaction can only be rolled back. A coordinator announces its epoch
    /// moments after it was opened; a new transaction then succeeds. If it does not, the branch
    /// comes from a coordinator on another log.
    #[error(
        "branch {branch} is of an epoch that its coordinator has not announced here (it is in {known}); try again in a \
         moment, as a new transaction; if that does not help, the participant refuses the coordinator's log, and \
         `CoordinatorStatus::unanswered_by` says why"
    )]
    UnknownEpoch {
        /// The branch.
        branch: BranchId,
        /// The coordinator's epoch, as far as the participant has heard.
        known: Epoch,
    },
    /// With this piece the branch's work would not fit into one record of the participant's log.
    /// The piece was not done. The transaction can only be rolled back.
    #[error(
        "the work of branch {branch} would take {length} bytes of a log record, and the limit is {limit}: name large data in \
         the work, and keep the data elsewhere; or divide the work among several transactions"
    )]
    TooMuchWork {
        /// The branch.
        branch: BranchId,
        /// Encoded length of the branch's work with this piece, in bytes.
        length: usize,
        /// The limit, [`MAX_WORK_BYTES`](super::MAX_WORK_BYTES).
        limit: usize,
    },
    /// The piece of work can't be encoded, so it could never be promised. It was not done. The
    /// transaction can only be rolled back.
    #[error("a piece of work for branch {branch} can't be encoded; correct how the service's work is serialised")]
    Unencodable {
        /// The branch.
        branch: BranchId,
        /// What the encoder said.
        #[source]
        error: Arc<dyn StdError + Send + Sync>,
    },
    /// The branch names another participant.
    #[error("branch {branch} is not for participant {participant}; pass the id that the transaction gave for it")]
    Misrouted {
        /// The branch as it came.
        branch: BranchId,
        /// The participant that got it.
        participant: Name,
    },
    /// Another holder has taken the participant's log over, and the branch with it. Nothing was done.
    #[error(
        "participant {participant} has lost its log, which was taken over by {}: it does no work here any more, and could promise \
         none; begin a new transaction, and work at the participant there",
        holder_in_words(.holder.as_deref())
    )]
    Fenced {
        /// The participant.
        participant: Name,
        /// The new holder, as it names itself, if that is known.
        holder: Option<Arc<str>>,
    },
    /// The service asks for work under a branch at which it is working itself, on this thread. Nothing
    /// was done, and the branch is as it was.
    #[error(
        "the service called `execute` for branch {branch} while it works at that branch; do all of a piece of work in one \
         `try_reserve`"
    )]
    Inside {
        /// The branch.
        branch: BranchId,
    },
}

/// The service asks for a checkpoint on the thread that takes one.
#[derive(Debug, Error)]
#[error("the service called `checkpoint` while a checkpoint is taken on the same thread; leave out that call")]
pub(super) struct CheckpointInside;

/// Why a resource manager could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name is malformed.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The log could not be read or claimed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The service could not give back what it holds for void branches; see
    /// [`Service::opened`](super::Service::opened).
    #[error(
        "the service failed in `opened`, so what it holds for branches that are void may be lost; mend it and open again"
    )]
    Service(#[source] Arc<dyn StdError + Send + Sync>),
}

/// Why a branch could not be restored as the log has it.
///
/// The branch keeps its place in the log and in [`in_doubt`](crate::Participant::in_doubt), answers
/// everything by this error, and does not disturb other branches.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum BranchTrouble {
    /// The log's record of the branch is not work of this service.
    #[error("the work of branch {branch} can't be read; open it with the service version that wrote it")]
    Unreadable {
        /// The branch.
        branch: BranchId,
        /// What the decoder said.
        #[source]
        error: Arc<dyn StdError + Send + Sync>,
    },
    /// The log says that the branch is committed, but holds none of its work.
    #[error("the log says that {branch} is committed but not with what work; it was not written by this library")]
    Incomplete {
        /// The branch.
        branch: BranchId,
    },
    /// The service could not restore what it had promised. It is asked again by itself, at calls that
    /// reach the resource manager, at each checkpoint, and when the branch is to be committed.
    #[error("the service could not restore branch {branch}; its promise may not be kept until that is mended")]
    Unrestored {
        /// The branch.
        branch: BranchId,
        /// What the service said.
        #[source]
        error: Arc<dyn StdError + Send + Sync>,
    },
    /// The service could not confirm again what it had confirmed. It is asked again by itself, at
    /// calls that reach the resource manager and at each checkpoint.
    #[error("the service could not confirm branch {branch} again; its effect is missing until that is mended")]
    Unconfirmed {
        /// The branch.
        branch: BranchId,
        /// What the service said.
        #[source]
        error: Arc<dyn StdError + Send + Sync>,
    },
}

impl BranchTrouble {
    /// Returns the branch.
    #[must_use]
    pub const fn branch(&self) -> &BranchId {
        match self {
            Self::Unreadable { branch, .. }
            | Self::Incomplete { branch }
            | Self::Unrestored { branch, .. }
            | Self::Unconfirmed { branch, .. } => branch,
        }
    }

    /// Whether nothing can mend the branch before the resource manager is opened again.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::Incomplete { .. })
    }
}

/// Why a [`ResourceManager`](super::ResourceManager) votes No: the reason in a
/// [`ParticipantError::Refused`].
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum BranchRefusal {
    /// A piece of work was refused: by the service, or because it is too much for a record.
    #[error("a piece of work was refused: {reason}")]
    Work {
        /// The refusal, with [its causes](crate::error_chain), cut to
        /// [`MAX_ERROR_TEXT_BYTES`](crate::participant::MAX_ERROR_TEXT_BYTES).
        reason: Arc<str>,
    },
    /// The service panicked at a piece of work.
    #[error("the service panicked at a piece of work; see its panic message")]
    Panicked,
    /// Nothing is known of the branch.
    #[error(
        "the participant knows of no work under the branch: there was none, it was lost in a restart, or the participant \
         refuses this coordinator, whose status then says why"
    )]
    Unknown,
    /// Some of the branch's work came before the participant was opened, or may have come before.
    #[error("some of the branch's work was lost in a restart of the participant, or may have been")]
    LostWork,
    /// The branch was told to roll back before.
    #[error("the branch is rolled back already")]
    RolledBack,
    /// Nothing was done under the branch for as long as
    /// [`abandon_after`](super::ResourceManagerOptions::abandon_after) says.
    #[error("nothing was done under the branch for so long that the participant has rolled it back")]
    Abandoned,
    /// The branch was in the way of a hand-over to another node.
    #[error(
        "the branch was rolled back because the positions of its work move to another node, and it had promised nothing for \
         long; begin a new transaction"
    )]
    Moving,
    /// The coordinator has been opened again since the branch's transaction began.
    #[error(
        "the branch is of an earlier life of its coordinator: that was opened again since, or the participant refuses its log, \
         and the coordinator's status says why"
    )]
    EarlierLife,
    /// The log did not take the record of the promise, or of the commit.
    #[error("the participant could not write it down")]
    Unwritten {
        /// What the log or the encoder said.
        #[source]
        error: ParticipantError,
    },
}

impl BranchRefusal {
    /// Whether the reason may not come again in a new transaction.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(self, Self::LostWork | Self::Abandoned | Self::Moving)
    }
}
