//! Runs the simulation for any number of seeds.
//!
//! ```text
//! cargo run --release --bin simulate --features tokio -- --seeds 100000
//!     -- --seed 42              # one seed; prints everything that happens
//!     -- --mutant ForgetsEarly  # plants a bug, which the runs must find
//!     -- --mutants --seeds 300  # plants each bug in turn, and counts how often it is found
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
use ringpact_simulation::{self as simulation, Report, mutants::Mutant};

/// Runs the shop in a simulated world.
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
    /// Plant this bug; see `tests/simulation/mutants.rs`.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// Plant each bug in turn, and print how many of the seeds find it.
    #[arg(long)]
    mutants: bool,
    /// How many threads to use. Each runs seeds of its own.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let names: Vec<_> = Mutant::all().map(|mutant| format!("{mutant:?}")).collect();
    let found = Mutant::all().find(|mutant| format!("{mutant:?}") == name);
    found.ok_or_else(|| format!("there are {}", names.join(", ")))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let found_wrong = match arguments.seed {
        _ if arguments.mutants => return try_mutants(&arguments),
        Some(seed) => {
            let report = simulation::run(seed, arguments.mutant, true);
            println!("{report}");
            !report.wrong.is_empty()
        }
        None => {
            let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left, {msg}";
            let bar = ProgressBar::new(arguments.seeds);
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            // Printed with and without a visible bar.
            let tell = |report: &Report| {
                bar.suspend(|| println!("{report}\n  replay it with --seed {}", report.seed));
            };
            let sums = run_many(&arguments, arguments.mutant, &bar, tell);
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
    for mutant in Mutant::all() {
        let sums = run_many(arguments, Some(mutant), &ProgressBar::hidden(), |_| {});
        let first = sums.failed.first().map_or_else(String::new, u64::to_string);
        let (name, found) = (format!("{mutant:?}"), sums.failed.len());
        println!("{name:<28} {found:>8} {first:>5} {:>5}", mutant.limit());
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

fn run_many(arguments: &Arguments, mutant: Option<Mutant>, bar: &ProgressBar, tell: impl Fn(&Report) + Sync) -> Sums {
    let (next, sums) = (AtomicU64::new(0), Mutex::<Sums>::default());
    thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let report = simulation::run_in_time(arguments.first + number, mutant);
                    let mut sums = sums.lock();
                    for (what, count) in report.counts.by_name() {
                        *sums.counts.entry(what).or_insert(0) += count;
                    }
                    if !report.wrong.is_empty() {
                        sums.failed.insert(report.seed);
                        tell(&report);
                    }
                    bar.set_message(format!("{} failed", sums.failed.len()));
                    bar.inc(1);
                }
            });
        }
    });
    sums.into_inner()
}
