//! A last resource that remembers what it has committed is asked, and the others follow it: when the
//! process died before the decision was durable, and when an answer got lost.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, Participant, ParticipantError, Policy, Transaction, TransactionLog,
    TransactionState, TxnOrdinal,
    participant::{
        Call, CommitMemory, Decision, Endpoint, LastResource, LastResourceAnswer, Reply, Request, Response, Verdict,
    },
    txn::RollbackCause,
};

use crate::support::{
    Manager, eventually,
    logs::SlowLog,
    manager,
    wire::{Fate, Wire},
};

const SOON: Duration = Duration::from_secs(10);

/// A resource with a marker for each branch that it has committed or given up. It outlives processes.
#[derive(Clone, Default)]
struct Remembering(Arc<Mutex<Memory>>);

#[derive(Default)]
struct Memory {
    markers: BTreeMap<BranchId, Decision>,
    /// Whether its answers get lost.
    answers_are_lost: bool,
    /// Whether it cannot be reached.
    is_down: bool,
    /// The branches that it was asked about.
    asked: Vec<BranchId>,
    ended_below: TxnOrdinal,
    /// The log with which the process crashes when it is told to commit.
    crashes: Option<SlowLog>,
    /// What is left of that log.
    survives: Option<MemoryLog>,
}

impl Remembering {
    fn set(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.0.lock());
    }

    fn asked(&self) -> Vec<BranchId> {
        self.0.lock().asked.clone()
    }
}

impl LastResource for Remembering {
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        let mut memory = self.0.lock();
        if memory.is_down {
            return Err(ParticipantError::Unreachable);
        }
        memory.survives = memory.crashes.take().map(|log| log.crash());
        memory.ended_below = memory.ended_below.max(call.ended_below);
        let decision = *memory.markers.entry(branch.clone()).or_insert(Decision::Commit);
        if memory.answers_are_lost { Err(ParticipantError::Unreachable) } else { Ok(decision) }
    }

    fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        match *self.0.lock().markers.entry(branch.clone()).or_insert(Decision::Rollback) {
            Decision::Commit => Err(ParticipantError::AlreadyCommitted),
            Decision::Rollback => Ok(()),
        }
    }

    fn memory(&self) -> Option<&dyn CommitMemory> {
        Some(self)
    }
}

impl CommitMemory for Remembering {
    fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        let mut memory = self.0.lock();
        memory.asked.push(branch.clone());
        if memory.is_down {
            return Err(ParticipantError::Unreachable);
        }
        Ok(match *memory.markers.entry(branch.clone()).or_insert(Decision::Rollback) {
            Decision::Commit => LastResourceAnswer::Committed,
            Decision::Rollback => LastResourceAnswer::NotCommitted,
        })
    }
}

fn open(log: impl TransactionLog, a: &Manager, b: &Manager, mail: &Remembering) -> Coordinator {
    let policy = Policy::default().prepare_timeout(Duration::from_millis(200));
    let policy = policy.first_backoff(Duration::from_millis(2)).longest_backoff(Duration::from_millis(10));
    let builder = Coordinator::builder(log).name("c").policy(policy).last_resource("mail", mail.clone());
    builder.participant("a", a.clone()).participant("b", b.clone()).open().expect("the log opens")
}

fn begin(coordinator: &Coordinator, a: &Manager, b: &Manager) -> Transaction {
    let mut txn = coordinator.begin();
    txn.branch("mail").expect("it is registered");
    a.execute(txn.branch("a").expect("it is registered"), 2).expect("it accepts even amounts");
    b.execute(txn.branch("b").expect("it is registered"), 4).expect("it accepts even amounts");
    txn
}

fn balances(a: &Manager, b: &Manager) -> (i64, i64) {
    (a.service().balance(), b.service().balance())
}

/// Opens a coordinator on a log without the decision, after the resource has committed.
fn crash_in_the_window(a: &Manager, b: &Manager, mail: &Remembering) -> (MemoryLog, BranchId) {
    let log = SlowLog::new(Duration::from_millis(150));
    let coordinator = open(log.clone(), a, b, mail);
    let txn = begin(&coordinator, a, b);
    let id = txn.id().clone();
    let commit = txn.commit();
    let survives = log.crash();
    std::mem::forget(commit);
    drop(coordinator);
    let branch = mail.0.lock().markers.keys().next().cloned().expect("it has committed");
    assert_eq!(branch.txn(), &id);
    assert!(mail.asked().is_empty(), "it is asked only when something went wrong");
    (survives, branch)
}

#[test]
fn the_window_is_closed() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let (log, branch) = crash_in_the_window(&a, &b, &mail);
    let coordinator = open(log, &a, &b, &mail);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4), "the others follow the resource");
    assert!(mail.asked().iter().all(|asked| *asked == branch) && !mail.asked().is_empty());
    assert_eq!(coordinator.status().heuristic, 0);
}

/// Found by the search of the protocol's states: on the coordinator's log no participant forced its
/// promise, because the decision takes it along. But the resource commits before the decision, so a
/// crash lost the promise, and the branch was not even in doubt.
#[test]
fn on_the_coordinators_log_the_promises_are_durable_before_it_is_told_to_commit() {
    let (log, mail) = (SlowLog::new(Duration::from_millis(30)), Remembering::default());
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let coordinator = open(log.clone(), &a, &b, &mail);
    mail.set(|memory| memory.crashes = Some(log.clone()));
    drop(begin(&coordinator, &a, &b).commit());
    let survives = mail.0.lock().survives.take().expect("it was told to commit");
    drop((coordinator, a, b));
    let (a, b) = (manager("a", survives.clone()), manager("b", survives.clone()));
    let coordinator = open(survives, &a, &b, &mail);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4), "all have committed");
}

#[test]
fn while_it_does_not_answer_the_others_stay_in_doubt() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let (log, _) = crash_in_the_window(&a, &b, &mail);
    mail.set(|memory| memory.is_down = true);
    let coordinator = open(log.clone(), &a, &b, &mail);
    assert!(!coordinator.settle(Duration::from_millis(100)));
    let status = coordinator.status();
    assert!(status.transactions.iter().all(|txn| txn.state == TransactionState::AskingLastResource), "{status}");
    assert_eq!(status.in_doubt(), 2, "{status}");
    let text = status.to_string();
    assert!(text.contains("asking the last resource") && text.contains("did not answer"), "{text}");
    assert_eq!(balances(&a, &b), (0, 0));
    // Another restart changes nothing.
    drop(coordinator);
    let coordinator = open(log, &a, &b, &mail);
    assert!(!coordinator.settle(Duration::from_millis(50)));
    mail.set(|memory| memory.is_down = false);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4));
}

/// The answer "not committed" is a promise: a commit that comes later is refused.
#[test]
fn what_it_has_not_committed_is_rolled_back_everywhere_and_stays_so() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let log = MemoryLog::new();
    let coordinator = open(log.clone(), &a, &b, &mail);
    mail.set(|memory| memory.is_down = true);
    let txn = begin(&coordinator, &a, &b);
    let branch = txn.id().branch(&"mail".parse().expect("a valid name"));
    let commit = txn.commit();
    std::mem::forget(commit);
    let survives = log.crash();
    drop(coordinator);
    mail.set(|memory| memory.is_down = false);
    let coordinator = open(survives, &a, &b, &mail);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (0, 0));
    assert!(a.service().reserved.lock().is_empty() && b.service().reserved.lock().is_empty());
    let late = mail.commit(&branch, &crate::support::call());
    assert_eq!(late.expect("it answers"), Decision::Rollback, "the message of the earlier life comes too late");
}

/// One participant is down when the coordinator opens. The other one does not wait for it, and the
/// one that comes back later follows the resource, too. Meanwhile the resource may forget nothing.
#[test]
fn a_participant_that_reports_late_follows_it_as_well() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let (log, branch) = crash_in_the_window(&a, &b, &mail);
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let fate = move |_| if down.load(Ordering::SeqCst) { Fate::LoseRequest } else { Fate::Deliver };
    let wire = Wire::new(Arc::clone(&b) as Arc<dyn Participant>, fate);
    let policy =
        Policy::default().delivery_timeout(Duration::from_millis(20)).longest_backoff(Duration::from_millis(5));
    let builder = Coordinator::builder(log).name("c").policy(policy).last_resource("mail", mail.clone());
    let coordinator = builder.participant("a", a.clone()).endpoint("b", wire).open().expect("the log opens");
    eventually("the one that is up has followed", SOON, || a.service().balance() == 2);
    for _ in 0..40 {
        let mut txn = coordinator.begin();
        txn.branch("mail").expect("it is registered");
        txn.commit().wait().expect("alone it decides by itself");
    }
    assert!(mail.0.lock().ended_below <= branch.txn().ordinal(), "it must remember the branch");
    assert_eq!(b.service().balance(), 0);
    is_down.store(false, Ordering::SeqCst);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4));
    for _ in 0..40 {
        let mut txn = coordinator.begin();
        txn.branch("mail").expect("it is registered");
        txn.commit().wait().expect("alone it decides by itself");
    }
    assert!(mail.0.lock().ended_below > branch.txn().ordinal(), "now it may forget");
}

/// A bug that this must not have: a participant that asks by itself was told "rolled back", because
/// nothing is in the log.
#[test]
fn a_participant_that_asks_is_not_told_of_a_rollback_before_the_resource_has_answered() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let (log, branch) = crash_in_the_window(&a, &b, &mail);
    mail.set(|memory| memory.is_down = true);
    let coordinator = open(log, &a, &b, &mail);
    let ask = |participant: &str| {
        let branch = branch.txn().branch(&participant.parse().expect("a valid name"));
        let (tell, told) = std::sync::mpsc::channel();
        let reply = Reply::new(move |answer| tell.send(answer).expect("the test waits for it"));
        coordinator.verdict_endpoint().send(Request::Verdict { branch }, reply);
        match told.recv().expect("it answers at once") {
            Ok(Response::Verdict { verdict, .. }) => verdict,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([ask("a"), ask("b"), ask("stranger")], [Verdict::Undecided; 3]);
    mail.set(|memory| memory.is_down = false);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4));
    // It has ended. A branch that is asked about once more is asked for once more, and told the same.
    assert_eq!(ask("a"), Verdict::Undecided);
    assert!(coordinator.settle(SOON));
    assert_eq!((balances(&a, &b), coordinator.status().in_doubt()), ((2, 4), 0), "{}", coordinator.status());
}

#[test]
fn if_only_its_answer_got_lost_the_client_hears_what_it_has_done() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let coordinator = open(MemoryLog::new(), &a, &b, &mail);
    mail.set(|memory| memory.answers_are_lost = true);
    begin(&coordinator, &a, &b).commit().wait().expect("it has committed, and says so when it is asked");
    assert_eq!(balances(&a, &b), (2, 4));
    let mut alone = coordinator.begin();
    alone.branch("mail").expect("it is registered");
    alone.commit().wait().expect("as the only branch as well");
    assert!(coordinator.settle(SOON));
}

#[test]
fn if_its_commit_never_arrived_the_client_hears_of_a_certain_rollback() {
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    /// The way to commit is cut; questions arrive.
    struct HalfDown(Remembering);
    impl LastResource for HalfDown {
        fn commit(&self, _: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
            Err(ParticipantError::Unreachable)
        }
        fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn memory(&self) -> Option<&dyn CommitMemory> {
            Some(self)
        }
    }
    impl CommitMemory for HalfDown {
        fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
            self.0.committed(branch)
        }
    }
    let policy = Policy::default().prepare_timeout(Duration::from_millis(200));
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy);
    let builder = builder.last_resource("mail", HalfDown(Remembering::default()));
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().expect("it opens");
    let error = begin(&coordinator, &a, &b).commit().wait().expect_err("it has not committed");
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::TimedOut, .. }), "{error}");
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (0, 0));
    let mut alone = coordinator.begin();
    alone.branch("mail").expect("it is registered");
    let error = alone.commit().wait().expect_err("it has not committed");
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::TimedOut, .. }), "{error}");
}

/// It is asked, and does not answer either. The client waits no longer, and the others keep their
/// promises until it answers.
#[test]
fn if_it_cannot_be_asked_the_outcome_is_indeterminate_and_comes_later() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let coordinator = open(MemoryLog::new(), &a, &b, &mail);
    mail.set(|memory| memory.answers_are_lost = true);
    let txn = begin(&coordinator, &a, &b);
    let commit = txn.commit(); // it has committed
    mail.set(|memory| memory.is_down = true);
    let begun = Instant::now();
    let error = commit.wait().expect_err("no answer came");
    assert!(matches!(error, CommitError::Indeterminate { participant_error: Some(_), .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(!coordinator.settle(Duration::from_millis(50)));
    assert_eq!(coordinator.status().transactions[0].state, TransactionState::AskingLastResource);
    assert_eq!(balances(&a, &b), (0, 0));
    mail.set(|memory| memory.is_down = false);
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4));
}

/// Asked about transactions that it took no part in, it has nothing to say against their rollback.
#[test]
fn transactions_without_it_are_rolled_back_as_ever() {
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let log = MemoryLog::new();
    let coordinator = open(log.clone(), &a, &b, &mail);
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").expect("it is registered"), 2).expect("it accepts even amounts");
    std::mem::forget(txn);
    let survives = log.crash();
    drop(coordinator);
    let coordinator = open(survives, &a, &b, &mail);
    assert!(coordinator.settle(Duration::ZERO), "it is settled when the opening returns");
    assert_eq!((mail.asked().len(), coordinator.recovered().rolled_back), (1, 1));
    assert!(a.service().reserved.lock().is_empty());
}

/// A resource with a question that panics is asked again.
#[test]
fn a_panic_of_the_question_is_an_error_like_others() {
    struct Panics(Remembering, Mutex<u32>);
    impl LastResource for Panics {
        fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
            self.0.commit(branch, call)
        }
        fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn memory(&self) -> Option<&dyn CommitMemory> {
            Some(self)
        }
    }
    impl CommitMemory for Panics {
        fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
            *self.1.lock() += 1;
            assert!(*self.1.lock() > 2, "the test wants this to panic");
            self.0.committed(branch)
        }
    }
    let (a, b, mail) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Remembering::default());
    let (log, _) = crash_in_the_window(&a, &b, &mail);
    let builder = Coordinator::builder(log).name("c").last_resource("mail", Panics(mail, Mutex::new(0)));
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().expect("it opens");
    assert!(coordinator.settle(SOON));
    assert_eq!(balances(&a, &b), (2, 4));
}
