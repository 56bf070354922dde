//! `open_tables`: a service with its reservations in tables. A stock whose steps are not idempotent, so that a step that is done
//! twice is seen.

use std::sync::Mutex;

use ringpact::{
    BranchId, Call, Epoch, LogId, ParticipantError, ServiceError, Vote,
    participant::{AsyncParticipant, EndedOpening, Life},
};
use ringpact_postgres::{PgBuilder, PgTables, PgTx, TableParticipant};
use tokio::time::{Instant, sleep};

use crate::support::Db;

mod conformance;
mod contention;
mod crashes;
mod limits;
mod lost_answers;
mod misbehaviour;
mod opening;
mod processes;
mod proxies;
mod sweeping;

pub(crate) type Goods = TableParticipant<PgTables, Stock>;

/// What to do, the article, and how many pieces.
pub(crate) type Work = (String, i64, i64);

/// Takes pieces of an article.
pub(crate) fn take(id: i64, pieces: i64) -> Work {
    ("take".to_owned(), id, pieces)
}

/// Sells pieces of `stock`: those that are set aside are in `reserved`, those that are sold in `sold`.
#[derive(Default)]
pub(crate) struct Stock {
    /// What each opening has said.
    pub(crate) opened: Mutex<Vec<Vec<BranchId>>>,
}

impl ringpact_postgres::AsyncService<PgTx> for Stock {
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

impl Db {
    /// Creates a database with the tables of the service.
    pub(crate) async fn with_stock() -> Option<Self> {
        let db = Self::new().await?;
        db.make_stock().await;
        Some(db)
    }

    pub(crate) async fn make_stock(&self) {
        let tables = "CREATE TABLE reserved (branch text NOT NULL, id bigint NOT NULL, pieces bigint NOT NULL); \
                      CREATE INDEX ON reserved (branch); CREATE TABLE sold (LIKE reserved INCLUDING ALL)";
        self.admin.batch_execute(tables).await.expect("tables");
    }

    pub(crate) async fn stock(&self) -> Goods {
        stock(self.builder()).await
    }

    pub(crate) async fn is_sold(&self, branch: &BranchId) -> bool {
        let sold = self.number(&format!("SELECT count(*) FROM sold WHERE branch = '{branch}'")).await;
        assert!(sold <= 1, "{branch} is confirmed {sold} times");
        sold == 1
    }

    /// Checks that each piece is free, set aside or sold, and returns the number of those that are set aside.
    pub(crate) async fn audit(&self) -> i64 {
        let wrong = "SELECT count(*) FROM stock WHERE free <> 100 \
                     - coalesce((SELECT sum(pieces) FROM reserved WHERE reserved.id = stock.id), 0) \
                     - coalesce((SELECT sum(pieces) FROM sold WHERE sold.id = stock.id), 0)";
        assert_eq!(self.number(wrong).await, 0, "pieces are lost, or were sold twice");
        self.number("SELECT coalesce(sum(pieces), 0)::bigint FROM reserved").await
    }

    pub(crate) async fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM ringpact.branch").await
    }
}

pub(crate) async fn stock(builder: PgBuilder) -> Goods {
    builder.open_tables(Stock::default()).await.expect("a participant")
}

/// A coordinator's call that names its log.
pub(crate) fn named() -> Call {
    let mut call = Call::new(LogId::from_bytes([7; 16]));
    (call.identity, call.epoch) = (LogId::from_bytes([7; 16]), Epoch::new(1));
    call.after = EndedOpening { epoch: Epoch::new(0), position: 0 };
    call
}

/// The life that [`named`] calls belong to.
pub(crate) fn life() -> Life {
    named().life()
}

/// Repeats a message as a coordinator does, until it is answered.
pub(crate) async fn repeated<T>(
    mut message: impl AsyncFnMut() -> Result<T, ParticipantError>,
) -> Result<T, ParticipantError> {
    let begun = Instant::now();
    loop {
        match message().await {
            Err(error @ (ParticipantError::Resource(_) | ParticipantError::Busy)) => {
                assert!(begun.elapsed().as_secs() < 30, "{}", ringpact::error_chain(&error));
                sleep(std::time::Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// Does a piece of work and has the branch promise.
pub(crate) async fn promise(goods: &Goods, branch: &BranchId, work: Work) {
    goods.execute_under(branch, &work).await.expect("there are enough");
    assert_eq!(goods.prepare(branch, &named()).await.expect("a vote"), Vote::Yes);
}
