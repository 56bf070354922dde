//! A service's process: opens its log, asks what became of what it had promised, and serves.

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

/// Calls that wait for the service's log share its syncs.
const THREADS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// A restart has so much to confirm again, at the most.
const CHECKPOINT_EVERY: usize = 50;

/// Somebody else's connection may have been given the port meanwhile; such ones don't last.
const BIND_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Participant {
    /// Its name, under which the coordinator knows it.
    pub name: String,
    /// Where its log and its book are.
    #[arg(long)]
    pub directory: PathBuf,
    /// Where it listens; 0 has the system choose.
    #[arg(long)]
    pub port: u16,
    /// Where the coordinator is asked for verdicts.
    #[arg(long)]
    pub coordinator: SocketAddr,
    /// What there is, at the very first start.
    #[arg(long)]
    pub stock: u64,
}

/// What it says once it listens, as a line of its output.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub port: u16,
    /// Branches that it had promised, and whose end it learnt by asking.
    pub committed: usize,
    pub rolled_back: usize,
}

/// What its clients ask for.
#[derive(Debug, Serialize, Deserialize)]
pub enum ServiceRequest {
    /// A piece of work, under the branch id that the transaction has for this service.
    Work { branch: BranchId, take: Take },
    /// How much there is, and who has taken what.
    State,
}

/// Why a piece of work was not done. The transaction is to be rolled back either way.
#[derive(Debug, Serialize, Deserialize)]
pub enum NotDone {
    /// By the service, and will be again.
    Refused(String),
    /// It came too late for this transaction. In another one it may go.
    Closed(String),
}

impl Participant {
    pub fn run(self) -> Result<(), Failure> {
        end_with_the_parent()?;
        let log = FileLog::open(self.directory.join("log"))?;
        let account = Account::open(Book::new(&self.directory, &self.name), self.stock)?;
        let options = ResourceManager::<Account>::options().checkpoint_every(CHECKPOINT_EVERY);
        let manager = Arc::new(options.open(&self.name, log, account)?);
        // Before any work is done: so it knows which transactions began before it was opened, and may have lost work.
        manager.set_verdict_endpoint(Name::new(COORDINATOR)?, Remote::new(self.coordinator, SILENT_FOR)?);
        // The coordinator would come back to it by itself. Who asks has not to wait for that.
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
        // No answer that anybody takes for one.
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

/// Whoever started it holds its standard input open; with him it goes, however he ends.
fn end_with_the_parent() -> io::Result<()> {
    let wait = || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    };
    thread::Builder::new().name("parent".into()).spawn(wait).map(drop)
}
