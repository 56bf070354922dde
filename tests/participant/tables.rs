//! Services whose reservations are in the tables of a database that cannot prepare.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
};

use fastrand::Rng;
use parking_lot::Mutex;
use ringpact::{
    BranchId, Epoch, LogId, Name, ParticipantError, TxnId, TxnOrdinal, Vote,
    participant::{
        AsyncParticipant, Call, Life, ServiceError,
        conformance::{self, AsyncHarness, Effect, Worked},
        tables::{AsyncService, BranchRow, RowState, TableBackend, TableParticipant, TableWorkError},
        xa::{XaError, XaErrorKind},
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
};

use crate::lives::{Subject, every_branch_ends_as_decided, is_found};

type Goods = TableParticipant<Database, Stock>;

/// All tables. A transaction works on a copy.
#[derive(Clone, Debug, Default)]
struct Tables {
    rows: BTreeMap<BranchId, BranchRow>,
    reserved: BTreeMap<BranchId, u32>,
    sold: BTreeMap<BranchId, u32>,
    lives: BTreeMap<Name, Life>,
}

#[derive(Default)]
struct Server {
    tables: Tables,
    /// A commit that the server carries out, though no client waits for the answer; it holds its locks.
    late: Option<(Tables, OwnedMutexGuard<()>)>,
    chance: Option<Rng>,
    defect: Option<Defect>,
}

/// What is wrong, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    /// The state of the branch is committed before the service's work.
    CommitsTheRowAlone,
    /// A transaction does not wait for the locks of one whose connection was lost.
    OverlooksLocks,
}

/// A database with one lock for all of its tables. Clones share it.
#[derive(Clone, Default)]
struct Database {
    server: Arc<Mutex<Server>>,
    lock: Arc<AsyncMutex<()>>,
}

struct Tx {
    tables: Tables,
    lock: Option<OwnedMutexGuard<()>>,
}

enum Fate {
    Answered,
    LostBefore,
    LostAfter,
    Late,
}

fn unavailable() -> XaError {
    XaError::new(XaErrorKind::Unavailable, "the connection is gone")
}

impl Database {
    fn with_defect(self, defect: Defect) -> Self {
        self.server.lock().defect = Some(defect);
        self
    }

    fn is(&self, defect: Defect) -> bool {
        self.server.lock().defect == Some(defect)
    }

    async fn step(&self) -> Fate {
        let (pauses, fate) = {
            let mut server = self.server.lock();
            let Some(chance) = server.chance.as_mut() else { return Fate::Answered };
            let fate = match chance.u32(..30) {
                0 => Fate::LostBefore,
                1 => Fate::LostAfter,
                2 => Fate::Late,
                _ => Fate::Answered,
            };
            (chance.u32(..4), fate)
        };
        for _ in 0..pauses {
            pause().await;
        }
        fate
    }

    fn finish_late(&self) {
        let mut server = self.server.lock();
        if let Some((tables, lock)) = server.late.take() {
            server.tables = tables;
            drop(lock);
        }
    }
}

async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

impl TableBackend for Database {
    type Tx = Tx;

    async fn begin(&self) -> Result<Tx, XaError> {
        if !matches!(self.step().await, Fate::Answered) {
            return Err(unavailable());
        }
        if self.is(Defect::OverlooksLocks) && self.server.lock().late.is_some() {
            return Ok(Tx { tables: self.server.lock().tables.clone(), lock: None });
        }
        let lock = loop {
            match Arc::clone(&self.lock).try_lock_owned() {
                Ok(lock) => break lock,
                Err(_) => pause().await,
            }
            let is_now = self.server.lock().chance.as_mut().is_none_or(|chance| chance.u32(..5) == 0);
            if is_now {
                self.finish_late();
            }
        };
        Ok(Tx { tables: self.server.lock().tables.clone(), lock: Some(lock) })
    }

    async fn commit(&self, tx: Tx) -> Result<(), XaError> {
        let fate = self.step().await;
        let Tx { tables, lock } = tx;
        if let Fate::LostBefore = fate {
            return Err(XaError::new(XaErrorKind::Lost, "the connection is gone"));
        }
        match (fate, lock) {
            (Fate::Late, Some(lock)) => {
                self.server.lock().late = Some((tables, lock));
                Err(XaError::new(XaErrorKind::Lost, "the connection is gone"))
            }
            (fate, lock) => {
                self.server.lock().tables = tables;
                drop(lock);
                if let Fate::Answered = fate {
                    Ok(())
                } else {
                    Err(XaError::new(XaErrorKind::Lost, "the answer is lost"))
                }
            }
        }
    }

    async fn row(&self, tx: &mut Tx, branch: &BranchId) -> Result<Option<BranchRow>, XaError> {
        match self.step().await {
            Fate::Answered => Ok(tx.tables.rows.get(branch).cloned()),
            _ => Err(unavailable()),
        }
    }

    async fn insert(&self, tx: &mut Tx, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        self.update(tx, branch, row).await
    }

    async fn update(&self, tx: &mut Tx, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        if !matches!(self.step().await, Fate::Answered) {
            return Err(unavailable());
        }
        tx.tables.rows.insert(branch.clone(), row.clone());
        if self.is(Defect::CommitsTheRowAlone) {
            self.server.lock().tables.rows.insert(branch.clone(), row.clone());
        }
        Ok(())
    }

    async fn open_rows(&self, coordinator: &Name) -> Result<Vec<(BranchId, BranchRow)>, XaError> {
        if !matches!(self.step().await, Fate::Answered) {
            return Err(unavailable());
        }
        // It waits for no lock, so it does not see work that is under way.
        let tables = self.server.lock().tables.clone();
        let is_open = |(branch, row): &(&BranchId, &BranchRow)| {
            branch.txn().coordinator() == coordinator && !row.state.is_final()
        };
        Ok(tables.rows.iter().filter(is_open).map(|(branch, row)| (branch.clone(), row.clone())).collect())
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        Ok(self.begin().await?.tables.lives.into_iter().collect())
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        let identity = |life: &Life| (life.log, life.epoch);
        let mut tx = self.begin().await?;
        let found = tx.tables.lives.get(coordinator).map(identity);
        let is_due = found == before.map(identity) || found == Some(identity(life));
        if is_due {
            tx.tables.lives.insert(coordinator.clone(), *life);
            self.commit(tx).await?;
        }
        Ok(is_due)
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let mut tx = self.begin().await?;
        tx.tables.rows.retain(|branch, row| {
            branch.txn().coordinator() != coordinator || branch.txn().ordinal() >= below || !row.state.is_final()
        });
        self.commit(tx).await
    }
}

/// Sells by pieces; a piece of work is a number of them, and the stock has none of zero.
struct Stock;

impl AsyncService<Tx> for Stock {
    type Work = u32;

    async fn try_reserve(&self, tx: &mut Tx, branch: &BranchId, work: &u32) -> Result<(), ServiceError> {
        *tx.tables.reserved.entry(branch.clone()).or_default() += work;
        if *work == 0 { Err("out of stock".into()) } else { Ok(()) }
    }
    async fn confirm(&self, tx: &mut Tx, branch: &BranchId, works: &[u32]) -> Result<(), ServiceError> {
        let reserved = tx.tables.reserved.remove(branch).unwrap_or_default();
        if reserved != works.iter().sum::<u32>() {
            return Err(format!("{reserved} are reserved, and {works:?} to be confirmed").into());
        }
        *tx.tables.sold.entry(branch.clone()).or_default() += reserved;
        Ok(())
    }
    async fn cancel(&self, tx: &mut Tx, branch: &BranchId, works: &[u32]) -> Result<(), ServiceError> {
        let reserved = tx.tables.reserved.remove(branch).unwrap_or_default();
        if reserved != works.iter().sum::<u32>() {
            return Err(format!("{reserved} are reserved, and {works:?} to be given back").into());
        }
        Ok(())
    }
}

impl Subject for Database {
    type Goods = Goods;

    async fn open(&self) -> Option<Goods> {
        TableParticipant::open("goods", self.clone(), Stock).await.ok()
    }
    async fn work(goods: &Goods, branch: &BranchId, _: u32) {
        let _ = goods.execute_under(branch, &1).await;
    }
    fn chance(&self, chance: Option<Rng>) {
        self.server.lock().chance = chance;
    }
    /// Transactions of clients that are still there go on, as if they had reconnected in time.
    fn restart(&self) {
        self.finish_late();
    }
    fn time_passes(&self) {
        self.finish_late();
    }
    fn applied(&self, branch: &BranchId) -> u32 {
        self.server.lock().tables.sold.get(branch).copied().unwrap_or_default()
    }
    fn is_held(&self, branch: &BranchId) -> bool {
        self.server.lock().tables.reserved.contains_key(branch)
    }
    /// Work that came late is given back once its transaction has ended.
    async fn look_back(&self, goods: Goods, mut call: Call, txn: impl Fn(u64) -> TxnId) -> Option<String> {
        self.finish_late();
        call.ended_below = txn(1_000).ordinal();
        let unused = txn(1_001).branch(&Name::from_static("goods"));
        goods.rollback(&unused, &call).await.expect("nothing is lost any more");
        let server = self.server.lock();
        let open = server.tables.rows.iter().find(|(_, row)| !row.state.is_final());
        open.filter(|(branch, _)| server.tables.reserved.contains_key(branch))
            .map(|(branch, row)| format!("{branch} is {row:?}"))
    }
}

#[test]
fn every_branch_ends_as_decided_and_leaves_nothing_behind() {
    every_branch_ends_as_decided(Database::default);
}

#[test]
fn what_is_wrong_with_a_database_is_found() {
    for defect in [Defect::CommitsTheRowAlone, Defect::OverlooksLocks] {
        println!("{defect:?}: {}", is_found(|| Database::default().with_defect(defect)));
    }
}

struct DatabaseHarness {
    database: Database,
    goods: Arc<Goods>,
}

impl AsyncHarness for DatabaseHarness {
    type Participant = Goods;

    fn name(&self) -> Name {
        Name::from_static("goods")
    }
    fn participant(&self) -> Arc<Goods> {
        Arc::clone(&self.goods)
    }
    async fn work(&self, branch: &BranchId) -> Worked {
        match self.goods.execute_under(branch, &1).await {
            Ok(()) => Worked::Done,
            Err(_) => Worked::Refused,
        }
    }
    async fn refused_work(&self, branch: &BranchId) {
        self.goods.execute_under(branch, &0).await.expect_err("there is none");
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        match self.database.applied(branch) {
            0 if self.database.is_held(branch) => Effect::Reserved,
            0 => Effect::Absent,
            times => Effect::Applied { times: times as usize },
        }
    }
    fn keeps_work(&self) -> bool {
        true
    }
    async fn crash(&mut self) {
        self.goods = Arc::new(self.database.open().await.expect("it answers"));
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

#[test]
fn a_service_with_tables_conforms() {
    let runtime = runtime();
    let report = conformance::check_async(runtime.handle(), || {
        let database = Database::default();
        let goods = runtime.block_on(database.open()).expect("it answers");
        DatabaseHarness { database, goods: Arc::new(goods) }
    });
    assert_eq!(report.passed.len() + report.skipped.len(), 33);
    assert!(report.skipped.iter().all(|check| check.contains("read")), "{:?}", report.skipped);
}

fn branch(sequence: u64) -> BranchId {
    TxnId::new(Name::from_static("shop"), Epoch::new(1), sequence).branch(&Name::from_static("goods"))
}

fn call() -> Call {
    Call::new(LogId::from_bytes([7; 16]))
}

#[test]
fn refused_work_leaves_nothing_and_the_vote_says_why() {
    run(async {
        let database = Database::default();
        let goods = database.open().await.expect("it answers");
        goods.execute_under(&branch(1), &2).await.expect("there are enough");
        let refused = goods.execute_under(&branch(1), &0).await.expect_err("there is none");
        assert!(matches!(refused, TableWorkError::Service(_)), "{refused}");
        let error = goods.prepare(&branch(1), &call()).await.expect_err("a piece was refused");
        assert!(ringpact::error_chain(&error).to_string().contains("out of stock"), "{error}");
        assert!(!database.is_held(&branch(1)), "a No gives everything back");
    });
}

#[test]
fn rows_of_ended_transactions_are_deleted() {
    run(async {
        let database = Database::default();
        let goods = database.open().await.expect("it answers");
        for sequence in 1..=600 {
            goods.execute_under(&branch(sequence), &1).await.expect("there are enough");
            assert_eq!(goods.prepare(&branch(sequence), &call()).await.expect("it promises"), Vote::Yes);
            goods.commit(&branch(sequence), &call()).await.expect("it is promised");
        }
        let mut later = call();
        later.ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: 601 };
        goods.rollback(&branch(601), &later).await.expect("there is nothing");
        let rows = database.server.lock().tables.rows.clone();
        assert_eq!(rows.values().map(|row| row.state).collect::<Vec<_>>(), [RowState::Cancelled]);
    });
}

#[test]
fn a_branch_of_another_participant_is_refused() {
    run(async {
        let goods = Database::default().open().await.expect("it answers");
        let other = TxnId::new(Name::from_static("shop"), Epoch::new(1), 1).branch(&Name::from_static("payments"));
        assert!(matches!(goods.execute_under(&other, &1).await, Err(TableWorkError::Misrouted { .. })));
        let error = goods.commit(&other, &call()).await.expect_err("it is not for it");
        assert!(matches!(error, ParticipantError::Misrouted { .. }));
    });
}

/// The work's transaction of the database was still under way when the coordinator asked what is in
/// doubt. No message ends the branch.
#[test]
fn work_that_came_late_is_given_back_once_its_transaction_has_ended() {
    run(async {
        let database = Database::default();
        let goods = database.open().await.expect("it answers");
        goods.execute_under(&branch(1), &2).await.expect("there are enough");
        let mut later = call();
        later.ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: 2 };
        goods.rollback(&branch(2), &later).await.expect("there is nothing");
        assert!(!database.is_held(&branch(1)));
    });
}

/// A stock in which another transaction comes first for some time.
#[derive(Default)]
struct BusyStock {
    /// Number of calls that are still to fail in a way that may pass.
    failures: Mutex<u32>,
    promised: Mutex<Vec<BranchId>>,
}

impl BusyStock {
    fn is_free(&self) -> Result<(), ServiceError> {
        let mut failures = self.failures.lock();
        if *failures == 0 {
            return Ok(());
        }
        *failures -= 1;
        Err(XaError::new(XaErrorKind::Transient, "a deadlock").into())
    }
}

impl AsyncService<Tx> for BusyStock {
    type Work = u32;

    async fn try_reserve(&self, tx: &mut Tx, branch: &BranchId, work: &u32) -> Result<(), ServiceError> {
        Stock.try_reserve(tx, branch, work).await?;
        self.is_free()
    }
    async fn confirm(&self, tx: &mut Tx, branch: &BranchId, works: &[u32]) -> Result<(), ServiceError> {
        Stock.confirm(tx, branch, works).await?;
        self.is_free()
    }
    async fn cancel(&self, tx: &mut Tx, branch: &BranchId, works: &[u32]) -> Result<(), ServiceError> {
        Stock.cancel(tx, branch, works).await?;
        self.is_free()
    }
    async fn opened(&self, _: &mut Tx, promised: &[BranchId]) -> Result<(), ServiceError> {
        self.is_free()?;
        promised.clone_into(&mut self.promised.lock());
        Ok(())
    }
}

/// Each step fails a few times after its work, and has its effect once.
#[test]
fn a_step_that_fails_for_a_reason_that_may_pass_is_tried_again() {
    run(async {
        let database = Database::default();
        let service = BusyStock { failures: Mutex::new(4), ..BusyStock::default() };
        let goods = TableParticipant::open("goods", database.clone(), service).await.expect("the fifth time it opens");
        let busy = |times| *goods.service().failures.lock() = times;
        for sequence in 1..=2 {
            busy(4);
            goods.execute_under(&branch(sequence), &2).await.expect("the fifth time it is free");
            assert_eq!(goods.prepare(&branch(sequence), &call()).await.expect("it promises"), Vote::Yes);
        }
        busy(4);
        goods.commit(&branch(1), &call()).await.expect("the fifth time it is free");
        busy(4);
        goods.rollback(&branch(2), &call()).await.expect("the fifth time it is free");
        assert_eq!((database.applied(&branch(1)), database.applied(&branch(2))), (2, 0));
        busy(5);
        let error = goods.execute_under(&branch(3), &2).await.expect_err("five times it is not");
        assert!(goods.is_transient(&error), "{error}");
        goods.prepare(&branch(3), &call()).await.expect_err("its work is missing");
        assert!(!database.is_held(&branch(3)));
    });
}

#[test]
fn the_service_is_told_at_opening_what_is_promised() {
    run(async {
        let database = Database::default();
        let goods = database.open().await.expect("it answers");
        let mut named = call();
        (named.identity, named.epoch) = (LogId::from_bytes([7; 16]), Epoch::new(1));
        for sequence in [2, 1, 3] {
            goods.execute_under(&branch(sequence), &2).await.expect("there are enough");
            if sequence < 3 {
                goods.prepare(&branch(sequence), &named).await.expect("it promises");
            }
        }
        let service = BusyStock::default();
        let goods = TableParticipant::open("goods", database.clone(), service).await.expect("it answers");
        assert_eq!(*goods.service().promised.lock(), [branch(1), branch(2)]);
        let service = BusyStock { failures: Mutex::new(5), ..BusyStock::default() };
        TableParticipant::open("goods", database, service).await.expect_err("it is not accepted");
    });
}

/// A stock that has nothing for large orders, which go elsewhere.
struct SmallStock;

#[derive(Debug, thiserror::Error)]
#[error("it is elsewhere")]
struct Elsewhere;

impl AsyncService<Tx> for SmallStock {
    type Work = u32;

    async fn try_reserve(&self, tx: &mut Tx, branch: &BranchId, work: &u32) -> Result<(), ServiceError> {
        Stock.try_reserve(tx, branch, work).await?;
        if *work > 5 { Err(Elsewhere.into()) } else { Ok(()) }
    }
    fn dooms(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
        !error.is::<Elsewhere>()
    }
    async fn confirm(&self, tx: &mut Tx, branch: &BranchId, works: &[u32]) -> Result<(), ServiceError> {
        Stock.confirm(tx, branch, works).await
    }
    async fn cancel(&self, tx: &mut Tx, branch: &BranchId, works: &[u32]) -> Result<(), ServiceError> {
        Stock.cancel(tx, branch, works).await
    }
}

#[test]
fn a_refusal_that_does_not_doom_leaves_the_branch_as_it_was() {
    run(async {
        let database = Database::default();
        let goods = TableParticipant::open("goods", database.clone(), SmallStock).await.expect("it answers");
        assert!(matches!(goods.execute_under(&branch(1), &6).await, Err(TableWorkError::Service(_))));
        assert!(database.server.lock().tables.rows.is_empty(), "without work it has no row");
        goods.execute_under(&branch(1), &2).await.expect("there are enough");
        goods.execute_under(&branch(1), &7).await.expect_err("it is elsewhere");
        goods.execute_under(&branch(1), &1).await.expect("there are enough");
        assert_eq!(goods.prepare(&branch(1), &call()).await.expect("it promises"), Vote::Yes);
        goods.commit(&branch(1), &call()).await.expect("it has promised");
        assert_eq!(database.applied(&branch(1)), 3);
        goods.execute_under(&branch(2), &6).await.expect_err("it is elsewhere");
        assert!(
            matches!(goods.prepare(&branch(2), &call()).await, Err(ParticipantError::Refused(_))),
            "it has no work"
        );
    });
}
