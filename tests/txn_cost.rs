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
    BranchId, Coordinator, MemoryLog, Name, Participant, ParticipantError, TransactionLog, Vote, participant::Call,
};

/// Promises, and does, nothing.
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
