//! A log's directory: the names in it, and what to make of them when it is opened.
//!
//! A segment gets its name only once it holds, durably, everything that the one before it is needed for; the one before
//! is removed after that. So the segment with the highest number is the log, one before it may be left over from a
//! crash, and anything else that bears a segment's name is a reason to refuse.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    failure::{context, not_ours, of_sync, of_sync_dir, tells_of_no_room},
    format::{BLOCK, BadSegment, SegmentHeader, VERSION},
    identity::{self, Known},
    patience::Patience,
    recover::{Recovered, Source, Unreadable, recover},
    storage::{LockGuard, Storage, StorageFile},
};
use crate::log::LogError;

/// The file whose lock means that somebody has the log open.
pub(super) const LOCK_NAME: &str = "lock";

const PREFIX: &str = "segment-";
const SUFFIX: &str = ".log";
const TEMPORARY: &str = ".log.new";

/// The name of the segment with this number.
pub(super) fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{SUFFIX}")
}

/// The name that it has until it is ready.
pub(super) fn temporary_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{TEMPORARY}")
}

/// The number of the segment that has this name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    number_in(name, SUFFIX)
}

/// The number of the unfinished segment that has this name.
pub(super) fn number_of_unfinished(name: &str) -> Option<u64> {
    number_in(name, TEMPORARY)
}

/// The number in a name of ours; names that we don't give are not ours.
fn number_in(text: &str, suffix: &str) -> Option<u64> {
    let number = u64::from_str_radix(text.strip_prefix(PREFIX)?.strip_suffix(suffix)?, 16).ok()?;
    (format!("{PREFIX}{number:016x}{suffix}") == text).then_some(number)
}

/// Refuses where there is nothing of a log. Makes nothing.
pub(super) fn must_exist(storage: &dyn Storage, path: &Path, patience: &Patience) -> Result<(), LogError> {
    let is_of_a_log = |name: &String| number_of(name).is_some() || name == identity::NAME;
    match patience.retry(|| storage.list(path)) {
        Ok(names) if names.iter().any(is_of_a_log) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, "list", error)),
        _ => Err(LogError::Missing { path: path.to_owned() }),
    }
}

/// A log's directory, locked, and all that is ever changed in it. Before a name is given, changed or taken away it is made
/// sure that this still is the directory that was locked, and that the name is that of the file that is meant: paths can
/// come to mean others while a log is open. What the system can't do at the moment is tried again.
pub(super) struct Directory {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    lock: Box<dyn LockGuard>,
    patience: Arc<Patience>,
}

impl Directory {
    /// Creates it where absent, and locks it. The path is an absolute one.
    pub(super) fn lock(storage: Arc<dyn Storage>, path: PathBuf, patience: Arc<Patience>) -> Result<Self, LogError> {
        let lock_path = path.join(LOCK_NAME);
        patience.retry(|| storage.create_dir(&path)).map_err(|error| refused(&path, &path, "create", error))?;
        let lock = patience
            .retry(|| storage.lock(&lock_path))
            .map_err(|error| refused(&path, &lock_path, "lock", error))?
            .ok_or_else(|| LogError::Locked { path: path.clone() })?;
        Ok(Self { storage, path, lock, patience })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// See [`LockGuard::place`]; 0 where there is no such number.
    pub(super) fn place(&self) -> u64 {
        self.lock.place().unwrap_or(0)
    }

    /// Reads what is there and changes nothing.
    pub(super) fn read(&self) -> Result<Contents, LogError> {
        self.patience.retry_reading(|| read(&*self.storage, &self.path))
    }

    /// Creates a file, or empties one of this name.
    pub(super) fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.check()?;
        self.patience.retry(|| self.storage.create(path)).map_err(|error| context(error, "create", path))
    }

    /// Writes to a file of this name. What fails may have been written in part, and is then written again.
    pub(super) fn write(&self, file: &mut dyn StorageFile, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.patience.retry(|| file.write_at(offset, bytes)).map_err(|error| context(error, "write", path))
    }

    /// Makes durable what was written to the file of this name. That fails only once.
    pub(super) fn sync_file(&self, file: &mut dyn StorageFile, path: &Path) -> io::Result<()> {
        file.sync().map_err(|error| of_sync(error, path))?;
        if file.is_linked().map_err(|error| context(error, "look at", path))? {
            return Ok(());
        }
        Err(not_ours("write", path, "the file was removed while the log was open, and what is in it is lost"))
    }

    /// Gives a file another name.
    pub(super) fn rename(&self, file: &mut dyn StorageFile, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        self.check_file(file, from, "rename")?;
        self.patience.retry(|| self.storage.rename(from, to)).map_err(|error| context(error, "rename", from))
    }

    /// Takes a file's name away, durably.
    pub(super) fn remove(&self, file: Option<&mut dyn StorageFile>, path: &Path) -> io::Result<()> {
        self.unlink(file, path)?;
        self.sync()
    }

    /// The same, whether durably or not: of files that mean nothing.
    pub(super) fn unlink(&self, file: Option<&mut dyn StorageFile>, path: &Path) -> io::Result<()> {
        self.check()?;
        if let Some(file) = file {
            self.check_file(file, path, "remove")?;
        }
        self.patience.retry(|| self.storage.remove(path)).map_err(|error| context(error, "remove", path))
    }

    /// Makes all changes of names durable. That fails only once, too; but what could not be begun can be.
    pub(super) fn sync(&self) -> io::Result<()> {
        let sync = || self.lock.sync_dir().unwrap_or_else(|| self.storage.sync_dir(&self.path));
        sync().map_err(|error| of_sync_dir(error, &self.path))
    }

    /// Makes the directory's own name durable, before the first segment of a log is made in it. Where the directory was there
    /// already, whoever made it may have been killed before.
    pub(super) fn sync_parent(&self) -> Result<(), LogError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        match self.patience.retry(|| self.storage.sync_dir(parent)) {
            // One may use a directory and yet not be allowed to read the one above. Then its owner is to keep the name.
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(io_error(parent, "sync", error)),
            _ => Ok(()),
        }
    }

    fn check(&self) -> io::Result<()> {
        let ours = || {
            not_ours(
                "use",
                &self.path,
                "the directory, or the lock in it, was moved, removed or replaced while the log was open",
            )
        };
        match self.lock.is_in_place() {
            Ok(true) => Ok(()),
            Ok(false) => Err(ours()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ours()),
            Err(error) => Err(context(error, "look at", &self.path)),
        }
    }

    fn check_file(&self, file: &mut dyn StorageFile, path: &Path, action: &'static str) -> io::Result<()> {
        match file.is_at(path) {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_ours(action, path, "it is not the file that the log has made")),
            Err(error) => Err(context(error, action, path)),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Directory").field(&self.path).finish()
    }
}

/// What is in a log's directory.
#[derive(Debug)]
pub(super) struct Contents {
    /// What is remembered of the log, if anything is.
    pub(super) known: Option<Known>,
    /// The segment that is the log; `None` where there is no log yet.
    pub(super) newest: Option<Newest>,
    /// Segments that a newer one has replaced, oldest first. They go only after the next segment has its name: that
    /// of the newest may be one that a failed sync has lost, however well it can be listed.
    pub(super) replaced: Vec<PathBuf>,
    /// Segments that were never finished.
    pub(super) unfinished: Vec<PathBuf>,
}

/// The segment that is the log, as it was found.
#[derive(Debug)]
pub(super) struct Newest {
    pub(super) header: SegmentHeader,
    pub(super) recovered: Recovered,
    pub(super) file: SegmentFile,
}

/// Reads the directory and changes nothing.
fn read(storage: &dyn Storage, dir: &Path) -> Result<Contents, LogError> {
    let names = storage.list(dir).map_err(|error| io_error(dir, "list", error))?;
    let known = Known::read(storage, dir, &names)?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let temporary = names.iter().filter(|name| number_of_unfinished(name).is_some()).map(|name| dir.join(name));
    let unfinished: Vec<PathBuf> = temporary.collect();
    let mut replaced = Vec::new();
    let Some(newest) = numbers.pop() else {
        known.as_ref().map_or(Ok(()), |known| known.check(None))?;
        return Ok(Contents { known, newest: None, replaced, unfinished });
    };
    let newest = read_log(storage, dir, newest)?;
    if let Some(known) = &known {
        known.check(Some((&dir.join(name(newest.header.number)), &newest.header, &newest.recovered)))?;
    }
    for older in numbers {
        check_replaced(storage, dir, older, &newest.header)?;
        replaced.push(dir.join(name(older)));
    }
    Ok(Contents { known, newest: Some(newest), replaced, unfinished })
}

fn read_log(storage: &dyn Storage, dir: &Path, number: u64) -> Result<Newest, LogError> {
    let path = dir.join(name(number));
    let (header, mut file) = open_segment(storage, &path, number)?;
    match recover(&mut file, &header, &mut ()) {
        Ok(recovered) => Ok(Newest { header, recovered, file }),
        Err(unreadable) => Err(unreadable_at(&path, unreadable)),
    }
}

/// Opens a segment's file, which has the length and the number that its header states.
pub(super) fn open_segment(
    storage: &dyn Storage,
    path: &Path,
    number: u64,
) -> Result<(SegmentHeader, SegmentFile), LogError> {
    let (mut file, header) = read_header(storage, path, number)?;
    let length = file.length().map_err(|error| io_error(path, "read", error))?;
    if length != header.bytes {
        return Err(damaged(path, length.min(header.bytes), "the file is shorter or longer than it was made"));
    }
    Ok((header, SegmentFile { file, length }))
}

/// A segment's file, to be read from its beginning to its end.
pub(super) struct SegmentFile {
    file: Box<dyn StorageFile>,
    length: u64,
}

impl Source for SegmentFile {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, buffer)
    }
}

impl fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentFile").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Why the file at this path can't be read.
pub(super) fn unreadable_at(path: &Path, unreadable: Unreadable) -> LogError {
    match unreadable {
        Unreadable::Damage(damage) => damaged(path, damage.offset, damage.what),
        Unreadable::Io(error) => io_error(path, "read", error),
    }
}

/// A segment that was replaced is going to be removed, so it had better be of this log. Its number may be any lower one:
/// where a failed sync has lost the removal of a segment, that one comes back with the next crash.
fn check_replaced(storage: &dyn Storage, dir: &Path, number: u64, log: &SegmentHeader) -> Result<(), LogError> {
    let path = dir.join(name(number));
    let (_, header) = read_header(storage, &path, number)?;
    if header.log != log.log {
        return Err(damaged(&path, 16, "the segment belongs to another log"));
    }
    Ok(())
}

fn read_header(
    storage: &dyn Storage,
    path: &Path,
    number: u64,
) -> Result<(Box<dyn StorageFile>, SegmentHeader), LogError> {
    let mut file = storage.open(path).map_err(|error| io_error(path, "open", error))?;
    let length = file.length().map_err(|error| io_error(path, "read", error))?;
    let mut block = vec![0; length.min(BLOCK) as usize];
    file.read_at(0, &mut block).map_err(|error| io_error(path, "read", error))?;
    match SegmentHeader::decode(&block) {
        Ok(header) if header.number == number => Ok((file, header)),
        Ok(_) => Err(damaged(path, 32, "the segment's number is not the one in its name")),
        Err(BadSegment::Damaged { offset, what }) => Err(damaged(path, offset, what)),
        Err(BadSegment::UnknownVersion { version }) => {
            Err(LogError::UnknownVersion { path: path.to_owned(), version, supported: VERSION })
        }
    }
}

pub(super) fn damaged(path: &Path, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { path: path.to_owned(), offset, what }
}

/// What went wrong at opening, before there is a log that could be poisoned or full.
pub(super) fn io_error(path: &Path, action: &'static str, error: io::Error) -> LogError {
    LogError::Io { path: path.to_owned(), action, error: error.into() }
}

/// The same, where it may be for want of space.
pub(super) fn refused(dir: &Path, path: &Path, action: &'static str, error: io::Error) -> LogError {
    if tells_of_no_room(&error) {
        LogError::Full { path: dir.to_owned(), error: error.into() }
    } else {
        io_error(path, action, error)
    }
}
