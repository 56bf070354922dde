//! The log on disk. `src/docs/media.md` says what it relies on, and has its format byte for byte;
//! `src/docs/log_speed.md` says why it is fast.
//!
//! # What is in which file, from the outside in
//!
//! 1. What users see: this file, [`options`] (with `limits`), and `opening`, which reads a
//!    directory and starts the threads.
//! 2. Where callers and the log's threads meet: `shared` (locks and waiting) and `queue` (what is
//!    decided there, without locks or I/O). Threads wait at a `batch_gate`. Tasks leave their
//!    `wakers`, and the threads of `notifier` wake them.
//! 3. The log's threads: `writer` holds the `pen` and writes batches; `keeper` prepares segments
//!    and removes them.
//! 4. Files: a `segment` is written in a `directory`. `contents` and `recover` read what is there,
//!    and `identity` remembers that there was a log. `format` has the bytes.
//! 5. Failures: `io_failure` tells what ends a log, and `patience` tries again what may pass.
//! 6. [`storage`] is the seam to the medium; [`mod@inspect`] looks at a log from outside.

use std::{
    cell::Cell,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;

use super::{Claim, Claims, Durability, LogError, LogId, LogStats, Lsn, MAX_RECORD_BYTES, Record, TransactionLog};
use crate::{
    id::{Epoch, Name},
    platform::Thread,
};
use queue::Shutdown;
use shared::{CommitPath, LogShared};

mod batch_gate;
mod contents;
mod directory;
mod format;
mod identity;
pub mod inspect;
mod io_failure;
mod keeper;
mod limits;
mod notifier;
mod opening;
pub mod options;
mod patience;
mod pen;
mod queue;
mod recover;
mod segment;
mod shared;
pub mod storage;
mod wakers;
mod writer;

pub use options::FileLogOptions;

/// A transaction log in a directory of its own, which one process at a time has open.
///
/// Shared by an [`Arc`]: all methods take `&self`, and all threads may call them at once.
///
/// Group commit: callers queue in memory, and one thread writes and syncs all that was queued while
/// it was busy. Each caller waits only for the sync that its record is in. There is no artificial
/// delay. Records of transactions that have ended are dropped and live ones carried over, so that
/// the directory holds two segments at most.
///
/// ```
/// use ringpact::{Epoch, FileLog, Name, TransactionLog, log::{Durability, Fact, Record}};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("shop.log");
/// let log = FileLog::open(&path)?;                       // a directory; created if it is not there
/// let owner = Name::new("shop")?;
/// let record = Record { owner: owner.clone(), fact: Fact::Opened { epoch: Epoch::new(1) } };
/// let lsn = log.append(record.clone(), Durability::Forced)?;
/// log.wait(lsn)?;                                        // from here on it survives any crash
/// log.close()?;
///
/// assert_eq!(FileLog::open(&path)?.live(&owner)?, [record]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping the log closes it: what is queued is written and synced first, so the drop blocks. To
/// learn whether that worked, use [`close`](Self::close).
///
/// Failures, beyond what [`TransactionLog`] says of them:
///
/// - A failed write or sync *poisons* the log: its threads end, and the directory can be opened
///   again at once, which reads what is really there. No handle on the poisoned log can write any
///   more.
/// - A *full disk* shows when the next segment is prepared. Records that need that segment are
///   refused with [`LogError::Full`]; smaller ones may still fit into the active one. All records
///   that were accepted have their room already. Each refused `append` was an attempt, so appending
///   works again as soon as there is space. `append` waits for the disk only while it makes this
///   attempt. (If the file system needs new space to overwrite old data, as copy-on-write file
///   systems do, it can run out of it at any write; that poisons the log.)
/// - A `wait` for a number that was not given out waits for the last one that was.
/// - `wait` and `poll_durable` return [`LogError::Closed`] if the log was abandoned first. As after
///   [`LogError::Poisoned`], only opening the log again tells whether the record is there.
pub struct FileLog {
    id: LogId,
    incarnation: u64,
    claims: Claims,
    dir: PathBuf,
    /// Whether the directory is one of the operating system's.
    is_on_disk: bool,
    shared: Arc<LogShared>,
    writer: Mutex<Option<Thread>>,
    recovery: Recovery,
}

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Number of records read.
    pub records: u64,
    /// Number of those records that are live.
    pub live: usize,
    /// Number of transactions that the live records are about. A transaction is counted once,
    /// however many owners have records of it.
    pub live_transactions: usize,
    /// Bytes of a torn write at the end, which were cut off. No record in them was ever reported
    /// durable.
    pub torn_bytes: u64,
    /// Whether the directory seems to be a copy of the one in which the log was last opened: by a
    /// backup, an image, or a move to another file system. A file system that numbers its files
    /// again at each mount makes it seem so, too. A copy of the disk as a whole, with all its
    /// numbers, does not. So this is reported, and nothing is refused because of it.
    pub copied: bool,
    /// How long the opening took.
    pub elapsed: Duration,
}

impl FileLog {
    /// Opens the log in this directory with the default [`options`](Self::options). Creates the
    /// directory and the log if they are absent. Blocks; see [`FileLogOptions::open`].
    ///
    /// # Errors
    ///
    /// Those of [`FileLogOptions::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::options().open(dir)
    }

    /// Returns the options for opening a log in another way: other segments, another storage.
    #[must_use]
    pub fn options() -> FileLogOptions {
        FileLogOptions::default()
    }

    fn new(
        (id, incarnation): (LogId, u64),
        (dir, is_on_disk): (PathBuf, bool),
        shared: Arc<LogShared>,
        writer: Thread,
        recovery: Recovery,
    ) -> Self {
        let (claims, writer) = (Claims::default(), Mutex::new(Some(writer)));
        Self { id, incarnation, claims, dir, is_on_disk, shared, writer, recovery }
    }

    /// Returns the absolute path of the log's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns what was found when the log was opened.
    #[must_use]
    pub const fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// Returns the memory that the log has for records at the moment, in bytes, used or not: for
    /// the batch being filled, the batch being written, and the live records.
    ///
    /// It is bounded. Each batch takes at most [`MAX_QUEUE_BYTES`](options::MAX_QUEUE_BYTES), or
    /// one record if that is larger; its buffer may have grown to twice of that. The live records
    /// take a small constant times their size (see [`LiveRecords`](super::LiveRecords)), and twice
    /// their size more while they are carried over.
    ///
    /// Not counted are about two wakers for each task that waits, one for each record in a batch
    /// that came with its task's waker and, if segments are written past the system's cache, 1 MiB
    /// for each segment.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes()
    }

    /// Writes and syncs all that is queued, then gives the directory back. Blocks until that is
    /// done.
    ///
    /// # Errors
    ///
    /// [`LogError::Poisoned`], or [`LogError::Closed`] after [`abandon`](Self::abandon): not
    /// everything that was appended is known to be durable. [`LogError::Io`]: everything is
    /// durable, but the log could not note that it was closed. So damage at its end may be taken
    /// for what a crash leaves.
    pub fn close(self) -> Result<(), LogError> {
        self.shut_down(Shutdown::Close);
        self.shared.outcome(|error| LogError::Io {
            path: self.dir.clone(),
            action: "note the end of the log in",
            error,
        })
    }

    /// Closes the log as a crash of the process would: what is queued is not written, and all
    /// waiting and later calls get [`LogError::Closed`]. When this returns, the directory can be
    /// opened again, even while handles on this log still exist. Records that were reported durable
    /// are not lost. This is meant for tests of what is built on a log.
    ///
    /// Blocks until the disk has finished the operation that it is at, if there is one.
    pub fn abandon(&self) {
        self.shut_down(Shutdown::Abandon);
    }

    fn full(&self, error: Arc<std::io::Error>) -> LogError {
        let path = self.dir.clone();
        if io_failure::is_out_of_space(&error) {
            LogError::Full { path, error }
        } else {
            LogError::NoSegment { path, error }
        }
    }

    fn shut_down(&self, how: Shutdown) {
        self.shared.shut_down(how);
        // No foreign code runs on the writer's thread, so the caller is never that thread itself.
        if let Some(writer) = self.writer.lock().take() {
            // The writer catches its own panics and reports them as failures, so `join` has nothing
            // to tell.
            writer.join();
        }
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.shut_down(Shutdown::Close);
    }
}

impl fmt::Debug for FileLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileLog").field("id", &self.id).field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl TransactionLog for FileLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.claims.claim(owner)
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        encoded(&record, |encoded| self.shared.append(encoded, durability, |error| self.full(error)))
    }

    fn append_all(&self, records: &mut dyn Iterator<Item = Record>) -> Result<Option<Lsn>, LogError> {
        encoded_all(records, |encoded, lengths| self.shared.append_all(encoded, lengths, |error| self.full(error)))
    }

    fn commit(&self, record: Record) -> Result<Lsn, LogError> {
        let (lsn, lead) = encoded(&record, |encoded| self.shared.append_and_lead(encoded, |error| self.full(error)))?;
        let batch = match lead {
            CommitPath::Wait(batch) => batch,
            CommitPath::Write(pen, batch) => {
                writer::write_on_callers_thread(&self.shared, pen, batch);
                batch.number
            }
        };
        self.shared.wait_for(lsn, batch).map(|()| lsn)
    }

    fn append_awaited(&self, record: Record, context: &mut Context<'_>) -> Result<Lsn, LogError> {
        encoded(&record, |encoded| self.shared.append_awaited(encoded, context.waker(), |error| self.full(error)))
    }

    fn durable(&self) -> Lsn {
        self.shared.durable()
    }

    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.shared.wait(lsn)
    }

    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        self.shared.poll(lsn, context.waker()).map_or(Poll::Pending, Poll::Ready)
    }

    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.shared.with_live(|live| live.of(owner))
    }

    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.shared.with_live(|live| live.openings_of(owner))
    }

    fn directory(&self) -> Option<&Path> {
        self.is_on_disk.then_some(&*self.dir)
    }

    fn stats(&self) -> LogStats {
        self.shared.stats()
    }
}

/// Encodes the record into a buffer that each thread keeps, so that appending allocates nothing.
fn encoded<T>(record: &Record, append: impl FnOnce(&[u8]) -> Result<T, LogError>) -> Result<T, LogError> {
    with_buffer(|buffer| match record.encode_to(buffer) {
        Some(length) => append(&buffer[..length]),
        None => encoded_large(record, append),
    })
}

/// Does the same for many records, some at a time: `append` gets their encodings one after the
/// other, and the length of each.
fn encoded_all(
    records: &mut dyn Iterator<Item = Record>,
    mut append: impl FnMut(&[u8], &[usize]) -> Result<Lsn, LogError>,
) -> Result<Option<Lsn>, LogError> {
    /// Maximum number of records that are appended at once. All other callers wait meanwhile.
    const AT_ONCE: usize = 64;
    with_buffer(|buffer| {
        let (mut last, mut end, mut lengths) = (None, 0, Vec::with_capacity(AT_ONCE));
        for record in records {
            let mut encoded = (lengths.len() < AT_ONCE).then(|| record.encode_to(&mut buffer[end..])).flatten();
            if encoded.is_none() && end > 0 {
                last = Some(append(&buffer[..end], &lengths)?);
                (end, encoded) = (0, record.encode_to(buffer));
                lengths.clear();
            }
            match encoded {
                Some(length) => {
                    lengths.push(length);
                    end += length;
                }
                None => last = Some(encoded_large(&record, |encoded| append(encoded, &[encoded.len()]))?),
            }
        }
        if end > 0 {
            last = Some(append(&buffer[..end], &lengths)?);
        }
        Ok(last)
    })
}

fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    /// Size of the buffer. Larger records are rare.
    const BUFFER_BYTES: usize = 16 << 10;
    // The buffer is taken, not borrowed: while one simulated thread waits for room, others of the
    // same real thread append.
    let mut buffer = BUFFER.take();
    buffer.resize(BUFFER_BYTES, 0);
    let result = work(&mut buffer);
    BUFFER.set(buffer);
    result
}

#[cold]
fn encoded_large<T>(record: &Record, append: impl FnOnce(&[u8]) -> Result<T, LogError>) -> Result<T, LogError> {
    let length = record.encoded_len();
    if length > MAX_RECORD_BYTES {
        return Err(LogError::TooLarge { length });
    }
    let mut buffer = Vec::with_capacity(length);
    record.encode_into(&mut buffer);
    append(&buffer)
}
