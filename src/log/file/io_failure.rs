//! What failed, on which file, and whether it ends the log.
//!
//! A failed sync ends the log: nothing is known of the bytes that it was for, and a second sync
//! would prove nothing. A name that turns out to belong to the file of another program ends it,
//! too. All other failures have had no effect or can be repeated, and cost only what depends on
//! them.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::log::LogError;

#[derive(Debug, Error)]
#[error("can't {action} {path}")]
struct IoFailure {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
    is_final: bool,
}

/// Returns the error together with what was tried on which file.
pub(super) fn context(source: io::Error, action: &'static str, path: &Path) -> io::Error {
    failure(source, action, path, false)
}

/// Returns the error of a failed sync of a file. While a segment is prepared, a file system may
/// find only at the sync that it has no space; that ends nothing.
pub(super) fn of_sync(source: io::Error, path: &Path) -> io::Error {
    let is_final = !is_out_of_space(&source);
    failure(source, "sync", path, is_final)
}

/// Returns the error of a failed sync of the directory.
pub(super) fn of_sync_dir(source: io::Error, path: &Path) -> io::Error {
    failure(source, "sync", path, true)
}

/// Returns an error that says that the file, or the directory, is not the one that was opened.
pub(super) fn not_ours(action: &'static str, path: &Path, what: &'static str) -> io::Error {
    failure(io::Error::other(what), action, path, true)
}

/// Whether this error ends a log that met with it beside its records. (An error while records are
/// written always ends the log.) Errors from elsewhere are bugs, and end it too.
pub(super) fn is_final(error: &io::Error) -> bool {
    let failure = error.get_ref().and_then(|error| error.downcast_ref::<IoFailure>());
    failure.is_none_or(|failure| failure.is_final)
}

/// Whether the medium refused because it is out of space, and not for a graver reason.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn failure(source: io::Error, action: &'static str, path: &Path, is_final: bool) -> io::Error {
    io::Error::new(source.kind(), IoFailure { action, path: path.to_owned(), source, is_final })
}

/// Runs `work`, and turns a panic of it into an error.
pub(super) fn panic_to_error<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("a thread of the log panicked, which is a bug in ringpact")))
}

/// Returns an error that says that a file is not what was written.
pub(super) fn damaged(path: &Path, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { path: path.to_owned(), offset, what }
}

/// Returns an I/O error of an opening, before there is a log that could be poisoned or full.
pub(super) fn io_error(path: &Path, action: &'static str, error: io::Error) -> LogError {
    LogError::Io { path: path.to_owned(), action, error: error.into() }
}

/// Does the same for an operation that needs space: the error may be [`LogError::Full`].
pub(super) fn refused(dir: &Path, path: &Path, action: &'static str, error: io::Error) -> LogError {
    if is_out_of_space(&error) {
        LogError::Full { path: dir.to_owned(), error: error.into() }
    } else {
        io_error(path, action, error)
    }
}
