//! What callers, the writer and the keeper share: the queue under its lock, the live records under
//! theirs, and all waiting. This file has the callers' side; `threads.rs` has the side of the log's
//! own threads.
//!
//! No lock is held during I/O, nor while a waker is cloned, woken or dropped. If both locks are
//! taken, the live records are locked before the queue, so that records are folded in in their
//! order.
//!
//! The thread that writes holds the [`Pen`]. While there is nothing to write, the pen lies here:
//! for the writer's thread, or for a caller that comes alone and is faster if it writes its own
//! record.

use std::{
    fmt, io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use crossbeam_utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use super::{
    batch_gate::BatchGate,
    format::{self, FRAME_HEADER},
    notifier::Notifier,
    patience::Patience,
    pen::Pen,
    queue::{Batch, Queue, RecordAdmission, SegmentState, Shutdown, SpareState, Work},
    segment::{ReplacedSegment, SpareSegment, framed_bytes},
    wakers::Wakers,
};
use crate::{
    log::{Durability, LiveRecords, LogError, LogStats, Lsn},
    platform::{Condvar, Platform},
};

mod threads;

/// The shared side of a log.
#[derive(Debug)]
pub(super) struct LogShared {
    queue: CachePadded<Mutex<Guarded>>,
    live: Mutex<LiveRecords>,
    /// The live records' framed size. Written under their lock, read without it.
    live_bytes: AtomicU64,
    /// The last durable record. Written under the queue's lock, read without it.
    durable: CachePadded<AtomicU64>,
    /// The queue's flag of this name, read without its lock.
    stopped: AtomicBool,
    /// The writer waits at the first one for something to do, and the keeper at the second.
    work: Condvar,
    upkeep: Condvar,
    /// Appenders wait here for room in memory, or for the attempt to prepare a segment that one of
    /// them asked for.
    room: Condvar,
    /// Threads wait here for their batch: there is one gate for the batch in flight and one for the
    /// batch being filled.
    gates: [BatchGate; 2],
    notifier: Notifier,
    /// The patience of all operations on the log's directory.
    patience: Arc<Patience>,
}

/// All that the queue's lock guards. The queue comes first; see there.
#[repr(C)]
struct Guarded {
    queue: Queue,
    /// The pen, while there is nothing to write.
    pen: Option<Box<Pen>>,
    /// The spare segment, once it is ready.
    spare: Option<SpareSegment>,
    /// The segment that it has replaced, until the keeper gets to it.
    replaced: Option<ReplacedSegment>,
    /// How the writer sleeps, if it does. Only then is waking it worth a system call.
    writer_sleeps: Option<Sleep>,
    keeper_sleeps: bool,
}

/// Until when the writer sleeps, unless woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    /// Until the last batch may be sealed.
    UntilSeal,
    Forever,
}

/// Live records, framed, and the batch that they stand for.
pub(super) struct CarriedBatch {
    pub(super) batch: Batch,
    pub(super) frames: Vec<u8>,
    pub(super) count: u32,
}

/// Frames all live records. Returns the frames and their number.
pub(super) fn frame_live(live: &LiveRecords) -> (Vec<u8>, u32) {
    let mut frames = Vec::with_capacity(framed_bytes(live) as usize);
    for (lsn, encoded) in live.encoded() {
        format::push_frame(&mut frames, lsn, encoded);
    }
    // Each record's frame has at least 12 bytes. No segment that could be framed in memory has room
    // for 2^32 of them.
    (frames, u32::try_from(live.len()).unwrap_or(u32::MAX))
}

impl LogShared {
    pub(super) fn new(
        live: LiveRecords,
        last: Lsn,
        segment: SegmentState,
        platform: &Platform,
        notifier: Notifier,
        patience: Arc<Patience>,
    ) -> Self {
        let live_bytes = framed_bytes(&live);
        let queue = Queue::new(last, live_bytes, segment);
        Self {
            queue: CachePadded::new(Mutex::new(Guarded {
                queue,
                pen: None,
                spare: None,
                replaced: None,
                writer_sleeps: None,
                keeper_sleeps: false,
            })),
            live: Mutex::new(live),
            live_bytes: AtomicU64::new(live_bytes),
            durable: CachePadded::new(AtomicU64::new(last.as_u64())),
            stopped: AtomicBool::new(false),
            work: platform.condvar(),
            upkeep: platform.condvar(),
            room: platform.condvar(),
            gates: [BatchGate::new(platform), BatchGate::new(platform)],
            notifier,
            patience,
        }
    }

    /// Wakes the writer for work. Without the pen it could do none: the thread that has the pen
    /// sees to the work afterwards.
    fn wake_writer(&self, guarded: &mut Guarded) {
        if guarded.pen.is_some() && guarded.writer_sleeps.take().is_some() {
            self.work.notify_one();
        }
    }

    fn wake_keeper(&self, guarded: &mut Guarded) {
        if guarded.keeper_sleeps && (guarded.queue.needs_upkeep() || guarded.queue.shutdown.is_some()) {
            guarded.keeper_sleeps = false;
            self.upkeep.notify_one();
        }
    }

    const fn gate(&self, batch: u64) -> &BatchGate {
        &self.gates[(batch % 2) as usize]
    }
}

/// The callers' side.
impl LogShared {
    pub(super) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    pub(super) fn stats(&self) -> LogStats {
        self.queue.lock().queue.stats()
    }

    /// Returns the memory for records in bytes. The pen's buffer counts if the pen lies here; else
    /// the other buffer stands for it.
    pub(super) fn memory_bytes(&self) -> usize {
        let live = self.live.lock().memory_bytes();
        let guarded = self.queue.lock();
        let filling = guarded.queue.buffer_capacity();
        live + filling + guarded.pen.as_ref().map_or(filling, |pen| pen.buffer.capacity())
    }

    /// Queues an encoded record. If no segment can be prepared for it, `full` makes the error.
    pub(super) fn append(
        &self,
        encoded: &[u8],
        durability: Durability,
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<Lsn, LogError> {
        let mut guarded = self.queue.lock();
        let lsn = self.accept(&mut guarded, encoded, full)?;
        if durability == Durability::Forced {
            guarded.queue.force();
            self.wake_writer(&mut guarded);
        }
        Ok(lsn)
    }

    /// Does the same for several records, lazily: their encodings one after the other, and the
    /// length of each. There must be at least one. Records before one that is refused are in the
    /// log.
    pub(super) fn append_all(
        &self,
        mut encoded: &[u8],
        lengths: &[usize],
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<Lsn, LogError> {
        let mut guarded = self.queue.lock();
        let mut last = Lsn::NONE;
        for length in lengths {
            let (record, others) = encoded.split_at(*length);
            last = self.accept(&mut guarded, record, &full)?;
            encoded = others;
        }
        Ok(last)
    }

    /// Does the same for a record that the caller is going to wait for at once. Returns the batch
    /// that makes the record durable; or the pen and the batch, if it is faster that the caller
    /// writes it.
    pub(super) fn append_and_lead(
        &self,
        encoded: &[u8],
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<(Lsn, CommitPath), LogError> {
        let mut guarded = self.queue.lock();
        let lsn = self.accept(&mut guarded, encoded, full)?;
        guarded.queue.force();
        // The locks are taken in the wrong order, so this only tries. If another thread has the
        // second one, that is no reason to wait.
        if guarded.queue.is_quiet()
            && let Some(mut live) = self.live.try_lock()
            && let Some(mut pen) = guarded.pen.take()
        {
            // Other work than writing is left to the writer. It asks again, and gets the same
            // answer.
            if let Some(Work::Write(batch)) = guarded.queue.next_work(&mut pen.buffer) {
                self.wake_keeper(&mut guarded);
                drop(guarded);
                self.fold(&mut live, &pen, batch);
                return Ok((lsn, CommitPath::Write(pen, batch)));
            }
            guarded.pen = Some(pen);
        }
        self.wake_writer(&mut guarded);
        Ok((lsn, CommitPath::Wait(guarded.queue.batches + 1)))
    }

    /// Does the same for a record that a task is going to wait for. The task's waker comes along,
    /// which saves the lock that [`poll`](Self::poll) takes.
    pub(super) fn append_awaited(
        &self,
        encoded: &[u8],
        waker: &Waker,
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<Lsn, LogError> {
        let waker = waker.clone(); // foreign code, so not under the lock; its drop below is not under it either
        let mut guarded = self.queue.lock();
        let lsn = match self.accept(&mut guarded, encoded, full) {
            Ok(lsn) => lsn,
            Err(error) => {
                drop(guarded);
                return Err(error);
            }
        };
        guarded.queue.force();
        self.wake_writer(&mut guarded);
        // It does not matter if the waker is in the list twice: there are no more of these than
        // records in the batch.
        guarded.queue.wakers_filling.push(waker);
        Ok(lsn)
    }

    fn accept(
        &self,
        guarded: &mut MutexGuard<'_, Guarded>,
        encoded: &[u8],
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<Lsn, LogError> {
        loop {
            guarded.queue.check_open()?;
            match guarded.queue.admit((FRAME_HEADER + encoded.len()) as u64) {
                RecordAdmission::Accept => return Ok(guarded.queue.accept(encoded)),
                RecordAdmission::Wait => {
                    self.want(guarded);
                    self.room.wait(guarded);
                }
                RecordAdmission::NeedsSpare(bytes) => {
                    if let Some(error) = self.demand_spare(guarded, bytes) {
                        return Err(full(error));
                    }
                }
            }
        }
    }

    fn want(&self, guarded: &mut Guarded) {
        guarded.queue.want();
        self.wake_writer(guarded);
    }

    /// Waits until a segment has been prepared, or an attempt that began after this call has
    /// failed. Returns the error of the attempt.
    fn demand_spare(&self, guarded: &mut MutexGuard<'_, Guarded>, bytes: u64) -> Option<Arc<io::Error>> {
        guarded.queue.demand_spare(bytes);
        self.wake_writer(guarded);
        self.wake_keeper(guarded);
        // An attempt that began before this call may fail on a disk that was full then and is not
        // now.
        let awaited = guarded.queue.spare.begun + 1;
        let before = guarded.queue.spare.ended;
        let settled = |spare: &SpareState| spare.ended >= awaited || spare.ended > before && spare.full.is_none();
        while !settled(&guarded.queue.spare) && guarded.queue.check_open().is_ok() {
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
        self.wait_for(lsn, batch)
    }

    /// Blocks until the record, which this batch makes durable, is durable.
    pub(super) fn wait_for(&self, lsn: Lsn, batch: u64) -> Result<(), LogError> {
        self.gate(batch).wait(|| lsn <= self.durable() || self.stopped.load(Ordering::Acquire));
        if lsn <= self.durable() { Ok(()) } else { self.queue.lock().queue.check_running() }
    }

    /// Returns the answer if there is one. Otherwise registers the waker, which will be woken, and
    /// returns `None`.
    pub(super) fn poll(&self, lsn: Lsn, waker: &Waker) -> Option<Result<(), LogError>> {
        if lsn <= self.durable() {
            return Some(Ok(()));
        }
        let waker = waker.clone(); // foreign code, so not under the lock; its drop below is not under it either
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
        let batch = self.batch_of(&mut guarded, lsn);
        self.register(guarded, waker, batch);
        None
    }

    /// Adds the waker to those that wait for this batch, which is not durable yet.
    fn register(&self, mut guarded: MutexGuard<'_, Guarded>, waker: Waker, batch: u64) {
        let wakers = guarded.wakers_of(batch);
        wakers.push(waker);
        if wakers.is_crowded() {
            let wakers = mem::take(wakers);
            drop(guarded);
            self.thin_out(wakers, batch);
        }
    }

    /// Has the wakers dropped that are in the list twice. Their batch may be durable by then; in
    /// that case the others are woken.
    fn thin_out(&self, mut wakers: Wakers, batch: u64) {
        self.notifier.dispose(wakers.thin_out());
        let mut guarded = self.queue.lock();
        let is_done = guarded.queue.stopped
            || batch < guarded.queue.batches
            || batch == guarded.queue.batches && !guarded.queue.in_flight;
        if !is_done {
            guarded.wakers_of(batch).append(wakers);
            return;
        }
        drop(guarded);
        self.notifier.wake(&mut wakers);
    }

    /// Returns the batch that makes the record durable, which it is not yet. If that is the one
    /// being filled, it is wanted now.
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
        // What was taken to be written is folded in before another thread gets this lock. The rest
        // is folded in here.
        let unfolded = self.queue.lock().queue.take_unfolded().to_vec();
        self.fold_frames(&mut live, &unfolded);
        self.queue.lock().queue.has_folded(unfolded.len() as u64, framed_bytes(&live));
        self.room.notify_all();
        Ok(look(&live))
    }

    /// Asks the writer to stop. The caller then joins it.
    pub(super) fn shut_down(&self, how: Shutdown) {
        if how == Shutdown::Abandon {
            self.patience.end();
        }
        let mut guarded = self.queue.lock();
        if guarded.queue.shutdown != Some(Shutdown::Abandon) {
            guarded.queue.shutdown = Some(how);
        }
        self.wake_writer(&mut guarded);
        self.wake_keeper(&mut guarded);
        drop(guarded);
        self.room.notify_all();
    }

    /// Returns how the log ended: an error if not everything that was accepted is durable.
    pub(super) fn outcome(&self, unclosed: impl FnOnce(Arc<io::Error>) -> LogError) -> Result<(), LogError> {
        let guarded = self.queue.lock();
        match &guarded.queue.failure {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None if guarded.queue.last > self.durable() => Err(LogError::Closed),
            None => guarded.queue.unclosed.clone().map_or(Ok(()), |error| Err(unclosed(error))),
        }
    }
}

/// How a caller's record becomes durable.
pub(super) enum CommitPath {
    /// By the writer, with this batch.
    Wait(u64),
    /// By the caller, which got the pen for that.
    Write(Box<Pen>, Batch),
}

impl Guarded {
    fn wakers_of(&mut self, batch: u64) -> &mut Wakers {
        let queue = &mut self.queue;
        if batch == queue.batches { &mut queue.wakers_in_flight } else { &mut queue.wakers_filling }
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("queue", &self.queue).finish_non_exhaustive()
    }
}
