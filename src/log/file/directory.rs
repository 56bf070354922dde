//! A log's directory: the names in it, and every change of names.
//!
//! A segment gets its name only once it holds, durably, everything that the one before it is needed
//! for. The one before is removed after that. So the segment with the highest number is the log,
//! and older ones may be left over from a crash. Anything else that has a segment's name is a
//! reason to refuse the directory.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    io_failure::{context, io_error, not_ours, of_sync, of_sync_dir, refused},
    patience::Patience,
    storage::{LockGuard, Storage, StorageFile},
};
use crate::log::LogError;

/// The file that is locked while a process has the log open.
pub(super) const LOCK_NAME: &str = "lock";

const PREFIX: &str = "segment-";
const SUFFIX: &str = ".log";
const TEMPORARY: &str = ".log.new";

/// Returns the name of the segment with this number.
pub(super) fn name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{SUFFIX}")
}

/// Returns the name that this segment has until it is ready.
pub(super) fn temporary_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{TEMPORARY}")
}

/// Returns the number of the segment that has this name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    number_in(name, SUFFIX)
}

/// Returns the number of the unfinished segment that has this name.
pub(super) fn number_of_unfinished(name: &str) -> Option<u64> {
    number_in(name, TEMPORARY)
}

/// Returns the number in a name, if it is written as the log writes it.
fn number_in(text: &str, suffix: &str) -> Option<u64> {
    let number = u64::from_str_radix(text.strip_prefix(PREFIX)?.strip_suffix(suffix)?, 16).ok()?;
    (format!("{PREFIX}{number:016x}{suffix}") == text).then_some(number)
}

/// A log's directory, locked. Every change in it goes through here.
///
/// Before a name is given, changed or removed, two things are checked: this is still the directory
/// that was locked, and the name is that of the file that is meant. Paths can come to mean other
/// files while a log is open. What the system can't do at the moment is tried again.
pub(super) struct Directory {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    lock: Box<dyn LockGuard>,
    patience: Arc<Patience>,
}

impl Directory {
    /// Creates the directory if it is absent, and locks it. The path must be absolute.
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

    /// Returns [`LockGuard::place`], or 0 if there is no such number.
    pub(super) fn place(&self) -> u64 {
        self.lock.place().unwrap_or(0)
    }

    /// Reads the directory with `read`, which changes nothing.
    pub(super) fn read<T>(&self, read: impl Fn(&dyn Storage, &Path) -> Result<T, LogError>) -> Result<T, LogError> {
        self.patience.retry_reading(|| read(&*self.storage, &self.path))
    }

    /// Creates a file, or empties the one that has this name.
    pub(super) fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        self.check()?;
        self.patience.retry(|| self.storage.create(path)).map_err(|error| context(error, "create", path))
    }

    /// Writes to the file that has this name. A failed attempt may have written a part, which is
    /// then written again.
    pub(super) fn write(&self, file: &mut dyn StorageFile, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.patience.retry(|| file.write_at(offset, bytes)).map_err(|error| context(error, "write", path))
    }

    /// Makes durable what was written to the file that has this name. A sync is never tried again.
    pub(super) fn sync_file(&self, file: &mut dyn StorageFile, path: &Path) -> io::Result<()> {
        file.sync().map_err(|error| of_sync(error, path))?;
        if file.is_linked().map_err(|error| context(error, "look at", path))? {
            return Ok(());
        }
        Err(not_ours("write", path, "the file was removed while the log was open, and what is in it is lost"))
    }

    /// Renames a file.
    pub(super) fn rename(&self, file: &mut dyn StorageFile, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        self.check_file(file, from, "rename")?;
        self.patience.retry(|| self.storage.rename(from, to)).map_err(|error| context(error, "rename", from))
    }

    /// Removes a file's name, durably.
    pub(super) fn remove(&self, file: Option<&mut dyn StorageFile>, path: &Path) -> io::Result<()> {
        self.unlink(file, path)?;
        self.sync()
    }

    /// Removes a file's name, durably or not: for files that mean nothing.
    pub(super) fn unlink(&self, file: Option<&mut dyn StorageFile>, path: &Path) -> io::Result<()> {
        self.check()?;
        if let Some(file) = file {
            self.check_file(file, path, "remove")?;
        }
        self.patience.retry(|| self.storage.remove(path)).map_err(|error| context(error, "remove", path))
    }

    /// Makes all changes of names durable. This sync is never tried again either.
    pub(super) fn sync(&self) -> io::Result<()> {
        let sync = || self.lock.sync_dir().unwrap_or_else(|| self.storage.sync_dir(&self.path));
        sync().map_err(|error| of_sync_dir(error, &self.path))
    }

    /// Makes the directory's own name durable, before the first segment of a log is made in it. If
    /// the directory existed already, its creator may have been killed before it did so.
    pub(super) fn sync_parent(&self) -> Result<(), LogError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        match self.patience.retry(|| self.storage.sync_dir(parent)) {
            // A process may use a directory and yet not be allowed to read the one above. Then the
            // owner of that one must keep the name.
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
