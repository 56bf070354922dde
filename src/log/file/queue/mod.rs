//! The queue between callers and the writer: what it holds, and what is decided on it. No locks and
//! no I/O here.
//!
//! Invariants:
//!
//! - A record is accepted only if the room to make it durable exists already: in the active
//!   segment, or in a spare one that can hold everything that would then be carried over. So a full
//!   disk refuses records, and never strands one that was accepted.
//! - `taken <= last`, and the records in `taken+1 ..= last` are exactly those in `buffer`.
//! - At most one batch is in flight. Its waiters and those of the batch being filled are kept
//!   apart.
//! - A spare segment that the buffer needs stays: the keeper replaces it only while the buffer has
//!   its room without it.
//! - From the moment that a spare segment is taken to be begun until it has replaced the active
//!   one, the keeper prepares none. The next one's number, and so its file's name, is not settled
//!   before that.
//!
//! `tests.rs` has sequences of appends, batches and segments that have gone wrong, or could.

#[cfg(test)]
mod tests;

use std::{io, mem, sync::Arc};

use super::{
    format::{self, BATCH_HEADER, BLOCK, padded},
    limits::MAX_QUEUE_BYTES,
    segment::{carry_need, size_for, suits},
    wakers::Wakers,
};
use crate::log::{LogError, LogStats, Lsn};

/// The queue. The module has its invariants.
///
/// What every append changes comes first, and must stay there. These two cache lines, with the
/// lock's own byte, go from processor to processor with the lock; what else an append looks at
/// stays in each processor's cache.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Queue {
    /// The batch being filled: room for a header, then framed records.
    buffer: Vec<u8>,
    pub(super) last: Lsn,
    pub(super) wakers_filling: Wakers,
    /// Number of records that a caller is going to wait for, so far.
    forced: u64,
    /// Whether a caller wants what is in the buffer to be durable.
    wanted: bool,

    /// Offset up to which the buffer's records are folded into the live ones already, because a
    /// caller asked for those.
    folded: usize,
    /// The value of `forced` when the last batch was taken, and the number of forced records in
    /// that batch.
    forced_taken: u64,
    forced_before: u64,
    /// The last record that is in flight or durable, and the last record when the log was opened.
    pub(super) taken: Lsn,
    opened: Lsn,
    /// Number of batches taken so far. The one being filled will be the next.
    pub(super) batches: u64,
    pub(super) in_flight: bool,
    pub(super) wakers_in_flight: Wakers,
    /// Size of the records that were taken out of the buffer, or copied there, to be folded into
    /// the live records, and of which the queue has not heard yet that they were.
    folding_bytes: u64,
    /// The live records' framed size at the last folding.
    pub(super) live_bytes: u64,
    pub(super) segment: SegmentState,
    pub(super) spare: SpareState,
    /// Whether the spare segment was taken, and has not yet replaced the active one.
    replacing: bool,
    /// The size of the segment that was replaced, until the keeper gets to it.
    pub(super) replaced: Option<u64>,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) failure: Option<Arc<io::Error>>,
    /// Why the log could not note that it was closed. Everything is durable all the same.
    pub(super) unclosed: Option<Arc<io::Error>>,
    /// An error of another thread than the writer's. The writer must stop because of it: nothing
    /// becomes durable any more.
    pub(super) broken: Option<io::Error>,
    /// Whether the writer has stopped and waits for the keeper to stop too.
    pub(super) keeper_dismissed: bool,
    /// Whether the writer is gone: nothing becomes durable any more.
    pub(super) stopped: bool,
    pub(super) syncs: u64,
}

/// The active segment, as far as the queue needs to know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentState {
    /// Number of bytes left for records behind the batch in flight, in whole blocks.
    pub(super) room: u64,
    /// The segment's size.
    pub(super) bytes: u64,
    /// Minimum size of a segment.
    pub(super) configured: u64,
}

/// The next segment, as far as the queue needs to know it.
#[derive(Debug, Default)]
pub(super) struct SpareState {
    /// The size of the spare segment, once there is one.
    pub(super) ready: Option<u64>,
    /// The size that an appender can't do without.
    pub(super) demanded: Option<u64>,
    /// Number of attempts to prepare a segment: begun, and ended.
    pub(super) begun: u64,
    pub(super) ended: u64,
    /// Why the last attempt failed.
    pub(super) full: Option<Arc<io::Error>>,
}

/// How a log is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    /// Write and sync what is queued, then stop.
    Close,
    /// Stop now.
    Abandon,
}

/// What the writer must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write this batch, which was swapped into the writer's buffer.
    Write(Batch),
    /// Begin the spare segment.
    Rotate,
    /// Seal the last batch, which ends with this record.
    Seal(Lsn),
    /// Stop for good.
    Stop,
}

/// What the keeper must do next. The queue decides it without the segments. The keeper gets it with
/// them: `R` is the segment that was replaced, and `S` the spare segment, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upkeep<R = (), S = ()> {
    /// Remove the segment that was replaced.
    Remove(R),
    /// Make the next spare segment from it.
    Reuse(R),
    /// Prepare a spare segment of this size, to follow the active one. It takes the place of the
    /// spare segment that there may be.
    Prepare(u64, S),
    /// Stop for good.
    Stop,
}

/// The records that one sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) last: Lsn,
    pub(super) count: u32,
    /// Offset up to which its records are folded in already.
    pub(super) folded: usize,
    /// Size of the records that are not folded in.
    pub(super) unfolded_bytes: u64,
}

/// What to do with a record that a caller appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordAdmission {
    Accept,
    /// The caller must wait until the writer has made progress.
    Wait,
    /// A spare segment of this size must be prepared first.
    NeedsSpare(u64),
}

/// The side of the callers.
impl Queue {
    pub(super) fn new(last: Lsn, live_bytes: u64, segment: SegmentState) -> Self {
        let mut buffer = Vec::new();
        format::clear_batch(&mut buffer);
        Self {
            buffer,
            last,
            wakers_filling: Wakers::default(),
            forced: 0,
            wanted: false,
            folded: BATCH_HEADER,
            forced_taken: 0,
            forced_before: 0,
            taken: last,
            opened: last,
            batches: 0,
            in_flight: false,
            wakers_in_flight: Wakers::default(),
            folding_bytes: 0,
            live_bytes,
            segment,
            spare: SpareState::default(),
            replacing: false,
            replaced: None,
            shutdown: None,
            failure: None,
            unclosed: None,
            broken: None,
            keeper_dismissed: false,
            stopped: false,
            syncs: 0,
        }
    }

    /// Checks that the log takes records and returns them.
    pub(super) fn check_open(&self) -> Result<(), LogError> {
        self.check_running()?;
        if self.shutdown.is_some() { Err(LogError::Closed) } else { Ok(()) }
    }

    /// Checks that what was accepted may still become durable.
    pub(super) fn check_running(&self) -> Result<(), LogError> {
        match &self.failure {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None if self.stopped => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// Decides on a record whose frame has this many bytes.
    pub(super) fn admit(&self, frame: u64) -> RecordAdmission {
        let buffered = self.buffer.len() as u64;
        if !self.buffer_is_empty() && buffered + frame > MAX_QUEUE_BYTES {
            return RecordAdmission::Wait;
        }
        if padded(buffered + frame) <= self.segment.room {
            return RecordAdmission::Accept;
        }
        // An upper bound of what a segment begun now would have to carry. Folding makes it exact.
        let carried = self.live_bytes + self.unfolded_bytes() + frame;
        if self.spare.ready.is_some_and(|bytes| suits(bytes, carried)) {
            return RecordAdmission::Accept;
        }
        if self.in_flight || !self.buffer_is_empty() || self.unfolded_bytes() > 0 {
            RecordAdmission::Wait
        } else {
            RecordAdmission::NeedsSpare(size_for(self.segment.configured, carried))
        }
    }

    /// Takes in the encoded record, which was admitted.
    pub(super) fn accept(&mut self, encoded: &[u8]) -> Lsn {
        let lsn = self.last.next();
        self.last = lsn;
        format::push_frame(&mut self.buffer, lsn, encoded);
        lsn
    }

    /// Notes that a caller is going to wait for the record accepted last.
    pub(super) fn force(&mut self) {
        self.forced += 1;
        self.want();
    }

    /// Whether callers come one at a time, so that it is faster if a caller writes its own record.
    pub(super) const fn is_quiet(&self) -> bool {
        self.forced - self.forced_taken <= 1 && self.forced_before <= 1
    }

    /// Has the buffer written as soon as the writer gets to it, if anything is in it.
    pub(super) fn want(&mut self) {
        self.wanted |= !self.buffer_is_empty();
    }

    pub(super) fn demand_spare(&mut self, bytes: u64) {
        self.spare.demanded = Some(self.spare.demanded.map_or(bytes, |other| other.max(bytes)));
    }

    pub(super) const fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) const fn stats(&self) -> LogStats {
        let appended = self.last.as_u64() - self.opened.as_u64();
        LogStats { appended, forced: self.forced, syncs: self.syncs }
    }

    const fn buffer_is_empty(&self) -> bool {
        self.buffer.len() == BATCH_HEADER
    }

    /// Returns the size of what was accepted and is not yet folded into the live records.
    const fn unfolded_bytes(&self) -> u64 {
        self.folding_bytes + (self.buffer.len() - self.folded) as u64
    }

    /// Returns how much of the segment the buffer is going to take.
    const fn buffer_need(&self) -> u64 {
        if self.buffer_is_empty() { 0 } else { padded(self.buffer.len() as u64) }
    }
}

/// The side of the writer and the keeper.
impl Queue {
    /// Returns what there is to write, or `None`. A batch to write is swapped into `buffer`, which
    /// is the writer's own.
    pub(super) fn next_work(&mut self, buffer: &mut Vec<u8>) -> Option<Work> {
        if self.is_broken() || self.shutdown == Some(Shutdown::Abandon) {
            return Some(Work::Stop);
        }
        if self.spare_is_taken() {
            self.wanted = true;
        }
        let closing = self.shutdown.is_some();
        if (self.wanted || closing) && !self.buffer_is_empty() {
            return Some(if self.buffer_need() <= self.segment.room { self.take(buffer) } else { Work::Rotate });
        }
        closing.then_some(Work::Stop)
    }

    /// Whether there is something to write or to end.
    pub(super) fn has_work(&self) -> bool {
        let to_write = (self.wanted || self.spare_is_taken()) && !self.buffer_is_empty();
        to_write || self.is_broken() || self.shutdown.is_some()
    }

    /// Returns what there is to do besides writing, or `None`.
    pub(super) fn next_upkeep(&mut self) -> Option<Upkeep> {
        if self.is_broken() || self.keeper_dismissed || self.shutdown == Some(Shutdown::Abandon) {
            return Some(Upkeep::Stop);
        }
        // A replaced segment comes first, so that there are never more than two segments.
        if let Some(bytes) = self.replaced.take() {
            if self.shutdown.is_some() || !self.may_reuse(bytes) {
                return Some(Upkeep::Remove(()));
            }
            self.spare.begun += 1;
            self.spare.demanded = None;
            return Some(Upkeep::Reuse(()));
        }
        if self.shutdown.is_some() {
            return Some(Upkeep::Stop);
        }
        let bytes = self.spare_needed().filter(|_| self.may_prepare())?;
        self.spare.begun += 1;
        (self.spare.ready, self.spare.demanded) = (None, None);
        Some(Upkeep::Prepare(bytes, ()))
    }

    /// Notes that an attempt to prepare a spare segment has ended: with one of this size, or with
    /// an error.
    pub(super) fn prepared(&mut self, result: Result<u64, io::Error>) {
        self.spare.ended += 1;
        match result {
            Ok(bytes) => {
                (self.spare.ready, self.spare.full) = (Some(bytes), None);
                // This one, if it is large enough, also serves a caller that demanded one
                // meanwhile. To put another one in its place would keep the callers that wait for
                // it from using it.
                self.spare.demanded = self.spare.demanded.filter(|demanded| *demanded > bytes);
            }
            Err(error) => self.spare.full = Some(Arc::new(error)),
        }
    }

    /// Whether the keeper has something to do.
    pub(super) fn needs_upkeep(&self) -> bool {
        self.replaced.is_some() || self.spare_needed().is_some() && self.may_prepare()
    }

    /// Whether the segment that was replaced, of this size, can be the next one. That is so if the
    /// next one is to have the configured size. Segments of other sizes come and go with the live
    /// records, and are made for them.
    fn may_reuse(&self, bytes: u64) -> bool {
        let wanted = self.spare.demanded.unwrap_or_else(|| self.spare_bytes());
        self.may_prepare() && self.spare.ready.is_none() && bytes == self.segment.configured && bytes == wanted
    }

    const fn may_prepare(&self) -> bool {
        !self.replacing && !self.spare_is_taken()
    }

    pub(super) const fn is_broken(&self) -> bool {
        self.failure.is_some() || self.broken.is_some()
    }

    /// Whether a caller demands another spare segment, but the buffer needs the present one, which
    /// must be begun first.
    const fn spare_is_taken(&self) -> bool {
        self.spare.demanded.is_some() && self.buffer_need() > self.segment.room
    }

    /// Returns the size of the spare segment to prepare, if one is needed. It is needed on demand;
    /// and ahead of need, once half of the active one is used, or if that one is small to begin
    /// with. After a failed attempt only a caller that needs it asks again.
    fn spare_needed(&self) -> Option<u64> {
        let ahead = self.spare.ready.is_none()
            && self.spare.full.is_none()
            && self.spare.begun == self.spare.ended
            && (self.segment.bytes < self.segment.configured
                || self.segment.room.saturating_sub(self.buffer_need()) < self.segment.bytes / 2);
        self.spare.demanded.or_else(|| ahead.then(|| self.spare_bytes()))
    }

    /// Returns the size that suits the next segment, as far as can be told.
    const fn spare_bytes(&self) -> u64 {
        size_for(self.segment.configured, self.live_bytes + self.unfolded_bytes())
    }

    fn take(&mut self, buffer: &mut Vec<u8>) -> Work {
        self.segment.room -= self.buffer_need();
        Work::Write(self.launch(buffer))
    }

    /// Takes the batch out, because its records are going to be carried over, into a segment of
    /// this size.
    pub(super) fn take_into_spare(&mut self, spare_bytes: u64, buffer: &mut Vec<u8>) -> Batch {
        self.spare.ready = None;
        self.replacing = true;
        // Carried records take half of a segment at most. The other half is more than was left of
        // the old one, or else the record that made this necessary would have gone there. So what
        // is accepted from now on has its room.
        self.segment = SegmentState { room: spare_bytes / 2, bytes: spare_bytes, ..self.segment };
        self.launch(buffer)
    }

    /// Notes that the spare segment is now the active one, and has replaced one of this size.
    pub(super) const fn has_replaced(&mut self, bytes: u64) {
        (self.replacing, self.replaced) = (false, Some(bytes));
    }

    /// Sets the exact room in a segment begun by [`take_into_spare`](Self::take_into_spare), once
    /// the size of what it carries is known.
    pub(super) fn carried(&mut self, framed_bytes: u64) {
        self.segment.room = self.segment.bytes - carry_need(framed_bytes);
    }

    /// Notes that records of this framed size were folded in, and that the live records have this
    /// size now, or had it a moment ago.
    pub(super) const fn has_folded(&mut self, bytes: u64, live_bytes: u64) {
        self.folding_bytes -= bytes;
        self.live_bytes = live_bytes;
    }

    /// Returns what is in the batch being filled and not yet folded in, as frames. From now on it
    /// counts as folded in.
    pub(super) fn take_unfolded(&mut self) -> &[u8] {
        let from = mem::replace(&mut self.folded, self.buffer.len());
        self.folding_bytes += (self.buffer.len() - from) as u64;
        &self.buffer[from..]
    }

    fn launch(&mut self, buffer: &mut Vec<u8>) -> Batch {
        format::clear_batch(buffer);
        mem::swap(&mut self.buffer, buffer);
        debug_assert!(!self.in_flight && self.wakers_in_flight.is_empty(), "one batch at a time");
        mem::swap(&mut self.wakers_filling, &mut self.wakers_in_flight);
        (self.in_flight, self.wanted) = (true, false);
        self.forced_before = self.forced - mem::replace(&mut self.forced_taken, self.forced);
        let before = mem::replace(&mut self.taken, self.last);
        self.batches += 1;
        let folded = mem::replace(&mut self.folded, BATCH_HEADER);
        let unfolded_bytes = (buffer.len() - folded) as u64;
        self.folding_bytes += unfolded_bytes;
        let count = (self.last.as_u64() - before.as_u64()) as u32; // they fit into MAX_QUEUE_BYTES, or are one
        Batch { number: self.batches, last: self.last, count, folded, unfolded_bytes }
    }

    pub(super) const fn has_room_for_seal(&self) -> bool {
        self.buffer_need() + BLOCK <= self.segment.room
    }

    /// Returns a seal for the last batch, if there is room for one besides what is queued.
    pub(super) fn take_seal(&mut self) -> Option<Work> {
        self.has_room_for_seal().then(|| {
            self.segment.room -= BLOCK;
            Work::Seal(self.taken)
        })
    }
}
