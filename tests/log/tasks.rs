//! Thousands of tasks commit at once. Each is woken with its record durable, even if other parts of
//! it ask meanwhile.

use std::{
    collections::HashSet,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use crate::common::{live_numbers, open_small, prepared};
use ringpact::{
    TransactionLog,
    log::{LogStats, Lsn},
};
use tokio::runtime::Builder;

const TASKS: u64 = 3_000;
const COMMITS: u64 = 4;

#[test]
fn every_task_that_commits_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open_small(dir.path()).unwrap());
    let runtime = Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let task = |task: u64| {
        let log = log.clone();
        async move {
            let mut numbers = Vec::new();
            for commit in 0..COMMITS {
                let lsn = if task.is_multiple_of(3) {
                    commit_and_look_twice(&log, task * COMMITS + commit).await
                } else {
                    log.commit_async(prepared(task * COMMITS + commit, 10)).await.unwrap()
                };
                assert!(lsn <= log.durable());
                numbers.push(lsn);
            }
            assert!(numbers.is_sorted());
            numbers
        }
    };
    let tasks: Vec<_> = (0..TASKS).map(|number| runtime.spawn(task(number))).collect();
    let mut numbers = HashSet::new();
    for task in tasks {
        numbers.extend(runtime.block_on(task).unwrap());
    }
    assert_eq!(numbers.len() as u64, TASKS * COMMITS, "no number was given twice");
    let LogStats { appended, forced, .. } = log.stats();
    assert_eq!((appended, forced), (TASKS * COMMITS, TASKS * COMMITS));
    log.abandon(); // as a crash would do
    let mut found = live_numbers(&open_small(dir.path()).unwrap());
    found.sort_unstable();
    assert!(found.into_iter().eq(0..TASKS * COMMITS));
}

/// Besides the waker that comes along with the record, each poll leaves another one, and wakes
/// itself.
async fn commit_and_look_twice(log: &impl TransactionLog, number: u64) -> Lsn {
    let (mut record, mut lsn, mut polls) = (Some(prepared(number, 10)), Lsn::NONE, 0);
    poll_fn(|context: &mut Context<'_>| {
        if let Some(record) = record.take() {
            lsn = log.append_awaited(record, context).unwrap();
        }
        polls += 1;
        if polls < 3 {
            context.waker().wake_by_ref();
        }
        match log.poll_durable(lsn, context) {
            Poll::Ready(durable) => Poll::Ready(durable.map(|()| lsn).unwrap()),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
