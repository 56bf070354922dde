//! The limits of a log on disk, each with its reason.

use std::time::Duration;

/// Minimum size of a segment, in bytes: a few batches, and what is carried over. Smaller ones would
/// be replaced all the time.
pub const MIN_SEGMENT_BYTES: u64 = 64 << 10;

/// Maximum size of a segment that can be configured, in bytes. With more, opening would read and
/// preparing would write for seconds. Live records that need more get more.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// Size of a segment unless configured, in bytes: some 100,000 small records, and zero-filled in
/// some ten milliseconds.
pub const DEFAULT_SEGMENT_BYTES: u64 = 16 << 20;

/// Maximum size of the first segment after an opening, in bytes, unless the live records need more.
/// So opening writes little. A segment of the configured size is prepared behind it at once.
pub const OPENING_SEGMENT_BYTES: u64 = 1 << 20;

/// Maximum number of bytes queued in memory for one batch; then appending waits. It bounds the
/// memory, and how long one sync can take. At 128 bytes a record it is room for 30,000 callers.
pub const MAX_QUEUE_BYTES: u64 = 4 << 20;

/// How long the log must be idle before the last batch is sealed, unless configured. It is long
/// enough to cost nothing under load, and short enough to leave hardly any time for the one
/// ambiguous case (see `src/docs/media.md`).
pub const DEFAULT_SEAL_AFTER: Duration = Duration::from_millis(50);

/// Minimum time after which a batch is sealed: with less, the writer would do nothing but look at
/// the clock.
pub const MIN_SEAL_AFTER: Duration = Duration::from_millis(1);
