//! `open_tables`: a service with its reservations in tables.
//!
//! `ringpact-sqlx` runs these tests, too, with its own `support.rs` and `stock.rs`.

use std::time::{Duration, Instant};

use ringpact::{
    BranchId, Call, Epoch, LogId, ParticipantError, Vote,
    participant::{AsyncParticipant as _, EndedOpening, Life},
};
use tokio::time::sleep;

pub use crate::stock::Stock;
use crate::support::{Database, MySqlBuilder, MySqlTables, SOON, TableParticipant, with_database};

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

    pub async fn stock(&self) -> Goods {
        stock(self.tables("payments")).await
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
