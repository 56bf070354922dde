//! Lists what is in a log's directory, and verifies all of it: `cargo run --example log_inspect --
//! path/to/log`.
//!
//! Exits with 0 if everything is as it was written, with 1 if something is damaged (or has a
//! version that it does not know), and with 2 if something can't be read. It never writes, needs no
//! more rights than to read the files, and takes no lock. So it may look at a log that is in use.
//! It then shows a moment ago, and the batch that is being written may show as torn bytes at the
//! end.

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use comfy_table::{Cell, CellAlignment, Row, Table, presets::NOTHING};
use ringpact::{
    error_chain,
    log::inspect::{Inspection, TransactionReport, inspect},
};

/// Lists what is in a log's directory, and verifies all of it.
#[derive(Parser)]
struct Arguments {
    /// The log's directory.
    dir: PathBuf,
    /// Print JSON, with every batch and transaction.
    #[arg(long)]
    json: bool,
    /// Maximum number of batches, and of transactions of each kind, to list: the last ones.
    #[arg(long, default_value_t = 20)]
    last: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let inspection = match inspect(&arguments.dir) {
        Ok(inspection) => inspection,
        Err(error) => {
            eprintln!("log_inspect: {}", error_chain(&error));
            return ExitCode::from(2);
        }
    };
    if arguments.json {
        match serde_json::to_string_pretty(&inspection) {
            Ok(json) => println!("{json}"),
            Err(error) => {
                eprintln!("log_inspect: {error}");
                return ExitCode::from(2);
            }
        }
    } else {
        print(&inspection, arguments.last);
    }
    if inspection.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(inspection: &Inspection, last: usize) {
    println!("log {} in {}", inspection.log.as_deref().unwrap_or("(none)"), inspection.dir.display());
    println!(
        "{} records, {} live and {} finished transactions",
        inspection.records(),
        inspection.live.len(),
        inspection.finished.len()
    );
    for (owner, epoch) in &inspection.epochs {
        println!("{owner}: epoch {}", epoch.as_u64());
    }
    print_segments(inspection);
    print_batches(inspection, last);
    print_transactions("live", &inspection.live, last);
    print_transactions("finished", &inspection.finished, last);
    if let Some(damage) = &inspection.remembered {
        println!("\nDAMAGED, according to log-identity: at byte {}: {}", damage.offset, damage.what);
    }
    for segment in &inspection.segments {
        if let Some(damage) = &segment.damage {
            println!("\nDAMAGED: {} at byte {}: {}", segment.file, damage.offset, damage.what);
        }
    }
}

fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headings.iter().map(Cell::new));
    table
}

fn number(number: impl ToString) -> Cell {
    Cell::new(number.to_string()).set_alignment(CellAlignment::Right)
}

fn left_out(all: usize, shown: usize) -> String {
    if all > shown { format!(", the last {shown} of {all}") } else { String::new() }
}

fn print_segments(inspection: &Inspection) {
    let mut segments = table(&["segment", "role", "bytes", "batches", "torn bytes", "state"]);
    for segment in &inspection.segments {
        let state = match &segment.damage {
            Some(_) => "DAMAGED",
            None if segment.batches.is_empty() => "",
            None if segment.sealed => "sealed",
            None => "not sealed",
        };
        segments.add_row(Row::from([
            Cell::new(&segment.file),
            Cell::new(segment.role),
            number(segment.bytes),
            number(segment.batches.len()),
            number(segment.torn_bytes),
            Cell::new(state),
        ]));
    }
    println!("\nsegments\n{segments}");
}

fn print_batches(inspection: &Inspection, last: usize) {
    for segment in inspection.segments.iter().filter(|segment| !segment.batches.is_empty()) {
        let mut batches = table(&["offset", "bytes", "sequence", "kind", "records", "last record"]);
        let shown = segment.batches.iter().skip(segment.batches.len().saturating_sub(last));
        for batch in shown {
            batches.add_row(Row::from([
                number(batch.offset),
                number(batch.bytes),
                number(batch.sequence),
                Cell::new(batch.kind),
                number(batch.records),
                number(batch.last.as_u64()),
            ]));
        }
        println!("\nbatches of {}{}\n{batches}", segment.file, left_out(segment.batches.len(), last));
    }
}

fn print_transactions(title: &str, reports: &[TransactionReport], last: usize) {
    if reports.is_empty() {
        return;
    }
    let mut transactions = table(&["transaction", "owner", "facts", "first record", "last record"]);
    for report in reports.iter().skip(reports.len().saturating_sub(last)) {
        transactions.add_row(Row::from([
            Cell::new(&report.txn),
            Cell::new(&report.owner),
            Cell::new(report.facts.join(", ")),
            number(report.first.as_u64()),
            number(report.last.as_u64()),
        ]));
    }
    println!("\n{title} transactions{}\n{transactions}", left_out(reports.len(), last));
}
