//! The transaction log of the shop's machine, with a switch for the moment before a crash. Once it
//! *holds back*, a given number of records still reach the disk. After them no record that is not
//! waited for does. So the seed decides what a crash loses, and not the speed of the disk.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
};

use ringpact::{
    Epoch, FileLog, LogError, LogId, Name, TransactionLog,
    log::{Claim, Durability, Fact, LogStats, Lsn, Record, Takeover},
};

use crate::faults::{Event, Faults};

/// Bytes of a segment. Small, because a shop has few live transactions, and this example opens the
/// log often: each opening prepares a segment.
const SEGMENT_BYTES: u64 = 1 << 20;

pub struct MachineLog {
    file: FileLog,
    faults: Arc<Faults>,
    /// Number of records that still go to the disk; negative while the log does not hold back.
    room: AtomicI64,
}

impl MachineLog {
    pub fn open(directory: &Path, faults: Arc<Faults>) -> Result<Self, LogError> {
        let file = FileLog::options().segment_bytes(SEGMENT_BYTES).open(directory)?;
        Ok(Self { file, faults, room: AtomicI64::new(-1) })
    }

    /// From now on only this number of records reaches the disk.
    pub fn hold_back_after(&self, records: u64) {
        self.room.store(i64::try_from(records).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Crashes the machine: what is not on disk is lost.
    pub fn crash(&self) {
        self.file.abandon();
    }
}

impl TransactionLog for MachineLog {
    fn id(&self) -> LogId {
        self.file.id()
    }

    fn incarnation(&self) -> u64 {
        self.file.incarnation()
    }

    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.file.claim(owner)
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let decided = match &record.fact {
            Fact::Decided { txn, .. } => Some(txn.ordinal()),
            _ => None,
        };
        let room = self.room.load(Ordering::Relaxed);
        let durability = if room < 0 { durability } else { Durability::Lazy };
        let lsn = self.file.append(record, durability)?;
        if room > 0 {
            self.room.store(room - 1, Ordering::Relaxed);
            if room == 1 {
                self.file.wait(lsn)?;
            }
        }
        if let Some(ordinal) = decided {
            self.faults.moment(ordinal, Event::Decided);
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

    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.file.openings(owner)
    }

    fn lost(&self) -> Option<Takeover> {
        self.file.lost()
    }

    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        self.file.poll_lost(context)
    }

    fn stats(&self) -> LogStats {
        self.file.stats()
    }
}
