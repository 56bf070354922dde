//! What callers, the writer and the keeper share: the queue under its lock, the live records under theirs, and all
//! waiting.
//!
//! No lock is held during I/O, nor while a waker is cloned, woken or dropped. The live records are locked before the
//! queue where both are, so that records are folded in in their order.
//!
//! Who writes holds the [`Pen`]. It lies here while there is nothing to write, for the writer's thread, or for a caller
//! who comes alone and so does better to write himself.

use std::{
    fmt, io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::{
    format::{self, FRAME_HEADER},
    gate::Gate,
    queue::{Admission, Batch, Ending, Queue, SegmentState, SpareState, Upkeep, Work},
    segment::{Spare, framed_bytes},
    wakers::Wakers,
    writer::Pen,
};
use crate::{
    log::{Durability, LiveRecords, LogError, LogStats, Lsn},
    platform::{Condvar, Platform, Woken},
};

/// The shared side of a log.
#[derive(Debug)]
pub(super) struct Shared {
    queue: Mutex<Guarded>,
    live: Mutex<LiveRecords>,
    /// The last durable record; written under the queue's lock, read without.
    durable: AtomicU64,
    /// The queue's flag of this name, read without its lock.
    stopped: AtomicBool,
    /// The writer waits here for something to do, and the keeper here.
    work: Condvar,
    upkeep: Condvar,
    /// Appenders wait here for room in memory, or for the attempt to prepare a segment that one of them asked for.
    room: Condvar,
    /// Threads wait here for their batch: one gate for the batch in flight and one for the batch being filled.
    gates: [Gate; 2],
}

pub(super) struct Guarded {
    pub(super) queue: Queue,
    /// Lies here while there is nothing to write.
    pen: Option<Box<Pen>>,
    /// The spare segment, once it is ready.
    pub(super) spare: Option<Spare>,
    /// How the writer sleeps, if it does; only then is waking it worth a system call.
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
pub(super) struct Carried {
    pub(super) batch: Batch,
    pub(super) frames: Vec<u8>,
    pub(super) count: u32,
}

/// Frames all live records.
pub(super) fn frame_live(live: &LiveRecords) -> (Vec<u8>, u32) {
    let mut frames = Vec::with_capacity(framed_bytes(live) as usize);
    for (lsn, encoded) in live.encoded() {
        format::push_frame(&mut frames, lsn, encoded);
    }
    // Each record's frame has 12 bytes at least; 2^32 of them fit into no segment that could be framed in memory.
    (frames, u32::try_from(live.len()).unwrap_or(u32::MAX))
}

impl Shared {
    pub(super) fn new(live: LiveRecords, last: Lsn, segment: SegmentState, platform: &Platform) -> Self {
        let queue = Queue::new(last, framed_bytes(&live), segment);
        Self {
            queue: Mutex::new(Guarded { queue, pen: None, spare: None, writer_sleeps: None, keeper_sleeps: false }),
            live: Mutex::new(live),
            durable: AtomicU64::new(last.number()),
            stopped: AtomicBool::new(false),
            work: platform.condvar(),
            upkeep: platform.condvar(),
            room: platform.condvar(),
            gates: [Gate::new(platform), Gate::new(platform)],
        }
    }

    /// Wakes the writer up for work. Without the pen it could do none: who has it sees to the work afterwards.
    fn wake_writer(&self, guarded: &mut Guarded) {
        if guarded.pen.is_some() && guarded.writer_sleeps.take().is_some() {
            self.work.notify_one();
        }
    }

    fn wake_keeper(&self, guarded: &mut Guarded) {
        if guarded.keeper_sleeps && (guarded.queue.needs_upkeep() || guarded.queue.ending.is_some()) {
            guarded.keeper_sleeps = false;
            self.upkeep.notify_one();
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

    /// The memory for records, the pen's included if it lies here; else that of the other buffer stands for it.
    pub(super) fn memory_bytes(&self) -> usize {
        let live = self.live.lock().memory_bytes();
        let guarded = self.queue.lock();
        let filling = guarded.queue.buffer_capacity();
        live + filling + guarded.pen.as_ref().map_or(filling, |pen| pen.buffer.capacity())
    }

    /// Queues an encoded record. An error that tells of a full disk is made by `full`.
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

    /// The same for a record that the caller is going to wait for at once. Gives the batch that makes it durable, or the
    /// pen and the batch, where the caller had better write it himself.
    pub(super) fn append_and_lead(
        &self,
        encoded: &[u8],
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<(Lsn, Lead), LogError> {
        let mut guarded = self.queue.lock();
        let lsn = self.accept(&mut guarded, encoded, full)?;
        guarded.queue.force();
        // The locks are asked for in the wrong order, so not for long. Who has the other one is no reason to wait.
        if guarded.queue.is_quiet()
            && let Some(mut live) = self.live.try_lock()
            && let Some(mut pen) = guarded.pen.take()
        {
            // Other work than writing is the writer's; asking again, it gets the same answer.
            if let Some(Work::Write(batch)) = guarded.queue.next_work(&mut pen.buffer) {
                self.wake_keeper(&mut guarded);
                drop(guarded);
                self.fold(&mut live, &pen, batch);
                return Ok((lsn, Lead::Write(pen, batch)));
            }
            guarded.pen = Some(pen);
        }
        self.wake_writer(&mut guarded);
        Ok((lsn, Lead::Wait(guarded.queue.batches + 1)))
    }

    fn accept(
        &self,
        guarded: &mut MutexGuard<'_, Guarded>,
        encoded: &[u8],
        full: impl Fn(Arc<io::Error>) -> LogError,
    ) -> Result<Lsn, LogError> {
        let frame = (FRAME_HEADER + encoded.len()) as u64;
        loop {
            guarded.queue.check_open()?;
            match guarded.queue.admit(frame) {
                Admission::Accept => return Ok(guarded.queue.accept(encoded, frame)),
                Admission::Wait => {
                    self.want(guarded);
                    self.room.wait(guarded);
                }
                Admission::NeedsSpare(bytes) => {
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

    /// Waits until a segment has been prepared, or an attempt that began after this call has failed. Gives the error where
    /// it found no room.
    fn demand_spare(&self, guarded: &mut MutexGuard<'_, Guarded>, bytes: u64) -> Option<Arc<io::Error>> {
        guarded.queue.demand_spare(bytes);
        self.wake_writer(guarded);
        self.wake_keeper(guarded);
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

    /// Blocks until the record, which this batch makes durable, is.
    pub(super) fn wait_for(&self, lsn: Lsn, batch: u64) -> Result<(), LogError> {
        self.gate(batch).wait(|| lsn <= self.durable() || self.stopped.load(Ordering::Acquire));
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
        let batch = self.batch_of(&mut guarded, lsn);
        let wakers = guarded.wakers_of(batch);
        wakers.push(waker);
        if wakers.is_crowded() {
            let wakers = mem::take(wakers);
            drop(guarded);
            self.thin_out(wakers, batch);
        }
        None
    }

    /// Drops the wakers that are there twice. Their batch may be durable by then: those who missed that are woken here.
    fn thin_out(&self, mut wakers: Wakers, batch: u64) {
        wakers.thin_out();
        let mut guarded = self.queue.lock();
        let is_done = guarded.queue.stopped
            || batch < guarded.queue.batches
            || batch == guarded.queue.batches && !guarded.queue.in_flight;
        if !is_done {
            guarded.wakers_of(batch).append(wakers);
            return;
        }
        drop(guarded);
        wakers.wake_all();
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
        // What was taken to be written is folded in before anybody else gets this lock; the rest is folded in here.
        let unfolded = self.queue.lock().queue.take_unfolded().to_vec();
        self.fold_frames(&mut live, &unfolded);
        self.room.notify_all();
        Ok(look(&live))
    }

    /// Asks the writer to end; the caller then joins it.
    pub(super) fn end(&self, ending: Ending) {
        let mut guarded = self.queue.lock();
        if guarded.queue.ending != Some(Ending::Abandon) {
            guarded.queue.ending = Some(ending);
        }
        self.wake_writer(&mut guarded);
        self.wake_keeper(&mut guarded);
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
    /// Lays the pen down until there is something to do, and says what. Where the last batch has no seal yet,
    /// `seal_after` is how long there must be nothing to do before it gets one. A batch to write is in the pen's buffer.
    pub(super) fn next_work(&self, pen: Box<Pen>, seal_after: Duration) -> (Box<Pen>, Work) {
        let mut guarded = self.queue.lock();
        guarded.pen = Some(pen);
        loop {
            let mut sleep = Sleep::UntilSeal;
            if guarded.pen.is_some() && guarded.queue.has_work() {
                drop(guarded);
                if let Some(found) = self.take_work() {
                    return found;
                }
                guarded = self.queue.lock();
                continue;
            }
            if guarded.pen.as_ref().is_some_and(|pen| pen.segment.is_sealed()) {
                sleep = Sleep::Forever;
            }
            let before = guarded.queue.batches;
            guarded.writer_sleeps = Some(sleep);
            let timed_out = match sleep {
                Sleep::UntilSeal => self.work.wait_for(&mut guarded, seal_after) == Woken::TimedOut,
                Sleep::Forever => {
                    self.work.wait(&mut guarded);
                    false
                }
            };
            // Who had something for the writer to do has also woken it up.
            let is_idle = guarded.writer_sleeps.take().is_some() && timed_out && guarded.queue.batches == before;
            if is_idle && let Some(pen) = guarded.pen.take_if(|pen| !pen.segment.is_sealed()) {
                if let Some(seal) = guarded.queue.take_seal() {
                    return (pen, seal);
                }
                guarded.pen = Some(pen);
            }
        }
    }

    /// Takes the pen, if it is there, and something to do, if there is anything. The records of a batch are folded into
    /// the live ones before anything else can look at those.
    fn take_work(&self) -> Option<(Box<Pen>, Work)> {
        let mut live = self.live.lock();
        let mut guarded = self.queue.lock();
        let mut pen = guarded.pen.take()?;
        let Some(work) = guarded.queue.next_work(&mut pen.buffer) else {
            guarded.pen = Some(pen);
            return None;
        };
        self.wake_keeper(&mut guarded);
        drop(guarded);
        if let Work::Write(batch) = work {
            self.fold(&mut live, &pen, batch);
            self.room.notify_all();
        }
        Some((pen, work))
    }

    fn fold(&self, live: &mut LiveRecords, pen: &Pen, batch: Batch) {
        self.fold_frames(live, &pen.buffer[batch.folded..]);
    }

    fn fold_frames(&self, live: &mut LiveRecords, frames: &[u8]) {
        fold(live, frames);
        let mut guarded = self.queue.lock();
        guarded.queue.unfolded_bytes -= frames.len() as u64;
        guarded.queue.live_bytes = framed_bytes(live);
    }

    /// A caller who has written lays the pen down: says to all who wait for the batch that it is durable, and leaves
    /// what has come meanwhile to the writer.
    pub(super) fn lay_down(&self, mut pen: Box<Pen>, batch: Batch, written: io::Result<()>) {
        let mut wakers = mem::take(&mut pen.wakers);
        let mut guarded = self.queue.lock();
        match written {
            Ok(()) => self.now_durable(&mut guarded, batch, &mut wakers),
            Err(error) => guarded.queue.broken = Some(error),
        }
        let unsealed = !pen.segment.is_sealed();
        guarded.pen = Some(pen);
        if guarded.queue.has_work() || unsealed && guarded.writer_sleeps == Some(Sleep::Forever) {
            self.wake_writer(&mut guarded);
        }
        drop(guarded);
        self.gate(batch.number).open();
        self.room.notify_all();
        wakers.wake_all();
    }

    /// The last record written, if the writer, about to stop, should seal it: only a clean close does.
    pub(super) fn closed_cleanly(&self) -> Option<Lsn> {
        let guarded = self.queue.lock();
        (guarded.queue.ending == Some(Ending::Close) && !guarded.queue.is_broken()).then_some(guarded.queue.taken)
    }

    /// Takes all that was accepted into one batch, to be carried over with all that is live into the spare segment. The
    /// live records stay locked meanwhile, so that nothing accepted later is among them.
    pub(super) fn carry_over(&self, pen: &mut Pen) -> Option<(Spare, Carried)> {
        let mut live = self.live.lock();
        let (spare, batch) = {
            let mut guarded = self.queue.lock();
            let spare = guarded.spare.take()?;
            let batch = guarded.queue.take_into_spare(spare.bytes(), &mut pen.buffer);
            (spare, batch)
        };
        self.fold(&mut live, pen, batch);
        let (frames, count) = frame_live(&live);
        self.queue.lock().queue.carried(frames.len() as u64);
        Some((spare, Carried { batch, frames, count }))
    }

    /// The batch is durable: says so to all who wait for it. `wakers` is the writer's own list, empty.
    pub(super) fn complete(&self, batch: Batch, wakers: &mut Wakers) {
        let mut guarded = self.queue.lock();
        self.now_durable(&mut guarded, batch, wakers);
        drop(guarded);
        self.gate(batch.number).open();
        self.room.notify_all();
        wakers.wake_all();
    }

    fn now_durable(&self, guarded: &mut Guarded, batch: Batch, wakers: &mut Wakers) {
        let queue = &mut guarded.queue;
        debug_assert!(queue.in_flight && queue.taken == batch.last, "only what is in flight completes");
        if queue.is_broken() {
            return; // something else has failed meanwhile, and failure is final; the writer tells everybody
        }
        self.durable.store(batch.last.number(), Ordering::Release);
        queue.in_flight = false;
        queue.stats.syncs += 1;
        mem::swap(&mut queue.wakers_in_flight, wakers);
    }

    /// The writer is gone, for this reason or in peace: wakes everybody there is.
    pub(super) fn stop(&self, failure: Option<io::Error>) {
        let mut guarded = self.queue.lock();
        let queue = &mut guarded.queue;
        queue.stopped = true;
        if let Some(error) = queue.broken.take().or(failure) {
            queue.failure.get_or_insert(Arc::new(error));
        }
        self.stopped.store(true, Ordering::Release);
        let mut wakers = mem::take(&mut queue.wakers_in_flight);
        wakers.append(mem::take(&mut queue.wakers_filling));
        drop(guarded);
        self.room.notify_all();
        self.gates.iter().for_each(Gate::open);
        wakers.wake_all();
    }
}

/// The keeper's side.
impl Shared {
    /// Waits until there is something to do besides writing, and says what. The spare segment that there was comes with
    /// the order for another one.
    pub(super) fn next_upkeep(&self) -> (Upkeep, Option<Spare>) {
        let mut guarded = self.queue.lock();
        loop {
            if let Some(upkeep) = guarded.queue.next_upkeep() {
                let replaced = if let Upkeep::Prepare(_) = upkeep { guarded.spare.take() } else { None };
                return (upkeep, replaced);
            }
            // A segment that somebody waits for may have to wait for the writer, who may not know: records that were
            // accepted since, lazily, need the spare segment that there is.
            if guarded.queue.has_work() {
                self.wake_writer(&mut guarded);
            }
            guarded.keeper_sleeps = true;
            self.upkeep.wait(&mut guarded);
            guarded.keeper_sleeps = false;
        }
    }

    /// An attempt to prepare a spare segment has ended: with one, or for want of room.
    pub(super) fn prepared(&self, result: Result<Spare, io::Error>) {
        let mut guarded = self.queue.lock();
        match result {
            Ok(spare) => {
                guarded.queue.prepared(Ok(spare.bytes()));
                guarded.spare = Some(spare);
            }
            Err(error) => guarded.queue.prepared(Err(error)),
        }
        drop(guarded);
        self.room.notify_all();
    }

    /// The segment with this number was replaced: the keeper may remove it.
    pub(super) fn replaced(&self, number: u64) {
        let mut guarded = self.queue.lock();
        guarded.queue.replaced(number);
        self.wake_keeper(&mut guarded);
    }

    /// Something has failed outside of the writer, which is to stop for it.
    pub(super) fn broke(&self, error: io::Error) {
        let mut guarded = self.queue.lock();
        guarded.queue.broken.get_or_insert(error);
        self.wake_writer(&mut guarded);
    }

    /// The writer has stopped, for this reason or in peace; the keeper has nothing more to do.
    pub(super) fn dismiss_keeper(&self, failure: Option<io::Error>) {
        let mut guarded = self.queue.lock();
        if let Some(error) = failure {
            guarded.queue.broken.get_or_insert(error);
        }
        guarded.queue.keeper_dismissed = true;
        guarded.keeper_sleeps = false;
        drop(guarded);
        self.upkeep.notify_one();
    }

    /// What the keeper left undone.
    pub(super) fn left_undone(&self) -> (Option<u64>, Option<Spare>) {
        let mut guarded = self.queue.lock();
        (guarded.queue.to_remove.take(), guarded.spare.take())
    }
}

/// How a caller's record becomes durable.
pub(super) enum Lead {
    /// By the writer, with this batch.
    Wait(u64),
    /// By the caller, who has been given the pen for it.
    Write(Box<Pen>, Batch),
}

impl Guarded {
    fn wakers_of(&mut self, batch: u64) -> &mut Wakers {
        let queue = &mut self.queue;
        if batch == queue.batches { &mut queue.wakers_in_flight } else { &mut queue.wakers_filling }
    }
}

fn fold(live: &mut LiveRecords, frames: &[u8]) {
    for (lsn, encoded) in format::frames(frames) {
        let taken = live.apply_encoded(lsn, encoded);
        debug_assert!(taken, "what was encoded is a record");
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("queue", &self.queue).finish_non_exhaustive()
    }
}
