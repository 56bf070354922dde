//! The same work through ringpact.

use std::sync::atomic::{AtomicU64, Ordering};

use mysql_async::Pool;
use ringpact::{AsyncParticipant, Coordinator, FileLog, Transaction};
use ringpact_mysql::MySqlParticipant;
use ringpact_postgres::PgParticipant;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{Server, raw::Failure};
use crate::log::fresh_dir;

/// A database as a participant.
pub enum Party {
    Postgres(PgParticipant),
    MariaDb(MySqlParticipant),
}

/// A coordinator with two databases.
pub struct Shop {
    pub coordinator: Coordinator,
    pub parties: [Party; 2],
    _log: TempDir,
}

/// Number of shops so far.
static SHOPS: AtomicU64 = AtomicU64::new(0);

/// Number of connections that each participant has for branches.
const CONNECTIONS: usize = 80;

impl Party {
    async fn open(name: &str, server: &Server) -> Result<Self, Failure> {
        Ok(match server {
            Server::Postgres { url, .. } => {
                let builder = PgParticipant::builder(name).config(url.parse()?).connections(CONNECTIONS);
                Self::Postgres(builder.max_promises(CONNECTIONS + 64).open().await?)
            }
            Server::MariaDb { opts, .. } => {
                // The pool closes connections above its minimum when they come back.
                let constraints =
                    mysql_async::PoolConstraints::new(2 * CONNECTIONS, 2 * CONNECTIONS).expect("they are equal");
                let pool = mysql_async::PoolOpts::default().with_constraints(constraints);
                let opts = mysql_async::OptsBuilder::from_opts(opts.clone()).pool_opts(pool);
                Self::MariaDb(
                    MySqlParticipant::builder(name).pool(Pool::new(opts)).max_promises(CONNECTIONS + 64).open().await?,
                )
            }
        })
    }

    /// Begins the branch and does its work: a future that does not hold the transaction.
    pub fn work(
        &self,
        txn: &mut Transaction,
        row: i32,
        reads: bool,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        enum Branch<P, M> {
            Postgres(P),
            MariaDb(M),
        }
        let branch = match self {
            Self::Postgres(party) => Branch::Postgres(party.branch(txn)),
            Self::MariaDb(party) => Branch::MariaDb(party.branch(txn)),
        };
        async move {
            match branch {
                Branch::Postgres(branch) => {
                    let branch = branch.await?;
                    let text = if reads {
                        "SELECT balance FROM account WHERE id = $1"
                    } else {
                        "UPDATE account SET balance = balance + 1 WHERE id = $1"
                    };
                    let statement = branch.prepare_cached(text).await?;
                    branch.execute(&statement, &[&row]).await?;
                }
                Branch::MariaDb(branch) => {
                    let text = if reads {
                        "SELECT balance FROM account WHERE id = ?"
                    } else {
                        "UPDATE account SET balance = balance + 1 WHERE id = ?"
                    };
                    branch.await?.exec_drop(text, (row,)).await?;
                }
            }
            Ok(())
        }
    }
}

impl Shop {
    /// Opens a coordinator with both databases. The second one is a last resource, or promises.
    pub async fn open(servers: [&Server; 2], has_last_resource: bool) -> Result<Self, Failure> {
        let log = fresh_dir()?;
        let parties = [Party::open("first", servers[0]).await?, Party::open("second", servers[1]).await?];
        // Each has a log of its own, and databases refuse another log under a name that they know.
        let name = format!("versus-{}", SHOPS.fetch_add(1, Ordering::Relaxed));
        let mut builder = Coordinator::builder(FileLog::open(log.path())?).name(&name);
        for (name, party) in ["first", "second"].into_iter().zip(&parties) {
            let runtime = Handle::current();
            builder = match (party, has_last_resource && name == "second") {
                (Party::Postgres(party), false) => builder.async_participant(name, party.clone(), runtime),
                (Party::MariaDb(party), false) => builder.async_participant(name, party.clone(), runtime),
                (Party::Postgres(party), true) => builder.async_last_resource(name, party.clone(), runtime),
                (Party::MariaDb(party), true) => builder.async_last_resource(name, party.clone(), runtime),
            };
        }
        Ok(Self { coordinator: builder.open()?, parties, _log: log })
    }

    /// Changes a row in both databases, or reads one.
    pub async fn both(&self, rows: [i32; 2], reads: bool) -> Result<(), Failure> {
        let mut txn = self.coordinator.begin_async().await;
        let (one, other) =
            (self.parties[0].work(&mut txn, rows[0], reads), self.parties[1].work(&mut txn, rows[1], reads));
        let (one, other) = tokio::join!(one, other);
        one?;
        other?;
        committed(txn).await
    }

    /// Changes a row in the first database alone.
    pub async fn one(&self, row: i32) -> Result<(), Failure> {
        let mut txn = self.coordinator.begin_async().await;
        self.parties[0].work(&mut txn, row, false).await?;
        committed(txn).await
    }
}

/// Commits, and waits until both databases have carried it out, as the commits by hand do.
async fn committed(txn: Transaction) -> Result<(), Failure> {
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.await?;
    Ok(delivered.await?)
}

/// What a participant must be to be registered.
const fn _is_participant<P: AsyncParticipant>() {}
const _: () = {
    _is_participant::<PgParticipant>();
    _is_participant::<MySqlParticipant>();
};
