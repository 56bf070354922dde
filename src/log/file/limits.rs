//! The limits of a log on disk, each with its reason.

use std::time::Duration;

/// The smallest segment: a few batches and what is carried over. Smaller ones would be replaced all the time.
pub const MIN_SEGMENT_BYTES: u64 = 64 << 10;

/// The largest segment that can be configured; more would make opening read, and preparing write, for seconds. Live
/// records that need more get more.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;

/// A segment's size unless configured: some 100,000 small records, and zero-filled in some ten milliseconds.
pub const DEFAULT_SEGMENT_BYTES: u64 = 16 << 20;

/// The first segment after opening is no larger, unless the live records need it, so that opening writes little. One of
/// the configured size is prepared behind it at once.
pub const OPENING_SEGMENT_BYTES: u64 = 1 << 20;

/// What may be queued in memory for one batch, in bytes, before appending waits. It bounds the memory, and how long one
/// sync can take; at 128 bytes a record it is room for 30,000 callers.
pub const MAX_QUEUE_BYTES: u64 = 4 << 20;

/// How long there must be nothing to do before the last batch is sealed, unless configured. Long enough to cost nothing
/// under load, short enough to leave the one ambiguous case (see `src/docs/media.md`) hardly any time.
pub const DEFAULT_SEAL_AFTER: Duration = Duration::from_millis(50);

/// The shortest time after which a batch is sealed: with less the writer would do nothing but look at the clock.
pub const MIN_SEAL_AFTER: Duration = Duration::from_millis(1);
