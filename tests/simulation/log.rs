//! A process's log as one of its owners sees it, and what a mutant makes of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use ringpact::{
    Epoch, FileLog, LogError, LogId, Name, TransactionLog, TxnId,
    log::{Claim, Durability, Fact, LogStats, Lsn, Record, Takeover},
};

use super::{host::Life, mutants::Mutant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Coordinator,
    Manager,
}

/// Whose records stand for ends that a mutant has not told the log of.
const ENDED: &str = "ended";

fn name(name: &str) -> Name {
    name.parse().expect("a valid name")
}

/// Tells the log of the ends that it was not told of before.
pub fn make_up_for_ends(log: &FileLog) -> Result<(), LogError> {
    for record in log.live(&name(ENDED))? {
        let Some(txn) = record.fact.txn() else { continue };
        for owner in [txn.coordinator(), &record.owner] {
            let fact = Fact::Ended { txn: txn.clone() };
            log.append(Record { owner: owner.clone(), fact }, Durability::Lazy)?;
        }
    }
    Ok(())
}

pub struct Log {
    life: Arc<Life>,
    log: Arc<FileLog>,
    number: usize,
    owner: Owner,
}

impl Log {
    pub fn new(life: &Arc<Life>, number: usize, owner: Owner) -> Self {
        Self { log: Arc::clone(&life.logs()[number]), life: Arc::clone(life), number, owner }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.life.world.is_mutated(mutant)
    }

    /// Whether what it says of durability is made up.
    fn lies(&self) -> bool {
        match self.owner {
            Owner::Coordinator => self.is(Mutant::DecidesBeforeDurable),
            Owner::Manager => self.is(Mutant::PromisesBeforeDurable),
        }
    }

    fn inside<T>(&self, call: impl FnOnce() -> T) -> T {
        self.life.in_log.fetch_add(1, Ordering::Relaxed);
        let result = call();
        self.life.in_log.fetch_sub(1, Ordering::Relaxed);
        result
    }
}

impl TransactionLog for Log {
    fn id(&self) -> LogId {
        // Its own is random, and would be in the trace.
        self.life.log_id(self.number)
    }

    fn incarnation(&self) -> u64 {
        // As random as the real one, and the same whenever the seed is run.
        let is_fixed = self.is(Mutant::ReusesEpochs) || self.is(Mutant::EpochsCountUp);
        let number = if is_fixed { 1 } else { self.life.incarnation() };
        number * 64 + self.number as u64
    }

    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.log.claim(owner)
    }

    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let swallowed = match &record.fact {
            Fact::Prepared { .. } => self.is(Mutant::VotesWithoutPromise),
            Fact::Decided { .. } => self.is(Mutant::DecidesWithoutRecord),
            Fact::Committed { work: None, .. } => self.is(Mutant::CommitsWithoutRecord),
            _ => false,
        };
        if swallowed {
            return Ok(self.log.durable());
        }
        let collected = match (&record.fact, self.owner) {
            (Fact::Decided { txn, .. }, Owner::Coordinator) if self.is(Mutant::CollectsLiveDecisions) => {
                Some(txn.clone())
            }
            (Fact::Prepared { txn, .. }, Owner::Manager) if self.is(Mutant::CollectsLivePromises) => Some(txn.clone()),
            _ => None,
        };
        let (owner, ends) = (record.owner.clone(), matches!(record.fact, Fact::Ended { .. }));
        let record = match record.fact {
            Fact::Ended { txn } if self.owner == Owner::Coordinator && self.is(Mutant::KeepsWhatHasEnded) => {
                Record { owner: name(ENDED), fact: Fact::Decided { txn, participants: Vec::new() } }
            }
            fact => Record { owner: record.owner, fact },
        };
        self.inside(|| {
            let appended = self.log.append(record, durability);
            if ends && appended.is_err() {
                self.life.growth.refuses_an_end();
            }
            let lsn = appended?;
            if let Some(txn) = collected {
                self.log.append(Record { owner, fact: Fact::Ended { txn } }, Durability::Lazy)?;
            }
            Ok(lsn)
        })
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
        live.retain(|record| match record.fact {
            Fact::Opened { .. } => !self.is(Mutant::ReusesEpochs),
            Fact::Decided { .. } => !self.is(Mutant::RecoversNoDecisions),
            Fact::Prepared { .. } => !self.is(Mutant::RecoversNoPromises),
            _ => true,
        });
        if self.owner == Owner::Coordinator && self.is(Mutant::SettlesWhatIsUnclaimed) {
            let all = self.life.world.ledger.lock().all();
            let epochs: BTreeSet<_> = all.iter().filter(|txn| txn.coordinator() == owner).map(TxnId::epoch).collect();
            let opened = |epoch| Record { owner: owner.clone(), fact: Fact::Opened { epoch } };
            live.extend(epochs.into_iter().map(opened));
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
