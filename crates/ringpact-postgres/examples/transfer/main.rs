//! Money moves between two databases of PostgreSQL while the clients' process and the servers are killed. With `--mariadb` a fee of
//! each transfer goes to a third database, of MariaDB. In the end all databases are asked what they have: nothing is torn, lost or
//! left over.
//!
//! ```sh
//! cargo run --release -p ringpact-postgres --example transfer
//! cargo run --release -p ringpact-postgres --example transfer -- --mariadb
//! cargo run --release -p ringpact-postgres --example transfer -- --from "host=db1 user=me dbname=a" --to "host=db2 user=me dbname=b"
//! ```
//!
//! Without `--from` and `--to` it starts private servers, and kills them, too; so it does with `--mariadb` without a URL. If a
//! server is not installed, it says so and ends. The last line is for programs:
//! `transfer: transfers=N committed=N rolled_back=N in_doubt=0 torn=0 lost=0 invariants=ok tx_per_s=N`.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use ringpact_servers::{
    mariadb::MariaDb,
    missing,
    postgres::{Options, Postgres},
};
use tokio::runtime::Runtime;

mod audit;
mod clients;
mod fees;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Number of ids that one process of clients may use.
const IDS_OF_A_PROCESS: u64 = 1_000_000_000;

/// Moves money between databases, kills what takes part, and audits the databases.
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// Number of transfers whose end a client is told.
    #[arg(long, default_value_t = 2_000)]
    transfers: u64,
    /// Number of clients that transfer at the same time.
    #[arg(long, default_value_t = 16)]
    clients: u64,
    /// Number of accounts in each database.
    #[arg(long, default_value_t = 100)]
    accounts: u64,
    /// Number of connections to each database that end promises.
    #[arg(long, default_value_t = 4)]
    control_connections: usize,
    /// How often the clients' process is killed and started again.
    #[arg(long, default_value_t = 2)]
    client_kills: u64,
    /// How often a private server is killed and started again.
    #[arg(long, default_value_t = 2)]
    server_kills: u64,
    /// Connections to one database; a private server if nothing is said.
    #[arg(long, value_name = "URL", requires = "to")]
    from: Option<String>,
    /// Connections to the other database.
    #[arg(long, value_name = "URL", requires = "from")]
    to: Option<String>,
    /// A database of MariaDB takes part, too, and gets a fee of each transfer: this one, or one of a private server.
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = "")]
    mariadb: Option<String>,
    /// Name of the coordinator. A name belongs to a log: with a temporary log it is drawn at random if nothing is said.
    #[arg(long, default_value = "bank")]
    coordinator: String,
    /// Directory of the coordinator's log; a temporary one if nothing is said.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// First id of a transfer. Set only by this program, when it starts itself as the clients' process.
    #[arg(long, hide = true)]
    first_id: Option<u64>,
}

/// What clients were told.
#[derive(Debug, Default)]
struct Told {
    /// Whether each transfer was committed, by its id.
    ends: BTreeMap<u64, bool>,
    /// Whether the clients' process said that everything is settled.
    is_settled: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = if arguments.first_id.is_some() { as_clients(&arguments).map(|()| true) } else { supervise(arguments) };
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("transfer: {}", ringpact::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn as_clients(arguments: &Arguments) -> Result<()> {
    Runtime::new()?.block_on(clients::run(arguments))
}

/// A server that is killed and started again.
enum Private {
    Postgres(Postgres),
    MariaDb(MariaDb),
}

impl Private {
    fn crash_and_start(&mut self) -> Result<()> {
        match self {
            Self::Postgres(server) => {
                server.stop_immediately()?;
                server.start_again()?;
            }
            Self::MariaDb(server) => server.restart(),
        }
        Ok(())
    }
}

/// Starts the servers for which no database is given, and notes where they are. Returns `None` if one is not installed.
fn start(arguments: &mut Arguments) -> Result<Option<Vec<Private>>> {
    let mut servers = Vec::new();
    if arguments.from.is_none() {
        for (url, database) in [(&mut arguments.from, "one"), (&mut arguments.to, "other")] {
            let options = Options { fsync: true, max_prepared_transactions: 256 };
            let Some(server) = Postgres::start(options) else { return Ok(None) };
            server.create_database(database)?;
            *url = Some(server.url(database));
            servers.push(Private::Postgres(server));
        }
    }
    if let Some(url) = arguments.mariadb.as_mut().filter(|url| url.is_empty()) {
        let Some(server) = MariaDb::start(&[]) else {
            missing("MariaDB", "mariadbd is not installed");
            return Ok(None);
        };
        *url = format!("mysql://root@127.0.0.1:{}/mysql", server.port());
        servers.push(Private::MariaDb(server));
    }
    Ok(Some(servers))
}

/// Starts what is needed, has the clients work, kills things, and audits. Returns whether all is well.
fn supervise(mut arguments: Arguments) -> Result<bool> {
    let Some(mut servers) = start(&mut arguments)? else { return Ok(true) };
    let temporary = tempfile::tempdir()?;
    if arguments.log.is_none() {
        arguments.log = Some(temporary.path().to_path_buf());
        arguments.coordinator = format!("{}-{:x}", arguments.coordinator, fastrand::u32(..));
    }
    let runtime = Runtime::new()?;
    runtime.block_on(audit::prepare(&arguments))?;

    let begun = Instant::now();
    let mut told = Told::default();
    let mut kills_left = Kills::of(&arguments, servers.len());
    let mut process = 1;
    while !told.is_settled {
        watch(&arguments, process * IDS_OF_A_PROCESS, &mut told, |done| {
            let Some(kill) = kills_left.next(done) else { return Ok(false) };
            if let Kill::Server(index) = kill {
                println!("transfer: {done} done; server {index} is killed and started again");
                servers[index].crash_and_start()?;
            } else {
                println!("transfer: {done} done; the clients' process is killed and started again");
            }
            Ok(kill == Kill::Clients)
        })?;
        process += 1;
    }
    let elapsed = begun.elapsed();
    let found = runtime.block_on(audit::audit(&arguments, &told.ends))?;
    let rate = told.ends.len() as f64 / elapsed.as_secs_f64();
    println!("{found} tx_per_s={rate:.0}");
    Ok(found.is_well())
}

/// Runs the clients' process until it ends, and takes in what clients were told. `kills` is asked after each transfer whether
/// the process is to be killed.
fn watch(
    arguments: &Arguments,
    first_id: u64,
    told: &mut Told,
    mut kills: impl FnMut(u64) -> Result<bool>,
) -> Result<()> {
    let left = arguments.transfers.saturating_sub(told.ends.len() as u64);
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut process = Command::new(env::current_exe()?)
        .args(["--transfers", &left.to_string(), "--first-id", &first_id.to_string()])
        .args(["--clients", &arguments.clients.to_string(), "--accounts", &arguments.accounts.to_string()])
        .args(["--control-connections", &arguments.control_connections.to_string()])
        .args(["--from", &of(&arguments.from), "--to", &of(&arguments.to)])
        .args(arguments.mariadb.iter().flat_map(|url| ["--mariadb", url]))
        .args(["--coordinator", &arguments.coordinator])
        .arg("--log")
        .arg(arguments.log.as_deref().unwrap_or_else(|| "log".as_ref()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = process.stdout.take().ok_or("the process has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match line.split_once(' ') {
            Some((end @ ("committed" | "rolled_back"), id)) => drop(told.ends.insert(id.parse()?, end == "committed")),
            _ if line == "settled" => told.is_settled = true,
            // The process was killed in the middle of a line.
            _ => {}
        }
        if kills(told.ends.len() as u64)? {
            process.kill()?;
        }
    }
    let status = process.wait()?;
    if !told.is_settled && status.code().is_some() {
        return Err(format!("the clients' process ended with {status}").into());
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    Clients,
    Server(usize),
}

/// What is still to be killed, and after how many transfers.
struct Kills(Vec<(u64, Kill)>);

impl Kills {
    fn of(arguments: &Arguments, servers: usize) -> Self {
        let all = arguments.client_kills + if servers == 0 { 0 } else { arguments.server_kills };
        let (mut of_clients, mut of_servers) = (arguments.client_kills, all - arguments.client_kills);
        let mut kills = Vec::new();
        for number in 1..=all {
            let at = arguments.transfers * number / (all + 1);
            let is_server = of_servers > 0 && (number % 2 == 1 || of_clients == 0);
            let counted = if is_server { &mut of_servers } else { &mut of_clients };
            *counted -= 1;
            let index = usize::try_from(*counted).unwrap_or(0) % servers.max(1);
            kills.push((at, if is_server { Kill::Server(index) } else { Kill::Clients }));
        }
        kills.reverse();
        Self(kills)
    }

    fn next(&mut self, done: u64) -> Option<Kill> {
        let (_, kill) = self.0.pop_if(|(at, _)| *at <= done)?;
        Some(kill)
    }
}

/// Returns a pause that grows, for what is tried again.
fn pause(tried: u32) -> Duration {
    Duration::from_millis(50 * u64::from(tried.min(20)))
}
