//! Writing past the system's cache, if there is a way to.
//!
//! A log is written once, in whole blocks, and hardly ever read. A copy of it in the cache is of no
//! use, and costs the allocation of its pages, which is more than all else that a large batch needs
//! of the system. (`src/docs/log_speed.md` has the figures.)

use std::{
    fs::File,
    io::{self, Write},
};

use crate::log::file::format::BLOCK;

/// Alignment that devices ask of a buffer's address, of its length and of its place in the file, in
/// bytes: their sector at most.
const ALIGNMENT: usize = BLOCK as usize;

/// Number of bytes copied and written at a time: enough that the system's part in it counts for
/// little.
const CHUNK: usize = 1 << 20;

/// Whether these bytes can be written there past the cache.
pub(super) const fn suits(offset: u64, bytes: &[u8]) -> bool {
    offset.is_multiple_of(ALIGNMENT as u64) && bytes.len().is_multiple_of(ALIGNMENT)
}

/// What writing past the cache takes besides the file: memory that begins where devices want it to.
/// Bytes are copied there, which costs less than what it saves.
pub(super) struct DirectIo {
    memory: Vec<u8>,
}

impl DirectIo {
    /// Makes all that is written to the file go past the cache. Returns `None` if there is no way
    /// to.
    pub(super) fn enable(file: &File) -> Option<Self> {
        set(file, true).ok().map(|()| Self { memory: Vec::new() })
    }

    pub(super) fn disable(file: &File) -> io::Result<()> {
        set(file, false)
    }

    /// Writes the bytes, for which [`suits`] must have returned true.
    pub(super) fn write(&mut self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let needed = bytes.len().min(CHUNK) + ALIGNMENT;
        if self.memory.len() < needed {
            self.memory.resize(needed, 0);
        }
        let begin = self.memory.as_ptr().align_offset(ALIGNMENT);
        bytes.chunks(CHUNK).try_for_each(|chunk| {
            let aligned = &mut self.memory[begin..begin + chunk.len()];
            aligned.copy_from_slice(chunk);
            file.write_all(aligned)
        })
    }
}

#[cfg(target_os = "linux")]
fn set(file: &File, direct: bool) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn set(_: &File, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
