//! How a log is opened: read what is there, move it to a fresh segment, start the threads.

use std::{io, path::Path, sync::Arc};

use super::{
    FileLog, Recovery,
    contents::{self, Contents, NewestSegment, SegmentFile},
    directory::{self, Directory},
    format::{Rest, SegmentHeader},
    identity::{ClosingNote, Identity},
    io_failure::{io_error, refused},
    keeper::Keeper,
    limits::OPENING_SEGMENT_BYTES,
    notifier::Notifier,
    options::FileLogOptions,
    patience::Patience,
    pen::Pen,
    queue::{SegmentState, Shutdown},
    recover::Recovered,
    segment::{Segment, SpareSegment, framed_bytes, size_for},
    shared::{LogShared, frame_live},
    writer::Writer,
};
use crate::log::{LogError, LogId, random_incarnation};

impl FileLogOptions {
    /// Opens the log in this directory. Creates the directory and the log if they are absent,
    /// unless the log [must exist](Self::must_exist).
    ///
    /// What is there is read, checked and rewritten: the live records go, synced, to a fresh
    /// segment before anything is served. So what the log says after opening is what is on the
    /// medium, even if the log was poisoned before. Nothing is ever written behind a torn tail.
    ///
    /// Blocks while it reads the whole segment and writes the fresh one. From async code call it on
    /// a thread for blocking work.
    ///
    /// # Errors
    ///
    /// [`LogError::Locked`], [`LogError::Damaged`], [`LogError::SegmentsLost`],
    /// [`LogError::UnknownVersion`], [`LogError::Missing`]: nothing was changed.
    /// [`LogError::Full`]: there is no room for a fresh segment, and the log is as it was.
    /// [`LogError::Io`]: the log is as it was, or has already moved to the fresh segment.
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<FileLog, LogError> {
        let begun = self.platform.now();
        let incarnation = random_incarnation()?;
        // The path is made absolute because the process may change its working directory later.
        let path = std::path::absolute(&dir).map_err(|error| io_error(dir.as_ref(), "find", error))?;
        let patience = Arc::new(Patience::new(&self.platform));
        if self.must_exist {
            contents::must_exist(&*self.storage, &path, &patience)?; // before anything is made there
        }
        let dir = Arc::new(Directory::lock(self.storage.clone(), path, patience.clone())?);
        // Read what is there, and move it to a fresh segment.
        let Opening { log, copied, recovered, segment, replaced, closing } = begin(self, &dir)?;
        let recovery = Recovery {
            records: recovered.records,
            live: recovered.live.len(),
            live_transactions: recovered.live.transactions(),
            torn_bytes: recovered.torn_bytes,
            copied,
            elapsed: self.platform.now().saturating_duration_since(begun),
        };
        report(dir.path(), log, &recovery);
        // Start the threads: first those that wake tasks, then the keeper, then the writer.
        let state = SegmentState { room: segment.room(), bytes: segment.bytes(), configured: self.segment_bytes };
        let failed = |error| io_error(dir.path(), "start a thread for", error);
        let notifier = Notifier::start(&self.platform).map_err(failed)?;
        let (live, last) = (recovered.live, recovered.last);
        let shared = Arc::new(LogShared::new(live, last, state, &self.platform, notifier, patience));
        let active = segment.number();
        let keeper = Keeper { shared: shared.clone(), dir: dir.clone(), log, active, replaced };
        let keeper = self.platform.spawn("ringpact-keeper", move || keeper.run()).map_err(failed)?;
        let path = dir.path().to_owned();
        let (pen, seal_after) = (Pen::new(segment), self.seal_after);
        let writer = Writer { shared: shared.clone(), dir, pen, keeper, closing, seal_after };
        let thread = self.platform.spawn("ringpact-log", move || writer.run()).map_err(|error| {
            shared.shut_down(Shutdown::Abandon); // or the keeper would stay forever
            io_error(&path, "start a thread for", error)
        })?;
        Ok(FileLog::new((log, incarnation), (path, self.is_on_disk), shared, thread, recovery))
    }
}

/// Reads what is there, and begins a fresh segment with its live records. Each step is durable
/// before the next one.
fn begin(options: &FileLogOptions, dir: &Arc<Directory>) -> Result<Opening, LogError> {
    let Contents { known, newest, mut replaced, unfinished } = contents::read(dir)?;
    let (path, place) = (dir.path(), dir.place());
    // Tidy up, which needs no log.
    let cleaned = |error| refused(path, path, "clean up", error);
    unfinished.iter().try_for_each(|path| dir.remove(None, path)).map_err(cleaned)?;
    let (log, number, recovered, file) = match newest {
        Some(NewestSegment { header, recovered, file }) => (header.log, header.number, recovered, Some(file)),
        None if options.must_exist => return Err(LogError::Missing { path: path.to_owned() }),
        None => {
            dir.sync_parent()?;
            (LogId::random()?, 0, Recovered::default(), None)
        }
    };
    // The fresh segment, with all that is live. From here on it is the log.
    let bytes = size_for(options.segment_bytes.min(OPENING_SEGMENT_BYTES), framed_bytes(&recovered.live));
    let header = SegmentHeader { log, number: number + 1, bytes, rest: Rest::Zeros };
    let segment =
        begin_segment(dir, header, &recovered).map_err(|error| refused(path, path, "write a segment in", error))?;
    // The identity is written after the segment that it names. Its name becomes durable along with
    // the removals below.
    let identity = Identity { log, segment: header.number, place };
    let closing = identity.write(dir).map_err(|error| refused(path, path, "write the identity in", error))?;
    // Only now what was there before can go.
    if number > 0 {
        replaced.push(path.join(directory::name(number)));
    } else {
        dir.sync().map_err(cleaned)?;
    }
    replaced.iter().try_for_each(|path| dir.remove(None, path)).map_err(cleaned)?;
    let was_at = known.map_or(0, |known| known.identity.place);
    let copied = was_at != 0 && place != 0 && was_at != place;
    Ok(Opening { log, copied, recovered, segment, replaced: file, closing })
}

/// What an opening has found and made.
struct Opening {
    log: LogId,
    copied: bool,
    recovered: Recovered,
    segment: Segment,
    replaced: Option<SegmentFile>,
    closing: ClosingNote,
}

/// Reports an opening. The level is `WARN` if something was cut off, because that needs an
/// explanation (a crash is one).
#[cfg(feature = "tracing")]
fn report(dir: &Path, log: LogId, recovery: &Recovery) {
    let Recovery { records, live, live_transactions, torn_bytes, copied, elapsed } = *recovery;
    macro_rules! event {
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
        event!(WARN, "log opened, and a torn write was cut off");
    } else if copied {
        event!(WARN, "log opened, and its directory seems to be a copy");
    } else {
        event!(INFO, "log opened");
    }
}

#[cfg(not(feature = "tracing"))]
const fn report(_: &Path, _: LogId, _: &Recovery) {}

fn begin_segment(dir: &Arc<Directory>, header: SegmentHeader, recovered: &Recovered) -> io::Result<Segment> {
    let (frames, count) = frame_live(&recovered.live);
    let spare = SpareSegment::prepare(dir, header)?;
    spare.begin(dir, recovered.sequence + 1, recovered.last, &frames, count)
}
