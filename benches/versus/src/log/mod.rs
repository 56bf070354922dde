//! Logs: every implementation makes records of 128 bytes durable, and each client waits until its
//! own record is durable.
//!
//! The sketches are group committers without a format, checks, collection or recovery: the bound of
//! what a log can reach here. `ringpact` commits one record, as every other implementation does;
//! `ringpact-with-ends` is a transaction, which takes two records. `bare` is one write and sync
//! with nothing around them. Each thread makes one commit after the other; so does each task, on a
//! runtime of two workers. All write to the same file system.

mod bare;
mod bare_sync;
mod fjall;
pub mod load;
mod okaywal;
mod opening;
mod raft_engine;
mod redb;
mod ringpact;
pub mod sketch_epoch;
mod sketch_futex;
pub mod sketch_wakers;
mod sqlite;

use std::{collections::BTreeMap, error::Error, fmt::Display, fs, io, path::Path, time::Duration};

use clap::Args;
use tempfile::TempDir;

use crate::report::Report;
use load::{Blocking, Pace};
use ringpact::Commit;

/// Bytes of each record.
const RECORD_BYTES: usize = 128;

/// Implementations that are bounds, and take no part in the contest.
const YARDSTICKS: [&str; 4] = ["bare", "sketch-futex", "sketch-epoch", "sketch-wakers"];

/// How to measure.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    pace: Pace,

    /// Number of records in the log that is opened; 0 means that none is opened.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,

    /// Only implementations with one of these in their names, or with exactly this name if there is
    /// one.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Opens one in an empty directory, for this number of clients.
type Open = fn(&Path, usize) -> io::Result<Box<dyn Blocking>>;

/// The implementations that threads wait for.
const BLOCKING: [(&str, Open); 10] = [
    ("bare", |dir, _| Ok(Box::new(bare_sync::Bare::open(dir)?))),
    ("sketch-futex", |dir, clients| Ok(Box::new(sketch_futex::Sketch::open(dir, clients)?))),
    ("sketch-epoch", |dir, _| Ok(Box::new(sketch_epoch::Sketch::open(dir)?))),
    ("ringpact", |dir, _| Ok(Box::new(ringpact::Log::open(dir, Commit::One)?))),
    ("ringpact-with-ends", |dir, _| Ok(Box::new(ringpact::Log::open(dir, Commit::WithEnd)?))),
    ("raft-engine", |dir, _| Ok(Box::new(raft_engine::Peer::open(dir)?))),
    ("okaywal", |dir, _| Ok(Box::new(okaywal::Peer::open(dir)?))),
    ("redb", |dir, _| Ok(Box::new(redb::Peer::open(dir)?))),
    ("fjall", |dir, _| Ok(Box::new(fjall::Peer::open(dir)?))),
    ("sqlite", |dir, _| Ok(Box::new(sqlite::Peer::open(dir)?))),
];

/// The implementations that tasks wait for.
const ASYNC: [&str; 3] = ["sketch-wakers", "ringpact", "ringpact-with-ends"];

/// Measures, prints the table, writes the CSV.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let (rounds, time) = (options.pace.rounds(), options.pace.time());
    let is_name = |only: &str| ASYNC.contains(&only) || BLOCKING.iter().any(|(name, _)| *name == only);
    let is_meant = |name: &str, only: &str| if is_name(only) { name == only } else { name.contains(only) };
    let is_chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|only| is_meant(name, only));
    let mut report = Report::by_clients(&YARDSTICKS);
    for clients in &options.pace.threads {
        eprintln!("{clients} threads ...");
        threads(&mut report, *clients, rounds, time, &is_chosen)?;
    }
    for clients in &options.pace.tasks {
        eprintln!("{clients} tasks ...");
        tasks(&mut report, *clients, rounds, time, &is_chosen)?;
    }
    if is_chosen("ringpact") && options.records > 0 {
        eprintln!("opening ...");
        opening::measure(&mut report, rounds, if options.pace.quick { 20_000 } else { options.records })?;
    }
    report.skip(
        "ringpact commits records that end a transaction, and keeps nothing of them; ringpact-with-ends commits promises, which \
         are live, and ends them: twice the records, and something to collect."
            .into(),
    );
    println!("{}", report.markdown());
    let path = report.write_csv("log")?;
    eprintln!("{}", path.display());
    Ok(())
}

/// In each round every implementation runs once, and in each round another one begins, so that a
/// slow spell of the machine hits all alike.
pub fn turns<T>(all: &[T], round: usize) -> impl Iterator<Item = &T> {
    all.iter().cycle().skip(round % all.len().max(1)).take(all.len())
}

fn threads(
    report: &mut Report,
    clients: usize,
    rounds: usize,
    time: Duration,
    is_chosen: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    let mut found: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let chosen: Vec<_> =
        BLOCKING.iter().filter(|(name, _)| is_chosen(name) && (*name != "bare" || clients == 1)).collect();
    for round in 0..rounds {
        for (name, open) in turns(&chosen, round) {
            let dir = fresh_dir()?;
            let log = open(dir.path(), clients)?;
            let round = load::threads(&*log, clients, time);
            let mut add = |what, value| found.entry((what, name)).or_default().push(value);
            add("commits_per_s", round.commits_per_s);
            add("p50_us", round.p50_us);
            add("p99_us", round.p99_us);
            add("max_us", round.max_us);
            if let Some(syncs) = round.syncs_per_s {
                add("syncs_per_s", syncs);
            }
        }
    }
    let kinds = [
        ("commits_per_s", "commits/s", true),
        ("p50_us", "us", false),
        ("p99_us", "us", false),
        ("max_us", "us", false),
        ("syncs_per_s", "syncs/s", true),
    ];
    for (what, unit, more_is_better) in kinds {
        for (name, _) in &chosen {
            if let Some(samples) = found.remove(&(what, *name)) {
                report.add((what, clients, name), unit, more_is_better, samples);
            }
        }
    }
    Ok(())
}

fn tasks(
    report: &mut Report,
    clients: usize,
    rounds: usize,
    time: Duration,
    is_chosen: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    let chosen: Vec<_> = ASYNC.into_iter().filter(|name| is_chosen(name)).collect();
    let mut found: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for round in 0..rounds {
        for name in turns(&chosen, round) {
            let dir = fresh_dir()?;
            let one = match *name {
                "sketch-wakers" => load::tasks(&sketch_wakers::Sketch::open(dir.path())?, clients, time),
                "ringpact" => load::tasks(&ringpact::Log::open(dir.path(), Commit::One)?, clients, time),
                _ => load::tasks(&ringpact::Log::open(dir.path(), Commit::WithEnd)?, clients, time),
            };
            found.entry(name).or_default().push(one);
        }
    }
    for (name, samples) in &found {
        let at = ("async_commits_per_s", clients, *name);
        report.add(at, "commits/s", true, samples.iter().map(|one| one.0).collect());
    }
    for (name, samples) in &found {
        let at = ("async_cpu_us", clients, *name);
        report.add(at, "us/commit", false, samples.iter().map(|one| one.1).collect());
    }
    Ok(())
}

/// Returns an empty directory within the repository's `target`: on a real file system, and on the
/// same one for all.
pub fn fresh_dir() -> io::Result<TempDir> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/versus");
    fs::create_dir_all(&root)?;
    TempDir::with_prefix_in("log-", root)
}

/// Makes an I/O error of any crate's error, because this program only prints it.
pub fn failed(error: impl Display) -> io::Error {
    io::Error::other(error.to_string())
}
