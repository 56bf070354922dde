//! The same work done by this repository's crate and by its peers, in one run, side by side.
//!
//! ```sh
//! cargo run --release --manifest-path benches/versus/Cargo.toml -- ring
//! ```
//!
//! Prints a Markdown table, and writes `target/versus/ring.csv` of the repository; `log`, `txn`,
//! `strain`, `sharding` and `databases` do the same. `-- faults` prints what logs do when something goes wrong.
#![warn(missing_docs)]

mod counting;
mod databases;
mod faults;
mod log;
mod report;
mod ring;
mod sharding;
mod strain;
mod txn;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use counting::ALLOCATOR;

#[derive(Parser)]
#[command(about = "The same work done by ringpact and by its peers, side by side")]
struct Arguments {
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Placing keys on nodes.
    Ring(ring::Options),
    /// Changing two databases together.
    Databases(databases::Options),
    /// What logs do when a sync fails or a file is damaged.
    Faults(faults::Options),
    /// Making records durable.
    Log(log::Options),
    /// Moving data of sharded services while clients change it.
    Sharding(sharding::Options),
    /// What one bad participant, or a crowd, costs the others.
    Strain(strain::Options),
    /// Changing several services together or not at all.
    Txn(txn::Options),
}

fn main() -> ExitCode {
    faults::run_if_child();
    let outcome = match Arguments::parse().work {
        Work::Ring(options) => {
            counting::start();
            ring::run(&options)
        }
        Work::Databases(options) => databases::run(&options),
        Work::Log(options) => log::run(&options),
        Work::Sharding(options) => sharding::run(&options),
        Work::Strain(options) => strain::run(&options),
        Work::Txn(options) => txn::run(&options),
        Work::Faults(options) => faults::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versus: {error}");
            ExitCode::FAILURE
        }
    }
}
