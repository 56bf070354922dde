//! The right to write to the current segment. One thread holds it at a time.

use std::io;

use super::{queue::Batch, segment::Segment, wakers::Wakers};

/// The right to write, with what it takes. A log has one pen, and only the thread that holds it
/// touches the active segment.
pub(super) struct Pen {
    pub(super) segment: Segment,
    /// The batch in flight.
    pub(super) buffer: Vec<u8>,
    /// The wakers that wait for the batch. Empty except at the moment at which they are woken.
    pub(super) wakers: Wakers,
}

impl Pen {
    pub(super) fn new(segment: Segment) -> Box<Self> {
        Box::new(Self { segment, buffer: Vec::new(), wakers: Wakers::default() })
    }

    /// Writes the batch in the buffer, and syncs it.
    pub(super) fn write(&mut self, batch: Batch) -> io::Result<()> {
        self.segment.write(&mut self.buffer, batch.last, batch.count)
    }
}
