//! The one thread that touches the medium, once a log is open.

use std::{io, path::PathBuf, sync::Arc, task::Waker, time::Duration};

use super::{
    directory,
    format::SegmentHeader,
    queue::{Batch, Work},
    segment::{Segment, Spare},
    shared::Shared,
    storage::{LockGuard, Storage},
};

/// The writer's side of a log. The lock on the directory is its own, so that it is given back exactly when nothing more
/// can be written.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) segment: Segment,
    pub(super) spare: Option<Spare>,
    pub(super) seal_after: Duration,
    pub(super) lock: Box<dyn LockGuard>,
}

impl Writer {
    /// Works until told to stop, or until something fails; the first failure is the last operation.
    pub(super) fn run(mut self) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work()))
            .unwrap_or_else(|_| Err(io::Error::other("the log's writer panicked, which is a bug in ringpact")));
        let Self { shared, segment, spare, lock, .. } = self;
        drop((segment, spare));
        drop(lock);
        shared.stop(result.err());
    }

    fn work(&mut self) -> io::Result<()> {
        let (mut buffer, mut wakers) = (Vec::new(), Vec::new());
        loop {
            let seal_after = (!self.segment.is_sealed()).then_some(self.seal_after);
            match self.shared.next_work(&mut buffer, seal_after) {
                Work::Write(batch) => self.write(batch, &mut buffer, &mut wakers)?,
                Work::Rotate => self.rotate(&mut wakers)?,
                Work::Prepare(bytes) => self.prepare(bytes)?,
                Work::Seal(last) => self.segment.seal(last)?,
                Work::Stop => return self.finish(),
            }
        }
    }

    fn write(&mut self, batch: Batch, buffer: &mut Vec<u8>, wakers: &mut Vec<Waker>) -> io::Result<()> {
        self.segment.write(buffer, batch.last, batch.count)?;
        self.shared.complete(batch, wakers);
        self.shared.fold();
        Ok(())
    }

    /// Begins the spare segment with all live records, those that were queued included, and removes the one before.
    fn rotate(&mut self, wakers: &mut Vec<Waker>) -> io::Result<()> {
        let Some(spare) = self.spare.take() else {
            return Err(io::Error::other("no segment is prepared for what was accepted, which is a bug in ringpact"));
        };
        let carried = self.shared.carry_over(spare.bytes());
        let sequence = self.segment.sequence() + 1;
        let replaced = self.segment.number();
        self.segment =
            spare.begin(&*self.storage, &self.dir, sequence, carried.batch.last, &carried.frames, carried.count)?;
        self.shared.complete(carried.batch, wakers);
        self.shared.fold();
        directory::remove(&*self.storage, &self.dir, &[self.dir.join(directory::name(replaced))])
    }

    /// Prepares the next segment. That no room is found for it is the one failure that a log survives: nothing that was
    /// accepted depends on it.
    fn prepare(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(spare) = self.spare.take() {
            spare.discard(&*self.storage)?;
        }
        let header = SegmentHeader { log: self.segment.log(), number: self.segment.number() + 1, bytes };
        let prepared = match Spare::prepare(&*self.storage, &self.dir, header) {
            Ok(spare) => Ok(self.spare.insert(spare).bytes()),
            Err(error) if tells_of_no_room(&error) => Err(error),
            Err(error) => return Err(error),
        };
        self.shared.prepared(prepared);
        Ok(())
    }

    /// The last thing done, unless something has failed.
    fn finish(&mut self) -> io::Result<()> {
        match self.shared.closed_cleanly() {
            Some(last) if !self.segment.is_sealed() => self.segment.seal(last)?,
            Some(_) => {}
            None => return Ok(()), // abandoned: as a crash would have it
        }
        if let Some(spare) = self.spare.take() {
            // Everything is durable already. Should the file stay, the next opening removes it.
            let _ = spare.discard(&*self.storage);
        }
        Ok(())
    }
}

/// Whether the medium refused for want of space, and not for any graver reason.
pub(super) fn tells_of_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
