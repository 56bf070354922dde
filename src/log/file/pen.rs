//! The right to write to the current segment. One thread holds it at a time.

use std::io;

use super::{queue::Batch, segment::Segment, wakers::Wakers};

/// What it takes to write. There is one, and who holds it is the only one who touches the active segment.
pub(super) struct Pen {
    pub(super) segment: Segment,
    /// The batch in flight.
    pub(super) buffer: Vec<u8>,
    /// Those who wait for it; empty but for the moment at which they are woken.
    pub(super) wakers: Wakers,
}

impl Pen {
    pub(super) fn new(segment: Segment) -> Box<Self> {
        Box::new(Self { segment, buffer: Vec::new(), wakers: Wakers::default() })
    }

    /// Writes the batch, which is in the buffer, and syncs it.
    pub(super) fn write(&mut self, batch: Batch) -> io::Result<()> {
        self.segment.write(&mut self.buffer, batch.last, batch.count)
    }
}
