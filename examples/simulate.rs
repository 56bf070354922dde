//! Runs the simulation of `tests/simulation` for as many seeds as one likes.
//!
//! ```text
//! cargo run --release --example simulate -- --seeds 100000
//! cargo run --release --example simulate -- --seed 42          # once, with everything that happens in it
//! ```

#[path = "../tests/simulation/mod.rs"]
mod simulation;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

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
    /// How many threads to use; each runs seeds of its own.
    #[arg(long, default_value_t = thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wrong = match arguments.seed {
        Some(seed) => {
            let report = simulation::run(seed, None, true);
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
    let sums = Mutex::new((0, 0, 0));
    thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        return;
                    }
                    let report = simulation::run(arguments.first + number, None, false);
                    let mut sums = sums.lock();
                    let counts = report.counts;
                    sums.0 += counts.committed;
                    sums.1 += counts.rolled_back + counts.indeterminate + counts.unanswered;
                    sums.2 += counts.crashes;
                    if !report.wrong.is_empty() {
                        wrong.fetch_add(1, Ordering::Relaxed);
                        bar.println(format!("{report}\n  replay it with --seed {}", report.seed));
                    }
                    bar.set_message(format!("{} failed", wrong.load(Ordering::Relaxed)));
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish();
    let (committed, others, crashes) = *sums.lock();
    println!("{committed} transactions committed, {others} did not, {crashes} crashes");
    wrong.into_inner()
}
