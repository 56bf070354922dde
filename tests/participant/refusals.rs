//! A refusal that does not doom leaves the branch as it was before the call.

use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Barrier, mpsc},
    thread,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, MemoryLog, Participant, ParticipantError, ResourceManager, Service, ServiceError,
    TransactionLog, TxnOrdinal, Vote,
    participant::{BranchRefusal, Call, ExecuteError},
};

use crate::txn_support::{branch, call, vote};

/// Sells what it has. Other goods are elsewhere.
#[derive(Default)]
struct Shelf {
    set_aside: Mutex<BTreeMap<BranchId, u32>>,
    sold: Mutex<BTreeMap<BranchId, u32>>,
    /// Holds up the next try.
    hold: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Elsewhere,
    SoldOut,
    Unsure,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refusal {}

/// Pieces, or the refusal that the test wants.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
enum Wanted {
    Pieces(u32),
    Elsewhere,
    SoldOut,
    Unsure,
}

impl Service for Shelf {
    type Work = Wanted;
    type Refusal = Refusal;

    fn try_reserve(&self, branch: &BranchId, work: &Wanted) -> Result<(), Refusal> {
        let hold = self.hold.lock().take();
        if let Some((begins, ends)) = hold {
            begins.send(()).expect("the test waits for it");
            ends.recv().expect("the test lets it go on");
        }
        match work {
            Wanted::Pieces(pieces) => *self.set_aside.lock().entry(branch.clone()).or_default() += pieces,
            Wanted::Elsewhere => return Err(Refusal::Elsewhere),
            Wanted::SoldOut => return Err(Refusal::SoldOut),
            Wanted::Unsure => return Err(Refusal::Unsure),
        }
        Ok(())
    }
    fn dooms(&self, refusal: &Refusal) -> bool {
        assert_ne!(*refusal, Refusal::Unsure, "the test wants this to panic");
        *refusal != Refusal::Elsewhere
    }
    fn confirm(&self, branch: &BranchId, _: &[Wanted]) -> Result<(), ServiceError> {
        if let Some(pieces) = self.set_aside.lock().remove(branch) {
            self.sold.lock().insert(branch.clone(), pieces);
        }
        Ok(())
    }
    fn cancel(&self, branch: &BranchId, _: &[Wanted]) -> Result<(), ServiceError> {
        self.set_aside.lock().remove(branch);
        Ok(())
    }
}

fn shelf(name: &str, log: impl TransactionLog) -> Arc<ResourceManager<Shelf>> {
    Arc::new(ResourceManager::open(name, log, Shelf::default()).expect("the log opens"))
}

fn is_elsewhere(result: &Result<(), ExecuteError<Refusal>>) -> bool {
    matches!(result, Err(ExecuteError::Refused(Refusal::Elsewhere)))
}

/// Number of branches that are remembered, in any state.
fn remembered(shelf: &ResourceManager<Shelf>) -> usize {
    let status = shelf.status();
    status.active + status.prepared + status.settling + status.finished
}

#[test]
fn earlier_work_stays_and_is_promised() {
    let a = shelf("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, Wanted::Pieces(2)).unwrap();
    assert!(is_elsewhere(&a.execute(&branch, Wanted::Elsewhere)));
    a.execute(&branch, Wanted::Pieces(3)).unwrap();
    assert!(is_elsewhere(&a.execute(&branch, Wanted::Elsewhere)));
    assert_eq!(vote(a.prepare(&branch, &call())), Vote::Yes);
    a.commit(&branch, &call()).unwrap();
    assert_eq!(a.service().sold.lock().get(&branch), Some(&5));
}

#[test]
fn a_branch_without_work_leaves_no_trace_and_votes_no_if_it_is_asked() {
    let log = MemoryLog::new();
    let a = shelf("a", log.clone());
    let appended = log.stats().appended;
    for sequence in 1..=10_000 {
        assert!(is_elsewhere(&a.execute(&branch(sequence, "a"), Wanted::Elsewhere)));
        assert_eq!(remembered(&a), 0);
    }
    assert_eq!(log.stats().appended, appended);
    assert!(a.in_doubt(&crate::txn_support::name("c")).unwrap().is_empty());
    let Err(ParticipantError::Refused(reason)) = a.prepare(&branch(1, "a"), &call()) else { panic!("it has no work") };
    assert!(matches!(reason.downcast_ref(), Some(BranchRefusal::Unknown)), "{reason}");
}

#[test]
fn a_refusal_that_dooms_still_does() {
    let a = shelf("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, Wanted::Pieces(2)).unwrap();
    assert!(matches!(a.execute(&branch, Wanted::SoldOut), Err(ExecuteError::Refused(Refusal::SoldOut))));
    assert!(is_elsewhere(&a.execute(&branch, Wanted::Elsewhere)), "it is doomed, and stays so");
    assert_eq!(vote(a.prepare(&branch, &call())), Vote::No);
    assert!(a.service().set_aside.lock().is_empty());
}

#[test]
fn a_panic_over_the_question_dooms() {
    let a = shelf("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, Wanted::Pieces(2)).unwrap();
    catch_unwind(AssertUnwindSafe(|| drop(a.execute(&branch, Wanted::Unsure)))).expect_err("the client gets the panic");
    assert_eq!(vote(a.prepare(&branch, &call())), Vote::No);
    assert!(a.service().set_aside.lock().is_empty());
}

#[test]
fn refused_on_many_threads_at_once_it_leaves_no_trace() {
    const THREADS: usize = 4;
    let (a, barrier) = (shelf("a", MemoryLog::new()), Barrier::new(THREADS));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for sequence in 1..=500 {
                    barrier.wait();
                    assert!(is_elsewhere(&a.execute(&branch(sequence, "a"), Wanted::Elsewhere)));
                }
            });
        }
    });
    assert_eq!(remembered(&a), 0);
}

/// A rollback does not wait for the service. It is carried out when the try has been refused.
#[test]
fn a_rollback_that_comes_meanwhile_is_carried_out() {
    for pieces in [0, 2] {
        let a = shelf("a", MemoryLog::new());
        let branch = branch(1, "a");
        if pieces > 0 {
            a.execute(&branch, Wanted::Pieces(pieces)).unwrap();
        }
        let ((begins, begun), (end, ends)) = (mpsc::channel(), mpsc::channel());
        *a.service().hold.lock() = Some((begins, ends));
        thread::scope(|scope| {
            let refused = scope.spawn(|| a.execute(&branch, Wanted::Elsewhere));
            begun.recv().unwrap();
            assert!(matches!(a.rollback(&branch, &call()), Err(ParticipantError::Busy)));
            end.send(()).unwrap();
            assert!(is_elsewhere(&refused.join().unwrap()));
        });
        assert!(a.service().set_aside.lock().is_empty());
        assert!(matches!(a.execute(&branch, Wanted::Pieces(1)), Err(ExecuteError::Closed { .. })), "it is over");
        a.rollback(&branch, &call()).unwrap();
    }
}

/// Work of the same transaction may come once more, after another client has found out that it is
/// there after all; but not after its end.
#[test]
fn the_branch_takes_work_later_until_its_transaction_has_ended() {
    let a = shelf("a", MemoryLog::new());
    for sequence in 1..=2 {
        assert!(is_elsewhere(&a.execute(&branch(sequence, "a"), Wanted::Elsewhere)));
    }
    a.execute(&branch(1, "a"), Wanted::Pieces(2)).unwrap();
    assert_eq!(vote(a.prepare(&branch(1, "a"), &call())), Vote::Yes);
    let ended_below = TxnOrdinal { epoch: branch(3, "a").txn().epoch(), sequence: 3 };
    let mut later: Call = call();
    later.ended_below = ended_below;
    a.commit(&branch(1, "a"), &later).unwrap();
    assert!(matches!(a.execute(&branch(2, "a"), Wanted::Pieces(2)), Err(ExecuteError::Closed { .. })));
}

/// What all of it is for: the client does the work elsewhere, in the same transaction.
#[test]
fn the_transaction_goes_on_without_the_participant() {
    let log = MemoryLog::new();
    let (a, b) = (shelf("a", log.clone()), shelf("b", log.clone()));
    let builder = Coordinator::builder(log).participant("a", Arc::clone(&a)).participant("b", Arc::clone(&b));
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    assert!(is_elsewhere(&a.execute(txn.branch("a").unwrap(), Wanted::Elsewhere)));
    txn.withdraw("a").unwrap();
    b.execute(txn.branch("b").unwrap(), Wanted::Pieces(2)).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!((remembered(&a), b.service().sold.lock().values().sum::<u32>()), (0, 2));
}
