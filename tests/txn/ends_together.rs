//! When many transactions are open, several ends are appended to the log at once. Until then no
//! participant may forget, because a crash would bring the decision back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::eventually;
use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, MemoryLog, Name, Participant, ParticipantError, Transaction, TransactionLog, Vote,
    id::TxnOrdinal, participant::Call,
};

/// Agrees to everything, and notes what it is told.
#[derive(Default)]
struct Noting {
    commits: AtomicUsize,
    ended_below: Mutex<TxnOrdinal>,
}

impl Noting {
    fn note(&self, call: &Call) {
        let mut known = self.ended_below.lock();
        *known = known.max(call.ended_below);
    }
}

impl Participant for Noting {
    fn prepare(&self, _branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.note(call);
        Ok(Vote::Yes)
    }

    fn commit(&self, _branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.note(call);
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn rollback(&self, _branch: &BranchId, _call: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }

    fn in_doubt(&self, _coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

const OPEN: usize = 40;

fn open(log: &MemoryLog, noting: &Arc<Noting>) -> Coordinator {
    let builder = Coordinator::builder(log.clone()).name("shop");
    builder.participant("goods", noting.clone()).participant("orders", noting.clone()).open().unwrap()
}

fn begin(coordinator: &Coordinator) -> Transaction {
    let mut transaction = coordinator.begin();
    transaction.branch("goods").unwrap();
    transaction.branch("orders").unwrap();
    transaction
}

/// Decisions that the log holds and that have not ended.
fn decisions(log: &MemoryLog) -> usize {
    log.live(&Name::new("shop").unwrap()).unwrap().iter().filter(|record| record.fact.txn().is_some()).count()
}

#[test]
fn ends_are_written_together_and_none_is_left_over() {
    let (log, noting) = (MemoryLog::new(), Arc::default());
    let coordinator = open(&log, &noting);
    let mut transactions: Vec<_> = (0..OPEN).map(|_| begin(&coordinator)).collect();
    let mut most = 0;
    while let Some(transaction) = transactions.pop() {
        transaction.commit().wait().unwrap();
        // The thread that answers the client writes the ends afterwards.
        eventually("few ends are unwritten", Duration::from_secs(10), || decisions(&log) <= transactions.len() / 2);
        let unwritten = decisions(&log);
        most = most.max(unwritten);
    }
    assert!(most > 1, "they are written one by one");
    assert_eq!(decisions(&log), 0, "where no other is open the end is written at once");
}

#[test]
fn settle_writes_them_and_so_does_the_sweep() {
    let (log, noting) = (MemoryLog::new(), Arc::default());
    let coordinator = open(&log, &noting);
    let mut transactions: Vec<_> = (0..OPEN).map(|_| begin(&coordinator)).collect();
    transactions.pop().unwrap().commit().wait().unwrap();
    assert!(coordinator.settle(Duration::from_secs(10)));
    assert_eq!(decisions(&log), 0);
    transactions.pop().unwrap().commit().wait().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while decisions(&log) > 0 {
        assert!(Instant::now() < until, "no thread writes it");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_decision_that_a_crash_would_bring_back_has_not_ended_yet() {
    let (log, noting) = (MemoryLog::new(), Arc::<Noting>::default());
    let coordinator = open(&log, &noting);
    let mut transactions: Vec<_> = (0..OPEN).map(|_| begin(&coordinator)).collect();
    let others = transactions.split_off(2);
    for transaction in transactions {
        transaction.commit().wait().unwrap();
    }
    begin(&coordinator).commit().wait().unwrap(); // its calls carry `ended_below`
    assert_eq!(noting.commits.load(Ordering::Relaxed), 6);
    let log = log.crash();
    drop((coordinator, others));
    // All three as a rule; fewer if the sweep has run in between.
    let left = log.live(&Name::new("shop").unwrap()).unwrap();
    let ordinals: Vec<_> = left.iter().filter_map(|record| Some(record.fact.txn()?.ordinal())).collect();
    assert!(ordinals.iter().all(|ordinal| *noting.ended_below.lock() <= *ordinal));
    let coordinator = open(&log, &noting);
    assert_eq!(coordinator.recovered().committed, ordinals.len());
    assert_eq!(noting.commits.load(Ordering::Relaxed), 6 + 2 * ordinals.len(), "they are told again");
    assert_eq!(decisions(&log), 0);
}
