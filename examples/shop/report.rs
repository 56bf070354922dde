//! The report at the end of a run.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::{
    audit::Audit,
    faults::Faults,
    gateway::{Gateway, Listing, Operation},
    trade::Tally,
};

pub fn print(gateway: &Gateway, faults: &Faults, tally: &Tally, audit: &Audit) {
    println!("{}", operations(gateway, tally));
    if let Some(table) = trouble(faults, tally) {
        println!("{table}");
    }
    println!("{}", books(audit));
    let seen: Vec<String> = tally.window.iter().map(Listing::to_string).collect();
    println!("the last customer's view of the shop: {}", seen.join(", "));
    for fault in audit.faults.iter().take(20) {
        println!("INVARIANT BROKEN: {fault}");
    }
    if audit.faults.len() > 20 {
        println!("INVARIANT BROKEN: and {} more", audit.faults.len() - 20);
    }
}

/// Returns the last line, for programs.
pub fn last_line(tally: &Tally, audit: &Audit, elapsed: Duration) -> String {
    let transactions = tally.committed + tally.rolled_back;
    let per_second = transactions as f64 / elapsed.as_secs_f64().max(1e-9);
    format!(
        "shop: orders={} committed={} rolled_back={} in_doubt={} invariants={} tx_per_s={per_second:.0}",
        audit.settled,
        tally.committed,
        tally.rolled_back,
        audit.in_doubt,
        if audit.faults.is_empty() { "ok" } else { "broken" },
    )
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(head.iter().copied());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn operations(gateway: &Gateway, tally: &Tally) -> Table {
    let head =
        ["at the gateway", "requests", "committed", "rolled back", "sold out, no funds", "wrong token", "fallbacks"];
    let mut table = table(&head);
    for (operation, count) in gateway.counts() {
        let taken = tally.by_operation.get(&operation).copied().unwrap_or_default();
        let reads = operation == Operation::ListGoods;
        let of = |n: u64| if reads { "-".to_owned() } else { grouped(n) };
        table.add_row([
            operation.name().to_owned(),
            grouped(count.requests),
            of(taken[0]),
            of(taken[1]),
            of(count.refused),
            grouped(count.unauthorized),
            if reads { grouped(count.fallbacks) } else { "-".to_owned() },
        ]);
    }
    table
}

fn trouble(faults: &Faults, tally: &Tally) -> Option<Table> {
    let mut table = table(&["what went wrong", "times"]);
    let mut rows: Vec<(String, u64)> =
        faults.counts().into_iter().map(|(fate, count)| (fate.name().to_owned(), count)).collect();
    rows.push(("shard restarted from book and log".into(), tally.shard_crashes));
    rows.push(("lease expired".into(), tally.expired as u64));
    rows.push(("machine and coordinator crashed, log reopened".into(), tally.machine_crashes));
    rows.push(("  .. decisions found and delivered again".into(), tally.redelivered as u64));
    rows.push(("  .. branches without a decision rolled back".into(), tally.undone as u64));
    rows.retain(|(_, times)| *times > 0);
    if rows.is_empty() {
        return None;
    }
    for (what, times) in rows {
        table.add_row([what, grouped(times)]);
    }
    Some(table)
}

fn books(audit: &Audit) -> Table {
    let mut table = table(&["in the books, counted", "", "", ""]);
    let cell = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let pieces = |label: &str, n: u64| cell(format!("{label} {}", grouped(n)));
    table.add_row([
        Cell::new("pieces"),
        pieces("in stock", audit.free),
        pieces("sold", audit.sold),
        pieces("initially", audit.initial_stock),
    ]);
    let money = |label: &str, cents: u64| cell(format!("{label} ${}.{:02}", grouped(cents / 100), cents % 100));
    table.add_row([Cell::new("money"), money("paid", audit.paid), money("earned", audit.earned), Cell::new("")]);
    let mut orders = vec![Cell::new("orders")];
    orders.extend(audit.orders.iter().map(|(stage, n)| pieces(stage, *n)));
    table.add_row(orders);
    table
}

/// Formats 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
