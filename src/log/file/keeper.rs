//! The thread that keeps the directory. It prepares spare segments ahead of need, from replaced
//! segments if it can, and removes replaced ones that it can't use. So the writer never waits for
//! any of it.

use std::{io, sync::Arc};

use super::{
    contents::SegmentFile,
    directory::Directory,
    format::{Rest, SegmentHeader},
    io_failure::{is_final, panic_to_error},
    queue::Upkeep,
    segment::{ReplacedSegment, SpareSegment},
    shared::LogShared,
};
use crate::log::LogId;

/// The keeper's side of a log.
pub(super) struct Keeper {
    pub(super) shared: Arc<LogShared>,
    pub(super) dir: Arc<Directory>,
    pub(super) log: LogId,
    /// The number of the active segment. It only changes once a spare segment is ready, and then by
    /// one.
    pub(super) active: u64,
    /// The segment that opening has replaced and removed. Its space is given back once the file is
    /// closed. For a large segment that takes as long as reading it, so opening leaves it to the
    /// keeper.
    pub(super) replaced: Option<SegmentFile>,
}

impl Keeper {
    /// Works until told to stop, or until a failure is [final](is_final), which poisons the log.
    pub(super) fn run(mut self) {
        if let Err(error) = panic_to_error(|| self.work()) {
            self.shared.broke(error);
        }
    }

    fn work(&mut self) -> io::Result<()> {
        self.replaced = None;
        let mut left = None;
        loop {
            match self.shared.next_upkeep() {
                Upkeep::Stop => return Ok(()),
                Upkeep::Remove(replaced) => {
                    self.active = replaced.number() + 1;
                    left = Some(replaced);
                    // If the segment can't be removed now, it is removed before another one is
                    // made: there are never more than two.
                    unless_final(self.clear(&mut left))?;
                }
                Upkeep::Reuse(replaced) => {
                    self.active = replaced.number() + 1;
                    let header = self.next(replaced.bytes(), Rest::Leftovers);
                    let reused = SpareSegment::reuse(&self.dir, header, replaced).map_err(|(error, still_there)| {
                        left = still_there;
                        error
                    });
                    self.prepared(reused)?;
                }
                Upkeep::Prepare(bytes, unfit) => {
                    if let Some(spare) = unfit {
                        spare.discard(&self.dir);
                    }
                    let header = self.next(bytes, Rest::Zeros);
                    self.prepared(self.clear(&mut left).and_then(|()| SpareSegment::prepare(&self.dir, header)))?;
                }
            }
        }
    }

    /// Removes the segment that is left, if there is one.
    fn clear(&self, left: &mut Option<ReplacedSegment>) -> io::Result<()> {
        let Some(replaced) = left.take() else { return Ok(()) };
        replaced.remove(&self.dir).map_err(|(error, still_there)| {
            *left = still_there;
            error
        })
    }

    const fn next(&self, bytes: u64, rest: Rest) -> SegmentHeader {
        SegmentHeader { log: self.log, number: self.active + 1, bytes, rest }
    }

    /// Passes the result on. A log survives that its next segment can't be prepared: nothing that
    /// was accepted depends on it, and the callers that need the segment are told.
    fn prepared(&self, result: io::Result<SpareSegment>) -> io::Result<()> {
        let prepared = match result {
            Err(error) if is_final(&error) => return Err(error),
            other => other,
        };
        self.shared.prepared(prepared);
        Ok(())
    }
}

fn unless_final(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is_final(&error) => Err(error),
        _ => Ok(()),
    }
}
