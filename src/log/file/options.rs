//! How a log is opened: its limits, and the opening itself.

use std::{io, path::Path, sync::Arc, time::Duration};

use super::{
    FileLog, Recovery,
    directory::{self, Directory, Newest, refused},
    format::{Rest, SegmentHeader, padded},
    identity::{Closing, Identity},
    keeper::Keeper,
    notifier::Notifier,
    patience::Patience,
    queue::{Ending, SegmentState},
    recover::Recovered,
    segment::{Segment, Spare, framed_bytes, size_for},
    shared::{Shared, frame_live},
    storage::{Disk, Storage},
    writer::{Pen, Writer},
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

/// The shortest time after which a batch is sealed: with less the writer would do nothing but look at the clock.
pub const MIN_SEAL_AFTER: Duration = Duration::from_millis(1);

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
    must_exist: bool,
    storage: Arc<dyn Storage>,
    platform: Platform,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            seal_after: DEFAULT_SEAL_AFTER,
            must_exist: false,
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
    /// it could no longer be taken for a torn write: [`MIN_SEAL_AFTER`] at the least. Closing seals at once.
    /// [`Duration::MAX`] leaves it to closing.
    #[must_use]
    pub fn seal_after(mut self, idle: Duration) -> Self {
        self.seal_after = idle.max(MIN_SEAL_AFTER);
        self
    }

    /// Whether there must be a log already. If there is none, opening refuses with [`LogError::Missing`] and makes nothing.
    ///
    /// Set it for a log that has been opened before. The mount point of a volume that is not mounted looks like the place of a new
    /// log, and an empty log has no decisions: what the real one has decided would be unknown. As provided it is `false`, because the
    /// first opening has to begin the log.
    ///
    /// ```
    /// # use ringpact::{FileLog, LogError};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("shop.log");
    /// let refused = FileLog::options().must_exist(true).open(&path);
    /// assert!(matches!(refused, Err(LogError::Missing { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn must_exist(mut self, must_exist: bool) -> Self {
        self.must_exist = must_exist;
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

    /// Opens the log in this directory; creates either where absent, unless it [must exist](Self::must_exist).
    ///
    /// What was there is read, checked, and written anew: the live records go, synced, to a fresh segment before
    /// anything is served. So what the log says after opening is what is on the medium, even where the one before was
    /// poisoned, and nothing is ever written behind a torn tail.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Damaged`], [`LogError::SegmentsLost`], [`LogError::UnknownVersion`],
    /// [`LogError::Missing`]: nothing was changed.
    /// [`LogError::Full`]: there is no room for a fresh segment; the log is as it was. [`LogError::Io`]: as it was, or
    /// already moved to the fresh segment.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<FileLog, LogError> {
        let begun = self.platform.now();
        let incarnation = random_incarnation()?;
        // Absolute, for the process may come to another directory meanwhile.
        let path = std::path::absolute(&dir).map_err(|error| directory::io_error(dir.as_ref(), "find", error))?;
        let patience = Arc::new(Patience::new(&self.platform));
        if self.must_exist {
            directory::must_exist(&*self.storage, &path, &patience)?; // before anything is made there
        }
        let dir = Arc::new(Directory::lock(self.storage.clone(), path, patience.clone())?);
        let Opened { log, copied, recovered, segment, replaced, closing } = self.begin(&dir)?;
        let recovery = Recovery {
            records: recovered.records,
            live: recovered.live.len(),
            live_transactions: recovered.live.transactions(),
            torn_bytes: recovered.torn_bytes,
            copied,
            elapsed: self.platform.now().saturating_duration_since(begun),
        };
        tell(dir.path(), log, &recovery);
        let state = SegmentState { room: segment.room(), bytes: segment.bytes(), configured: self.segment_bytes };
        let failed = |error| directory::io_error(dir.path(), "start a thread for", error);
        let notifier = Notifier::start(&self.platform).map_err(failed)?;
        let (live, last) = (recovered.live, recovered.last);
        let shared = Arc::new(Shared::new(live, last, state, &self.platform, notifier, patience));
        let active = segment.number();
        let keeper = Keeper { shared: shared.clone(), dir: dir.clone(), log, active, replaced };
        let keeper = self.platform.spawn("ringpact-keeper", move || keeper.run()).map_err(failed)?;
        let path = dir.path().to_owned();
        let (pen, seal_after) = (Pen::new(segment), self.seal_after);
        let writer = Writer { shared: shared.clone(), dir, pen, keeper, closing, seal_after };
        let thread = self.platform.spawn("ringpact-log", move || writer.run()).map_err(|error| {
            shared.end(Ending::Abandon); // or the keeper would stay for ever
            directory::io_error(&path, "start a thread for", error)
        })?;
        Ok(FileLog::new((log, incarnation), path, shared, thread, recovery))
    }

    /// Reads what is there, and begins a fresh segment with it.
    fn begin(&self, dir: &Arc<Directory>) -> Result<Opened, LogError> {
        let directory::Contents { known, newest, mut replaced, unfinished } = dir.read()?;
        let (path, place) = (dir.path(), dir.place());
        let cleaned = |error| refused(path, path, "clean up", error);
        unfinished.iter().try_for_each(|path| dir.remove(None, path)).map_err(cleaned)?;
        let (log, number, recovered, file) = match newest {
            Some(Newest { header, recovered, file }) => (header.log, header.number, recovered, Some(file)),
            None if self.must_exist => return Err(LogError::Missing { path: path.to_owned() }),
            None => {
                dir.sync_parent()?;
                (LogId::random()?, 0, Recovered::default(), None)
            }
        };
        let bytes = size_for(self.segment_bytes.min(OPENING_SEGMENT_BYTES), framed_bytes(&recovered.live));
        let header = SegmentHeader { log, number: number + 1, bytes, rest: Rest::Zeros };
        let segment =
            begin(dir, header, &recovered).map_err(|error| refused(path, path, "write a segment in", error))?;
        // Never before the segment that it says there is. Its name becomes durable along with what is removed.
        let identity = Identity { log, segment: header.number, place };
        let closing = identity.write(dir).map_err(|error| refused(path, path, "write the identity in", error))?;
        if number > 0 {
            replaced.push(path.join(directory::name(number)));
        } else {
            dir.sync().map_err(cleaned)?;
        }
        replaced.iter().try_for_each(|path| dir.remove(None, path)).map_err(cleaned)?;
        let was_at = known.map_or(0, |known| known.identity.place);
        let copied = was_at != 0 && place != 0 && was_at != place;
        Ok(Opened { log, copied, recovered, segment, replaced: file, closing })
    }
}

/// What an opening has found and made.
struct Opened {
    log: LogId,
    copied: bool,
    recovered: Recovered,
    segment: Segment,
    replaced: Option<directory::SegmentFile>,
    closing: Closing,
}

/// Tells of an opening: at the level `WARN` where something was cut off, for that wants an explanation (a crash is one).
#[cfg(feature = "tracing")]
fn tell(dir: &Path, log: LogId, recovery: &Recovery) {
    let Recovery { records, live, live_transactions, torn_bytes, copied, elapsed } = *recovery;
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
                copied,
                elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
                $message
            )
        };
    }
    if torn_bytes > 0 {
        tell!(WARN, "log opened, a torn write cut off");
    } else if copied {
        tell!(WARN, "log opened, a copy of the directory that it was in, by all appearances");
    } else {
        tell!(INFO, "log opened");
    }
}

#[cfg(not(feature = "tracing"))]
const fn tell(_: &Path, _: LogId, _: &Recovery) {}

fn begin(dir: &Arc<Directory>, header: SegmentHeader, recovered: &Recovered) -> io::Result<Segment> {
    let (frames, count) = frame_live(&recovered.live);
    let spare = Spare::prepare(dir, header)?;
    spare.begin(dir, recovered.sequence + 1, recovered.last, &frames, count)
}
