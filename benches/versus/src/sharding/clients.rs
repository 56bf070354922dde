//! Clients that buy all the time, and what they have seen in a window of time.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::shop::Buy;

/// What clients did in a window of time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub per_s: f64,
    pub p99_us: f64,
}

/// Clients at work.
pub struct Clients {
    /// When a transaction ended, and how long it took.
    samples: Mutex<Vec<(Instant, Duration)>>,
    pub committed: AtomicU64,
    pub failed: AtomicU64,
    stop: AtomicBool,
}

impl Clients {
    /// Has `count` clients buy what these keys name, while `meanwhile` runs.
    pub fn during<R>(shop: &impl Buy, keys: &[u64], count: usize, meanwhile: impl FnOnce(&Self) -> R) -> (Self, R) {
        let clients = Self {
            samples: Mutex::default(),
            committed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        };
        let result = thread::scope(|scope| {
            for _ in 0..count {
                scope.spawn(|| clients.buy(shop, keys));
            }
            let result = meanwhile(&clients);
            clients.stop.store(true, Ordering::Relaxed);
            result
        });
        (clients, result)
    }

    fn buy(&self, shop: &impl Buy, keys: &[u64]) {
        let mut own = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let key = || keys[fastrand::usize(..keys.len())];
            let begun = Instant::now();
            if shop.buy([key(), key()]) {
                self.committed.fetch_add(1, Ordering::Relaxed);
                own.push((Instant::now(), begun.elapsed()));
            } else {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.samples.lock().append(&mut own);
    }

    /// Returns what happened between the two moments.
    pub fn window(&self, (begun, ended): (Instant, Instant)) -> Window {
        let samples = self.samples.lock();
        let inside = samples.iter().filter(|(at, _)| (begun..ended).contains(at));
        let mut times: Vec<_> = inside.map(|(_, time)| time.as_secs_f64() * 1e6).collect();
        let per_s = times.len() as f64 / (ended - begun).as_secs_f64();
        Window { per_s, p99_us: percentile(&mut times, 0.99) }
    }
}

/// Returns the value below which this part of the values lies, or NaN if there are none.
pub fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get((values.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

/// Sleeps, and returns when that began and ended.
pub fn pass(time: Duration) -> (Instant, Instant) {
    let begun = Instant::now();
    thread::sleep(time);
    (begun, Instant::now())
}
