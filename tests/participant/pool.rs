//! Slow participants get threads of their own: bounded, started when needed, and never lost.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Name, Participant, ParticipantError, Vote,
    participant::{Call, Endpoint, MAX_QUEUED_REQUESTS, Pooled, Reply, Request, Response, Verb},
};

use crate::txn_support::{self, branch, call, name};

/// Counts the calls that are under way at once.
#[derive(Default)]
struct Crowd {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Participant for Crowd {
    fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(5));
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(Vote::Yes)
    }
    fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        panic!("the test wants commit to panic")
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

fn pool(threads: usize) -> (Arc<Crowd>, Pooled) {
    let crowd = Arc::new(Crowd::default());
    (Arc::clone(&crowd), Pooled::new(crowd, NonZeroUsize::new(threads).unwrap()))
}

fn request(verb: Verb) -> Request {
    request_about(1, verb)
}

fn request_about(sequence: u64, verb: Verb) -> Request {
    Request::Branch { branch: branch(sequence, "a"), verb, call: call() }
}

fn answer(pool: &Pooled, request: Request) -> mpsc::Receiver<Result<Response, ParticipantError>> {
    let (tell, told) = mpsc::channel();
    pool.send(request, Reply::new(move |result| tell.send(result).expect("the test waits for it")));
    told
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn as_many_calls_as_allowed_are_under_way_at_once_and_no_more() {
    let (crowd, pool) = pool(3);
    let answers: Vec<_> = (0..30).map(|number| answer(&pool, request_about(number, Verb::Prepare))).collect();
    for told in answers {
        assert!(matches!(told.recv_timeout(SOON), Ok(Ok(Response::Voted(Vote::Yes)))));
    }
    assert_eq!(crowd.most.load(Ordering::SeqCst), 3);
}

/// The coordinator that wanted the vote has rolled back by then. The participant would make a
/// durable promise, only to break it.
#[test]
fn a_prepare_that_has_waited_beyond_its_deadline_is_not_carried_out() {
    let (crowd, pool) = pool(1);
    let with = |verb, deadline| {
        let mut call = call();
        call.deadline = Some(deadline);
        answer(&pool, Request::Branch { branch: branch(1, "a"), verb, call }).recv_timeout(SOON).unwrap()
    };
    let (past, to_come) = (Instant::now(), Instant::now() + SOON);
    assert!(matches!(with(Verb::Prepare, past), Err(ParticipantError::Unreachable)));
    assert_eq!(crowd.most.load(Ordering::SeqCst), 0, "the participant was not asked");
    assert!(with(Verb::Rollback, past).is_ok(), "a rollback is carried out, late or not");
    assert!(with(Verb::Prepare, to_come).is_ok());
}

/// No coordinator would be there to end the promise, until it has come back and asked what is in
/// doubt.
#[test]
fn a_prepare_whose_connection_is_gone_is_not_carried_out() {
    let (crowd, pool) = pool(1);
    let send = |number, verb, connected: bool| {
        let (tell, told) = mpsc::channel();
        let then = move |result| tell.send(result).expect("the test waits for it");
        pool.send(request_about(number, verb), Reply::new_while(move || connected, then));
        told.recv_timeout(SOON).unwrap()
    };
    assert!(matches!(send(1, Verb::Prepare, false), Err(ParticipantError::Unreachable)));
    assert_eq!(crowd.most.load(Ordering::SeqCst), 0, "it was not carried out");
    assert!(send(1, Verb::Rollback, false).is_ok(), "what must be done is done");
    assert!(send(2, Verb::Prepare, true).is_ok());
}

#[test]
fn a_panic_is_an_answer_and_its_thread_serves_on() {
    let (_, pool) = pool(1);
    for _ in 0..3 {
        let told = answer(&pool, request(Verb::Commit)).recv_timeout(SOON);
        assert!(matches!(told, Ok(Err(ParticipantError::Panicked))), "{told:?}");
    }
    assert!(answer(&pool, request(Verb::Rollback)).recv_timeout(SOON).unwrap().is_ok());
}

/// Found in review: the thread ended but was still counted, so nothing was ever answered again.
#[test]
fn a_reply_that_panics_costs_no_thread() {
    let (_, pool) = pool(1);
    pool.send(request(Verb::Rollback), Reply::new(|_| panic!("the test wants the reply to panic")));
    let next = answer(&pool, Request::InDoubt { coordinator: name("c"), life: None }).recv_timeout(SOON);
    assert!(matches!(next, Ok(Ok(Response::InDoubt(_)))), "{next:?}");
}

/// A coordinator repeats its request to a participant that hangs, and each time one more request
/// waits for its thread.
#[test]
fn requests_to_a_participant_that_hangs_are_bounded() {
    struct Hangs(Mutex<mpsc::Receiver<()>>);
    impl Participant for Hangs {
        fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Ok(Vote::No)
        }
        fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            let _released = self.0.lock().recv();
            Ok(())
        }
        fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
    }
    let (release, released) = mpsc::channel();
    let pool = Pooled::new(Hangs(Mutex::new(released)), NonZeroUsize::MIN);
    let (tell, told) = mpsc::channel();
    // One of them is under way, or is still the first that waits.
    for _ in 0..MAX_QUEUED_REQUESTS + 2 {
        let tell = tell.clone();
        pool.send(request(Verb::Rollback), Reply::new(move |result| drop(tell.send(result))));
    }
    let refused: Vec<_> = told.try_iter().collect();
    assert!(matches!(&refused[..], [Err(ParticipantError::Unreachable)] | [Err(_), Err(_)]), "{}", refused.len());
    drop(release);
    for _ in refused.len()..MAX_QUEUED_REQUESTS + 2 {
        told.recv_timeout(SOON).expect("those that wait are not forgotten").unwrap();
    }
    assert!(answer(&pool, request(Verb::Rollback)).recv_timeout(SOON).unwrap().is_ok());
}

#[test]
fn a_pool_that_is_dropped_answers_what_is_under_way_and_fails_the_rest() {
    let (crowd, pool) = pool(1);
    let answers: Vec<_> = (0..5).map(|number| answer(&pool, request_about(number, Verb::Prepare))).collect();
    assert!(answers[0].recv_timeout(SOON).unwrap().is_ok());
    drop(pool);
    let rest: Vec<_> = answers[1..].iter().map(|told| told.recv_timeout(SOON).expect("an answer")).collect();
    assert!(matches!(rest.last(), Some(Err(ParticipantError::Unreachable))), "{rest:?}");
    txn_support::eventually("its thread has dropped the participant", SOON, || Arc::strong_count(&crowd) == 1);
}

/// Notes its calls. The first one waits for the test.
#[derive(Default)]
struct Counts {
    calls: Mutex<Vec<(Verb, BranchId)>>,
    held: Option<Mutex<mpsc::Receiver<()>>>,
}

impl Counts {
    fn called(&self, verb: Verb, branch: &BranchId) {
        let first = {
            let mut calls = self.calls.lock();
            calls.push((verb, branch.clone()));
            calls.len() == 1
        };
        if let Some(held) = self.held.as_ref().filter(|_| first) {
            let _ = held.lock().recv();
        }
    }
}

impl Participant for Counts {
    fn prepare(&self, branch: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        self.called(Verb::Prepare, branch);
        Ok(Vote::Yes)
    }
    fn commit(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.called(Verb::Commit, branch);
        Ok(())
    }
    fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.called(Verb::Rollback, branch);
        Ok(())
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

/// A participant under load used to spend its time on repeats of requests that were still queued.
#[test]
fn what_is_queued_twice_is_carried_out_once_and_answered_twice() {
    let (let_go, held) = mpsc::channel();
    let counts = Arc::new(Counts { held: Some(Mutex::new(held)), ..Counts::default() });
    let pool = Pooled::new(Arc::clone(&counts), NonZeroUsize::MIN);
    let first: Vec<_> = (0..3).map(|_| answer(&pool, request_about(1, Verb::Commit))).collect();
    let second: Vec<_> = (0..3).map(|_| answer(&pool, request_about(2, Verb::Rollback))).collect();
    let_go.send(()).unwrap();
    for told in first.iter().chain(&second) {
        assert!(matches!(told.recv_timeout(SOON), Ok(Ok(Response::Done))));
    }
    let calls: Vec<_> = counts.calls.lock().iter().map(|(verb, _)| *verb).collect();
    assert_eq!(calls, [Verb::Commit, Verb::Rollback]);
    assert!(matches!(answer(&pool, request_about(1, Verb::Commit)).recv_timeout(SOON), Ok(Ok(Response::Done))));
    assert_eq!(counts.calls.lock().len(), 3, "a later request is carried out by itself");
}

#[test]
fn a_rollback_takes_its_prepare_out_of_the_queue_and_decisions_come_first() {
    let (let_go, held) = mpsc::channel();
    let counts = Arc::new(Counts { held: Some(Mutex::new(held)), ..Counts::default() });
    let pool = Pooled::new(Arc::clone(&counts), NonZeroUsize::MIN);
    let busy = answer(&pool, request_about(9, Verb::Commit));
    let prepares: Vec<_> = (1..=3).map(|number| answer(&pool, request_about(number, Verb::Prepare))).collect();
    let rollback = answer(&pool, request_about(2, Verb::Rollback));
    assert!(matches!(prepares[1].recv_timeout(SOON), Ok(Err(ParticipantError::Unreachable))));
    let_go.send(()).unwrap();
    for told in [&busy, &rollback, &prepares[0], &prepares[2]] {
        assert!(told.recv_timeout(SOON).unwrap().is_ok());
    }
    let calls: Vec<_> = counts.calls.lock().iter().map(|(verb, branch)| (*verb, branch.txn().sequence())).collect();
    assert_eq!(calls, [(Verb::Commit, 9), (Verb::Rollback, 2), (Verb::Prepare, 1), (Verb::Prepare, 3)]);
}
