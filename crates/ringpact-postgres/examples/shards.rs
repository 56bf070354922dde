//! Rows move from one database of PostgreSQL to another, on private servers with real syncs: as a change of a cluster, and by
//! hand with plain transactions, in turn. It prints how fast both are.
//!
//! ```sh
//! cargo run --release -p ringpact-postgres --example shards
//! cargo run --release -p ringpact-postgres --example shards -- --rows 50000 --bytes 200 --freeze 50
//! ```
//!
//! The last line is for programs: `shards: moved=N absent=0 ratio=N`.

use std::{
    error::Error,
    num::NonZeroUsize,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use ringpact::{
    BranchId, FileLog, HashRing, ServiceError,
    ring::{KeyHasher, NodeId, Position, Xxh3},
    sharding::{Cluster, Connection, FileRingStore, Keyed, Pace, ShardHost, shard_name},
};
use ringpact_postgres::{
    AsyncService, PgParticipant, PgShard, PgTx, ShardTable, column_of, set_up_shards,
    tokio_postgres::{Client, NoTls, connect},
};
use ringpact_servers::postgres::{Options, Postgres};
use tokio::runtime::Runtime;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Moves rows from one database to another, and back.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of rows.
    #[arg(long, default_value_t = 20_000)]
    rows: i64,
    /// Number of bytes of a row's text.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Milliseconds for which a chunk may hold up its keys.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 20, 50])]
    freeze: Vec<u64>,
    /// Maximum number of bytes of a chunk.
    #[arg(long, default_value_t = u64::MAX)]
    chunk: u64,
    /// Number of rounds for each of these times.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Gives an article another text.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Describe {
    article: i64,
    text: String,
}

fn position(article: i64) -> Position {
    Xxh3::default().hash_key(&article.to_le_bytes())
}

impl Keyed for Describe {
    fn position(&self) -> Position {
        position(self.article)
    }
}

struct Goods;

impl AsyncService<PgTx> for Goods {
    type Work = Describe;

    async fn try_reserve(&self, _: &mut PgTx, _: &BranchId, _: &Describe) -> std::result::Result<(), ServiceError> {
        Ok(())
    }

    async fn confirm(&self, tx: &mut PgTx, _: &BranchId, works: &[Describe]) -> std::result::Result<(), ServiceError> {
        for Describe { article, text } in works {
            tx.execute("UPDATE goods SET text = $2 WHERE id = $1", &[article, text]).await?;
        }
        Ok(())
    }

    async fn cancel(&self, _: &mut PgTx, _: &BranchId, _: &[Describe]) -> std::result::Result<(), ServiceError> {
        Ok(())
    }
}

const NODES: [&str; 2] = ["a", "b"];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shards: {}", ringpact::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let options = Options { fsync: true, ..Options::default() };
    let (Some(first), Some(second)) = (Postgres::start(options), Postgres::start(options)) else {
        return Ok(ExitCode::SUCCESS);
    };
    let runtime = Runtime::new()?;
    let urls = [first.url("postgres"), second.url("postgres")];
    let admins = [runtime.block_on(client(&urls[0]))?, runtime.block_on(client(&urls[1]))?];
    for admin in &admins {
        runtime.block_on(make(admin))?;
    }
    runtime.block_on(fill(&admins[0], arguments))?;

    let directory = tempfile::tempdir()?;
    let mut hosts = Vec::new();
    for (node, url) in NODES.iter().zip(&urls) {
        let name = shard_name("goods", &NodeId::from(*node))?;
        let table = ShardTable::new("goods").columns(["id", "text"]);
        let builder = PgParticipant::builder(name.as_str()).config(url.parse()?);
        let shard: PgShard<Goods> = runtime.block_on(builder.open_shard(Goods, [table]))?;
        hosts.push(Arc::new(ShardHost::open(name.as_str(), FileLog::open(directory.path().join(node))?, shard)?));
    }
    let threads = NonZeroUsize::new(4).ok_or("no threads")?;
    let known = hosts.clone();
    let (builder, _) = Cluster::builder(FileLog::open(directory.path().join("log"))?)
        .store(FileRingStore::open(directory.path().join("ring"))?)
        .first_ring(HashRing::new([NODES[0]])?)
        .service("goods", move |node: &NodeId| {
            let index = usize::from(node.as_str() == NODES[1]);
            Ok(Connection::<Describe>::slow(Arc::clone(&known[index]), threads))
        });
    let cluster = builder.open()?;

    println!("freeze  chunk bytes  moved MiB/s  by hand MiB/s  ratio  longest freeze");
    let (mut here, mut moved, mut ratios) = (0, 0, Vec::new());
    for freeze in &arguments.freeze {
        for _ in 0..arguments.rounds {
            // Everything goes to the other database.
            let pace = Pace::new().unthrottled().freeze(Duration::from_millis(*freeze)).chunk_bytes(arguments.chunk);
            let change = cluster.change()?.join(NODES[1 - here]).leave(NODES[here]);
            let moving = change.plan()?.start(pace)?;
            while !moving.wait(Duration::from_secs(60)) {}
            let progress = moving.progress();
            moved += progress.records;
            let chunk = progress.bytes / progress.chunks.max(1);
            let rate = progress.bytes as f64 / progress.elapsed.as_secs_f64();
            // And the same rows by hand, in parts of the same size.
            let rows = (chunk * progress.records / progress.bytes.max(1)).max(1);
            let [from, to] = [&admins[here], &admins[1 - here]];
            let begun = Instant::now();
            runtime.block_on(by_hand(from, to, rows as i64))?;
            let hand_rate = progress.bytes as f64 / begun.elapsed().as_secs_f64();
            let mib = f64::from(1 << 20);
            println!(
                "{freeze:>4}ms  {chunk:>11}  {:>11.2}  {:>13.2}  {:>5.2}  {:>11.1?}",
                rate / mib,
                hand_rate / mib,
                rate / hand_rate,
                progress.longest_freeze
            );
            ratios.push(rate / hand_rate);
            here = 1 - here;
        }
    }
    let mut there = 0;
    for admin in &admins {
        there += runtime.block_on(admin.query_one("SELECT count(DISTINCT id) FROM goods", &[]))?.get::<_, i64>(0);
    }
    let absent = arguments.rows - there;
    ratios.sort_by(f64::total_cmp);
    println!("shards: moved={moved} absent={absent} ratio={:.2}", ratios[ratios.len() / 2]);
    Ok(if absent == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn client(url: &str) -> Result<Client> {
    let (client, connection) = connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Makes the tables: the shard's, and one for the rows that move by hand.
async fn make(admin: &Client) -> Result<()> {
    set_up_shards(admin).await?;
    for table in ["goods", "by_hand"] {
        let statements = format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, position bigint NOT NULL, text text); CREATE INDEX ON {table} (position)"
        );
        admin.batch_execute(&statements).await?;
    }
    Ok(())
}

async fn fill(admin: &Client, arguments: &Arguments) -> Result<()> {
    let text = "x".repeat(arguments.bytes);
    let ids: Vec<i64> = (0..arguments.rows).collect();
    let positions: Vec<i64> = ids.iter().map(|id| column_of(position(*id))).collect();
    for table in ["goods", "by_hand"] {
        let insert =
            format!("INSERT INTO {table} SELECT id, at, $3 FROM unnest($1::bigint[], $2::bigint[]) AS of (id, at)");
        admin.execute(&insert, &[&ids, &positions, &text]).await?;
        admin.batch_execute(&format!("ANALYZE {table}")).await?;
    }
    Ok(())
}

/// Moves all rows with plain transactions, a part at a time: reads it, writes it there, deletes it here. A crash in between leaves
/// the part twice, and a client that writes meanwhile loses its change.
async fn by_hand(from: &Client, to: &Client, rows: i64) -> Result<()> {
    let read = "SELECT id, position, text FROM by_hand ORDER BY position LIMIT $1";
    let write = "INSERT INTO by_hand SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[])";
    let read = from.prepare(read).await?;
    let write = to.prepare(write).await?;
    let delete = from.prepare("DELETE FROM by_hand WHERE position BETWEEN $1 AND $2").await?;
    loop {
        let found = from.query(&read, &[&rows]).await?;
        let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(()) };
        let (low, high): (i64, i64) = (first.get(1), last.get(1));
        let ids: Vec<i64> = found.iter().map(|row| row.get(0)).collect();
        let positions: Vec<i64> = found.iter().map(|row| row.get(1)).collect();
        let texts: Vec<&str> = found.iter().map(|row| row.get(2)).collect();
        to.execute(&write, &[&ids, &positions, &texts]).await?;
        from.execute(&delete, &[&low, &high]).await?;
    }
}
