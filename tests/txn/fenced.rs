//! Another holder takes a coordinator's log over: the coordinator gives up by itself, sends nothing
//! more, and each client hears what is certain.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    CommitError, Coordinator, LogError, MemoryLog, Participant, ParticipantError, TransactionState,
    participant::{Endpoint, Reply, Request, Verb},
    txn::{
        BeginError, BranchError, CoordinatorError, DeliveryError, Limits, OperatorError, RollbackCause, RunError,
        RunOptions, WorkError,
    },
};

use crate::support::{
    Manager, Op, block_on, eventually,
    held::HeldLog,
    manager,
    scripted::Scripted,
    wire::{Fate, Sent, Wire},
};

const SOON: Duration = Duration::from_secs(10);
const HOLDER: &str = "standby:9000";

/// A coordinator on a log that can be held, and two participants with logs of their own.
struct House {
    log: HeldLog,
    coordinator: Coordinator,
    managers: [Manager; 2],
}

impl House {
    fn new() -> Self {
        let log = HeldLog::new();
        let managers = ["a", "b"].map(|name| manager(name, MemoryLog::new()));
        Self { coordinator: open(&log, &managers), log, managers }
    }

    /// Starts a commit at both participants, on a log that is held from then on.
    fn commit_held(&self) -> ringpact::Commit {
        let txn = self.works();
        self.log.hold();
        txn.commit()
    }

    fn works(&self) -> ringpact::Transaction {
        let mut txn = self.coordinator.begin();
        for manager in &self.managers {
            manager.execute(txn.branch(manager.name()).unwrap(), 2).unwrap();
        }
        txn
    }

    fn is_fenced(&self) -> bool {
        self.coordinator.status().fenced.is_some()
    }

    /// Opens the coordinator of the new holder on this log. Returns the balances once it has settled.
    fn settled_on(&self, taken: &HeldLog) -> [i64; 2] {
        let coordinator = open(taken, &self.managers);
        assert!(coordinator.settle(SOON), "{}", coordinator.status());
        self.managers.each_ref().map(|manager| {
            assert!(manager.service().reserved.lock().is_empty(), "nothing is left in doubt");
            manager.service().balance()
        })
    }

    /// Number of calls by which participants were told an end.
    fn told(&self) -> usize {
        let told = |manager: &Manager| {
            let service = manager.service();
            service.asked(Op::Confirm).len() + service.asked(Op::Cancel).len()
        };
        self.managers.iter().map(told).sum()
    }
}

fn open(log: &HeldLog, managers: &[Manager; 2]) -> Coordinator {
    let builder = Coordinator::builder(log.clone()).name("shop");
    let [a, b] = managers;
    builder.participant("a", Arc::clone(a)).participant("b", Arc::clone(b)).open().expect("the log is held here")
}

#[track_caller]
fn assert_fenced(result: Result<(), CommitError>) {
    let error = result.expect_err("no decision was durable");
    let CommitError::RolledBack { cause: RollbackCause::Fenced { holder }, .. } = &error else { panic!("{error}") };
    assert_eq!(holder.as_deref(), Some(HOLDER));
    assert!(error.to_string().contains(HOLDER) && error.to_string().contains("try again"), "{error}");
}

/// The decision was on its way when the log was taken over. The client hears what the new holder finds.
#[test]
fn a_client_that_waits_hears_whether_the_decision_was_durable() {
    for is_durable in [true, false] {
        for awaited in [true, false] {
            let house = House::new();
            let commit = house.commit_held();
            let delivered = commit.delivered();
            assert_eq!(house.log.pending(), 1, "the decision");
            let (tell, told) = mpsc::channel();
            let waiting = thread::spawn(move || tell.send(if awaited { block_on(commit) } else { commit.wait() }));
            assert!(told.recv_timeout(Duration::from_millis(20)).is_err(), "nothing is certain yet");

            let taken = house.log.take_over(HOLDER, usize::from(is_durable));
            let answer = told.recv_timeout(SOON).expect("the client hears of it");
            waiting.join().unwrap().unwrap();
            match is_durable {
                true => answer.expect("the decision is in the log"),
                false => assert_fenced(answer),
            }
            match delivered.wait() {
                Err(DeliveryError::Fenced { holder, .. }) if is_durable => {
                    assert_eq!(holder.as_deref(), Some(HOLDER), "the new holder delivers it");
                }
                Err(DeliveryError::NotCommitted(error)) if !is_durable => assert_fenced(Err(error)),
                other => panic!("{other:?}"),
            }
            assert_eq!(house.told(), 0, "no participant was told anything by the old coordinator");
            assert_eq!(house.settled_on(&taken), [if is_durable { 2 } else { 0 }; 2]);
        }
    }
}

#[test]
fn of_many_clients_each_hears_the_truth() {
    const CLIENTS: usize = 12;
    for durable in [0, 5, CLIENTS] {
        let house = House::new();
        let works: Vec<_> = (0..CLIENTS).map(|_| house.works()).collect();
        house.log.hold();
        let answers: Vec<_> = thread::scope(|scope| {
            let waits = works.into_iter().enumerate().map(|(client, txn)| {
                let commit = txn.commit();
                scope.spawn(move || if client % 2 == 0 { commit.wait() } else { block_on(commit) })
            });
            let waits: Vec<_> = waits.collect();
            assert_eq!(house.log.pending(), CLIENTS);
            let taken = house.log.take_over(HOLDER, durable);
            let answers = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
            let settled = i64::try_from(2 * durable).unwrap();
            assert_eq!(house.settled_on(&taken), [settled; 2]);
            answers
        });
        for (client, answer) in answers.into_iter().enumerate() {
            match client < durable {
                true => answer.expect("its decision is in the log"),
                false => assert_fenced(answer),
            }
        }
    }
}

#[test]
fn an_idle_coordinator_learns_of_it_and_begins_nothing_more() {
    let house = House::new();
    let open = house.works();
    let _taken = house.log.take_over(HOLDER, 0);
    eventually("the log's word reaches it", SOON, || house.is_fenced());

    let coordinator = &house.coordinator;
    assert!(matches!(coordinator.try_begin(), Err(BeginError::Fenced)));
    let mut late = coordinator.begin();
    let error = late.branch("a").unwrap_err();
    assert!(matches!(&error, BranchError::Fenced { holder, .. } if holder.as_deref() == Some(HOLDER)), "{error}");
    assert_fenced(late.commit().wait());
    assert_fenced(block_on(async { coordinator.begin_async().await.commit().await }));
    let added = coordinator.add_participant("c", manager("c", MemoryLog::new()));
    assert!(matches!(added, Err(CoordinatorError::Log(LogError::Fenced { .. }))), "{added:?}");

    // The transaction under which a client was at work.
    let mut open = open;
    assert!(matches!(open.withdraw("a"), Err(BranchError::Fenced { .. })));
    let unknown = coordinator.retry(open.id());
    assert!(matches!(unknown, Err(OperatorError::Unknown { .. })), "it is the new holder's: {unknown:?}");
    drop(open);
    assert_eq!(house.told(), 0, "not even a rollback was sent");

    let begun = Instant::now();
    assert!(!coordinator.settle(SOON) && !block_on(coordinator.settle_async(SOON)), "it can't know");
    let status = coordinator.shutdown(SOON);
    assert!(begun.elapsed() < SOON, "none of these waits");
    assert_eq!((status.in_doubt(), status.in_flight, status.transactions.len()), (0, 0, 0), "{status}");
    assert!(status.to_string().starts_with("fenced: the log was taken over by standby:9000"), "{status}");
}

/// A log without a waker for it: the coordinator asks once a second.
#[test]
fn a_log_that_wakes_no_task_is_asked() {
    let house = House::new();
    house.log.be_deaf();
    let _taken = house.log.take_over(HOLDER, 0);
    thread::sleep(Duration::from_millis(50));
    assert!(!house.is_fenced(), "it cannot know yet");
    house.log.hear();
    eventually("the sweep asks", SOON, || house.is_fenced());
}

/// The decision is durable, and one participant has not acknowledged it.
#[test]
fn a_delivery_under_way_stops_and_the_new_holder_goes_on() {
    let log = HeldLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Commit) => Fate::LoseRequest,
        _ => Fate::Deliver,
    });
    let policy =
        ringpact::Policy::default().first_backoff(Duration::from_millis(1)).longest_backoff(Duration::from_millis(5));
    let builder = Coordinator::builder(log.clone()).name("shop").policy(policy);
    let coordinator = builder.participant("a", a.clone()).endpoint("b", wire.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.wait().unwrap();
    eventually("it is sent again and again", SOON, || wire.times_sent(Sent::Branch(Verb::Commit)) > 3);

    let taken = log.take_over(HOLDER, 0);
    let error = delivered.wait().expect_err("b has not acknowledged");
    assert!(matches!(&error, DeliveryError::Fenced { .. }), "{error}");
    let sent = wire.sent();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(wire.sent().len(), sent.len(), "nothing more is sent");
    assert_eq!(coordinator.status().transactions.len(), 0);

    let managers = [a, b];
    let next = open(&taken, &managers);
    assert!(next.settle(SOON));
    assert_eq!(managers.map(|manager| manager.service().balance()), [2, 2]);
}

/// Nothing is decided while a vote is missing, and no message follows the vote.
#[test]
fn a_client_that_waits_for_a_vote_is_told_rolled_back() {
    for awaited in [true, false] {
        let log = HeldLog::new();
        let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
        let wire = Wire::new(b.clone(), |sent| match sent {
            Sent::Branch(Verb::Prepare) => Fate::HoldReply,
            _ => Fate::Deliver,
        });
        let builder = Coordinator::builder(log.clone()).name("shop");
        let coordinator = builder.participant("a", a.clone()).endpoint("b", wire.clone()).open().unwrap();
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        let branch = txn.branch("b").unwrap().clone();
        let commit = txn.commit();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(if awaited { block_on(commit) } else { commit.wait() }));
        eventually("b has promised", SOON, || wire.held() == 1);

        let taken = log.take_over(HOLDER, 0);
        assert_fenced(told.recv_timeout(SOON).expect("the client hears of it"));
        wire.release();
        let (answer, heard) = mpsc::channel();
        let reply = Reply::new(move |verdict| answer.send(verdict).unwrap());
        coordinator.verdict_endpoint().send(Request::Verdict { branch }, reply);
        let verdict = heard.recv_timeout(SOON).unwrap();
        assert!(matches!(verdict, Err(ParticipantError::Unreachable)), "only the new holder knows: {verdict:?}");
        thread::sleep(Duration::from_millis(20));
        let ends = [Verb::Commit, Verb::Rollback].map(|verb| wire.times_sent(Sent::Branch(verb)));
        assert_eq!(ends, [0, 0], "the late vote is followed by nothing");
        let managers = [a, b];
        assert!(open(&taken, &managers).settle(SOON));
        assert_eq!(managers.map(|manager| manager.service().balance()), [0, 0]);
    }
}

/// The only participant was asked to decide, and has not answered: no log knows.
#[test]
fn what_no_log_knows_is_indeterminate() {
    let log = HeldLog::new();
    let a = manager("a", MemoryLog::new());
    let wire = Wire::new(a.clone(), |sent| match sent {
        Sent::Branch(Verb::CommitOnePhase) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let coordinator = Coordinator::builder(log.clone()).endpoint("a", wire.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    let commit = txn.commit();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(commit.wait()));
    eventually("a has decided", SOON, || wire.held() == 1);
    let _taken = log.take_over(HOLDER, 0);
    let error = told.recv_timeout(SOON).expect("the client hears of it").unwrap_err();
    let CommitError::Indeterminate { error: Some(LogError::Fenced { holder }), .. } = &error else { panic!("{error}") };
    assert_eq!(holder.as_deref(), Some(HOLDER));
    assert!(error.to_string().contains("new holder"), "{error}");
}

/// A last resource has committed, and the decision behind it is not in the log. Only the new holder,
/// which asks it if it remembers, can say how the others end.
#[test]
fn behind_a_last_resource_a_lost_decision_is_indeterminate() {
    for is_durable in [true, false] {
        let log = HeldLog::new();
        let (a, last) = (manager("a", MemoryLog::new()), Scripted::new());
        let builder = Coordinator::builder(log.clone()).participant("a", a.clone());
        let coordinator = builder.last_resource("last", last.clone()).open().unwrap();
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        txn.branch("last").unwrap();
        log.hold();
        let commit = txn.commit();
        assert_eq!(last.told(), [Verb::CommitOnePhase]);
        let _taken = log.take_over(HOLDER, usize::from(is_durable));
        match commit.wait() {
            Ok(()) => assert!(is_durable),
            Err(error) => {
                assert!(!is_durable, "{error}");
                assert!(matches!(error, CommitError::Indeterminate { error: Some(LogError::Fenced { .. }), .. }));
            }
        }
        assert_eq!((a.status().prepared, last.told().len()), (1, 1), "neither is told anything more");
    }
}

/// Neither a task that waits for a slot nor one in a pause between attempts is left behind without a
/// clock.
#[test]
fn tasks_that_wait_for_the_coordinators_clock_are_woken() {
    let log = HeldLog::new();
    let builder = Coordinator::builder(log.clone()).limits(Limits::default().in_flight(2));
    let coordinator = Arc::new(builder.participant("a", manager("a", MemoryLog::new())).open().unwrap());
    let mut held = coordinator.begin();
    held.branch("a").unwrap();
    let pauses = RunOptions::default()
        .first_backoff(Duration::from_secs(600))
        .longest_backoff(Duration::from_secs(600))
        .time(Duration::from_secs(6_000));
    let (tell, told) = mpsc::channel();
    let (attempts, attempted) = mpsc::channel();
    let spawn = |work: Box<dyn FnOnce(&Coordinator) + Send>| {
        let (coordinator, tell) = (Arc::clone(&coordinator), tell.clone());
        thread::spawn(move || {
            work(&coordinator);
            tell.send(()).unwrap();
        });
    };
    spawn(Box::new(move |coordinator| {
        let run = coordinator.run_with(pauses, async |_| {
            attempts.send(()).unwrap();
            Err::<(), WorkError>(ParticipantError::Unreachable.into())
        });
        let error = block_on(run).unwrap_err();
        assert!(matches!(error, RunError::GaveUp { attempts: 1, .. }), "{error}");
    }));
    attempted.recv_timeout(SOON).unwrap();
    eventually("the first attempt is rolled back", SOON, || coordinator.status().in_flight == 1);
    let mut second = coordinator.begin();
    second.branch("a").unwrap();
    spawn(Box::new(|coordinator| assert_fenced(coordinator.begin().commit().wait())));
    spawn(Box::new(|coordinator| assert_fenced(block_on(async { coordinator.begin_async().await.commit().await }))));
    thread::sleep(Duration::from_millis(30));
    let _taken = log.take_over(HOLDER, 0);
    for _ in 0..3 {
        told.recv_timeout(SOON).expect("all of them are woken");
    }
    drop((held, second));
}

/// Its threads are gone, and what they would have driven is gone with it.
#[test]
fn nothing_is_kept_in_memory_for_what_the_new_holder_settles() {
    let log = HeldLog::new();
    let a: Manager = manager("a", MemoryLog::new());
    let b: Manager = manager("b", MemoryLog::new());
    let wire = Wire::new(b.clone(), |_| Fate::LoseRequest);
    let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    for _ in 0..5 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        txn.branch("b").unwrap();
        drop(txn.commit());
    }
    let _taken = log.take_over(HOLDER, 0);
    eventually("it learns of it", SOON, || coordinator.status().fenced.is_some());
    let weak = Arc::downgrade(&a);
    drop((coordinator, wire, b, a));
    eventually("nothing holds the participant", SOON, || weak.upgrade().is_none());
}

/// A process that was paused is told nothing; its first write tells it.
#[test]
fn a_paused_coordinator_that_wakes_commits_nothing() {
    let house = House::new();
    house.log.be_deaf();
    let before = house.works();
    before.commit().wait().unwrap();
    let open_since_then = house.works();
    let taken = house.log.take_over(HOLDER, 0);
    // It wakes before the new holder has met the participants: they still promise.
    assert_fenced(open_since_then.commit().wait());
    eventually("the write has told it", SOON, || house.is_fenced());
    assert_eq!(house.managers.each_ref().map(|manager| manager.status().prepared), [1, 1], "the new holder ends them");
    assert_eq!(house.settled_on(&taken), [2, 2]);
}

/// The same, once the participants have met the new holder.
#[test]
fn participants_that_have_met_the_new_holder_refuse_the_old_one() {
    let house = House::new();
    house.log.be_deaf();
    let open_since_then = house.works();
    let taken = house.log.take_over(HOLDER, 0);
    let next = open(&taken, &house.managers);
    assert!(next.settle(SOON), "it rolls back what the old one has begun");
    let error = open_since_then.commit().wait().unwrap_err();
    let CommitError::RolledBack { cause: RollbackCause::Failed { error, .. }, .. } = &error else { panic!("{error}") };
    assert!(matches!(error, ParticipantError::Superseded(_)), "{error}");
    let mut txn = next.begin();
    house.managers[0].execute(txn.branch("a").unwrap(), 4).unwrap();
    house.managers[1].execute(txn.branch("b").unwrap(), 4).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!(house.managers.each_ref().map(|manager| manager.service().balance()), [4, 4]);
    assert!(next.status().transactions.iter().all(|txn| txn.state == TransactionState::Ended));
}

/// A log that was lost before: nothing begins.
#[test]
fn a_coordinator_does_not_open_on_a_lost_log() {
    let log = HeldLog::new();
    let taken = log.take_over(HOLDER, 0);
    let opened = Coordinator::builder(log).open();
    assert!(matches!(opened, Err(CoordinatorError::Log(LogError::Fenced { .. }))), "{opened:?}");
    Coordinator::builder(taken).open().unwrap();
}

/// The participant that takes the log over while the coordinator introduces itself.
#[test]
fn a_log_that_is_lost_while_the_coordinator_opens_is_an_error() {
    let log = HeldLog::new();
    let lost = log.clone();
    let wire = Wire::new(Arc::new(Scripted::new()) as Arc<dyn Participant>, move |_| {
        drop(lost.take_over(HOLDER, 0));
        Fate::Deliver
    });
    let opened = Coordinator::builder(log).endpoint("a", wire).open();
    assert!(matches!(opened, Err(CoordinatorError::Log(LogError::Fenced { .. }))), "{opened:?}");
}
