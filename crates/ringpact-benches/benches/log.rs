//! Durable commits a second: each of 1, 16 or 64 threads appends a forced record and waits until it
//! is durable.
//!
//! One iteration is one commit. Syncs are reported too, because some machines flush fast and some
//! slowly, and what the log decides is how many commits share one sync.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpact::{
    Epoch, FileLog, Name, TransactionLog, TxnId,
    log::{Durability, Fact, Record},
};

/// About the size of a decision over three participants, in bytes.
const WORK_BYTES: usize = 100;

/// A commit and its end, as a coordinator would write them, so that little is live.
fn commit(log: &FileLog, owner: &Name, sequence: u64) {
    let txn = TxnId::new(owner.clone(), Epoch::new(1), sequence);
    let fact = Fact::Prepared { txn: txn.clone(), work: vec![7; WORK_BYTES] };
    let lsn = log.append(Record { owner: owner.clone(), fact }, Durability::Forced).expect("there is room");
    log.wait(lsn).expect("the disk works");
    log.append(Record { owner: owner.clone(), fact: Fact::Ended { txn } }, Durability::Lazy).expect("there is room");
}

/// Returns the time that `commits` commits by this number of threads take.
fn run(log: &FileLog, owner: &Name, threads: u64, commits: u64, next: &AtomicU64) -> Duration {
    let end = next.load(Ordering::Relaxed) + commits;
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let sequence = next.fetch_add(1, Ordering::Relaxed);
                    if sequence >= end {
                        break;
                    }
                    commit(black_box(log), owner, sequence);
                }
            });
        }
    });
    begun.elapsed()
}

fn durable_commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("durable_commits");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(3));
    for threads in [1, 16, 64] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = FileLog::open(dir.path()).expect("a fresh log");
        let owner = Name::new("bench").expect("a valid name");
        let next = AtomicU64::new(0);
        group.bench_function(BenchmarkId::from_parameter(threads), |bencher| {
            bencher.iter_custom(|commits| run(&log, &owner, threads, commits, &next));
        });
        let stats = log.stats();
        println!("{threads} threads: {:.1} commits a sync", stats.forced as f64 / stats.syncs.max(1) as f64);
    }
}

criterion_group!(benches, durable_commits);
criterion_main!(benches);
