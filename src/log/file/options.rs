//! How a log is opened: its limits, and the opening itself.

use std::{io, path::Path, sync::Arc, time::Duration};

use super::{
    FileLog, Recovery,
    directory::{self, Newest},
    format::{Rest, SegmentHeader, padded},
    keeper::Keeper,
    notifier::Notifier,
    queue::{Ending, SegmentState},
    recover::Recovered,
    segment::{Segment, Spare, framed_bytes, size_for},
    shared::{Shared, frame_live},
    storage::{Disk, Storage},
    writer::{Pen, Writer, tells_of_no_room},
};
use crate::{
    log::{LogError, LogId, random_incarnation},
    platform::Platform,
};

/// The smallest segment: a few batches and what is carried over. Smaller ones would be replaced all the time.
pub const MIN_SEGMENT_BYTES: u64 = 64 << 10;

/// The largest segment that can be configured; more would make opening read, and preparing write, for seconds. Live
/// records that need more get more.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// A segment's size unless configured: some 100,000 small records, and zero-filled in some ten milliseconds.
pub const DEFAULT_SEGMENT_BYTES: u64 = 16 << 20;

/// The first segment after opening is no larger, unless the live records need it, so that opening writes little. One of
/// the configured size is prepared behind it at once.
pub const OPENING_SEGMENT_BYTES: u64 = 1 << 20;

/// What may be queued in memory for one batch, in bytes, before appending waits. It bounds the memory, and how long one
/// sync can take; at 128 bytes a record it is room for 30,000 callers.
pub const MAX_QUEUE_BYTES: u64 = 4 << 20;

/// How long there must be nothing to do before the last batch is sealed, unless configured. Long enough to cost nothing
/// under load, short enough to leave the one ambiguous case (see `src/docs/media.md`) hardly any time.
pub const DEFAULT_SEAL_AFTER: Duration = Duration::from_millis(50);

/// How a [`FileLog`] is opened.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("shop.log");
/// let log = ringpact::FileLog::options().segment_bytes(1 << 20).open(path)?;
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileLogOptions {
    segment_bytes: u64,
    seal_after: Duration,
    storage: Arc<dyn Storage>,
    platform: Platform,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            seal_after: DEFAULT_SEAL_AFTER,
            storage: Arc::new(Disk),
            platform: Platform::default(),
        }
    }
}

impl FileLogOptions {
    /// The size of a segment, in bytes: rounded up to 4 KiB and kept within [`MIN_SEGMENT_BYTES`] and
    /// [`MAX_SEGMENT_BYTES`]. The directory holds two at the most; the first one after opening has
    /// [`OPENING_SEGMENT_BYTES`], where that is less. A segment is larger where the live records would
    /// take more than a quarter of it when it is prepared: then it is four times their size.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = padded(bytes.clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES));
        self
    }

    /// How long there must be nothing to do before the last batch is sealed by an empty one after it, so that damage to
    /// it could no longer be taken for a torn write. Closing seals at once. [`Duration::MAX`] leaves it to closing.
    #[must_use]
    pub fn seal_after(mut self, idle: Duration) -> Self {
        self.seal_after = idle;
        self
    }

    /// Where the files are kept, instead of the operating system's file system: for tests that inject faults.
    #[must_use]
    pub fn storage(mut self, storage: impl Storage) -> Self {
        self.storage = Arc::new(storage);
        self
    }

    /// Has the log live on other threads and another clock than the system's.
    #[doc(hidden)]
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Opens the log in this directory; creates either where absent.
    ///
    /// What was there is read, checked, and written anew: the live records go, synced, to a fresh segment before
    /// anything is served. So what the log says after opening is what is on the medium, even where the one before was
    /// poisoned, and nothing is ever written behind a torn tail.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Damaged`], [`LogError::UnknownVersion`]: nothing was changed.
    /// [`LogError::Full`]: there is no room for a fresh segment; the log is as it was. [`LogError::Io`]: as it was, or
    /// already moved to the fresh segment.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<FileLog, LogError> {
        let begun = self.platform.now();
        let incarnation = random_incarnation()?;
        let (dir, storage) = (dir.as_ref(), &*self.storage);
        storage.create_dir(dir).map_err(|error| refused(dir, dir, "create", error))?;
        let lock_path = dir.join(directory::LOCK_NAME);
        let lock = storage
            .lock(&lock_path)
            .map_err(|error| refused(dir, &lock_path, "lock", error))?
            .ok_or_else(|| LogError::Locked { path: dir.to_owned() })?;
        let mut contents = directory::read(storage, dir)?;
        directory::remove(storage, dir, &contents.unfinished).map_err(|error| refused(dir, dir, "clean up", error))?;
        let (log, number, recovered, replaced) = match contents.newest {
            Some(Newest { header, recovered, file }) => (header.log, header.number, recovered, Some(file)),
            None => {
                sync_parent(storage, dir)?;
                (LogId::random()?, 0, Recovered::default(), None)
            }
        };
        let bytes = size_for(self.segment_bytes.min(OPENING_SEGMENT_BYTES), framed_bytes(&recovered.live));
        let header = SegmentHeader { log, number: number + 1, bytes, rest: Rest::Zeros };
        let segment =
            begin(storage, dir, header, &recovered).map_err(|error| refused(dir, dir, "write a segment in", error))?;
        if number > 0 {
            contents.replaced.push(dir.join(directory::name(number)));
        }
        directory::remove(storage, dir, &contents.replaced).map_err(|error| refused(dir, dir, "clean up", error))?;
        let recovery = Recovery {
            records: recovered.records,
            live: recovered.live.len(),
            live_transactions: recovered.live.transactions(),
            torn_bytes: recovered.torn_bytes,
            elapsed: self.platform.now().saturating_duration_since(begun),
        };
        tell(dir, log, &recovery);
        let state = SegmentState { room: segment.room(), bytes: segment.bytes(), configured: self.segment_bytes };
        let failed = |error| directory::io_error(dir, "start a thread for", error);
        let notifier = Notifier::start(&self.platform).map_err(failed)?;
        let shared = Arc::new(Shared::new(recovered.live, recovered.last, state, &self.platform, notifier));
        let keeper = Keeper {
            shared: shared.clone(),
            storage: self.storage.clone(),
            dir: dir.to_owned(),
            log,
            active: segment.number(),
            replaced,
        };
        let keeper = self.platform.spawn("ringpact-keeper", move || keeper.run()).map_err(failed)?;
        let writer = Writer {
            shared: shared.clone(),
            storage: self.storage.clone(),
            dir: dir.to_owned(),
            pen: Pen::new(segment),
            keeper,
            seal_after: self.seal_after,
            lock,
        };
        let thread = self.platform.spawn("ringpact-log", move || writer.run()).map_err(|error| {
            shared.end(Ending::Abandon); // or the keeper would stay for ever
            failed(error)
        })?;
        Ok(FileLog::new((log, incarnation), dir.to_owned(), shared, thread, recovery))
    }
}

/// Makes the directory's own name durable, before the first segment of a log is made in it. Where the directory was
/// there already, whoever made it may have been killed before he could do so himself.
fn sync_parent(storage: &dyn Storage, dir: &Path) -> Result<(), LogError> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match storage.sync_dir(parent) {
        // One may use a directory and yet not be allowed to read the one above. Then it is somebody else's to keep.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
            Err(directory::io_error(parent, "sync", error))
        }
        _ => Ok(()),
    }
}

/// Tells of an opening: at the level `WARN` where something was cut off, for that wants an explanation (a crash is one).
#[cfg(feature = "tracing")]
fn tell(dir: &Path, log: LogId, recovery: &Recovery) {
    let Recovery { records, live, live_transactions, torn_bytes, elapsed } = *recovery;
    macro_rules! tell {
        ($level:ident, $message:literal) => {
            tracing::event!(
                target: "ringpact::log",
                tracing::Level::$level,
                dir = %dir.display(),
                %log,
                records,
                live,
                live_transactions,
                torn_bytes,
                elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
                $message
            )
        };
    }
    if torn_bytes > 0 { tell!(WARN, "log opened, a torn write cut off") } else { tell!(INFO, "log opened") }
}

#[cfg(not(feature = "tracing"))]
const fn tell(_: &Path, _: LogId, _: &Recovery) {}

fn begin(storage: &dyn Storage, dir: &Path, header: SegmentHeader, recovered: &Recovered) -> io::Result<Segment> {
    let (frames, count) = frame_live(&recovered.live);
    let spare = Spare::prepare(storage, dir, header)?;
    spare.begin(storage, dir, recovered.sequence + 1, recovered.last, &frames, count)
}

fn refused(dir: &Path, path: &Path, action: &'static str, error: io::Error) -> LogError {
    if tells_of_no_room(&error) {
        LogError::Full { path: dir.to_owned(), error: error.into() }
    } else {
        directory::io_error(path, action, error)
    }
}
