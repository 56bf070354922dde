//! The lock, and whether a path still names the file that is open: by the numbers by which the file
//! system knows it.

use std::{
    fs::{self, File, Metadata, TryLockError},
    io,
    path::{Path, PathBuf},
};

use super::{LockGuard, private_file};

/// The lock's file and its directory. Both are open, so that neither the directory's path nor a
/// free file descriptor is needed any more.
pub(super) struct HeldLock {
    path: PathBuf,
    file: File,
    /// `None` if a directory can't be opened as a file.
    dir: Option<File>,
    /// Whether the file system knows a file by the same numbers each time.
    is_comparable: bool,
}

/// Opens and locks the file. Returns `None` if it is locked already.
pub(super) fn lock(path: &Path) -> io::Result<Option<HeldLock>> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = if cfg!(unix) { Some(File::open(dir)?) } else { None };
    let mut held = HeldLock { path: path.to_owned(), file: open_lock(path)?, dir, is_comparable: true };
    for is_last in [false, true] {
        match held.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Another process may have removed the file before it was locked. Then the next one would
        // lock another file.
        held.is_comparable = held.is_in_place().unwrap_or(false);
        if held.is_comparable || is_last {
            break;
        }
        held.file = open_lock(path)?;
    }
    Ok(Some(held))
}

fn open_lock(path: &Path) -> io::Result<File> {
    private_file().create(true).truncate(false).open(path)
}

/// Releases the lock itself, not only this copy of its file. A child process that is being started
/// has another copy until it runs its program, and would hold the lock until then.
impl Drop for HeldLock {
    fn drop(&mut self) {
        let _ = self.file.unlock(); // if it fails, closing the file releases the lock
    }
}

impl LockGuard for HeldLock {
    fn is_in_place(&self) -> io::Result<bool> {
        if !self.is_comparable {
            return Ok(true);
        }
        let dir_is_at = match (&self.dir, self.path.parent()) {
            (Some(dir), Some(path)) if !path.as_os_str().is_empty() => is_at(dir, path)?,
            _ => true,
        };
        Ok(dir_is_at && is_at(&self.file, &self.path)?)
    }

    fn sync_dir(&self) -> Option<io::Result<()>> {
        self.dir.as_ref().map(File::sync_all)
    }

    fn place(&self) -> Option<u64> {
        // The device's number is left out, because the same disk has another one after the next
        // start of the machine.
        self.file.metadata().ok().and_then(|file| numbers(&file)).map(|(_, inode)| inode)
    }
}

/// Whether the path names this file.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let (there, here) = (fs::metadata(path)?, file.metadata()?);
    Ok(numbers(&there) == numbers(&here))
}

/// Whether the file has a name. If the system does not say, this says that it has.
///
/// Only the number of names is asked for. Newer versions of Linux, after a look at a file's times,
/// which `fstat` takes, give the next write a time of its own, and the sync that follows must write
/// it down. That took a third of all time.
#[cfg(target_os = "linux")]
pub(super) fn is_linked(file: &File) -> io::Result<bool> {
    use rustix::{
        fs::{AtFlags, StatxFlags, statx},
        io::Errno,
    };

    match statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK) {
        Ok(found) => Ok(found.stx_nlink > 0),
        Err(Errno::NOSYS | Errno::PERM) => Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_linked(file: &File) -> io::Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 0);
    #[cfg(not(unix))]
    return file.metadata().map(|_| true);
}

/// Returns the numbers of the device and of the file on it, or `None` if the system has none.
fn numbers(file: &Metadata) -> Option<(u64, u64)> {
    #[cfg(unix)]
    return Some((std::os::unix::fs::MetadataExt::dev(file), std::os::unix::fs::MetadataExt::ino(file)));
    #[cfg(not(unix))]
    return None.filter(|_: &(u64, u64)| file.is_file());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child process has copies of all open files until it runs its program. Another thread may
    /// start one at any time.
    #[test]
    fn a_released_lock_is_free_while_a_copy_of_its_file_is_open() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("lock");
        let held = lock(&path).expect("the storage works").expect("it is free");
        let copy = held.file.try_clone().expect("a copy");
        assert!(lock(&path).expect("the storage works").is_none());
        drop(held);
        assert!(lock(&path).expect("the storage works").is_some());
        drop(copy);
    }
}
