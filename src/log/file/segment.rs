//! One segment: how it is prepared ahead of need, begun with what is carried over, and written to.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    directory::{self, Directory},
    format::{self, BATCH_HEADER, BLOCK, BatchStart, FRAME_HEADER, Kind, Rest, SegmentHeader, padded},
    io_failure::is_final,
    storage::StorageFile,
};
use crate::log::{LiveRecords, Lsn};

/// Number of bytes that one write fills with zeros: large enough to be fast, small enough to need
/// little memory.
const ZEROS: usize = 1 << 20;

/// Returns what carrying live records over takes of a segment, in bytes: its header, the carried
/// batch, and the block kept for a seal.
pub(super) const fn carry_need(framed_bytes: u64) -> u64 {
    BLOCK + padded(BATCH_HEADER as u64 + framed_bytes) + BLOCK
}

/// Whether live records of this size may be carried over into a segment. They may take half of it
/// at most, so that one carrying-over never costs more than the appends between two of them.
pub(super) const fn suits(segment_bytes: u64, framed_bytes: u64) -> bool {
    carry_need(framed_bytes) <= segment_bytes / 2
}

/// Returns the size of the next segment: as configured, or four times what must be carried over,
/// whichever is larger.
pub(super) const fn size_for(configured: u64, framed_bytes: u64) -> u64 {
    let needed = 4 * carry_need(framed_bytes);
    if needed > configured { needed } else { configured }
}

/// Returns the size of the live records once they are framed, in bytes.
pub(super) fn framed_bytes(live: &LiveRecords) -> u64 {
    live.encoded_bytes() + (live.len() * FRAME_HEADER) as u64
}

/// The next segment, empty. Its header and its zeros are durable; its name is still a temporary
/// one.
pub(super) struct SpareSegment {
    header: SegmentHeader,
    path: PathBuf,
    file: Box<dyn StorageFile>,
}

impl SpareSegment {
    /// Creates the segment, fills it with zeros and syncs it. So later syncs have no metadata to
    /// write, and no space to find. If that fails, the half-made file is removed, because on a full
    /// disk its space is needed.
    pub(super) fn prepare(dir: &Directory, header: SegmentHeader) -> io::Result<Self> {
        let path = dir.path().join(directory::temporary_name(header.number));
        let mut file = dir.create(&path)?;
        let filled = fill(dir, &mut *file, &header, &path);
        Self { header, path, file }.unless_failed(dir, filled)
    }

    /// Makes the next segment of one that was replaced, in which all that is overwritten has its
    /// place on the medium already. It takes two syncs instead of the writing of a whole segment,
    /// and no space.
    ///
    /// The new name comes first, durably. If the old name came back in a crash after the file was
    /// overwritten, it would be the name of a file that calls itself another segment. If the file
    /// still has its old name when this fails, it is returned.
    pub(super) fn reuse(
        dir: &Directory,
        header: SegmentHeader,
        mut replaced: ReplacedSegment,
    ) -> Result<Self, (io::Error, Option<ReplacedSegment>)> {
        let path = dir.path().join(directory::temporary_name(header.number));
        if let Err(error) = dir.rename(&mut *replaced.file, &replaced.path, &path) {
            return Err((error, Some(replaced)));
        }
        let mut file = replaced.file;
        let renewed = dir.sync().and_then(|()| {
            dir.write(&mut *file, &path, 0, &header.encode())?;
            dir.sync_file(&mut *file, &path)
        });
        Self { header, path, file }.unless_failed(dir, renewed).map_err(|error| (error, None))
    }

    fn unless_failed(self, dir: &Directory, result: io::Result<()>) -> io::Result<Self> {
        match result {
            Ok(()) => Ok(self),
            Err(error) => {
                self.discard(dir);
                Err(error)
            }
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.header.bytes
    }

    /// Gives the segment up. If the file can't be removed, nothing more can be done: the next
    /// attempt, or opening, empties it.
    pub(super) fn discard(mut self, dir: &Directory) {
        let _ = dir.unlink(Some(&mut *self.file), &self.path);
    }

    /// Makes it the active segment: the live records are carried over and synced, then it gets its
    /// name. When this returns, all that was appended up to `last` is durable in it, and the
    /// segment before it can be removed.
    pub(super) fn begin(
        mut self,
        dir: &Arc<Directory>,
        sequence: u64,
        last: Lsn,
        live: &[u8],
        count: u32,
    ) -> io::Result<Segment> {
        let path = dir.path().join(directory::name(self.header.number));
        let mut buffer = Vec::with_capacity((padded((BATCH_HEADER + live.len()) as u64) + BLOCK) as usize);
        format::clear_batch(&mut buffer);
        buffer.extend(live);
        let start = BatchStart { kind: Kind::Carry, segment: self.header.number, sequence, previous: 0, last, count };
        let salt = self.header.salt();
        let previous = format::finish_batch(&mut buffer, start, salt);
        let length = buffer.len() as u64;
        write_and_sync(dir, &mut *self.file, BLOCK, &mut buffer, &self.header, &self.path)?;
        dir.rename(&mut *self.file, &self.path, &path)?;
        dir.sync()?;
        let offset = BLOCK + length;
        let (dir, file) = (Arc::clone(dir), self.file);
        Ok(Segment { dir, header: self.header, salt, path, file, offset, sequence, previous, sealed: true })
    }
}

fn fill(dir: &Directory, file: &mut dyn StorageFile, header: &SegmentHeader, path: &Path) -> io::Result<()> {
    dir.write(file, path, 0, &header.encode())?;
    let zeros = vec![0; ZEROS];
    let mut offset = BLOCK;
    while offset < header.bytes {
        let length = header.bytes.saturating_sub(offset).min(ZEROS as u64) as usize;
        dir.write(file, path, offset, &zeros[..length])?;
        offset += length as u64;
    }
    dir.sync_file(file, path)
}

/// A segment that is no longer needed.
pub(super) struct ReplacedSegment {
    number: u64,
    bytes: u64,
    path: PathBuf,
    file: Box<dyn StorageFile>,
}

impl ReplacedSegment {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes the segment. If that fails only for the moment, the segment is returned with the
    /// error.
    pub(super) fn remove(mut self, dir: &Directory) -> Result<(), (io::Error, Option<Self>)> {
        dir.remove(Some(&mut *self.file), &self.path).map_err(|error| {
            let left = !is_final(&error);
            (error, left.then_some(self))
        })
    }
}

/// The active segment, which batches are written to.
pub(super) struct Segment {
    dir: Arc<Directory>,
    header: SegmentHeader,
    salt: u64,
    path: PathBuf,
    file: Box<dyn StorageFile>,
    /// The offset at which the next batch is written.
    offset: u64,
    /// The sequence number of the last batch.
    sequence: u64,
    /// The checksum of the last batch.
    previous: u64,
    /// Whether something in the segment shows that the last batch with records was durable.
    sealed: bool,
}

impl Segment {
    /// Turns it into a replaced segment.
    pub(super) fn replaced(self) -> ReplacedSegment {
        ReplacedSegment { number: self.header.number, bytes: self.header.bytes, path: self.path, file: self.file }
    }

    pub(super) const fn number(&self) -> u64 {
        self.header.number
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.header.bytes
    }

    pub(super) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Returns what is left for batches of records, in bytes. The last block is kept for the seal
    /// that closing writes.
    pub(super) const fn room(&self) -> u64 {
        self.header.bytes - BLOCK - self.offset
    }

    /// Writes a batch of records behind the last one, and syncs. `batch` holds the framed records,
    /// with room for the header in front. The caller must have checked that there is room in the
    /// segment.
    pub(super) fn write(&mut self, batch: &mut Vec<u8>, last: Lsn, count: u32) -> io::Result<()> {
        self.put(batch, Kind::Records, last, count)?;
        self.sealed = false;
        Ok(())
    }

    /// Writes an empty batch. Its presence shows from then on that the batch before it was durable.
    pub(super) fn seal(&mut self, last: Lsn) -> io::Result<()> {
        let mut empty = Vec::with_capacity(BLOCK as usize);
        format::clear_batch(&mut empty);
        self.put(&mut empty, Kind::Seal, last, 0)?;
        self.sealed = true;
        Ok(())
    }

    fn put(&mut self, batch: &mut Vec<u8>, kind: Kind, last: Lsn, count: u32) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let start = BatchStart { kind, segment: self.header.number, sequence, previous: self.previous, last, count };
        let checksum = format::finish_batch(batch, start, self.salt);
        debug_assert!(self.offset + batch.len() as u64 <= self.header.bytes, "a batch beyond its segment");
        let length = batch.len() as u64;
        write_and_sync(&self.dir, &mut *self.file, self.offset, batch, &self.header, &self.path)?;
        self.offset += length;
        self.sequence = sequence;
        self.previous = checksum;
        Ok(())
    }
}

/// Writes and syncs. In a segment with leftovers, a block of zeros is written too, so that the end
/// is told from them. That block holds nothing that was ever acknowledged, so it may be
/// overwritten.
fn write_and_sync(
    dir: &Directory,
    file: &mut dyn StorageFile,
    offset: u64,
    bytes: &mut Vec<u8>,
    header: &SegmentHeader,
    path: &Path,
) -> io::Result<()> {
    if header.rest == Rest::Leftovers && offset + (bytes.len() as u64) < header.bytes {
        bytes.resize(bytes.len() + BLOCK as usize, 0);
    }
    dir.write(file, path, offset, bytes)?;
    dir.sync_file(file, path)
}
