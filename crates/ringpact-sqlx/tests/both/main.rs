//! One transaction over PostgreSQL and MariaDB, both by sqlx: both servers are killed under load, deadlocks go through both,
//! the coordinator loses its log.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ringpact::{
    Coordinator, FileLog, Name, Transaction, error_chain,
    txn::{Attempt, CommitError},
};
use ringpact_servers::{
    mariadb::MariaDb,
    missing,
    postgres::{Options, Postgres},
};
use ringpact_sqlx::{BranchTimeouts, SqlxMySqlParticipant, SqlxPgParticipant};
use sqlx::{
    Executor as _, MySqlPool, PgPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode},
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
    query, query_scalar, raw_sql,
};
use tokio::{runtime::Handle, time::sleep};

/// Maximum duration of what happens soon, on a loaded machine.
const SOON: Duration = Duration::from_secs(60);

const CLIENTS: u64 = 6;
const ACCOUNTS: u64 = 6;
const CENTS: i64 = 1_000;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Both servers, an account table and a ledger in each, and the participants.
struct Banks {
    postgres: Postgres,
    mariadb: MariaDb,
    goods: SqlxPgParticipant,
    money: SqlxMySqlParticipant,
}

/// What a test sets up in each database.
const TABLES: &str = "CREATE TABLE account (id VARCHAR(64) PRIMARY KEY, cents BIGINT NOT NULL); \
                      CREATE TABLE ledger (id VARCHAR(64) PRIMARY KEY)";

fn timeouts() -> BranchTimeouts {
    BranchTimeouts::default().lock(Duration::from_secs(1)).statement(Duration::from_secs(5))
}

impl Banks {
    async fn make() -> Option<Self> {
        let postgres = Postgres::start(Options { fsync: true, ..Options::default() })?;
        let Some(mariadb) = MariaDb::start(&[]) else {
            missing("MariaDB", "mariadbd is not installed");
            return None;
        };
        let admin =
            MySqlConnectOptions::new().username("root").socket(mariadb.socket()).ssl_mode(MySqlSslMode::Disabled);
        let admin = MySqlPoolOptions::new().max_connections(1).connect_lazy_with(admin);
        admin.execute("CREATE DATABASE bank").await.expect("a database");
        let (here, there) = (pg(&postgres), mysql(&mariadb));
        SqlxPgParticipant::setup(&here).await.expect("the schema");
        SqlxMySqlParticipant::setup(&there).await.expect("the tables");
        here.execute(raw_sql(TABLES)).await.expect("tables");
        there.execute(raw_sql(TABLES)).await.expect("tables");
        for account in 0..ACCOUNTS {
            let row = format!("INSERT INTO account VALUES ('{account}', {CENTS})");
            here.execute(raw_sql(&row)).await.expect("a row");
            there.execute(raw_sql(&row)).await.expect("a row");
        }
        let (goods, money) = open(&postgres, &mariadb).await;
        Some(Self { postgres, mariadb, goods, money })
    }

    fn coordinator(&self, log: &Path) -> Coordinator {
        Coordinator::builder(FileLog::open(log).expect("a log"))
            .name("bank")
            .async_participant("goods", self.goods.clone(), Handle::current())
            .async_participant("money", self.money.clone(), Handle::current())
            .open()
            .expect("a coordinator")
    }

    /// Returns the sum of all accounts, after a check that both ledgers are the same and have what was committed.
    async fn audit(&self, committed: &BTreeSet<String>, rolled_back: &BTreeSet<String>) {
        let (here, there) = (pg(&self.postgres), mysql(&self.mariadb));
        let ids = "SELECT id FROM ledger";
        let one: BTreeSet<String> = query_scalar(ids).fetch_all(&here).await.expect("ids").into_iter().collect();
        let other: BTreeSet<String> = query_scalar(ids).fetch_all(&there).await.expect("ids").into_iter().collect();
        assert_eq!(one, other);
        assert!(committed.is_subset(&one), "a committed transfer is lost");
        assert!(rolled_back.is_disjoint(&one), "a transfer is there that was rolled back");
        let sum: i64 = query_scalar("SELECT sum(cents)::bigint FROM account").fetch_one(&here).await.expect("a sum");
        let sql = "SELECT CAST(SUM(cents) AS SIGNED) FROM account";
        let other: i64 = query_scalar(sql).fetch_one(&there).await.expect("a sum");
        assert_eq!(sum + other, 2 * i64::try_from(ACCOUNTS).expect("a few") * CENTS);
        assert!(self.goods.orphans(&[]).await.expect("a list").is_empty());
        assert!(self.money.orphans(&[]).await.expect("a list").is_empty());
    }
}

fn pg(server: &Postgres) -> PgPool {
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(server.port()).username("postgres");
    let options = options.database("postgres").ssl_mode(PgSslMode::Disable);
    PgPoolOptions::new().max_connections(16).connect_lazy_with(options)
}

fn mysql(server: &MariaDb) -> MySqlPool {
    let options = MySqlConnectOptions::new().username("root").socket(server.socket()).database("bank");
    MySqlPoolOptions::new().max_connections(24).connect_lazy_with(options.ssl_mode(MySqlSslMode::Disabled))
}

async fn open(postgres: &Postgres, mariadb: &MariaDb) -> (SqlxPgParticipant, SqlxMySqlParticipant) {
    let goods = SqlxPgParticipant::builder("goods").pool(pg(postgres)).timeouts(timeouts()).open().await;
    let money = SqlxMySqlParticipant::builder("money").pool(mysql(mariadb)).max_promises(16).timeouts(timeouts());
    (goods.expect("a participant"), money.open().await.expect("a participant"))
}

/// Does the work of one transfer.
async fn work(
    (goods, money): (&SqlxPgParticipant, &SqlxMySqlParticipant),
    txn: &mut Transaction,
    id: &str,
    accounts: [u64; 2],
) -> Result<(), Failed> {
    let mut branch = goods.branch(txn).await?;
    let update = "UPDATE account SET cents = cents - 1 WHERE id = $1";
    query(update).bind(accounts[0].to_string()).execute(&mut *branch).await?;
    query("INSERT INTO ledger VALUES ($1)").bind(id).execute(&mut *branch).await?;
    drop(branch);
    let mut branch = money.branch(txn).await?;
    let update = "UPDATE account SET cents = cents + 1 WHERE id = ?";
    query(update).bind(accounts[1].to_string()).execute(&mut *branch).await?;
    query("INSERT INTO ledger VALUES (?)").bind(id).execute(&mut *branch).await?;
    Ok(())
}

/// What clients were told.
#[derive(Default)]
struct Told {
    committed: BTreeSet<String>,
    rolled_back: BTreeSet<String>,
}

/// Makes transfers one after the other until it is told to stop, and notes what the coordinator says of each.
async fn client(
    goods: SqlxPgParticipant,
    money: SqlxMySqlParticipant,
    shop: Arc<Coordinator>,
    number: u64,
    is_over: Arc<AtomicU64>,
) -> Told {
    let mut told = Told::default();
    let mut random = fastrand::Rng::with_seed(number);
    for transfer in 0_u64.. {
        if is_over.load(Ordering::SeqCst) == 1 {
            break;
        }
        let id = format!("{number}-{transfer}");
        let accounts = [random.u64(..ACCOUNTS), random.u64(..ACCOUNTS)];
        let mut txn = shop.begin_async().await;
        let done = work((&goods, &money), &mut txn, &id, accounts).await;
        if done.is_err() {
            txn.rollback();
            told.rolled_back.insert(id);
            // A server is down for a while.
            sleep(Duration::from_millis(5)).await;
            continue;
        }
        match txn.commit().await {
            Ok(()) => drop(told.committed.insert(id)),
            Err(CommitError::RolledBack { .. }) => drop(told.rolled_back.insert(id)),
            Err(CommitError::Indeterminate { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_lose_nothing_while_both_servers_are_killed_and_the_coordinator_begins_again() {
    let Some(mut banks) = Banks::make().await else { return };
    let log = tempfile::tempdir().expect("a directory");
    let mut told = Told::default();
    for round in 0..3 {
        let shop = Arc::new(banks.coordinator(log.path()));
        let is_over = Arc::new(AtomicU64::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (goods, money) = (banks.goods.clone(), banks.money.clone());
                tokio::spawn(client(goods, money, Arc::clone(&shop), round * 100 + number, Arc::clone(&is_over)))
            })
            .collect();
        sleep(Duration::from_millis(700)).await;
        match round {
            0 => tokio::task::block_in_place(|| banks.mariadb.restart()),
            1 => tokio::task::block_in_place(|| {
                banks.postgres.stop_immediately().expect("a stopped server");
                banks.postgres.start_again().expect("a server");
            }),
            _ => tokio::task::block_in_place(|| {
                banks.postgres.stop_immediately().expect("a stopped server");
                banks.mariadb.restart();
                banks.postgres.start_again().expect("a server");
            }),
        }
        sleep(Duration::from_millis(700)).await;
        is_over.store(1, Ordering::SeqCst);
        for client in clients {
            let heard = client.await.expect("no panic");
            told.committed.extend(heard.committed);
            told.rolled_back.extend(heard.rolled_back);
        }
        // As a crash would leave them: decisions may not be carried out yet.
        drop(shop);
        (banks.goods, banks.money) = open(&banks.postgres, &banks.mariadb).await;
    }
    let shop = banks.coordinator(log.path());
    assert!(shop.settle_async(SOON).await, "{:?}", shop.status());
    assert!(told.committed.len() > 30, "{}", told.committed.len());
    banks.audit(&told.committed, &told.rolled_back).await;
    shop.shutdown_async(SOON).await;
}

/// Neither server sees such a deadlock. The time-out for locks ends it, and `run` tries the victims again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_through_both_databases_end_and_all_transactions_commit() {
    let Some(banks) = Banks::make().await else { return };
    let log = tempfile::tempdir().expect("a directory");
    let shop = banks.coordinator(log.path());
    let tries = AtomicU64::new(0);
    let meet = tokio::sync::Barrier::new(2);
    let transfer = async |id: &'static str, is_first_here: bool| {
        let is_met = AtomicU64::new(0);
        let (goods, money) = (&banks.goods, &banks.money);
        let work = async |mut txn: Attempt| {
            tries.fetch_add(1, Ordering::SeqCst);
            for step in [is_first_here, !is_first_here] {
                if step {
                    let mut branch = goods.branch(&mut txn).await?;
                    query("UPDATE account SET cents = cents - 1 WHERE id = '0'").execute(&mut *branch).await?;
                    query("INSERT INTO ledger VALUES ($1)").bind(id).execute(&mut *branch).await?;
                } else {
                    let mut branch = money.branch(&mut txn).await?;
                    query("UPDATE account SET cents = cents + 1 WHERE id = '0'").execute(&mut *branch).await?;
                    query("INSERT INTO ledger VALUES (?)").bind(id).execute(&mut *branch).await?;
                }
                // Both have their first row before either asks for its second one.
                if is_met.swap(1, Ordering::SeqCst) == 0 {
                    meet.wait().await;
                }
            }
            Ok::<(), Failed>(())
        };
        shop.run(work).await.unwrap_or_else(|error| panic!("{}", error_chain(&error)));
    };
    tokio::join!(transfer("one", true), transfer("other", false));
    assert!(tries.into_inner() > 2, "there was no deadlock");
    assert!(shop.settle_async(SOON).await, "{:?}", shop.status());
    banks.audit(&["one", "other"].map(str::to_owned).into(), &BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_lost_its_log_gets_no_branches_and_an_operator_settles_its_promises() {
    use ringpact::{
        LogId,
        participant::{AsyncParticipant as _, Call},
    };

    let Some(mut banks) = Banks::make().await else { return };
    let log = tempfile::tempdir().expect("a directory");
    let shop = banks.coordinator(log.path());
    let mut txn = shop.begin_async().await;
    work((&banks.goods, &banks.money), &mut txn, "first", [0, 0]).await.expect("work");
    txn.commit().await.expect("a commit");
    assert!(shop.settle_async(SOON).await, "{:?}", shop.status());
    // The coordinator dies after the promises and before its decision.
    let mut txn = shop.begin_async().await;
    work((&banks.goods, &banks.money), &mut txn, "second", [1, 1]).await.expect("work");
    let call = Call::new(LogId::NONE);
    let branch_of = |participant: &'static str| txn.id().branch(&Name::from_static(participant));
    banks.goods.prepare(&branch_of("goods"), &call).await.expect("a vote");
    banks.money.prepare(&branch_of("money"), &call).await.expect("a vote");
    std::mem::forget(txn);
    std::mem::forget(shop);
    (banks.goods, banks.money) = open(&banks.postgres, &banks.mariadb).await;

    let lost = tempfile::tempdir().expect("another directory");
    let shop = banks.coordinator(lost.path());
    let mut txn = shop.begin_async().await;
    let worked = work((&banks.goods, &banks.money), &mut txn, "third", [2, 2]).await;
    let committed = if worked.is_ok() { txn.commit().await.is_ok() } else { false };
    assert!(!committed, "another log under the coordinator's name");
    drop(shop);
    for orphan in banks.goods.orphans(&[]).await.expect("a list") {
        banks.goods.settle(&orphan.id, ringpact::participant::Decision::Rollback).await.expect("settled");
    }
    for orphan in banks.money.orphans(&[]).await.expect("a list") {
        banks.money.settle(&orphan.id, ringpact::participant::Decision::Rollback).await.expect("settled");
    }
    let rolled_back = ["second", "third"].map(str::to_owned).into();
    banks.audit(&["first".to_owned()].into(), &rolled_back).await;
}
