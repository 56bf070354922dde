//! What a join costs: its clients, its keys, and the node that joins.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::sharding::Pace;

use super::{
    Figures, Options,
    clients::{Clients, Window, pass, percentile},
    shop::{Add, JOINS, NODES, Sharded, files, position, wait},
};
use crate::log::{failed, fresh_dir};

/// The paces, and what their rows are called.
const PACES: [(&str, fn(&Options) -> Pace); 2] =
    [("default-pace", Options::pace), ("unthrottled", |_| Pace::new().unthrottled())];

/// Number of keys that are written all the time by a thread each, while they move.
const PROBERS: usize = 8;

/// Number of threads of plain transactions: as many as chunks go into one node at once.
const WRITERS: u64 = 2;

/// Throughput and latency of clients before, during and after a join, at both paces in turn.
pub fn under_load(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let (dir, stock) = (fresh_dir()?, options.stock());
    let shop = Sharded::open(&files(dir.path()), stock)?;
    let keys: Vec<u64> = (0..stock.keys).collect();
    let mut committed = 0;
    for round in 0..options.rounds() {
        for turn in 0..PACES.len() {
            let (name, pace) = PACES[(turn + round) % PACES.len()];
            let least = shop.bytes_to_join()?;
            let (clients, result) = Clients::during(&shop, &keys, options.clients, |_| -> io::Result<_> {
                pass(options.time() / 4);
                let before = pass(options.time());
                let begun = Instant::now();
                let moving = shop.join(pace(options))?;
                wait(&moving)?;
                let during = (begun, Instant::now());
                let after = pass(options.time());
                Ok((before, during, after, moving.progress()))
            });
            let (before, during, after, progress) = result?;
            committed += clients.committed.load(Ordering::Relaxed);
            let all = [before, during, after].map(|window| clients.window(window));
            let [before, in_between, after] = all;
            let ratio = |of: fn(&Window) -> f64, window: &Window| of(window) / of(&before);
            let mut add = |what, unit, value| figures.add(what, options.clients, name, unit, value);
            for (window, [rate, p99]) in all.iter().zip([
                ["before_tx_per_s", "before_p99_us"],
                ["during_tx_per_s", "during_p99_us"],
                ["after_tx_per_s", "after_p99_us"],
            ]) {
                add(rate, "tx/s", window.per_s);
                add(p99, "us", window.p99_us);
            }
            add("during_before", "ratio", ratio(|window| window.per_s, &in_between));
            add("after_before", "ratio", ratio(|window| window.per_s, &after));
            add("p99_during_before", "ratio", ratio(|window| window.p99_us, &in_between));
            let seconds = (during.1 - during.0).as_secs_f64();
            add("join_seconds", "s", seconds);
            add("join_mb_per_s", "MB/s", progress.bytes as f64 / 1e6 / seconds);
            add("chunk_kb", "kB", progress.bytes as f64 / 1e3 / progress.chunks as f64);
            add("bytes_moved_least", "ratio", progress.bytes as f64 / least as f64);
            add("bytes_sent_again", "bytes", progress.bytes_again as f64);
            add("failed_tx", "tx", clients.failed.load(Ordering::Relaxed) as f64);
            shop.leave()?;
        }
    }
    shop.check(stock, [committed; 2])
}

/// How long one key can't be written while it moves, and how long a transaction takes that writes as
/// much. In between, nothing else runs but the writers of the keys.
pub fn of_one_key(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let (dir, stock) = (fresh_dir()?, options.stock());
    let shop = Sharded::open(&files(dir.path()), stock)?;
    let keys = shop.moving_keys(stock)?;
    let mut committed = 0;
    for round in 0..options.rounds() {
        for turn in 0..PACES.len() {
            let (name, pace) = PACES[(turn + round) % PACES.len()];
            let probes = Probes::default();
            let (progress, mut payload) = thread::scope(|scope| -> io::Result<_> {
                for prober in 0..PROBERS {
                    let keys: Vec<u64> = keys.iter().copied().skip(prober).step_by(PROBERS).collect();
                    scope.spawn(|| probes.run(&shop, keys));
                }
                let join = || {
                    let moving = shop.join(pace(options))?;
                    wait(&moving)?;
                    Ok::<_, io::Error>(moving.progress())
                };
                let progress = join();
                let payload = progress.and_then(|progress| {
                    // The same probers go on meanwhile, at keys that stay where they are now.
                    let bytes = progress.bytes / progress.chunks.max(1);
                    let until = Instant::now() + options.time() * 2;
                    let mut times = Vec::new();
                    while Instant::now() < until {
                        let begun = Instant::now();
                        shop.write_like_a_chunk(1 + times.len() % NODES, 0, bytes)?;
                        times.push(begun.elapsed().as_secs_f64() * 1e6);
                    }
                    Ok((progress, times))
                });
                probes.stop.store(true, Ordering::Relaxed);
                payload
            })?;
            committed += probes.committed.load(Ordering::Relaxed);
            let mut held_up = std::mem::take(&mut *probes.held_up.lock());
            let mut add = |what, unit, value| figures.add(what, PROBERS, name, unit, value);
            add("keys_probed", "keys", held_up.len() as f64);
            let (one, other) = (percentile(&mut held_up, 0.99), percentile(&mut payload, 0.99));
            add("key_held_up_p99_us", "us", one);
            add("like_a_chunk_p99_us", "us", other);
            add("key_held_up_p99_ratio", "ratio", one / other);
            let (one, other) = (percentile(&mut held_up, 0.5), percentile(&mut payload, 0.5));
            add("key_held_up_p50_us", "us", one);
            add("like_a_chunk_p50_us", "us", other);
            add("longest_freeze_us", "us", progress.longest_freeze.as_secs_f64() * 1e6);
            shop.leave()?;
        }
    }
    shop.check(stock, [committed, 0])
}

/// Threads that write one key each, until it has moved, and then the next.
#[derive(Default)]
struct Probes {
    /// The longest time that a try of a key took, for each key that moved meanwhile.
    held_up: Mutex<Vec<f64>>,
    committed: AtomicU64,
    stop: AtomicBool,
}

impl Probes {
    fn run(&self, shop: &Sharded, mut keys: Vec<u64>) {
        fastrand::shuffle(&mut keys);
        let is_there = |key| shop.clients[0].locate(position(key)).is_ok_and(|(node, _)| node == *JOINS);
        let mut held_up = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(key) = keys.iter().copied().find(|key| !is_there(*key)) else {
                self.write(shop, keys[0]);
                continue;
            };
            let mut longest = Duration::ZERO;
            while !self.stop.load(Ordering::Relaxed) {
                let had_moved = is_there(key);
                longest = longest.max(self.write(shop, key));
                if had_moved {
                    held_up.push(longest.as_secs_f64() * 1e6);
                    break;
                }
            }
            keys.retain(|key| !is_there(*key));
            if keys.is_empty() {
                keys.push(key);
            }
        }
        self.held_up.lock().append(&mut held_up);
    }

    /// Writes the key, and returns how long it took until the shard let the work in.
    fn write(&self, shop: &Sharded, key: u64) -> Duration {
        let mut txn = shop.cluster.begin();
        let begun = Instant::now();
        let worked = shop.clients[0].execute(&mut txn, Add { key, pieces: 1 });
        let time = begun.elapsed();
        if worked.is_ok() && txn.commit().wait().is_ok() {
            self.committed.fetch_add(1, Ordering::Relaxed);
        }
        time
    }
}

/// How fast data moves while nothing else happens, beside plain transactions that write as much into
/// the same logs; and while all clients write to what moves.
pub fn rates(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let (dir, stock) = (fresh_dir()?, options.stock());
    let shop = Sharded::open(&files(dir.path()), stock)?;
    let keys = shop.moving_keys(stock)?;
    let mut committed = 0;
    for _ in 0..options.rounds() {
        for (name, pace) in PACES {
            let begun = Instant::now();
            let moving = shop.join(pace(options))?;
            wait(&moving)?;
            let (idle, progress) = (begun.elapsed().as_secs_f64(), moving.progress());
            let plain = plain(&shop, progress.bytes, progress.chunks)?;
            shop.leave()?;
            let (clients, busy) = Clients::during(&shop, &keys, options.clients, |_| -> io::Result<_> {
                pass(options.time() / 4);
                let begun = Instant::now();
                let moving = shop.join(pace(options))?;
                wait(&moving)?;
                Ok((begun.elapsed().as_secs_f64(), moving.progress()))
            });
            let (busy, under_writes) = busy?;
            committed += clients.committed.load(Ordering::Relaxed);
            shop.leave()?;
            let mut add = |what, unit, value| figures.add(what, 0, name, unit, value);
            add("move_mb_per_s", "MB/s", progress.bytes as f64 / 1e6 / idle);
            add("plain_mb_per_s", "MB/s", progress.bytes as f64 / 1e6 / plain);
            add("move_plain", "ratio", plain / idle);
            add("move_chunk_kb", "kB", progress.bytes as f64 / 1e3 / progress.chunks as f64);
            let mut add = |what, unit, value| figures.add(what, options.clients, name, unit, value);
            add("join_all_writes_s", "s", busy);
            add("join_all_writes_idle", "ratio", busy / idle);
            add("all_writes_sent_again", "bytes", under_writes.bytes_again as f64);
            add("all_writes_failed_tx", "tx", clients.failed.load(Ordering::Relaxed) as f64);
        }
    }
    shop.check(stock, [committed; 2])
}

/// Returns how many seconds plain transactions take that write these bytes, in as many records.
fn plain(shop: &Sharded, bytes: u64, chunks: u64) -> io::Result<f64> {
    let each = bytes / chunks.max(1);
    // The participants are opened by the first.
    (1..=NODES).try_for_each(|from| shop.write_like_a_chunk(from, 0, 64))?;
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    thread::scope(|scope| {
        let write = || -> io::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= chunks {
                    return Ok(());
                }
                shop.write_like_a_chunk(1 + number as usize % NODES, number, each)?;
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| failed("a writer panicked"))?)
    })?;
    Ok(begun.elapsed().as_secs_f64())
}
