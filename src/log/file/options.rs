//! How a log is opened: what can be configured.

use std::{sync::Arc, time::Duration};

pub use super::limits::{
    DEFAULT_SEAL_AFTER, DEFAULT_SEGMENT_BYTES, MAX_QUEUE_BYTES, MAX_SEGMENT_BYTES, MIN_SEAL_AFTER, MIN_SEGMENT_BYTES,
    OPENING_SEGMENT_BYTES,
};
use super::{
    format::padded,
    storage::{Disk, Storage},
};
use crate::platform::Platform;

/// The configuration with which a [`FileLog`](super::FileLog) is opened. It can be used for several
/// openings.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("shop.log");
/// let log = ringpact::FileLog::options().segment_bytes(1 << 20).open(path)?;
/// # log.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct FileLogOptions {
    pub(super) segment_bytes: u64,
    pub(super) seal_after: Duration,
    pub(super) must_exist: bool,
    pub(super) storage: Arc<dyn Storage>,
    /// Whether the storage is the operating system's file system.
    pub(super) is_on_disk: bool,
    pub(super) platform: Platform,
}

impl Default for FileLogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            seal_after: DEFAULT_SEAL_AFTER,
            must_exist: false,
            storage: Arc::new(Disk),
            is_on_disk: true,
            platform: Platform::default(),
        }
    }
}

impl FileLogOptions {
    /// Sets the size of a segment in bytes: rounded up to 4 KiB, and kept between
    /// [`MIN_SEGMENT_BYTES`] and [`MAX_SEGMENT_BYTES`]. The directory holds two segments at most.
    /// The first one after an opening has [`OPENING_SEGMENT_BYTES`], if that is less. A segment is
    /// larger if the live records would take more than a quarter of it when it is prepared; then it
    /// is four times their size.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = padded(bytes.clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES));
        self
    }

    /// Sets how long the log must be idle before it seals the last batch by writing an empty one
    /// after it. From then on damage to the last batch can no longer be taken for a torn write. At
    /// least [`MIN_SEAL_AFTER`]; closing seals at once. [`Duration::MAX`] leaves it to closing.
    #[must_use]
    pub fn seal_after(mut self, idle: Duration) -> Self {
        self.seal_after = idle.max(MIN_SEAL_AFTER);
        self
    }

    /// Sets whether there must be a log already. If there is none, opening refuses with
    /// [`LogError::Missing`](crate::log::LogError::Missing) and makes nothing.
    ///
    /// Set it for a log that has been opened before. The mount point of a volume that is not
    /// mounted looks like the place of a new log, and an empty log has no decisions: what the real
    /// one has decided would be unknown. The default is `false`, because the first opening has to
    /// begin the log.
    ///
    /// ```
    /// # use ringpact::{FileLog, LogError};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("shop.log");
    /// let refused = FileLog::options().must_exist(true).open(&path);
    /// assert!(matches!(refused, Err(LogError::Missing { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub const fn must_exist(mut self, must_exist: bool) -> Self {
        self.must_exist = must_exist;
        self
    }

    /// Sets where the files are kept, instead of the operating system's file system: for tests that
    /// inject faults.
    #[must_use]
    pub fn storage(mut self, storage: impl Storage) -> Self {
        (self.storage, self.is_on_disk) = (Arc::new(storage), false);
        self
    }

    /// Sets which threads and which clock the log uses, instead of the system's.
    #[doc(hidden)]
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }
}
