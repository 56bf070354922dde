//! A participant asks how a branch ended: presumed abort, in one process and over a transport.

use std::{sync::Arc, thread, time::Duration};

use crate::support::{
    Fault, Manager, Op, eventually, manager, name,
    scripted::{Scripted, broken},
    wire::{Fate, Sent, Wire},
};
use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, Epoch, MemoryLog, Participant, ParticipantError, Policy, TransactionLog, TxnId,
    log::{Durability, Fact, Record},
    participant::{Call, Decision, Endpoint, InDoubtResolution, Life, Reply, Request, Response, Verb, Verdict},
    txn::{CoordinatorBuilder, RollbackCause},
};

const SOON: Duration = Duration::from_secs(5);

/// Returns the coordinator's answer to the question about a branch.
fn ask(coordinator: &Coordinator, branch: &BranchId) -> Result<Verdict, ParticipantError> {
    let answer = Arc::new(Mutex::new(None));
    let sink = Arc::clone(&answer);
    let request = Request::Verdict { branch: branch.clone() };
    coordinator.verdict_endpoint().send(request, Reply::new(move |result| *sink.lock() = Some(result)));
    let answer = answer.lock().take().expect("a coordinator answers at once");
    match answer? {
        Response::Verdict { verdict, .. } => Ok(verdict),
        other => panic!("{other:?}"),
    }
}

fn one_unresolved() -> InDoubtResolution {
    let mut resolution = InDoubtResolution::default();
    resolution.unresolved = 1;
    resolution
}

/// "b" gets no decision, however often it is sent.
fn with_a_deaf_b(policy: Policy) -> (MemoryLog, Coordinator, Manager, Manager) {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", MemoryLog::new()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Commit | Verb::Rollback) => Fate::LoseRequest,
        _ => Fate::Deliver,
    });
    let builder = Coordinator::builder(log.clone()).name("c").policy(policy);
    let coordinator = builder.participant("a", a.clone()).endpoint("b", wire).open().unwrap();
    b.set_verdict_endpoint(name("c"), coordinator.verdict_endpoint());
    (log, coordinator, a, b)
}

#[test]
fn a_participant_that_is_told_nothing_asks_and_does_what_was_decided() {
    let (_log, coordinator, a, b) = with_a_deaf_b(Policy::default());
    let mut committed = coordinator.begin();
    a.execute(committed.branch("a").unwrap(), 2).unwrap();
    b.execute(committed.branch("b").unwrap(), 2).unwrap();
    committed.commit().wait().unwrap();
    let mut rolled_back = coordinator.begin();
    a.execute(rolled_back.branch("a").unwrap(), 2).unwrap();
    b.execute(rolled_back.branch("b").unwrap(), 4).unwrap();
    rolled_back.rollback();
    let mut open = coordinator.begin();
    b.execute(open.branch("b").unwrap(), 8).unwrap();
    assert_eq!((b.service().balance(), b.service().reserved.lock().len()), (0, 3));

    let resolution = b.resolve_in_doubt(SOON);
    assert_eq!((resolution.committed, resolution.rolled_back), (1, 1));
    assert_eq!((resolution.undecided, resolution.unresolved), (1, 0));
    assert_eq!((b.service().balance(), b.service().reserved.lock().len()), (2, 1), "the open one waits");
    assert_eq!(b.service().asked(Op::Confirm).len(), 1);
    drop(open);
}

#[test]
fn a_transaction_that_the_coordinator_does_not_know_is_rolled_back() {
    let (_log, coordinator, _a, b) = with_a_deaf_b(Policy::default());
    // The branch was promised to an earlier life, which died before it decided.
    let orphan = TxnId::new(name("c"), Epoch::new(0), 7).branch(&name("b"));
    assert_eq!(ask(&coordinator, &orphan).unwrap(), Verdict::Rollback);
    let mut ended = coordinator.begin();
    let branch = ended.branch("b").unwrap().clone();
    assert_eq!(ask(&coordinator, &branch).unwrap(), Verdict::Undecided, "a client works under it");
    ended.commit().wait().unwrap_err();
    drop(b);
}

/// An id that was never given out comes from another log under the same name, which may have
/// committed it.
#[test]
fn ids_that_the_coordinator_never_gave_out_are_not_called_rolled_back() {
    let (_log, coordinator, ..) = with_a_deaf_b(Policy::default());
    let (b, epoch) = (name("b"), coordinator.epoch());
    for foreign in [
        TxnId::new(name("another"), epoch, 1),
        TxnId::new(name("c"), epoch.next(), 1),
        TxnId::new(name("c"), epoch, 1_000),
    ] {
        let answer = ask(&coordinator, &foreign.branch(&b));
        assert!(matches!(answer, Err(ParticipantError::Misdirected)), "{foreign}: {answer:?}");
    }
    let verdicts = coordinator.verdict_endpoint();
    drop(coordinator);
    let answer = Arc::new(Mutex::new(None));
    let sink = Arc::clone(&answer);
    let branch = TxnId::new(name("c"), epoch, 1).branch(&b);
    verdicts.send(Request::Verdict { branch }, Reply::new(move |result| *sink.lock() = Some(result)));
    assert!(
        matches!(*answer.lock(), Some(Err(ParticipantError::Unreachable))),
        "a coordinator that is gone says nothing"
    );
}

#[test]
fn while_the_decision_is_on_its_way_to_the_disk_the_answer_is_undecided() {
    let log = crate::support::logs::SlowLog::new(Duration::from_millis(200));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let builder = Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let branch = txn.branch("b").unwrap().clone();
    let commit = txn.commit();
    assert_eq!(ask(&coordinator, &branch).unwrap(), Verdict::Undecided);
    commit.wait().unwrap();
}

/// A participant that asks is up again, so the coordinator retries what was parked because of it.
#[test]
fn asking_retries_a_parked_transaction() {
    let log = MemoryLog::new();
    let b = Scripted::failing(Verb::Commit, broken());
    let policy = Policy::default().first_backoff(Duration::from_millis(1)).park_after_attempts(2);
    let builder = Coordinator::builder(log).policy(policy).participant("a", Scripted::new());
    let coordinator = builder.participant("b", b.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    let branch = txn.branch("b").unwrap().clone();
    txn.commit().wait().unwrap();
    eventually("it is parked", SOON, || coordinator.status().parked == 1);
    b.mend();
    assert_eq!(ask(&coordinator, &branch).unwrap(), Verdict::Commit);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!(b.times_told(Verb::Commit), 3);
}

/// A participant over a wire, restarted, with its old messages still on their way.
struct Restarted {
    log: MemoryLog,
    manager: Mutex<Manager>,
}

impl Restarted {
    fn new() -> Arc<Self> {
        let log = MemoryLog::new();
        Arc::new(Self { manager: Mutex::new(manager("b", log.clone())), log })
    }
    fn restart(&self) {
        *self.manager.lock() = manager("b", self.log.crash());
    }
    fn now(&self) -> Manager {
        self.manager.lock().clone()
    }
}

impl Participant for Restarted {
    fn meet(&self, coordinator: &ringpact::Name, life: &Life) -> Result<(), ParticipantError> {
        self.now().meet(coordinator, life)
    }
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<ringpact::Vote, ParticipantError> {
        self.now().prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.now().commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.now().rollback(branch, call)
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.now().commit_one_phase(branch, call)
    }
    fn in_doubt(&self, coordinator: &ringpact::Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.now().in_doubt(coordinator)
    }
}

/// The known hole of one-phase commit: the participant restarts, comes back without knowing the
/// branch, and answers "rolled back", which the client hears. Then the transport repeats both the
/// work and the commit, and the participant commits. Now it asks the coordinator first, because the
/// work may be older than its restart.
#[test]
fn late_repeats_of_work_and_its_one_phase_commit_after_a_restart_change_nothing() {
    for asks in [true, false] {
        let b = Restarted::new();
        let log = MemoryLog::new();
        let builder = Coordinator::builder(log).name("c");
        let coordinator = builder.endpoint("b", Wire::new(b.clone(), |_| Fate::Deliver)).open().unwrap();
        let mut txn = coordinator.begin();
        let branch = txn.branch("b").unwrap().clone();
        b.now().execute(&branch, 2).unwrap();
        b.restart();
        if asks {
            b.now().set_verdict_endpoint(name("c"), coordinator.verdict_endpoint());
        }
        let error = txn.commit().wait().unwrap_err();
        assert!(matches!(&error, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. }), "{error}");
        b.restart();
        if asks {
            b.now().set_verdict_endpoint(name("c"), coordinator.verdict_endpoint());
        }
        // The transport repeats both:
        let repeated = b.now().execute(&branch, 2);
        let call = Call::new(MemoryLog::new().id());
        let decision = match b.now().commit_one_phase(&branch, &call) {
            Err(ParticipantError::Refused(_)) => Decision::Rollback,
            decision => decision.unwrap(),
        };
        if asks {
            repeated.unwrap();
            assert_eq!((decision, b.now().service().balance()), (Decision::Rollback, 0));
            assert!(b.now().service().reserved.lock().is_empty());
        } else {
            // The participant does not know where to ask: the hole is still there, as the
            // documentation says.
            assert_eq!((decision, b.now().service().balance()), (Decision::Commit, 2));
        }
    }
}

/// Found by simulation: a participant restarted between two pieces of work of one transaction. The
/// first piece was lost, the second was done after the restart, and the transaction committed with
/// half of its work. The second piece need not change anything: with one that only read, the participant
/// voted that it had nothing to commit.
#[test]
fn a_transaction_does_not_commit_without_the_work_that_a_restart_has_lost() {
    for (others, second) in [(&[][..], 4), (&["a"], 4), (&[], 0), (&["a"], 0)] {
        let b = Restarted::new();
        let a = manager("a", MemoryLog::new());
        let builder = Coordinator::builder(MemoryLog::new()).name("c").participant("a", a.clone());
        let coordinator = builder.endpoint("b", Wire::new(b.clone(), |_| Fate::Deliver)).open().unwrap();
        b.now().set_verdict_endpoint(name("c"), coordinator.verdict_endpoint());
        let mut txn = coordinator.begin();
        for other in others {
            a.execute(txn.branch(other).unwrap(), 8).unwrap();
        }
        let branch = txn.branch("b").unwrap().clone();
        b.now().execute(&branch, 2).unwrap();
        b.restart();
        b.now().set_verdict_endpoint(name("c"), coordinator.verdict_endpoint());
        b.now().execute(&branch, second).unwrap();
        let error = txn.commit().wait().unwrap_err();
        assert!(matches!(&error, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. }), "{error}");
        assert_eq!((a.service().balance(), b.now().service().balance()), (0, 0));
        assert!(b.now().service().reserved.lock().is_empty());
    }
}

/// A coordinator of this name on a log of its own, whose epochs are later than this one.
fn on_a_log_after(epoch: u64) -> (MemoryLog, CoordinatorBuilder) {
    let log = MemoryLog::new();
    let opened = Record { owner: name("c"), fact: Fact::Opened { epoch: Epoch::new(epoch) } };
    log.append(opened, Durability::Forced).unwrap();
    (log.clone(), Coordinator::builder(log).name("c"))
}

/// Found by simulation. An empty log was opened by mistake under the coordinator's name, and its
/// coordinator answered the participant which transactions have begun. A bug: from then on that was
/// true for the right one, too. It had earlier epochs, so the participant voted No for good.
#[test]
fn what_another_log_has_begun_says_nothing_of_the_right_ones_transactions() {
    const LATE: u64 = 1 << 60;
    for (right, wrong) in [(1, LATE), (LATE, 1)] {
        let b = Restarted::new();
        let (_log, builder) = on_a_log_after(right);
        let coordinator = builder.endpoint("b", Wire::new(b.clone(), |_| Fate::Deliver)).open().unwrap();
        let mistaken = on_a_log_after(wrong).1.open().unwrap();
        (0..5).for_each(|_| mistaken.begin().rollback());
        let mut torn = coordinator.begin();
        let branch = torn.branch("b").unwrap().clone();
        b.now().execute(&branch, 2).unwrap();
        b.restart();
        b.now().set_verdict_endpoint(name("c"), mistaken.verdict_endpoint());
        b.now().set_verdict_endpoint(name("c"), coordinator.verdict_endpoint());
        b.now().execute(&branch, 4).unwrap();
        let error = torn.commit().wait().unwrap_err();
        assert!(matches!(&error, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. }), "{error}");
        for bought in 1..=3 {
            let mut txn = coordinator.begin();
            b.now().execute(txn.branch("b").unwrap(), 8).unwrap();
            txn.commit().wait().unwrap();
            assert_eq!(b.now().service().balance(), 8 * bought);
        }
    }
}

/// A coordinator that is opened again goes on from what its last opening has said, and no
/// transaction is lost for another question.
#[test]
fn the_next_opening_of_the_same_log_needs_no_other_question() {
    let b = Restarted::new();
    let log = MemoryLog::new();
    let open = || {
        let builder = Coordinator::builder(log.clone()).name("c");
        builder.endpoint("b", Wire::new(b.clone(), |_| Fate::Deliver)).open().unwrap()
    };
    let first = open();
    b.now().set_verdict_endpoint(name("c"), first.verdict_endpoint());
    let buy = |coordinator: &Coordinator| {
        let mut txn = coordinator.begin();
        b.now().execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait()
    };
    buy(&first).unwrap();
    drop(first);
    // The old endpoint answers nothing any more, and there is no new one.
    for _ in 0..2 {
        buy(&open()).unwrap();
    }
    assert_eq!(b.now().service().balance(), 6);
}

/// A transaction that certainly began after the participant was opened needs no question; one that
/// is still open commits.
#[test]
fn one_question_is_enough_for_each_opening() {
    struct Counted {
        verdicts: ringpact::txn::VerdictEndpoint,
        asked: Arc<Mutex<usize>>,
    }
    impl Endpoint for Counted {
        fn send(&self, request: Request, reply: Reply) {
            *self.asked.lock() += 1;
            self.verdicts.send(request, reply);
        }
    }
    let b = Restarted::new();
    let builder = Coordinator::builder(MemoryLog::new()).name("c");
    let coordinator = builder.endpoint("b", Wire::new(b.clone(), |_| Fate::Deliver)).open().unwrap();
    let asked = Arc::new(Mutex::new(0));
    b.now().set_verdict_endpoint(
        name("c"),
        Counted { verdicts: coordinator.verdict_endpoint(), asked: Arc::clone(&asked) },
    );
    for _ in 0..10 {
        let mut txn = coordinator.begin();
        b.now().execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    }
    assert_eq!((*asked.lock(), b.now().service().balance()), (1, 20));
    // In one process the coordinator introduces itself, and none is needed.
    let log = MemoryLog::new();
    let c = manager("c", log.clone());
    let coordinator = Coordinator::builder(log.clone()).participant("c", c.clone()).open().unwrap();
    let forced = log.stats().forced;
    let mut txn = coordinator.begin();
    c.execute(txn.branch("c").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!(log.stats().forced - forced, 1);
}

#[test]
fn a_coordinator_that_does_not_answer_leaves_the_branch_as_it_is() {
    struct Silent;
    impl Endpoint for Silent {
        fn send(&self, _: Request, reply: Reply) {
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                drop(reply);
            });
        }
    }
    let b = manager("b", MemoryLog::new());
    let promised = crate::support::branch(1, "b");
    b.execute(&promised, 2).unwrap();
    b.prepare(&promised, &crate::support::call()).unwrap();
    assert_eq!(b.resolve_in_doubt(SOON), one_unresolved(), "the participant does not know where to ask");
    b.set_verdict_endpoint(name("c"), Silent);
    assert_eq!(b.resolve_in_doubt(Duration::from_millis(20)), one_unresolved());
    assert_eq!(b.resolve_in_doubt(SOON), one_unresolved(), "no answer is no verdict");
    assert_eq!(b.status().prepared, 1);
}

/// A verdict that cannot be carried out now is not lost.
#[test]
fn a_verdict_that_the_service_cannot_follow_is_asked_for_again() {
    let (_log, coordinator, a, b) = with_a_deaf_b(Policy::default());
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    b.service().fail(Op::Confirm, [Fault::Fail]);
    assert_eq!(b.resolve_in_doubt(SOON).unresolved, 1);
    assert_eq!((b.status().settling, b.resolve_in_doubt(SOON).committed), (1, 1));
    assert_eq!(b.service().balance(), 2);
}

/// Found by simulation: a participant asked a coordinator that was dropped, and that a client's
/// `Commit` still kept in memory. The coordinator had forgotten what was open, and so answered
/// "rolled back" about a decision that the log held, and that the next coordinator delivered to the
/// others.
#[test]
fn a_dropped_coordinator_does_not_call_rolled_back_what_it_has_forgotten() {
    let (_log, coordinator, a, b) = with_a_deaf_b(Policy::default());
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let held = txn.commit();
    drop(coordinator);
    let resolution = b.resolve_in_doubt(SOON);
    assert_eq!((resolution.unresolved, resolution.rolled_back), (1, 0), "{resolution:?}");
    drop(held);
}

/// Found with the test before: the greeting came before the coordinator had read the log's
/// decisions.
#[test]
fn a_participant_that_asks_during_its_greeting_hears_what_the_log_has_decided() {
    struct Asks(Manager, Mutex<Vec<InDoubtResolution>>);
    impl Participant for Asks {
        fn prepare(&self, branch: &BranchId, call: &Call) -> Result<ringpact::Vote, ParticipantError> {
            self.0.prepare(branch, call)
        }
        fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.commit(branch, call)
        }
        fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn in_doubt(&self, coordinator: &ringpact::Name) -> Result<Vec<BranchId>, ParticipantError> {
            self.0.in_doubt(coordinator)
        }
        fn greet(&self, greeting: &ringpact::participant::Greeting) {
            self.0.greet(greeting);
            self.1.lock().push(self.0.resolve_in_doubt(SOON));
        }
    }
    let (log, coordinator, a, b) = with_a_deaf_b(Policy::default());
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    drop(coordinator);
    let b = Arc::new(Asks(b, Mutex::default()));
    let builder = Coordinator::builder(log).name("c").participant("a", a).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    assert_eq!(b.1.lock()[0].committed, 1, "{:?}", b.1.lock());
    assert_eq!(b.0.service().balance(), 2);
    drop(coordinator);
}
