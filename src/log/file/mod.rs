//! The log on disk. `src/docs/media.md` says what it relies on, and has its format byte for byte.
//!
//! From the outside in: this file and [`options`] are what users see; `shared` is where callers and the writer meet,
//! `queue` what is decided there; `writer` is the thread that writes, on a `segment` in a `directory`, and `keeper` the
//! one that prepares segments and removes them; `gate` and `wakers` are where threads and tasks wait, and `notifier` has the threads on which tasks are woken; `format` and
//! `recover` are bytes in, answers out; [`storage`] is the seam to the medium. `src/docs/log_speed.md` says why.

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
use queue::Ending;
use shared::{Lead, Shared};

mod directory;
mod failure;
mod format;
mod gate;
mod identity;
pub mod inspect;
mod keeper;
mod notifier;
pub mod options;
mod patience;
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
/// Group commit: callers queue in memory, one thread writes and syncs all that queued while it was busy, and everybody
/// waits only for the sync that his record is in. There is no artificial delay. Records of transactions that have ended
/// are dropped, live ones carried over, so that the directory stays at two segments at the most.
///
/// ```
/// use ringpact::{Durability, Epoch, Fact, FileLog, Name, Record, TransactionLog};
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
/// Dropping it closes it: what is queued is written and synced first. To learn whether that worked, use
/// [`close`](Self::close). A handle can be shared by an [`Arc`].
///
/// Failures, beyond what [`TransactionLog`] says of them:
/// - A failed write or sync *poisons* the log: its thread ends, and the directory can be opened again at once, which
///   reads back what is really there. Of any other handle on the poisoned log nothing can be written any more.
/// - A *full disk* shows when the next segment is prepared. Records that need that segment are refused with
///   [`LogError::Full`], smaller ones may still fit into the active one; all that were accepted have their room already.
///   Each refused `append` was an attempt, so appending works again as soon as there is space. Only while it makes
///   this attempt does `append` wait for the disk. (Where the file system needs new space to overwrite old,
///   as copy-on-write ones do, it can run out of it at any write; that poisons the log.)
/// - A `wait` for a number that was not given out waits for the last one that was.
/// - `wait` and `poll_durable` give [`LogError::Closed`] where the log was abandoned first; like after
///   [`LogError::Poisoned`] only reopening tells whether the record is there.
pub struct FileLog {
    id: LogId,
    incarnation: u64,
    claims: Claims,
    dir: PathBuf,
    shared: Arc<Shared>,
    writer: Mutex<Option<Thread>>,
    recovery: Recovery,
}

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// Records read.
    pub records: u64,
    /// Of them, those that are live.
    pub live: usize,
    /// The transactions that these are about. One is counted once, whoever has records of it.
    pub live_transactions: usize,
    /// Bytes of a torn write at the end, which were cut off. No record in them was ever reported durable.
    pub torn_bytes: u64,
    /// Whether the directory is, by all appearances, a copy of the one that the log was last opened in: by a backup, an
    /// image, or a move to another file system. A file system that numbers its files anew each time makes it appear so, too;
    /// and a copy of the disk as a whole, with all its numbers, does not. So it is told, and nothing is refused for it.
    pub copied: bool,
    /// How long opening took.
    pub elapsed: Duration,
}

impl FileLog {
    /// Opens the log in this directory with the default [`options`](Self::options); creates either where absent.
    ///
    /// # Errors
    /// See [`FileLogOptions::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, LogError> {
        Self::options().open(dir)
    }

    /// How to open a log otherwise: other segments, another storage.
    #[must_use]
    pub fn options() -> FileLogOptions {
        FileLogOptions::default()
    }

    fn new(
        (id, incarnation): (LogId, u64),
        dir: PathBuf,
        shared: Arc<Shared>,
        writer: Thread,
        recovery: Recovery,
    ) -> Self {
        Self { id, incarnation, claims: Claims::default(), dir, shared, writer: Mutex::new(Some(writer)), recovery }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// What was found when it was opened.
    #[must_use]
    pub const fn recovery(&self) -> Recovery {
        self.recovery
    }

    /// The memory that it has for records at the moment, in bytes, used or not: the batch being filled, the batch being
    /// written, and the live records.
    ///
    /// It is bounded: each batch by [`MAX_QUEUE_BYTES`](options::MAX_QUEUE_BYTES) (or one record, if that is larger),
    /// where a buffer may have grown to twice of that; the live records by a small constant times their size (see
    /// [`LiveRecords`](super::LiveRecords)). Carrying live records over takes twice their size for as long as that
    /// lasts. Beside it there are about two wakers for each task that waits, one for each record in a batch that came with
    /// its task's and, where segments are written past the system's cache, 1 MiB for each.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes()
    }

    /// Writes and syncs all that is queued, and gives the directory back.
    ///
    /// # Errors
    /// Not everything that was appended is known to be durable: [`LogError::Poisoned`], or [`LogError::Closed`] after
    /// [`abandon`](Self::abandon). [`LogError::Io`]: everything is durable, but it could not be noted that the log was
    /// closed, so that damage at its end may be taken for what a crash leaves.
    pub fn close(self) -> Result<(), LogError> {
        self.end(Ending::Close);
        self.shared.outcome(|error| LogError::Io {
            path: self.dir.clone(),
            action: "note the end of the log in",
            error,
        })
    }

    /// Closes the log as a crash of the process would: what is queued is not written, and whoever waits or asks gets
    /// [`LogError::Closed`]. When this returns, the directory can be opened again, even while handles on this log are
    /// still around. It is meant for tests of what is built on a log; it loses nothing that was reported durable.
    ///
    /// It waits for the one operation that the disk may be at.
    pub fn abandon(&self) {
        self.end(Ending::Abandon);
    }

    fn full(&self, error: Arc<std::io::Error>) -> LogError {
        let path = self.dir.clone();
        if failure::tells_of_no_room(&error) {
            LogError::Full { path, error }
        } else {
            LogError::NoSegment { path, error }
        }
    }

    fn end(&self, ending: Ending) {
        self.shared.end(ending);
        // No code of others runs on the writer's thread, so it never is the one that calls.
        if let Some(writer) = self.writer.lock().take() {
            // The writer catches its own panics and reports them as failures, so there is nothing to learn here.
            writer.join();
        }
    }
}

impl Drop for FileLog {
    fn drop(&mut self) {
        self.end(Ending::Close);
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
            Lead::Wait(batch) => batch,
            Lead::Write(pen, batch) => {
                writer::lead(&self.shared, pen, batch);
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

/// The same for many records, some at a time: their encodings one behind the other, and how long each is.
fn encoded_all(
    records: &mut dyn Iterator<Item = Record>,
    mut append: impl FnMut(&[u8], &[usize]) -> Result<Lsn, LogError>,
) -> Result<Option<Lsn>, LogError> {
    /// While these are taken in, everybody else waits.
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
    /// Larger records are rare.
    const BUFFER_BYTES: usize = 16 << 10;
    // Taken, not borrowed: while one simulated thread waits for room, others of the same real one append.
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
