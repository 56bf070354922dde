//! What is found in a log's directory when it is opened or inspected. Nothing is changed here.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::{
    directory::{Directory, name, number_of, number_of_unfinished},
    format::{BLOCK, BadSegment, SegmentHeader, VERSION},
    identity::{self, IdentityFile},
    io_failure::{damaged, io_error},
    patience::Patience,
    recover::{Recovered, Source, Unreadable, recover},
    storage::{Storage, StorageFile},
};
use crate::log::LogError;

/// The content of a log's directory.
#[derive(Debug)]
pub(super) struct Contents {
    /// What the identity file says, if there is one.
    pub(super) known: Option<IdentityFile>,
    /// The segment that is the log; `None` if there is no log yet.
    pub(super) newest: Option<NewestSegment>,
    /// Segments that a newer one has replaced, oldest first. They are removed only after the next
    /// segment has its name, because the name of the newest one may be lost by a failed sync,
    /// although it is listed.
    pub(super) replaced: Vec<PathBuf>,
    /// Segments that were never finished.
    pub(super) unfinished: Vec<PathBuf>,
}

/// The segment that is the log, and what was read from it.
#[derive(Debug)]
pub(super) struct NewestSegment {
    pub(super) header: SegmentHeader,
    pub(super) recovered: Recovered,
    pub(super) file: SegmentFile,
}

/// Refuses if there is nothing of a log in the directory. Makes nothing.
pub(super) fn must_exist(storage: &dyn Storage, path: &Path, patience: &Patience) -> Result<(), LogError> {
    let is_of_a_log = |name: &String| number_of(name).is_some() || name == identity::NAME;
    match patience.retry(|| storage.list(path)) {
        Ok(names) if names.iter().any(is_of_a_log) => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, "list", error)),
        _ => Err(LogError::Missing { path: path.to_owned() }),
    }
}

/// Reads what is in the directory, and changes nothing.
pub(super) fn read(dir: &Directory) -> Result<Contents, LogError> {
    dir.read(read_once)
}

fn read_once(storage: &dyn Storage, dir: &Path) -> Result<Contents, LogError> {
    let names = storage.list(dir).map_err(|error| io_error(dir, "list", error))?;
    let known = IdentityFile::read(storage, dir, &names)?;
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

fn read_log(storage: &dyn Storage, dir: &Path, number: u64) -> Result<NewestSegment, LogError> {
    let path = dir.join(name(number));
    let (header, mut file) = open_segment(storage, &path, number)?;
    match recover(&mut file, &header, &mut ()) {
        Ok(recovered) => Ok(NewestSegment { header, recovered, file }),
        Err(unreadable) => Err(unreadable_at(&path, unreadable)),
    }
}

/// Opens a segment's file, and checks that it has the length and the number that its header states.
pub(super) fn open_segment(
    storage: &dyn Storage,
    path: &Path,
    number: u64,
) -> Result<(SegmentHeader, SegmentFile), LogError> {
    let (mut file, header) = read_header(storage, path, number)?;
    let length = file.length().map_err(|error| io_error(path, "read", error))?;
    if length != header.bytes {
        return Err(damaged(path, length.min(header.bytes), "the file is shorter or longer than when it was made"));
    }
    Ok((header, SegmentFile { file, length }))
}

/// A segment's file, which is read from its beginning to its end.
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

/// Returns why the file at this path can't be read.
pub(super) fn unreadable_at(path: &Path, unreadable: Unreadable) -> LogError {
    match unreadable {
        Unreadable::Damage(damage) => damaged(path, damage.offset, damage.what),
        Unreadable::Io(error) => io_error(path, "read", error),
    }
}

/// Checks that a replaced segment belongs to this log, because it is going to be removed. Its
/// number may be any lower one: if a failed sync loses the removal of a segment, that one comes
/// back with the next crash.
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
