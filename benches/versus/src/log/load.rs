//! The load: threads or tasks, each of which makes one commit after the other for a given time.

use std::{
    fs,
    future::Future,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;

/// Numbers of clients, and how long they are measured.
#[derive(Args)]
pub struct Pace {
    /// A smoke test: two short rounds. The figures mean nothing.
    #[arg(long)]
    pub quick: bool,

    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    pub threads: Vec<usize>,

    /// Numbers of tasks.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    pub tasks: Vec<usize>,

    /// Number of rounds, of which the median counts.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub rounds: u64,

    /// How long each implementation is measured in each round.
    #[arg(long, default_value_t = 1_000)]
    pub milliseconds: u64,
}

impl Pace {
    pub fn rounds(&self) -> usize {
        if self.quick { 2 } else { self.rounds as usize }
    }

    pub fn time(&self) -> Duration {
        Duration::from_millis(if self.quick { 60 } else { self.milliseconds })
    }
}

/// A log that blocks its caller until a record of 128 bytes is durable.
pub trait Blocking: Sync {
    fn commit(&self, client: usize, number: u64);

    /// Number of syncs so far, if the implementation tells it.
    fn syncs(&self) -> Option<u64> {
        None
    }
}

/// The same for tasks.
pub trait Tasks: Clone + Send + Sync + 'static {
    fn commit(&self, number: u64) -> impl Future<Output = ()> + Send;
}

/// The figures of one round of threads.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub commits_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub syncs_per_s: Option<f64>,
}

/// Part of a round that does not count, because threads are still starting.
const WARM_UP: u32 = 5;

pub fn threads(log: &dyn Blocking, clients: usize, time: Duration) -> Found {
    let (counting, done, start) = (AtomicBool::new(false), AtomicBool::new(false), Barrier::new(clients + 1));
    let numbers = AtomicU64::new(1);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                let (counting, done, start, numbers) = (&counting, &done, &start, &numbers);
                scope.spawn(move || {
                    let mut latencies: Vec<u32> = Vec::with_capacity(1 << 12);
                    start.wait();
                    while !done.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        log.commit(client, numbers.fetch_add(1, Ordering::Relaxed));
                        if counting.load(Ordering::Relaxed) {
                            latencies.push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX));
                        }
                    }
                    latencies
                })
            })
            .collect();
        start.wait();
        thread::sleep(time / WARM_UP);
        let (begun, syncs) = (Instant::now(), log.syncs());
        counting.store(true, Ordering::Relaxed);
        thread::sleep(time);
        counting.store(false, Ordering::Relaxed);
        let (elapsed, syncs_then) = (begun.elapsed().as_secs_f64(), log.syncs());
        done.store(true, Ordering::Relaxed);
        let mut all: Vec<u32> =
            threads.into_iter().flat_map(|thread| thread.join().expect("a client panicked")).collect();
        all.sort_unstable();
        let at = |share: f64| all.get((all.len() as f64 * share) as usize).map_or(f64::NAN, |ns| f64::from(*ns) / 1e3);
        Found {
            commits_per_s: all.len() as f64 / elapsed,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: all.last().map_or(f64::NAN, |ns| f64::from(*ns) / 1e3),
            syncs_per_s: syncs.zip(syncs_then).map(|(before, after)| (after - before) as f64 / elapsed),
        }
    })
}

struct Counter {
    commits: AtomicU64,
    done: AtomicBool,
}

/// Returns commits a second by this number of tasks on a runtime of two workers, and processor time
/// for each commit in microseconds. The latter says more than the clock if the processors are
/// shared.
pub fn tasks<T: Tasks>(log: &T, clients: usize, time: Duration) -> (f64, f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let counter = Arc::new(Counter { commits: AtomicU64::new(0), done: AtomicBool::new(false) });
    let tasks: Vec<_> = (0..clients as u64)
        .map(|client| {
            let (log, counter) = (log.clone(), counter.clone());
            runtime.spawn(async move {
                let mut number = client << 32;
                while !counter.done.load(Ordering::Relaxed) {
                    number += 1;
                    log.commit(number).await;
                    counter.commits.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(time / WARM_UP);
    let (begun, before, processor) = (Instant::now(), counter.commits.load(Ordering::Relaxed), processor_seconds());
    thread::sleep(time);
    let processor = processor_seconds() - processor;
    let commits = counter.commits.load(Ordering::Relaxed) - before;
    let elapsed = begun.elapsed().as_secs_f64();
    counter.done.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("a client panicked");
        }
    });
    (commits as f64 / elapsed, processor * 1e6 / commits as f64)
}

/// Returns the processor time of this process so far; NaN if the system does not tell it.
pub fn processor_seconds() -> f64 {
    ticks_of("self").map_or(f64::NAN, |(_, ticks)| ticks / TICKS_PER_SECOND)
}

/// Returns the processor time of a process and of its children so far, also of those that have ended.
pub fn processor_seconds_of(pid: u32) -> f64 {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all = ids.filter_map(|id| Some((id, ticks_of(&id.to_string())?)));
    let ticks: f64 = all.filter(|(id, (parent, _))| *id == pid || *parent == pid).map(|(_, (_, ticks))| ticks).sum();
    ticks / TICKS_PER_SECOND
}

/// Linux gives these times in hundredths of a second, whatever its own clock is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns the parent of a process, and its processor time with that of its ended children.
fn ticks_of(process: &str) -> Option<(u32, f64)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The program's name is field 2, in parentheses. The parent is field 4; the times in user and system mode are fields 14
    // and 15, those of ended children 16 and 17.
    let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some((fields.get(1)?.parse().ok()?, ticks))
}
