//! The errors of a log.

use std::{fmt, path::PathBuf, sync::Arc};

use thiserror::Error;

use super::MAX_RECORD_BYTES;
use crate::id::Name;

/// Why a log can't do what it was asked.
///
/// What the system said is the error's [`source`](std::error::Error::source), and is not printed
/// along; [`error_chain`](crate::error_chain) writes both in one line.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// A write or sync failed. Nothing more is appended. Records that were in flight are
    /// indeterminate.
    #[error("the log is poisoned by a failed write or sync; open it again to learn what is really on disk")]
    Poisoned {
        /// The first failure.
        #[source]
        cause: Arc<std::io::Error>,
    },
    /// There is no room to append. The log stays readable, and later appends work once there is
    /// room.
    #[error("no room for the log at {path}; free disk space, then later appends work again")]
    Full {
        /// The log's directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: Arc<std::io::Error>,
    },
    /// The next segment can't be prepared, for another reason than a lack of space. The log stays
    /// readable, and later appends work once it can.
    #[error("the log at {path} can't prepare its next segment; remove the cause, then later appends work again")]
    NoSegment {
        /// The log's directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: Arc<std::io::Error>,
    },
    /// The record is larger than a log takes.
    #[error(
        "the record has {length} bytes, and the limit is {MAX_RECORD_BYTES}; log a reference to large data instead of \
         the data"
    )]
    TooLarge {
        /// The record's encoded length in bytes.
        length: usize,
    },
    /// Another coordinator or resource manager has the log open under this name.
    #[error(
        "a coordinator or resource manager named {owner} is open on this log already; drop it first, or give this one \
         another name"
    )]
    Claimed {
        /// The name.
        owner: Name,
    },
    /// The log was closed.
    #[error("the log is closed; open it again to go on")]
    Closed,
    /// Another holder has taken the log over, and the record is surely not in it and never will be.
    /// Unlike [`Poisoned`](Self::Poisoned) and [`Closed`](Self::Closed), this is a definite no, also
    /// from [`wait`](super::TransactionLog::wait).
    #[error(
        "the log was taken over by {}, so nothing more is written here, and the record is not in it: send new transactions to \
         the coordinator there, which settles what was left, and close all that uses the log here",
        holder_in_words(.holder.as_deref())
    )]
    Fenced {
        /// The new holder, as it names itself, if that is known: an address, or another name by
        /// which clients find it.
        holder: Option<Arc<str>>,
    },
    /// Another process, or another handle in this process, has the log open.
    #[error("the log at {path} is in use; a log has one owner at a time, so close the other one first")]
    Locked {
        /// The log's directory.
        path: PathBuf,
    },
    /// What is on disk is not what was written. Nothing was changed.
    #[error(
        "{path} is damaged at byte {offset}: {what}; nothing was dropped or changed. Only a mirror of exactly these bytes \
         can replace the file: an older copy has forgotten decisions, and gives numbers out again. Without a mirror, \
         look with `log::inspect` at what can be read. Then begin an empty log and open its coordinator under the same name \
         with `CoordinatorBuilder::replaces_log`: only under that name can the participants' promises be settled"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is wrong, from the start of the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The directory remembers a log, and the newest segment of that log is missing. Nothing was
    /// changed.
    #[error(
        "{path} remembers a log that has reached segment {segment}, and that segment is missing; put the segments back as \
         they were last. If that log is gone for good, move its directory away, begin an empty log, and open its \
         coordinator under the same name with `CoordinatorBuilder::replaces_log`: only under that name can the participants' \
         promises be settled"
    )]
    SegmentsLost {
        /// The file that remembers the log.
        path: PathBuf,
        /// The number of a segment that the log had.
        segment: u64,
    },
    /// There is no log, and [`FileLogOptions::must_exist`](super::FileLogOptions::must_exist) was
    /// set. Nothing was created.
    #[error(
        "there is no log at {path}, and it was opened as one that must exist: check that its volume is mounted and that \
         the path is right; to begin a new log, open it once without `must_exist`"
    )]
    Missing {
        /// The log's directory.
        path: PathBuf,
    },
    /// The file has a version of the format that this version of the library does not know.
    #[error("{path} has format version {version}, and this library reads version {supported}; use a newer ringpact")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version that the file states.
        version: u32,
        /// The version that this library writes.
        supported: u32,
    },
    /// The file system refused an operation.
    #[error("can't {action} {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        error: Arc<std::io::Error>,
    },
}

/// The fact that another holder has taken a log over; see
/// [`TransactionLog::lost`](super::TransactionLog::lost). A plain value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Takeover {
    /// The new holder, as it names itself, if that is known: an address, or another name by which
    /// clients find it.
    pub holder: Option<Arc<str>>,
}

impl Takeover {
    /// Returns the takeover by this holder; `None` if it is not known which one it is.
    #[must_use]
    pub const fn by(holder: Option<Arc<str>>) -> Self {
        Self { holder }
    }
}

/// The words "taken over by", and the holder.
impl fmt::Display for Takeover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "taken over by {}", holder_in_words(self.holder.as_deref()))
    }
}

impl From<Takeover> for LogError {
    fn from(takeover: Takeover) -> Self {
        Self::Fenced { holder: takeover.holder }
    }
}

impl LogError {
    /// Returns the takeover, if the error is [`Fenced`](Self::Fenced).
    #[must_use]
    pub fn takeover(&self) -> Option<Takeover> {
        match self {
            Self::Fenced { holder } => Some(Takeover::by(holder.clone())),
            _ => None,
        }
    }
}

/// Returns the holder as it stands in a message.
pub(crate) fn holder_in_words(holder: Option<&str>) -> &str {
    holder.unwrap_or("another holder")
}

/// The text is not the id of a log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the id of a log is 32 hexadecimal digits; take it from the error or the status that names the log")]
#[non_exhaustive]
pub struct LogIdError;
