//! Deadlines and errors as they are serialised. All else in requests and answers is as derived.
//!
//! A moment means nothing on another machine, so a deadline becomes the time that is left. No
//! decoder can make an error of another program's type again, so an error becomes its text.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BranchRefusal, LifeMismatch, ParticipantError};
use crate::{
    error_chain,
    id::{BranchId, Name},
    log::Heuristic,
};

/// Maximum length of the text of an error that comes from another program or goes to one, with all
/// its causes, in bytes.
///
/// A coordinator keeps the last error of each branch that is not finished, and a participant can answer
/// thousands of them. A text of that length still has a database's message and its context.
pub const MAX_ERROR_TEXT_BYTES: usize = 4 << 10;

/// Stands for the rest of a text that was cut.
const REST: &str = "\u{2026}";

/// The serialised form of a deadline: the time that is left until then.
pub(super) mod time_left {
    use super::{Deserialize, Deserializer, Duration, Instant, Serialize, Serializer, at, left};

    pub(in crate::participant) fn serialize<S: Serializer>(
        deadline: &Option<Instant>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        deadline.map(|deadline| left(deadline, Instant::now())).serialize(serializer)
    }

    pub(in crate::participant) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Instant>, D::Error> {
        let left = Option::<Duration>::deserialize(deserializer)?;
        Ok(left.and_then(|left| at(left, Instant::now())))
    }
}

/// Returns the time that is left: zero if the deadline is past.
fn left(deadline: Instant, now: Instant) -> Duration {
    deadline.saturating_duration_since(now)
}

/// Returns the moment at which that time is over: `None`, no deadline, if the clock can't count so
/// far.
fn at(left: Duration, now: Instant) -> Option<Instant> {
    now.checked_add(left)
}

/// The serialised form of a [`ParticipantError`]. Names and order stay, because other programs may
/// have stored them or may send them.
#[derive(Serialize, Deserialize)]
#[serde(rename = "ParticipantError")]
enum WireError {
    Unreachable,
    Panicked,
    UnknownBranch,
    AlreadyRolledBack,
    AlreadyCommitted,
    Heuristic(Heuristic),
    Misdirected,
    Stale,
    Misrouted {
        branch: Box<BranchId>,
        participant: Name,
    },
    Resource(ErrorText),
    Busy,
    OtherLog(Box<LifeMismatch>),
    Superseded(Box<LifeMismatch>),
    Refused(ErrorText),
    /// As `Refused`, for a reason that may not come again in a new transaction.
    RefusedForNow(ErrorText),
}

/// The reason of a No that came from another program, which says that it may not come again in a new
/// transaction.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RefusedForNow(String);

/// The text of an error: a string of at most [`MAX_ERROR_TEXT_BYTES`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
struct ErrorText(String);

impl From<String> for ErrorText {
    fn from(text: String) -> Self {
        Self(cut(text))
    }
}

impl From<ErrorText> for String {
    fn from(text: ErrorText) -> Self {
        text.0
    }
}

/// Returns the text, cut to [`MAX_ERROR_TEXT_BYTES`] if it is longer.
pub(crate) fn cut(text: String) -> String {
    if text.len() <= MAX_ERROR_TEXT_BYTES {
        return text;
    }
    let fits = MAX_ERROR_TEXT_BYTES - REST.len();
    let end = (0..=fits).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    // A new string, because the old one keeps its memory when it is cut.
    [&text[..end], REST].concat()
}

impl Serialize for ParticipantError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Only a coordinator says `CircuitOpen`, `NotRegistered` and `NotBegun`; to another process
            // they mean the same.
            Self::Unreachable | Self::CircuitOpen | Self::NotRegistered | Self::NotBegun { .. } => {
                WireError::Unreachable
            }
            Self::Panicked => WireError::Panicked,
            Self::UnknownBranch => WireError::UnknownBranch,
            Self::AlreadyRolledBack => WireError::AlreadyRolledBack,
            Self::AlreadyCommitted => WireError::AlreadyCommitted,
            Self::Heuristic(outcome) => WireError::Heuristic(*outcome),
            Self::Misdirected => WireError::Misdirected,
            Self::Stale => WireError::Stale,
            Self::Busy => WireError::Busy,
            Self::Misrouted { branch, participant } => {
                WireError::Misrouted { branch: branch.clone(), participant: participant.clone() }
            }
            Self::OtherLog(mismatch) => WireError::OtherLog(mismatch.clone()),
            Self::Superseded(mismatch) => WireError::Superseded(mismatch.clone()),
            Self::Log(error) => WireError::Resource(error_chain(error).into()),
            Self::Resource(error) => WireError::Resource(error_chain(&**error).into()),
            Self::Refused(reason) => {
                let text = error_chain(&**reason).into();
                // A participant in the middle passes on what it was told.
                let is_brief =
                    reason.is::<RefusedForNow>() || reason.downcast_ref().is_some_and(BranchRefusal::is_transient);
                if is_brief { WireError::RefusedForNow(text) } else { WireError::Refused(text) }
            }
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ParticipantError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match WireError::deserialize(deserializer)? {
            WireError::Unreachable => Self::Unreachable,
            WireError::Panicked => Self::Panicked,
            WireError::UnknownBranch => Self::UnknownBranch,
            WireError::AlreadyRolledBack => Self::AlreadyRolledBack,
            WireError::AlreadyCommitted => Self::AlreadyCommitted,
            WireError::Heuristic(outcome) => Self::Heuristic(outcome),
            WireError::Misdirected => Self::Misdirected,
            WireError::Stale => Self::Stale,
            WireError::Busy => Self::Busy,
            WireError::Misrouted { branch, participant } => Self::Misrouted { branch, participant },
            WireError::Resource(text) => Self::resource(text.0),
            WireError::OtherLog(mismatch) => Self::OtherLog(mismatch),
            WireError::Superseded(mismatch) => Self::Superseded(mismatch),
            WireError::Refused(reason) => Self::refused(reason.0),
            WireError::RefusedForNow(reason) => Self::refused(RefusedForNow(reason.0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_passed_on_as_what_is_left_of_it() {
        let sender = Instant::now();
        let receiver = sender + Duration::from_secs(1_000_000); // another machine's clock
        let deadline = sender + Duration::from_secs(5);
        let sent = left(deadline, sender + Duration::from_secs(2));
        assert_eq!(at(sent, receiver), Some(receiver + Duration::from_secs(3)));
        assert_eq!(left(deadline, sender + Duration::from_secs(6)), Duration::ZERO, "it is past");
        assert_eq!(at(Duration::ZERO, receiver), Some(receiver), "and stays past");
        assert_eq!(at(Duration::MAX, receiver), None, "it never comes");
    }
}
