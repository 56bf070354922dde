//! Abandoning a log is a crash in miniature: what was durable is there, what was queued is gone,
//! and no caller hangs.

use std::{sync::Arc, thread};

use crate::common::{commit, live_numbers, name, open_small, prepared};
use ringpact::{FileLog, LogError, TransactionLog, log::Durability};

#[track_caller]
fn assert_closed<T: std::fmt::Debug>(result: Result<T, LogError>) {
    assert!(matches!(result, Err(LogError::Closed)), "{result:?}");
}

#[test]
fn the_directory_can_be_opened_again_while_old_handles_are_around() {
    let dir = tempfile::tempdir().unwrap();
    let old = Arc::new(open_small(dir.path()).unwrap());
    let durable = commit(&old, prepared(1, 10)).unwrap();
    let queued = old.append(prepared(2, 10), Durability::Lazy).unwrap();
    let stale = old.clone();
    old.abandon();

    let new = open_small(dir.path()).unwrap();
    assert_closed(stale.append(prepared(3, 10), Durability::Forced));
    assert_closed(stale.wait(queued));
    assert_closed(stale.live(&name("goods")));
    stale.wait(durable).unwrap();
    assert_eq!(live_numbers(&new), [1]);
    commit(&new, prepared(4, 10)).unwrap();
    old.abandon(); // a second time does no harm
    drop((old, stale));
    assert_eq!(live_numbers(&new), [1, 4]);
    assert_eq!(new.id(), {
        new.close().unwrap();
        FileLog::open(dir.path()).unwrap().id()
    });
}

#[test]
fn all_that_wait_are_woken() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let log = open_small(dir.path()).unwrap();
        let durable: Vec<u64> = thread::scope(|scope| {
            let worker = |thread: u64| {
                let log = &log;
                move || {
                    (0..).map(|n| thread * 1_000 + n).take_while(|n| commit(log, prepared(*n, 10)).is_ok()).collect()
                }
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(worker(thread))).collect();
            thread::sleep(std::time::Duration::from_millis(2));
            log.abandon();
            threads.into_iter().flat_map(|thread| -> Vec<u64> { thread.join().unwrap() }).collect()
        });
        let found = live_numbers(&open_small(dir.path()).unwrap());
        assert!(durable.iter().all(|number| found.contains(number)), "{durable:?} {found:?}");
    }
}

#[test]
fn closing_an_abandoned_log_says_that_something_was_lost() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path()).unwrap();
    log.append(prepared(1, 10), Durability::Lazy).unwrap();
    log.abandon();
    assert_closed(log.close());
}

/// A waker may drop the last handle, on a thread that must not then wait for itself.
#[test]
fn a_waker_may_drop_the_last_handle() {
    use std::{
        sync::{Mutex, mpsc},
        task::{Context, Wake, Waker},
    };
    struct Dropper(Mutex<Option<Arc<FileLog>>>, mpsc::Sender<()>);
    impl Wake for Dropper {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
            let _ = self.1.send(());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open_small(dir.path()).unwrap());
    let lsn = log.append(prepared(1, 10), Durability::Lazy).unwrap();
    let (sender, woken) = mpsc::channel();
    let dropper = Arc::new(Dropper(Mutex::default(), sender));
    let waker = Waker::from(dropper.clone());
    let weak = Arc::downgrade(&log);
    *dropper.0.lock().unwrap() = Some(log);
    let pending = weak.upgrade().unwrap().poll_durable(lsn, &mut Context::from_waker(&waker)).is_pending();
    if pending {
        woken.recv().unwrap();
    }
    drop((dropper, waker));
    let reopened = loop {
        match open_small(dir.path()) {
            Err(LogError::Locked { .. }) => thread::yield_now(),
            other => break other.unwrap(),
        }
    };
    assert_eq!(live_numbers(&reopened), [1]);
}
