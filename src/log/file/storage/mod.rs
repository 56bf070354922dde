//! The seam between the log and its medium: [`Storage`], and the real one, [`Disk`].
//!
//! All that a [`FileLog`](super::FileLog) does to the outside goes through here. So a test can
//! count, refuse, tear or lose any single operation under the real code.
//!
//! `direct.rs` writes past the system's cache. `lock_file.rs` has the lock, and tells files that
//! are the same from others.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

mod direct;
mod lock_file;

use direct::DirectIo;

/// Where a log keeps its files: the operating system's file system, or a simulation of one.
///
/// `src/docs/media.md` says what a log relies on, and what it doesn't. In short: what
/// [`StorageFile::sync`] and [`sync_dir`](Self::sync_dir) have confirmed survives a crash; of
/// everything else any part may survive, in any order. A log calls its storage from several
/// threads, but each file from one thread at a time. All calls may block.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// Makes sure that the directory exists. Directories that must be created are for their owner
    /// only. When this returns, a directory that it created survives a crash.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock that the file stands for, and creates the file if it is absent.
    /// Returns `None` if another process or handle holds the lock. The lock is held until the guard
    /// is dropped or its process is gone, whichever comes first.
    ///
    /// # Errors
    ///
    /// Those of the medium. A lock held by another process is `Ok(None)`, not an error.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>>;

    /// Returns the names of all entries of the directory, in any order. Names that are not UTF-8
    /// are left out.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;

    /// Creates an empty file for writing and reading, for its owner only. A file that has this name
    /// is emptied.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;

    /// Gives a file a new name within its directory, atomically.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the directory's entries durable: what was created, renamed and removed in it.
    ///
    /// # Errors
    ///
    /// Those of the medium. After an error, nothing is known about those entries.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file of a [`Storage`].
pub trait StorageFile: Send + 'static {
    /// Returns the file's length in bytes.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn length(&mut self) -> io::Result<u64>;

    /// Fills the buffer from the file's bytes at `offset`.
    ///
    /// # Errors
    ///
    /// Those of the medium; `UnexpectedEof` if the file ends before the buffer is full.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all the bytes at `offset`. A crash before the next successful [`sync`](Self::sync)
    /// may keep any part of them.
    ///
    /// # Errors
    ///
    /// Those of the medium. After an error, any part may have been written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes all that was written durable, together with the file's length.
    ///
    /// # Errors
    ///
    /// Those of the medium. After an error, nothing is known about what was written since the last
    /// success. Calling again would prove nothing, because the system may have marked the lost
    /// pages as clean.
    fn sync(&mut self) -> io::Result<()>;

    /// Whether this path names this very file. The log asks before it renames or removes a file. A
    /// storage that can't tell returns true, as the default implementation does.
    ///
    /// # Errors
    ///
    /// Those of the medium; `NotFound` if the path names nothing.
    fn is_at(&mut self, path: &Path) -> io::Result<bool> {
        let _ = path;
        Ok(true)
    }

    /// Whether the file still has a name. What is written to a file without a name is gone with the
    /// process, synced or not. The default implementation returns true.
    ///
    /// # Errors
    ///
    /// Those of the medium.
    fn is_linked(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Holds a lock, and keeps the directory of the locked file open, until it is dropped.
pub trait LockGuard: Send + Sync + 'static {
    /// Whether the paths that the lock was taken by still name the directory and the file that were
    /// locked. A storage that can't tell returns true, as the default implementation does.
    ///
    /// # Errors
    ///
    /// Those of the medium; `NotFound` if a path names nothing.
    fn is_in_place(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Does what [`Storage::sync_dir`] does, for the directory of the locked file, without opening
    /// it, which would take a file descriptor. The default implementation returns `None`, which
    /// leaves it to `sync_dir`.
    fn sync_dir(&self) -> Option<io::Result<()>> {
        None
    }

    /// Returns a number that another directory with the same content, a copy, most likely does not
    /// have. Returns `None` if there is no such number.
    fn place(&self) -> Option<u64> {
        None
    }
}

/// The file system of the operating system.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "it has nothing to configure")]
pub struct Disk;

impl Storage for Disk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut absent = Vec::new();
        let mut existing = dir;
        while !existing.as_os_str().is_empty() && !existing.try_exists()? {
            absent.push(existing);
            existing = existing.parent().unwrap_or(Path::new(""));
        }
        while let Some(next) = absent.pop() {
            match private_dir().create(next) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            let parent = next.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // Without a durable name the directory is not there. Or the next attempt would take it
            // for one that another process has made.
            self.sync_dir(parent).inspect_err(|_| drop(fs::remove_dir(next)))?;
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn LockGuard>>> {
        Ok(lock_file::lock(path)?.map(|lock| Box::new(lock) as Box<dyn LockGuard>))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(DiskFile { file: File::open(path)?, position: 0, direct: None, counts_links: false }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let file = private_file().create(true).truncate(true).open(path)?;
        let direct = DirectIo::enable(&file);
        let counts_links = lock_file::is_linked(&file)?;
        Ok(Box::new(DiskFile { file, position: 0, direct, counts_links }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) } // elsewhere a directory can't be opened as a file
    }
}

fn private_dir() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    #[cfg(not(unix))]
    builder.recursive(false);
    builder
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

struct DiskFile {
    file: File,
    /// The system's own position in the file. Batches follow one another, so most writes need no
    /// seek.
    position: u64,
    /// Present while what is written goes past the system's cache.
    direct: Option<DirectIo>,
    /// Whether the file system says how many names a file has.
    counts_links: bool,
}

impl DiskFile {
    /// From here on the file is written through the system's cache.
    fn give_up_direct(&mut self) -> io::Result<()> {
        self.direct.take().map_or(Ok(()), |_| DirectIo::disable(&self.file))
    }

    fn seek(&mut self, offset: u64) -> io::Result<()> {
        if self.position != offset {
            self.position = self.file.seek(SeekFrom::Start(offset))?;
        }
        Ok(())
    }

    /// Notes the position after a transfer of `length` bytes. A failed transfer leaves it anywhere,
    /// so that the next must seek.
    fn moved(&mut self, result: io::Result<()>, length: usize) -> io::Result<()> {
        self.position = if result.is_ok() { self.position + length as u64 } else { u64::MAX };
        result
    }
}

impl StorageFile for DiskFile {
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.give_up_direct()?; // only a test of the storage reads a file that it has created
        self.seek(offset)?;
        let result = self.file.read_exact(buffer);
        self.moved(result, buffer.len())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if !direct::suits(offset, bytes) {
            self.give_up_direct()?;
        }
        self.seek(offset)?;
        let result = match &mut self.direct {
            None => self.file.write_all(bytes),
            Some(direct) => match direct.write(&mut self.file, bytes) {
                // The device asks for a larger alignment than any that we know, and has written
                // nothing.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.give_up_direct()?;
                    self.position = self.file.seek(SeekFrom::Start(offset))?;
                    self.file.write_all(bytes)
                }
                result => result,
            },
        };
        self.moved(result, bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn is_at(&mut self, path: &Path) -> io::Result<bool> {
        lock_file::is_at(&self.file, path)
    }

    fn is_linked(&mut self) -> io::Result<bool> {
        Ok(!self.counts_links || lock_file::is_linked(&self.file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole blocks go past the cache if there is a way to; all else goes through it. Both are read
    /// back alike.
    #[test]
    fn what_is_written_past_the_cache_is_read_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        let mut random = fastrand::Rng::with_seed(1);
        let mut expected = vec![0; 64 << 10];
        let mut file = Disk.create(&path).expect("a file");
        let mut write = |file: &mut Box<dyn StorageFile>, at: usize, length: usize| {
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            file.write_at(at as u64, &bytes).expect("written");
            expected[at..at + length].copy_from_slice(&bytes);
        };
        for (at, length) in [(0, 64 << 10), (4096, 4096), (32 << 10, 8192)] {
            write(&mut file, at, length);
        }
        file.sync().expect("synced");
        for (at, length) in [(5_000, 100), (8192, 4096), (12 << 10, 1)] {
            write(&mut file, at, length);
        }
        let mut found = vec![0; expected.len()];
        file.read_at(0, &mut found).expect("read");
        assert!(found == expected, "through the file itself");
        Disk.open(&path).expect("it is there").read_at(0, &mut found).expect("read");
        assert!(found == expected, "through another one");
    }
}
