//! What a coordinator hears: the replies of [`BranchProtocol`](super::BranchProtocol) as the answers
//! of a participant.

use super::{BranchInput, BranchReply, ParticipantError};
use crate::log::LogError;

/// Returns the answer about a branch that was forgotten because its transaction has ended.
///
/// No coordinator waits for it, with one exception. An operator may have a decision delivered again
/// that this participant once knew nothing of; such a hazard does not hold `ended_below` back. The
/// operator must hear that it is still unknown.
pub(super) const fn after_the_end(message: BranchInput) -> ParticipantError {
    match message {
        BranchInput::Commit(_) | BranchInput::Rollback(_) => ParticipantError::UnknownBranch,
        _ => ParticipantError::Stale,
    }
}

/// Turns the protocol's reply into the trait's answer; `error` is what went wrong before it.
pub(super) fn answer(reply: BranchReply, error: Option<ParticipantError>) -> Result<BranchReply, ParticipantError> {
    match reply {
        BranchReply::Voted(_) | BranchReply::Done | BranchReply::Decided(_) => Ok(reply),
        BranchReply::UnknownBranch => Err(ParticipantError::UnknownBranch),
        BranchReply::AlreadyRolledBack => Err(ParticipantError::AlreadyRolledBack),
        BranchReply::AlreadyCommitted => Err(ParticipantError::AlreadyCommitted),
        BranchReply::Stale => Err(ParticipantError::Stale),
        BranchReply::Failed | BranchReply::LogFailed => Err(error.unwrap_or(LogError::Closed.into())),
    }
}
