//! The service of the tests of `tables`: a stock whose steps are not idempotent, so that a step that is done twice is seen.
//!
//! `ringpact-sqlx` has a module of the same name with the same service.

use std::sync::Mutex;

use ringpact::{BranchId, ServiceError};
use ringpact_mysql::{AsyncService, MySqlTx};

use crate::tables::Work;

/// What an answer says if the service has swallowed the error of a statement that commits.
pub const SWALLOWED_COMMIT: &str = "a statement of the service has failed";

/// Sells pieces of `stock`: those that are set aside are in `reserved`, those that are sold in `sold`.
#[derive(Debug, Default)]
pub struct Stock {
    /// What each opening has said.
    pub opened: Mutex<Vec<Vec<BranchId>>>,
}

impl AsyncService<MySqlTx> for Stock {
    type Work = Work;

    async fn try_reserve(&self, tx: &mut MySqlTx, branch: &BranchId, work: &Work) -> Result<(), ServiceError> {
        let (what, id, pieces) = work;
        tx.exec_drop("UPDATE stock SET free = free - ? WHERE id = ? AND free >= ?", (pieces, id, pieces)).await?;
        if tx.affected_rows() == 0 {
            return Err("out of stock".into());
        }
        tx.exec_drop("INSERT INTO reserved VALUES (?, ?, ?)", (branch.to_string(), id, pieces)).await?;
        match what.as_str() {
            "swallows an error" => drop(tx.query_drop("INSERT INTO stock VALUES (1, 1)").await),
            "commits and begins" => tx.query_drop("COMMIT; START TRANSACTION").await?,
            "commits" => tx.query_drop("COMMIT").await?,
            "swallows a commit" => drop(tx.query_drop("CREATE TABLE made (id INT)").await),
            "loses its session" => tx.query_drop("KILL CONNECTION_ID()").await?,
            _ => {}
        }
        if let Some(reason) = what.strip_prefix("refuse: ") { Err(reason.into()) } else { Ok(()) }
    }

    async fn confirm(&self, tx: &mut MySqlTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        let id = branch.to_string();
        tx.exec_drop("INSERT INTO sold SELECT * FROM reserved WHERE branch = ?", (&id,)).await?;
        let sold = tx.affected_rows();
        gives_up(tx, &id, works, sold).await
    }

    async fn cancel(&self, tx: &mut MySqlTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        for (_, id, pieces) in works {
            tx.exec_drop("UPDATE stock SET free = free + ? WHERE id = ?", (pieces, id)).await?;
        }
        gives_up(tx, &branch.to_string(), works, works.len() as u64).await
    }

    async fn opened(&self, tx: &mut MySqlTx, promised: &[BranchId]) -> Result<(), ServiceError> {
        for branch in promised {
            let found: Option<u8> =
                tx.exec_first("SELECT 1 FROM reserved WHERE branch = ?", (branch.to_string(),)).await?;
            if found.is_none() {
                return Err(format!("{branch} has promised, and nothing is reserved").into());
            }
        }
        self.opened.lock().expect("no panic").push(promised.to_vec());
        Ok(())
    }
}

/// Deletes the branch's reservations, which must be as many as its pieces of work.
async fn gives_up(tx: &mut MySqlTx, id: &str, works: &[Work], found: u64) -> Result<(), ServiceError> {
    tx.exec_drop("DELETE FROM reserved WHERE branch = ?", (id,)).await?;
    let deleted = tx.affected_rows();
    if (deleted, found) == (works.len() as u64, works.len() as u64) {
        return Ok(());
    }
    Err(format!("{id}: {deleted} and {found} reservations for {} pieces of work", works.len()).into())
}
