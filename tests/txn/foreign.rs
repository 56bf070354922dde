//! Code of others that can do harm: wakers that panic, values that are dropped late, transactions
//! that begin during a shutdown.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use crate::support::{eventually, manager, shared};
use ringpact::{
    Coordinator, MemoryLog, Policy, TransactionLog,
    txn::{BeginError, Limits},
};

const SOON: Duration = Duration::from_secs(10);

/// Panics when it is woken, and counts how often.
#[derive(Default)]
struct Panics(AtomicUsize);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("the test wants this waker to panic");
    }
}

/// A bug: the panic unwound through the client whose transaction freed the slot.
#[test]
fn a_panicking_waker_of_begin_async_panics_in_no_other_transaction() {
    let limits = Limits::default().in_flight(1);
    let log = MemoryLog::new();
    let a = manager("a", log.clone());
    let coordinator = Coordinator::builder(log).limits(limits).participant("a", a.clone()).open().unwrap();
    let mut first = coordinator.begin();
    a.execute(first.branch("a").unwrap(), 2).unwrap();
    let panics = Arc::new(Panics::default());
    let waker = Waker::from(Arc::clone(&panics));
    let mut second = pin!(coordinator.begin_async());
    assert!(second.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    first.commit().wait().unwrap();
    assert_eq!(panics.0.load(Ordering::SeqCst), 1);
    let Poll::Ready(second) = second.as_mut().poll(&mut Context::from_waker(&waker)) else { panic!("there is room") };
    second.commit().wait().unwrap();
}

/// A bug: the drop panicked, and other waiting clients were never told.
#[test]
fn a_panicking_waker_of_a_commit_stops_no_drop_and_no_other_client() {
    let log = MemoryLog::new();
    let held = Arc::new(AtomicBool::new(true));
    let slow = crate::support::scripted::Scripted::new();
    let silent = Silent(Arc::clone(&held));
    let coordinator = Coordinator::builder(log).participant("a", slow).endpoint("b", silent).open().unwrap();
    let commit = || {
        let mut txn = coordinator.begin();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        txn.commit()
    };
    let (first, second) = (commit(), commit());
    let panics = Waker::from(Arc::new(Panics::default()));
    let mut first = pin!(first);
    assert!(first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
    let waits = thread::spawn(move || second.wait());
    thread::sleep(Duration::from_millis(20));
    drop(coordinator);
    assert!(waits.join().unwrap().is_err(), "no answer will come");
}

/// Never answers.
struct Silent(Arc<AtomicBool>);

impl ringpact::participant::Endpoint for Silent {
    fn send(&self, _: ringpact::participant::Request, reply: ringpact::participant::Reply) {
        if self.0.load(Ordering::Relaxed) {
            std::mem::forget(reply);
        }
    }
}

/// A bug: idle threads kept the resource manager, and with it the name that it had claimed on its
/// log.
#[test]
fn a_slow_participant_is_closed_when_everything_is_dropped() {
    let two = NonZeroUsize::new(2).unwrap();
    let (log, far) = (MemoryLog::new(), MemoryLog::new());
    for _ in 0..200 {
        let b = manager("b", far.clone());
        let builder = Coordinator::builder(log.clone()).name("shop").slow_participant("b", b.clone(), two);
        let coordinator = builder.participant("a", manager("a", log.clone())).open().unwrap();
        let mut txn = coordinator.begin();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.branch("a").unwrap();
        let _no = txn.commit().wait();
        let left = coordinator.shutdown(SOON);
        assert_eq!(left.in_doubt(), 0, "{left}");
        drop((coordinator, b));
        // A thread that has just passed on an answer drops it a moment later.
        let is_free = || far.claim(&crate::support::name("b")).is_ok();
        eventually("nothing has it open any more", Duration::from_secs(1), is_free);
    }
}

/// A bug: a transaction that was admitted just before the shutdown, and entered the table just
/// after, committed after the shutdown had reported that nothing was left.
#[test]
fn nothing_begins_once_a_shutdown_has_reported_that_nothing_is_left() {
    for _ in 0..300 {
        let (_log, coordinator, managers) = shared(&["a"]);
        let (is_over, after) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Ok(mut txn) = coordinator.try_begin() {
                    let Ok(branch) = txn.branch("a") else { continue };
                    let worked = managers[0].execute(branch, 2).is_ok();
                    let was_over = is_over.load(Ordering::SeqCst);
                    if worked && txn.commit().wait().is_ok() && was_over {
                        after.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
            thread::yield_now();
            let left = coordinator.shutdown(SOON);
            is_over.store(true, Ordering::SeqCst);
            assert_eq!(left.in_doubt(), 0, "{left}");
        });
        assert_eq!(after.load(Ordering::SeqCst), 0);
        assert_eq!(coordinator.try_begin().err(), Some(BeginError::ShuttingDown));
    }
}

/// A bug: each look at the clock walked all open transactions under the lock that all threads need.
#[test]
fn time_outs_of_many_open_transactions_do_not_delay_others() {
    let (_log, coordinator, managers) = shared(&["a"]);
    let speed = || {
        let (begin, mut done) = (Instant::now(), 0);
        while begin.elapsed() < Duration::from_millis(400) {
            let mut txn = coordinator.begin();
            managers[0].execute(txn.branch("a").unwrap(), 0).unwrap();
            txn.commit().wait().unwrap();
            done += 1;
        }
        done
    };
    let alone = speed();
    // Each has a time-out of its own, and one of them is due at nearly any moment.
    let open: Vec<_> =
        (0..100_000_u64).map(|number| coordinator.begin_within(Duration::from_micros(300_000 + 20 * number))).collect();
    let beside = speed();
    assert!(beside * 4 > alone, "{beside} beside many that expire, {alone} alone");
    eventually("all of them are over", Duration::from_secs(60), || coordinator.status().begun == 0);
    drop(open);
}

/// A short time-out among long ones is not missed.
#[test]
fn a_short_time_out_among_many_long_ones_comes_in_time() {
    let policy = Policy::default().transaction_timeout(Duration::from_secs(1_000));
    let coordinator = Coordinator::builder(MemoryLog::new()).policy(policy).open().unwrap();
    let _long: Vec<_> = (0..10_000).map(|_| coordinator.begin()).collect();
    for _ in 0..20 {
        let begin = Instant::now();
        let _short = coordinator.begin_within(Duration::from_millis(5));
        eventually("it is over", SOON, || coordinator.status().begun == 10_000);
        assert!(begin.elapsed() < SOON);
    }
}
