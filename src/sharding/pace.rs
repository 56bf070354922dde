//! [`Pace`]: how fast data moves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sharding::MAX_CHUNK_BYTES;

/// How fast a change moves data. A plain value; it can be changed while the change is under way, and
/// survives a restart.
///
/// The default is gentle: chunks that hold up their keys for about 5 ms, one at a time out of each
/// node and two into each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    into_each: u32,
    out_of_each: u32,
    freeze: Duration,
    chunk_bytes: u64,
}

/// Default number of bytes a second: an eighth of what one gigabit network carries. Four times as many
/// took a third of their throughput from clients whose nodes share one disk.
pub const DEFAULT_BYTES_PER_SECOND: u64 = 16 << 20;

/// Maximum time for which a chunk is meant to hold up its keys, whatever is asked for.
const MAX_FREEZE: Duration = Duration::from_secs(60);

/// Minimum number of bytes that a chunk is meant to have, however slow the nodes are.
const LEAST_BYTES: u64 = 4 << 10;

/// Maximum number of bytes that a chunk is meant to have: what fits with room for records that are
/// written between measure and freeze.
const MOST_BYTES: u64 = (MAX_CHUNK_BYTES - MAX_CHUNK_BYTES / 8) as u64;

/// Default time for which a chunk may hold up its keys.
pub const DEFAULT_FREEZE: Duration = Duration::from_millis(5);

impl Default for Pace {
    fn default() -> Self {
        Self {
            bytes_per_second: Some(DEFAULT_BYTES_PER_SECOND),
            into_each: 2,
            out_of_each: 1,
            freeze: DEFAULT_FREEZE,
            chunk_bytes: MOST_BYTES,
        }
    }
}

impl Pace {
    /// Returns the default pace.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves at most this many bytes of records a second, at least 1, over all nodes together.
    #[must_use]
    pub const fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(if bytes == 0 { 1 } else { bytes });
        self
    }

    /// Moves as fast as the nodes can.
    #[must_use]
    pub const fn unthrottled(mut self) -> Self {
        self.bytes_per_second = None;
        self
    }

    /// Moves at most this many chunks into one node at once, at least 1.
    #[must_use]
    pub const fn into_each(mut self, chunks: u32) -> Self {
        self.into_each = if chunks == 0 { 1 } else { chunks };
        self
    }

    /// Moves at most this many chunks out of one node at once, at least 1.
    #[must_use]
    pub const fn out_of_each(mut self, chunks: u32) -> Self {
        self.out_of_each = if chunks == 0 { 1 } else { chunks };
        self
    }

    /// Chooses the size of chunks so that each holds up its keys for about this long.
    #[must_use]
    pub const fn freeze(mut self, time: Duration) -> Self {
        self.freeze = time;
        self
    }

    /// Moves at most this many bytes of records in one chunk, unless one position has more: for a
    /// transport that limits its messages. From 1 to about a mebibyte, which is the default.
    #[must_use]
    pub const fn chunk_bytes(mut self, most: u64) -> Self {
        self.chunk_bytes = match most {
            0 => 1,
            1..=MOST_BYTES => most,
            _ => MOST_BYTES,
        };
        self
    }

    /// Returns the maximum number of bytes a second, or `None` if there is none.
    #[must_use]
    pub const fn max_bytes_per_second(&self) -> Option<u64> {
        self.bytes_per_second
    }

    /// Returns the maximum number of chunks that move out of one node at once, and that into one node.
    #[must_use]
    pub const fn max_chunks(&self) -> (u32, u32) {
        (self.out_of_each, self.into_each)
    }

    /// Returns the maximum number of bytes of one chunk.
    #[must_use]
    pub const fn max_chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Returns the number of bytes that a chunk is meant to have, if this many would be best for the
    /// nodes.
    pub(super) fn budget(&self, best: u64) -> u64 {
        best.clamp(LEAST_BYTES, MOST_BYTES).min(self.chunk_bytes)
    }

    /// Returns the time for which a chunk is meant to hold up its keys.
    #[must_use]
    pub const fn target_freeze(&self) -> Duration {
        if self.freeze.as_secs() < MAX_FREEZE.as_secs() { self.freeze } else { MAX_FREEZE }
    }

    /// Returns how long this many bytes take at this pace.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        self.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate as f64))
    }
}
