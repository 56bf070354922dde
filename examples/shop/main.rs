//! A shop in one process: goods, orders and payments, each over several shards that the ring finds;
//! a registry of live shards; and a gateway in front. To create, to pay and to confirm an order are
//! one distributed transaction each, and many things go wrong while they run.
//!
//! ```sh
//! cargo run --release --example shop                          # a generated day, with faults
//! cargo run --release --example shop -- --orders FILE         # real purchases instead
//! cargo run --release --example shop -- --data DIR --crash-after 500
//! cargo run --release --example shop -- --data DIR            # recovers, and goes on
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

mod audit;
#[path = "../remote/book.rs"]
mod book;
mod faults;
mod gateway;
mod goods;
mod machine;
mod machine_log;
mod orders;
mod payments;
mod purchases;
mod report;
mod shard;
mod trade;

use faults::{Enabled, Faults};
use gateway::Gateway;
use machine::{Failure, Machine};
use purchases::Day;
use trade::Trade;

/// A shop on ringpact: orders are placed, paid and confirmed across three sharded services,
/// atomically.
#[derive(Debug, Parser)]
#[command(name = "shop")]
struct Args {
    /// Real purchases, one a line: customer, customer in the sample, date as YYYYMMDD, number of
    /// CDs, dollars.
    #[arg(long, value_name = "FILE")]
    orders: Option<PathBuf>,
    /// How many purchases to generate if no file is given.
    #[arg(long, value_name = "N", default_value_t = 4_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    purchases: u64,
    /// Keep the logs and books here. A second run on the same directory recovers and goes on.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Let nothing go wrong.
    #[arg(long)]
    no_faults: bool,
    /// Repeat a run: the same seed gives the same purchases and the same faults.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Abort the process, without clean-up, in the middle of this transaction (or of the first one
    /// after it that comes to that point).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    crash_after: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shop: {}", ringpact::error_chain(&*error));
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let day = Arc::new(match &args.orders {
        Some(file) => Day::read(file)?,
        None => Day::generated(args.purchases, args.seed),
    });
    // Without --data the books are removed after the run.
    let mut temporary = None;
    let directory = match &args.data {
        Some(directory) => directory.clone(),
        None => temporary.insert(tempfile::tempdir()?).path().to_owned(),
    };
    claim(&directory, &day)?;

    let enabled = if args.no_faults { Enabled::Off } else { Enabled::On };
    let faults = Arc::new(Faults::new(args.seed, enabled, args.crash_after));
    let mut machine = Machine::new(&directory, Arc::clone(&day), Arc::clone(&faults))?;
    machine.start()?;
    machine.settle()?;
    let recovered = machine.recovered()?;
    let done = day.purchases.iter().filter(|p| machine.stage(p.order).is_some_and(orders::Stage::is_end)).count();
    println!("{} purchases; {done} were settled before", day.purchases.len());
    if recovered.committed + recovered.rolled_back > 0 {
        println!(
            "recovered: {} decisions to commit were delivered again, {} branches without a decision rolled back",
            recovered.committed, recovered.rolled_back
        );
    }

    let clock = Instant::now();
    let mut gateway = Gateway::new(args.seed, Arc::clone(&faults), clock)?;
    let bar = progress_bar(day.purchases.len() as u64);
    let start = Instant::now();
    let mut trade = Trade::new(&mut machine, &mut gateway, Arc::clone(&faults), Arc::clone(&day), clock);
    let result = trade.run(|settled| bar.set_position(settled));
    let tally = trade.tally;
    let elapsed = start.elapsed();
    bar.finish_and_clear();
    result?;

    let audit = audit::Audit::of(&machine, &day)?;
    report::print(&gateway, &faults, &tally, &audit);
    machine.shut_down()?;
    println!("{}", report::last_line(&tally, &audit, elapsed));
    Ok(if audit.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Notes in the directory to which purchases it belongs, or checks that it belongs to these.
fn claim(directory: &Path, day: &Day) -> Result<(), Failure> {
    std::fs::create_dir_all(directory).map_err(|error| format!("can't create {}: {error}", directory.display()))?;
    let book = book::Book::new(directory, "shop");
    let ours = day.fingerprint();
    match book.read::<String>()? {
        None => Ok(book.write(&ours)?),
        Some(theirs) if theirs == ours => Ok(()),
        Some(_) => Err(format!(
            "{} belongs to other purchases; give the same --orders (or --purchases and --seed), or another --data",
            directory.display()
        )
        .into()),
    }
}

fn progress_bar(purchases: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} purchases settled, {elapsed} (about {eta} left)");
    ProgressBar::new(purchases).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
