//! One bad participant costs transactions that do not touch it nothing: not their time-outs, their
//! memory, or space in the log.

use std::{
    convert::Infallible,
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::support::{Fault, Manager, Op, branch, call, eventually, manager, name, scripted::Scripted};
use parking_lot::{Condvar, Mutex};
use ringpact::{
    BranchId, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, ResourceManager, Service,
    ServiceError, TransactionLog, Vote,
    log::Fact,
    participant::{Call, Verb},
};

const SOON: Duration = Duration::from_secs(5);

/// Calls through it hang until it is opened.
#[derive(Default)]
struct Gate(Mutex<Passing>, Condvar);

#[derive(Default)]
struct Passing {
    open: bool,
    waiting: usize,
    passed: usize,
}

impl Gate {
    fn pass(&self) {
        let mut passing = self.0.lock();
        passing.waiting += 1;
        while !passing.open {
            self.1.wait(&mut passing);
        }
        passing.waiting -= 1;
        passing.passed += 1;
    }

    fn open(&self) {
        self.0.lock().open = true;
        self.1.notify_all();
    }

    fn waiting(&self) -> usize {
        self.0.lock().waiting
    }

    fn passed(&self) -> usize {
        self.0.lock().passed
    }
}

/// However the test ends, hanging calls return.
struct Opens<'a>(&'a Gate);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A service that hangs in the calls that the test names, and counts what it has set aside.
#[derive(Default)]
struct Hangs {
    tries: Option<Arc<Gate>>,
    confirms: Option<Arc<Gate>>,
    cancels: Option<Arc<Gate>>,
    reserved: Mutex<Vec<BranchId>>,
}

fn pass(gate: Option<&Arc<Gate>>) {
    if let Some(gate) = gate {
        gate.pass();
    }
}

impl Service for Hangs {
    type Work = u64;
    type Refusal = Infallible;

    fn try_reserve(&self, branch: &BranchId, _: &u64) -> Result<(), Infallible> {
        pass(self.tries.as_ref());
        self.reserved.lock().push(branch.clone());
        Ok(())
    }
    fn confirm(&self, branch: &BranchId, _: &[u64]) -> Result<(), ServiceError> {
        pass(self.confirms.as_ref());
        self.reserved.lock().retain(|reserved| reserved != branch);
        Ok(())
    }
    fn cancel(&self, branch: &BranchId, _: &[u64]) -> Result<(), ServiceError> {
        pass(self.cancels.as_ref());
        self.reserved.lock().retain(|reserved| reserved != branch);
        Ok(())
    }
}

fn hangs(name: &str, service: Hangs) -> Arc<ResourceManager<Hangs>> {
    Arc::new(ResourceManager::open(name, MemoryLog::new(), service).unwrap())
}

/// A participant that makes every call wait at a gate.
struct Gated(Arc<Gate>);

impl Participant for Gated {
    fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        self.0.pass();
        Ok(Vote::Yes)
    }
    fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.0.pass();
        Ok(())
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.0.pass();
        Ok(())
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

/// A transaction that is not committed ends at its time-out, and all its participants have undone
/// their work.
fn a_time_out_works(coordinator: &Coordinator, healthy: &Scripted) {
    let rolled_back = |healthy: &Scripted| healthy.times_told(Verb::Rollback);
    let before = rolled_back(healthy);
    let mut txn = coordinator.begin_within(Duration::from_millis(20));
    txn.branch("healthy").unwrap();
    let begun = Instant::now();
    eventually("it is rolled back in its time", SOON, || rolled_back(healthy) > before);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(txn.branch("healthy").is_ok() && txn.commit().wait().is_err());
}

/// A bug: `execute` holds the branch while the service works. A rollback waited for that on the
/// coordinator's own thread, and after two of them no time-out worked any more.
#[test]
fn a_try_that_waits_does_not_stop_the_clock() {
    let gate = Arc::new(Gate::default());
    let _opens = Opens(&gate);
    let bad = hangs("bad", Hangs { tries: Some(Arc::clone(&gate)), ..Hangs::default() });
    let healthy = Scripted::new();
    let builder = Coordinator::builder(MemoryLog::new()).participant("bad", Arc::clone(&bad));
    let coordinator = builder.participant("healthy", healthy.clone()).open().unwrap();
    thread::scope(|scope| {
        let _opens = Opens(&gate);
        for _ in 0..6 {
            scope.spawn(|| {
                let mut txn = coordinator.begin_within(Duration::from_millis(20));
                let branch = txn.branch("bad").unwrap().clone();
                assert!(bad.execute(&branch, 1).is_err(), "its time was over, and so the work is undone");
                assert!(bad.execute(&branch, 1).is_err());
            });
        }
        eventually("all of them hang", SOON, || gate.waiting() == 6);
        thread::sleep(Duration::from_millis(100));
        for _ in 0..3 {
            a_time_out_works(&coordinator, &healthy);
        }
        assert_eq!(gate.waiting(), 6);
        gate.open();
    });
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!(*bad.service().reserved.lock(), []);
}

/// A participant that is registered as one that answers at once, and hangs.
#[test]
fn a_participant_that_hangs_does_not_stop_the_clock() {
    let gate = Arc::new(Gate::default());
    let healthy = Scripted::new();
    let builder = Coordinator::builder(MemoryLog::new()).participant("bad", Gated(Arc::clone(&gate)));
    let coordinator = builder.participant("healthy", healthy.clone()).open().unwrap();
    let _opens = Opens(&gate);
    let hung: Vec<_> = (0..6)
        .map(|_| {
            let mut txn = coordinator.begin_within(Duration::from_millis(10));
            txn.branch("bad").unwrap();
            txn
        })
        .collect();
    eventually("the threads that call it hang", SOON, || gate.waiting() > 0);
    for _ in 0..3 {
        a_time_out_works(&coordinator, &healthy);
    }
    assert!(gate.waiting() <= 2, "{} threads are held up", gate.waiting());
    gate.open();
    drop(hung);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!(gate.passed(), 6, "each was told once");
}

#[test]
fn a_message_for_a_branch_that_is_at_work_does_not_wait() {
    let gates: [Arc<Gate>; 3] = std::array::from_fn(|_| Arc::default());
    let [tries, confirms, cancels] = &gates;
    let manager = hangs(
        "a",
        Hangs { confirms: Some(Arc::clone(confirms)), cancels: Some(Arc::clone(cancels)), ..Hangs::default() },
    );
    let (commits, cancelled) = (branch(1, "a"), branch(2, "a"));
    manager.execute(&commits, 1).unwrap();
    manager.execute(&cancelled, 1).unwrap();
    assert_eq!(manager.prepare(&commits, &call()).unwrap(), Vote::Yes);
    let is_busy = |answer: Result<(), ParticipantError>| assert!(matches!(answer, Err(ParticipantError::Busy)));
    thread::scope(|scope| {
        let _opens = [Opens(tries), Opens(confirms), Opens(cancels)];
        scope.spawn(|| manager.commit(&commits, &call()).unwrap());
        scope.spawn(|| manager.rollback(&cancelled, &call()).unwrap());
        eventually("both hang", SOON, || confirms.waiting() == 1 && cancels.waiting() == 1);
        let begun = Instant::now();
        for branch in [&commits, &cancelled] {
            is_busy(manager.prepare(branch, &call()).map(drop));
            is_busy(manager.commit(branch, &call()));
            is_busy(manager.rollback(branch, &call()));
            is_busy(manager.commit_one_phase(branch, &call()).map(drop));
        }
        assert_eq!(manager.status().settling, 2);
        assert_eq!(manager.in_doubt(&name("c")).unwrap(), [commits.clone(), cancelled.clone()]);
        manager.checkpoint().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
    assert!(manager.commit(&commits, &call()).is_ok() && manager.rollback(&cancelled, &call()).is_ok());
}

/// The rollback was answered `Busy`; the branch is rolled back all the same.
#[test]
fn a_rollback_during_a_try_is_carried_out_when_the_try_returns_and_nothing_is_promised() {
    for prepare_first in [false, true] {
        let gate = Arc::new(Gate::default());
        let manager = hangs("a", Hangs { tries: Some(Arc::clone(&gate)), ..Hangs::default() });
        let branch = branch(1, "a");
        thread::scope(|scope| {
            let _opens = Opens(&gate);
            let tries = scope.spawn(|| manager.execute(&branch, 1).is_err());
            eventually("it hangs", SOON, || gate.waiting() == 1);
            assert!(matches!(manager.rollback(&branch, &call()), Err(ParticipantError::Busy)));
            gate.open();
            if prepare_first {
                // Late: before the try has returned, or after.
                assert!(!matches!(manager.prepare(&branch, &call()), Ok(Vote::Yes | Vote::ReadOnly)));
            }
            assert!(tries.join().unwrap(), "the work is refused");
        });
        assert_eq!(*manager.service().reserved.lock(), []);
        assert!(manager.execute(&branch, 1).is_err());
        assert_ne!(crate::support::vote(manager.prepare(&branch, &call())), Vote::Yes);
        manager.rollback(&branch, &call()).unwrap();
    }
}

/// A bug: threads took due items before ready ones. When an item was always due, ready ones waited
/// for a minute.
#[test]
fn commits_of_others_are_delivered_while_many_rollbacks_are_repeated() {
    let healthy = Scripted::new();
    let bad = Scripted::failing(Verb::Rollback, ParticipantError::Unreachable);
    let builder = Coordinator::builder(MemoryLog::new()).participant("bad", bad);
    let coordinator = builder.participant("healthy", healthy.clone()).participant("other", Scripted::new());
    let coordinator = coordinator.open().unwrap();
    for _ in 0..2_000 {
        let mut txn = coordinator.begin();
        if txn.branch("bad").is_ok() {
            txn.rollback();
        }
    }
    for _ in 0..20 {
        let mut txn = coordinator.begin();
        txn.branch("healthy").unwrap();
        txn.branch("other").unwrap();
        let told = healthy.times_told(Verb::Commit);
        drop(txn.commit());
        let begun = Instant::now();
        eventually("it is delivered", SOON, || healthy.times_told(Verb::Commit) > told);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

fn quick() -> Policy {
    Policy::default().first_backoff(Duration::from_millis(2)).longest_backoff(Duration::from_millis(4))
}

/// A bug: one transaction that could not be rolled back at one participant held back `ended_below`
/// of all participants until it was parked, an hour later: no participant forgot anything.
#[test]
fn a_rollback_that_cannot_be_delivered_holds_back_ended_below_of_its_own_participant_only() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let bad = Scripted::failing(Verb::Rollback, ParticipantError::Unreachable);
    let builder = Coordinator::builder(log.clone()).name("c").policy(quick()).participant("bad", bad.clone());
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    let mut stuck = coordinator.begin();
    let id = stuck.id().clone();
    stuck.branch("bad").unwrap();
    a.execute(stuck.branch("a").unwrap(), 2).unwrap();
    stuck.rollback();
    eventually("it has failed more than once", SOON, || bad.times_told(Verb::Rollback) >= 3);
    for _ in 0..50 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    }
    assert_eq!(coordinator.status().parked, 0, "it is still tried");
    for healthy in [&a, &b] {
        healthy.checkpoint().unwrap();
        let live = log.live(healthy.name()).unwrap().len();
        assert!(live <= 4, "{} has acknowledged everything, and may forget it: {live}", healthy.name());
    }
    assert!(bad.last_call().ended_below <= id.ordinal(), "it must not forget what it has not done");
    bad.mend();
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
}

/// Found by simulation. A bug: the coordinator looked which participants owe when the decision was
/// kept back. Another one had not answered then, and its answer was the last event for as long as
/// the probes of the circuit took: until then the transaction held back `ended_below` of all.
#[test]
fn a_decision_that_is_kept_back_holds_back_ended_below_of_its_own_participant_only() {
    let (bad, good) = (Scripted::failing(Verb::Rollback, ParticipantError::Unreachable), Scripted::new());
    let gate = Arc::new(Gate::default());
    let _opens = Opens(&gate);
    // The first probe comes after a minute, and the transaction is the last to be one.
    let pause = Duration::from_secs(60);
    let policy = Policy::default().first_backoff(pause).longest_backoff(pause);
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("bad", bad.clone());
    let builder = builder.participant("good", good.clone());
    let builder = builder.slow_participant("slow", Gated(Arc::clone(&gate)), NonZeroUsize::new(2).unwrap());
    let coordinator = builder.open().unwrap();
    // Those that open the circuit come later, so that only this one can hold what is below it.
    let mut kept = coordinator.begin();
    let id = kept.id().clone();
    kept.branch("slow").unwrap();
    kept.branch("bad").unwrap();
    let failing = (0..8).map(|_| {
        let mut txn = coordinator.begin();
        txn.branch("bad").unwrap();
        txn
    });
    failing.collect::<Vec<_>>().into_iter().for_each(ringpact::Transaction::rollback);
    kept.rollback();
    eventually("one is told, the other is not", SOON, || gate.waiting() == 1);
    assert_eq!(bad.times_told(Verb::Rollback), 8);
    gate.open();
    eventually("it is forgotten by those that owe nothing", SOON, || {
        let mut txn = coordinator.begin();
        txn.branch("good").unwrap();
        txn.rollback();
        good.last_call().ended_below > id.ordinal()
    });
    assert_eq!(bad.times_told(Verb::Rollback), 8, "nothing else has happened meanwhile");
}

/// If a commit is owed, the log must first say to which participants. A bug: the next life told
/// participants that had forgotten.
#[test]
fn a_commit_that_cannot_be_delivered_holds_back_ended_below_of_those_that_owe_only_also_after_a_crash() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let open = |log: &MemoryLog| {
        let builder = Coordinator::builder(log.clone()).name("c").policy(quick());
        builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
    };
    let coordinator = open(&log);
    b.service().fail(Op::Confirm, [Fault::Fail; 1_000]);
    let work = |coordinator: &Coordinator, participants: &[&Manager]| {
        let mut txn = coordinator.begin();
        for participant in participants {
            participant.execute(txn.branch(participant.name().as_str()).unwrap(), 2).unwrap();
        }
        let id = txn.id().clone();
        txn.commit().wait().unwrap();
        id
    };
    let stuck = work(&coordinator, &[&a, &b]);
    let written = || {
        log.live(&name("c")).unwrap().into_iter().filter_map(|record| match record.fact {
            Fact::Decided { txn, participants } if txn == stuck => Some(participants),
            _ => None,
        })
    };
    eventually("the log says which participants owe", SOON, || {
        written().last().is_some_and(|owed| owed == [name("b")])
    });
    // Another record is forced, and the lazy one becomes durable with it.
    for _ in 0..20 {
        work(&coordinator, &[&a]);
    }
    a.checkpoint().unwrap();
    let log = log.crash();
    drop(coordinator);
    let coordinator = open(&log);
    let asked = b.service().asked(Op::Confirm).len();
    eventually("it is told again", SOON, || b.service().asked(Op::Confirm).len() > asked);
    work(&coordinator, &[&a]);
    assert_eq!(a.service().asked(Op::Confirm).len(), 22, "a participant that has acknowledged is not told again");
    b.service().faults.lock().clear();
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!((a.service().balance(), b.service().balance()), (44, 2));
    let live = log.live(&name("c")).unwrap();
    assert!(live.iter().all(|record| record.fact.epoch().is_some()), "its epochs, and nothing else: {live:?}");
}

/// A bug: while one participant had not said what it held of earlier epochs, no other participant
/// could forget anything.
#[test]
fn a_participant_that_is_down_at_the_opening_holds_back_no_others_ended_below() {
    struct Down;
    impl Participant for Down {
        fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Err(ParticipantError::Unreachable)
        }
        fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Err(ParticipantError::Unreachable)
        }
        fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Err(ParticipantError::Unreachable)
        }
        fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Err(ParticipantError::Unreachable)
        }
    }
    let log = MemoryLog::new();
    let (a, scripted) = (manager("a", log.clone()), Scripted::new());
    let builder = Coordinator::builder(log.clone()).participant("down", Down).participant("a", a.clone());
    let coordinator = builder.participant("b", scripted.clone()).open().unwrap();
    for _ in 0..50 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        txn.branch("b").unwrap();
        txn.commit().wait().unwrap();
    }
    assert_eq!(coordinator.status().unanswered, 1);
    assert!(scripted.last_call().ended_below.sequence > 20, "{:?}", scripted.last_call());
    a.checkpoint().unwrap();
    let live = log.live(a.name()).unwrap().len();
    assert!(live <= 4, "a has done everything, and may forget it: {live}");
}
