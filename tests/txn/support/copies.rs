//! Copies of a log, as an image, a backup or a careless `cp` makes them.

use std::task::{Context, Poll};

use ringpact::{
    Epoch, LogError, LogId, MemoryLog, Name, TransactionLog,
    log::{Claim, Durability, LogStats, Lsn, Record, Takeover},
};

/// A log with the identity, the records and the numbering that another one had when it was copied.
#[derive(Clone)]
pub struct Copy {
    id: LogId,
    log: MemoryLog,
    /// Difference between its record numbers and those of the memory log inside.
    ahead: u64,
}

impl Copy {
    /// Copies the records that these owners have in the log now.
    pub fn of(log: &impl TransactionLog, owners: &[&str]) -> Self {
        let (copy, mut last) = (MemoryLog::new(), Lsn::NONE);
        for owner in owners {
            let owner = Name::new(owner).expect("a valid name");
            for record in log.live(&owner).expect("the log is open") {
                last = copy.append(record, Durability::Lazy).expect("memory takes everything");
            }
        }
        copy.wait(last).expect("memory is durable");
        Self { id: log.id(), log: copy, ahead: log.durable().as_u64() - last.as_u64() }
    }

    fn out(&self, lsn: Lsn) -> Lsn {
        Lsn::new(lsn.as_u64() + self.ahead)
    }

    fn back(&self, lsn: Lsn) -> Lsn {
        Lsn::new(lsn.as_u64().saturating_sub(self.ahead))
    }
}

impl TransactionLog for Copy {
    fn id(&self) -> LogId {
        self.id
    }
    fn incarnation(&self) -> u64 {
        self.log.incarnation()
    }
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.log.claim(owner)
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        self.log.append(record, durability).map(|lsn| self.out(lsn))
    }
    fn durable(&self) -> Lsn {
        self.out(self.log.durable())
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.log.wait(self.back(lsn))
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        self.log.poll_durable(self.back(lsn), context)
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.log.live(owner)
    }
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        // The copy numbers its records again, up to the last. They count only from the point where
        // the copy goes on by itself.
        let openings = self.log.openings(owner)?;
        Ok(openings.into_iter().map(|(epoch, lsn)| (epoch, self.out(lsn))).collect())
    }
    fn lost(&self) -> Option<Takeover> {
        self.log.lost()
    }
    fn poll_lost(&self, context: &mut Context<'_>) -> Poll<Takeover> {
        self.log.poll_lost(context)
    }
    fn stats(&self) -> LogStats {
        self.log.stats()
    }
}
