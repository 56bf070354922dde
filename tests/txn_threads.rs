//! Ten thousand transactions in flight need no more threads than ten, and a coordinator that has lost
//! its log needs none.
//!
//! A binary of its own, because it counts the threads of its process: other tests start threads,
//! too.
#![cfg(target_os = "linux")]

#[path = "txn/support/mod.rs"]
mod support;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, MemoryLog, Name, ParticipantError, Policy, Vote,
    participant::{AsyncParticipant, Call},
};
use support::{
    eventually, manager,
    wire::{Fate, Wire},
};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

/// Held by the test that counts threads.
static COUNTS: Mutex<()> = Mutex::new(());

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("a process has tasks").count()
}

/// Each transaction is awaited by a task of its own, and all of them vote at the same moment.
#[test]
fn ten_thousand_transactions_in_flight_need_no_more_threads_than_ten() {
    /// Holds all votes until the wanted number of them waits.
    #[derive(Clone, Default)]
    struct Gathers(Arc<Gathering>);

    #[derive(Default)]
    struct Gathering {
        wanted: Mutex<usize>,
        waiting: Mutex<usize>,
        all_here: tokio::sync::Notify,
        threads: Mutex<usize>,
    }

    impl AsyncParticipant for Gathers {
        async fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            let all_here = self.0.all_here.notified();
            let last = {
                let mut waiting = self.0.waiting.lock();
                *waiting += 1;
                *waiting == *self.0.wanted.lock()
            };
            if last {
                *self.0.threads.lock() = threads();
                self.0.all_here.notify_waiters();
            } else {
                all_here.await;
            }
            Ok(Vote::Yes)
        }
        async fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        async fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        async fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
    }

    let _one_at_a_time = COUNTS.lock();
    let runtime = runtime();
    let log = MemoryLog::new();
    let gathers = Gathers::default();
    let a = manager("a", log.clone());
    let policy = Policy::default().prepare_timeout(Duration::from_secs(300));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone());
    let builder = builder.async_participant("far", gathers.clone(), runtime.handle().clone());
    let coordinator = Arc::new(builder.open().unwrap());
    let threads_with = |transactions: usize| {
        *gathers.0.wanted.lock() = transactions;
        *gathers.0.waiting.lock() = 0;
        let tasks: Vec<_> = (0..transactions)
            .map(|_| {
                let (coordinator, a) = (Arc::clone(&coordinator), a.clone());
                runtime.spawn(async move {
                    let mut txn = coordinator.begin_async().await;
                    a.execute(txn.branch("a").unwrap(), 2).unwrap();
                    txn.branch("far").unwrap();
                    txn.commit().await.unwrap();
                })
            })
            .collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        *gathers.0.threads.lock()
    };
    let (ten, ten_thousand) = (threads_with(10), threads_with(10_000));
    // The coordinator starts a few threads when it first needs them.
    assert!(ten_thousand <= ten + 8, "{ten} threads for 10, {ten_thousand} for 10,000");
    assert_eq!(a.service().balance(), 2 * 10_010);
}

/// Its clients still hold it.
#[test]
fn a_coordinator_that_has_lost_its_log_has_no_threads() {
    let _one_at_a_time = COUNTS.lock();
    // Those of the other test may still be ending.
    eventually("the other test's end", Duration::from_secs(10), || own_threads() == 0);
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let wire = Wire::new(b, |_| Fate::LoseRequest);
    let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).endpoint("b", wire);
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap_err();
    // Its clock, and the lane of b, which is still told. A thread has its name a moment after its start.
    eventually("its threads are there", Duration::from_secs(10), || own_threads() > 0);

    let _taken = log.take_over("standby", 0);
    eventually("all of them end", Duration::from_secs(10), || own_threads() == 0);
    assert!(coordinator.status().fenced.is_some());
    drop(coordinator);
    assert_eq!(own_threads(), 0);
}

/// Returns the number of threads that the library has started.
fn own_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end while the directory is read.
    let name = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("comm")).ok();
    tasks.filter_map(name).filter(|name| name.starts_with("ringpact")).count()
}
