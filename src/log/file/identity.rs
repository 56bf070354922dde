//! The file that remembers that there is a log, and how it was closed; byte for byte as
//! `src/docs/media.md` has it.
//!
//! The segments alone do not show that the newest of them is missing, or that all bytes from some
//! batch on have become zeros: what is left looks like a younger log. This file says how far the
//! log has come at least. It is written at each opening, once the fresh segment has its name, so it
//! is never ahead of the segments. It is written once more when the log is closed.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{
    directory::Directory,
    format::{BLOCK, SegmentHeader, u32_at, u64_at},
    io_failure::{damaged, io_error},
    recover::Recovered,
    storage::{Storage, StorageFile},
};
use crate::log::{LogError, LogId, Lsn};

/// The file's name.
pub(super) const NAME: &str = "log-identity";

/// The file's name until it is whole.
const TEMPORARY: &str = "log-identity.new";

const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"rp-ident";
const CLOSED_MAGIC: [u8; 8] = *b"rp-close";

/// Number of bytes of the first block that its checksum covers, and the same for the second block.
const CHECKED: usize = 48;
const CLOSED_CHECKED: usize = 32;

/// What is known of a log apart from its segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) log: LogId,
    /// The segment that the log was last opened with. The newest segment has this number or a
    /// higher one.
    pub(super) segment: u64,
    /// The number by which the file system knew the directory then; 0 if it has none.
    pub(super) place: u64,
}

/// The end of the log, as closing has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogEnd {
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) last: Lsn,
}

/// The content of the identity file.
#[derive(Debug)]
pub(super) struct IdentityFile {
    path: PathBuf,
    pub(super) identity: Identity,
    /// Absent if the log was not closed, or if a crash cut its closing short.
    end: Option<LogEnd>,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(2 * BLOCK as usize);
        block.extend(MAGIC);
        block.extend(VERSION.to_le_bytes());
        block.extend([0; 4]);
        block.extend(self.log.to_bytes());
        block.extend(self.segment.to_le_bytes());
        block.extend(self.place.to_le_bytes());
        debug_assert_eq!(block.len(), CHECKED);
        block.extend(xxh3_64(&block).to_le_bytes());
        block.resize(2 * BLOCK as usize, 0);
        block
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Self, LogError> {
        if bytes.len() != 2 * BLOCK as usize || bytes[..8] != MAGIC {
            return Err(damaged(path, 0, "the file is not one that remembers a log"));
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(LogError::UnknownVersion { path: path.to_owned(), version, supported: VERSION });
        }
        if u64_at(bytes, CHECKED) != xxh3_64(&bytes[..CHECKED]) {
            return Err(damaged(path, 8, "the file that remembers the log does not match its checksum"));
        }
        let mut log = [0; 16];
        log.copy_from_slice(&bytes[16..32]);
        Ok(Self { log: LogId::from_bytes(log), segment: u64_at(bytes, 32), place: u64_at(bytes, 40) })
    }

    /// Writes the file. Its name is durable once the directory was synced.
    pub(super) fn write(&self, dir: &Directory) -> std::io::Result<ClosingNote> {
        let (unfinished, path) = (dir.path().join(TEMPORARY), dir.path().join(NAME));
        let mut file = dir.create(&unfinished)?;
        dir.write(&mut *file, &unfinished, 0, &self.encode())?;
        dir.sync_file(&mut *file, &unfinished)?;
        dir.rename(&mut *file, &unfinished, &path)?;
        Ok(ClosingNote { log: self.log, path, file })
    }
}

impl LogEnd {
    fn encode(&self, log: LogId) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend(CLOSED_MAGIC);
        block.extend(self.segment.to_le_bytes());
        block.extend(self.sequence.to_le_bytes());
        block.extend(self.last.as_u64().to_le_bytes());
        debug_assert_eq!(block.len(), CLOSED_CHECKED);
        block.extend(xxh3_64_with_seed(&block, xxh3_64(&log.to_bytes())).to_le_bytes());
        block.resize(BLOCK as usize, 0);
        block
    }

    /// Reads the end back. A crash may have torn the block; then it says nothing, and this returns
    /// `None`.
    fn decode(block: &[u8], log: LogId) -> Option<Self> {
        let is_whole = block[..8] == CLOSED_MAGIC
            && u64_at(block, CLOSED_CHECKED) == xxh3_64_with_seed(&block[..CLOSED_CHECKED], xxh3_64(&log.to_bytes()));
        let [segment, sequence, last] = [8, 16, 24].map(|at| u64_at(block, at));
        is_whole.then_some(Self { segment, sequence, last: Lsn::new(last) })
    }
}

impl IdentityFile {
    /// Reads the file, if it is among the names in the directory. A log of an earlier release has
    /// none.
    pub(super) fn read(storage: &dyn Storage, dir: &Path, names: &[String]) -> Result<Option<Self>, LogError> {
        if !names.iter().any(|name| name == NAME) {
            return Ok(None);
        }
        let path = dir.join(NAME);
        let mut file = storage.open(&path).map_err(|error| io_error(&path, "open", error))?;
        let length = file.length().map_err(|error| io_error(&path, "read", error))?;
        let mut bytes = vec![0; length.min(2 * BLOCK) as usize];
        file.read_at(0, &mut bytes).map_err(|error| io_error(&path, "read", error))?;
        let identity = Identity::decode(&path, &bytes)?;
        let end = LogEnd::decode(&bytes[BLOCK as usize..], identity.log);
        Ok(Some(Self { path, identity, end }))
    }

    /// Checks that this newest segment, or none, is at least what the log must have.
    pub(super) fn check(&self, newest: Option<(&Path, &SegmentHeader, &Recovered)>) -> Result<(), LogError> {
        let lost = |segment| LogError::SegmentsLost { path: self.path.clone(), segment };
        let needed = self.identity.segment.max(self.end.map_or(0, |end| end.segment));
        let (path, header, recovered) = newest.ok_or_else(|| lost(needed))?;
        if header.log != self.identity.log {
            return Err(damaged(path, 16, "the segment belongs to another log"));
        }
        if header.number < needed {
            return Err(lost(needed));
        }
        match self.end {
            Some(LogEnd { segment, sequence, last })
                if segment == header.number && (sequence, last) != (recovered.sequence, recovered.last) =>
            {
                Err(damaged(path, recovered.end, "the log ends here, but was closed with other records behind"))
            }
            _ => Ok(()),
        }
    }
}

/// Notes the end of the log when the log is closed. That takes no space and no name.
pub(super) struct ClosingNote {
    log: LogId,
    path: PathBuf,
    file: Box<dyn StorageFile>,
}

impl ClosingNote {
    pub(super) fn note(mut self, dir: &Directory, end: LogEnd) -> std::io::Result<()> {
        dir.write(&mut *self.file, &self.path, BLOCK, &end.encode(self.log))?;
        dir.sync_file(&mut *self.file, &self.path)
    }
}
