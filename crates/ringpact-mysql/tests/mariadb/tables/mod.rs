//! `open_tables`: a service with its reservations in tables. A stock whose steps are not idempotent, so
//! that a step that is done twice is seen.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use mysql_async::Opts;
use ringpact::{
    BranchId, Call, Epoch, LogId, ParticipantError, ServiceError, Vote,
    participant::{AsyncParticipant as _, EndedOpening, Life},
};
use ringpact_mysql::{
    AsyncService, BranchTimeouts, MySqlBuilder, MySqlParticipant, MySqlTables, MySqlTx, TableParticipant,
};
use tokio::time::sleep;

use crate::support::{Database, SOON, with_database};

mod conformance;
mod contention;
mod crashes;
mod limits;
mod lost_answers;
mod misbehaviour;
mod opening;
mod processes;
mod sweeping;

pub type Goods = TableParticipant<MySqlTables, Stock>;

/// What to do, the article, and how many pieces.
pub type Work = (String, i64, i64);

/// Takes pieces of an article.
pub fn take(id: i64, pieces: i64) -> Work {
    ("take".to_owned(), id, pieces)
}

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

impl Database {
    /// Makes the tables of the service, with `free` pieces of each of ten goods.
    pub async fn make_stock(&self, free: i64) {
        self.sql(
            "CREATE TABLE stock (id BIGINT PRIMARY KEY, free BIGINT NOT NULL) ENGINE = InnoDB; \
             CREATE TABLE reserved (branch VARCHAR(200) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, id BIGINT NOT NULL, \
             pieces BIGINT NOT NULL, KEY (branch)) ENGINE = InnoDB; CREATE TABLE sold LIKE reserved",
        )
        .await;
        for id in 0..10 {
            self.sql(&format!("INSERT INTO stock VALUES ({id}, {free})")).await;
        }
    }

    pub fn tables(&self) -> MySqlBuilder {
        self.tables_by(self.opts())
    }

    pub fn tables_by(&self, opts: impl Into<Opts>) -> MySqlBuilder {
        MySqlParticipant::builder("payments")
            .opts(opts)
            .timeouts(BranchTimeouts::default().lock(Duration::from_secs(1)))
    }

    pub async fn stock(&self) -> Goods {
        stock(self.tables()).await
    }

    pub async fn is_sold(&self, branch: &BranchId) -> bool {
        let sold: u64 =
            self.value(&format!("SELECT COUNT(*) FROM sold WHERE branch = '{branch}'")).await.expect("a count");
        assert!(sold <= 1, "{branch} is confirmed {sold} times");
        sold == 1
    }

    /// Checks that each piece is free, set aside or sold, and returns the number of those that are set
    /// aside.
    pub async fn audit(&self, free: i64) -> u64 {
        let wrong = format!(
            "SELECT COUNT(*) FROM stock WHERE free <> {free} \
             - COALESCE((SELECT SUM(pieces) FROM reserved WHERE reserved.id = stock.id), 0) \
             - COALESCE((SELECT SUM(pieces) FROM sold WHERE sold.id = stock.id), 0)"
        );
        assert_eq!(self.value::<u64>(&wrong).await, Some(0), "pieces are lost, or were sold twice");
        self.value("SELECT CAST(COALESCE(SUM(pieces), 0) AS UNSIGNED) FROM reserved").await.expect("a sum")
    }

    pub async fn free(&self, id: i64) -> i64 {
        self.value(&format!("SELECT free FROM stock WHERE id = {id}")).await.expect("an article")
    }

    pub async fn rows(&self) -> u64 {
        self.value("SELECT COUNT(*) FROM ringpact_branch").await.expect("a count")
    }
}

pub async fn stock(builder: MySqlBuilder) -> Goods {
    builder.open_tables(Stock::default()).await.expect("a participant")
}

/// Runs a test in a fresh database with a hundred pieces of each of ten goods.
pub fn with_stock(test: impl AsyncFnOnce(Database)) {
    with_database(async |database| {
        database.make_stock(100).await;
        test(database).await;
    });
}

/// A coordinator's call that names its log.
pub fn named() -> Call {
    let mut call = Call::new(LogId::from_bytes([7; 16]));
    (call.identity, call.epoch) = (LogId::from_bytes([7; 16]), Epoch::new(1));
    call.after = EndedOpening { epoch: Epoch::new(0), position: 0 };
    call
}

/// The life that [`named`] calls belong to.
pub fn life() -> Life {
    named().life()
}

/// Repeats a message as a coordinator does, until it is answered.
pub async fn repeated<T>(mut message: impl AsyncFnMut() -> Result<T, ParticipantError>) -> Result<T, ParticipantError> {
    let deadline = Instant::now() + SOON;
    loop {
        match message().await {
            Err(error @ (ParticipantError::Resource(_) | ParticipantError::Busy)) => {
                assert!(Instant::now() < deadline, "{}", ringpact::error_chain(&error));
                sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// Does a piece of work and has the branch promise.
pub async fn promise(goods: &Goods, branch: &BranchId, work: Work) {
    goods.execute_under(branch, &work).await.expect("there are enough");
    assert_eq!(goods.prepare(branch, &named()).await.expect("a vote"), Vote::Yes);
}
