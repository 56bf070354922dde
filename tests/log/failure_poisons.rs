//! One write or sync fails: from then on nothing more is ever called durable, until the log is
//! opened again.

use std::{
    io,
    sync::{Arc, Barrier},
    task::{Context, Poll, Wake, Waker},
    thread,
};

use crate::common::{Keep, Op, SimStorage, commit, live_numbers, name, open_sim, prepared};
use ringpact::{
    LogError, TransactionLog, error_chain,
    log::{Durability, Lsn},
};

struct NoTask;

impl Wake for NoTask {
    fn wake(self: Arc<Self>) {}
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(std::sync::atomic::AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[track_caller]
fn assert_poisoned<T: std::fmt::Debug>(result: Result<T, LogError>) {
    match result {
        Err(error @ LogError::Poisoned { .. }) => {
            let text = error_chain(&error);
            assert!(text.contains("injected"), "{text}");
        }
        other => panic!("not poisoned: {other:?}"),
    }
}

/// The table in the log's documentation: one of eight commits is durable, and the sync that covers
/// the other seven fails.
#[test]
fn a_failed_sync_is_told_to_all_that_it_was_for() {
    for _ in 0..20 {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        let first = commit(&log, prepared(1, 10)).unwrap();
        storage.fail(Op::Sync, 1, io::ErrorKind::Other);
        let start = Barrier::new(7);
        thread::scope(|scope| {
            let committing = |number| {
                let (log, start) = (&log, &start);
                move || {
                    start.wait();
                    commit(log, prepared(number, 10))
                }
            };
            let threads: Vec<_> = (2..=8).map(|number| scope.spawn(committing(number))).collect();
            threads.into_iter().for_each(|thread| assert_poisoned(thread.join().unwrap()));
        });
        assert_eq!(log.durable(), first);
        log.wait(first).unwrap(); // what was durable before still is
        let ops = storage.ops();
        assert_poisoned(log.append(prepared(9, 10), Durability::Lazy));
        assert_poisoned(log.wait(first.next()));
        assert_poisoned(log.live(&name("goods")));
        let waker = Waker::from(Arc::new(NoTask));
        let Poll::Ready(polled) = log.poll_durable(first.next(), &mut Context::from_waker(&waker)) else {
            panic!("no thread would ever wake it")
        };
        assert_poisoned(polled);
        assert_eq!(storage.ops(), ops, "a failed sync is not tried again");

        // Some of the lost pages may have reached the medium. The record that was durable is there
        // in any case.
        let found = live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap());
        assert!(found.starts_with(&[1]), "{found:?}");
        // Without a crash they may well be there. What reopening says then is true from there on.
        let reopened = open_sim(&storage).unwrap();
        let found = live_numbers(&reopened);
        assert!(found.starts_with(&[1]), "{found:?}");
        assert_poisoned(log.close());
        drop(reopened);
        assert_eq!(live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap()), found);
    }
}

#[test]
fn a_failed_write_poisons_too() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        commit(&log, prepared(1, 10)).unwrap();
        storage.fail(Op::Write, 1, kind);
        assert_poisoned(commit(&log, prepared(2, 10)));
        assert_poisoned(commit(&log, prepared(3, 10)));
        assert_eq!(live_numbers(&open_sim(&storage).unwrap()), [1]);
    }
}

/// Whatever fails while a segment is replaced, nothing durable is lost, and nothing is called
/// durable that isn't.
#[test]
fn any_failure_while_a_segment_is_replaced_poisons_and_loses_nothing() {
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir, Op::Remove] {
        for nth in 1..=12 {
            let storage = SimStorage::new();
            let log = open_sim(&storage).unwrap();
            storage.fail(op, nth, io::ErrorKind::Other);
            let mut durable = 0;
            let failed = (1..=12).find_map(|number| {
                let result = commit(&log, prepared(number, 12_000));
                if result.is_ok() {
                    durable = number;
                }
                result.err()
            });
            match failed {
                // The next segment was only being prepared.
                Some(LogError::NoSegment { .. }) => assert_ne!(op, Op::Sync),
                Some(error) => assert_poisoned::<Lsn>(Err(error)),
                None => {}
            }
            drop(log);
            for keep in [Keep::Nothing, Keep::Everything, Keep::Some(nth)] {
                let found = live_numbers(&open_sim(&storage.crash(keep)).unwrap());
                let all: Vec<u64> = (1..=12).collect();
                assert!(all.starts_with(&found) && found.len() as u64 >= durable, "{op:?} {nth}: {durable} {found:?}");
            }
        }
    }
}

/// A task that waits when the sync fails is woken.
#[test]
fn a_failed_sync_wakes_tasks() {
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    let lsn = log.append(prepared(1, 10), Durability::Lazy).unwrap();
    storage.fail(Op::Sync, 1, io::ErrorKind::Other);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let first = log.poll_durable(lsn, &mut context);
    assert_poisoned(log.wait(lsn));
    drop(log);
    // Another thread wakes it, and soon.
    while first.is_pending() && count.0.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
}

/// The failure wakes each task that commits, whether its own batch has failed or one before it.
#[test]
fn a_failed_sync_reaches_tasks_that_commit() {
    use std::{future::Future, pin::pin, sync::atomic::Ordering};
    let storage = SimStorage::new();
    let log = open_sim(&storage).unwrap();
    // The sync of a batch fails. There are not enough records for a next segment to be prepared:
    // its sync may fail without harm.
    storage.fail_on(".log", Op::Sync, 1, io::ErrorKind::Other);
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let mut commits: Vec<_> = (1..=500).map(|number| log.commit_async(prepared(number, 10))).collect();
    let first: Vec<_> = commits.iter_mut().map(|commit| pin!(commit).poll(&mut context)).collect();
    assert_poisoned(log.wait(Lsn::new(1)));
    let pending = first.iter().filter(|first| first.is_pending()).count() as u64;
    while count.0.load(Ordering::SeqCst) < pending {
        thread::yield_now();
    }
    for (commit, first) in commits.iter_mut().zip(first) {
        // Those that came too late were refused at once.
        match first {
            Poll::Ready(result) => assert_poisoned(result),
            Poll::Pending => match pin!(commit).poll(&mut context) {
                Poll::Ready(result) => assert_poisoned(result),
                Poll::Pending => panic!("no thread would ever wake it again"),
            },
        }
    }
    assert_eq!(log.durable(), Lsn::NONE);
}

/// A caller that comes alone writes on its own thread. A failure that it finds is as final as one
/// that the writer finds.
#[test]
fn a_caller_that_writes_its_own_record_poisons_too() {
    for op in [Op::Write, Op::Sync] {
        let storage = SimStorage::new();
        let log = open_sim(&storage).unwrap();
        let first = log.commit(prepared(1, 10)).unwrap();
        storage.fail(op, 1, io::ErrorKind::Other);
        assert_poisoned(log.commit(prepared(2, 10)));
        let ops = storage.ops();
        assert_poisoned(log.commit(prepared(3, 10)));
        assert_poisoned(log.append(prepared(4, 10), Durability::Lazy));
        assert_eq!((log.durable(), storage.ops()), (first, ops), "nothing more is written");
        assert_poisoned(log.close());
        let found = live_numbers(&open_sim(&storage.crash(Keep::Nothing)).unwrap());
        assert!(found.starts_with(&[1]) && found.len() <= 2, "{found:?}");
    }
}
