//! Answers that help: work that can never be written is refused at once, and a No says why.

mod txn_support;

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, CommitError, Coordinator, Durability, LogError, LogId, LogStats, Lsn, MemoryLog, Name, Record,
    ResourceManager, Service, ServiceError, TransactionLog,
    log::{Claim, MAX_RECORD_BYTES},
    participant::{Effort, ExecuteError, MAX_WORK_BYTES},
    txn::RollbackCause,
};
use serde::{Deserialize, Serialize};
use txn_support::Refused;

/// Takes whatever it is given. Work that begins with a zero only looks; empty work can't be encoded.
struct Blobs;

#[derive(Deserialize)]
struct Blob(Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            return Err(serde::ser::Error::custom("it is empty"));
        }
        self.0.serialize(serializer)
    }
}

impl Service for Blobs {
    type Work = Blob;
    type Refusal = Refused;
    fn effort(&self, work: &Blob) -> Effort {
        if work.0.first() == Some(&0) { Effort::ReadOnly } else { Effort::Update }
    }
    fn try_reserve(&self, _: &BranchId, _: &Blob) -> Result<(), Refused> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[Blob]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[Blob]) -> Result<(), ServiceError> {
        Ok(())
    }
}

type Manager = Arc<ResourceManager<Blobs>>;

fn blobs(names: &[&str], log: &(impl TransactionLog + Clone)) -> (Coordinator, Vec<Manager>) {
    let managers: Vec<_> =
        names.iter().map(|name| Arc::new(ResourceManager::open(name, log.clone(), Blobs).unwrap())).collect();
    let mut builder = Coordinator::builder(log.clone());
    for manager in &managers {
        builder = builder.participant(manager.name().as_str(), Arc::clone(manager));
    }
    (builder.open().unwrap(), managers)
}

const MIB: usize = 1 << 20;

/// All of it was accepted. Then, with one participant, the client was told after five seconds that nobody knows.
#[test]
fn work_that_no_record_holds_is_refused_when_it_is_done_and_the_limit_is_named() {
    for names in [&["a"][..], &["a", "b"]] {
        let (coordinator, managers) = blobs(names, &MemoryLog::new());
        let mut txn = coordinator.begin();
        for manager in &managers {
            let branch = txn.branch(manager.name().as_str()).unwrap();
            manager.execute(branch, Blob(vec![1; MIB / 2])).unwrap();
        }
        let error = managers[0].execute(txn.branch("a").unwrap(), Blob(vec![1; MIB / 2])).unwrap_err();
        assert!(
            matches!(error, ExecuteError::TooMuchWork { limit: MAX_WORK_BYTES, length, .. } if length > MIB),
            "{error}"
        );
        assert!(error.to_string().contains(&MAX_WORK_BYTES.to_string()), "{error}");
        let start = Instant::now();
        let error = txn.commit().wait().unwrap_err();
        assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

#[test]
fn as_much_work_as_is_allowed_can_be_committed_in_one_phase_and_in_two() {
    let longest = Name::new(&"n".repeat(ringpact::id::MAX_NAME_BYTES)).unwrap();
    for others in [&[][..], &["b"]] {
        let names: Vec<_> = [longest.as_str()].into_iter().chain(others.iter().copied()).collect();
        let (coordinator, managers) = blobs(&names, &MemoryLog::new());
        let mut txn = coordinator.begin();
        for manager in &managers {
            let branch = txn.branch(manager.name().as_str()).unwrap();
            let piece = |left: usize| Blob(vec![1; left - 3]); // its length takes three bytes
            manager.execute(branch, piece(MAX_WORK_BYTES / 2)).unwrap();
            manager.execute(branch, piece(MAX_WORK_BYTES - MAX_WORK_BYTES / 2)).unwrap();
        }
        txn.commit().wait().unwrap();
    }
}

#[test]
fn a_branch_that_only_looks_is_written_nowhere_and_has_no_limit() {
    let (coordinator, managers) = blobs(&["a"], &MemoryLog::new());
    let mut txn = coordinator.begin();
    for _ in 0..4 {
        managers[0].execute(txn.branch("a").unwrap(), Blob(vec![0; MIB])).unwrap();
    }
    let error = managers[0].execute(txn.branch("a").unwrap(), Blob(vec![1])).unwrap_err();
    assert!(matches!(error, ExecuteError::TooMuchWork { .. }), "{error}: all of it would be in the record");
    drop(txn);
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), Blob(vec![0; MIB])).unwrap();
    txn.commit().wait().unwrap();
}

#[test]
fn work_that_can_not_be_encoded_is_refused_when_it_is_done() {
    let (coordinator, managers) = blobs(&["a"], &MemoryLog::new());
    let mut txn = coordinator.begin();
    let error = managers[0].execute(txn.branch("a").unwrap(), Blob(Vec::new())).unwrap_err();
    assert!(matches!(error, ExecuteError::Unencodable { .. }), "{error}");
    assert!(matches!(txn.commit().wait(), Err(CommitError::RolledBack { .. })));
}

/// A log that takes only small records.
#[derive(Clone)]
struct Narrow(MemoryLog);

impl TransactionLog for Narrow {
    fn id(&self) -> LogId {
        self.0.id()
    }
    fn incarnation(&self) -> u64 {
        self.0.incarnation()
    }
    fn claim(&self, owner: &Name) -> Result<Claim, LogError> {
        self.0.claim(owner)
    }
    fn append(&self, record: Record, durability: Durability) -> Result<Lsn, LogError> {
        let length = format!("{record:?}").len();
        if length > MAX_RECORD_BYTES / 1024 {
            return Err(LogError::TooLarge { length });
        }
        self.0.append(record, durability)
    }
    fn durable(&self) -> Lsn {
        self.0.durable()
    }
    fn wait(&self, lsn: Lsn) -> Result<(), LogError> {
        self.0.wait(lsn)
    }
    fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<(), LogError>> {
        self.0.poll_durable(lsn, context)
    }
    fn live(&self, owner: &Name) -> Result<Vec<Record>, LogError> {
        self.0.live(owner)
    }
    fn stats(&self) -> LogStats {
        self.0.stats()
    }
}

/// The only participant said that it could not, again and again, until the coordinator gave up on it.
#[test]
fn a_record_that_a_log_will_never_take_is_answered_by_a_rollback_at_once() {
    for names in [&["a"][..], &["a", "b"]] {
        let (coordinator, managers) = blobs(names, &Narrow(MemoryLog::new()));
        let mut txn = coordinator.begin();
        for manager in &managers {
            let branch = txn.branch(manager.name().as_str()).unwrap();
            manager.execute(branch, Blob(vec![1; 2000])).unwrap();
        }
        let start = Instant::now();
        let error = txn.commit().wait().unwrap_err();
        assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
