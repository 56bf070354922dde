//! Runs the simulation for any number of seeds.
//!
//! ```text
//! cargo run --release --bin simulate --features tokio -- --seeds 100000
//!     -- --seed 42              # one seed; prints everything that happens
//!     -- --mutant ForgetsEarly  # plants a bug, which the runs must find
//!     -- --mutants --seeds 300  # plants each bug in turn, and counts how often it is found
//!     -- --cluster              # the same of the cluster's world, in which data moves
//! ```
//!
//! Without the feature `tokio` no participant is asynchronous. So a seed that has an asynchronous
//! participant with the feature is another run without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use ringpact_simulation::{self as simulation, cluster, mutants::Mutant};

/// Runs the shop, or a cluster, in a simulated world.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run this seed alone, and print everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the cluster's world instead of the shop's.
    #[arg(long)]
    cluster: bool,
    /// Plant this bug; see `tests/simulation/mutants.rs` and `tests/simulation/cluster/mutants.rs`.
    #[arg(long)]
    mutant: Option<String>,
    /// Plant each bug in turn, and print how many of the seeds find it.
    #[arg(long)]
    mutants: bool,
    /// How many threads to use. Each runs seeds of its own.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

/// A bug that is planted in one of the two worlds, or none.
#[derive(Clone, Copy)]
enum Planted {
    InShop(Option<Mutant>),
    InCluster(Option<cluster::mutants::Mutant>),
}

/// What came of a run in either world.
struct Outcome {
    seed: u64,
    shown: String,
    counts: Vec<(&'static str, u64)>,
    is_wrong: bool,
}

impl Planted {
    /// All bugs of one world.
    fn all(is_cluster: bool) -> Vec<Self> {
        if is_cluster {
            cluster::mutants::Mutant::all().map(|mutant| Self::InCluster(Some(mutant))).collect()
        } else {
            Mutant::all().map(|mutant| Self::InShop(Some(mutant))).collect()
        }
    }

    fn find(is_cluster: bool, name: Option<&str>) -> Result<Self, String> {
        let Some(name) = name else {
            return Ok(if is_cluster { Self::InCluster(None) } else { Self::InShop(None) });
        };
        let all = Self::all(is_cluster);
        let names: Vec<_> = all.iter().map(|planted| planted.name()).collect();
        let found = all.into_iter().find(|planted| planted.name() == name);
        found.ok_or_else(|| format!("there are {}", names.join(", ")))
    }

    fn name(self) -> String {
        match self {
            Self::InShop(mutant) => mutant.map_or_else(String::new, |mutant| format!("{mutant:?}")),
            Self::InCluster(mutant) => mutant.map_or_else(String::new, |mutant| format!("{mutant:?}")),
        }
    }

    fn limit(self) -> u64 {
        match self {
            Self::InShop(mutant) => mutant.map_or(0, Mutant::limit),
            Self::InCluster(mutant) => mutant.map_or(0, cluster::mutants::Mutant::limit),
        }
    }

    fn run(self, seed: u64, is_shown: bool) -> Outcome {
        match self {
            Self::InShop(mutant) => {
                let report =
                    if is_shown { simulation::run(seed, mutant, true) } else { simulation::run_in_time(seed, mutant) };
                let (counts, is_wrong) = (report.counts.by_name(), !report.wrong.is_empty());
                Outcome { seed, shown: report.to_string(), counts, is_wrong }
            }
            Self::InCluster(mutant) => {
                let report =
                    if is_shown { cluster::run(seed, mutant, true) } else { cluster::run_in_time(seed, mutant) };
                let (counts, is_wrong) = (report.counts.by_name(), !report.wrong.is_empty());
                Outcome { seed, shown: report.to_string(), counts, is_wrong }
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let planted = match Planted::find(arguments.cluster, arguments.mutant.as_deref()) {
        Ok(planted) => planted,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let found_wrong = match arguments.seed {
        _ if arguments.mutants => return try_mutants(&arguments),
        Some(seed) => {
            let outcome = planted.run(seed, true);
            println!("{}", outcome.shown);
            outcome.is_wrong
        }
        None => {
            let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left, {msg}";
            let bar = ProgressBar::new(arguments.seeds);
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            // Printed with and without a visible bar.
            let tell = |outcome: &Outcome| {
                bar.suspend(|| println!("{}\n  replay it with --seed {}", outcome.shown, outcome.seed));
            };
            let sums = run_many(&arguments, planted, &bar, tell);
            bar.finish();
            let shown: Vec<_> = sums.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
            println!("{}", shown.join(", "));
            !sums.failed.is_empty()
        }
    };
    if found_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints how often each mutant is found, and so how many seeds find it almost surely.
fn try_mutants(arguments: &Arguments) -> ExitCode {
    let mut missed = false;
    println!("{:<28} {:>8} {:>5} {:>5}", "mutant", "found by", "first", "limit");
    for planted in Planted::all(arguments.cluster) {
        let sums = run_many(arguments, planted, &ProgressBar::hidden(), |_| {});
        let first = sums.failed.first().map_or_else(String::new, u64::to_string);
        let (name, found) = (planted.name(), sums.failed.len());
        println!("{name:<28} {found:>8} {first:>5} {:>5}", planted.limit());
        missed |= sums.failed.is_empty();
    }
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The results of many runs.
#[derive(Default)]
struct Sums {
    counts: BTreeMap<&'static str, u64>,
    /// The seeds of runs in which something was wrong.
    failed: BTreeSet<u64>,
}

fn run_many(arguments: &Arguments, planted: Planted, bar: &ProgressBar, tell: impl Fn(&Outcome) + Sync) -> Sums {
    let (next, sums) = (AtomicU64::new(0), Mutex::<Sums>::default());
    thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let outcome = planted.run(arguments.first + number, false);
                    let mut sums = sums.lock();
                    for (what, count) in &outcome.counts {
                        *sums.counts.entry(what).or_insert(0) += count;
                    }
                    if outcome.is_wrong {
                        sums.failed.insert(outcome.seed);
                        tell(&outcome);
                    }
                    bar.set_message(format!("{} failed", sums.failed.len()));
                    bar.inc(1);
                }
            });
        }
    });
    sums.into_inner()
}
