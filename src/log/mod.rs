//! DURABILITY. The transaction log: what a coordinator and its participants must not forget.
//!
//! [`TransactionLog`] is the trait; each method says what a log owes its callers. [`FileLog`] keeps
//! its records on disk. [`MemoryLog`] keeps them in memory, for tests and for transactions that
//! need not survive the process. [`conformance`] is the suite that every implementation must pass;
//! a log of your own should pass it too.
//!
//! The log knows nothing of the protocol. It knows three things of a [`Record`]: which owner wrote
//! it, which transaction it is about, and whether it ends that transaction for its owner. That is
//! enough to stay bounded. The log collects the records of transactions that have ended. All others
//! are *live*: the log carries them over, and [`TransactionLog::live`] returns them.
//!
//! # Where to read
//!
//! 1. This file: the trait and the numbers. `error.rs` has the errors.
//! 2. `record/`: what is written. `record/key.rs` reads of an encoded record what the log needs.
//! 3. `live.rs`: the fold, which decides what is still needed. All logs share it.
//! 4. `memory.rs`: the log in memory, the smallest implementation.
//! 5. `file/`: the log on disk; its `mod.rs` has a map of its own.
//! 6. `claims.rs` (which owner's names are taken) and `committing.rs` (a commit as a future).
//! 7. `conformance`: what every log is held to.
//! 8. `remote.rs`: what decides for a log on an engine that several processes can reach.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
};

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Name};

mod claims;
mod committing;
pub mod conformance;
mod error;
mod file;
mod live;
mod memory;
mod record;
pub mod remote;

pub use claims::{Claim, Claims};
pub use committing::Committing;
pub(crate) use error::holder_in_words;
pub use error::{LogError, LogIdError, Takeover};
pub use file::{FileLog, FileLogOptions, Recovery, inspect, options, storage};
pub use live::LiveRecords;
pub use memory::MemoryLog;
pub use record::{Fact, Heuristic, Record};

/// Maximum size of a record, in bytes of its encoding. Work descriptions are meant to be small:
/// name a row, don't carry it.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Number of a coordinator's latest openings that a log keeps, and that `live` returns. A
/// coordinator settles only what was begun in one of them. So the number exceeds the openings that
/// one coordinator goes through while a participant is away with a promise. They take some ten
/// kilobytes.
pub const MAX_OPENINGS: usize = 1 << 10;

/// A durable, ordered, append-only store of [`Record`]s that forgets only what has ended.
///
/// A log is shared by an [`Arc`], which is a log too: coordinators and resource managers of one
/// process each hold a clone of it.
///
/// # What every implementation owes
///
/// 1. **Order.** Records are numbered by [`Lsn`] in the order of their `append` calls. What
///    survives a crash is a *prefix* of that order: if a record is there afterwards, so is every
///    record appended before it.
/// 2. **Durability.** Once `wait(n)` or `poll_durable(n)` has returned `Ok`, or `durable() >= n`,
///    record `n` and all records before it survive any crash of the process or the machine. A log
///    never says so earlier, not even for a record that no caller waits for.
/// 3. **Failure is final.** After one failed write or sync, the log reports no further record as
///    durable. Every waiter gets [`LogError::Poisoned`]. The state of its record is *indeterminate*
///    until the log is opened again.
/// 4. **A refused append leaves nothing.** An error from `append` means that the record is not in
///    the log, and never will be.
/// 5. **Liveness.** `live` returns, in order, each record of the owner that no later
///    [`Fact::Ended`] of the same owner and transaction has ended; of the owner's [`Fact::Opened`]
///    it returns the last [`MAX_OPENINGS`]. Records that have ended may be gone.
/// 6. **No blocking.** `append` and `poll_durable` never wait for the medium. They may wait for
///    room in the queue, which is in memory.
/// 7. **Wakers are foreign code.** The log wakes and drops no waker under a lock, or on a thread
///    that other records wait for. A waker may poll its task on the spot, and the task may append
///    to this log and wait for it; and a waker may panic.
/// 8. **Numbers go on.** A log that is opened again continues the numbers after its last durable
///    record. So [`durable`](Self::durable) never goes back over the log's whole life. An older
///    copy of the log is recognised by that.
/// 9. **One holder.** A log that another process can take over checks in each write that it still
///    holds the log. Once it does not, no record of this handle becomes durable any more, and each
///    has a definite answer: `Ok` if it was durable before, and else [`LogError::Fenced`].
///    `durable` never counts records of the new holder. [`lost`](Self::lost) says so, also while
///    nothing is written. A log with files in one directory cannot be taken over while it is open.
///
/// The caller owes one thing: each owner's name has one writer at a time, which
/// [claims](Self::claim) the name first.
pub trait TransactionLog: Send + Sync + 'static {
    /// Returns the log's identity, which is the same over the log's whole life. A participant
    /// compares it with that of its own log: if both are the same log, the participant needs no
    /// forced writes of its own.
    fn id(&self) -> LogId;

    /// Returns a random number, never 0, that is drawn each time the log is opened. It is the same
    /// on all handles of one opening, and is stored nowhere.
    ///
    /// The id tells which log the records belong to; the incarnation tells which process has the
    /// log open. A directory that was copied has the id of its source, but two openings never share
    /// an incarnation. So whether two callers write to the *same* log follows from both numbers
    /// together, never from the id alone.
    fn incarnation(&self) -> u64;

    /// Returns the name of this opening of the log, as [`Call::log`](crate::participant::Call)
    /// carries it: the first half of the id, and the incarnation. Two handles with equal names
    /// write to the same log. There is no reason to override the default implementation.
    fn opening(&self) -> LogId {
        let mut bytes = self.id().to_bytes();
        bytes[8..].copy_from_slice(&self.incarnation().to_be_bytes());
        LogId::from_bytes(bytes)
    }

    /// Reserves an owner's name until the returned [`Claim`] is dropped. A caller claims a name
    /// before it writes under it. Of two writers at once, each would take the other for one that
    /// has crashed, and would end the transactions under way there.
    ///
    /// The default implementation grants every claim, without a check. A log should keep [`Claims`]
    /// instead, as the logs of this crate do. A log that wraps another one passes the call on.
    ///
    /// # Errors
    ///
    /// [`LogError::Claimed`]: another writer holds the name.
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        let _ = owner;
        Ok(Claim::unchecked())
    }

    /// Queues a record and returns its number, without waiting for the medium.
    /// [`Durability::Forced`] starts making it durable at once. A record with [`Durability::Lazy`]
    /// becomes durable with the next forced record, or when a caller waits for it.
    ///
    /// May block until there is room in the queue. Use [`commit_async`](Self::commit_async) from
    /// async code.
    ///
    /// # Errors
    ///
    /// The record is then *not* in the log: [`LogError::TooLarge`], [`LogError::Poisoned`],
    /// [`LogError::Full`], [`LogError::NoSegment`], [`LogError::Closed`], [`LogError::Fenced`].
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError>;

    /// Queues several records lazily, in the order given, and returns the number of the last one;
    /// `None` if there are none. A log may do this faster than one by one: `FileLog` takes its lock
    /// once for many.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Self::append), for the first record that is refused. The records before
    /// it are in the log. That record and those after it are not.
    fn append_all(&self, records: &mut dyn Iterator<Item = Record>) -> Result<Option<Lsn>, LogError> {
        let mut last = None;
        for record in records {
            last = Some(self.append(record, Durability::Lazy)?);
        }
        Ok(last)
    }

    /// Appends a forced record and blocks until it is durable: `append`, then `wait`. From async
    /// code use [`commit_async`](Self::commit_async). A log may do both faster in one: `FileLog`
    /// lets a lone caller write and sync on its own thread, which saves two switches of threads.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Self::append): the record is not in the log. Those of
    /// [`wait`](Self::wait): [`LogError::Poisoned`], or [`LogError::Closed`] if the log is closed
    /// meanwhile. Then it is *not known* whether the record is durable. After [`LogError::Fenced`] it
    /// is known: the record is not in the log.
    fn commit(&self, record: Record) -> Result<Lsn, LogError> {
        let lsn = self.append(record, Durability::Forced)?;
        self.wait(lsn)?;
        Ok(lsn)
    }

    /// Appends a forced record for a task that is going to wait for it: `append`, then
    /// `poll_durable`, but without the answer of the latter. Unless the record is durable when this
    /// returns, the log wakes the context's waker once [`poll_durable`](Self::poll_durable) has an
    /// answer. A log may do both faster in one: `FileLog` takes its lock once instead of twice.
    /// [`commit_async`](Self::commit_async) does the rest.
    ///
    /// # Errors
    ///
    /// Those of [`append`](Self::append): the record is not in the log, and no waker is woken.
    fn append_awaited(&self, record: Record, context: &mut Context<'_>) -> Result<Lsn, LogError> {
        let lsn = self.append(record, Durability::Forced)?;
        // Pending, ready or an error: the task itself asks again.
        let _ = self.poll_durable(lsn, context);
        Ok(lsn)
    }

    /// Returns a future that does what [`commit`](Self::commit) does. The record is appended when
    /// the future is first polled.
    ///
    /// ```
    /// # use ringpact::{Epoch, LogError, Name, TransactionLog, log::{Fact, Lsn, Record}};
    /// async fn open(log: &impl TransactionLog, owner: Name) -> Result<Lsn, LogError> {
    ///     log.commit_async(Record { owner, fact: Fact::Opened { epoch: Epoch::new(1) } }).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The future returns those of [`commit`](Self::commit).
    fn commit_async(&self, record: Record) -> Committing<'_, Self>
    where
        Self: Sized,
    {
        Committing::new(self, record)
    }

    /// Returns the number of the last record that is durable, or [`Lsn::NONE`] if there is none. It
    /// never goes back.
    fn durable(&self) -> Lsn;

    /// Blocks until the record is durable. If the record was appended lazily, this starts making it
    /// durable. From async code use [`poll_durable`](Self::poll_durable).
    ///
    /// # Errors
    ///
    /// [`LogError::Poisoned`]: it is *not known* whether the record is durable; only opening the
    /// log again tells. [`LogError::Closed`]: the same holds, because the log was closed without
    /// making the record durable. [`LogError::Fenced`]: the record is *surely not* in the log, and
    /// never will be.
    fn wait(&self, lsn: Lsn) -> Result<(), LogError>;

    /// Does what [`wait`](Self::wait) does, for tasks: returns the answer, or registers the
    /// context's waker and returns `Pending`. The log wakes the waker once the answer is ready. A
    /// waker may block for a while and does not keep others from being woken: `FileLog` has
    /// at most 16 threads for wakers. While 16 wakers of one log block, the log wakes no other task
    /// before one of them returns.
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>>;

    /// Returns the owner's live records in the order in which they were appended, including those
    /// not yet durable. Meant for opening an owner, not for every transaction: it looks at all live
    /// records of the log, O(n) for n of them.
    ///
    /// # Errors
    ///
    /// [`LogError::Poisoned`], [`LogError::Closed`], [`LogError::Fenced`].
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError>;

    /// Returns the owner's live openings, in order, each with the number of its record. By these
    /// numbers a coordinator shows that its log continues where an earlier opening ended.
    ///
    /// The default implementation knows no numbers and returns [`Lsn::NONE`] for each. A participant
    /// that has missed the last opening then refuses the next one, because nothing shows that this
    /// log is not an older copy. So a log should return the numbers, as those of this crate do. A log
    /// that wraps another one passes the call on.
    ///
    /// # Errors
    ///
    /// Those of [`live`](Self::live).
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        let epochs = self.live(owner)?.into_iter().filter_map(|record| record.fact.epoch());
        Ok(epochs.map(|epoch| (epoch, Lsn::NONE)).collect())
    }

    /// Returns the takeover if another holder has taken the log over, as far as this handle has heard
    /// of it. `None` does not prove that this handle still holds the log: only a write does. Once it
    /// is not `None`, it stays so, and it is not `None` once any call has returned
    /// [`LogError::Fenced`]. Writes nothing and does not block. It is called with each message to a
    /// resource manager, so it should cost no more than an atomic read.
    ///
    /// The default implementation returns `None`, for logs that cannot be taken over. A log that
    /// wraps another one passes the call on.
    fn lost(&self) -> Option<Takeover> {
        None
    }

    /// Does what [`lost`](Self::lost) does, for tasks: returns the takeover, or registers the
    /// context's waker and returns `Pending`. The log wakes the waker when it hears of a takeover, so
    /// that an idle coordinator learns of it. The log keeps every waker that is registered, and at
    /// most one of those that [wake the same task](std::task::Waker::will_wake).
    ///
    /// The default implementation asks `lost` and keeps no waker. A log that wraps another one passes
    /// the call on.
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        let _ = context;
        self.lost().map_or(Poll::Pending, Poll::Ready)
    }

    /// Returns the directory in which the log keeps its files, or `None` if it has no files in the
    /// file system. What belongs to a log and is too large for it is kept beside this directory: the
    /// [rings of a cluster](crate::sharding::ClusterBuilder::store).
    ///
    /// The default implementation returns `None`. A log that wraps another one passes the call on.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Returns counters of what the log has done since it was opened.
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
    fn lost(&self) -> Option<Takeover> {
        (**self).lost()
    }
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        (**self).poll_lost(context)
    }
    fn directory(&self) -> Option<&Path> {
        (**self).directory()
    }
    fn stats(&self) -> LogStats {
        (**self).stats()
    }
}

/// The number of a record in its log: 1, 2, 3 and so on, counted over the log's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(#[serde(with = "crate::exact::counter")] u64);

impl Lsn {
    /// The number before that of the first record.
    pub const NONE: Self = Self(0);

    /// Returns the record number with this value.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns its value.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the number after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// How soon a record must become durable. Exhaustive on purpose: a log that does not know one of
/// these can't keep its promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "every log must know all of them")]
pub enum Durability {
    /// A *forced* write: the log starts to make the record durable at once, because a caller is
    /// going to wait for it.
    Forced,
    /// The record becomes durable with the next forced write.
    Lazy,
}

/// The identity of a log: 128 random bits, drawn when the log is created and stored with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogId([u8; 16]);

impl LogId {
    /// The id of no log.
    pub const NONE: Self = Self([0; 16]);

    /// Returns the id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Draws a new id.
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

/// Reads what [`Display`](fmt::Display) prints: 32 hexadecimal digits.
impl FromStr for LogId {
    type Err = LogIdError;

    fn from_str(text: &str) -> Result<Self, LogIdError> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| is_hex).ok_or(LogIdError)?;
        Ok(Self(bits.to_be_bytes()))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

/// Counters since the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LogStats {
    /// Number of records appended.
    pub appended: u64,
    /// Number of records appended with [`Durability::Forced`]: what the literature counts as
    /// *forced log writes*.
    pub forced: u64,
    /// Number of times that the medium was synced for records. One sync serves all records that
    /// were queued meanwhile.
    pub syncs: u64,
}
