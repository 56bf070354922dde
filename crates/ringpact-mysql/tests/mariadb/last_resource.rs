//! A database takes part as the last resource, beside one that promises.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use mysql_async::{Conn, OptsBuilder, PoolConstraints, PoolOpts};
use ringpact::{
    BranchId, CommitError, Coordinator, CoordinatorError, Epoch, LogId, MemoryLog, Name, ParticipantError, Policy,
    participant::{
        AsyncLastResource, AsyncParticipant, Call, Decision, EndedOpening, LastResourceAnswer, Life, xa::XaWorkError,
    },
    txn::BranchError,
};
use ringpact_mysql::{MySqlError, MySqlParticipant};
use ringpact_servers::{mariadb::MariaDb, missing};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    lost_sessions::{hold_commits, is_held, let_commits_go, with_own_server},
    support::{Database, SOON, branch, call, chain, insert, runtime, server, shop, with_database},
};

/// Two databases: one that promises, and the last resource.
struct Two {
    goods: Database,
    payments: Database,
}

impl Two {
    async fn open(&self) -> (MySqlParticipant, MySqlParticipant) {
        let goods = MySqlParticipant::builder("goods").opts(self.goods.opts()).max_promises(8);
        (goods.open().await.expect("a participant"), self.last_resource().await)
    }

    /// Opens the last resource, with a pool that is too small for promises.
    async fn last_resource(&self) -> MySqlParticipant {
        let pool = PoolOpts::default().with_constraints(PoolConstraints::new(2, 8).expect("valid"));
        let opts = OptsBuilder::from_opts(self.payments.opts()).pool_opts(pool);
        let builder = MySqlParticipant::builder("payments").opts(opts).last_resource();
        builder.open().await.expect("it makes no promises, so its pool may be small")
    }

    async fn committed(&self, account: &str) -> (u64, u64) {
        (self.goods.committed(account).await, self.payments.committed(account).await)
    }

    /// Checks that a coordinator that is opened again leaves the account in both, or in none.
    async fn opened_again(&self, log: MemoryLog, account: &str, expected: u64) {
        let (goods, payments) = self.open().await;
        let shop = coordinator(log, &goods, payments);
        assert!(shop.settle_async(SOON).await, "{}", shop.status());
        assert_eq!(self.committed(account).await, (expected, expected));
        assert_eq!((self.goods.prepared(&goods).await, shop.status().heuristic), (0, 0), "{}", shop.status());
    }
}

/// Runs a test in two fresh databases of the shared server.
fn with_two(test: impl AsyncFnOnce(Two)) {
    with_database(async |goods| {
        let payments = Database::make(&server().expect("it runs").socket()).await;
        test(Two { goods, payments }).await;
    });
}

fn coordinator(log: MemoryLog, goods: &MySqlParticipant, payments: impl AsyncLastResource) -> Coordinator {
    let policy = Policy::default().prepare_timeout(Duration::from_millis(500)).first_backoff(Duration::from_millis(5));
    Coordinator::builder(log)
        .name("shop")
        .policy(policy)
        .async_participant("goods", goods.clone(), Handle::current())
        .async_last_resource("payments", payments, Handle::current())
        .open()
        .expect("a coordinator")
}

/// Puts the account into both databases, and commits.
async fn put(
    shop: &Coordinator,
    participants: [&MySqlParticipant; 2],
    account: &str,
    refuses: Option<&Name>,
) -> Result<(), CommitError> {
    let mut txn = shop.begin_async().await;
    for participant in participants {
        let mut work = participant.branch(&mut txn).await.expect("a branch");
        work.exec_drop("INSERT INTO account VALUES (?, 1)", (account,)).await.expect("a row");
        if refuses == Some(participant.name()) {
            work.doom("out of stock");
        }
    }
    txn.commit().await
}

/// The last resource of a process that dies: it leaves the log as it is at that moment, and never
/// answers.
struct Dying {
    payments: MySqlParticipant,
    dies_first: bool,
    log: MemoryLog,
    left: Arc<OnceLock<MemoryLog>>,
}

impl AsyncLastResource for Dying {
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        if self.dies_first {
            self.left.set(self.log.crash()).map_err(drop).expect("it dies once");
        }
        let decision = AsyncLastResource::commit(&self.payments, branch, call).await;
        if !self.dies_first {
            assert_eq!(decision.expect("an answer"), Decision::Commit);
            self.left.set(self.log.crash()).map_err(drop).expect("it dies once");
        }
        std::future::pending().await
    }
    async fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        std::future::pending().await
    }
    async fn committed(&self, _: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        std::future::pending().await
    }
    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        AsyncLastResource::meet(&self.payments, coordinator, life).await
    }
}

/// Has a coordinator's process die before or after its last resource has committed. Returns what is left
/// of its log.
async fn dies(participants: [&MySqlParticipant; 2], account: &str, dies_first: bool) -> MemoryLog {
    let (log, left) = (MemoryLog::new(), Arc::new(OnceLock::new()));
    let payments = participants[1].clone();
    let dying = Dying { payments, dies_first, log: log.clone(), left: Arc::clone(&left) };
    let shop = coordinator(log, participants[0], dying);
    let mut txn = shop.begin_async().await;
    for participant in participants {
        let mut work = participant.branch(&mut txn).await.expect("a branch");
        work.exec_drop("INSERT INTO account VALUES (?, 1)", (account,)).await.expect("a row");
    }
    let commit = txn.commit();
    while left.get().is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    std::mem::forget(commit);
    drop(shop);
    left.get().cloned().expect("it has died")
}

#[test]
fn a_database_takes_part_without_a_promise() {
    with_two(async |two| {
        let (goods, payments) = two.open().await;
        let shop = coordinator(MemoryLog::new(), &goods, payments.clone());
        put(&shop, [&goods, &payments], "a", None).await.expect("a commit");
        for refuses in [&goods, &payments] {
            let error = put(&shop, [&goods, &payments], "b", Some(refuses.name())).await.expect_err("a No");
            assert!(chain(&error).contains("out of stock"), "{}", chain(&error));
        }
        let mut txn = shop.begin_async().await;
        drop(payments.branch(&mut txn).await.expect("a branch"));
        txn.rollback();
        assert!(shop.settle_async(SOON).await);
        assert_eq!((two.committed("a").await, two.committed("b").await), ((1, 1), (0, 0)));
        let markers = "SELECT COUNT(*) FROM ringpact_marker";
        assert_eq!(two.payments.value::<u64>(markers).await, Some(1), "it stays until the transaction has ended");
    });
}

#[test]
fn an_ordinary_participant_can_be_the_last_resource_and_is_one_of_a_transaction() {
    with_two(async |two| {
        let (goods, payments) = (two.open().await.0, two.payments.open().await);
        let shop = coordinator(MemoryLog::new(), &goods, payments.clone());
        put(&shop, [&goods, &payments], "a", None).await.expect("a commit");
        assert!(shop.settle_async(SOON).await);
        assert_eq!(two.committed("a").await, (1, 1));
        let both = Coordinator::builder(MemoryLog::new())
            .name("both")
            .async_last_resource("goods", goods.clone(), Handle::current())
            .async_last_resource("payments", payments.clone(), Handle::current())
            .open()
            .expect("a coordinator");
        let mut txn = both.begin_async().await;
        drop(goods.branch(&mut txn).await.expect("the first one"));
        let second = payments.branch(&mut txn).await.map(drop).expect_err("the second one");
        let is_told = matches!(&second, MySqlError::Work(XaWorkError::Branch(BranchError::SecondLastResource { .. })));
        assert!(is_told, "{second}");
    });
}

#[test]
fn the_wrong_registration_is_refused() {
    with_two(async |two| {
        let payments = two.last_resource().await;
        let builder = Coordinator::builder(MemoryLog::new());
        let refused = builder.async_participant("payments", payments.clone(), Handle::current()).open();
        let refused = refused.expect_err("it makes no promises");
        assert!(matches!(refused, CoordinatorError::CannotPromise { .. }));
        assert!(refused.to_string().contains("register it with async_last_resource"), "{refused}");
        // A coordinator in another process does not see that.
        insert(&payments, &branch(1), "a").await;
        let no = payments.prepare(&branch(1), &call()).await.expect_err("a No");
        assert!(chain(&no).contains("opened as a last resource"), "{}", chain(&no));
        assert_eq!((two.payments.committed("a").await, two.payments.prepared(&payments).await), (0, 0));
    });
}

#[test]
fn the_others_follow_a_last_resource_that_has_committed_before_the_process_died() {
    with_two(async |two| {
        let (goods, payments) = two.open().await;
        let log = dies([&goods, &payments], "a", false).await;
        assert_eq!((two.committed("a").await, two.goods.prepared(&goods).await), ((0, 1), 1), "this is the window");
        two.opened_again(log, "a", 1).await;
    });
}

/// The commit is under way in the server when the process dies. It goes on before the next life asks, or
/// while it does.
#[test]
fn a_commit_that_is_under_way_when_the_process_dies_ends_as_the_answer_says() {
    with_own_server(async |payments| {
        let Some(server) = server() else { return };
        for round in 0..4_u64 {
            let account = round.to_string();
            // Only the commits of the last resource's server are held.
            let two = Two {
                goods: Database::make(&server.socket()).await,
                payments: Database::make(payments.socket()).await,
            };
            // No participant opens while commits are held, so that of the next life is open before.
            let ((goods, last), (next_goods, next)) = (two.open().await, two.open().await);
            let (log, held) = dies_in(&two, [&goods, &last], &account).await;
            let (goods, last) = (next_goods, next);
            let shop = coordinator(log, &goods, last.clone());
            // The life that asks can't be noted while commits are held, so the question waits for that.
            sleep(Duration::from_millis(30 * round)).await;
            let_commits_go(held).await;
            assert!(shop.settle_async(SOON).await, "{}", shop.status());
            sleep(Duration::from_millis(100)).await;
            let (here, there) = two.committed(&account).await;
            assert_eq!(here, there, "round {round}");
            assert_eq!((two.goods.prepared(&goods).await, shop.status().heuristic), (0, 0), "{}", shop.status());
        }
    });
}

/// Has a coordinator's process die while its last resource's commit is held in the server.
async fn dies_in(two: &Two, participants: [&MySqlParticipant; 2], account: &str) -> (MemoryLog, Conn) {
    let (log, left) = (MemoryLog::new(), Arc::new(OnceLock::new()));
    let payments = participants[1].clone();
    let dying = Dying { payments, dies_first: true, log: log.clone(), left: Arc::clone(&left) };
    let shop = coordinator(log, participants[0], dying);
    let mut txn = shop.begin_async().await;
    for participant in participants {
        let mut work = participant.branch(&mut txn).await.expect("a branch");
        work.exec_drop("INSERT INTO account VALUES (?, 1)", (account,)).await.expect("a row");
    }
    while two.payments.value::<u64>("SELECT COUNT(*) FROM ringpact_coordinator").await != Some(1) {
        sleep(Duration::from_millis(2)).await;
    }
    let held = hold_commits(&two.payments).await;
    let commit = txn.commit();
    is_held(&two.payments, "XA PREPARE").await;
    std::mem::forget(commit);
    drop(shop);
    (left.get().cloned().expect("it has died"), held)
}

/// The question ends a session that hangs in its commit, and says how that has ended.
#[test]
fn a_commit_that_hangs_is_ended_by_the_question() {
    with_own_server(async |database| {
        let payments = database.open().await;
        let mut seen = Vec::new();
        for round in 1..=6 {
            let account = round.to_string();
            insert(&payments, &branch(round), &account).await;
            let held = hold_commits(&database).await;
            let task = tokio::spawn({
                let payments = payments.clone();
                async move { AsyncLastResource::commit(&payments, &branch(round), &call()).await }
            });
            is_held(&database, "XA PREPARE").await;
            if round % 2 == 0 {
                let_commits_go(held).await;
                sleep(Duration::from_millis(5 * round)).await;
                seen.push(payments.committed(&branch(round)).await.expect("an answer"));
            } else {
                seen.push(payments.committed(&branch(round)).await.expect("an answer"));
                let_commits_go(held).await;
            }
            let committed = task.await.expect("no panic");
            sleep(Duration::from_millis(100)).await;
            let is_there = database.committed(&account).await == 1;
            assert_eq!(seen.last(), Some(&said(is_there)), "round {round}");
            assert_eq!(matches!(committed, Ok(Decision::Commit)), is_there, "{committed:?}");
            assert_eq!(payments.committed(&branch(round)).await.expect("an answer"), said(is_there));
        }
        assert!(seen.contains(&said(true)) && seen.contains(&said(false)), "{seen:?}");
    });
}

const fn said(is_committed: bool) -> LastResourceAnswer {
    if is_committed { LastResourceAnswer::Committed } else { LastResourceAnswer::NotCommitted }
}

#[test]
fn a_process_of_an_earlier_life_commits_nothing_after_the_answer() {
    with_database(async |database| {
        let (slow, new) = (database.open().await, database.open().await);
        let log = LogId::from_bytes(*b"the log of shop.");
        let second = Life::new(log, Epoch::new(2), 9).continuing(EndedOpening { epoch: Epoch::new(1), position: 8 });
        AsyncParticipant::meet(&slow, &shop(), &Life::new(log, Epoch::new(1), 1)).await.expect("the first life");
        insert(&slow, &branch(1), "a").await;
        insert(&slow, &branch(2), "b").await;
        assert_eq!(AsyncLastResource::commit(&slow, &branch(2), &call()).await.expect("a decision"), Decision::Commit);
        AsyncParticipant::meet(&new, &shop(), &second).await.expect("the second life");
        for (sequence, expected) in [(1, false), (2, true), (3, false)] {
            assert_eq!(new.committed(&branch(sequence)).await.expect("an answer"), said(expected), "{sequence}");
        }
        // It does not know yet: its session is ended, and it begins no other.
        let late = AsyncLastResource::commit(&slow, &branch(1), &call()).await;
        assert!(matches!(late, Err(ParticipantError::Refused(_))), "{late:?}");
        for _ in 0..4 {
            let error = slow.work(&branch(3)).await.expect_err("its epoch is over");
            assert!(chain(&error).contains("the coordinator was opened again"), "{}", chain(&error));
        }
        assert_eq!((database.committed("a").await, database.committed("b").await), (0, 1));
    });
}

/// The server of the last resource is killed under clients, again and again.
#[test]
fn nothing_is_torn_when_the_server_of_the_last_resource_is_killed() {
    let Some(mut killed) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    let Some(server) = server() else { return };
    runtime().block_on(async {
        let (goods, payments) = (Database::make(&server.socket()).await, Database::make(&killed.socket()).await);
        let two = Two { goods, payments };
        let (goods, payments) = two.open().await;
        let shop = Arc::new(coordinator(MemoryLog::new(), &goods, payments.clone()));
        let (mut told, count) = (0, "SELECT COUNT(*) FROM account");
        for round in 0..3_u64 {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    let (shop, goods, payments) = (Arc::clone(&shop), goods.clone(), payments.clone());
                    tokio::spawn(async move {
                        let mut told = 0;
                        for number in 0..15 {
                            let account = format!("{round}-{client}-{number}");
                            let mut txn = shop.begin_async().await;
                            let mut is_done = true;
                            for participant in [&goods, &payments] {
                                is_done &= match participant.branch(&mut txn).await {
                                    Ok(mut work) => {
                                        let row = "INSERT INTO account VALUES (?, 1)";
                                        work.exec_drop(row, (&account,)).await.is_ok()
                                    }
                                    Err(_) => false,
                                };
                            }
                            told += u64::from(is_done && txn.commit().await.is_ok());
                        }
                        told
                    })
                })
                .collect();
            sleep(Duration::from_millis(80 + 40 * round)).await;
            killed.restart();
            for client in clients {
                told += client.await.expect("no panic");
            }
            assert!(shop.settle_async(SOON).await, "{}", shop.status());
            let [here, there] = [&two.goods, &two.payments].map(|database| database.value::<u64>(count));
            let (here, there) = (here.await.expect("a count"), there.await.expect("a count"));
            let left = (two.goods.prepared(&goods).await, two.payments.prepared(&payments).await);
            assert_eq!((here, left), (there, (0, 0)), "round {round}");
            assert!(here >= told, "{told} were told, and {here} are there");
            assert_eq!(shop.status().heuristic, 0, "{}", shop.status());
        }
        assert!(told > 0);
    });
}
