//! The cases, and how each is measured.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Scale,
    shop::{BAD, HEALTHY, Mood, Reached, Shop, Stop, rss_mb},
};
use crate::log::fresh_dir;

/// A figure: its name, its unit, its value.
pub type Figures = Vec<(&'static str, &'static str, f64)>;

type Measure = fn(Scale, bool) -> io::Result<Figures>;

pub const CASES: [(&str, Measure); 6] = [
    ("down", |scale, turned| beside(scale, turned, Reached::AtOnce, Mood::Down, polite)),
    ("hung", |scale, turned| beside(scale, turned, Reached::Pooled(2), Mood::Hung, polite)),
    ("blocked-try", |scale, turned| beside(scale, turned, Reached::Managed, Mood::Hung, blocked)),
    ("overloaded", overloaded),
    ("stuck-rollback", |scale, turned| beside(scale, turned, Reached::AtOnce, Mood::NoRollback, stuck)),
    ("expiring-1m", |scale, turned| beside(scale, turned, Reached::AtOnce, Mood::Down, expiring)),
];

/// Number of clients of the healthy services, and of the bad one.
const CLIENTS: usize = 4;

/// A polite client's pause.
const PAUSE: Duration = Duration::from_millis(1);

/// Strains the shop until it is told to stop. Without strain it does the same to a healthy
/// participant.
type Strain = fn(&Shop, &Stop, Mood, Scale);

/// The figures of healthy transactions.
#[derive(Clone, Copy, Debug)]
struct Healthy {
    per_s: f64,
    p99_us: f64,
    /// Processor time of the whole process for each transaction.
    cpu_us: f64,
}

/// Measures the healthy services with a bad one beside them, and the same with a good one.
fn beside(scale: Scale, turned: bool, reached: Reached, mood: Mood, strain: Strain) -> io::Result<Figures> {
    let mut runs = [Mood::Good, mood];
    if turned {
        runs.reverse();
    }
    let (mut good, mut bad, mut more) = (None, None, Figures::new());
    for run in runs {
        let dir = fresh_dir()?;
        let shop = Shop::open(dir.path(), reached, 4_000_000)?;
        let stop = Stop::default();
        let (mut healthy, mut rss, mut late_ms) = (None, 0.0, 0.0);
        thread::scope(|scope| {
            shop.bad.set(run);
            scope.spawn(|| strain(&shop, &stop, run, scale));
            thread::sleep(scale.time / 5);
            let before = rss_mb();
            let patience = scope.spawn(|| latest_time_out(&shop, &stop));
            healthy = Some(load(&shop, scale.time));
            rss = rss_mb() - before;
            stop.set();
            late_ms = patience.join().expect("no panic");
            shop.bad.set(Mood::Good);
        });
        if run == Mood::Good {
            good = healthy;
            continue;
        }
        bad = healthy;
        let log_mb = shop.log_mb();
        let reopen_ms = shop.reopen(reached);
        more.push(("rss_growth_mb", "MB", rss));
        more.push(("log_growth_mb", "MB", log_mb));
        more.push(("reopen_ms", "ms", reopen_ms));
        more.push(("latest_time_out_ms", "ms", late_ms));
    }
    let (Some(good), Some(bad)) = (good, bad) else { return Ok(more) };
    more.push(("healthy_tx_ratio", "ratio", bad.per_s / good.per_s));
    more.push(("healthy_p99_ratio", "ratio", bad.p99_us / good.p99_us));
    more.push(("healthy_cpu_ratio", "ratio", bad.cpu_us / good.cpu_us));
    Ok(more)
}

/// Runs healthy transactions for a time.
fn load(shop: &Shop, time: Duration) -> Healthy {
    let (begun, cpu) = (Instant::now(), cpu_us());
    let mut all: Vec<u32> = thread::scope(|scope| {
        let client = || {
            let mut latencies = Vec::with_capacity(1 << 16);
            while begun.elapsed() < time {
                let begun = Instant::now();
                shop.buy(1);
                latencies.push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX));
            }
            latencies
        };
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    let (elapsed, cpu) = (begun.elapsed().as_secs_f64(), cpu_us() - cpu);
    all.sort_unstable();
    let p99 = all.get(all.len() * 99 / 100).map_or(f64::NAN, |ns| f64::from(*ns) / 1e3);
    Healthy { per_s: all.len() as f64 / elapsed, p99_us: p99, cpu_us: cpu / all.len() as f64 }
}

/// Returns the processor time of this process so far, in microseconds.
fn cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Lets transactions of a healthy service expire. Returns by how many milliseconds the latest one
/// was late, or how long was waited for one that did not expire.
fn latest_time_out(shop: &Shop, stop: &Stop) -> f64 {
    const AFTER: Duration = Duration::from_millis(20);
    let mut latest = Duration::ZERO;
    while !stop.is_set() {
        let due = Instant::now() + AFTER;
        let mut txn = shop.coordinator.begin_within(AFTER);
        // A transaction takes no more branches once its time is over.
        let mut next = HEALTHY.iter().cycle();
        while !stop.is_set() && txn.branch(next.next().expect("the iterator is endless")).is_ok() {
            let open = shop.healthy[0].execute(&txn.id().branch(shop.healthy[0].name()), 1).is_ok();
            if !open {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        latest = latest.max(Instant::now().saturating_duration_since(due));
    }
    latest.as_secs_f64() * 1e3
}

/// Runs clients that try again and again, with a pause in between.
fn polite(shop: &Shop, stop: &Stop, _: Mood, _: Scale) {
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.is_set() {
                    shop.try_bad();
                    thread::sleep(PAUSE);
                }
            });
        }
    });
}

/// Runs clients whose work hangs in the service's try until their transactions' time is over, and
/// longer.
fn blocked(shop: &Shop, stop: &Stop, _: Mood, _: Scale) {
    let manager = shop.managed.as_ref().expect("it is managed");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !stop.is_set() {
                    let mut txn = shop.coordinator.begin_within(Duration::from_millis(20));
                    let branch = txn.branch(BAD).cloned();
                    // The transaction is over by then, and its client waits without it.
                    let done = branch.is_ok_and(|branch| manager.execute(&branch, 1).is_ok());
                    if done {
                        drop(txn.commit());
                    }
                    thread::sleep(PAUSE);
                }
            });
        }
    });
}

/// Begins one transaction that cannot be rolled back.
fn stuck(shop: &Shop, _: &Stop, _: Mood, _: Scale) {
    let mut txn = shop.coordinator.begin();
    txn.branch(BAD).expect("it is a participant");
    txn.branch(HEALTHY[0]).expect("it is a participant");
    txn.rollback();
}

/// Begins transactions that no client commits, each with a time-out of its own within the time that
/// is measured. Without strain there are as many transactions, and they do not expire.
fn expiring(shop: &Shop, _: &Stop, mood: Mood, scale: Scale) {
    let begun = Instant::now();
    let step = scale.time.div_f64(scale.expiring as f64);
    let mut open = Vec::with_capacity(scale.expiring);
    for number in 0..scale.expiring {
        let at = scale.time / 5 + step * u32::try_from(number).expect("fewer than 2^32");
        let within = if mood == Mood::Good { Duration::from_secs(3_600) } else { at.saturating_sub(begun.elapsed()) };
        open.push(shop.coordinator.begin_within(within));
    }
    let over = begun + scale.time.mul_f64(1.2);
    thread::sleep(over.saturating_duration_since(Instant::now()));
}

/// Measures a participant with a limited capacity, and ten times the clients that it takes to use
/// it up.
fn overloaded(scale: Scale, turned: bool) -> io::Result<Figures> {
    let mut crowds = [scale.crowd / 10, scale.crowd];
    if turned {
        crowds.reverse();
    }
    let (mut capacity, mut goodput, mut rss) = (0.0, 0.0, 0.0);
    for clients in crowds {
        let dir = fresh_dir()?;
        let shop = Shop::open(dir.path(), Reached::Pooled(1), 1 << 17)?;
        shop.bad.set(Mood::Slow(Duration::from_micros(1_200)));
        let before = rss_mb();
        let found = crowd(&shop, clients, scale.time);
        if clients == scale.crowd {
            (goodput, rss) = (found, rss_mb() - before);
        } else {
            capacity = found;
        }
        shop.bad.set(Mood::Good);
    }
    Ok(vec![
        ("capacity", "tx/s", capacity),
        ("goodput_ratio", "ratio", goodput / capacity),
        ("rss_growth_mb", "MB", rss),
    ])
}

/// Returns the transactions a second that this number of clients get done at the participant, once
/// each client has begun. A client that is refused tries again after a while.
fn crowd(shop: &Shop, clients: usize, time: Duration) -> f64 {
    const COMES_AGAIN: Duration = Duration::from_millis(100);
    const STACK: usize = 64 << 10;
    /// Time that is not measured: a crowd that came at once takes the prepare time-out to be sorted
    /// out.
    const FIRST_RUSH: Duration = Duration::from_secs(8);
    let (done, counts, over) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        for client in 0..clients as u64 {
            let (done, counts, over) = (&done, &counts, &over);
            let work = move || {
                let mut random = fastrand::Rng::with_seed(client);
                while !over.load(Ordering::Relaxed) {
                    if shop.buy_bad() {
                        done.fetch_add(u64::from(counts.load(Ordering::Relaxed)), Ordering::Relaxed);
                    } else {
                        thread::sleep(COMES_AGAIN.mul_f64(0.5 + random.f64()));
                    }
                }
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work).expect("a thread");
        }
        thread::sleep(FIRST_RUSH);
        let begun = Instant::now();
        counts.store(true, Ordering::Relaxed);
        thread::sleep(time);
        counts.store(false, Ordering::Relaxed);
        let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        shop.bad.set(Mood::Good);
        rate
    })
}
