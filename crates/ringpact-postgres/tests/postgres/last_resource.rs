//! A database without prepared transactions takes part as the last resource, beside one that promises.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use ringpact::{
    BranchId, CommitError, Coordinator, CoordinatorError, MemoryLog, Name, ParticipantError, Policy, TransactionLog,
    error_chain,
    participant::{
        AsyncLastResource, AsyncParticipant, Call, Decision, EndedOpening, LastResourceAnswer, Life, xa::XaWorkError,
    },
    txn::BranchError,
};
use ringpact_servers::postgres::{Options, Postgres};
use tokio::{runtime::Handle, time::sleep};

use crate::{
    lost_sessions::{AT_THE_GATE, Gated},
    support::{BranchTimeouts, Db, PgParticipant, TAKE, attempt, call, no, unprepared, work},
};

const SOON: Duration = Duration::from_secs(20);

/// Two databases: one that promises, and the last resource.
struct Two {
    goods: Db,
    money: Db,
}

impl Two {
    async fn new() -> Option<Self> {
        Some(Self { goods: Db::new().await?, money: Db::on(unprepared()?).await })
    }

    async fn open(&self) -> (PgParticipant, PgParticipant) {
        let money = self.money.builder_of("money").last_resource().open().await;
        (self.goods.goods().await, money.expect("a database that can't prepare"))
    }

    /// Returns what both databases have of the first of the goods.
    async fn free(&self) -> (i64, i64) {
        (self.goods.free(0).await, self.money.free(0).await)
    }

    /// Checks that a coordinator that is opened again leaves this in both, and nothing else.
    async fn opened_again(&self, log: MemoryLog, expected: i64) {
        let (goods, money) = self.open().await;
        let shop = open(log, &self.goods.shop, &goods, money);
        assert!(shop.settle_async(SOON).await, "{}", shop.status());
        assert_eq!((self.free().await, self.goods.prepared().await), ((expected, expected), 0));
        assert_eq!(shop.status().heuristic, 0, "{}", shop.status());
    }
}

fn open(log: MemoryLog, name: &Name, goods: &PgParticipant, money: impl AsyncLastResource) -> Coordinator {
    let policy = Policy::default().prepare_timeout(Duration::from_millis(500)).first_backoff(Duration::from_millis(5));
    Coordinator::builder(log)
        .name(name.as_str())
        .policy(policy)
        .async_participant("goods", goods.clone(), Handle::current())
        .async_last_resource("money", money, Handle::current())
        .open()
        .expect("a coordinator")
}

/// Takes one piece in each of the databases, and commits.
async fn take(shop: &Coordinator, goods: &PgParticipant, money: &PgParticipant) -> Result<(), CommitError> {
    let mut txn = shop.begin_async().await;
    for participant in [goods, money] {
        let mut branch = participant.branch(&mut txn).await.expect("a branch");
        attempt(&mut branch, TAKE).await.expect("the statement succeeds");
    }
    txn.commit().await
}

/// When the process of a coordinator dies, seen from the commit of its last resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dies {
    Before,
    Within,
    After,
}

/// The last resource of a process that dies: it leaves the log as it is at that moment, and never
/// answers.
struct Dying {
    money: PgParticipant,
    dies: Dies,
    log: MemoryLog,
    left: Arc<OnceLock<MemoryLog>>,
}

impl Dying {
    fn dies(&self) {
        self.left.set(self.log.crash()).map_err(drop).expect("it dies once");
    }
}

impl AsyncLastResource for Dying {
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        if self.dies != Dies::After {
            self.dies();
        }
        if self.dies != Dies::Before {
            let decision = AsyncLastResource::commit(&self.money, branch, call).await;
            if self.dies == Dies::After {
                assert_eq!(decision.expect("an answer"), Decision::Commit);
                self.dies();
            }
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
        AsyncLastResource::meet(&self.money, coordinator, life).await
    }
}

/// Has a coordinator's process die at this moment. Returns what is left of its log, and the last
/// resource's branch.
async fn dies(two: &Two, goods: &PgParticipant, money: &PgParticipant, dies: Dies) -> (MemoryLog, BranchId) {
    let (log, left) = (MemoryLog::new(), Arc::new(OnceLock::new()));
    let dying = Dying { money: money.clone(), dies, log: log.clone(), left: Arc::clone(&left) };
    let shop = open(log, &two.goods.shop, goods, dying);
    let mut txn = shop.begin_async().await;
    for participant in [goods, money] {
        let mut branch = participant.branch(&mut txn).await.expect("a branch");
        attempt(&mut branch, TAKE).await.expect("the statement succeeds");
    }
    let branch = txn.id().branch(money.name());
    let commit = txn.commit();
    while left.get().is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    if dies == Dies::Within {
        two.money.until(AT_THE_GATE, 1).await;
    }
    std::mem::forget(commit);
    drop(shop);
    (left.get().cloned().expect("it has died"), branch)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_prepared_transactions_takes_part() {
    let Some(two) = Two::new().await else { return };
    let (goods, money) = two.open().await;
    let shop = open(MemoryLog::new(), &two.goods.shop, &goods, money.clone());
    for taken in 1..=5 {
        take(&shop, &goods, &money).await.expect("a commit");
        assert!(shop.settle_async(SOON).await);
        assert_eq!((two.free().await, two.goods.prepared().await), ((100 - taken, 100 - taken), 0));
    }
    assert_eq!(two.money.markers().await, 5, "the markers stay until the transactions have ended");
    // The client gives up.
    let mut txn = shop.begin_async().await;
    for participant in [&goods, &money] {
        let mut branch = participant.branch(&mut txn).await.expect("a branch");
        attempt(&mut branch, TAKE).await.expect("the statement succeeds");
    }
    txn.rollback();
    // One of them refuses: the ordinary participant, and then the last resource.
    for refusing in [&goods, &money] {
        let mut txn = shop.begin_async().await;
        for participant in [&goods, &money] {
            let mut branch = participant.branch(&mut txn).await.expect("a branch");
            attempt(&mut branch, TAKE).await.expect("the statement succeeds");
            if participant.name() == refusing.name() {
                branch.doom("out of stock");
            }
        }
        let error = txn.commit().await.expect_err("a No");
        assert!(error_chain(&error).to_string().contains("out of stock"), "{}", error_chain(&error));
    }
    assert!(shop.settle_async(SOON).await);
    assert_eq!((two.free().await, two.goods.prepared().await), ((95, 95), 0));
    // Rows are free again.
    take(&shop, &goods, &money).await.expect("a commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_markers_are_deleted_once_their_transactions_have_ended() {
    let Some(two) = Two::new().await else { return };
    let (goods, money) = two.open().await;
    let shop = open(MemoryLog::new(), &two.goods.shop, &goods, money.clone());
    for _ in 0..600 {
        let mut txn = shop.begin_async().await;
        let mut branch = money.branch(&mut txn).await.expect("a branch");
        attempt(&mut branch, &TAKE.replace("- 1", "- 0")).await.expect("done");
        drop(branch);
        txn.commit().await.expect("a commit");
    }
    assert!(two.money.markers().await < 200, "{} markers", two.money.markers().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_participant_can_be_the_last_resource_and_is_one_of_a_transaction() {
    let (Some(here), Some(there)) = (Db::new().await, Db::new().await) else { return };
    let (goods, money) = (here.goods().await, there.builder_of("money").open().await.expect("a participant"));
    let shop = open(MemoryLog::new(), &here.shop, &goods, money.clone());
    take(&shop, &goods, &money).await.expect("a commit");
    assert!(shop.settle_async(SOON).await);
    assert_eq!((here.free(0).await, there.free(0).await, there.prepared().await), (99, 99, 0));

    let both = Coordinator::builder(MemoryLog::new())
        .name("both")
        .async_last_resource("goods", goods.clone(), Handle::current())
        .async_last_resource("money", money.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    let mut txn = both.begin_async().await;
    drop(goods.branch(&mut txn).await.expect("the first one"));
    let second = money.branch(&mut txn).await.map(drop).expect_err("the second one");
    assert!(matches!(second, XaWorkError::Branch(BranchError::SecondLastResource { .. })), "{second}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_registration_is_refused() {
    let Some(two) = Two::new().await else { return };
    let (_, money) = two.open().await;
    let builder = Coordinator::builder(MemoryLog::new()).async_participant("money", money.clone(), Handle::current());
    let refused = builder.open().expect_err("it can't promise");
    assert!(matches!(refused, CoordinatorError::CannotPromise { .. }));
    assert!(refused.to_string().contains("register it with async_last_resource"), "{refused}");
    // A coordinator in another process does not see that.
    let branch = two.money.branch_of("money", 1);
    work(&money, &branch, TAKE).await;
    let reason = no(&money, &branch).await;
    assert!(reason.contains("opened as a last resource"), "{reason}");
    assert_eq!(two.money.free(0).await, 100);
    // The database says so, too, to one that does not say how it takes part.
    let error = two.money.builder_of("money").open().await.expect_err("it can't prepare");
    assert!(error.to_string().contains("the builder's last_resource"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_follow_a_last_resource_that_has_committed_before_the_process_died() {
    let Some(two) = Two::new().await else { return };
    let (goods, money) = two.open().await;
    let (log, _) = dies(&two, &goods, &money, Dies::After).await;
    assert_eq!((two.free().await, two.goods.prepared().await), ((100, 99), 1), "this is the window");
    two.opened_again(log, 99).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_rolled_back_if_the_process_died_before_the_last_resource_was_told() {
    let Some(two) = Two::new().await else { return };
    let (goods, money) = two.open().await;
    let (log, branch) = dies(&two, &goods, &money, Dies::Before).await;
    assert_eq!(two.goods.prepared().await, 1);
    two.opened_again(log, 100).await;
    // The message of the earlier life comes after all, to a process that has not heard of the later one.
    let late = AsyncLastResource::commit(&money, &branch, &call()).await;
    assert!(matches!(late, Err(ParticipantError::Refused(_))), "{late:?}");
    assert_eq!(two.free().await, (100, 100));
}

/// The commit of a process that has died is under way in the server when the next one asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_under_way_comes_before_the_answer_or_never() {
    let (Some(goods), Some(server)) = (Db::new().await, unprepared()) else { return };
    let gated = Gated::on(Db::on(server).await).await;
    for comes in [false, true] {
        let before = gated.db.free(0).await;
        let two =
            Two { goods: Db::on(crate::support::server().expect("it runs")).await, money: gated.db.again().await };
        let (ordinary, _) = two.open().await;
        let timeouts = BranchTimeouts::default().lock(Duration::from_secs(8));
        let money = two.money.builder_of("money").timeouts(timeouts).last_resource().open().await.expect("open");
        let (log, branch) = dies(&two, &ordinary, &money, Dies::Within).await;
        if comes {
            gated.open().await;
            two.money.until("SELECT free FROM stock WHERE id = 0", before - 1).await;
        }
        let (again, last) = two.open().await;
        let shop = open(log, &two.goods.shop, &again, last);
        assert!(shop.settle_async(SOON).await, "{}", shop.status());
        let taken = i64::from(comes);
        assert_eq!((two.goods.free(0).await, two.money.free(0).await), (100 - taken, before - taken));
        if !comes {
            gated.open().await;
            sleep(Duration::from_millis(200)).await;
            assert_eq!(two.money.free(0).await, before, "it never comes");
            let late = AsyncLastResource::commit(&money, &branch, &call()).await;
            assert!(matches!(late, Err(ParticipantError::Refused(_))), "{late:?}");
        }
        gated.close().await;
    }
    drop(goods);
}

/// A process that was only slow goes on, and its client begins to work in a session of its own, after the next life has
/// asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_an_earlier_life_that_begins_after_the_answer_commits_nothing() {
    let Some(two) = Two::new().await else { return };
    let (slow, new) = (two.open().await.1, two.open().await.1);
    let (log, shop) = (MemoryLog::new().id(), &two.money.shop);
    AsyncParticipant::meet(&slow, shop, &Life::new(log, ringpact::Epoch::new(1), 5)).await.expect("the first life");
    let second = Life::new(log, ringpact::Epoch::new(2), 9);
    let second = second.continuing(EndedOpening { epoch: ringpact::Epoch::new(1), position: 8 });
    AsyncParticipant::meet(&new, shop, &second).await.expect("the second life");
    let branch = two.money.branch_of("money", 1);
    assert_eq!(new.committed(&branch).await.expect("an answer"), LastResourceAnswer::NotCommitted);
    work(&slow, &branch, TAKE).await;
    let refused = AsyncLastResource::commit(&slow, &branch, &call()).await.expect_err("its life is over");
    assert!(error_chain(&refused).to_string().contains("was opened again"), "{}", error_chain(&refused));
    assert_eq!(two.money.free(0).await, 100);
}

/// The session is ended in the middle of the commit, and the coordinator has no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_asked_about() {
    let (Some(goods), Some(server)) = (Db::new().await, unprepared()) else { return };
    let gated = Gated::on(Db::on(server).await).await;
    let two = Two { goods, money: gated.db.again().await };
    let (goods, _) = two.open().await;
    let timeouts = BranchTimeouts::default().lock(Duration::from_secs(8));
    let money = two.money.builder_of("money").timeouts(timeouts).last_resource().open().await.expect("open");
    let shop = open(MemoryLog::new(), &two.goods.shop, &goods, money.clone());
    // It hangs at the gate until the coordinator's patience is over. The question ends it.
    let error = take(&shop, &goods, &money).await.expect_err("it has not committed");
    assert!(matches!(error, CommitError::RolledBack { .. }), "{}", error_chain(&error));
    assert!(shop.settle_async(SOON).await, "{}", shop.status());
    assert_eq!(two.free().await, (100, 100));
    gated.open().await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'ringpact %' \
               AND datname = current_database()";
    let mut told = 0;
    for _ in 0..10 {
        gated.close().await;
        let killing = async {
            two.money.until(AT_THE_GATE, 1).await;
            tokio::join!(gated.open(), two.money.number(end));
        };
        let (outcome, ()) = tokio::join!(take(&shop, &goods, &money), killing);
        match outcome {
            Ok(()) => told += 1,
            Err(CommitError::RolledBack { .. }) => {}
            Err(error) => panic!("{}", error_chain(&error)),
        }
        assert!(shop.settle_async(SOON).await, "{}", shop.status());
        assert_eq!(two.free().await, (100 - told, 100 - told));
    }
}

/// The server stops as in a crash, under clients, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_torn_when_the_server_of_the_last_resource_crashes() {
    let options = Options { fsync: true, max_prepared_transactions: 0 };
    let (Some(goods), Some(server)) = (Db::new().await, Postgres::start(options)) else { return };
    let mut two = Two { goods, money: Db::on(&server).await };
    let (goods, money) = two.open().await;
    let shop = Arc::new(open(MemoryLog::new(), &two.goods.shop, &goods, money.clone()));
    let mut told = 0;
    for round in 0..3 {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (shop, goods, money) = (Arc::clone(&shop), goods.clone(), money.clone());
                tokio::spawn(async move {
                    let mut told = 0;
                    for _ in 0..25 {
                        let mut txn = shop.begin_async().await;
                        let mut is_done = true;
                        for participant in [&goods, &money] {
                            is_done &= match participant.branch(&mut txn).await {
                                Ok(mut branch) => attempt(&mut branch, TAKE).await.is_ok(),
                                Err(_) => false,
                            };
                        }
                        told += i64::from(is_done && txn.commit().await.is_ok());
                    }
                    told
                })
            })
            .collect();
        sleep(Duration::from_millis(60 + 40 * round)).await;
        server.stop_immediately().expect("a stopped server");
        server.start_again().expect("a server");
        for client in clients {
            told += client.await.expect("no panic");
        }
        assert!(shop.settle_async(SOON).await, "{}", shop.status());
        two.money.admin = two.money.client().await;
        let (here, there) = two.free().await;
        assert_eq!((here, two.goods.prepared().await), (there, 0), "round {round}");
        assert!(100 - here >= told, "{told} were told, and {} are gone", 100 - here);
        assert_eq!(shop.status().heuristic, 0, "{}", shop.status());
    }
    assert!(told > 0);
}
