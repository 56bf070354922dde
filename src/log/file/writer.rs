//! The thread that writes while a log is open. A caller that comes alone writes on its own thread
//! instead.

use std::{io, mem, sync::Arc, time::Duration};

use super::{
    directory::Directory,
    identity::{ClosingNote, LogEnd},
    io_failure::{is_final, panic_to_error},
    pen::Pen,
    queue::{Batch, Work},
    shared::LogShared,
};
use crate::platform::Thread;

/// Writes a batch on the thread of the caller, which holds the pen.
pub(super) fn write_on_callers_thread(shared: &LogShared, mut pen: Box<Pen>, batch: Batch) {
    let written = panic_to_error(|| pen.write(batch));
    shared.lay_down(pen, batch, written);
}

/// The writer's side of a log. It is the last to drop the directory, so that the lock is given back
/// exactly when nothing more can be written.
pub(super) struct Writer {
    pub(super) shared: Arc<LogShared>,
    pub(super) dir: Arc<Directory>,
    pub(super) pen: Box<Pen>,
    pub(super) keeper: Thread,
    pub(super) closing: ClosingNote,
    pub(super) seal_after: Duration,
}

impl Writer {
    /// Works until told to stop, or until something fails. The first failure is the last operation.
    pub(super) fn run(self) {
        let Self { shared, dir, pen, keeper, closing, seal_after } = self;
        let (mut pen, mut failure) = (Some(pen), None);
        while let Some(held) = pen.take() {
            let (mut held, work) = shared.next_work(held, seal_after);
            match panic_to_error(|| work_on(&shared, &dir, &mut held, work)) {
                Ok(true) => pen = Some(held),
                Ok(false) => {
                    pen = Some(held);
                    break;
                }
                Err(error) => failure = Some(error),
            }
        }
        // If the keeper has failed, and not this thread, `stop` finds that failure.
        shared.dismiss_keeper(failure);
        keeper.join(); // it reports its own panics
        let finished = pen.map_or(Ok(()), |mut pen| panic_to_error(|| finish(&shared, &dir, &mut pen, closing)));
        drop(dir);
        shared.stop(finished.err());
    }
}

/// Does the work. Returns `false` if it was the last.
fn work_on(shared: &LogShared, dir: &Arc<Directory>, pen: &mut Pen, work: Work) -> io::Result<bool> {
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

/// Begins the spare segment with all live records, the queued ones included. The replaced segment
/// is left to the keeper.
fn rotate(shared: &LogShared, dir: &Arc<Directory>, pen: &mut Pen) -> io::Result<()> {
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

/// Does the last things, unless something has failed: seals the last batch, tidies up, and notes
/// the end.
fn finish(shared: &LogShared, dir: &Directory, pen: &mut Pen, closing: ClosingNote) -> io::Result<()> {
    let (replaced, spare) = shared.left_undone();
    let Some(last) = shared.closed_cleanly() else {
        return Ok(()); // abandoned: the directory stays as a crash would leave it
    };
    if !pen.segment.is_sealed() {
        pen.segment.seal(last)?;
    }
    // Everything is durable already. If one of these files stays, the next opening removes it.
    if let Some((error, _)) = replaced.and_then(|replaced| replaced.remove(dir).err())
        && is_final(&error)
    {
        return Err(error);
    }
    if let Some(spare) = spare {
        spare.discard(dir);
    }
    let end = LogEnd { segment: pen.segment.number(), sequence: pen.segment.sequence(), last };
    shared.closed(closing.note(dir, end));
    Ok(())
}
