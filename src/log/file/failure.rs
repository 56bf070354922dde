//! What went wrong, on which file, and whether it is the end of the log.
//!
//! A failed sync is: nothing is known of what it was for, and asking again would prove nothing. So is a name that turns out to
//! be that of a file of others. All else has either had no effect or can be done again, and costs only what depends on it.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

#[derive(Debug, Error)]
#[error("can't {action} {path}: {source}")]
struct Failure {
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
    let is_final = !tells_of_no_room(&source);
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
    let failure = error.get_ref().and_then(|error| error.downcast_ref::<Failure>());
    failure.is_none_or(|failure| failure.is_final)
}

/// Whether the medium refused for want of space, and not for any graver reason.
pub(super) fn tells_of_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn failure(source: io::Error, action: &'static str, path: &Path, is_final: bool) -> io::Error {
    io::Error::new(source.kind(), Failure { action, path: path.to_owned(), source, is_final })
}
