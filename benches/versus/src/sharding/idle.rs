//! What sharding costs while nothing moves.

use std::{hint::black_box, io, time::Instant};

use ringpact::{sharding::Tenure, txn::Transaction};

use super::{
    Figures, Options,
    clients::{Clients, pass},
    shop::{Add, Buy, Logs, Plain, Sharded, Stock, files, position},
};
use crate::log::fresh_dir;

/// Number of transactions that are open at once while single calls are timed.
const OPEN: usize = 256;

/// Number of times that this is done in a round.
const REPEATS: usize = 200;

/// Few and small, because here the records don't matter.
const STOCK: Stock = Stock { keys: 10_000, record_bytes: 100 };

/// Nanoseconds of the calls with which a client comes to its shard.
pub fn calls(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let (sharded, plain) = (Sharded::open(&Logs::Memory, STOCK)?, Plain::open(&Logs::Memory, STOCK)?);
    let repeats = if options.quick { 2 } else { REPEATS };
    let key = || fastrand::u64(..STOCK.keys);
    for _ in 0..options.rounds() {
        let mut times = [0.0; 6];
        for _ in 0..repeats {
            let keys: Vec<u64> = (0..OPEN).map(|_| key()).collect();
            let begin = |shop: &dyn Fn() -> Transaction| -> Vec<Transaction> { (0..OPEN).map(|_| shop()).collect() };
            let mut of_sharded = begin(&|| sharded.begin());
            let mut of_plain = begin(&|| plain.begin());

            // The first call makes the branch, and the coordinator's share of that is not sharding's.
            let begun = Instant::now();
            for (txn, key) in of_plain.iter_mut().zip(&keys) {
                black_box(plain.route(txn, 0, *key));
            }
            times[0] += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            for (txn, key) in of_sharded.iter_mut().zip(&keys) {
                black_box(sharded.clients[0].branch_for(txn, position(*key)).is_ok());
            }
            times[1] += begun.elapsed().as_secs_f64();

            // The service and the resource manager do the same on both sides.
            let begun = Instant::now();
            for (txn, key) in of_plain.iter_mut().zip(&keys) {
                plain.execute(txn, 0, Add { key: *key, pieces: 0 });
            }
            times[2] += begun.elapsed().as_secs_f64();
            let routed: Vec<_> = of_sharded
                .iter_mut()
                .zip(&keys)
                .map(|(txn, key)| {
                    let routed = sharded.clients[0].branch_for(txn, position(*key)).expect("it is open");
                    (sharded.host(0, &routed.node), routed)
                })
                .collect();
            let begun = Instant::now();
            for ((host, routed), key) in routed.iter().zip(&keys) {
                let add = Add { key: *key, pieces: 0 };
                let done = host.execute(&routed.branch, routed.known, add, std::time::Duration::ZERO);
                done.expect("nothing moves");
            }
            times[3] += begun.elapsed().as_secs_f64();
            drop((of_sharded, of_plain, routed));

            // All of it, as clients call it.
            let mut of_sharded = begin(&|| sharded.begin());
            let mut of_plain = begin(&|| plain.begin());
            let begun = Instant::now();
            for (txn, key) in of_plain.iter_mut().zip(&keys) {
                plain.execute(txn, 0, Add { key: *key, pieces: 0 });
            }
            times[4] += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            for (txn, key) in of_sharded.iter_mut().zip(&keys) {
                sharded.clients[0].execute(txn, Add { key: *key, pieces: 0 }).expect("nothing moves");
            }
            times[5] += begun.elapsed().as_secs_f64();
        }
        let [route, branch_for, plain_known, gated, plain_all, sharded_all] =
            times.map(|seconds| seconds * 1e9 / (OPEN * repeats) as f64);
        let mut add = |what, implementation, value| figures.add(what, 1, implementation, "ns", value);
        add("route_ns", "unsharded", route);
        add("route_ns", "sharded", branch_for);
        add("execute_after_route_ns", "unsharded", plain_known);
        add("execute_after_route_ns", "sharded", gated);
        add("execute_ns", "unsharded", plain_all);
        add("execute_ns", "sharded", sharded_all);
        add("execute_ns", "difference", sharded_all - plain_all);
    }
    // A read alone.
    let (node, known) = sharded.clients[0].locate(position(0)).expect("it is open");
    let host = sharded.host(0, &node);
    let reads = 1_000_000_u32;
    for _ in 0..options.rounds() {
        let begun = Instant::now();
        for _ in 0..reads {
            let read = host.read(position(0), known, std::time::Duration::ZERO, |_| black_box(()));
            black_box(read.is_ok());
        }
        figures.add("read_gate_ns", 1, "sharded", "ns", begun.elapsed().as_secs_f64() * 1e9 / f64::from(reads));
        let begun = Instant::now();
        for number in 0..reads {
            black_box(sharded.clients[0].locate(position(u64::from(number))).is_ok());
        }
        figures.add("locate_ns", 1, "sharded", "ns", begun.elapsed().as_secs_f64() * 1e9 / f64::from(reads));
    }
    let _: Tenure = known;
    Ok(())
}

/// Whole transactions of two services, sharded and not, on the same logs.
pub fn transactions(options: &Options, figures: &mut Figures) -> io::Result<()> {
    let keys: Vec<u64> = (0..STOCK.keys).collect();
    for (name, threads) in [("file", options.clients), ("memory", 1)] {
        let dirs = [fresh_dir()?, fresh_dir()?];
        let logs = |index: usize| if name == "file" { files(dirs[index].path()) } else { Logs::Memory };
        let (sharded, plain) = (Sharded::open(&logs(0), STOCK)?, Plain::open(&logs(1), STOCK)?);
        let rate = |shop: &dyn Fn() -> f64| shop();
        let mut committed = 0;
        for round in 0..options.rounds() * 3 {
            let of_sharded = &mut || {
                let (clients, window) = Clients::during(&sharded, &keys, threads, |_| window(options));
                committed += clients.committed.load(std::sync::atomic::Ordering::Relaxed);
                clients.window(window).per_s
            };
            let of_plain = || {
                let (clients, window) = Clients::during(&plain, &keys, threads, |_| window(options));
                clients.window(window).per_s
            };
            // In another order each time.
            let (one, other) = if round % 2 == 0 {
                let one = of_sharded();
                (one, rate(&of_plain))
            } else {
                let other = rate(&of_plain);
                (of_sharded(), other)
            };
            let what = if name == "file" { "file_tx_per_s" } else { "memory_tx_per_s" };
            figures.add(what, threads, "sharded", "tx/s", one);
            figures.add(what, threads, "unsharded", "tx/s", other);
            let what = if name == "file" { "file_tx" } else { "memory_tx" };
            figures.add(what, threads, "sharded/unsharded", "ratio", one / other);
        }
        sharded.check(STOCK, [committed; 2])?;
    }
    Ok(())
}

fn window(options: &Options) -> (Instant, Instant) {
    pass(options.time() / 10);
    pass(options.time() / 2)
}
