//! Whole runs of a cluster in a simulated world; see `cluster/mod.rs`.
//!
//! A seed that fails is printed, and `cargo run --release --bin simulate -- --cluster --seed N` shows
//! everything that happens in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use ringpact_simulation::cluster::{Report, find, mutants::Mutant, run, run_in_time};

/// How many seeds are run each time. More of them are for the program.
const SEEDS: u64 = 80;

/// What few seeds see.
const RAREST: [&str; 3] = ["transactions given up", "hints followed", "indeterminate"];

/// Calls `look` on as many threads as the machine has. Each run is alone on its thread.
fn on_all_threads(look: impl Fn() + Sync) {
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(&look)));
    });
}

#[test]
fn data_that_moves_is_never_lost_doubled_or_out_of_reach() {
    let (next, sums) = (AtomicU64::new(0), Mutex::new(BTreeMap::<&str, u64>::new()));
    on_all_threads(|| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS {
                return;
            }
            let Report { counts, wrong, .. } = run_in_time(seed, None);
            assert!(wrong.is_empty(), "cargo run --release --bin simulate -- --cluster --seed {seed}\n{wrong:#?}");
            for (what, count) in counts.by_name() {
                *sums.lock().unwrap().entry(what).or_default() += count;
            }
        }
    });
    let sums = sums.into_inner().unwrap();
    println!("{sums:?}");
    // It was worth something: everything that can happen has.
    let at_least = |what: &str| if RAREST.contains(&what) { 0 } else { SEEDS / 10 };
    let rare: Vec<_> = sums.iter().filter(|(what, count)| **count < at_least(what)).collect();
    assert!(rare.is_empty(), "{rare:?}");
}

#[test]
fn a_seed_replays_exactly() {
    let mut hashes = BTreeSet::new();
    for seed in 0..10 {
        let [first, second] = [(); 2].map(|()| run(seed, None, false));
        assert_eq!((first.hash, first.counts), (second.hash, second.counts), "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 10, "another seed, another run");
}

/// See [`Mutant`] for what is wrong with each.
#[test]
fn every_mutant_is_found() {
    println!("{:<28} {:>5} {:>5}", "mutant", "seed", "limit");
    let mutants = Mutex::new(Mutant::all());
    on_all_threads(|| {
        loop {
            let Some(mutant) = mutants.lock().unwrap().next() else { return };
            let (name, limit) = (format!("{mutant:?}"), mutant.limit());
            let found = (0..limit).find_map(|seed| Some((seed, find(seed, mutant)?)));
            let Some((seed, wrong)) = found else { panic!("{name} is not found within {limit} seeds") };
            println!("{name:<28} {seed:>5} {limit:>5} {}", wrong.lines().next().unwrap_or_default());
        }
    });
}
