//! A process's log as one of its owners sees it.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use ringpact::{
    Epoch, FileLog, LogError, LogId, Name, TransactionLog,
    log::{Claim, Durability, Fact, LogStats, Lsn, Record, Takeover},
};

use super::{host::Life, mutants::Mutant};

pub struct Log {
    pub life: Arc<Life>,
    pub log: Arc<FileLog>,
    /// Whether it is the log of the keeper's cluster.
    pub is_keepers: bool,
}

impl Log {
    /// Whether what it says of durability is made up.
    fn lies(&self) -> bool {
        self.is_keepers && self.life.world.is_mutated(Mutant::PublishesBeforeDurable)
    }

    fn inside<T>(&self, call: impl FnOnce() -> T) -> T {
        self.life.in_log.fetch_add(1, Ordering::Relaxed);
        let result = call();
        self.life.in_log.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Whether a mutant forgets this: a chunk that was in flight when its change was cancelled.
    fn forgets(&self, record: &Record) -> bool {
        let is_moved = match &record.fact {
            Fact::Prepared { work, .. } | Fact::Committed { work: Some(work), .. } => work.get(1) == Some(&0),
            _ => false,
        };
        is_moved && self.is_keepers && record.owner.as_str() == "ring"
    }
}

impl TransactionLog for Log {
    fn id(&self) -> LogId {
        // Its own is random, and would be in the trace.
        self.life.log_id()
    }

    fn incarnation(&self) -> u64 {
        self.life.incarnation()
    }

    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.log.claim(owner)
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        self.inside(|| self.log.append(record, durability))
    }

    fn append_all(&self, records: &mut dyn Iterator<Item = Record>) -> Result<Option<Lsn>, LogError> {
        self.inside(|| self.log.append_all(records))
    }

    fn commit(&self, record: Record) -> Result<Lsn, LogError> {
        if self.lies() {
            return self.append(record, Durability::Forced);
        }
        self.inside(|| self.log.commit(record))
    }

    fn durable(&self) -> Lsn {
        if self.lies() { Lsn::new(u64::MAX) } else { self.log.durable() }
    }

    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        if self.lies() {
            return Ok(());
        }
        self.inside(|| self.log.wait(lsn))
    }

    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        if self.lies() {
            return Poll::Ready(Ok(()));
        }
        self.log.poll_durable(lsn, context)
    }

    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        let mut live = self.inside(|| self.log.live(owner))?;
        if self.life.world.is_mutated(Mutant::CancelForgetsChunks) && self.life.world.oracle.lock().was_cancelled() {
            live.retain(|record| !self.forgets(record));
        }
        Ok(live)
    }

    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.inside(|| self.log.openings(owner))
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
