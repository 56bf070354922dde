//! The transaction log of the shop's machine, with a switch for the moment before a crash: while it *holds*, records
//! queue up and none reaches the disk unless somebody waits for it, so that a seed decides what a crash loses and not
//! the speed of the disk.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use ringpact::{Durability, Fact, FileLog, LogError, LogId, LogStats, Lsn, Name, Record, TransactionLog};

use crate::faults::{Event, Faults};

pub struct MachineLog {
    file: FileLog,
    faults: Arc<Faults>,
    holds: AtomicBool,
    last: AtomicU64,
}

impl MachineLog {
    pub fn open(directory: &Path, faults: Arc<Faults>) -> Result<Self, LogError> {
        let file = FileLog::open(directory)?;
        Ok(Self { file, faults, holds: AtomicBool::new(false), last: AtomicU64::new(0) })
    }

    /// From here on nothing reaches the disk that nobody waits for.
    pub fn hold(&self) {
        self.holds.store(true, Ordering::Relaxed);
    }

    /// Makes all that was appended durable.
    pub fn flush(&self) -> Result<(), LogError> {
        self.file.wait(Lsn::new(self.last.load(Ordering::Relaxed)))
    }

    /// The machine crashes: what is not on disk is lost.
    pub fn crash(&self) {
        self.file.abandon();
    }
}

impl TransactionLog for MachineLog {
    fn id(&self) -> LogId {
        self.file.id()
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let decided = match &record.fact {
            Fact::Decided { txn, .. } => Some(txn.mark()),
            _ => None,
        };
        let durability = if self.holds.load(Ordering::Relaxed) { Durability::Lazy } else { durability };
        let lsn = self.file.append(record, durability)?;
        self.last.fetch_max(lsn.number(), Ordering::Relaxed);
        if let Some(mark) = decided {
            self.faults.moment(mark, Event::Decided);
        }
        Ok(lsn)
    }

    fn durable(&self) -> Lsn {
        self.file.durable()
    }

    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.file.wait(lsn)
    }

    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        self.file.poll_durable(lsn, context)
    }

    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.file.live(owner)
    }

    fn stats(&self) -> LogStats {
        self.file.stats()
    }
}
