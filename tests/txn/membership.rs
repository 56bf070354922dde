//! Participants are added and retire while the coordinator is open.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, Epoch, MemoryLog, Name, Participant, ParticipantError, Policy, TransactionLog,
    TxnId, Vote,
    participant::{Call, CommitMemory, Decision, Inline, LastResource, LastResourceAnswer, Life, Verb},
    txn::{BranchError, CoordinatorError},
};

use crate::support::{
    Disk, eventually, manager, manager_on, name,
    scripted::Scripted,
    wire::{Fate, Sent, Wire},
};

pub const SOON: Duration = Duration::from_secs(5);
pub const MS: Duration = Duration::from_millis(1);

pub fn quick() -> Policy {
    Policy::default().first_backoff(2 * MS).longest_backoff(20 * MS).delivery_timeout(200 * MS)
}

pub fn open(log: impl TransactionLog) -> Coordinator {
    Coordinator::builder(log).name("c").policy(quick()).open().expect("the log opens")
}

/// A participant whose drop is seen.
#[derive(Clone)]
pub struct Seen {
    pub inner: Scripted,
    /// One reference is the test's own.
    pub alive: Arc<()>,
}

impl Seen {
    pub fn new() -> Self {
        Self { inner: Scripted::new(), alive: Arc::default() }
    }

    pub fn is_dropped(&self) -> bool {
        Arc::strong_count(&self.alive) == 1
    }
}

impl Participant for Seen {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.inner.prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        Participant::commit(&self.inner, branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        Participant::rollback(&self.inner, branch, call)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.inner.in_doubt(coordinator)
    }
}

pub fn commit(coordinator: &Coordinator, participants: &[&str]) -> Result<(), CommitError> {
    let mut txn = coordinator.begin();
    for participant in participants {
        txn.branch(participant).expect("it takes part");
    }
    txn.commit().wait()
}

#[test]
fn an_added_participant_takes_part_at_once_also_in_open_transactions() {
    let log = MemoryLog::new();
    let (a, b, c) = (manager("a", log.clone()), manager("b", log.clone()), manager("d", log.clone()));
    let coordinator = open(log);
    let mut txn = coordinator.begin();
    assert!(matches!(txn.branch("a"), Err(BranchError::UnknownParticipant { .. })));
    coordinator.add_participant("a", Arc::clone(&a)).unwrap();
    coordinator.add_slow_participant("b", Arc::clone(&b), NonZeroUsize::MIN).unwrap();
    coordinator.add_endpoint("d", Inline::new(Arc::clone(&c))).unwrap();
    for manager in [&a, &b, &c] {
        manager.execute(txn.branch(manager.name()).unwrap(), 2).unwrap();
    }
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.wait().unwrap();
    delivered.wait().unwrap();
    assert_eq!([&a, &b, &c].map(|manager| manager.service().balance()), [2, 2, 2]);
    assert!(coordinator.settle(SOON));
    let names: Vec<_> = coordinator.status().circuits.iter().map(|circuit| circuit.participant.to_string()).collect();
    assert_eq!(names, ["a", "b", "d"]);
}

#[test]
fn a_participant_that_may_not_take_part_is_refused_and_leaves_nothing() {
    struct OtherName;
    impl Participant for OtherName {
        fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Ok(Vote::Yes)
        }
        fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
        fn own_name(&self) -> Option<Name> {
            Some(Name::from_static("other"))
        }
    }
    let log = MemoryLog::new();
    // It knows another log under this coordinator's name.
    let foreign = manager("foreign", MemoryLog::new());
    drop(Coordinator::builder(MemoryLog::new()).name("c").participant("foreign", Arc::clone(&foreign)).open().unwrap());
    let coordinator = Coordinator::builder(log).name("c").participant("a", Scripted::new()).open().unwrap();
    let add = |name: &str| coordinator.add_participant(name, Scripted::new());
    assert!(matches!(add("a"), Err(CoordinatorError::DuplicateParticipant { .. })));
    assert!(matches!(add("c"), Err(CoordinatorError::OwnName { .. })));
    assert!(matches!(add("no name"), Err(CoordinatorError::Name(_))));
    let error = coordinator.add_participant("b", OtherName).unwrap_err();
    assert!(matches!(error, CoordinatorError::WrongName { .. }), "{error}");
    let error = coordinator.add_participant("foreign", foreign).unwrap_err();
    assert!(matches!(error, CoordinatorError::Refused { error: ParticipantError::OtherLog(_), .. }), "{error}");
    assert!(matches!(coordinator.begin().branch("foreign"), Err(BranchError::UnknownParticipant { .. })));
    assert_eq!((coordinator.status().circuits.len(), coordinator.status().unanswered), (1, 0));
    for name in ["b", "foreign"] {
        add(name).unwrap(); // the names are free
    }
    coordinator.shutdown(SOON);
    assert!(matches!(add("late"), Err(CoordinatorError::ShuttingDown)));
}

#[test]
fn a_participant_that_panics_when_it_is_met_is_added_and_asked() {
    struct Panics(Arc<AtomicUsize>);
    impl Participant for Panics {
        fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Ok(Vote::Yes)
        }
        fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Vec::new())
        }
        fn meet(&self, _: &Name, _: &Life) -> Result<(), ParticipantError> {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the test wants the first one to panic");
            Ok(())
        }
        fn own_name(&self) -> Option<Name> {
            panic!("the test wants this to panic")
        }
    }
    let (coordinator, met) = (open(MemoryLog::new()), Arc::default());
    coordinator.add_participant("a", Panics(Arc::clone(&met))).unwrap();
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert!(met.load(Ordering::SeqCst) >= 2, "it was met again, and asked");
    commit(&coordinator, &["a"]).unwrap();
}

/// The log holds a decision that names a participant with which the coordinator was not opened. When
/// it is added the decision is delivered, parked or not.
#[test]
fn decisions_that_wait_for_a_participant_are_delivered_when_it_is_added() {
    for parks in [false, true] {
        let (log, own, disk) = (MemoryLog::new(), MemoryLog::new(), Disk::default());
        let (a, b) = (manager("a", log.clone()), manager_on("b", own.clone(), &disk));
        let wire = Wire::new(b.clone(), |sent| match sent {
            Sent::Branch(Verb::Commit) => Fate::LoseRequest,
            _ => Fate::Deliver,
        });
        let builder = Coordinator::builder(log.clone()).name("c").policy(quick());
        let coordinator = builder.participant("a", a.clone()).endpoint("b", wire).open().unwrap();
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 4).unwrap();
        txn.commit().wait().unwrap();
        drop((coordinator, a));
        let policy = if parks { quick().park_after_attempts(2) } else { quick() };
        let builder = Coordinator::builder(log.clone()).name("c").policy(policy);
        let coordinator = builder.participant("a", manager("a", log.clone())).open().unwrap();
        if parks {
            eventually("it is parked", SOON, || coordinator.status().parked == 1);
            let page = coordinator.status().to_string();
            assert!(page.contains("not registered") || page.contains("without"), "{page}");
        }
        assert_eq!(b.service().balance(), 0);
        coordinator.add_participant("b", b.clone()).unwrap();
        assert!(coordinator.settle(SOON), "{}", coordinator.status());
        assert_eq!(b.service().balance(), 4);
    }
}

#[test]
fn what_an_added_participant_holds_in_doubt_is_rolled_back_without_a_decision() {
    let (log, own) = (MemoryLog::new(), MemoryLog::new());
    let (a, b) = (manager("a", log.clone()), manager("b", own.clone()));
    let wire = Wire::new(a.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let builder = Coordinator::builder(log.clone()).name("c").policy(quick());
    let coordinator = builder.endpoint("a", wire).participant("b", b.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 4).unwrap();
    let commit = txn.commit();
    assert_eq!(b.in_doubt(coordinator.name()).unwrap().len(), 1, "it has promised");
    drop(coordinator);
    assert!(commit.wait().is_err());
    let coordinator = open(log);
    coordinator.add_participant("b", b.clone()).unwrap();
    assert!(b.service().reserved.lock().is_empty(), "it is settled when the call returns");
    assert_eq!(coordinator.recovered().rolled_back, 1);
    assert!(coordinator.settle(SOON));
}

/// A last resource that remembers, as long as it may.
#[derive(Clone, Default)]
struct Remembers(Arc<Mutex<RemembersState>>);

#[derive(Default)]
struct RemembersState {
    committed: Vec<BranchId>,
    forgotten: bool,
}

impl LastResource for Remembers {
    fn commit(&self, branch: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
        self.0.lock().committed.push(branch.clone());
        Ok(Decision::Commit)
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    fn memory(&self) -> Option<&dyn CommitMemory> {
        Some(self)
    }
}

impl CommitMemory for Remembers {
    fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        let state = self.0.lock();
        Ok(match state.committed.contains(branch) {
            _ if state.forgotten => LastResourceAnswer::Unknown,
            true => LastResourceAnswer::Committed,
            false => LastResourceAnswer::NotCommitted,
        })
    }
}

/// Once all that were there have said what they hold, a last resource may forget. A participant that is
/// added later than that may hold a branch of a transaction that the last resource has committed.
#[test]
fn a_branch_that_is_reported_too_late_for_a_last_resource_is_not_presumed_aborted() {
    let log = MemoryLog::new();
    drop(open(log.clone()));
    let earlier = open(log.clone()).epoch();
    let b = Scripted::new();
    let branch = TxnId::new(name("c"), earlier, 1).branch(&name("b"));
    b.holds_in_doubt(branch.clone());
    let queue = Remembers::default();
    let builder = Coordinator::builder(log).name("c").policy(quick());
    let coordinator = builder.last_resource("queue", queue.clone()).open().unwrap();
    assert!(coordinator.settle(SOON));
    queue.0.lock().forgotten = true;
    coordinator.add_participant("b", b.clone()).unwrap();
    thread::sleep(20 * MS);
    assert_eq!(b.told(), [], "nothing is known about it");
    let status = coordinator.status();
    assert_eq!(status.unclaimed.iter().map(|unclaimed| &unclaimed.branch).collect::<Vec<_>>(), [&branch]);
    coordinator.settle_unclaimed(branch.txn(), Decision::Commit).unwrap();
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!(b.told(), [Verb::Commit]);
}

/// While a participant is asked what it holds, nothing is forgotten on its account.
#[test]
fn it_is_told_of_no_end_before_it_has_said_what_it_holds() {
    let log = MemoryLog::new();
    let coordinator = open(log.clone());
    coordinator.add_participant("a", Scripted::new()).unwrap();
    for _ in 0..40 {
        commit(&coordinator, &["a"]).unwrap();
    }
    let b = Scripted::new();
    let answers = Arc::new(AtomicBool::new(false));
    let may = Arc::clone(&answers);
    let wire = Wire::new(Arc::new(b.clone()), move |sent| match sent {
        Sent::InDoubt if !may.load(Ordering::SeqCst) => Fate::LoseRequest,
        _ => Fate::Deliver,
    });
    coordinator.add_endpoint("b", wire).unwrap();
    commit(&coordinator, &["a", "b"]).unwrap();
    assert_eq!(b.last_call().ended_below.epoch, Epoch::default());
    answers.store(true, Ordering::SeqCst);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    for _ in 0..40 {
        commit(&coordinator, &["a", "b"]).unwrap();
    }
    assert_eq!(b.last_call().ended_below.epoch, coordinator.epoch());
}

/// Threads buy while others add, retire and add again. Every transaction that is told "committed" is
/// committed at all its participants, and all participants that have gone are dropped.
#[test]
fn transactions_go_on_while_participants_come_and_go() {
    const NAMES: [&str; 3] = ["x", "y", "z"];
    let log = MemoryLog::new();
    let steady = manager("steady", log.clone());
    let managers = NAMES.map(|name| manager(name, log.clone()));
    let builder = Coordinator::builder(log).name("c").policy(quick());
    let coordinator = builder.participant("steady", steady.clone()).open().unwrap();
    let (is_over, bought, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let sold = [const { AtomicUsize::new(0) }; 3];
    thread::scope(|scope| {
        for number in 0..3_u64 {
            let (coordinator, steady, managers) = (&coordinator, &steady, &managers);
            let (is_over, bought, refused, sold) = (&is_over, &bought, &refused, &sold);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number);
                while !is_over.load(Ordering::SeqCst) {
                    let mut txn = coordinator.begin();
                    let at = random.usize(..NAMES.len());
                    match txn.branch(NAMES[at]) {
                        Ok(branch) => managers[at].execute(branch, 2).unwrap(),
                        Err(BranchError::Retiring { .. } | BranchError::UnknownParticipant { .. }) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    steady.execute(txn.branch("steady").unwrap(), 2).unwrap();
                    if random.u8(..4) > 0 {
                        txn.commit().wait().unwrap();
                        bought.fetch_add(1, Ordering::SeqCst);
                        sold[at].fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..400 {
            let at = random.usize(..NAMES.len());
            if random.bool() {
                let _ = coordinator.retire(NAMES[at]);
            } else {
                let added = coordinator.add_participant(NAMES[at], managers[at].clone());
                assert!(
                    matches!(
                        added,
                        Ok(()) | Err(CoordinatorError::DuplicateParticipant { .. } | CoordinatorError::Retiring { .. })
                    ),
                    "{added:?}"
                );
            }
            thread::sleep(MS / 2);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    for at in NAMES {
        let _ = coordinator.retire(at);
    }
    eventually("all have gone", SOON, || coordinator.status().retiring.is_empty());
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    for (manager, sold) in managers.iter().zip(&sold) {
        assert_eq!(manager.service().balance(), 2 * i64::try_from(sold.load(Ordering::SeqCst)).unwrap());
        assert!(manager.service().reserved.lock().is_empty());
        eventually("the coordinator has dropped it", SOON, || Arc::strong_count(manager) == 1);
    }
    assert_eq!(steady.service().balance(), 2 * i64::try_from(bought.load(Ordering::SeqCst)).unwrap());
    assert!(bought.load(Ordering::SeqCst) > 0 && refused.load(Ordering::SeqCst) > 0);
}

/// The coordinator goes while a participant that hangs is being asked.
#[test]
fn a_drop_does_not_wait_for_an_answer_that_never_comes() {
    let coordinator = open(MemoryLog::new());
    let wire = Wire::new(Arc::new(Scripted::new()), |_| Fate::LoseRequest);
    coordinator.add_endpoint("a", wire).unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    coordinator.retire("a").unwrap();
    drop(coordinator);
    assert!(txn.commit().wait().is_err());
}

/// Its number is used up, and nothing else is.
#[test]
fn a_thousand_can_come_and_go() {
    let coordinator = open(MemoryLog::new());
    for number in 0..1_000 {
        let a = Seen::new();
        let name = format!("p{}", number % 7);
        coordinator.add_participant(&name, a.clone()).unwrap();
        let mut txn = coordinator.begin();
        txn.branch(&name).unwrap();
        if number % 2 == 0 {
            coordinator.retire(&name).unwrap();
        }
        txn.commit().wait().unwrap();
        if number % 2 == 1 {
            coordinator.retire(&name).unwrap();
        }
        eventually("it is dropped", SOON, || a.is_dropped() && coordinator.status().retiring.is_empty());
    }
    assert!(coordinator.status().circuits.is_empty());
}

#[cfg(feature = "tokio")]
#[test]
fn an_asynchronous_participant_comes_and_goes() {
    struct Asynchronous(Seen);
    impl ringpact::participant::AsyncParticipant for Asynchronous {
        async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
            tokio::task::yield_now().await;
            self.0.prepare(branch, call)
        }
        async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            tokio::task::yield_now().await;
            Participant::commit(&self.0, branch, call)
        }
        async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            tokio::task::yield_now().await;
            Participant::rollback(&self.0, branch, call)
        }
        async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            self.0.in_doubt(coordinator)
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let coordinator = open(MemoryLog::new());
    coordinator.add_participant("b", Scripted::new()).unwrap();
    for _ in 0..20 {
        let a = Seen::new();
        coordinator.add_async_participant("a", Asynchronous(a.clone()), runtime.handle().clone()).unwrap();
        let mut txn = coordinator.begin();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        let commit = txn.commit();
        coordinator.retire("a").unwrap();
        let delivered = commit.delivered();
        commit.wait().unwrap();
        delivered.wait().unwrap();
        assert_eq!(a.inner.told(), [Verb::Prepare, Verb::Commit]);
        eventually("it is dropped", SOON, || a.is_dropped() && coordinator.status().retiring.is_empty());
    }
    assert!(coordinator.settle(SOON));
}
