//! The same work through dtmrs 0.13: its XA mode, with `dtmrs-xa` for the branches.
//!
//! It is built from the parts of its own server, in this process: its `Api`, and a `Driver` that carries
//! out a commit as soon as it is submitted (the server's default), with its default of 16 workers. Branches
//! are functions of this process, and no message is sent by HTTP. What it offers under the name `Embedded`
//! has the same parts, but carries out a commit when a worker finds it, and idle workers look every 200 ms.
//!
//! - *Durable:* all that it stores is in tables of a PostgreSQL database, which its documentation says to use when
//!   no commit may be lost. The database is on the first of both servers, so it shares the server's syncs. A
//!   transaction with two branches that commit costs seven commits of that database. Promises are the servers' own.
//! - *Not durable:* whether a branch has committed. `dtmrs-xa` takes "no such prepared transaction" for
//!   committed; it writes no marker. So a promise that the server has lost or an operator has ended counts as
//!   committed.
//! - A commit ends when both branches have committed, as with all others here. That dtmrs then notes this in its
//!   database is not waited for within the commit, but before the next implementation is measured.
//! - Both branches are registered and promise at the same time. They are told to commit one after the other, because its
//!   driver knows no other way.
//! - Its pools check a connection before each use, unless they are told not to. Those of the branches are told; that of its
//!   database has no option for it.
//! - The pair `postgres+mariadb` is left out, because its XA mode is wrong on MariaDB. `dtmrs-xa` sends `XA COMMIT` on
//!   any connection of its pool. MariaDB 10.11 answers that the promise is unknown (1397, `XAE04`) for as long as the
//!   connection that prepared it lives, and `dtmrs-xa` takes this for "committed already". The transaction ends as
//!   succeeded and its branch stays prepared. (MySQL detaches a promise from its connection since 8.0.29.)

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dtmrs::{
    BranchOp, BranchResult, Store,
    server::{
        api::{Api, PrepareOpts, RegisterBranch},
        driver::{Driver, branch_id},
        registry::{BranchCtx, Registry},
    },
    xa::Xa,
};
use parking_lot::Mutex;
use ringpact_servers::postgres::Postgres;
use sqlx::{AnyPool, any::AnyPoolOptions};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, LocalSet},
};

use super::{Server, raw::Failure};

/// Number of connections that each server has for branches, as for ringpact.
const CONNECTIONS: u32 = 80;

/// How often idle workers look for work: the default of its server.
const TICK: Duration = Duration::from_secs(1);

/// Maximum duration until dtmrs has noted what it has done.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

const COMMIT: &str = "local://commit";
const ROLLBACK: &str = "local://rollback";

/// Number of shops so far: each has a database of its own, because dtmrs keeps what has ended.
static SHOPS: AtomicU64 = AtomicU64::new(0);

/// Clients that wait for the end of their transaction, by its id.
type Waiting = Mutex<HashMap<String, oneshot::Sender<()>>>;

/// A transaction that a client asks for: its rows, and where the result goes.
type Job = ([i32; 2], oneshot::Sender<Result<(), Failure>>);

/// A coordinator with two databases.
pub struct Shop {
    jobs: mpsc::UnboundedSender<Job>,
    banks: Arc<Banks>,
    store: Store,
    stop: watch::Sender<bool>,
    driver: JoinHandle<()>,
}

/// Both servers, as dtmrs reaches them.
struct Banks {
    api: Api,
    xa: Xa,
    pools: [AnyPool; 2],
    waiting: Arc<Waiting>,
    transactions: AtomicU64,
}

impl Shop {
    /// Opens a coordinator with both servers, and with a database of its own on the first.
    pub async fn open(servers: [&Server; 2]) -> Result<Self, Failure> {
        let [first, second] = [postgres(servers[0])?, postgres(servers[1])?];
        let own = format!("dtmrs_{}", SHOPS.fetch_add(1, Ordering::Relaxed));
        first.create_database(&own)?;
        let store = Store::open(&url(first, &own)).await?;
        let xa = Xa::from_url(&url(first, "versus"))?;
        let pools = [pool(first).await?, pool(second).await?];
        for pool in &pools {
            xa.ensure_enabled(pool).await?;
        }
        let waiting = Arc::new(Waiting::default());
        let mut registry = Registry::new();
        for (name, commits) in [("commit", true), ("rollback", false)] {
            let (pools, waiting) = (pools.clone(), Arc::clone(&waiting));
            registry.register(name, move |branch: BranchCtx| {
                let (pools, waiting) = (pools.clone(), Arc::clone(&waiting));
                async move { end(xa, &pools, &waiting, &branch, commits).await }
            });
        }
        let driver = Driver::new(store.clone(), "versus".to_owned()).with_registry(Arc::new(registry));
        let api = Api::new(store.clone()).with_inline_driver(driver.clone());
        let (stop, stops) = watch::channel(false);
        let driver = tokio::spawn(driver.run_until(TICK, stops));
        let banks = Arc::new(Banks { api, xa, pools, waiting, transactions: AtomicU64::new(0) });
        let (jobs, work) = mpsc::unbounded_channel();
        let (runtime, all) = (Handle::current(), Arc::clone(&banks));
        std::thread::spawn(move || carry_out(&runtime, &all, work));
        Ok(Self { jobs, banks, store, stop, driver })
    }

    /// Changes a row in both databases.
    pub async fn both(&self, rows: [i32; 2]) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        self.jobs.send((rows, answer))?;
        answered.await?
    }

    /// Waits until dtmrs has noted that all transactions have ended, and closes it.
    pub async fn close(self) -> Result<(), Failure> {
        let pool = self.store.pool().ok_or("PostgreSQL has a pool")?;
        let deadline = Instant::now() + SETTLE_WITHIN;
        loop {
            const OPEN: &str = "SELECT COUNT(*) FROM trans_global WHERE status NOT IN ('succeed', 'failed')";
            let open: i64 = sqlx::query_scalar(OPEN).fetch_one(pool).await?;
            if open == 0 {
                break;
            }
            if Instant::now() >= deadline {
                return Err(format!("dtmrs has not ended {open} transactions").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop.send_replace(true);
        self.driver.await?;
        self.store.close().await;
        for pool in &self.banks.pools {
            let promises = self.banks.xa.list_prepared(pool).await?.len();
            if promises > 0 {
                return Err(format!("dtmrs has left {promises} promises").into());
            }
            pool.close().await;
        }
        Ok(())
    }
}

impl Banks {
    async fn transaction(&self, rows: [i32; 2]) -> Result<(), Failure> {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        let gid = format!("versus-{number}");
        self.api.prepare_with(&gid, "xa", &[], "", None, &PrepareOpts::default()).await?;
        let (one, other) = tokio::join!(self.promise(&gid, 0, rows[0]), self.promise(&gid, 1, rows[1]));
        if let Err(error) = one.and(other) {
            self.api.abort(&gid).await?;
            return Err(error);
        }
        let (ended, end) = oneshot::channel();
        self.waiting.lock().insert(gid.clone(), ended);
        self.api.submit(&gid, "xa", &[]).await?;
        Ok(end.await?)
    }

    /// Registers a branch, and only then does its work and promises, as dtmrs demands.
    async fn promise(&self, gid: &str, index: usize, row: i32) -> Result<(), Failure> {
        let branch_id = branch_id(index);
        let branch = RegisterBranch {
            gid: gid.to_owned(),
            branch_id: branch_id.clone(),
            commit: COMMIT.to_owned(),
            rollback: ROLLBACK.to_owned(),
            ..RegisterBranch::default()
        };
        self.api.register_branch(&branch).await?;
        let mut branch = self.xa.begin(&self.pools[index], gid, &branch_id).await?;
        sqlx::query("UPDATE account SET balance = balance + 1 WHERE id = $1").bind(row).execute(branch.conn()).await?;
        branch.prepare().await?;
        Ok(())
    }
}

/// Carries out jobs until there can be no more, on a thread of its own: the compiler cannot prove that futures of
/// dtmrs may move between threads (its own benchmark does the same for this reason). Sockets and timers are those
/// of the runtime.
fn carry_out(runtime: &Handle, banks: &Arc<Banks>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        while let Some((rows, answer)) = jobs.recv().await {
            let banks = Arc::clone(banks);
            tokio::task::spawn_local(async move { answer.send(banks.transaction(rows).await).ok() });
        }
    }));
}

/// Carries out the decision in one branch: the function that the driver calls.
async fn end(xa: Xa, pools: &[AnyPool; 2], waiting: &Waiting, branch: &BranchCtx, commits: bool) -> BranchResult {
    debug_assert_eq!(commits, branch.op == BranchOp::Commit, "a function for each decision");
    let is_second = branch.branch_id == branch_id(1);
    let pool = &pools[usize::from(is_second)];
    let xid = xa.xid(&branch.gid, &branch.branch_id);
    let ended = if commits { xa.commit_prepared(pool, &xid).await } else { xa.rollback_prepared(pool, &xid).await };
    // What dtmrs documents: an error is an unknown outcome, which is tried again.
    if ended.is_err() {
        return BranchResult::Ongoing;
    }
    // The driver has told the first branch before, and knows that it has committed.
    if is_second && let Some(ended) = waiting.lock().remove(&branch.gid) {
        let _ = ended.send(());
    }
    BranchResult::Success
}

fn postgres(server: &Server) -> Result<&Postgres, Failure> {
    match server {
        Server::Postgres { server, .. } => Ok(server),
        Server::MariaDb { .. } => Err("dtmrs does not commit on MariaDB".into()),
    }
}

fn url(server: &Postgres, database: &str) -> String {
    format!("postgres://postgres@127.0.0.1:{}/{database}", server.port())
}

async fn pool(server: &Postgres) -> Result<AnyPool, Failure> {
    let options = AnyPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
    Ok(options.connect(&url(server, "versus")).await?)
}
