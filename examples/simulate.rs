//! Runs the simulation of `tests/simulation` for as many seeds as one likes.
//!
//! ```text
//! cargo run --release --example simulate -- --seeds 100000
//! cargo run --release --example simulate -- --seed 42                  # once, with everything that happens in it
//! cargo run --release --example simulate -- --mutant ForgetsEarly      # with a bug planted, to see it found
//! ```

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use simulation::mutants::Mutant;

/// Runs the shop in a simulated world.
#[derive(Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run this one alone, and print everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant this bug; see `tests/simulation/mutants.rs`.
    #[arg(long, value_parser = mutant)]
    mutant: Option<Mutant>,
    /// How many threads to use; each runs seeds of its own.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

fn mutant(name: &str) -> Result<Mutant, String> {
    let names = || Mutant::ALL.map(|mutant| format!("{mutant:?}"));
    let found = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    found.ok_or_else(|| format!("there are {}", names().join(", ")))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wrong = match arguments.seed {
        Some(seed) => {
            let report = simulation::run(seed, arguments.mutant, true);
            println!("{report}");
            u64::from(!report.wrong.is_empty())
        }
        None => run_many(&arguments),
    };
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_many(arguments: &Arguments) -> u64 {
    let style = "{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left, {msg}";
    let bar = ProgressBar::new(arguments.seeds);
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    let (next, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let sums = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let report = simulation::run_in_time(arguments.first + number, arguments.mutant);
                    let mut sums = sums.lock();
                    for (what, count) in report.counts.by_name() {
                        *sums.entry(what).or_insert(0) += count;
                    }
                    if !report.wrong.is_empty() {
                        wrong.fetch_add(1, Ordering::Relaxed);
                        // Whether anybody watches the bar or not.
                        bar.suspend(|| println!("{report}\n  replay it with --seed {}", report.seed));
                    }
                    bar.set_message(format!("{} failed", wrong.load(Ordering::Relaxed)));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish();
    let sums: Vec<_> = sums.lock().iter().map(|(what, count)| format!("{count} {what}")).collect();
    println!("{}", sums.join(", "));
    wrong.into_inner()
}
