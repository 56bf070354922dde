//! `open_tables`: a service with its reservations in tables.
//!
//! `ringpact-sqlx` runs these tests, too, with its own `support.rs` and `stock.rs`.

use ringpact::{
    BranchId, Call, Epoch, LogId, ParticipantError, Vote,
    participant::{AsyncParticipant, EndedOpening, Life},
};
use tokio::time::{Instant, sleep};

pub(crate) use crate::stock::Stock;
use crate::support::{Db, PgBuilder, PgTables, TableParticipant};

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
