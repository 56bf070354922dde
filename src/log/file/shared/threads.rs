//! The side of the log's own threads: what the writer and the keeper must do, and what they report.

use std::{
    io, mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::MutexGuard;

use super::{
    super::{
        batch_gate::BatchGate,
        format,
        pen::Pen,
        queue::{Batch, Shutdown, Upkeep, Work},
        segment::{ReplacedSegment, SpareSegment, framed_bytes},
        wakers::Wakers,
    },
    CarriedBatch, Guarded, LogShared, Sleep, frame_live,
};
use crate::{
    log::{LiveRecords, Lsn},
    platform::Woken,
};

/// The writer's side.
impl LogShared {
    /// Lays the pen down until there is something to do. Returns the pen and the work. If the last
    /// batch has no seal yet, `seal_after` is how long the log must be idle before that batch gets
    /// one. A batch to write is in the pen's buffer.
    pub(in crate::log::file) fn next_work(&self, pen: Box<Pen>, seal_after: Duration) -> (Box<Pen>, Work) {
        let mut guarded = self.queue.lock();
        guarded.pen = Some(pen);
        loop {
            if guarded.pen.is_some() && guarded.queue.has_work() {
                // The locks are taken in the wrong order, so this only tries. If that fails, they
                // are taken in the right order.
                let found = if let Some(mut live) = self.live.try_lock() {
                    self.take_work(&mut live, guarded)
                } else {
                    drop(guarded);
                    let mut live = self.live.lock();
                    self.take_work(&mut live, self.queue.lock())
                };
                if let Some(found) = found {
                    return found;
                }
                guarded = self.queue.lock();
                continue;
            }
            // A caller that has the pen, or makes room, wakes the writer if there is something to
            // seal then.
            let may_seal = guarded.pen.as_ref().is_some_and(|pen| !pen.segment.is_sealed());
            let sleep = if may_seal && guarded.queue.has_room_for_seal() { Sleep::UntilSeal } else { Sleep::Forever };
            let before = guarded.queue.batches;
            guarded.writer_sleeps = Some(sleep);
            let timed_out = match sleep {
                Sleep::UntilSeal => self.work.wait_for(&mut guarded, seal_after) == Woken::TimedOut,
                Sleep::Forever => {
                    self.work.wait(&mut guarded);
                    false
                }
            };
            // A caller that had something for the writer to do has also woken it.
            let is_idle = guarded.writer_sleeps.take().is_some() && timed_out && guarded.queue.batches == before;
            if is_idle && let Some(pen) = guarded.pen.take_if(|pen| !pen.segment.is_sealed()) {
                if let Some(seal) = guarded.queue.take_seal() {
                    return (pen, seal);
                }
                guarded.pen = Some(pen);
            }
        }
    }

    /// Takes the pen, if it is here, and the next work, if there is any. The records of a batch are
    /// folded into the live ones before any other thread can look at those.
    fn take_work(&self, live: &mut LiveRecords, mut guarded: MutexGuard<'_, Guarded>) -> Option<(Box<Pen>, Work)> {
        let mut pen = guarded.pen.take()?;
        let Some(work) = guarded.queue.next_work(&mut pen.buffer) else {
            guarded.pen = Some(pen);
            return None;
        };
        self.wake_keeper(&mut guarded);
        drop(guarded);
        if let Work::Write(batch) = work {
            self.room.notify_all();
            self.fold(live, &pen, batch);
        }
        Some((pen, work))
    }

    /// Folds the records of the batch in. The queue hears of it once the batch is durable, because
    /// that takes the queue's lock anyway.
    pub(super) fn fold(&self, live: &mut LiveRecords, pen: &Pen, batch: Batch) {
        self.fold_frames(live, &pen.buffer[batch.folded..]);
    }

    pub(super) fn fold_frames(&self, live: &mut LiveRecords, frames: &[u8]) {
        for (lsn, encoded) in format::frames(frames) {
            live.apply_own(lsn, encoded);
        }
        self.live_bytes.store(framed_bytes(live), Ordering::Release);
    }

    /// Lays down the pen of a caller that has written. Reports the batch as durable to all that
    /// wait for it, and leaves what was queued meanwhile to the writer.
    pub(in crate::log::file) fn lay_down(&self, mut pen: Box<Pen>, batch: Batch, written: io::Result<()>) {
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
        self.notifier.wake(&mut wakers);
    }

    /// Returns the last record written if the writer, which is about to stop, should seal it: only
    /// a clean close does.
    pub(in crate::log::file) fn closed_cleanly(&self) -> Option<Lsn> {
        let guarded = self.queue.lock();
        (guarded.queue.shutdown == Some(Shutdown::Close) && !guarded.queue.is_broken()).then_some(guarded.queue.taken)
    }

    /// Notes that the log is closed, and whether the identity file says so.
    pub(in crate::log::file) fn closed(&self, noted: io::Result<()>) {
        self.queue.lock().queue.unclosed = noted.err().map(Arc::new);
    }

    /// Takes all that was accepted into one batch, to be carried over with all live records into
    /// the spare segment. The live records stay locked meanwhile, so that nothing accepted later is
    /// among them.
    pub(in crate::log::file) fn carry_over(&self, pen: &mut Pen) -> Option<(SpareSegment, CarriedBatch)> {
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
        Some((spare, CarriedBatch { batch, frames, count }))
    }

    /// Reports the batch as durable to all that wait for it. `wakers` is the writer's own list,
    /// empty.
    pub(in crate::log::file) fn complete(&self, batch: Batch, wakers: &mut Wakers) {
        let mut guarded = self.queue.lock();
        self.now_durable(&mut guarded, batch, wakers);
        drop(guarded);
        self.gate(batch.number).open();
        self.room.notify_all();
        self.notifier.wake(wakers);
    }

    fn now_durable(&self, guarded: &mut Guarded, batch: Batch, wakers: &mut Wakers) {
        let queue = &mut guarded.queue;
        debug_assert!(queue.in_flight && queue.taken == batch.last, "only what is in flight completes");
        if queue.is_broken() {
            return; // something else has failed meanwhile, and failure is final; the writer tells all that wait
        }
        self.durable.store(batch.last.as_u64(), Ordering::Release);
        queue.in_flight = false;
        queue.has_folded(batch.unfolded_bytes, self.live_bytes.load(Ordering::Acquire));
        queue.syncs += 1;
        mem::swap(&mut queue.wakers_in_flight, wakers);
    }

    /// Notes that the writer is gone, because of this failure or in peace, and wakes all that wait.
    pub(in crate::log::file) fn stop(&self, failure: Option<io::Error>) {
        let mut guarded = self.queue.lock();
        let queue = &mut guarded.queue;
        queue.stopped = true;
        self.patience.end();
        if let Some(error) = queue.broken.take().or(failure) {
            queue.failure.get_or_insert(Arc::new(error));
        }
        self.stopped.store(true, Ordering::Release);
        let mut wakers = mem::take(&mut queue.wakers_in_flight);
        wakers.append(mem::take(&mut queue.wakers_filling));
        drop(guarded);
        self.room.notify_all();
        self.gates.iter().for_each(BatchGate::open);
        self.notifier.wake(&mut wakers);
        self.notifier.end();
    }
}

/// The keeper's side.
impl LogShared {
    /// Blocks until there is something to do besides writing, and returns it.
    pub(in crate::log::file) fn next_upkeep(&self) -> Upkeep<ReplacedSegment, Option<SpareSegment>> {
        let mut guarded = self.queue.lock();
        loop {
            if let Some(upkeep) = guarded.queue.next_upkeep() {
                let replaced = |guarded: &mut Guarded| guarded.replaced.take().expect("it comes with its size");
                return match upkeep {
                    Upkeep::Remove(()) => Upkeep::Remove(replaced(&mut guarded)),
                    Upkeep::Reuse(()) => Upkeep::Reuse(replaced(&mut guarded)),
                    Upkeep::Prepare(bytes, ()) => Upkeep::Prepare(bytes, guarded.spare.take()),
                    Upkeep::Stop => Upkeep::Stop,
                };
            }
            // A segment that a caller waits for may itself have to wait for the writer, which may
            // not know: records that were accepted since, lazily, need the present spare segment.
            if guarded.queue.has_work() {
                self.wake_writer(&mut guarded);
            }
            guarded.keeper_sleeps = true;
            self.upkeep.wait(&mut guarded);
            guarded.keeper_sleeps = false;
        }
    }

    /// Notes that an attempt to prepare a spare segment has ended: with one, or with an error.
    pub(in crate::log::file) fn prepared(&self, result: Result<SpareSegment, io::Error>) {
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

    /// Notes that a segment was replaced, and hands it to the keeper.
    pub(in crate::log::file) fn replaced(&self, replaced: ReplacedSegment) {
        let mut guarded = self.queue.lock();
        guarded.queue.has_replaced(replaced.bytes());
        guarded.replaced = Some(replaced);
        self.wake_keeper(&mut guarded);
    }

    /// Notes that something has failed outside of the writer, which must stop because of it.
    pub(in crate::log::file) fn broke(&self, error: io::Error) {
        let mut guarded = self.queue.lock();
        guarded.queue.broken.get_or_insert(error);
        self.wake_writer(&mut guarded);
    }

    /// Notes that the writer has stopped, because of this failure or in peace. The keeper has
    /// nothing more to do.
    pub(in crate::log::file) fn dismiss_keeper(&self, failure: Option<io::Error>) {
        let mut guarded = self.queue.lock();
        if let Some(error) = failure {
            guarded.queue.broken.get_or_insert(error);
        }
        guarded.queue.keeper_dismissed = true;
        guarded.keeper_sleeps = false;
        drop(guarded);
        self.upkeep.notify_one();
    }

    /// Returns what the keeper left undone.
    pub(in crate::log::file) fn left_undone(&self) -> (Option<ReplacedSegment>, Option<SpareSegment>) {
        let mut guarded = self.queue.lock();
        (guarded.replaced.take(), guarded.spare.take())
    }
}
