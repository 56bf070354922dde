//! What callers and the writer share: the queue under its lock, the live records under theirs, and all waiting.
//!
//! No lock is held during I/O, nor while a waker is cloned, woken or dropped. The live records are locked before the
//! queue where both are, so that records are folded in in their order.

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    format::{self, FRAME_HEADER},
    gate::Gate,
    queue::{Admission, Batch, Ending, Queue, SegmentState, Work},
    segment::framed_bytes,
};
use crate::log::{Durability, LiveRecords, LogError, LogStats, Lsn, Record};

/// The shared side of a log.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Guarded>,
    live: Mutex<LiveRecords>,
    /// The last durable record; written under the queue's lock, read without.
    durable: AtomicU64,
    /// The writer waits here for something to do.
    work: Condvar,
    /// Appenders wait here for room in memory, or for the attempt to prepare a segment that one of them asked for.
    room: Condvar,
    /// Threads wait here for their batch: one gate for the batch in flight and one for the batch being filled.
    gates: [Gate; 2],
}

#[derive(Debug)]
struct Guarded {
    queue: Queue,
    /// Whether the writer sleeps; only then is waking it worth a system call.
    writer_sleeps: bool,
}

/// Live records, framed, and the batch that they stand for.
pub(super) struct Carried {
    pub(super) batch: Batch,
    pub(super) frames: Vec<u8>,
    pub(super) count: u32,
}

/// Frames all live records.
pub(super) fn frame_live(live: &LiveRecords) -> (Vec<u8>, u32) {
    let mut frames = Vec::with_capacity(framed_bytes(live) as usize);
    for (lsn, record) in live.iter() {
        format::push_frame(&mut frames, lsn, &record.encode());
    }
    // Each record's frame has 12 bytes at least; 2^32 of them fit into no segment that could be framed in memory.
    (frames, u32::try_from(live.len()).unwrap_or(u32::MAX))
}

impl Shared {
    pub(super) fn new(live: LiveRecords, last: Lsn, segment: SegmentState) -> Self {
        let queue = Queue::new(last, framed_bytes(&live), segment);
        Self {
            queue: Mutex::new(Guarded { queue, writer_sleeps: false }),
            live: Mutex::new(live),
            durable: AtomicU64::new(last.number()),
            work: Condvar::new(),
            room: Condvar::new(),
            gates: [Gate::default(), Gate::default()],
        }
    }

    fn wake_writer(&self, guarded: &mut Guarded) {
        if mem::take(&mut guarded.writer_sleeps) {
            self.work.notify_one();
        }
    }

    const fn gate(&self, batch: u64) -> &Gate {
        &self.gates[(batch % 2) as usize]
    }
}

/// The callers' side.
impl Shared {
    pub(super) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn stats(&self) -> LogStats {
        self.queue.lock().queue.stats
    }

    /// Queues an encoded record. An error that tells of a full disk is made by `full`.
    pub(super) fn append(
        &self,
        record: Record,
        encoded: &[u8],
        durability: Durability,
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<Lsn, LogError> {
        let frame = (FRAME_HEADER + encoded.len()) as u64;
        let mut guarded = self.queue.lock();
        loop {
            guarded.queue.check_open()?;
            match guarded.queue.admit(frame) {
                Admission::Accept => break,
                Admission::Wait => {
                    self.want(&mut guarded);
                    self.room.wait(&mut guarded);
                }
                Admission::NeedsSpare(bytes) => {
                    if let Some(error) = self.demand_spare(&mut guarded, bytes) {
                        return Err(full(error));
                    }
                }
            }
        }
        let lsn = guarded.queue.accept(record, encoded, frame);
        if durability == Durability::Forced {
            guarded.queue.stats.forced += 1;
            self.want(&mut guarded);
        }
        Ok(lsn)
    }

    fn want(&self, guarded: &mut Guarded) {
        guarded.queue.want();
        self.wake_writer(guarded);
    }

    /// Waits for an attempt to prepare a segment that begins after this call. Gives the error where it found no room.
    fn demand_spare(&self, guarded: &mut MutexGuard<'_, Guarded>, bytes: u64) -> Option<Arc<io::Error>> {
        guarded.queue.demand_spare(bytes);
        self.wake_writer(guarded);
        let awaited = guarded.queue.spare.begun + 1;
        while guarded.queue.spare.ended < awaited && guarded.queue.check_open().is_ok() {
            self.room.wait(guarded);
        }
        guarded.queue.spare.full.clone().filter(|_| guarded.queue.check_open().is_ok())
    }

    /// Blocks until the record is durable.
    pub(super) fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        if lsn <= self.durable() {
            return Ok(());
        }
        let (lsn, batch) = {
            let mut guarded = self.queue.lock();
            let lsn = lsn.min(guarded.queue.last);
            if lsn <= self.durable() {
                return Ok(());
            }
            guarded.queue.check_running()?;
            (lsn, self.batch_of(&mut guarded, lsn))
        };
        self.gate(batch).wait(batch);
        if lsn <= self.durable() { Ok(()) } else { self.queue.lock().queue.check_running() }
    }

    /// Registers the waker unless the answer is there: `None` means that it will be woken.
    pub(super) fn poll(&self, lsn: Lsn, waker: &Waker) -> Option<Result<(), LogError>> {
        if lsn <= self.durable() {
            return Some(Ok(()));
        }
        let waker = waker.clone(); // foreign code, so not under the lock; nor is it dropped under it, below
        let mut guarded = self.queue.lock();
        let lsn = lsn.min(guarded.queue.last);
        if lsn <= self.durable() {
            drop(guarded);
            return Some(Ok(()));
        }
        if let Err(error) = guarded.queue.check_running() {
            drop(guarded);
            return Some(Err(error));
        }
        if self.batch_of(&mut guarded, lsn) == guarded.queue.batches {
            guarded.queue.wakers_in_flight.push(waker);
        } else {
            guarded.queue.wakers_filling.push(waker);
        }
        None
    }

    /// The batch that makes the record durable, which it is not yet. If that is the one being filled, it is wanted now.
    fn batch_of(&self, guarded: &mut Guarded, lsn: Lsn) -> u64 {
        if lsn <= guarded.queue.taken {
            guarded.queue.batches
        } else {
            self.want(guarded);
            guarded.queue.batches + 1
        }
    }

    /// Looks at the live records as of the last append.
    pub(super) fn with_live<T>(&self, look: impl FnOnce(&LiveRecords) -> T) -> Result<T, LogError> {
        self.queue.lock().queue.check_open()?;
        let mut live = self.live.lock();
        self.fold_into(&mut live);
        Ok(look(&live))
    }

    /// Asks the writer to end; the caller then joins it.
    pub(super) fn end(&self, ending: Ending) {
        let mut guarded = self.queue.lock();
        if guarded.queue.ending != Some(Ending::Abandon) {
            guarded.queue.ending = Some(ending);
        }
        self.wake_writer(&mut guarded);
        drop(guarded);
        self.room.notify_all();
    }

    /// How it ended: an error where not everything that was accepted is durable.
    pub(super) fn outcome(&self) -> Result<(), LogError> {
        let guarded = self.queue.lock();
        match &guarded.queue.failure {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None if guarded.queue.last > self.durable() => Err(LogError::Closed),
            None => Ok(()),
        }
    }
}

/// The writer's side.
impl Shared {
    /// Waits until there is something to do and says what. Where the last batch has no seal yet, `seal_after` is how
    /// long there must be nothing to do before it gets one. A batch to write is swapped into `buffer`.
    pub(super) fn next_work(&self, buffer: &mut Vec<u8>, seal_after: Option<Duration>) -> Work {
        let mut guarded = self.queue.lock();
        loop {
            if let Some(work) = guarded.queue.next_work(buffer) {
                return work;
            }
            guarded.writer_sleeps = true;
            let Some(seal_after) = seal_after else {
                self.work.wait(&mut guarded);
                guarded.writer_sleeps = false;
                continue;
            };
            let timed_out = self.work.wait_for(&mut guarded, seal_after).timed_out();
            // Who had something for the writer to do has also woken it up.
            if mem::take(&mut guarded.writer_sleeps)
                && timed_out
                && let Some(seal) = guarded.queue.take_seal()
            {
                return seal;
            }
        }
    }

    /// The last record written, if the writer, about to stop, should seal it: only a clean close does.
    pub(super) fn closed_cleanly(&self) -> Option<Lsn> {
        let guarded = self.queue.lock();
        (guarded.queue.ending == Some(Ending::Close) && guarded.queue.failure.is_none()).then_some(guarded.queue.taken)
    }

    /// Takes all that was accepted into one batch, to be carried over with all that is live into a spare segment of
    /// this size. The live records stay locked meanwhile, so that nothing accepted later is among them.
    pub(super) fn carry_over(&self, spare_bytes: u64) -> Carried {
        let mut live = self.live.lock();
        let (batch, unfolded, bytes) = {
            let mut guarded = self.queue.lock();
            let queue = &mut guarded.queue;
            (queue.take_into_spare(spare_bytes), mem::take(&mut queue.unfolded), queue.unfolded_bytes)
        };
        unfolded.into_iter().for_each(|(lsn, record)| live.apply(lsn, record));
        let (frames, count) = frame_live(&live);
        let mut guarded = self.queue.lock();
        guarded.queue.unfolded_bytes -= bytes;
        guarded.queue.live_bytes = frames.len() as u64;
        guarded.queue.carried(frames.len() as u64);
        Carried { batch, frames, count }
    }

    /// The batch is durable: says so to all who wait for it. `wakers` is the writer's own list, empty.
    pub(super) fn complete(&self, batch: Batch, wakers: &mut Vec<Waker>) {
        let mut guarded = self.queue.lock();
        debug_assert!(guarded.queue.in_flight && guarded.queue.taken == batch.last, "only what is in flight completes");
        self.durable.store(batch.last.number(), Ordering::Release);
        guarded.queue.in_flight = false;
        guarded.queue.stats.syncs += 1;
        mem::swap(&mut guarded.queue.wakers_in_flight, wakers);
        drop(guarded);
        self.gate(batch.number).open(batch.number);
        wake_all(wakers);
    }

    /// Folds what was accepted into the live records, and lets in who waited for room.
    pub(super) fn fold(&self) {
        self.fold_into(&mut self.live.lock());
    }

    fn fold_into(&self, live: &mut LiveRecords) {
        let (unfolded, bytes) = {
            let mut guarded = self.queue.lock();
            (mem::take(&mut guarded.queue.unfolded), guarded.queue.unfolded_bytes)
        };
        unfolded.into_iter().for_each(|(lsn, record)| live.apply(lsn, record));
        let mut guarded = self.queue.lock();
        guarded.queue.unfolded_bytes -= bytes;
        guarded.queue.live_bytes = framed_bytes(live);
        drop(guarded);
        self.room.notify_all();
    }

    /// An attempt to prepare a spare segment has ended: with one of this size, or for want of room.
    pub(super) fn prepared(&self, result: Result<u64, io::Error>) {
        let mut guarded = self.queue.lock();
        let spare = &mut guarded.queue.spare;
        spare.ended += 1;
        (spare.ready, spare.full) = match result {
            Ok(bytes) => (Some(bytes), None),
            Err(error) => (None, Some(Arc::new(error))),
        };
        drop(guarded);
        self.room.notify_all();
    }

    /// The writer is gone, for this reason or in peace: wakes everybody there is.
    pub(super) fn stop(&self, failure: Option<io::Error>) {
        let mut guarded = self.queue.lock();
        let queue = &mut guarded.queue;
        queue.stopped = true;
        if let Some(error) = failure {
            queue.failure.get_or_insert(Arc::new(error));
        }
        let mut wakers = mem::take(&mut queue.wakers_in_flight);
        wakers.append(&mut queue.wakers_filling);
        drop(guarded);
        self.room.notify_all();
        self.gates.iter().for_each(|gate| gate.open(u64::MAX));
        wake_all(&mut wakers);
    }
}

/// Wakes all, whatever one of them does: a waker that panics must not cost the others their wake-up.
fn wake_all(wakers: &mut Vec<Waker>) {
    for waker in wakers.drain(..) {
        let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
    }
}
