//! What went wrong, on which file, and whether it is the end of the log.
//!
//! A failed sync is: nothing is known of what it was for, and asking again would prove nothing. So is a name that turns out to
//! be that of a file of others. All else has either had no effect or can be done again, and costs only what depends on it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::log::LogError;

#[derive(Debug, Error)]
#[error("can't {action} {path}: {source}")]
struct IoFailure {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
    is_final: bool,
}

/// The same error with what was tried on which file.
pub(super) fn context(source: io::Error, action: &'static str, path: &Path) -> io::Error {
    failure(source, action, path, false)
}

/// The same, for a failed sync of a file. Of one that is being prepared it may be that space is only found then, and not
/// there.
pub(super) fn of_sync(source: io::Error, path: &Path) -> io::Error {
    let is_final = !is_out_of_space(&source);
    failure(source, "sync", path, is_final)
}

/// The same, for a failed sync of the directory.
pub(super) fn of_sync_dir(source: io::Error, path: &Path) -> io::Error {
    failure(source, "sync", path, true)
}

/// The file, or the directory, is not the one that was opened.
pub(super) fn not_ours(action: &'static str, path: &Path, what: &'static str) -> io::Error {
    failure(io::Error::other(what), action, path, true)
}

/// Whether a log that has met with this error beside its records must not go on. (Where it met with it while writing those it
/// never goes on.) Errors from elsewhere are bugs, and reason enough.
pub(super) fn is_final(error: &io::Error) -> bool {
    let failure = error.get_ref().and_then(|error| error.downcast_ref::<IoFailure>());
    failure.is_none_or(|failure| failure.is_final)
}

/// Whether the medium refused for want of space, and not for any graver reason.
pub(super) fn is_out_of_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn failure(source: io::Error, action: &'static str, path: &Path, is_final: bool) -> io::Error {
    io::Error::new(source.kind(), IoFailure { action, path: path.to_owned(), source, is_final })
}

/// Turns a panic into an error.
pub(super) fn panic_to_error<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("a thread of the log panicked, which is a bug in ringpact")))
}

pub(super) fn damaged(path: &Path, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { path: path.to_owned(), offset, what }
}

/// What went wrong at opening, before there is a log that could be poisoned or full.
pub(super) fn io_error(path: &Path, action: &'static str, error: io::Error) -> LogError {
    LogError::Io { path: path.to_owned(), action, error: error.into() }
}

/// The same, where it may be for want of space.
pub(super) fn refused(dir: &Path, path: &Path, action: &'static str, error: io::Error) -> LogError {
    if is_out_of_space(&error) {
        LogError::Full { path: dir.to_owned(), error: error.into() }
    } else {
        io_error(path, action, error)
    }
}
