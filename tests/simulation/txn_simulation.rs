//! Whole runs of the production code in a simulated world; see `lib.rs`.
//!
//! A seed that fails is printed, and `cargo run --release --bin simulate -- --seed N` shows
//! everything that happens in it. The same example runs as many seeds as one likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    thread,
};

use ringpact_simulation::{OVERGROWN, Report, find, mutants::Mutant, run, run_in_time};

/// How many seeds are run each time. More of them are for the example.
const SEEDS: u64 = 1_000;

/// A seed is the same run only with the same features.
const FEATURES: &str = if cfg!(feature = "tokio") { " --features tokio" } else { "" };

/// The one window that two-phase commit with a last resource leaves open is a small one. And of the
/// logs that are lost, few have a decision in them that matters.
/// And few participants are away long enough for their circuit to open.
const RAREST: [&str; 3] = ["letters about nothing", "unclaimed transactions", "branches refused by circuits"];

#[test]
fn nothing_is_lost_torn_or_stuck() {
    let mut sums = BTreeMap::<&str, u64>::new();
    for seed in 0..SEEDS {
        let Report { counts, wrong, .. } = run_in_time(seed, None);
        assert!(wrong.is_empty(), "cargo run --release --bin simulate{FEATURES} -- --seed {seed}\n{wrong:#?}");
        for (what, count) in counts.by_name() {
            *sums.entry(what).or_default() += count;
        }
    }
    println!("{sums:?}");
    // It was worth something: everything that can happen has.
    let at_least = |what: &str| if RAREST.contains(&what) { SEEDS / 100 } else { SEEDS / 10 };
    let rare: Vec<_> = sums.iter().filter(|(what, count)| **count < at_least(what)).collect();
    assert!(rare.is_empty(), "{rare:?}");
}

/// In this seed a coordinator is dropped while an append of its waits for room in the log. The drop
/// waited for that at a lock that the simulation knows nothing of, so the thread that was to make room
/// never got its turn.
#[test]
fn a_coordinator_that_goes_while_an_append_waits_for_room_holds_nobody_up() {
    let seed = if cfg!(feature = "tokio") { 2269 } else { 2993 };
    let wrong = run_in_time(seed, None).wrong;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_seed_replays_exactly() {
    let mut hashes = BTreeSet::new();
    for seed in 0..100 {
        let [first, second] = [(); 2].map(|()| run(seed, None, false));
        assert_eq!((first.hash, first.counts), (second.hash, second.counts), "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 100, "another seed, another run");
}

/// See [`Mutant`] for what is wrong with each.
#[test]
fn every_mutant_is_found() {
    println!("{:<28} {:>5} {:>5}", "mutant", "seed", "limit");
    let mutants = Mutex::new(Mutant::all());
    let look = || {
        loop {
            let Some(mutant) = mutants.lock().unwrap().next() else { return };
            let (name, limit) = (format!("{mutant:?}"), mutant.limit());
            let found = (0..limit).find_map(|seed| Some((seed, find(seed, mutant)?)));
            let Some((seed, wrong)) = found else { panic!("{name} is not found within {limit} seeds") };
            println!("{name:<28} {seed:>5} {limit:>5} {}", wrong.lines().next().unwrap_or_default());
        }
    };
    // Each run is alone on its thread, and some mutants take many seconds.
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(look)));
    });
}

/// Opening a log puts it in order, and the power cut before the end has all of them opened. So what
/// grows until it is opened shows only while its process lives.
#[test]
fn a_log_that_grows_without_need_is_found_while_its_process_lives() {
    let wrong: Vec<_> = (0..100).flat_map(|seed| run(seed, Some(Mutant::KeepsWhatHasEnded), false).wrong).collect();
    let others: Vec<_> = wrong.iter().filter(|what| !what.contains(OVERGROWN)).collect();
    assert!(others.is_empty() && !wrong.is_empty(), "{others:#?}");
}
