//! A coordinator with a log on disk over two databases, with transfers at once and an audit by SQL:
//! in the usual case, with connections that are killed, and with a server that is killed.

use std::{
    collections::BTreeSet,
    error::Error,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ringpact::{Coordinator, FileLog, LogError, txn::CommitError};
use ringpact_servers::{mariadb::MariaDb, missing};
use tokio::{runtime::Handle, time::sleep};

use crate::support::{BranchTimeouts, Database, MySqlParticipant, SOON, attempt, carry_out, runtime, server, strings};

const ACCOUNTS: u64 = 6;
const CENTS: i64 = 1_000;
const CLIENTS: u64 = 6;
const NAMES: [&str; 2] = ["goods", "payments"];

/// Two databases with accounts, and the participants in them.
struct Banks {
    databases: [Database; 2],
    participants: Vec<MySqlParticipant>,
}

/// What clients were told.
#[derive(Default)]
struct Told {
    committed: BTreeSet<String>,
    rolled_back: BTreeSet<String>,
}

impl Banks {
    async fn make(socket: &Path) -> Self {
        let databases = [Database::make(socket).await, Database::make(socket).await];
        for database in &databases {
            database
                .sql("CREATE TABLE ledger (id VARCHAR(64) PRIMARY KEY, cents BIGINT NOT NULL) ENGINE = InnoDB")
                .await;
            for account in 0..ACCOUNTS {
                database.sql(&format!("INSERT INTO account VALUES ('{account}', {CENTS})")).await;
            }
        }
        let mut banks = Self { databases, participants: Vec::new() };
        banks.open().await;
        banks
    }

    async fn open(&mut self) {
        self.participants.clear();
        for (name, database) in NAMES.iter().zip(&self.databases) {
            let timeouts = BranchTimeouts::default().lock(Duration::from_secs(1)).statement(Duration::from_secs(5));
            self.participants.push(database.open_as(name, 24, 16, timeouts, None).await);
        }
    }

    /// Opens the coordinator. One that was dropped lets go of the log when its last call of a participant has ended.
    async fn coordinator(&self, log: &Path) -> Coordinator {
        let mut builder = Coordinator::builder(open_log(log).await).name("bank");
        for participant in &self.participants {
            let name = participant.name().as_str().to_owned();
            builder = builder.async_participant(&name, participant.clone(), Handle::current());
        }
        builder.open().expect("a coordinator")
    }

    /// Checks that no cent is lost, that both ledgers have the same transfers, and that these are what
    /// clients were told.
    async fn audit(&self, told: &Told) {
        let mut total = 0;
        let mut ledgers = Vec::new();
        for (database, participant) in self.databases.iter().zip(&self.participants) {
            total += database.value::<i64>("SELECT CAST(SUM(cents) AS SIGNED) FROM account").await.expect("a sum");
            let mut conn = database.conn().await;
            let ids = strings(&mut conn, "SELECT id FROM ledger").await;
            conn.disconnect().await.expect("it is closed");
            ledgers.push(ids.into_iter().collect::<BTreeSet<_>>());
            assert_eq!(database.prepared(participant).await, 0);
        }
        assert_eq!(ledgers[0], ledgers[1]);
        assert_eq!(total, 2 * i64::try_from(ACCOUNTS).expect("a few") * CENTS);
        assert!(told.committed.is_subset(&ledgers[0]), "a committed transfer is lost");
        assert!(told.rolled_back.is_disjoint(&ledgers[0]), "a transfer is there that was rolled back");
        assert!(!told.committed.is_empty(), "nothing was committed");
    }
}

/// Does the work of one transfer.
async fn work(
    participants: &[MySqlParticipant],
    txn: &mut ringpact::Transaction,
    id: &str,
    accounts: [u64; 2],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    for (index, sign) in [(0, -1_i64), (1, 1)] {
        let mut branch = participants[index].branch(txn).await?;
        let update = format!("UPDATE account SET cents = cents + {sign} WHERE id = '{}'", accounts[index]);
        attempt(&mut branch, &update).await?;
        attempt(&mut branch, &format!("INSERT INTO ledger VALUES ('{id}', {sign})")).await?;
    }
    Ok(())
}

/// Makes transfers one after the other, and notes what the coordinator says of each.
async fn client(
    participants: Vec<MySqlParticipant>,
    coordinator: Arc<Coordinator>,
    prefix: String,
    transfers: u64,
) -> Told {
    let mut told = Told::default();
    let mut random = fastrand::Rng::with_seed(u64::from(prefix.as_bytes()[prefix.len() - 1]));
    for number in 0..transfers {
        let id = format!("{prefix}-{number}");
        let accounts = [random.u64(..ACCOUNTS), random.u64(..ACCOUNTS)];
        let mut txn = coordinator.begin_async().await;
        match work(&participants, &mut txn, &id, accounts).await {
            Ok(()) => match txn.commit().await {
                Ok(()) => drop(told.committed.insert(id)),
                Err(CommitError::RolledBack { .. }) => drop(told.rolled_back.insert(id)),
                Err(CommitError::Indeterminate { .. }) => {}
                Err(error) => panic!("{error:?}"),
            },
            Err(_) => {
                txn.rollback();
                told.rolled_back.insert(id);
            }
        }
    }
    told
}

/// Runs all clients, and something else beside them.
async fn transfers(
    banks: &Banks,
    coordinator: &Arc<Coordinator>,
    round: u64,
    each: u64,
    told: &mut Told,
    beside: impl Future<Output = ()>,
) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let prefix = format!("{round}-{number}");
            tokio::spawn(client(banks.participants.clone(), Arc::clone(coordinator), prefix, each))
        })
        .collect();
    beside.await;
    for client in clients {
        let heard = client.await.expect("no panic");
        told.committed.extend(heard.committed);
        told.rolled_back.extend(heard.rolled_back);
    }
}

async fn open_log(path: &Path) -> FileLog {
    let deadline = Instant::now() + SOON;
    loop {
        match FileLog::open(path) {
            Err(LogError::Locked { .. }) if Instant::now() < deadline => sleep(Duration::from_millis(10)).await,
            opened => return opened.expect("a log"),
        }
    }
}

#[test]
fn transfers_over_two_databases_lose_nothing() {
    let Some(server) = server() else { return };
    let log = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let banks = Banks::make(&server.socket()).await;
        let coordinator = Arc::new(banks.coordinator(log.path()).await);
        let mut told = Told::default();
        transfers(&banks, &coordinator, 0, 20, &mut told, async {}).await;
        assert!(coordinator.settle_async(SOON).await, "{:?}", coordinator.status());
        banks.audit(&told).await;
        // Most of them end by one try, though some wait for each other.
        assert!(told.committed.len() > told.rolled_back.len(), "{}", told.rolled_back.len());
        coordinator.shutdown_async(SOON).await;
    });
}

#[test]
fn transfers_lose_nothing_while_connections_are_killed_and_the_coordinator_is_opened_again() {
    let Some(server) = server() else { return };
    let log = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let mut banks = Banks::make(&server.socket()).await;
        let mut told = Told::default();
        for round in 0..3 {
            let coordinator = Arc::new(banks.coordinator(log.path()).await);
            let databases = banks.databases.clone();
            let kills = async {
                let mut random = fastrand::Rng::with_seed(round);
                for _ in 0..30 {
                    sleep(Duration::from_millis(random.u64(1..40))).await;
                    let database = &databases[random.usize(..2)];
                    let connections = database.connections().await;
                    let Some(id) = random.choice(&connections) else { continue };
                    let mut conn = database.conn().await;
                    let _gone = carry_out(&mut conn, format!("KILL {id}")).await;
                    conn.disconnect().await.expect("it is closed");
                }
            };
            transfers(&banks, &coordinator, round, 25, &mut told, kills).await;
            // As a crash would leave them: decisions may not be carried out yet.
            drop(coordinator);
            banks.open().await;
        }
        let coordinator = banks.coordinator(log.path()).await;
        assert!(coordinator.settle_async(SOON).await, "{:?}", coordinator.status());
        banks.audit(&told).await;
        coordinator.shutdown_async(SOON).await;
    });
}

#[test]
fn transfers_lose_nothing_while_the_server_is_killed() {
    let Some(mut server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    let log = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let banks = Banks::make(&server.socket()).await;
        let mut told = Told::default();
        let coordinator = Arc::new(banks.coordinator(log.path()).await);
        for round in 0..2 {
            let crash = async {
                sleep(Duration::from_millis(400 + 200 * round)).await;
                tokio::task::block_in_place(|| server.restart());
            };
            transfers(&banks, &coordinator, round, 30, &mut told, crash).await;
        }
        assert!(coordinator.settle_async(3 * SOON).await, "{:?}", coordinator.status());
        banks.audit(&told).await;
        coordinator.shutdown_async(SOON).await;
    });
}
