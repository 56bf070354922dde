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
    participant::{ExecuteError, Pooled},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    COORDINATOR, Failure,
    account::{Account, Take},
    book::Book,
    transport::{Remote, SILENT_FOR, serve},
};

/// Threads for the coordinator's calls. Those that wait for the service's log at the same time
/// share its syncs.
const THREADS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// Maximum number of commits that a restart has to confirm again.
const CHECKPOINT_EVERY: usize = 50;

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
    /// The stock at the very first start.
    #[arg(long)]
    pub stock: u64,
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
    /// A piece of work, under the branch id that the transaction has for this service.
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
        let log = FileLog::open(self.directory.join("log"))?;
        let account = Account::open(Book::new(&self.directory, &self.name), self.stock)?;
        let options = ResourceManager::<Account>::options().checkpoint_every(CHECKPOINT_EVERY);
        let manager = Arc::new(options.open(&self.name, log, account)?);
        // Before any work is done: so the service learns which transactions began earlier and may
        // have lost work.
        manager.set_verdict_endpoint(Name::new(COORDINATOR)?, Remote::new(self.coordinator, SILENT_FOR)?);
        // The coordinator would deliver its decisions by itself. Asking is faster.
        let resolution = manager.resolve_in_doubt(Duration::from_secs(2));

        let listener = bind(self.port)?;
        let port = listener.local_addr()?.port();
        let ready = Ready { port, committed: resolution.committed, rolled_back: resolution.rolled_back };
        println!("{}", serde_json::to_string(&ready)?);
        let endpoint = Pooled::new(Arc::clone(&manager), THREADS);
        serve(&listener, endpoint, move |request| answer(&manager, request));
        Ok(())
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
