//! The third database, of MariaDB: what it takes part with, and what it has in the end.

use std::collections::BTreeMap;

use mysql_async::{Conn, Opts, OptsBuilder, PoolConstraints, PoolOpts, prelude::Queryable as _};
use ringpact::Transaction;
use ringpact_mysql::{MySqlError, MySqlParticipant};

use super::Result;

/// Name of the database, which is made.
const DATABASE: &str = "ringpact_transfer";

/// The participant that gets the fees.
pub(crate) struct Fees(MySqlParticipant);

impl Fees {
    /// Opens the participant. Each promise holds a connection, so there are more connections than promises.
    pub(crate) async fn open(url: &str, clients: u64) -> Result<Self> {
        let promises = 2 * usize::try_from(clients)?;
        let connections = PoolConstraints::new(promises, promises + 2).ok_or("there are no clients")?;
        let opts = OptsBuilder::from_opts(Opts::from_url(url)?)
            .db_name(Some(DATABASE))
            .prefer_socket(false)
            .pool_opts(PoolOpts::default().with_constraints(connections));
        Ok(Self(MySqlParticipant::builder("fees").opts(opts).max_promises(promises).open().await?))
    }

    pub(crate) fn participant(&self) -> MySqlParticipant {
        self.0.clone()
    }

    /// Takes a fee under the transaction. Returns whether the database accepts the work.
    pub(crate) fn collect(
        &self,
        txn: &mut Transaction,
        id: u64,
        cents: i64,
    ) -> impl Future<Output = Result<bool>> + Send + use<> {
        let branch = self.0.branch(txn);
        async move {
            let insert = "INSERT INTO moved VALUES (?, ?)";
            match branch.await?.exec_drop(insert, (id, cents)).await {
                Ok(()) => Ok(true),
                Err(MySqlError::Statement(error)) if matches!(error.error(), mysql_async::Error::Server(_)) => {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

async fn client(url: &str, database: Option<&str>) -> Result<Conn> {
    let opts = OptsBuilder::from_opts(Opts::from_url(url)?).db_name(database).prefer_socket(false);
    Ok(Conn::new(opts).await?)
}

/// Makes the database, without fees.
pub(crate) async fn prepare(url: &str) -> Result<()> {
    let mut conn = client(url, None).await?;
    conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS {DATABASE}")).await?;
    conn.disconnect().await?;
    let mut conn = client(url, Some(DATABASE)).await?;
    conn.query_drop(MySqlParticipant::SETUP_SQL).await?;
    let table =
        "DROP TABLE IF EXISTS moved; CREATE TABLE moved (id BIGINT PRIMARY KEY, cents BIGINT NOT NULL) ENGINE = InnoDB";
    conn.query_drop(table).await?;
    Ok(conn.disconnect().await?)
}

/// Returns the fee of each transfer, and the number of transactions that the server still has prepared.
pub(crate) async fn found(url: &str) -> Result<(BTreeMap<i64, i64>, i64)> {
    let mut conn = client(url, Some(DATABASE)).await?;
    let moved: Vec<(i64, i64)> = conn.query("SELECT id, cents FROM moved").await?;
    let prepared: Vec<mysql_async::Row> = conn.query("XA RECOVER").await?;
    conn.disconnect().await?;
    Ok((moved.into_iter().collect(), i64::try_from(prepared.len())?))
}
