//! Transactions over two databases, beside what the databases can do at best.
//!
//! Each client changes one random row on each of two private servers, which sync what they write.
//! `local-commits` commits on each server alone, so it is a bound and no transaction; `raw-2pc` sends
//! `PREPARE TRANSACTION` and `COMMIT PREPARED` (or `XA ..`) by hand, and `raw-2pc-marker` also writes the
//! row by which a repeated commit can be told from a lost one. Neither logs a decision. In
//! `ringpact-last-resource` the first database promises, and the second commits without a promise. `dtmrs`, a
//! coordinator of others, takes part in the pair of PostgreSQL servers.

mod dtmrs;
mod raw;
mod through;

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use mysql_async::{Opts, OptsBuilder};
use ringpact_servers::{
    mariadb::MariaDb,
    postgres::{Options as PostgresOptions, Postgres},
};

use crate::{
    log::{
        load::{processor_seconds, processor_seconds_of},
        turns,
    },
    report::Report,
};
use raw::{Failure, Link};
use through::Shop;

/// Number of rows among which the clients choose.
const ROWS: i32 = 100_000;

const LOCAL: &str = "local-commits";
const ONE: &str = "local-commit-of-one";
const RAW: &str = "raw-2pc";
const MARKED: &str = "raw-2pc-marker";
const RINGPACT: &str = "ringpact";
const READS: &str = "ringpact-read-only";
const ALONE: &str = "ringpact-one-phase";
const LAST: &str = "ringpact-last-resource";
const DTMRS: &str = "dtmrs";
const ALL: [&str; 9] = [LOCAL, ONE, RAW, MARKED, RINGPACT, READS, ALONE, LAST, DTMRS];

/// How to measure.
#[derive(Args)]
pub struct Options {
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    clients: Vec<usize>,

    /// Number of rounds, of which the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// How long each implementation is measured in each round.
    #[arg(long, default_value_t = 2_000)]
    milliseconds: u64,

    /// Only pairs of servers with one of these in their names, as `postgres+mariadb`.
    #[arg(long, value_delimiter = ',')]
    pairs: Vec<String>,

    /// Only these implementations.
    #[arg(long, value_delimiter = ',')]
    implementations: Vec<String>,
}

/// A private server, and how to reach its database.
pub enum Server {
    Postgres { url: String, server: Box<Postgres> },
    MariaDb { opts: Opts, _server: Box<MariaDb> },
}

impl Server {
    fn postgres() -> Result<Self, Failure> {
        let options = PostgresOptions { fsync: true, max_prepared_transactions: 400 };
        let server = Postgres::start(options).ok_or("PostgreSQL is not installed")?;
        server.create_database("versus")?;
        Ok(Self::Postgres { url: server.url("versus"), server: Box::new(server) })
    }

    async fn mariadb() -> Result<Self, Failure> {
        use mysql_async::prelude::Queryable as _;
        let server = MariaDb::start(&[]).ok_or("MariaDB is not installed")?;
        let opts = OptsBuilder::default().socket(Some(server.socket().display().to_string())).user(Some("root"));
        let mut conn = mysql_async::Conn::new(opts.clone()).await?;
        conn.query_drop("CREATE DATABASE versus").await?;
        Ok(Self::MariaDb { opts: opts.db_name(Some("versus")).into(), _server: Box::new(server) })
    }

    /// Returns the processor time of all of its processes so far, in seconds, if the server tells its process.
    fn processor_seconds(&self) -> Option<f64> {
        match self {
            Self::Postgres { server, .. } => server.pid().map(processor_seconds_of),
            Self::MariaDb { .. } => None,
        }
    }

    /// Returns the number of syncs of its log so far, if the server says it.
    async fn flushes(&self) -> Option<u64> {
        match self {
            Self::Postgres { url, .. } => {
                let client = raw::connect_postgres(url).await.ok()?;
                let row = client.query_one("SELECT wal_sync FROM pg_stat_wal", &[]).await.ok()?;
                u64::try_from(row.get::<_, i64>(0)).ok()
            }
            Self::MariaDb { .. } => None,
        }
    }
}

/// The figures of one round.
struct Round {
    per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    /// Processor time of both servers, if both tell it.
    server_cpu_us: Option<f64>,
    flushes: Option<f64>,
}

/// One client's work with one implementation.
enum Client {
    Raw { links: Box<[Link; 2]>, kind: &'static str, number: usize },
    Through { shop: Arc<Shop>, kind: &'static str },
    Dtmrs(Arc<dtmrs::Shop>),
}

/// Numbers of transactions that were prepared by hand, so that no two have the same id.
static GIDS: AtomicU64 = AtomicU64::new(0);

impl Client {
    async fn transaction(&mut self) -> Result<(), Failure> {
        let rows = [fastrand::i32(1..=ROWS), fastrand::i32(1..=ROWS)];
        match self {
            Self::Through { shop, kind: READS } => shop.both(rows, true).await,
            Self::Through { shop, kind: ALONE } => shop.one(rows[0]).await,
            Self::Through { shop, .. } => shop.both(rows, false).await,
            Self::Dtmrs(shop) => shop.both(rows).await,
            Self::Raw { links, kind, number } => {
                let [one, other] = &mut **links;
                match *kind {
                    ONE => return one.local(rows[0]).await,
                    LOCAL => {
                        let (one, other) = tokio::join!(one.local(rows[0]), other.local(rows[1]));
                        one.and(other)
                    }
                    kind => {
                        let gid = GIDS.fetch_add(1, Ordering::Relaxed);
                        let gids = [format!("raw-{number}-{gid}-a"), format!("raw-{number}-{gid}-b")];
                        let marks = kind == MARKED;
                        let (first, second) = tokio::join!(
                            one.promise(&gids[0], rows[0], marks),
                            other.promise(&gids[1], rows[1], marks)
                        );
                        first.and(second)?;
                        let (first, second) = tokio::join!(one.commit(&gids[0]), other.commit(&gids[1]));
                        first.and(second)
                    }
                }
            }
        }
    }
}

/// Measures, prints the table, writes the CSV.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(options)).map_err(|error| -> Box<dyn Error> { error })
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let mut report = Report::by_clients(&[LOCAL, ONE]);
    let wants = |chosen: &[String], name: &str| chosen.is_empty() || chosen.iter().any(|part| name == part);
    for pair in ["postgres+postgres", "postgres+mariadb"].into_iter().filter(|pair| wants(&options.pairs, pair)) {
        let second = if pair.ends_with("mariadb") { Server::mariadb().await? } else { Server::postgres()? };
        let servers = [Server::postgres()?, second];
        for server in &servers {
            raw::set_up(server).await?;
        }
        // On MariaDB dtmrs takes commits for done that are not: see its file.
        let can = |name: &str| name != DTMRS || pair == "postgres+postgres";
        let chosen: Vec<_> =
            ALL.into_iter().filter(|name| wants(&options.implementations, name) && can(name)).collect();
        for clients in &options.clients {
            eprintln!("{pair}, {clients} clients ...");
            let mut found: BTreeMap<&'static str, Vec<Round>> = BTreeMap::new();
            for round in 0..options.rounds {
                for name in turns(&chosen, round) {
                    let time = Duration::from_millis(options.milliseconds);
                    found.entry(name).or_default().push(one_round(&servers, name, *clients, time).await?);
                }
            }
            for (name, rounds) in found {
                let mut add = |what: &str, unit, more_is_better, figure: &dyn Fn(&Round) -> Option<f64>| {
                    let samples: Vec<_> = rounds.iter().filter_map(figure).collect();
                    if !samples.is_empty() {
                        // Once for each figure of a run.
                        let what: &'static str = Box::leak(format!("{pair}:{what}").into_boxed_str());
                        report.add((what, *clients, name), unit, more_is_better, samples);
                    }
                };
                add("tx_per_s", "tx/s", true, &|round| Some(round.per_s));
                add("p50_us", "us", false, &|round| Some(round.p50_us));
                add("p99_us", "us", false, &|round| Some(round.p99_us));
                add("cpu_us", "us", false, &|round| Some(round.cpu_us));
                add("server_cpu_us", "us", false, &|round| round.server_cpu_us);
                add("flushes_per_tx", "syncs", false, &|round| round.flushes);
            }
        }
    }
    report.skip(
        "local-commits changes both databases without any guarantee; local-commit-of-one changes the first alone."
            .into(),
    );
    report.skip("cpu_us is the processor time of the client's process for one transaction.".into());
    report.skip("server_cpu_us is that of all processes of both servers.".into());
    report.skip("flushes_per_tx counts the syncs of both logs of a pair of PostgreSQL servers.".into());
    report.skip(
        "dtmrs: without HTTP, with its own tables in a database of the first server. It is wrong on MariaDB, so it is not \
         measured there."
            .into(),
    );
    println!("{}", report.markdown());
    eprintln!("{}", report.write_csv("databases")?.display());
    Ok(())
}

async fn one_round(
    servers: &[Server; 2],
    kind: &'static str,
    clients: usize,
    time: Duration,
) -> Result<Round, Failure> {
    let is_through = matches!(kind, RINGPACT | READS | ALONE | LAST);
    let shop =
        if is_through { Some(Arc::new(Shop::open([&servers[0], &servers[1]], kind == LAST).await?)) } else { None };
    let peer = match kind {
        DTMRS => Some(Arc::new(dtmrs::Shop::open([&servers[0], &servers[1]]).await?)),
        _ => None,
    };
    let mut all = Vec::with_capacity(clients);
    for number in 0..clients {
        all.push(match (&shop, &peer) {
            (Some(shop), _) => Client::Through { shop: Arc::clone(shop), kind },
            (None, Some(peer)) => Client::Dtmrs(Arc::clone(peer)),
            (None, None) => {
                let links = Box::new([Link::open(&servers[0]).await?, Link::open(&servers[1]).await?]);
                Client::Raw { links, kind, number }
            }
        });
    }
    let (counting, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let tasks: Vec<_> = all
        .into_iter()
        .map(|mut client| {
            let (counting, done) = (Arc::clone(&counting), Arc::clone(&done));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    client.transaction().await?;
                    if counting.load(Ordering::Relaxed) {
                        latencies.push(begun.elapsed().as_nanos() as f64 / 1e3);
                    }
                }
                Ok::<_, Failure>(latencies)
            })
        })
        .collect();
    tokio::time::sleep(time / 5).await;
    let flushed = (servers[0].flushes().await, servers[1].flushes().await);
    let of_servers = || Some(servers[0].processor_seconds()? + servers[1].processor_seconds()?);
    let (begun, processor, served) = (Instant::now(), processor_seconds(), of_servers());
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    counting.store(false, Ordering::Relaxed);
    let (elapsed, processor) = (begun.elapsed().as_secs_f64(), processor_seconds() - processor);
    let served = of_servers().zip(served).map(|(then, before)| then - before);
    let flushed_then = (servers[0].flushes().await, servers[1].flushes().await);
    done.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    if let Some(shop) = shop {
        // All of it counts: decisions that are not delivered yet would be work that was put off.
        if !shop.coordinator.settle_async(Duration::from_secs(30)).await {
            return Err(shop.coordinator.status().to_string().into());
        }
        shop.coordinator.shutdown_async(Duration::from_secs(30)).await;
    }
    if let Some(peer) = peer {
        Arc::into_inner(peer).ok_or("a client is left")?.close().await?;
    }
    latencies.sort_by(f64::total_cmp);
    let count = latencies.len() as f64;
    let at = |share: f64| latencies.get((count * share) as usize).copied().unwrap_or(f64::NAN);
    let flushes = match (flushed, flushed_then) {
        ((Some(one), Some(other)), (Some(one_then), Some(other_then))) => {
            Some((one_then + other_then - one - other) as f64 / count)
        }
        _ => None,
    };
    Ok(Round {
        per_s: count / elapsed,
        p50_us: at(0.5),
        p99_us: at(0.99),
        cpu_us: processor * 1e6 / count,
        server_cpu_us: served.map(|seconds| seconds * 1e6 / count),
        flushes,
    })
}
