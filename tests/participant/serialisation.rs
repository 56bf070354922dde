//! Work that panics while it is serialised, deserialised or looked at: the panic stays with its
//! branch, and no half of a branch's work can be committed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, MemoryLog, Participant, ResourceManager, Service, ServiceError, Vote, error_chain,
    participant::{BranchTrouble, Effort},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::txn_support::{Refused, branch, call, name, vote};

const SOUND: u8 = 0;
const PANICS_IN_EFFORT: u8 = 1;
const PANICS_WHEN_MEASURED: u8 = 2;
const PANICS_WHEN_WRITTEN: u8 = 3;
const PANICS_WHEN_READ: u8 = 4;

struct Bad {
    what: u8,
    /// Number of times that it was serialised: once to be measured, then to be written.
    serialised: AtomicUsize,
}

const fn work(what: u8) -> Bad {
    Bad { what, serialised: AtomicUsize::new(0) }
}

impl Serialize for Bad {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let times = self.serialised.fetch_add(1, Ordering::Relaxed);
        assert_ne!((self.what, times), (PANICS_WHEN_MEASURED, 0), "the test wants a panic");
        assert_ne!((self.what, times), (PANICS_WHEN_WRITTEN, 1), "the test wants a panic");
        self.what.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bad {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let what = u8::deserialize(deserializer)?;
        assert_ne!(what, PANICS_WHEN_READ, "the test wants a panic");
        Ok(work(what))
    }
}

#[derive(Default)]
struct Counting {
    tried: AtomicUsize,
    confirmed: AtomicUsize,
    cancelled: Mutex<Vec<(BranchId, usize)>>,
}

impl Service for Counting {
    type Work = Bad;
    type Refusal = Refused;

    fn effort(&self, work: &Bad) -> Effort {
        assert_ne!(work.what, PANICS_IN_EFFORT, "the test wants a panic");
        Effort::Update
    }

    fn try_reserve(&self, _: &BranchId, _: &Bad) -> Result<(), Refused> {
        self.tried.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn confirm(&self, _: &BranchId, works: &[Bad]) -> Result<(), ServiceError> {
        self.confirmed.fetch_add(works.len(), Ordering::Relaxed);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, works: &[Bad]) -> Result<(), ServiceError> {
        self.cancelled.lock().push((branch.clone(), works.len()));
        Ok(())
    }
}

/// A client that caught the panic could commit the first half of its work.
#[test]
fn a_panic_before_the_try_dooms_the_branch() {
    let a = ResourceManager::open("a", MemoryLog::new(), Counting::default()).unwrap();
    for (n, what) in [(1, PANICS_IN_EFFORT), (2, PANICS_WHEN_MEASURED)] {
        let branch = branch(n, "a");
        a.execute(&branch, work(SOUND)).unwrap();
        catch_unwind(AssertUnwindSafe(|| drop(a.execute(&branch, work(what))))).expect_err("the client gets the panic");
        let answer = a.prepare(&branch, &call());
        assert!(error_chain(answer.as_ref().unwrap_err()).contains("panicked"), "{answer:?}");
        assert_eq!(vote(answer), Vote::No);
        assert_eq!(a.service().cancelled.lock().last(), Some(&(branch, 1)), "what came before it is cancelled");
    }
    // Also if nothing came before it.
    catch_unwind(AssertUnwindSafe(|| drop(a.execute(&branch(3, "a"), work(PANICS_IN_EFFORT))))).unwrap_err();
    assert_eq!(vote(a.prepare(&branch(3, "a"), &call())), Vote::No);
    assert_eq!((a.service().tried.load(Ordering::Relaxed), a.service().confirmed.load(Ordering::Relaxed)), (2, 0));
}

/// The branch stayed as if its record were still being written, and a one-phase commit was answered
/// `Stale` from then on.
#[test]
fn a_panic_while_the_promise_is_written_is_a_no() {
    let a = ResourceManager::open("a", MemoryLog::new(), Counting::default()).unwrap();
    for (n, one_phase) in [(1, false), (2, true)] {
        let branch = branch(n, "a");
        a.execute(&branch, work(PANICS_WHEN_WRITTEN)).unwrap();
        let refused = catch_unwind(AssertUnwindSafe(|| {
            if one_phase {
                a.commit_one_phase(&branch, &call()).map(drop).unwrap_err()
            } else {
                a.prepare(&branch, &call()).map(drop).unwrap_err()
            }
        }))
        .expect("the coordinator's thread gets an answer");
        assert!(matches!(refused, ringpact::ParticipantError::Refused(_)), "{refused:?}");
        assert_eq!(a.service().cancelled.lock().last(), Some(&(branch, 1)));
    }
    assert_eq!((a.status().settling, a.status().finished), (0, 2));
}

/// One such piece took the whole opening down, and every other branch with it.
#[test]
fn work_that_panics_when_it_is_read_keeps_no_other_branch_from_opening() {
    let log = MemoryLog::new();
    let a = ResourceManager::open("a", log.clone(), Counting::default()).unwrap();
    let (bad, committed, sound) = (branch(1, "a"), branch(2, "a"), branch(3, "a"));
    for (branch, what) in [(&bad, PANICS_WHEN_READ), (&committed, PANICS_WHEN_READ), (&sound, SOUND)] {
        a.execute(branch, work(what)).unwrap();
        assert_eq!(a.prepare(branch, &call()).unwrap(), Vote::Yes);
    }
    a.commit(&committed, &call()).unwrap();
    drop(a);
    let a = ResourceManager::open("a", log.crash(), Counting::default()).unwrap();
    let troubled = a.status().troubled;
    assert_eq!(troubled.len(), 2, "{troubled:?}");
    for (trouble, of) in troubled.iter().zip([&bad, &committed]) {
        assert!(matches!(trouble, BranchTrouble::Unreadable { branch, .. } if branch == of), "{trouble}");
        assert!(error_chain(trouble).contains("panicked"), "{}", error_chain(trouble));
    }
    assert_eq!(a.in_doubt(&name("c")).unwrap(), [bad, committed, sound.clone()]);
    a.commit(&sound, &call()).unwrap();
    assert_eq!(a.service().confirmed.load(Ordering::Relaxed), 1);
}
