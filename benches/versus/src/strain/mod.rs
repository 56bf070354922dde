//! What one bad participant, or a crowd, costs transactions that have nothing to do with it.
//!
//! Each figure is a ratio to the same load, in the same run, with the same participant in good
//! health; or it is a cost in memory, in the log, or at the next opening. `goodput_ratio` compares
//! an overloaded participant with its own capacity, which is what it does for a tenth of the
//! clients.

mod cases;
mod shop;

use std::{collections::BTreeMap, error::Error, fmt::Write as _, fs, path::Path, time::Duration};

use clap::Args;

use cases::{CASES, Figures};

/// How to measure.
#[derive(Args)]
pub struct Options {
    /// One short round of each case.
    #[arg(long)]
    quick: bool,

    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Number of rounds, of which the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long each case is measured in each round, with and without the strain.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// Sizes of the cases.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    time: Duration,
    /// Number of clients of the overloaded participant.
    crowd: usize,
    /// Number of transactions that expire.
    expiring: usize,
}

const IMPLEMENTATION: &str = "ringpact";

/// Measures, prints the table, writes the CSV.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let (rounds, seconds) = if options.quick { (1, 2) } else { (options.rounds, options.seconds) };
    let scale = Scale { time: Duration::from_secs(seconds), crowd: 3_000, expiring: 1_000_000 };
    let (mut csv, mut table) = (String::from("what,case,implementation,value,unit\n"), String::new());
    for (case, measure) in CASES {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == case) {
            continue;
        }
        let mut found: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        for round in 0..rounds {
            eprintln!("{case}, round {} of {rounds} ...", round + 1);
            let figures: Figures = measure(scale, round % 2 == 1)?;
            for (what, unit, value) in figures {
                found.entry((what, unit)).or_default().push(value);
            }
        }
        for ((what, unit), mut values) in found {
            values.sort_by(f64::total_cmp);
            let median = values[values.len() / 2];
            let _ = writeln!(csv, "{what},{case},{IMPLEMENTATION},{median:.4},{unit}");
            let _ = writeln!(table, "| {what} | {case} | {median:.3} | {unit} |");
        }
    }
    println!("| what | case | {IMPLEMENTATION} | unit |\n|---|---|---|---|\n{table}");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/versus");
    fs::create_dir_all(&directory)?;
    let path = directory.canonicalize()?.join("strain.csv");
    fs::write(&path, csv)?;
    eprintln!("{}", path.display());
    Ok(())
}
