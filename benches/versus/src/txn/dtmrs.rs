//! dtmrs 0.13, with its coordinator embedded in this process, as in its documentation: an XA
//! transaction with two branches that are functions of this process, and a SQLite file.
//!
//! - Its durable setting: it opens SQLite with `synchronous=NORMAL`, with which a loss of power
//!   loses commits that were answered, and it has no option for this. So each connection of its
//!   pool is told `synchronous=FULL` before the measurement.
//! - A commit ends when `submit` returns: from then on the decision is in its database. Its
//!   background workers tell both branches some time later (they look for work every 200 ms). That
//!   is not waited for, which is to its advantage: our branches have been told when a commit
//!   returns.
//! - What it refuses is tried again. (SQLite lets in one writer at a time, and refuses a writer
//!   that waits for longer than 5 s.)

use std::{
    error::Error,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use dtmrs::{BranchResult, Embedded};
use tokio::runtime::{Builder, Runtime};

use crate::log::{failed, load::Blocking};

/// Maximum number of clients. With more, hardly any client is answered within a round: clients
/// queue for its 32 connections, and connections queue for SQLite's one writer.
pub const MOST_CLIENTS: usize = 64;

const COMMIT: &str = "local://commit";
const ROLLBACK: &str = "local://rollback";

pub struct Peer {
    runtime: Runtime,
    coordinator: Option<Embedded>,
    transactions: AtomicU64,
}

impl Peer {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let database = format!("sqlite:{}", dir.join("dtmrs").display());
        let coordinator = runtime.block_on(start(&database)).map_err(failed)?;
        Ok(Self { runtime, coordinator: Some(coordinator), transactions: AtomicU64::new(0) })
    }

    async fn transaction(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let coordinator = self.coordinator.as_ref().ok_or("it is shut down")?;
        let id = self.transactions.fetch_add(1, Ordering::Relaxed).to_string();
        let mut transaction = coordinator.xa(&id).await?;
        for _ in 0..2 {
            transaction.prepare_branch(COMMIT, ROLLBACK, |_| async { BranchResult::Success }).await?;
        }
        Ok(transaction.submit().await?)
    }
}

async fn start(database: &str) -> Result<Embedded, Box<dyn Error + Send + Sync>> {
    let coordinator = Embedded::builder(database)
        .handler("commit", |_| async { BranchResult::Success })
        .handler("rollback", |_| async { BranchResult::Success })
        .start()
        .await?;
    let pool = coordinator.store().pool().ok_or("SQLite has a pool")?;
    let mut all = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        all.push(pool.acquire().await?);
    }
    for connection in &mut all {
        sqlx::query("PRAGMA synchronous=FULL").execute(&mut **connection).await?;
    }
    drop(all);
    Ok(coordinator)
}

impl Blocking for Peer {
    fn commit(&self, _client: usize, _number: u64) {
        while self.runtime.block_on(self.transaction()).is_err() {}
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(coordinator) = self.coordinator.take() {
            self.runtime.block_on(coordinator.shutdown());
        }
    }
}
