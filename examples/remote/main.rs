//! Participants in other processes. The coordinator runs here; a goods service and a payment
//! service run in a process each. All three have a log of their own, and talk over [`transport`],
//! which is the part to copy. While orders are placed, the services are killed, as `kill -9` does
//! it, and started again.
//!
//! ```sh
//! cargo run --release --example remote
//! cargo run --release --example remote -- --orders 5000
//! ```

use std::{
    io::{self, Write},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use parking_lot::Mutex;
use ringpact::{
    Coordinator, FileLog, Policy,
    participant::{Endpoint, Reply, Request},
    txn::VerdictEndpoint,
};
use serde_json::Value;

mod account;
mod audit;
mod book;
mod orders;
mod participant;
mod processes;
mod transport;

use account::State;
use orders::{Orders, PRICE, Settled, pieces};
use participant::{Participant, ServiceRequest};
use processes::{Process, Recipe};
use transport::{Remote, SILENT_FOR, serve};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The coordinator's name. Participants must know it in advance, because they ask it for verdicts.
const COORDINATOR: &str = "shop";

/// Services come back after a moment here, so commits are repeated soon.
const POLICY: Policy = Policy::DEFAULT.longest_backoff(Duration::from_millis(500));

/// Maximum time until nothing is in doubt any more.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);

/// Number of times that a service is killed while orders are placed: goods first, then payments,
/// and so on.
const KILLS: u64 = 6;

/// Time that a killed service stays away: long enough for clients to notice.
const AWAY: Duration = Duration::from_millis(30);

/// Orders across three processes, two of which are killed again and again.
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

fn run(orders: u64) -> Result<ExitCode, Failure> {
    let directory = tempfile::tempdir()?;
    // Not enough money for all orders, so that some are refused after their goods were set aside.
    let wanted: u64 = (0..orders).map(pieces).sum();
    let stock = [wanted, wanted * PRICE / 10 * 9];

    // Questions of participants wait here until the coordinator is open.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let coordinator_at = listener.local_addr()?;
    let start = |name, stock| {
        let directory = directory.path().join(name);
        Process::start(Recipe { name, stock, coordinator: coordinator_at, directory })
    };
    let (goods_process, payments_process) = (start("goods", stock[0])?, start("payments", stock[1])?);
    let (goods, payments) =
        (Remote::new(goods_process.address(), SILENT_FOR)?, Remote::new(payments_process.address(), SILENT_FOR)?);
    let mut processes = [goods_process, payments_process];

    let (log, coordinator) = open(directory.path(), &goods, &payments)?;
    let desk = Desk(Arc::new(Mutex::new(coordinator.verdict_endpoint())));
    let verdicts = desk.clone();
    thread::Builder::new().name("verdicts".into()).spawn(move || serve(&listener, verdicts, |_| Value::Null))?;
    settle(&coordinator)?;

    let begun = Instant::now();
    let book = Orders::new(&coordinator, &goods, &payments, orders);
    let mut by_asking = [0, 0];
    let settled = book.place_all(|| {
        for kill in 0..KILLS {
            book.wait_for(orders * (kill + 1) / (KILLS + 1))?;
            let process = &mut processes[usize::from(kill % 2 == 1)];
            process.kill()?;
            thread::sleep(AWAY);
            process.restart()?;
            by_asking[0] += process.ready.committed;
            by_asking[1] += process.ready.rolled_back;
        }
        Ok(())
    })?;
    let elapsed = begun.elapsed();
    let tally = book.tally;
    settle(&coordinator)?;

    // Killed once more, so that the audit sees what their disks hold.
    for process in &mut processes {
        process.kill()?;
        process.restart()?;
    }
    let left = coordinator.shutdown(SETTLED_WITHIN);
    drop(coordinator);
    close(log)?;
    let (_log, coordinator) = open(directory.path(), &goods, &payments)?;
    *desk.0.lock() = coordinator.verdict_endpoint();
    settle(&coordinator)?;
    let recovered = coordinator.recovered();
    let in_doubt = left.in_doubt() + recovered.committed + recovered.rolled_back + coordinator.status().in_doubt();

    let (in_goods, in_payments) = (goods.ask::<State>(&ServiceRequest::State)?, payments.ask(&ServiceRequest::State)?);
    let mut faults = audit::faults(&settled, &in_goods, &in_payments, stock);
    if in_doubt > 0 {
        faults.push(format!("{in_doubt} in doubt after all was settled: {left}{}{recovered:?}", coordinator.status()));
    }

    let committed = settled.iter().filter(|settled| **settled == Settled::Committed).count();
    println!("{orders} orders in {elapsed:.1?}: {committed} committed, {} refused", settled.len() - committed);
    println!(
        "services were killed {KILLS} times: {} pieces of work got no answer, and {} commits were rolled back; all were tried again",
        tally.unanswered.load(Ordering::Relaxed),
        tally.rolled_back.load(Ordering::Relaxed)
    );
    println!(
        "restarted services asked about what they had promised: {} branches were committed, {} rolled back",
        by_asking[0], by_asking[1]
    );
    for fault in &faults {
        println!("WRONG: {fault}");
    }
    let verdict = if faults.is_empty() { "ok" } else { "broken" };
    println!("remote: orders={orders} committed={committed} kills={KILLS} in_doubt={in_doubt} invariants={verdict}");
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(directory: &Path, goods: &Remote, payments: &Remote) -> Result<(Arc<FileLog>, Coordinator), Failure> {
    let log = Arc::new(FileLog::open(directory.join("coordinator"))?);
    let builder = Coordinator::builder(Arc::clone(&log)).name(COORDINATOR).policy(POLICY);
    let coordinator = builder.endpoint("goods", goods.clone()).endpoint("payments", payments.clone()).open()?;
    Ok((log, coordinator))
}

fn settle(coordinator: &Coordinator) -> Result<(), Failure> {
    if coordinator.settle(SETTLED_WITHIN) {
        return Ok(());
    }
    Err(format!("still in doubt after {SETTLED_WITHIN:?}:\n{}", coordinator.status()).into())
}

/// Closes the log. The thread that takes the last answer may hold the log for a moment longer than
/// the coordinator.
fn close(mut log: Arc<FileLog>) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLED_WITHIN {
        match Arc::try_unwrap(log) {
            Ok(log) => return Ok(log.close()?),
            Err(shared) => log = shared,
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err("the coordinator's log is still in use".into())
}

/// Answers questions for verdicts by the coordinator that is open. A coordinator that is gone gives
/// no answer.
#[derive(Clone)]
struct Desk(Arc<Mutex<VerdictEndpoint>>);

impl Endpoint for Desk {
    fn send(&self, request: Request, reply: Reply) {
        let endpoint = self.0.lock().clone();
        endpoint.send(request, reply);
    }
}
