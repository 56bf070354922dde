//! The cost of a transaction: linear in its participants, and the same after many others as at
//! first.
//!
//! A binary of its own, because it measures time: other tests would take the processors from it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, Epoch, MemoryLog, Name, Participant, ParticipantError, Policy, TransactionLog, TxnId, Vote,
    log::{Durability, Heuristic, Lsn},
    participant::{Call, Inline},
    txn::{Action, CommitProtocol, CoordinatorBuilder, Input},
};

/// Votes Yes to everything, and does nothing.
struct Nothing;

impl Participant for Nothing {
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
}

fn shop(participants: usize) -> (Coordinator, Arc<MemoryLog>, Vec<String>) {
    let log = Arc::new(MemoryLog::new());
    let names: Vec<_> = (0..participants).map(|number| format!("participant-{number}")).collect();
    let builder = Coordinator::builder(Arc::clone(&log));
    let builder = names.iter().fold(builder, |builder, name| builder.participant(name, Nothing));
    (builder.open().expect("memory never fails"), log, names)
}

fn commit(coordinator: &Coordinator, names: &[String]) {
    let mut transaction = coordinator.begin();
    for name in names {
        transaction.branch(name).expect("it is a participant");
    }
    transaction.commit().wait().expect("all participants agree");
}

/// Held by the test that measures, because it wants the machine to itself.
static ALONE: Mutex<()> = Mutex::new(());

/// The quickest of many batches: the one that other work of the machine has disturbed least.
fn time_of_one(mut commit: impl FnMut()) -> Duration {
    const BATCHES: u32 = 60;
    const BATCH: u32 = 20;
    let mut batch = || {
        let begun = Instant::now();
        (0..BATCH).for_each(|_| commit());
        begun.elapsed() / BATCH
    };
    (0..BATCHES).map(|_| batch()).min().expect("there are batches")
}

#[test]
fn the_cost_grows_linearly_with_participants() {
    let _alone = ALONE.lock();
    let time = |participants| {
        let (coordinator, log, names) = shop(participants);
        let before = log.stats().appended;
        commit(&coordinator, &names);
        assert_eq!(log.stats().appended - before, 2, "the decision and its end, whatever the number of participants");
        time_of_one(|| commit(&coordinator, &names))
    };
    let (few, many) = (8, 64);
    let (of_few, of_many) = (time(few as usize) / few, time(many as usize) / many);
    // Quadratic cost would be eight times as much for each.
    assert!(of_many < of_few * 3, "{of_few:?} for each of {few} participants, {of_many:?} for each of {many}");
}

/// Asserts that one of 20,000 costs about what one of 2,000 costs. It would be ten times as much if
/// the cost of all of them were quadratic.
fn is_linear(what: &str, time: impl Fn(usize) -> Duration) {
    let _alone = ALONE.lock();
    let time_of_each = |count: u32, times| {
        let times = (0..times).map(|_| time(count as usize));
        times.min().expect("there are some") / count
    };
    let (of_few, of_many) = (time_of_each(2_000, 10), time_of_each(20_000, 3));
    println!("{what}: {of_few:?} for each of 2,000, {of_many:?} for each of 20,000");
    assert!(of_many < of_few * 5, "{what}: {of_few:?} for each of 2,000, {of_many:?} for each of 20,000");
}

fn of_one_transaction(
    participant: impl Fn(CoordinatorBuilder, &str) -> CoordinatorBuilder,
) -> impl Fn(usize) -> Duration {
    move |branches| {
        let names: Vec<_> = (0..branches).map(|number| format!("participant-{number}")).collect();
        let builder = Coordinator::builder(MemoryLog::new());
        let builder = names.iter().fold(builder, |builder, name| participant(builder, name));
        let coordinator = builder.open().expect("memory never fails");
        let begun = Instant::now();
        commit(&coordinator, &names);
        begun.elapsed()
    }
}

#[test]
fn a_branch_costs_the_same_in_a_large_transaction() {
    is_linear("called", of_one_transaction(|builder, name| builder.participant(name, Nothing)));
    is_linear("sent to", of_one_transaction(|builder, name| builder.endpoint(name, Inline::new(Nothing))));
}

/// Every branch of a transaction votes, fails to be told twice, and is told; every other one has
/// then ended by itself. The branches answer one by one, each before the protocol goes on with the
/// others.
fn troubles(branches: usize) -> Duration {
    let begun = Instant::now();
    let (name, mut now) = (|name: &str| Name::new(name).expect("a valid name"), begun);
    let mut protocol = CommitProtocol::new(TxnId::new(name("c"), Epoch::new(1), 1), Policy::default());
    (0..branches).for_each(|number| {
        protocol.enlist_early(name(&format!("participant-{number}")));
    });
    let mut lsn = 0;
    let mut polls = |protocol: &mut CommitProtocol, now| {
        let mut sent = Vec::new();
        while let Some(action) = protocol.poll(now) {
            match action {
                Action::Send(branch, _) => sent.push(branch),
                Action::Append(_, durability) => {
                    lsn += 1;
                    protocol.handle(now, Input::Appended(Lsn::new(lsn)));
                    if durability == Durability::Forced {
                        protocol.handle(now, Input::Durable(Lsn::new(lsn)));
                    }
                }
                _ => {}
            }
        }
        sent
    };
    protocol.handle(now, Input::Commit);
    let mut told = Vec::new();
    for branch in polls(&mut protocol, now).into_iter().rev() {
        protocol.handle(now, Input::Voted(branch, Vote::Yes));
        told.extend(polls(&mut protocol, now));
    }
    for _ in 0..2 {
        for branch in told {
            protocol.handle(now, Input::Failed(branch));
            assert!(polls(&mut protocol, now).is_empty(), "there is a pause first");
            assert!(protocol.deadline().is_some_and(|at| at > now));
        }
        now += Duration::from_secs(60);
        protocol.handle(now, Input::Tick);
        told = polls(&mut protocol, now);
    }
    assert_eq!(told.len(), branches);
    for branch in told {
        let by_itself = Input::Heuristic(branch, Heuristic::RolledBack);
        protocol.handle(now, if branch % 2 == 0 { Input::Done(branch) } else { by_itself });
        polls(&mut protocol, now);
        let _ = protocol.state();
    }
    assert_eq!(protocol.heuristic(), Some(Heuristic::Mixed));
    begun.elapsed()
}

#[test]
fn a_failing_branch_costs_the_same_in_a_large_transaction() {
    is_linear("in trouble", troubles);
}

#[test]
fn the_cost_does_not_grow_with_transactions_that_have_finished() {
    const FINISHED: usize = 50_000;
    let _alone = ALONE.lock();
    let (coordinator, _log, names) = shop(2);
    // One transaction stays open all the while; that must not change the cost either.
    let open = coordinator.begin();
    let first = time_of_one(|| commit(&coordinator, &names));
    (0..FINISHED).for_each(|_| commit(&coordinator, &names));
    let last = time_of_one(|| commit(&coordinator, &names));
    assert!(last < first * 2, "{first:?} at first, {last:?} after {FINISHED} others");
    assert_eq!(coordinator.status().transactions.len(), 1, "nothing is left of them");
    open.rollback();
}
