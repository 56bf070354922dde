//! The same work by hand: what a program would send if nothing could fail.

use std::error::Error;

use mysql_async::{Conn, Pool, prelude::Queryable as _};
use tokio_postgres::{Client, NoTls, Statement};

use super::{ROWS, Server};

pub type Failure = Box<dyn Error + Send + Sync>;

/// The table of markers of the contender `raw-2pc-marker`.
const MARKERS: &str = "CREATE TABLE raw_marker (gid VARCHAR(64) PRIMARY KEY)";

/// Makes the tables in an empty database.
pub async fn set_up(server: &Server) -> Result<(), Failure> {
    const TABLE: &str = "CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL)";
    match server {
        Server::Postgres { url, .. } => {
            let client = connect_postgres(url).await?;
            client.batch_execute(ringpact_postgres::PgParticipant::SETUP_SQL).await?;
            client.batch_execute(TABLE).await?;
            client.batch_execute(MARKERS).await?;
            client
                .batch_execute(&format!("INSERT INTO account SELECT id, 0 FROM generate_series(1, {ROWS}) AS id"))
                .await?;
        }
        Server::MariaDb { opts, .. } => {
            ringpact_mysql::MySqlParticipant::setup(&Pool::new(opts.clone())).await?;
            let mut conn = Conn::new(opts.clone()).await?;
            conn.query_drop(TABLE).await?;
            conn.query_drop(MARKERS).await?;
            let rows: Vec<_> = (1..=ROWS).map(|id| (id,)).collect();
            conn.exec_batch("INSERT INTO account VALUES (?, 0)", rows).await?;
        }
    }
    Ok(())
}

pub async fn connect_postgres(url: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A client's connection to one server.
pub enum Link {
    Postgres { client: Client, update: Statement, mark: Statement },
    MariaDb(Conn),
}

const UPDATE: &str = "UPDATE account SET balance = balance + 1 WHERE id = ?";

impl Link {
    pub async fn open(server: &Server) -> Result<Self, Failure> {
        Ok(match server {
            Server::Postgres { url, .. } => {
                let client = connect_postgres(url).await?;
                let update = client.prepare("UPDATE account SET balance = balance + 1 WHERE id = $1").await?;
                let mark = client.prepare("INSERT INTO raw_marker VALUES ($1)").await?;
                Self::Postgres { client, update, mark }
            }
            Server::MariaDb { opts, .. } => Self::MariaDb(Conn::new(opts.clone()).await?),
        })
    }

    /// A transaction of the database's own.
    pub async fn local(&mut self, row: i32) -> Result<(), Failure> {
        match self {
            Self::Postgres { client, update, .. } => {
                client.batch_execute("BEGIN").await?;
                client.execute(update, &[&row]).await?;
                client.batch_execute("COMMIT").await?;
            }
            Self::MariaDb(conn) => {
                conn.query_drop("BEGIN").await?;
                conn.exec_drop(UPDATE, (row,)).await?;
                conn.query_drop("COMMIT").await?;
            }
        }
        Ok(())
    }

    /// Work, the marker if there is to be one, and the promise.
    pub async fn promise(&mut self, gid: &str, row: i32, marks: bool) -> Result<(), Failure> {
        match self {
            Self::Postgres { client, update, mark } => {
                client.batch_execute("BEGIN").await?;
                client.execute(update, &[&row]).await?;
                if marks {
                    client.execute(mark, &[&gid]).await?;
                }
                client.batch_execute(&format!("PREPARE TRANSACTION '{gid}'")).await?;
            }
            Self::MariaDb(conn) => {
                conn.query_drop(format!("XA START '{gid}'")).await?;
                conn.exec_drop(UPDATE, (row,)).await?;
                if marks {
                    conn.exec_drop("INSERT INTO raw_marker VALUES (?)", (gid,)).await?;
                }
                conn.query_drop(format!("XA END '{gid}'")).await?;
                conn.query_drop(format!("XA PREPARE '{gid}'")).await?;
            }
        }
        Ok(())
    }

    pub async fn commit(&mut self, gid: &str) -> Result<(), Failure> {
        match self {
            Self::Postgres { client, .. } => client.batch_execute(&format!("COMMIT PREPARED '{gid}'")).await?,
            Self::MariaDb(conn) => conn.query_drop(format!("XA COMMIT '{gid}'")).await?,
        }
        Ok(())
    }
}
