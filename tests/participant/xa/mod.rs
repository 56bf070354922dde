//! Participants that keep their data in a database: the suite, and what only a database can do wrong.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, Coordinator, Epoch, LogId, MemoryLog, Name, ParticipantError, TxnId, TxnOrdinal, Vote,
    log::Heuristic,
    participant::{
        AsyncParticipant, Call, Decision, EndedOpening, Endpoint, Life, Reply, Request, Response, Verdict,
        conformance::{self, AsyncHarness, Effect, Worked},
        xa::{XaBranch, XaOptions, XaParticipant, XaWorkError},
    },
};
use tokio::runtime::{Builder, Runtime};

use database::{Database, Fate, Statement};

#[path = "../../common/sim_database/mod.rs"]
#[allow(dead_code)] // the simulated world uses the rest of it
mod database;
mod last_resource;
mod lives;

type Goods = XaParticipant<Database>;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

fn run<T>(test: impl Future<Output = T>) -> T {
    runtime().block_on(test)
}

async fn open(database: &Database) -> Goods {
    XaParticipant::open("goods", database.clone(), XaOptions::default()).await.expect("the database answers")
}

fn branch(sequence: u64) -> BranchId {
    let coordinator = Name::from_static("shop");
    TxnId::new(coordinator, Epoch::new(1), sequence).branch(&Name::from_static("goods"))
}

fn call() -> Call {
    Call::new(LogId::from_bytes([7; 16]))
}

async fn change(goods: &Goods, branch: &BranchId) -> XaBranch<Database> {
    let work = goods.work(branch).await.expect("the branch is new");
    work.session().expect("it has begun").change(1);
    work
}

async fn promised(goods: &Goods, branch: &BranchId) {
    drop(change(goods, branch).await);
    assert_eq!(goods.prepare(branch, &call()).await.expect("it can promise"), Vote::Yes);
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
        match self.goods.work(branch).await {
            Ok(work) => {
                work.session().expect("it has begun").change(1);
                Worked::Done
            }
            Err(_) => Worked::Refused,
        }
    }
    async fn refused_work(&self, branch: &BranchId) {
        if let Ok(work) = self.goods.work(branch).await {
            work.doom("out of stock");
        }
    }
    async fn read_only_work(&self, branch: &BranchId) -> Option<Worked> {
        Some(self.goods.work(branch).await.map_or(Worked::Refused, |_| Worked::Done))
    }
    async fn effect(&self, branch: &BranchId) -> Effect {
        match self.database.applied(branch) {
            0 if self.database.is_promised(branch) || self.database.is_worked_on(branch) => Effect::Reserved,
            0 => Effect::Absent,
            times => Effect::Applied { times: times as usize },
        }
    }
    async fn crash(&mut self) {
        self.database.restart();
        self.goods = Arc::new(open(&self.database).await);
    }
}

#[test]
fn a_database_conforms() {
    let runtime = runtime();
    let report = conformance::check_async(runtime.handle(), || {
        let database = Database::default();
        let goods = runtime.block_on(open(&database));
        DatabaseHarness { database, goods: Arc::new(goods) }
    });
    assert_eq!((report.skipped.len(), report.passed.len()), (0, 33));
}

/// The answer to the prepare is lost, and the server still carries it out: the fence waits for that.
#[test]
fn a_promise_that_comes_late_does_not_outlive_its_rollback() {
    run(async {
        for fate in [Fate::Late, Fate::LostAfter, Fate::LostBefore] {
            let database = Database::default();
            let (goods, branch) = (open(&database).await, branch(1));
            drop(change(&goods, &branch).await);
            database.next(Statement::Prepare, fate);
            goods.prepare(&branch, &call()).await.expect_err("the answer is lost");
            assert_eq!(goods.status().lost, 1);
            goods.rollback(&branch, &call()).await.expect("the fence holds");
            database.time_passes();
            assert!(!database.is_promised(&branch), "{fate:?}");
            goods.prepare(&branch, &call()).await.expect_err("it is over");
        }
    });
}

/// The process that has lost the answer is restarted; its session lives on.
#[test]
fn a_promise_that_comes_late_is_found_by_the_next_life() {
    run(async {
        let (database, branch) = (Database::default(), branch(1));
        let goods = open(&database).await;
        drop(change(&goods, &branch).await);
        database.next(Statement::Prepare, Fate::Late);
        goods.prepare(&branch, &call()).await.expect_err("the answer is lost");
        drop(goods);
        let goods = open(&database).await;
        let life = Life::new(LogId::from_bytes([7; 16]), Epoch::new(2), 5);
        goods.meet(&Name::from_static("shop"), &life).await.expect("nothing is known");
        let listed = goods.in_doubt(&Name::from_static("shop")).await.expect("the database answers");
        database.time_passes();
        assert_eq!(listed.contains(&branch), database.is_promised(&branch), "it appears after the answer");
    });
}

/// As before, but the coordinator lives on, and its messages come to the next life of the participant.
#[test]
fn the_next_life_answers_for_no_branch_whose_session_lives_on() {
    run(async {
        for verb in ["prepare", "rollback", "one-phase"] {
            let (database, branch) = (Database::default(), branch(1));
            let goods = open(&database).await;
            drop(change(&goods, &branch).await);
            database.next(Statement::Prepare, Fate::Late);
            goods.prepare(&branch, &call()).await.expect_err("the answer is lost");
            drop(goods);
            let goods = open(&database).await;
            let is_void = match verb {
                "prepare" => !matches!(goods.prepare(&branch, &call()).await, Ok(Vote::Yes)),
                "rollback" => goods.rollback(&branch, &call()).await.is_ok(),
                _ => !matches!(goods.commit_one_phase(&branch, &call()).await, Ok(Decision::Commit)),
            };
            database.time_passes();
            assert_eq!(database.is_promised(&branch), !is_void, "{verb}");
        }
    });
}

/// The position is part of the id that the database has for the promise.
#[test]
fn a_repeated_prepare_leaves_the_promise_as_it_is() {
    run(async {
        let database = Database::default();
        let goods = open(&database).await;
        promised(&goods, &branch(1)).await;
        let mut later = call();
        later.position = 70;
        assert_eq!(goods.prepare(&branch(1), &later).await.expect("it has promised"), Vote::Yes);
        goods.commit(&branch(1), &later).await.expect("it is promised");
    });
}

#[test]
fn promises_of_calls_that_were_dropped_are_counted_right() {
    run(async {
        let database = Database::default();
        let options = XaOptions::default().max_promises(1);
        let goods = XaParticipant::open("goods", database.clone(), options).await.expect("it answers");
        for sequence in 1..=3 {
            let branch = branch(sequence);
            drop(change(&goods, &branch).await);
            database.next(Statement::Prepare, Fate::Unanswered);
            let dropped = tokio::time::timeout(Duration::from_millis(1), goods.prepare(&branch, &call())).await;
            assert!(dropped.is_err());
            goods.rollback(&branch, &call()).await.expect("the fence holds");
        }
        promised(&goods, &branch(4)).await;
        assert!(matches!(goods.work(&branch(5)).await, Err(XaWorkError::TooManyPromises { promises: 1, .. })));
    });
}

#[test]
fn a_repeated_commit_is_told_from_a_lost_promise_by_the_marker() {
    run(async {
        let database = Database::default();
        let goods = open(&database).await;
        let (kept, lost) = (branch(1), branch(2));
        promised(&goods, &kept).await;
        promised(&goods, &lost).await;
        database.next(Statement::CommitPrepared, Fate::LostAfter);
        goods.commit(&kept, &call()).await.expect_err("the answer is lost");
        goods.commit(&kept, &call()).await.expect("it is committed already");
        assert_eq!(database.applied(&kept), 1);
        database.lose_promise(&lost);
        for _ in 0..2 {
            let error = goods.commit(&lost, &call()).await.expect_err("there is no promise");
            assert!(matches!(error, ParticipantError::Heuristic(Heuristic::RolledBack)), "{error}");
        }
        // A restart forgets what is in memory, and the database still knows.
        let goods = open(&database).await;
        goods.commit(&kept, &call()).await.expect("the marker says so");
        let error = goods.rollback(&kept, &call()).await.expect_err("it is committed");
        assert!(matches!(error, ParticipantError::AlreadyCommitted), "{error}");
    });
}

#[test]
fn a_one_phase_commit_whose_answer_is_lost_is_looked_up() {
    run(async {
        for (fate, decision) in [(Fate::LostAfter, Decision::Commit), (Fate::LostBefore, Decision::Rollback)] {
            let database = Database::default();
            let (goods, branch) = (open(&database).await, branch(1));
            drop(change(&goods, &branch).await);
            database.next(Statement::CommitOnePhase, fate);
            // The first look-up fails as well, so the coordinator repeats the message.
            database.next(Statement::Fence, Fate::LostBefore);
            goods.commit_one_phase(&branch, &call()).await.expect_err("it is not known");
            for _ in 0..2 {
                let answer = goods.commit_one_phase(&branch, &call()).await;
                let is_committed = matches!(answer, Ok(Decision::Commit));
                assert_eq!(is_committed, decision == Decision::Commit, "{answer:?}");
            }
            assert_eq!(database.applied(&branch), u32::from(decision == Decision::Commit));
        }
    });
}

#[test]
fn a_branch_that_is_still_held_votes_no_and_says_why() {
    run(async {
        let database = Database::default();
        let (goods, branch) = (open(&database).await, branch(1));
        let work = change(&goods, &branch).await;
        let error = goods.prepare(&branch, &call()).await.expect_err("it is at work");
        assert!(ringpact::error_chain(&error).to_string().contains("drop what `branch` returned"), "{error}");
        drop(work);
        // No message follows a No.
        assert!(!database.is_worked_on(&branch));
        assert_eq!((goods.status().sessions, goods.status().active), (0, 0));
        goods.rollback(&branch, &call()).await.expect("no client has it");
        assert!(!database.is_worked_on(&branch));
    });
}

/// The client keeps what it has for as long as it likes. The coordinator does not wait for it.
#[test]
fn a_rollback_takes_a_session_away_from_a_client_that_keeps_it() {
    run(async {
        let database = Database::default();
        let (goods, branch) = (open(&database).await, branch(1));
        let work = change(&goods, &branch).await;
        let first = goods.rollback(&branch, &call()).await.expect_err("the client is asked to stop first");
        assert!(matches!(first, ParticipantError::Busy));
        goods.rollback(&branch, &call()).await.expect("the session is ended at the server");
        assert!(!database.is_worked_on(&branch));
        drop(work);
        assert!(matches!(goods.work(&branch).await, Err(XaWorkError::Over { .. })));
        assert_eq!(goods.status().sessions, 0);
    });
}

#[test]
fn promises_have_a_limit_and_one_that_is_settled_makes_room() {
    run(async {
        let database = Database::default();
        let options = XaOptions::default().max_promises(2);
        let goods = XaParticipant::open("goods", database.clone(), options).await.expect("it answers");
        promised(&goods, &branch(1)).await;
        promised(&goods, &branch(2)).await;
        assert!(matches!(goods.work(&branch(3)).await, Err(XaWorkError::TooManyPromises { limit: 2, .. })));
        goods.commit(&branch(1), &call()).await.expect("it is promised");
        promised(&goods, &branch(4)).await;
        assert_eq!(goods.status().promised, 2);
    });
}

/// The client does not heed the error. What it did before and after it was committed without what had failed.
#[test]
fn a_branch_that_could_not_begin_takes_no_later_work() {
    run(async {
        for is_alone in [false, true] {
            let (database, branch) = (Database::default(), branch(1));
            let goods = open(&database).await;
            database.next(Statement::Begin, Fate::LostBefore);
            assert!(matches!(goods.work(&branch).await, Err(XaWorkError::Database(_))));
            assert!(matches!(goods.work(&branch).await, Err(XaWorkError::Over { .. })));
            let answer = if is_alone {
                goods.commit_one_phase(&branch, &call()).await.map(drop)
            } else {
                goods.prepare(&branch, &call()).await.map(drop)
            };
            let error = answer.expect_err("it can only be rolled back");
            assert!(ringpact::error_chain(&error).to_string().contains("could not begin"), "{error}");
            assert_eq!(database.applied(&branch), 0);
        }
    });
}

/// Its coordinator was opened again, and the work comes before the coordinator has said so.
#[test]
fn a_branch_that_was_refused_before_its_life_was_met_takes_no_later_work() {
    run(async {
        let (database, shop) = (Database::default(), Name::from_static("shop"));
        let goods = open(&database).await;
        let life = |epoch, position| Life::new(LogId::from_bytes([7; 16]), Epoch::new(epoch), position);
        goods.meet(&shop, &life(1, 5)).await.expect("nothing is known");
        let branch = TxnId::new(shop.clone(), Epoch::new(2), 1).branch(goods.name());
        goods.work(&branch).await.map(drop).expect_err("the life is unknown");
        let next = life(2, 9).continuing(EndedOpening { epoch: Epoch::new(1), position: 8 });
        goods.meet(&shop, &next).await.expect("it continues");
        goods.work(&branch).await.map(drop).expect_err("a piece of its work was refused");
        let mut call = call();
        (call.epoch, call.position, call.after) = (next.epoch, next.position, next.after);
        goods.commit_one_phase(&branch, &call).await.expect_err("it can only be rolled back");
        assert_eq!(database.applied(&branch), 0);
    });
}

/// A coordinator in another process that has begun this many transactions. It may miss the first question.
struct Begun {
    transactions: u64,
    misses_one: AtomicBool,
}

impl Endpoint for Begun {
    fn send(&self, _: Request, reply: Reply) {
        if self.misses_one.swap(false, Ordering::SeqCst) {
            return;
        }
        let begun_below = TxnOrdinal { epoch: Epoch::new(1), sequence: self.transactions + 1 };
        reply.send(Ok(Response::Verdict { verdict: Verdict::Undecided, begun_below }));
    }
}

/// The database undoes the first piece of work with the session of the earlier life.
#[test]
fn a_branch_that_has_lost_work_in_a_restart_votes_no() {
    run(async {
        for (misses_one, is_alone) in [(false, false), (false, true), (true, false), (true, true)] {
            let (database, lost, later) = (Database::default(), branch(1), branch(2));
            drop(change(&open(&database).await, &lost).await);
            assert!(!database.is_worked_on(&lost));
            let goods = open(&database).await;
            let coordinator = Begun { transactions: 1, misses_one: AtomicBool::new(misses_one) };
            goods.set_verdict_endpoint(Name::from_static("shop"), coordinator);
            drop(change(&goods, &lost).await);
            drop(change(&goods, &later).await);
            let answer = if is_alone {
                goods.commit_one_phase(&lost, &call()).await.map(drop)
            } else {
                goods.prepare(&lost, &call()).await.map(drop)
            };
            let error = answer.expect_err("half of the work is lost");
            assert!(ringpact::error_chain(&error).to_string().contains("lost in a restart"), "{error}");
            assert_eq!((database.applied(&lost), database.is_worked_on(&lost)), (0, false));
            assert_eq!(goods.prepare(&later, &call()).await.expect("it is all there"), Vote::Yes);
        }
    });
}

/// Work comes again after a restart, late. What the earlier life has promised is still there.
#[test]
fn late_work_hides_no_promise() {
    run(async {
        for (decision, begins) in
            [false, true].into_iter().flat_map(|begins| [(Decision::Commit, begins), (Decision::Rollback, begins)])
        {
            let (database, branch) = (Database::default(), branch(1));
            promised(&open(&database).await, &branch).await;
            let goods = open(&database).await;
            if begins {
                drop(change(&goods, &branch).await);
            } else {
                database.next(Statement::Begin, Fate::LostBefore);
                goods.work(&branch).await.map(drop).expect_err("the database is away");
            }
            match decision {
                Decision::Commit => goods.commit(&branch, &call()).await.expect("it is promised"),
                Decision::Rollback => goods.rollback(&branch, &call()).await.expect("it is promised"),
            }
            assert!(!database.is_promised(&branch) && !database.is_worked_on(&branch));
            assert_eq!(database.applied(&branch), u32::from(decision == Decision::Commit));
        }
    });
}

#[test]
fn markers_of_ended_transactions_are_deleted() {
    run(async {
        let database = Database::default();
        let goods = open(&database).await;
        for sequence in 1..=600 {
            promised(&goods, &branch(sequence)).await;
            goods.commit(&branch(sequence), &call()).await.expect("it is promised");
        }
        assert!(database.has_marker(&branch(1)));
        let mut later = call();
        later.ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: 601 };
        goods.rollback(&branch(601), &later).await.expect("there is nothing");
        assert!(!database.has_marker(&branch(600)));
        assert_eq!(database.count(Statement::Forget), 1);
    });
}

/// An operator ends a promise to a lost log, and `ended_below` of the present log has passed it.
#[test]
fn a_promise_below_ended_below_is_looked_up() {
    run(async {
        let database = Database::default();
        promised(&open(&database).await, &branch(1)).await;
        let goods = open(&database).await;
        let mut later = call();
        later.ended_below = TxnOrdinal { epoch: Epoch::new(9), sequence: 0 };
        goods.commit(&branch(1), &later).await.expect("the database has the promise");
        assert_eq!(database.applied(&branch(1)), 1);
    });
}

#[test]
fn promises_that_no_coordinator_claims_are_listed_and_settled() {
    run(async {
        let database = Database::default();
        let goods = open(&database).await;
        promised(&goods, &branch(1)).await;
        promised(&goods, &branch(2)).await;
        let claimed = [Name::from_static("shop")];
        assert_eq!(goods.orphans(&claimed).await.expect("it answers"), []);
        let orphans = goods.orphans(&[]).await.expect("it answers");
        assert_eq!(orphans.len(), 2);
        goods.settle(&orphans[0].id, Decision::Commit).await.expect("it is there");
        goods.settle(&orphans[1].id, Decision::Rollback).await.expect("it is there");
        assert_eq!((database.applied(&branch(1)), database.applied(&branch(2))), (1, 0));
    });
}

#[test]
fn a_participant_that_is_shut_down_begins_nothing_and_keeps_its_promises() {
    run(async {
        let database = Database::default();
        let goods = open(&database).await;
        promised(&goods, &branch(1)).await;
        drop(change(&goods, &branch(2)).await);
        goods.shutdown().await;
        assert!(!database.is_worked_on(&branch(2)));
        assert!(matches!(goods.work(&branch(3)).await, Err(XaWorkError::Closed(_))));
        goods.commit(&branch(1), &call()).await.expect("it is promised");
    });
}

/// Two databases under one coordinator, as a user has them.
#[test]
fn a_transaction_changes_both_databases_or_neither() {
    let runtime = runtime();
    runtime.block_on(async {
        let (first, second) = (Database::default(), Database::default());
        let goods = open(&first).await;
        let payments = XaParticipant::open("payments", second.clone(), XaOptions::default()).await.expect("it answers");
        let coordinator = Coordinator::builder(MemoryLog::new())
            .async_participant("goods", goods.clone(), runtime.handle().clone())
            .async_participant("payments", payments.clone(), runtime.handle().clone())
            .open()
            .expect("both answer");
        for refuses in [false, true] {
            let mut txn = coordinator.begin_async().await;
            let (one, other) = (goods.branch(&mut txn), payments.branch(&mut txn));
            let branches = [txn.id().branch(goods.name()), txn.id().branch(payments.name())];
            one.await.expect("it begins").session().expect("it has begun").change(1);
            other.await.expect("it begins").session().expect("it has begun").change(1);
            if refuses {
                second.next(Statement::Prepare, Fate::Refused);
            }
            let committed = txn.commit();
            let delivered = committed.delivered();
            let result = committed.await;
            assert_eq!(result.is_err(), refuses, "{result:?}");
            drop(delivered.await);
            let applied = (first.applied(&branches[0]), second.applied(&branches[1]));
            assert_eq!(applied, if refuses { (0, 0) } else { (1, 1) });
        }
        let begun = Instant::now();
        coordinator.shutdown_async(Duration::from_secs(5)).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "everything has ended");
    });
}
