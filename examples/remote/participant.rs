//! A service's process: opens its log, asks what became of its promises, and serves.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::PathBuf,
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use ringpact::{
    BranchId, FileLog, Name, ResourceManager, error_chain,
    participant::{ExecuteError, InDoubtResolution, Pooled},
    sharding::ShardHost,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Failure,
    account::{Account, Take},
    book::Book,
    orders::Stock,
    shelf::Shelf,
    shop::{COORDINATOR, first_ring},
    transport::{Remote, SILENT_FOR, serve},
};

/// Threads for the coordinator's calls, and at a goods process for clients' work and for moves. Those that wait for the
/// service's log at the same time share its syncs. Clients that wait for an article on its way must leave some for the rest.
const THREADS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// What the names of goods processes begin with: the rest is the node's.
const GOODS: &str = "goods.";

/// Maximum number of commits that a restart has to confirm again.
const CHECKPOINT_EVERY: usize = 50;

/// Time that the coordinator has for its verdicts before the process listens.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Time to wait for the port. While the service was down, the system may have given the port to
/// another connection, which does not last.
const BIND_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Participant {
    /// The name under which the coordinator knows the service.
    pub name: String,
    /// The directory of its log and its book.
    #[arg(long)]
    pub directory: PathBuf,
    /// The port to listen on; 0 lets the system choose.
    #[arg(long)]
    pub port: u16,
    /// The address at which the coordinator answers for verdicts.
    #[arg(long)]
    pub coordinator: SocketAddr,
    /// Number of orders, from which the stock at the very first start follows.
    #[arg(long)]
    pub orders: u64,
}

/// What the process prints as a line once it listens.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub port: u16,
    /// Number of promised branches that were committed, as the coordinator answered.
    pub committed: usize,
    /// Number of promised branches that were rolled back, as the coordinator answered.
    pub rolled_back: usize,
}

/// A request of a client.
#[derive(Debug, Serialize, Deserialize)]
pub enum ServiceRequest {
    /// A piece of work for the payments, under the branch id that the transaction has for this service. Work for the goods
    /// goes through the cluster.
    Work { branch: BranchId, take: Take },
    /// Asks for the stock, and what each order has taken.
    State,
}

/// Why a piece of work was not done. In either case the transaction must be rolled back.
#[derive(Debug, Serialize, Deserialize)]
pub enum NotDone {
    /// The service refuses it, and would refuse it again.
    Refused(String),
    /// It came too late for this transaction. In another one it may succeed.
    Closed(String),
}

impl Participant {
    pub fn run(self) -> Result<(), Failure> {
        end_with_the_parent()?;
        match self.name.strip_prefix(GOODS) {
            Some(node) => self.run_goods(node),
            None => self.run_payments(),
        }
    }

    /// Serves the articles of one node.
    fn run_goods(&self, node: &str) -> Result<(), Failure> {
        let shelf = Shelf::open(self.book(), &Stock::of(self.orders).articles, &first_ring(), node)?;
        let options = ResourceManager::<Shelf>::options().checkpoint_every(CHECKPOINT_EVERY);
        let host = Arc::new(ShardHost::open_with(options, &self.name, self.log()?, shelf)?);
        // Before any work is done: so the service learns which transactions began earlier and may have lost work.
        host.set_verdict_endpoint(Name::new(COORDINATOR)?, self.coordinator()?);
        // The coordinator would deliver its decisions by itself. Asking is faster.
        let listener = self.announce(host.resolve_in_doubt(ANSWERED_WITHIN))?;
        let endpoint = Pooled::new(Arc::clone(&host), THREADS);
        serve(&listener, endpoint, move |request| match serde_json::from_value(request) {
            Ok(ServiceRequest::State) => serde_json::json!(host.shard().articles()),
            _ => Value::Null,
        });
        Ok(())
    }

    fn run_payments(&self) -> Result<(), Failure> {
        let account = Account::open(self.book(), Stock::of(self.orders).cents)?;
        let options = ResourceManager::<Account>::options().checkpoint_every(CHECKPOINT_EVERY);
        let manager = Arc::new(options.open(&self.name, self.log()?, account)?);
        // As above.
        manager.set_verdict_endpoint(Name::new(COORDINATOR)?, self.coordinator()?);
        let listener = self.announce(manager.resolve_in_doubt(ANSWERED_WITHIN))?;
        let endpoint = Pooled::new(Arc::clone(&manager), THREADS);
        serve(&listener, endpoint, move |request| answer(&manager, request));
        Ok(())
    }

    fn log(&self) -> Result<FileLog, Failure> {
        Ok(FileLog::open(self.directory.join("log"))?)
    }

    fn book(&self) -> Book {
        Book::new(&self.directory, &self.name)
    }

    fn coordinator(&self) -> io::Result<Remote> {
        Remote::new(self.coordinator, SILENT_FOR)
    }

    /// Begins to listen, and tells the parent.
    fn announce(&self, resolution: InDoubtResolution) -> Result<TcpListener, Failure> {
        let listener = bind(self.port)?;
        let port = listener.local_addr()?.port();
        let ready = Ready { port, committed: resolution.committed, rolled_back: resolution.rolled_back };
        println!("{}", serde_json::to_string(&ready)?);
        Ok(listener)
    }
}

fn answer(manager: &ResourceManager<Account>, request: Value) -> Value {
    match serde_json::from_value(request) {
        Ok(ServiceRequest::Work { branch, take }) => serde_json::json!(work(manager, &branch, take)),
        Ok(ServiceRequest::State) => serde_json::json!(manager.service().state()),
        // No client takes this for an answer.
        Err(_) => Value::Null,
    }
}

fn work(manager: &ResourceManager<Account>, branch: &BranchId, take: Take) -> Result<(), NotDone> {
    manager.execute(branch, take).map_err(|error| match error {
        ExecuteError::Refused(refusal) => NotDone::Refused(error_chain(&refusal)),
        other => NotDone::Closed(error_chain(&other)),
    })
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < BIND_WITHIN => {
                thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Ends this process when its parent ends, in whatever way: the parent holds the standard input
/// open.
fn end_with_the_parent() -> io::Result<()> {
    let wait = || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    };
    thread::Builder::new().name("parent".into()).spawn(wait).map(drop)
}
