//! The service of the tests of `tables`: a stock whose steps are not idempotent, so that a step that is done twice is seen.
//!
//! `ringpact-sqlx` has a module of the same name with the same service.

use std::sync::Mutex;

use ringpact::{BranchId, ServiceError};
use ringpact_postgres::{AsyncService, PgTx};

use crate::tables::Work;

/// Sells pieces of `stock`: those that are set aside are in `reserved`, those that are sold in `sold`.
#[derive(Default)]
pub(crate) struct Stock {
    /// What each opening has said.
    pub(crate) opened: Mutex<Vec<Vec<BranchId>>>,
}

impl AsyncService<PgTx> for Stock {
    type Work = Work;

    async fn try_reserve(&self, tx: &mut PgTx, branch: &BranchId, work: &Work) -> Result<(), ServiceError> {
        let (what, id, pieces) = work;
        let taken = tx.execute("UPDATE stock SET free = free - $2 WHERE id = $1 AND free >= $2", &[id, pieces]).await?;
        if taken == 0 {
            return Err("out of stock".into());
        }
        let reserve = "INSERT INTO reserved VALUES ($1, $2, $3)";
        tx.execute(reserve, &[&branch.to_string(), id, pieces]).await?;
        match what.as_str() {
            "swallows an error" => drop(tx.batch_execute("SELECT 1 / 0").await),
            "commits" => tx.batch_execute("COMMIT").await?,
            "rolls back" => tx.batch_execute("ROLLBACK; BEGIN").await?,
            "loses its session" => drop(tx.query("SELECT pg_terminate_backend(pg_backend_pid())", &[]).await?),
            "drops what was set up" => tx.batch_execute("DEALLOCATE ALL").await?,
            "waits" => drop(tx.query("SELECT pg_sleep(3)", &[]).await?),
            _ => {}
        }
        if let Some(reason) = what.strip_prefix("refuse: ") { Err(reason.into()) } else { Ok(()) }
    }

    async fn confirm(&self, tx: &mut PgTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        let id = branch.to_string();
        let sold = tx.execute("INSERT INTO sold SELECT * FROM reserved WHERE branch = $1", &[&id]).await?;
        self.gives_up(tx, &id, works, sold).await
    }

    async fn cancel(&self, tx: &mut PgTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        for (_, id, pieces) in works {
            tx.execute("UPDATE stock SET free = free + $2 WHERE id = $1", &[id, pieces]).await?;
        }
        self.gives_up(tx, &branch.to_string(), works, works.len() as u64).await
    }

    async fn opened(&self, tx: &mut PgTx, promised: &[BranchId]) -> Result<(), ServiceError> {
        for branch in promised {
            let reserved = tx.query("SELECT FROM reserved WHERE branch = $1", &[&branch.to_string()]).await?;
            if reserved.is_empty() {
                return Err(format!("{branch} has promised, and nothing is reserved").into());
            }
        }
        self.opened.lock().expect("no panic").push(promised.to_vec());
        Ok(())
    }
}

impl Stock {
    /// Deletes the branch's reservations, which must be as many as its pieces of work.
    async fn gives_up(&self, tx: &mut PgTx, id: &String, works: &[Work], found: u64) -> Result<(), ServiceError> {
        let deleted = tx.execute("DELETE FROM reserved WHERE branch = $1", &[id]).await?;
        if (deleted, found) == (works.len() as u64, works.len() as u64) {
            return Ok(());
        }
        Err(format!("{id}: {deleted} and {found} reservations for {} pieces of work", works.len()).into())
    }
}
