//! Participants in other processes. The coordinator runs here. A payment service runs in a process of its own, and a goods
//! service in several: a ring says which of them has an article. All have a log of their own, and talk over [`transport`],
//! which is the part to copy. While orders are placed, a goods process joins and another one leaves, and articles move between
//! them. Meanwhile processes are killed, as `kill -9` does it, and started again.
//!
//! ```sh
//! cargo run --release --example remote
//! cargo run --release --example remote -- --orders 5000
//! ```
//!
//! In reading order: this file has the course of the day; `shop.rs` has the coordinator's side; `orders.rs` has the clients;
//! `participant.rs` has a service's process; `shelf.rs` and `account.rs` have the two services; `audit.rs` counts.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use serde_json::Value;

mod account;
mod audit;
mod book;
mod orders;
mod participant;
mod processes;
mod shelf;
mod shop;
mod transport;

use orders::{Orders, Settled, Stock};
use participant::{Participant, ServiceRequest};
use processes::{Process, Recipe};
use shop::{Desk, Nodes, Shop, wait_for_a_chunk, wait_for_the_end};
use transport::{Remote, SILENT_FOR, serve};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Number of times that a service is killed while orders are placed.
const KILLS: u64 = 6;

/// Time that a killed service stays away: long enough for clients to notice.
const AWAY: Duration = Duration::from_millis(30);

/// Orders across several processes, which are killed again and again, and between which articles move.
#[derive(Debug, Parser)]
#[command(name = "remote")]
struct Args {
    /// Number of orders to place.
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    orders: u64,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The role in which the example starts itself again, once for each service.
    #[command(hide = true)]
    Participant(Participant),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.role {
        None => run(args.orders),
        Some(Role::Participant(participant)) => participant.run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // If standard error is closed, that is no reason to panic.
        let _ = writeln!(io::stderr(), "remote: {}", ringpact::error_chain(&*error));
        ExitCode::FAILURE
    })
}

/// All processes but this one, by the names of their services.
struct Processes {
    directory: PathBuf,
    orders: u64,
    /// The address at which the coordinator answers for verdicts.
    coordinator: SocketAddr,
    running: BTreeMap<String, Process>,
    /// Numbers of branches that were committed and rolled back because their process asked.
    by_asking: [usize; 2],
}

impl Processes {
    /// Starts a service for the first time. Returns the connection to it.
    fn start(&mut self, name: &str) -> Result<Remote, Failure> {
        let (directory, orders, coordinator) = (self.directory.join(name), self.orders, self.coordinator);
        let process = Process::start(Recipe { name: name.to_owned(), orders, coordinator, directory })?;
        let remote = Remote::new(process.address(), SILENT_FOR)?;
        self.running.insert(name.to_owned(), process);
        Ok(remote)
    }

    /// Kills a service's process, and starts it again on what its disk holds.
    fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let process = self.running.get_mut(name).ok_or("no such process")?;
        process.kill()?;
        thread::sleep(AWAY);
        process.restart()?;
        self.by_asking[0] += process.ready.committed;
        self.by_asking[1] += process.ready.rolled_back;
        Ok(())
    }

    /// Ends a service's process for good.
    fn stop(&mut self, name: &str) {
        // Dropping it kills it.
        drop(self.running.remove(name));
    }
}

fn run(orders: u64) -> Result<ExitCode, Failure> {
    let directory = tempfile::tempdir()?;
    // Questions of participants wait here until the coordinator is open.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut processes = Processes {
        directory: directory.path().to_owned(),
        orders,
        coordinator: listener.local_addr()?,
        running: BTreeMap::new(),
        by_asking: [0, 0],
    };
    let nodes = Nodes::default();
    let payments = processes.start("payments")?;
    for node in ["node-1", "node-2"] {
        let remote = processes.start(&format!("goods.{node}"))?;
        nodes.lock().insert(node.to_owned(), remote);
    }

    let desk = Desk::default();
    let verdicts = desk.clone();
    thread::Builder::new().name("verdicts".into()).spawn(move || serve(&listener, verdicts, |_| Value::Null))?;
    let shop = Shop::open(directory.path(), &nodes, &payments, &desk)?;
    shop.settle()?;

    let begun = Instant::now();
    let book = Orders::new(&shop, orders);
    let mut moved = 0;
    let settled = book.place_all(|| {
        let wait_for = |kill: u64| book.wait_for(orders * kill / (KILLS + 1));
        wait_for(1)?;
        processes.kill("payments")?;
        wait_for(2)?;
        // A process joins. One that gives articles is killed meanwhile, and then the one that takes them.
        let remote = processes.start("goods.node-3")?;
        nodes.lock().insert("node-3".to_owned(), remote);
        let moving = shop.join("node-3")?;
        wait_for_a_chunk(&moving);
        processes.kill("goods.node-1")?;
        processes.kill("goods.node-3")?;
        wait_for(4)?;
        moved += wait_for_the_end(&moving)?;
        // Another one leaves. It is killed meanwhile, and one that takes its articles.
        let moving = shop.leave("node-1")?;
        wait_for_a_chunk(&moving);
        processes.kill("goods.node-1")?;
        processes.kill("goods.node-2")?;
        moved += wait_for_the_end(&moving)?;
        shop.see_off()?;
        processes.stop("goods.node-1");
        nodes.lock().remove("node-1");
        wait_for(6)?;
        processes.kill("payments")
    })?;
    let elapsed = begun.elapsed();
    let tally = book.tally;
    shop.settle()?;

    // Killed once more, so that the audit sees what their disks hold.
    let by_asking = processes.by_asking;
    for name in processes.running.keys().cloned().collect::<Vec<_>>() {
        processes.kill(&name)?;
    }
    let left = shop.close()?;
    let shop = Shop::open(directory.path(), &nodes, &payments, &desk)?;
    shop.settle()?;
    let recovered = shop.cluster.coordinator().recovered();
    let status = shop.cluster.coordinator().status();
    let in_doubt = left + recovered.committed + recovered.rolled_back + status.in_doubt();

    let in_payments = payments.ask(&ServiceRequest::State)?;
    let mut in_goods = BTreeMap::new();
    for (node, goods) in &*nodes.lock() {
        in_goods.insert(node.clone(), goods.ask(&ServiceRequest::State)?);
    }
    let mut faults = audit::faults(&settled, &in_goods, &in_payments, &Stock::of(orders));
    if in_doubt > 0 {
        faults.push(format!("{in_doubt} in doubt after all was settled: {left} {status}{recovered:?}"));
    }

    let committed = settled.iter().filter(|settled| **settled == Settled::Committed).count();
    println!("{orders} orders in {elapsed:.1?}: {committed} committed, {} refused", settled.len() - committed);
    println!(
        "services were killed {KILLS} times: {} pieces of work were not done, and {} commits were rolled back; all were tried again",
        tally.unanswered.load(Ordering::Relaxed),
        tally.rolled_back.load(Ordering::Relaxed)
    );
    println!(
        "restarted services asked about what they had promised: {} branches were committed, {} rolled back",
        by_asking[0], by_asking[1]
    );
    println!("a goods process joined and another one left: articles moved {moved} times");
    for fault in &faults {
        println!("WRONG: {fault}");
    }
    let verdict = if faults.is_empty() { "ok" } else { "broken" };
    println!(
        "remote: orders={orders} committed={committed} kills={KILLS} in_doubt={in_doubt} invariants={verdict} moved={moved}"
    );
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
