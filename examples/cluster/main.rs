//! A shop whose goods and accounts are spread over four nodes, which become eight and then five while
//! customers buy. Nodes crash meanwhile. At the end everything is counted.
//!
//! ```sh
//! cargo run --release --example cluster
//! cargo run --release --example cluster -- --data /tmp/shop --crash-after 20   # dies in chunk 20
//! cargo run --release --example cluster -- --data /tmp/shop                    # and goes on
//! ```
//!
//! In reading order: this file has the day's course; `node.rs` has nodes, which can crash; `shelf.rs` has
//! what a service implements to be sharded; `customers.rs` has the load; `audit.rs` counts.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use parking_lot::RwLock;
use ringpact::{
    FileLog, Policy,
    ring::NodeId,
    sharding::{Cluster, ClusterBuilder, FileRingStore, Moving, Pace, Progress, ServiceClient},
};

mod audit;
mod customers;
mod node;
mod shelf;

use audit::Audit;
use customers::{Customers, Window};
use node::{Node, World, node_name, ring_of};
use shelf::Take;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Nodes come back soon here, so messages are repeated soon.
const POLICY: Policy = Policy::DEFAULT.longest_backoff(Duration::from_millis(100));

/// Maximum time that a change may take here.
const CHANGED_WITHIN: Duration = Duration::from_secs(120);

/// Time that a crashed node stays away.
const AWAY: Duration = Duration::from_millis(20);

/// Time between two crashes.
const BETWEEN_CRASHES: Duration = Duration::from_millis(400);

/// Goods and accounts on nodes that join and leave while customers buy.
#[derive(Debug, Parser)]
#[command(name = "cluster")]
struct Args {
    /// Number of customers that buy at once.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    customers: u64,
    /// Number of articles, and of accounts.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Milliseconds of trade before, between and after the changes.
    #[arg(long, value_name = "N", default_value_t = 1_500)]
    milliseconds: u64,
    /// Crashes no nodes.
    #[arg(long)]
    calm: bool,
    /// Moves data as fast as the nodes can.
    #[arg(long)]
    unthrottled: bool,
    /// Moves this many bytes of data a second.
    #[arg(long, value_name = "N", conflicts_with = "unthrottled")]
    bytes_per_second: Option<u64>,
    /// Keeps everything in this directory, and goes on with what is there.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Aborts the process in the middle of this chunk.
    #[arg(long, value_name = "N", requires = "data")]
    crash_after: Option<u64>,
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        // If standard error is closed, that is no reason to panic.
        let _ = writeln!(io::stderr(), "cluster: {}", ringpact::error_chain(&*error));
        ExitCode::FAILURE
    })
}

/// The nodes of this process, and the cluster over them.
pub struct Shop {
    pub cluster: Cluster,
    pub goods: ServiceClient<Take>,
    pub accounts: ServiceClient<Take>,
    pub nodes: Arc<RwLock<Vec<Arc<Node>>>>,
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let temporary = tempfile::tempdir()?;
    let directory = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&directory)?;
    let stock = |each: u64| (0..args.keys).map(|key| (key, each)).collect::<Vec<_>>();
    let world = Arc::new(World {
        directory,
        first_ring: ring_of(1..=4),
        first: [stock(1_000_000), stock(100_000_000)],
        taken: AtomicU64::new(0),
        crash_at: args.crash_after,
    });
    let shop = open(&world)?;
    let customers = Customers::open(&world.directory, args.keys)?;
    let pace = match args.bytes_per_second {
        Some(bytes) => Pace::new().bytes_per_second(bytes),
        None if args.unthrottled => Pace::new().unthrottled(),
        None => Pace::new(),
    };

    let mut day = Day { args, shop: &shop, customers: &customers, rows: Vec::new(), changes: Vec::new() };
    thread::scope(|scope| -> Result<(), Failure> {
        customers.start(scope, &shop, args.customers);
        let result = day.pass(&pace);
        customers.stop();
        result
    })?;
    let left = shop.cluster.coordinator().settle(Duration::from_secs(30));
    let audit = Audit::of(&shop, &customers, &world, left);
    day.print();
    for fault in audit.faults.iter().take(20) {
        println!("INVARIANT BROKEN: {fault}");
    }
    println!("{}", day.last_line(&audit));
    Ok(if audit.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(world: &Arc<World>) -> Result<Shop, Failure> {
    let nodes: Arc<RwLock<Vec<Arc<Node>>>> = Arc::default();
    let log = FileLog::open(world.directory.join("log"))?;
    let builder = Cluster::builder(log)
        .name("shop")
        .policy(POLICY)
        .store(FileRingStore::open(world.directory.join("ring"))?)
        .first_ring(world.first_ring.clone());
    let (builder, goods) = service(builder, 0, world, &nodes);
    let (builder, accounts) = service(builder, 1, world, &nodes);
    Ok(Shop { cluster: builder.open()?, goods, accounts, nodes })
}

/// Adds a service to the cluster. Its shard on a node is reached by starting the node, if need be.
fn service(
    builder: ClusterBuilder,
    service: usize,
    world: &Arc<World>,
    nodes: &Arc<RwLock<Vec<Arc<Node>>>>,
) -> (ClusterBuilder, ServiceClient<Take>) {
    let (world, nodes) = (Arc::clone(world), Arc::clone(nodes));
    builder.service(node::SERVICES[service], move |id: &NodeId| {
        let mut nodes = nodes.write();
        let found = nodes.iter().find(|node| node.name() == id.as_str()).map(Arc::clone);
        let node = match found {
            Some(node) => node,
            None => {
                let node = Arc::new(Node::start(&world, id.as_str())?);
                nodes.push(Arc::clone(&node));
                node
            }
        };
        Ok(node.shard(service).connection())
    })
}

/// The course of the day: trade, changes of the nodes, and what was measured.
struct Day<'a> {
    args: &'a Args,
    shop: &'a Shop,
    customers: &'a Customers,
    rows: Vec<(String, Window)>,
    changes: Vec<Progress>,
}

impl Day<'_> {
    fn pass(&mut self, pace: &Pace) -> Result<(), Failure> {
        // A run on the same directory goes on where the last one ended.
        if let Some(moving) = self.shop.cluster.moving() {
            self.watch("going on", &moving)?;
        }
        self.trade("before");
        loop {
            let count = self.shop.cluster.assignment().load().ring().nodes().len();
            let change = self.shop.cluster.change()?;
            let (what, change) = match count {
                4 => ("4 to 8 nodes", (5..=8).fold(change, |change, number| change.join(node_name(number).as_str()))),
                8 => ("8 to 5 nodes", (6..=8).fold(change, |change, number| change.leave(node_name(number)))),
                _ => return Ok(()),
            };
            let plan = change.plan()?;
            println!("{what}: {:.1} % of the keys move, {} bytes", plan.movement().fraction() * 100.0, plan.bytes()?);
            let moving = plan.start(pace.clone())?;
            self.watch(what, &moving)?;
            self.trade("after");
        }
    }

    fn trade(&mut self, what: &str) {
        let begun = self.customers.window();
        thread::sleep(Duration::from_millis(self.args.milliseconds));
        self.rows.push((what.to_owned(), self.customers.since(begun)));
    }

    /// Waits until the change has ended, and crashes nodes meanwhile.
    fn watch(&mut self, what: &str, moving: &Moving) -> Result<(), Failure> {
        let begun = self.customers.window();
        let until = Instant::now() + CHANGED_WITHIN;
        let mut turn = 0;
        while !moving.wait(BETWEEN_CRASHES) {
            if Instant::now() > until {
                return Err(format!("the change has not ended in time: {:?}", moving.progress()).into());
            }
            if !self.args.calm {
                let node = {
                    let nodes = self.shop.nodes.read();
                    Arc::clone(&nodes[turn % nodes.len()])
                };
                node.crash();
                thread::sleep(AWAY);
                node.come_back()?;
                turn += 1;
            }
        }
        self.rows.push((what.to_owned(), self.customers.since(begun)));
        self.changes.push(moving.progress());
        Ok(())
    }

    fn print(&self) {
        let mut table = Table::new();
        let head = ["", "seconds", "orders", "orders/s", "p50 ms", "p99 ms", "refused", "failed"];
        table.load_style(UTF8_FULL_CONDENSED).set_header(head);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (what, window) in &self.rows {
            table.add_row([
                what.clone(),
                format!("{:.1}", window.time.as_secs_f64()),
                window.orders.to_string(),
                format!("{:.0}", window.rate()),
                format!("{:.2}", window.percentile(0.5).as_secs_f64() * 1e3),
                format!("{:.2}", window.percentile(0.99).as_secs_f64() * 1e3),
                window.refused.to_string(),
                window.failed.to_string(),
            ]);
        }
        println!("{table}");
    }

    /// Returns the last line, for programs.
    fn last_line(&self, audit: &Audit) -> String {
        let sum = |of: fn(&Progress) -> u64| self.changes.iter().map(of).sum::<u64>();
        let longest = self.changes.iter().map(|change| change.longest_freeze).max().unwrap_or_default();
        let rate = |is_change: bool| {
            let rows = self.rows.iter().filter(|(what, _)| (what != "before" && what != "after") == is_change);
            let (orders, time) = rows
                .fold((0, Duration::ZERO), |(orders, time), (_, window)| (orders + window.orders, time + window.time));
            orders as f64 / time.as_secs_f64().max(1e-9)
        };
        format!(
            "cluster: moved={} chunks={} resent={} refused={} longest_freeze_ms={:.1} invariants={} tx_per_s={:.0} \
             before_tx_per_s={:.0}",
            sum(|change| change.records),
            sum(|change| change.chunks),
            sum(|change| change.bytes_again),
            self.shop.cluster.refused(),
            longest.as_secs_f64() * 1e3,
            if audit.faults.is_empty() { "ok" } else { "broken" },
            rate(true),
            rate(false),
        )
    }
}
