//! The participants of the transactions, which do as little as possible.

use std::{io, path::Path, sync::Arc};

use ringpact::{
    BranchId, Coordinator, FileLog, MemoryLog, Name, Participant, ParticipantError, ResourceManager, Service,
    ServiceError, TransactionLog, Vote, participant::Call,
};

use crate::log::{
    failed,
    load::{Blocking, Tasks},
};

/// A participant that promises, and does nothing.
struct Nothing;

impl Participant for Nothing {
    fn prepare(&self, _branch: &BranchId, _call: &Call) -> Result<Vote, ParticipantError> {
        Ok(Vote::Yes)
    }

    fn commit(&self, _branch: &BranchId, _call: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn rollback(&self, _branch: &BranchId, _call: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn in_doubt(&self, _coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

/// A coordinator with two participants in memory.
#[derive(Clone)]
pub struct Idle(Arc<Coordinator>);

impl Idle {
    pub fn durable(dir: &Path) -> io::Result<Self> {
        Self::on(FileLog::open(dir.join("ringpact")).map_err(failed)?)
    }

    pub fn in_memory() -> Self {
        Self::on(MemoryLog::new()).expect("memory never fails")
    }

    fn on(log: impl TransactionLog) -> io::Result<Self> {
        let builder = Coordinator::builder(log).participant("goods", Nothing).participant("payments", Nothing);
        Ok(Self(Arc::new(builder.open().map_err(failed)?)))
    }

    fn begin(&self) -> ringpact::Transaction {
        let mut transaction = self.0.begin();
        transaction.branch("goods").expect("it is a participant");
        transaction.branch("payments").expect("it is a participant");
        transaction
    }
}

impl Blocking for Idle {
    fn commit(&self, _client: usize, _number: u64) {
        self.begin().commit().wait().expect("all vote Yes");
    }
}

impl Tasks for Idle {
    async fn commit(&self, _number: u64) {
        self.begin().commit().await.expect("all vote Yes");
    }
}

/// A service that keeps nothing. Its resource manager still logs its promises.
struct Shelf;

impl Service for Shelf {
    type Work = u64;
    type Refusal = std::convert::Infallible;

    fn try_reserve(&self, _branch: &BranchId, _work: &u64) -> Result<(), Self::Refusal> {
        Ok(())
    }

    fn confirm(&self, _branch: &BranchId, _works: &[u64]) -> Result<(), ServiceError> {
        Ok(())
    }

    fn cancel(&self, _branch: &BranchId, _works: &[u64]) -> Result<(), ServiceError> {
        Ok(())
    }
}

const SERVICES: [&str; 3] = ["goods", "orders", "payments"];

/// A coordinator with three durable participants on its log.
pub struct Durable {
    coordinator: Coordinator,
    managers: Vec<Arc<ResourceManager<Shelf>>>,
}

impl Durable {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let log = Arc::new(FileLog::open(dir.join("ringpact")).map_err(failed)?);
        let mut builder = Coordinator::builder(Arc::clone(&log));
        let mut managers = Vec::new();
        for name in SERVICES {
            let manager = Arc::new(ResourceManager::open(name, Arc::clone(&log), Shelf).map_err(failed)?);
            builder = builder.participant(name, Arc::clone(&manager));
            managers.push(manager);
        }
        Ok(Self { coordinator: builder.open().map_err(failed)?, managers })
    }
}

impl Blocking for Durable {
    fn commit(&self, _client: usize, number: u64) {
        let mut transaction = self.coordinator.begin();
        for (name, manager) in SERVICES.iter().zip(&self.managers) {
            let branch = transaction.branch(name).expect("it is a participant");
            manager.execute(branch, number).expect("nothing is refused");
        }
        transaction.commit().wait().expect("all vote Yes");
    }
}
