//! What becomes of a branch's work when a session is lost, an answer does not come, or another process opens the shard.

use std::time::{Duration, Instant};

use ringpact::{BranchId, Epoch, Service as _, TxnOrdinal, error_chain, sharding::Shard as _};
use ringpact_postgres::{PgShard, tokio_postgres::Client};
use ringpact_servers::cutter::{Cut, Cutter};

use super::{Add, Ledger, RUNTIME, database};
use crate::support::{BranchTimeouts, Db, PgBuilder, server};

struct Site {
    db: Db,
    ledger: Ledger,
}

const ADD: Add = Add { key: 20, amount: 5 };

impl Site {
    fn new() -> Option<Self> {
        let db = RUNTIME.block_on(database())?;
        let ledger = RUNTIME.block_on(Ledger::new(&db.admin));
        Some(Self { db, ledger })
    }

    fn builder(&self) -> PgBuilder {
        self.db.builder_of("goods.node-1").connections(4)
    }

    fn open(&self, builder: PgBuilder) -> PgShard<Ledger> {
        RUNTIME.block_on(self.ledger.open(builder))
    }

    fn branch(&self, number: u64) -> BranchId {
        self.db.branch_of("goods.node-1", number)
    }

    fn sum(&self) -> Option<i64> {
        let query = self.ledger.sql("SELECT sum FROM sum_x WHERE id = 20");
        let row = RUNTIME.block_on(self.db.admin.query_opt(&query, &[])).expect("a row or none");
        row.map(|row| row.get(0))
    }

    fn held(&self) -> i64 {
        RUNTIME.block_on(self.ledger.held(&self.db.admin))
    }

    fn rows(&self) -> i64 {
        RUNTIME.block_on(self.db.number("SELECT count(*) FROM ringpact.branch"))
    }
}

#[test]
fn a_step_whose_answer_is_lost_takes_effect_once() {
    let Some(site) = Site::new() else { return };
    let cutter = Cutter::before(server().expect("a server").port()).expect("a port");
    let shard = site.open(site.db.builder_at(cutter.port(), 4));
    let mut expected = 0;
    for (number, cut) in (0..).zip([Cut::Before, Cut::After]) {
        let [sold, undone, lost] = [1, 2, 3].map(|branch| site.branch(10 * number + branch));
        shard.try_reserve(&sold, &ADD).expect("a reservation");
        shard.try_reserve(&undone, &ADD).expect("a reservation");
        cutter.arm("; COMMIT", cut);
        shard.confirm(&sold, &[ADD]).expect_err("no answer came");
        cutter.arm("; COMMIT", cut);
        shard.cancel(&undone, &[ADD]).expect_err("no answer came");
        for _ in 0..3 {
            repeated(|| shard.confirm(&sold, &[ADD])).expect("confirmed");
            repeated(|| shard.cancel(&undone, &[ADD])).expect("cancelled");
        }
        cutter.arm("; COMMIT", cut);
        let refusal = shard.try_reserve(&lost, &ADD).expect_err("no answer came");
        assert!(shard.dooms(&refusal), "it may be reserved: {refusal}");
        repeated(|| shard.cancel(&lost, &[ADD])).expect("cancelled");
        shard.try_reserve(&lost, &ADD).expect_err("the branch is over");
        expected += ADD.amount;
        assert_eq!((site.sum(), site.held()), (Some(expected), 0), "{cut:?}");
    }
}

/// Connections that a cut has ended are found one by one.
fn repeated<T, E>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    for _ in 0..4 {
        if let Ok(done) = call() {
            return Ok(done);
        }
    }
    call()
}

/// A session in which a try is still being committed, of a process that is gone.
fn hanging_try(site: &Site, admin: &Client, number: u64) {
    let shop = &site.db.shop;
    let hold = site.ledger.sql("INSERT INTO held_x VALUES");
    let statements = format!(
        "BEGIN; SELECT pg_advisory_xact_lock_shared(hashtextextended('ringpact shard goods.node-1', 0)); \
         INSERT INTO ringpact.branch VALUES ('goods.node-1', '{shop}', 1, {number}, 1, 0, '\\x02140a'); \
         {hold} ('{}', 20, 5)",
        site.branch(number).txn()
    );
    RUNTIME.block_on(admin.batch_execute(&statements)).expect("statements");
}

#[test]
fn a_cancel_waits_for_a_try_that_is_still_being_committed() {
    let Some(site) = Site::new() else { return };
    let shard = site.open(site.builder());
    let other = RUNTIME.block_on(site.db.client());
    hanging_try(&site, &other, 1);
    std::thread::scope(|scope| {
        let cancel = scope.spawn(|| shard.cancel(&site.branch(1), &[ADD]));
        std::thread::sleep(Duration::from_millis(100));
        RUNTIME.block_on(other.batch_execute("COMMIT")).expect("a commit");
        cancel.join().expect("no panic").expect("cancelled");
    });
    assert_eq!(site.held(), 0);
}

#[test]
fn an_opening_waits_for_an_earlier_process_and_ends_its_work() {
    let Some(site) = Site::new() else { return };
    let first = site.open(site.builder());
    first.try_reserve(&site.branch(1), &ADD).expect("a reservation");
    first.try_reserve(&site.branch(2), &ADD).expect("a reservation");
    let other = RUNTIME.block_on(site.db.client());
    hanging_try(&site, &other, 3);
    let second = std::thread::scope(|scope| {
        let opening = scope.spawn(|| site.open(site.builder()));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!opening.is_finished(), "the try may still be committed");
        RUNTIME.block_on(other.batch_execute("COMMIT")).expect("a commit");
        opening.join().expect("an opening")
    });
    // The first process goes on, and does nothing any more.
    let refusal = first.try_reserve(&site.branch(4), &ADD).expect_err("another process has the shard");
    assert!(error_chain(&refusal).to_string().contains("has been opened by another process"), "{refusal:?}");
    first.confirm(&site.branch(1), &[ADD]).expect_err("another process has the shard");
    first.discard(ringpact::ring::RangeSet::full().iter().next().expect("a range")).expect_err("another process");
    assert_eq!((site.held(), site.sum()), (3, None));
    // What only the second branch had promised stays.
    second.opened(&[site.branch(2)]).expect("opened");
    assert_eq!(site.held(), 1);
    second.restore(&site.branch(2), &[ADD]).expect("restored");
    second.confirm(&site.branch(2), &[ADD]).expect("confirmed");
    assert_eq!((site.held(), site.sum()), (0, Some(5)));
}

#[test]
fn what_the_database_has_lost_is_set_aside_again() {
    let Some(site) = Site::new() else { return };
    let shard = site.open(site.builder());
    let lost = || {
        let statements = site.ledger.sql("DELETE FROM held_x; DELETE FROM ringpact.branch");
        RUNTIME.block_on(site.db.admin.batch_execute(&statements)).expect("statements");
    };
    let [promised, confirmed, undone] = [1, 2, 3].map(|number| site.branch(number));
    for branch in [&promised, &confirmed, &undone] {
        shard.try_reserve(branch, &ADD).expect("a reservation");
    }
    shard.cancel(&undone, &[ADD]).expect("cancelled");
    lost();
    shard.restore(&promised, &[ADD, ADD]).expect("restored");
    assert_eq!(site.held(), 2);
    shard.confirm(&promised, &[ADD, ADD]).expect("confirmed");
    shard.confirm(&confirmed, &[ADD]).expect("confirmed");
    assert_eq!((site.held(), site.sum()), (0, Some(15)));
}

#[test]
fn rows_of_ended_branches_go_and_others_stay() {
    let Some(site) = Site::new() else { return };
    let shard = site.open(site.builder());
    for number in 1..=4 {
        shard.try_reserve(&site.branch(number), &ADD).expect("a reservation");
    }
    shard.confirm(&site.branch(1), &[ADD]).expect("confirmed");
    shard.cancel(&site.branch(2), &[ADD]).expect("cancelled");
    shard.confirm(&site.branch(4), &[ADD]).expect("confirmed");
    assert_eq!(site.rows(), 4);
    let below = |number: u64| TxnOrdinal { epoch: Epoch::new(1), sequence: number };
    // The third has ended, too, and its try came late.
    shard.forget_below(&site.db.shop, below(4));
    assert_eq!((site.rows(), site.held(), site.sum()), (1, 0, Some(10)));
    shard.confirm(&site.branch(4), &[ADD]).expect("confirmed before");
    assert_eq!(site.sum(), Some(10));
}

#[test]
fn a_statement_that_takes_too_long_and_a_pool_that_is_used_up_are_errors_that_pass() {
    let Some(site) = Site::new() else { return };
    let timeouts = BranchTimeouts::default()
        .statement(Duration::from_millis(200))
        .lock(Duration::from_secs(5))
        .connection(Duration::from_millis(300));
    let shard = site.open(site.builder().connections(2).timeouts(timeouts));
    let other = RUNTIME.block_on(site.db.client());
    let lock = site.ledger.sql("BEGIN; LOCK TABLE held_x IN ACCESS EXCLUSIVE MODE");
    RUNTIME.block_on(other.batch_execute(&lock)).expect("a lock");
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let tries: Vec<_> = (1..=6)
            .map(|number| {
                let (shard, branch) = (&shard, site.branch(number));
                scope.spawn(move || shard.try_reserve(&branch, &ADD).expect_err("the table is locked"))
            })
            .collect();
        for refusal in tries {
            let refusal = refusal.join().expect("no panic");
            assert!(shard.dooms(&refusal));
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    RUNTIME.block_on(other.batch_execute("ROLLBACK")).expect("a rollback");
    shard.try_reserve(&site.branch(7), &ADD).expect("a reservation");
    assert_eq!(site.held(), 1);
    for number in 1..=7 {
        shard.cancel(&site.branch(number), &[ADD]).expect("cancelled");
    }
    assert_eq!(site.held(), 0);
}

/// Such a call would keep the runtime's only thread from what it waits for.
#[test]
fn a_call_on_the_only_thread_of_a_runtime_is_an_error() {
    let Some(site) = Site::new() else { return };
    let shard = site.open(site.builder());
    let small = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let refusal = small.block_on(async { shard.try_reserve(&site.branch(1), &ADD) }).expect_err("it would block");
    assert!(error_chain(&refusal).to_string().contains("new_multi_thread"), "{refusal:?}");
    // On one of several threads it moves the others' tasks away.
    RUNTIME.block_on(async { shard.try_reserve(&site.branch(1), &ADD) }).expect("a reservation");
}
