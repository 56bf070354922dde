//! DURABILITY. The transaction log: what a coordinator and its participants must not forget.
//!
//! [`TransactionLog`] is the trait, with what a log owes its callers written on each method. `FileLog` keeps its
//! records on disk, [`MemoryLog`] in memory (for tests, and for transactions that need not survive the process).
//! `conformance` is the suite that every implementation is held to; a log of your own should pass it too.
//!
//! The log knows nothing of the protocol. It knows three things of a [`Record`]: whose it is, which transaction it is
//! about, and whether it ends that transaction for its owner. That is enough to stay bounded: the records of
//! transactions that have ended are collected, all others, the *live* ones, are carried over and given back by
//! [`TransactionLog::live`].

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{Epoch, Name};

mod claims;
mod committing;
pub mod conformance;
mod file;
mod live;
mod memory;
mod record;
mod scan;

pub use claims::{Claim, Claims};
pub use committing::Committing;
pub use file::{FileLog, FileLogOptions, Recovery, inspect, options, storage};
pub use live::LiveRecords;
pub use memory::MemoryLog;
pub use record::{Fact, Heuristic, Record};

/// The largest record, in bytes of its encoding. Work descriptions are meant to be small: name a row, don't carry it.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Number of a coordinator's latest openings that a log keeps, and gives back by `live`. A coordinator settles only what
/// was begun in one of them. So it is more than the openings that one coordinator goes through while a participant is
/// away with a promise; and they are to take little: some ten kilobytes.
pub const MAX_OPENINGS: usize = 1 << 10;

/// A durable, ordered, append-only store of [`Record`]s that forgets only what has ended.
///
/// # What every implementation owes
///
/// 1. **Order.** Records are numbered by [`Lsn`] in the order of their `append` calls; what survives a crash is a
///    *prefix* of that order: if a record is there afterwards, so is every one appended before it.
/// 2. **Durability.** Once `wait(n)`, `poll_durable(n)` or `durable() >= n` has said so, record `n` and all before it
///    survive any crash of the process or the machine. Never earlier, not even for a record that nobody waits for.
/// 3. **Failure is final.** After one failed write or sync no record is ever again reported durable that was not
///    before; every waiter gets [`LogError::Poisoned`], and the state of its record is *indeterminate* until the log
///    is opened anew.
/// 4. **A refused append leaves nothing.** An error from `append` means that the record is not in the log, now or ever.
/// 5. **Liveness.** `live` gives back, in order, each record of the owner that no later [`Fact::Ended`] of the same
///    owner and transaction has ended, and of its [`Fact::Opened`] the last [`MAX_OPENINGS`]; records that ended may be
///    gone.
/// 6. **No blocking.** `append` and `poll_durable` never wait for the medium; they may wait for memory to queue in.
/// 7. **Wakers are foreign code.** None is woken or dropped under a lock, or on a thread that other records wait for: it may
///    poll its task on the spot, which may append to this log and wait for it; and it may panic.
///
/// 7. **Numbers go on.** A log that is opened again numbers on from its last durable record, so that [`durable`](Self::durable)
///    never goes back over the log's whole life: by that an older copy of it is known.
///
/// The caller owes: one owner name means one writer, who [claims](Self::claim) it.
pub trait TransactionLog: Send + Sync + 'static {
    /// The log's own identity, the same over all its life. Participants compare it with that of their own log: the
    /// same log as the coordinator's needs no forced writes of their own.
    fn id(&self) -> LogId;

    /// A random number, never 0, that is drawn anew each time the log is opened and is the same on all handles of one
    /// opening. It is kept nowhere.
    ///
    /// The id tells whose records these are; the incarnation tells which process has them open. A directory that was
    /// copied has the id of its source, but two openings never share an incarnation: whether two callers write to the
    /// *same* log is told by both numbers together, never by the id alone.
    fn incarnation(&self) -> u64;

    /// This opening of the log, as [`Call::log`](crate::participant::Call) names it: the first half of the id, and the
    /// incarnation. Two handles with equal ones write to the same log. Provided; there is no need to write another one.
    fn opening(&self) -> LogId {
        let mut bytes = self.id().to_bytes();
        bytes[8..].copy_from_slice(&self.incarnation().to_be_bytes());
        LogId::from_bytes(bytes)
    }

    /// Takes an owner's name for as long as what is given lives. Who writes under a name claims it first: of two at once
    /// each would take the other for one that has crashed, and end what is under way there.
    ///
    /// As provided it lets everybody have every name. A log does better to keep [`Claims`], as those here do; one that
    /// wraps another one hands this on.
    ///
    /// # Errors
    /// [`LogError::Claimed`].
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        let _ = owner;
        Ok(Claim::unchecked())
    }

    /// Queues a record and gives it its number. [`Durability::Forced`] starts making it durable at once;
    /// [`Durability::Lazy`] leaves it to go along with the next forced one (or a wait).
    ///
    /// # Errors
    /// The record is then *not* in the log: [`LogError::TooLarge`], [`LogError::Poisoned`], [`LogError::Full`],
    /// [`LogError::Closed`].
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError>;

    /// Queues several records lazily, one behind the other, and gives the last one's number; none where there are none. A
    /// log may do it faster than one by one; `FileLog` takes its lock once for many.
    ///
    /// # Errors
    /// Those of `append`, for the first record that is refused. Those before it are in the log, it and those after it are
    /// not.
    fn append_all(&self, records: &mut dyn Iterator<Item = Record>) -> Result<Option<Lsn>, LogError> {
        let mut last = None;
        for record in records {
            last = Some(self.append(record, Durability::Lazy)?);
        }
        Ok(last)
    }

    /// Appends a forced record and blocks until it is durable: `append`, then `wait`. A log may do both faster in one;
    /// `FileLog` lets a lone caller write and sync on its own thread, which saves two switches of threads.
    ///
    /// # Errors
    /// Those of `append`: the record is not in the log. Those of `wait`: [`LogError::Poisoned`], or
    /// [`LogError::Closed`] where the log is closed meanwhile; then whether it is durable is *not known*.
    fn commit(&self, record: Record) -> Result<Lsn, LogError> {
        let lsn = self.append(record, Durability::Forced)?;
        self.wait(lsn)?;
        Ok(lsn)
    }

    /// Appends a forced record for a task that is going to wait for it: `append`, then `poll_durable`, whose answer is
    /// not told. Unless the record is durable when this returns, the context's waker is woken once
    /// [`poll_durable`](Self::poll_durable) has an answer. A log may do both faster in one; `FileLog` takes its lock once
    /// and not twice. [`commit_async`](Self::commit_async) does the rest.
    ///
    /// # Errors
    /// Those of `append`: the record is not in the log, and nobody is woken.
    fn append_awaited(&self, record: Record, context: &mut Context<'_>) -> Result<Lsn, LogError> {
        let lsn = self.append(record, Durability::Forced)?;
        // Pending or not, and be it an error: the task asks again for itself.
        let _ = self.poll_durable(lsn, context);
        Ok(lsn)
    }

    /// As [`commit`](Self::commit), for tasks. The record is appended when the future is polled first.
    ///
    /// ```
    /// # use ringpact::{Epoch, Fact, LogError, Lsn, Name, Record, TransactionLog};
    /// async fn open(log: &impl TransactionLog, owner: Name) -> Result<Lsn, LogError> {
    ///     log.commit_async(Record { owner, fact: Fact::Opened { epoch: Epoch::new(1) } }).await
    /// }
    /// ```
    ///
    /// # Errors
    /// The future's are those of `commit`.
    fn commit_async(&self, record: Record) -> Committing<'_, Self>
    where
        Self: Sized,
    {
        Committing::new(self, record)
    }

    /// The last record that is durable; [`Lsn::NONE`] where none is. Never goes back.
    fn durable(&self) -> Lsn;

    /// Blocks until the record is durable, starting to make it so where it was appended lazily.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]: whether the record is durable is *not known*; only reopening tells. The same holds of
    /// [`LogError::Closed`], where the log was closed, without making it durable, before or meanwhile.
    fn wait(&self, lsn: Lsn) -> Result<(), LogError>;

    /// As [`wait`](Self::wait), for tasks: registers the context's waker, which is woken once the answer is ready, whatever
    /// the wakers of other tasks do meanwhile. `FileLog` has threads of their own for it.
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>>;

    /// The owner's live records, in the order they were appended, including those not yet durable.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Closed`].
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError>;

    /// The owner's openings that are live, each with the number of its record, in order. By these numbers a coordinator shows
    /// that its log goes on from where an earlier opening ended.
    ///
    /// As provided it knows no numbers and gives [`Lsn::NONE`] for each. A participant that has missed the last opening then
    /// refuses the next one, because nothing shows that this log is not an older copy. A log does better to give the
    /// numbers, as those here do; one that wraps another one hands this on.
    ///
    /// # Errors
    /// Those of [`live`](Self::live).
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        let epochs = self.live(owner)?.into_iter().filter_map(|record| record.fact.epoch());
        Ok(epochs.map(|epoch| (epoch, Lsn::NONE)).collect())
    }

    /// What it has done so far.
    fn stats(&self) -> LogStats;
}

impl<L: TransactionLog + ?Sized> TransactionLog for Arc<L> {
    fn id(&self) -> LogId {
        (**self).id()
    }
    fn incarnation(&self) -> u64 {
        (**self).incarnation()
    }
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        (**self).claim(owner)
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        (**self).append(record, durability)
    }
    fn append_all(&self, records: &mut dyn Iterator<Item = Record>) -> Result<Option<Lsn>, LogError> {
        (**self).append_all(records)
    }
    fn commit(&self, record: Record) -> Result<Lsn, LogError> {
        (**self).commit(record)
    }
    fn append_awaited(&self, record: Record, context: &mut Context<'_>) -> Result<Lsn, LogError> {
        (**self).append_awaited(record, context)
    }
    fn durable(&self) -> Lsn {
        (**self).durable()
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        (**self).wait(lsn)
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        (**self).poll_durable(lsn, context)
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        (**self).live(owner)
    }
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        (**self).openings(owner)
    }
    fn stats(&self) -> LogStats {
        (**self).stats()
    }
}

/// A record's number in its log: 1, 2, 3, .. since the log was opened or before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lsn(#[serde(with = "crate::exact::counter")] u64);

impl Lsn {
    /// Before the first record.
    pub const NONE: Self = Self(0);

    /// The record with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Whether somebody is going to wait for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Durability {
    /// A *forced* write: start making it durable now.
    Forced,
    /// Goes along with the next forced write.
    Lazy,
}

/// A log's identity: 128 random bits, drawn when it is created and kept with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogId([u8; 16]);

impl LogId {
    /// No log's id.
    pub const NONE: Self = Self([0; 16]);

    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Draws a new one.
    pub(crate) fn random() -> Result<Self, LogError> {
        random_bytes().map(Self)
    }
}

impl Default for LogId {
    fn default() -> Self {
        Self::NONE
    }
}

/// Draws a number for an opening of a log; see [`TransactionLog::incarnation`].
pub(crate) fn random_incarnation() -> Result<u64, LogError> {
    random_bytes().map(|bytes| u64::from_le_bytes(bytes).max(1))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], LogError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| LogError::Io {
        path: PathBuf::from("system random source"),
        action: "read",
        error: Arc::new(error.into()),
    })?;
    Ok(bytes)
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// Counters since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// Records appended.
    pub appended: u64,
    /// Of them, appended with [`Durability::Forced`]: what the literature counts as *forced log writes*.
    pub forced: u64,
    /// Times the medium was synced on behalf of records; one sync serves all that queued meanwhile.
    pub syncs: u64,
}

/// Why a log can't do what it was asked.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// A write or sync has failed. Nothing more is appended, and what was in flight is indeterminate.
    #[error("the log is poisoned by a failed write or sync ({}); open it anew to learn what is really on disk", crate::error_chain(.cause))]
    Poisoned {
        /// The first failure.
        cause: Arc<std::io::Error>,
    },
    /// There is no room to append; the log stays readable, and later appends work once there is.
    #[error("no room for the log at {path}: {}; free disk space, later appends then work again", crate::error_chain(.error))]
    Full {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The next segment can't be prepared, for another reason than want of space; the log stays readable, and later appends
    /// work once it can.
    #[error(
        "the log at {path} can't prepare its next segment: {}; mend that, later appends then work again",
        crate::error_chain(.error)
    )]
    NoSegment {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The record is larger than the log takes.
    #[error("a record of {length} bytes; the limit is {MAX_RECORD_BYTES}: log a reference to large data, not the data")]
    TooLarge {
        /// Its encoded length in bytes.
        length: usize,
    },
    /// Somebody has the log open under this name already.
    #[error(
        "a coordinator or resource manager named {owner} is open on this log already; drop it first, or give this one another name"
    )]
    Claimed {
        /// The name.
        owner: Name,
    },
    /// The log was closed.
    #[error("the log is closed; open it again to go on")]
    Closed,
    /// Another process, or another handle in this one, has the log open.
    #[error("the log at {path} is in use; a log has one owner at a time, close the other one first")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// What is on disk is not what was written. Nothing was changed.
    #[error(
        "{path} is damaged at byte {offset}: {what}; nothing was dropped or changed. Only a mirror of these very bytes may \
         stand in for it: an older copy has forgotten decisions and gives numbers out again. Without one, see \
         `log::inspect` for what can be read, settle what participants hold in doubt by hand, and begin a new log under a \
         new coordinator's name"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte that is wrong, from the start of the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The directory remembers a log of which the newest segment is not there. Nothing was changed.
    #[error(
        "{path} remembers a log that has come to segment {segment}, which is not there; put its segments back as they were \
         last. If that log is given up for good, remove its directory and begin a new one under a new coordinator's name: \
         under the old one an empty log would give the same numbers out again"
    )]
    SegmentsLost {
        /// The file that remembers it.
        path: PathBuf,
        /// The number of a segment that it had.
        segment: u64,
    },
    /// The file is of a version of the format that this version of the library does not know.
    #[error("{path} has format version {version}, this library reads version {supported}; use a newer ringpact")]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// The version it says it has.
        version: u32,
        /// The version that this library writes.
        supported: u32,
    },
    /// The file system refused.
    #[error("can't {action} {path}: {}", crate::error_chain(.error))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
}
