//! The file that all sketches, and the bare write and sync, write to. It is zero-filled and synced
//! beforehand.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

/// Bytes of the file: enough that the writer goes round at most a few times a second.
const FILE_BYTES: u64 = 64 << 20;
const BLOCK: usize = 4096;

pub struct BareFile {
    file: File,
    offset: u64,
    pub syncs: u64,
}

impl BareFile {
    pub fn create(dir: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(dir.join("bare"))?;
        let zeros = vec![0; 1 << 20];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&zeros, offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, offset: 0, syncs: 0 })
    }

    /// Pads to whole blocks, writes behind what was written last (or at the beginning again), and
    /// syncs.
    pub fn put(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        if self.offset + bytes.len() as u64 > FILE_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset)?;
        self.file.sync_data()?;
        self.offset += bytes.len() as u64;
        self.syncs += 1;
        bytes.clear();
        Ok(())
    }
}
