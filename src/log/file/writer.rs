//! The thread that writes, once a log is open, unless a caller who comes alone does it himself.

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use super::{
    directory::Directory,
    failure::is_final,
    identity::{Closing, End},
    queue::{Batch, Work},
    segment::Segment,
    shared::Shared,
    wakers::Wakers,
};
use crate::platform::Thread;

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

    fn write(&mut self, batch: Batch) -> io::Result<()> {
        self.segment.write(&mut self.buffer, batch.last, batch.count)
    }
}

/// Writes a batch on a caller's thread.
pub(super) fn lead(shared: &Shared, mut pen: Box<Pen>, batch: Batch) {
    let written = reported(|| pen.write(batch));
    shared.lay_down(pen, batch, written);
}

/// The writer's side of a log. It is the last to let the directory go, so that its lock is given back exactly when nothing
/// more can be written.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: Arc<Directory>,
    pub(super) pen: Box<Pen>,
    pub(super) keeper: Thread,
    pub(super) closing: Closing,
    pub(super) seal_after: Duration,
}

impl Writer {
    /// Works until told to stop, or until something fails; the first failure is the last operation.
    pub(super) fn run(self) {
        let Self { shared, dir, pen, keeper, closing, seal_after } = self;
        let (mut pen, mut failure) = (Some(pen), None);
        while let Some(held) = pen.take() {
            let (mut held, work) = shared.next_work(held, seal_after);
            match reported(|| work_on(&shared, &dir, &mut held, work)) {
                Ok(true) => pen = Some(held),
                Ok(false) => {
                    pen = Some(held);
                    break;
                }
                Err(error) => failure = Some(error),
            }
        }
        // The keeper's failure, if it was not this thread's, comes to light in `stop`.
        shared.dismiss_keeper(failure);
        keeper.join(); // it reports its own panics
        let finished = pen.map_or(Ok(()), |mut pen| reported(|| finish(&shared, &dir, &mut pen, closing)));
        drop(dir);
        shared.stop(finished.err());
    }
}

/// Does what is to be done; `false`: nothing more.
fn work_on(shared: &Shared, dir: &Arc<Directory>, pen: &mut Pen, work: Work) -> io::Result<bool> {
    match work {
        Work::Write(batch) => {
            pen.write(batch)?;
            shared.complete(batch, &mut pen.wakers);
        }
        Work::Rotate => rotate(shared, dir, pen)?,
        Work::Seal(last) => pen.segment.seal(last)?,
        Work::Stop => return Ok(false),
    }
    Ok(true)
}

/// Begins the spare segment with all live records, those that were queued included. The one before is left to the keeper.
fn rotate(shared: &Shared, dir: &Arc<Directory>, pen: &mut Pen) -> io::Result<()> {
    let (spare, carried) = shared
        .carry_over(pen)
        .ok_or_else(|| io::Error::other("no segment is prepared for what was accepted, which is a bug in ringpact"))?;
    let sequence = pen.segment.sequence() + 1;
    let next = spare.begin(dir, sequence, carried.batch.last, &carried.frames, carried.count)?;
    let replaced = mem::replace(&mut pen.segment, next);
    shared.complete(carried.batch, &mut pen.wakers);
    shared.replaced(replaced.replaced());
    Ok(())
}

/// The last thing done, unless something has failed.
fn finish(shared: &Shared, dir: &Directory, pen: &mut Pen, closing: Closing) -> io::Result<()> {
    let (replaced, spare) = shared.left_undone();
    let Some(last) = shared.closed_cleanly() else {
        return Ok(()); // abandoned: as a crash would have it
    };
    if !pen.segment.is_sealed() {
        pen.segment.seal(last)?;
    }
    // Everything is durable already. Should one of these files stay, the next opening removes it.
    if let Some((error, _)) = replaced.and_then(|replaced| replaced.remove(dir).err())
        && is_final(&error)
    {
        return Err(error);
    }
    if let Some(spare) = spare {
        spare.discard(dir);
    }
    let end = End { segment: pen.segment.number(), sequence: pen.segment.sequence(), last };
    shared.closed(closing.note(dir, end));
    Ok(())
}

/// Turns a panic into an error.
pub(super) fn reported<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("a thread of the log panicked, which is a bug in ringpact")))
}
