//! The thread that keeps the directory: it prepares spare segments ahead of need and removes those that were replaced,
//! so that the writer never waits for either.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    directory,
    format::SegmentHeader,
    queue::Upkeep,
    segment::Spare,
    shared::Shared,
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
}

impl Keeper {
    /// Works until told to stop, or until something fails; the first failure is the last operation, and poisons the log.
    pub(super) fn run(mut self) {
        if let Err(error) = reported(|| self.work()) {
            self.shared.broke(error);
        }
    }

    fn work(&mut self) -> io::Result<()> {
        loop {
            match self.shared.next_upkeep() {
                (Upkeep::Stop, _) => return Ok(()),
                (Upkeep::Remove(number), _) => {
                    self.active = number + 1;
                    directory::remove(&*self.storage, &self.dir, &[self.dir.join(directory::name(number))])?;
                }
                (Upkeep::Prepare(bytes), replaced) => {
                    if let Some(spare) = replaced {
                        spare.discard(&*self.storage)?;
                    }
                    self.prepare(bytes)?;
                }
            }
        }
    }

    /// Prepares the next segment. That no room is found for it is the one failure that a log survives: nothing that was
    /// accepted depends on it.
    fn prepare(&self, bytes: u64) -> io::Result<()> {
        let header = SegmentHeader { log: self.log, number: self.active + 1, bytes };
        let prepared = match Spare::prepare(&*self.storage, &self.dir, header) {
            Err(error) if !tells_of_no_room(&error) => return Err(error),
            other => other,
        };
        self.shared.prepared(prepared);
        Ok(())
    }
}
