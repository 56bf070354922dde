//! A log's directory: the names in it, and what to make of them when it is opened.
//!
//! A segment gets its name only once it holds, durably, everything that the one before it is needed for; the one before
//! is removed after that. So the segment with the highest number is the log, one before it may be left over from a
//! crash, and anything else that bears a segment's name is a reason to refuse.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    format::{BLOCK, BadSegment, SegmentHeader, VERSION},
    recover::{Recovered, Source, Unreadable, recover},
    segment::context,
    storage::{Storage, StorageFile},
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

/// What is in a log's directory.
#[derive(Debug)]
pub(super) struct Contents {
    /// The segment that is the log, and what it holds; `None` where there is no log yet.
    pub(super) newest: Option<(SegmentHeader, Recovered)>,
    /// Segments that a newer one has replaced, oldest first. They go only after the next segment has its name: that
    /// of the newest may be one that a failed sync has lost, however well it can be listed.
    pub(super) replaced: Vec<PathBuf>,
    /// Segments that were never finished.
    pub(super) unfinished: Vec<PathBuf>,
}

/// Reads the directory and changes nothing.
pub(super) fn read(storage: &dyn Storage, dir: &Path) -> Result<Contents, LogError> {
    let names = storage.list(dir).map_err(|error| io_error(dir, "list", error))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_of(name)).collect();
    numbers.sort_unstable();
    let temporary = names.iter().filter(|name| number_of_unfinished(name).is_some()).map(|name| dir.join(name));
    let unfinished: Vec<PathBuf> = temporary.collect();
    let mut replaced = Vec::new();
    let Some(newest) = numbers.pop() else {
        return Ok(Contents { newest: None, replaced, unfinished });
    };
    let (header, recovered) = read_log(storage, dir, newest)?;
    for older in numbers {
        check_replaced(storage, dir, older, &header)?;
        replaced.push(dir.join(name(older)));
    }
    Ok(Contents { newest: Some((header, recovered)), replaced, unfinished })
}

fn read_log(storage: &dyn Storage, dir: &Path, number: u64) -> Result<(SegmentHeader, Recovered), LogError> {
    let path = dir.join(name(number));
    let (header, mut file) = open_segment(storage, &path, number)?;
    match recover(&mut file, &header, &mut ()) {
        Ok(recovered) => Ok((header, recovered)),
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

/// Why the file at this path can't be read.
pub(super) fn unreadable_at(path: &Path, unreadable: Unreadable) -> LogError {
    match unreadable {
        Unreadable::Damage(damage) => damaged(path, damage.offset, damage.what),
        Unreadable::Io(error) => io_error(path, "read", error),
    }
}

/// Removes files, one durably before the next, so that a crash can't leave an older segment where a newer one is gone.
pub(super) fn remove(storage: &dyn Storage, dir: &Path, paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| {
        storage.remove(path).map_err(|error| context(error, "remove", path))?;
        storage.sync_dir(dir).map_err(|error| context(error, "sync", dir))
    })
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

fn damaged(path: &Path, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { path: path.to_owned(), offset, what }
}

/// What went wrong at opening, before there is a log that could be poisoned or full.
pub(super) fn io_error(path: &Path, action: &'static str, error: io::Error) -> LogError {
    LogError::Io { path: path.to_owned(), action, error: error.into() }
}
