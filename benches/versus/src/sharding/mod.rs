//! Sharded services: what it costs that data can move, and what a move costs.
//!
//! A shop has goods and accounts on four nodes, and a fifth joins. Each node has a log of its own, and
//! so has the coordinator. What stands in one row was measured in one run, in turn.

mod clients;
mod idle;
mod joins;
mod keeper;
mod redis;
mod shop;

use std::{error::Error, io, time::Duration};

use clap::Args;

use ringpact::sharding::Pace;

use crate::report::Report;
use shop::Stock;

/// How to measure.
#[derive(Args)]
pub struct Options {
    /// A smoke test: one short round of few records. The figures mean nothing.
    #[arg(long)]
    quick: bool,

    /// Only these cases.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Number of rounds, of which the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,

    /// How long clients are measured before and after a join.
    #[arg(long, default_value_t = 2_000)]
    milliseconds: u64,

    /// Number of clients.
    #[arg(long, default_value_t = 8)]
    clients: usize,

    /// Number of keys, each of which has a record in both services.
    #[arg(long, default_value_t = 200_000)]
    keys: u64,

    /// MB a second of the default pace, to try another one.
    #[arg(long)]
    mb_per_second: Option<u64>,

    /// Maximum number of kB of a chunk of the default pace, to try another one.
    #[arg(long)]
    chunk_kb: Option<u64>,

    /// Number of bytes of a record.
    #[arg(long, default_value_t = 1_000)]
    record_bytes: usize,
}

impl Options {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds as usize }
    }

    fn time(&self) -> Duration {
        Duration::from_millis(if self.quick { 200 } else { self.milliseconds })
    }

    /// Returns the default pace, or the one that is tried in its place.
    fn pace(&self) -> Pace {
        let pace = self.mb_per_second.map_or_else(Pace::new, |mb| Pace::new().bytes_per_second(mb * 1_000_000));
        self.chunk_kb.map_or_else(|| pace.clone(), |kb| pace.clone().chunk_bytes(kb * 1_000))
    }

    const fn stock(&self) -> Stock {
        Stock { keys: if self.quick { 5_000 } else { self.keys }, record_bytes: self.record_bytes }
    }
}

/// The figures of all rounds of a case.
#[derive(Default)]
pub struct Figures(Vec<(Row, Vec<f64>)>);

/// What was measured, the number of clients, the implementation, the unit.
type Row = (&'static str, usize, &'static str, &'static str);

impl Figures {
    fn add(
        &mut self,
        what: &'static str,
        clients: usize,
        implementation: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        let row = (what, clients, implementation, unit);
        match self.0.iter_mut().find(|(other, _)| *other == row) {
            Some((_, values)) => values.push(value),
            None => self.0.push((row, vec![value])),
        }
    }
}

type Case = fn(&Options, &mut Figures) -> io::Result<()>;

const CASES: [(&str, Case); 7] = [
    ("calls", idle::calls),
    ("transactions", idle::transactions),
    ("load", joins::under_load),
    ("key", joins::of_one_key),
    ("rates", joins::rates),
    ("keeper", keeper::restart),
    ("redis", redis::reshard),
];

/// Units of which more is better.
const MORE: [&str; 4] = ["tx/s", "MB/s", "ratio", "chunks/s"];

/// Measures, prints the table, writes the CSV.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut report = Report::by_clients(&[]);
    for (name, case) in CASES {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        eprintln!("{name} ...");
        let mut figures = Figures::default();
        case(options, &mut figures)?;
        for ((what, clients, implementation, unit), values) in figures.0 {
            report.add((what, clients, implementation), unit, MORE.contains(&unit), values);
        }
    }
    report.skip(
        "redis: a cluster whose slots `redis-cli --cluster reshard` moves. It has no transactions between nodes."
            .into(),
    );
    println!("{}", report.markdown());
    eprintln!("{}", report.write_csv("sharding")?.display());
    Ok(())
}
