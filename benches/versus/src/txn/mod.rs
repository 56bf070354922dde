//! Transactions: two participants that do nothing, with one forced decision a transaction; and
//! three durable participants that share the coordinator's log.
//!
//! The *ceiling* is a bare group committer of `-- log` with a writer thread: one record, no format,
//! no checks, no protocol around it. A single client can beat it, because its thread writes itself.

mod dtmrs;
mod shops;

use std::{
    collections::BTreeMap,
    error::Error,
    hint::black_box,
    io,
    path::Path,
    time::{Duration, Instant},
};

use clap::Args;
use stats_alloc::Region;

use crate::{
    counting,
    log::{
        fresh_dir,
        load::{self, Blocking, Pace, Tasks},
        sketch_epoch, sketch_wakers, turns,
    },
    report::Report,
};
use shops::{Durable, Idle};

const CEILING: &str = "ceiling";
const RINGPACT: &str = "ringpact";
const DTMRS: &str = "dtmrs";

/// Number of transactions whose allocations are counted.
const COUNTED: u64 = 10_000;

/// How to measure.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    pace: Pace,

    /// Only rows with one of these in their names.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,

    /// Only implementations with one of these in their names.
    #[arg(long, value_delimiter = ',')]
    implementations: Vec<String>,
}

impl Options {
    fn wants(&self, what: &str) -> bool {
        is_among(&self.only, what)
    }
}

fn is_among(chosen: &[String], name: &str) -> bool {
    chosen.is_empty() || chosen.iter().any(|part| name.contains(part.as_str()))
}

/// Opens one in an empty directory.
type Open = fn(&Path) -> io::Result<Box<dyn Blocking>>;

const DURABLE: [(&str, Open); 3] = [
    (CEILING, |dir| Ok(Box::new(sketch_epoch::Sketch::open(dir)?))),
    (RINGPACT, |dir| Ok(Box::new(Idle::durable(dir)?))),
    (DTMRS, |dir| Ok(Box::new(dtmrs::Peer::open(dir)?))),
];

const DURABLE_3: [(&str, Open); 2] = [DURABLE[0], (RINGPACT, |dir| Ok(Box::new(Durable::open(dir)?)))];

/// Measures, prints the table, writes the CSV.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let pace = &options.pace;
    let (rounds, time) = (pace.rounds(), pace.time());
    let mut report = Report::by_clients(&[CEILING]);
    for (what, all) in [("durable_tx_per_s", &DURABLE[..]), ("durable3_tx_per_s", &DURABLE_3[..])] {
        if !options.wants(what) {
            continue;
        }
        let chosen: Vec<_> = all.iter().filter(|(name, _)| is_among(&options.implementations, name)).collect();
        for clients in &pace.threads {
            eprintln!("{what}, {clients} threads ...");
            let mut found: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for round in 0..rounds {
                let stands_it = |name: &str| name != DTMRS || *clients <= dtmrs::MOST_CLIENTS;
                for (name, open) in turns(&chosen, round).filter(|(name, _)| stands_it(name)) {
                    let dir = fresh_dir()?;
                    let shop = open(dir.path())?;
                    found.entry(name).or_default().push(load::threads(&*shop, *clients, time).commits_per_s);
                }
            }
            for (name, samples) in found {
                report.add((what, *clients, name), "tx/s", true, samples);
            }
        }
    }
    for clients in pace.tasks.iter().filter(|_| options.wants("async_tx_per_s")) {
        eprintln!("{clients} tasks ...");
        let mut found: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for round in 0..rounds {
            for name in turns(&[CEILING, RINGPACT], round).filter(|name| is_among(&options.implementations, name)) {
                let dir = fresh_dir()?;
                found.entry(name).or_default().push(match *name {
                    CEILING => tasks(&sketch_wakers::Sketch::open(dir.path())?, *clients, time),
                    _ => tasks(&Idle::durable(dir.path())?, *clients, time),
                });
            }
        }
        for (name, samples) in found {
            report.add(("async_tx_per_s", *clients, name), "tx/s", true, samples);
        }
    }
    if options.wants("memory_tx_per_s") {
        eprintln!("in memory ...");
        let samples = (0..rounds).map(|_| in_memory(time)).collect();
        report.add(("memory_tx_per_s", 1, RINGPACT), "tx/s", true, samples);
    }
    if options.wants("allocations_per_tx") {
        report.add(("allocations_per_tx", 1, RINGPACT), "allocations", false, vec![allocations()]);
    }
    report.skip(format!(
        "dtmrs: with `synchronous=FULL`, and without waiting until its branches are told. Up to {} clients, because with more \
         hardly any client is answered within a round; so it is not in the rows of tasks. It is not in the rows of three \
         durable participants either, because its branches cannot share its database's syncs. Allocations are counted for \
         ringpact only: dtmrs allocates in its database's C code, which is not counted.",
        dtmrs::MOST_CLIENTS,
    ));
    println!("{}", report.markdown());
    let path = report.write_csv("txn")?;
    eprintln!("{}", path.display());
    Ok(())
}

fn tasks<T: Tasks>(shop: &T, clients: usize, time: Duration) -> f64 {
    load::tasks(shop, clients, time).0
}

/// Returns transactions a second on one thread, with the log in memory.
fn in_memory(time: Duration) -> f64 {
    let shop = Idle::in_memory();
    let (begun, mut done) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        (0..64).for_each(|number| Blocking::commit(black_box(&shop), 0, number));
        done += 64;
    }
    done as f64 / begun.elapsed().as_secs_f64()
}

fn allocations() -> f64 {
    let shop = Idle::in_memory();
    (0..COUNTED).for_each(|number| Blocking::commit(&shop, 0, number));
    counting::start();
    let region = Region::new(counting::ALLOCATOR);
    (0..COUNTED).for_each(|number| Blocking::commit(&shop, 0, number));
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / COUNTED as f64
}
