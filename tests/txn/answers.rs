//! Error texts help: work that can never be written is refused at once, and a No comes with its
//! reason.

use std::{
    error::Error,
    fmt, iter,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::support::{Account, Disk, Fault, Op, Refused, branch, call, manager_on, scripted::Scripted};
use ringpact::{
    BranchId, CommitError, Coordinator, Epoch, LogError, LogId, MemoryLog, Name, Participant, ParticipantError,
    ResourceManager, Service, ServiceError, TransactionLog, Vote, error_chain,
    log::{Claim, Durability, LogStats, Lsn, MAX_RECORD_BYTES, Record},
    participant::{AsyncParticipant, BranchRefusal, Call, Effort, ExecuteError, MAX_WORK_BYTES, Verb},
    txn::{CoordinatorBuilder, RollbackCause},
};
use serde::{Deserialize, Serialize};

/// Accepts any work. Work that begins with a zero is read-only; empty work cannot be encoded.
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

/// A bug: all work was accepted. With one participant, the client was then told "indeterminate"
/// after five seconds.
#[test]
fn work_larger_than_a_record_is_refused_at_once_and_the_error_names_the_limit() {
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
fn the_largest_allowed_work_commits_in_one_phase_and_in_two() {
    let longest = Name::new(&"n".repeat(ringpact::id::MAX_NAME_BYTES)).unwrap();
    for others in [&[][..], &["b"]] {
        let names: Vec<_> = [longest.as_str()].into_iter().chain(others.iter().copied()).collect();
        let (coordinator, managers) = blobs(&names, &MemoryLog::new());
        let mut txn = coordinator.begin();
        for manager in &managers {
            let branch = txn.branch(manager.name().as_str()).unwrap();
            let piece = |left: usize| Blob(vec![1; left - 3]); // the length takes three bytes
            manager.execute(branch, piece(MAX_WORK_BYTES / 2)).unwrap();
            manager.execute(branch, piece(MAX_WORK_BYTES - MAX_WORK_BYTES / 2)).unwrap();
        }
        txn.commit().wait().unwrap();
    }
}

#[test]
fn a_read_only_branch_is_written_nowhere_and_has_no_limit() {
    let (coordinator, managers) = blobs(&["a"], &MemoryLog::new());
    let mut txn = coordinator.begin();
    for _ in 0..4 {
        managers[0].execute(txn.branch("a").unwrap(), Blob(vec![0; MIB])).unwrap();
    }
    let error = managers[0].execute(txn.branch("a").unwrap(), Blob(vec![1])).unwrap_err();
    assert!(matches!(error, ExecuteError::TooMuchWork { .. }), "{error}: the record would hold all of the work");
    drop(txn);
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), Blob(vec![0; MIB])).unwrap();
    txn.commit().wait().unwrap();
}

#[test]
fn work_that_cannot_be_encoded_is_refused_at_once() {
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
    fn openings(&self, owner: &Name) -> Result<Vec<(Epoch, Lsn)>, LogError> {
        self.0.openings(owner)
    }
    fn stats(&self) -> LogStats {
        self.0.stats()
    }
}

/// A bug: the only participant answered with the same error until the coordinator timed out.
#[test]
fn a_record_that_the_log_can_never_take_is_answered_by_a_rollback_at_once() {
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
        let chain = error_chain(&error);
        assert!(chain.contains("could not write it down: the participant's log failed: the record has"), "{chain}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

/// An error as database clients have them: its own text says little, its source says what happened.
fn db_error() -> Link {
    Link("db error", Some(Box::new(Link("duplicate key", Some(Box::new(Link("index orders_pk", None)))))))
}

const DB_ERROR: &str = "db error: duplicate key: index orders_pk";

#[derive(Debug)]
struct Link(&'static str, Option<Box<Link>>);

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Link {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.1.as_deref().map(|cause| cause as _)
    }
}

/// Returns the text of each link of the chain, and asserts that none repeats the next one's.
fn links(error: &dyn Error) -> Vec<String> {
    let links: Vec<_> = iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string).collect();
    for pair in links.windows(2) {
        assert!(!pair[0].contains(&pair[1]), "said twice: {links:?}");
    }
    links
}

/// A bug: the client and the operator were told "voted no", and no more.
#[test]
fn the_client_gets_the_reason_of_a_no() {
    for names in [&["a"][..], &["a", "b"]] {
        let (_, coordinator, managers) = crate::support::shared(names);
        let mut txn = coordinator.begin();
        for manager in &managers {
            manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
        }
        managers[0].execute(txn.branch("a").unwrap(), 3).unwrap_err();
        let error = txn.commit().wait().unwrap_err();
        assert!(error.to_string().ends_with("a voted no"), "{error}");
        assert!(
            error_chain(&error).ends_with("a voted no: a piece of work was refused: the account refuses"),
            "{error:?}"
        );
        links(&error);
        let CommitError::RolledBack { cause: RollbackCause::VotedNo { reason: Some(reason), .. }, .. } = error else {
            panic!("{error:?}");
        };
        assert!(matches!(reason.downcast_ref(), Some(BranchRefusal::Work { .. })), "{reason:?}");
    }
}

/// A bug: the client, the status and the wire had only "db error".
#[test]
fn the_whole_chain_of_causes_arrives_from_every_kind_of_participant() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    for error in [ParticipantError::resource(db_error()), ParticipantError::refused(db_error())] {
        // The error of an endpoint to another process.
        let carried: ParticipantError = serde_json::from_str(&serde_json::to_string(&error).unwrap()).unwrap();
        assert_eq!(error_chain(&carried), error_chain(&error));
        assert!(links(&error).ends_with(&["db error", "duplicate key", "index orders_pk"].map(str::to_owned)));
        for error in [error, carried] {
            let fails = || Scripted::failing(Verb::Prepare, error.clone());
            let builders: [&dyn Fn(CoordinatorBuilder) -> CoordinatorBuilder; 3] = [
                &|builder| builder.participant("b", fails()),
                &|builder| builder.slow_participant("b", fails(), NonZeroUsize::MIN),
                &|builder| builder.async_participant("b", Async(fails()), runtime.handle().clone()),
            ];
            for add in builders {
                let coordinator =
                    add(Coordinator::builder(MemoryLog::new()).participant("a", Scripted::new())).open().unwrap();
                let mut txn = coordinator.begin();
                txn.branch("a").unwrap();
                txn.branch("b").unwrap();
                let told = txn.commit().wait().unwrap_err();
                assert!(error_chain(&told).ends_with(DB_ERROR), "{told:?}");
                links(&told);
                let is_no = matches!(told, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. });
                assert_eq!(is_no, matches!(error, ParticipantError::Refused(_)), "{told:?}");
            }
        }
    }
}

#[test]
fn the_only_participant_says_why_it_does_not_commit() {
    let refuses = || Scripted::failing(Verb::CommitOnePhase, ParticipantError::refused(db_error()));
    let builder = || Coordinator::builder(MemoryLog::new()).participant("a", Scripted::new());
    let builders = [builder().participant("b", refuses()), builder().last_resource("b", refuses())];
    for (builder, others) in builders.into_iter().zip([&[][..], &["a"]]) {
        let coordinator = builder.open().unwrap();
        let mut txn = coordinator.begin();
        for name in others.iter().chain(&["b"]) {
            txn.branch(name).unwrap();
        }
        let error = txn.commit().wait().unwrap_err();
        assert!(error_chain(&error).ends_with(&format!("b voted no: {DB_ERROR}")), "{error:?}");
    }
}

#[test]
fn the_status_shows_whole_chains() {
    let fails = Scripted::failing(Verb::Commit, ParticipantError::resource(db_error()));
    let coordinator = Coordinator::builder(MemoryLog::new())
        .participant("a", Scripted::new())
        .participant("b", fails.clone())
        .open()
        .unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap();
    let page = coordinator.status().to_string();
    assert!(page.contains(&format!("last: the participant's resource failed: {DB_ERROR}\n")), "{page}");
    fails.mend();
}

/// Each No has its own reason.
#[test]
fn a_resource_manager_gives_a_reason_for_each_no() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let reason = |branch: &BranchId| {
        // A repeated prepare has the same answer.
        let [first, again] = [0, 1].map(|_| a.prepare(branch, &call()));
        let (Err(ParticipantError::Refused(first)), Err(ParticipantError::Refused(again))) = (first, again) else {
            panic!("{branch} does not vote no");
        };
        assert_eq!(first.to_string(), again.to_string());
        first.downcast_ref::<BranchRefusal>().expect("a reason of the manager's").clone()
    };
    let [unknown, refused, panicked, undone] = [1, 2, 3, 4].map(|number| branch(number, "a"));
    assert!(matches!(reason(&unknown), BranchRefusal::Unknown));
    a.execute(&refused, 3).unwrap_err();
    assert!(matches!(reason(&refused), BranchRefusal::Work { reason } if &*reason == "the account refuses"));
    a.service().fail(Op::Try, [Fault::Panic]);
    catch_unwind(AssertUnwindSafe(|| drop(a.execute(&panicked, 2)))).unwrap_err();
    assert!(matches!(reason(&panicked), BranchRefusal::Panicked));
    a.execute(&undone, 2).unwrap();
    a.rollback(&undone, &call()).unwrap();
    assert!(matches!(reason(&undone), BranchRefusal::RolledBack));
    drop(a);
    // The participant does not know what a restart has lost.
    let a = manager_on("a", log.crash(), &disk);
    let Err(ParticipantError::Refused(reason)) = a.prepare(&refused, &call()) else { panic!("a No") };
    assert!(matches!(reason.downcast_ref(), Some(BranchRefusal::Unknown)), "{reason}");
    // A branch of an earlier life of its coordinator.
    let mut of_later_life = call();
    of_later_life.epoch = Epoch::new(2);
    let Err(ParticipantError::Refused(reason)) = a.prepare(&branch(9, "a"), &of_later_life) else { panic!("a No") };
    assert!(matches!(reason.downcast_ref(), Some(BranchRefusal::EarlierLife)), "{reason}");
}

#[test]
fn an_abandoned_branch_says_so() {
    let options = ResourceManager::<Account>::options().abandon_after(Duration::ZERO);
    let a = options.open("a", MemoryLog::new(), Account::default()).unwrap();
    a.execute(&branch(1, "a"), 2).unwrap();
    for number in 2..6 {
        // A refusal makes the resource manager look for abandoned branches.
        a.execute(&branch(number, "a"), 3).unwrap_err();
    }
    let Err(ParticipantError::Refused(reason)) = a.prepare(&branch(1, "a"), &call()) else { panic!("a No") };
    assert!(matches!(reason.downcast_ref(), Some(BranchRefusal::Abandoned)), "{reason}");
}

/// A slot that is used again for a new branch must not keep the reason of the old one.
#[test]
fn a_reason_is_forgotten_with_its_branch() {
    let a = crate::support::manager("a", MemoryLog::new());
    a.execute(&branch(1, "a"), 3).unwrap_err();
    a.prepare(&branch(1, "a"), &call()).unwrap_err();
    let mut later = call();
    later.ended_below = branch(2, "a").txn().ordinal();
    a.rollback(&branch(2, "a"), &later).unwrap();
    a.checkpoint().unwrap();
    for number in 3..6 {
        a.execute(&branch(number, "a"), 2).unwrap();
        a.rollback(&branch(number, "a"), &later).unwrap();
        let Err(ParticipantError::Refused(reason)) = a.prepare(&branch(number, "a"), &later) else { panic!("a No") };
        assert!(matches!(reason.downcast_ref(), Some(BranchRefusal::RolledBack)), "{reason}");
    }
}

struct Async(Scripted);

impl AsyncParticipant for Async {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.0.prepare(branch, call)
    }
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        Participant::commit(&self.0, branch, call)
    }
    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        Participant::rollback(&self.0, branch, call)
    }
    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.0.in_doubt(coordinator)
    }
}
