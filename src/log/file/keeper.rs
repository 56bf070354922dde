//! The thread that keeps the directory: it prepares spare segments ahead of need, of those that were replaced where it
//! can, and removes these where it can't; so that the writer never waits for any of it.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    directory::{self, SegmentFile},
    format::{Rest, SegmentHeader},
    segment::Spare,
    shared::{Order, Shared},
    storage::Storage,
    writer::{reported, tells_of_no_room},
};
use crate::log::LogId;

/// The keeper's side of a log.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) log: LogId,
    /// The active segment's number; it only changes once a spare one is ready, and then by one.
    pub(super) active: u64,
    /// The segment that opening has replaced and removed. Its space is given back once it is closed, which takes as long
    /// as reading it where it is large, so that opening leaves it to the keeper.
    pub(super) replaced: Option<SegmentFile>,
}

impl Keeper {
    /// Works until told to stop, or until something fails; the first failure is the last operation, and poisons the log.
    pub(super) fn run(mut self) {
        if let Err(error) = reported(|| self.work()) {
            self.shared.broke(error);
        }
    }

    fn work(&mut self) -> io::Result<()> {
        self.replaced = None;
        loop {
            match self.shared.next_upkeep() {
                Order::Stop => return Ok(()),
                Order::Remove(replaced) => {
                    self.active = replaced.number() + 1;
                    directory::remove(&*self.storage, &self.dir, &[replaced.into_path()])?;
                }
                Order::Reuse(replaced) => {
                    self.active = replaced.number() + 1;
                    let header = self.next(replaced.bytes(), Rest::Leftovers);
                    self.prepared(Spare::reuse(&*self.storage, &self.dir, header, replaced)?)?;
                }
                Order::Prepare(bytes, unfit) => {
                    if let Some(spare) = unfit {
                        spare.discard(&*self.storage)?;
                    }
                    self.prepared(Spare::prepare(&*self.storage, &self.dir, self.next(bytes, Rest::Zeros)))?;
                }
            }
        }
    }

    const fn next(&self, bytes: u64, rest: Rest) -> SegmentHeader {
        SegmentHeader { log: self.log, number: self.active + 1, bytes, rest }
    }

    /// That no room is found for the next segment is the one failure that a log survives: nothing that was accepted
    /// depends on it.
    fn prepared(&self, result: io::Result<Spare>) -> io::Result<()> {
        let prepared = match result {
            Err(error) if !tells_of_no_room(&error) => return Err(error),
            other => other,
        };
        self.shared.prepared(prepared);
        Ok(())
    }
}
