//! What the system can't do at the moment is tried again, because a process that is out of file
//! descriptors, or a system that is out of memory, recovers. Only an operation that has had no
//! effect, or that can be repeated, may be tried again: never a sync.

use std::{io, time::Duration};

use parking_lot::Mutex;

use crate::{
    log::LogError,
    platform::{Condvar, Platform},
};

/// How long an operation is tried again. It is long enough for a burst of connections to pass, and
/// short enough for the callers that wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

const FIRST_PAUSE: Duration = Duration::from_millis(1);

const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// A log's patience, which ends with the log.
#[derive(Debug)]
pub(super) struct Patience {
    is_over: Mutex<bool>,
    change: Condvar,
}

impl Patience {
    pub(super) fn new(platform: &Platform) -> Self {
        Self { is_over: Mutex::new(false), change: platform.condvar() }
    }

    /// Tries again with back-off, for [`PATIENCE`] in all, while the system says that it is short
    /// of something.
    pub(super) fn retry<T>(&self, attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.retry_if(attempt, is_shortage)
    }

    /// Does the same for attempts that only read, and that return a [`LogError`].
    pub(super) fn retry_reading<T>(&self, attempt: impl FnMut() -> Result<T, LogError>) -> Result<T, LogError> {
        self.retry_if(attempt, |error| matches!(error, LogError::Io { error, .. } if is_shortage(error)))
    }

    fn retry_if<T, E>(
        &self,
        mut attempt: impl FnMut() -> Result<T, E>,
        is_shortage: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let (mut pause, mut waited) = (FIRST_PAUSE, Duration::ZERO);
        loop {
            match attempt() {
                Err(error) if is_shortage(&error) && waited < PATIENCE && self.pause(pause) => {
                    waited += pause;
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Ends the patience: from now on nothing is tried again.
    pub(super) fn end(&self) {
        *self.is_over.lock() = true;
        self.change.notify_all();
    }

    /// Waits. Returns `false` if there is no point in trying again.
    fn pause(&self, pause: Duration) -> bool {
        let mut is_over = self.is_over.lock();
        if !*is_over {
            self.change.wait_for(&mut is_over, pause);
        }
        !*is_over
    }
}

/// Whether the system lacked something that it may have again in a moment. Space on the disk is
/// another matter: the callers that need it are told.
fn is_shortage(error: &io::Error) -> bool {
    /// Too many open files: in the process, in the system.
    #[cfg(unix)]
    const CODES: [i32; 2] = [24, 23]; // EMFILE and ENFILE, the same on all of them
    #[cfg(not(unix))]
    const CODES: [i32; 1] = [4]; // ERROR_TOO_MANY_OPEN_FILES
    let kind = error.kind();
    error.raw_os_error().is_some_and(|code| CODES.contains(&code))
        || matches!(kind, io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
