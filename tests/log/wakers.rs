//! Wakers are foreign code: whatever they do, the log goes on, and so do all others that wait for
//! it.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use crate::common::{commit, name, open_small, prepared};
use ringpact::{
    FileLog, TransactionLog,
    log::{Durability, Lsn},
};

/// Far longer than anything here takes: after it, a task is stuck.
const STUCK: Duration = Duration::from_secs(30);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An executor that polls a task where it is woken.
struct Inline {
    task: Mutex<Option<Task>>,
    done: mpsc::Sender<()>,
}

impl Inline {
    fn start(task: impl Future<Output = ()> + Send + 'static, done: &mpsc::Sender<()>) {
        Arc::new(Self { task: Mutex::new(Some(Box::pin(task))), done: done.clone() }).wake();
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        // The task is held while it is polled. So a wake-up that comes meanwhile waits for that.
        let mut task = self.task.lock().unwrap();
        let Some(mut polled) = task.take() else { return };
        let waker = Waker::from(Arc::clone(&self));
        match polled.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => drop(self.done.send(())),
            Poll::Pending => *task = Some(polled),
        }
    }
}

#[track_caller]
fn all_done(done: &mpsc::Receiver<()>, tasks: usize) {
    for finished in 0..tasks {
        done.recv_timeout(STUCK).unwrap_or_else(|_| panic!("only {finished} of {tasks} tasks get on"));
    }
}

fn temporary_log() -> (tempfile::TempDir, Arc<FileLog>) {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open_small(dir.path()).unwrap());
    (dir, log)
}

/// At the 1,024th commit the log's writer used to wait for itself: for room, for its own lock, or
/// for its own next batch.
#[test]
fn tasks_that_are_polled_where_they_are_woken_may_wait_for_the_log() {
    let (_dir, log) = temporary_log();
    let (done, finished) = mpsc::channel();
    let numbers = Arc::new(AtomicU64::new(0));
    for task in 0..8 {
        let (log, numbers) = (Arc::clone(&log), Arc::clone(&numbers));
        let next = move || numbers.fetch_add(1, Ordering::Relaxed);
        Inline::start(
            async move {
                for round in 0..400 {
                    log.commit_async(prepared(next(), 10)).await.unwrap();
                    // While the task is being woken.
                    match (task + round) % 4 {
                        0 => drop(commit(&*log, prepared(next(), 3_000)).unwrap()),
                        1 => log.wait(log.append(prepared(next(), 10), Durability::Lazy).unwrap()).unwrap(),
                        2 => drop(log.live(&name("goods")).unwrap().len()),
                        _ => {}
                    }
                }
            },
            &done,
        );
    }
    all_done(&finished, 8);
}

/// All ways in which a record becomes durable: by the writer, by a caller that writes itself, or
/// because the log ends.
#[test]
fn no_waker_runs_on_a_thread_of_the_log_or_of_another_caller() {
    struct Where(Arc<Mutex<BTreeSet<String>>>, mpsc::Sender<()>);
    impl Wake for Where {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().insert(thread::current().name().unwrap_or_default().to_owned());
            let _ = self.1.send(());
        }
    }
    let (_dir, log) = temporary_log();
    let (woken, wakings) = mpsc::channel();
    let seen = Arc::default();
    let waker = || Waker::from(Arc::new(Where(Arc::clone(&seen), woken.clone())));
    let mut expected = 0;
    for number in 0..200 {
        let lsn = log.append(prepared(number * 3, 10), Durability::Lazy).unwrap();
        expected += usize::from(log.poll_durable(lsn, &mut Context::from_waker(&waker())).is_pending());
        if number % 2 == 0 {
            log.commit(prepared(number * 3 + 1, 10)).unwrap();
        } else {
            expected += 1;
            log.append_awaited(prepared(number * 3 + 1, 10), &mut Context::from_waker(&waker())).unwrap();
        }
    }
    let last = log.append(prepared(1, 10), Durability::Lazy).unwrap();
    expected += usize::from(log.poll_durable(last, &mut Context::from_waker(&waker())).is_pending());
    log.abandon();
    all_done(&wakings, expected);
    assert_eq!(seen.lock().unwrap().iter().collect::<Vec<_>>(), ["ringpact-notify"]);
}

/// A waker that never returns, and one that waits for another, keep no other waker from being
/// woken.
#[test]
fn a_waker_that_does_not_return_keeps_no_other_from_being_woken() {
    struct Waits(Mutex<mpsc::Receiver<()>>);
    impl Wake for Waits {
        fn wake(self: Arc<Self>) {
            let _ = self.0.lock().unwrap().recv_timeout(STUCK);
        }
    }
    struct Tells(mpsc::Sender<()>, mpsc::Sender<()>);
    impl Wake for Tells {
        fn wake(self: Arc<Self>) {
            let _ = (self.0.send(()), self.1.send(()));
        }
    }
    let (_dir, log) = temporary_log();
    let (woken, wakings) = mpsc::channel();
    let begun = Instant::now();
    let mut held = Vec::new();
    for number in 0..10 {
        let (free, freed) = mpsc::channel();
        let (never, kept) = mpsc::channel();
        let waits = [Waker::from(Arc::new(Waits(Mutex::new(freed)))), Waker::from(Arc::new(Waits(Mutex::new(kept))))];
        let tells = Waker::from(Arc::new(Tells(free, woken.clone())));
        // Five at a time stay forever.
        let waits = if number % 2 == 0 { &waits[..] } else { &waits[..1] };
        held.push(never);
        let lsn = log.append(prepared(number, 10), Durability::Lazy).unwrap();
        let polls = waits.iter().chain([&tells]).map(|waker| log.poll_durable(lsn, &mut Context::from_waker(waker)));
        if polls.filter(Poll::is_ready).count() > 0 {
            tells.wake();
        }
        wakings.recv_timeout(STUCK).expect("it is woken though others are stuck");
    }
    assert!(begun.elapsed() < STUCK / 2, "{:?}", begun.elapsed());
    log.wait(Lsn::new(u64::MAX)).unwrap();
    drop(held);
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics, and its panic's payload panics once more when that is dropped.
fn panics() {
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("the test wants it"));
        }
    }
    PANICS.fetch_add(1, Ordering::SeqCst);
    std::panic::resume_unwind(Box::new(Again));
}

struct PanicsWoken;

impl Wake for PanicsWoken {
    fn wake(self: Arc<Self>) {
        panics();
    }
}

struct PanicsDropped;

impl Wake for PanicsDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for PanicsDropped {
    fn drop(&mut self) {
        panics();
    }
}

/// Wakers that panic when woken, and when dropped; some are dropped because they are in the list
/// twice.
#[test]
fn wakers_that_panic_do_not_disturb_others() {
    let (_dir, log) = temporary_log();
    let (done, finished) = mpsc::channel();
    let inline = Arc::clone(&log);
    let task = async move {
        for number in 0..50 {
            inline.commit_async(prepared(10_000 + number, 10)).await.unwrap();
        }
    };
    Inline::start(task, &done);
    for number in 0..1_000 {
        let lsn = log.append(prepared(number, 10), Durability::Lazy).unwrap();
        for waker in [Waker::from(Arc::new(PanicsWoken)), Waker::from(Arc::new(PanicsDropped))] {
            // So often that some are in the list twice, and are taken out of it.
            for _ in 0..3 {
                let polled = log.poll_durable(lsn, &mut Context::from_waker(&waker));
                assert!(matches!(polled, Poll::Pending | Poll::Ready(Ok(()))));
            }
            // Here it may be the last handle.
            let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(waker)));
            std::mem::forget(dropped);
        }
    }
    log.wait(Lsn::new(u64::MAX)).unwrap();
    all_done(&finished, 1);
    assert!(PANICS.load(Ordering::SeqCst) > 1_000);
}
