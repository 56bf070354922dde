//! The connections of a participant, as `ringpact-sql` has them: [`Pools`], and [`Link`], a connection that is closed if anything
//! about it is in doubt.

use std::{
    error::Error as StdError,
    future::Future,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use mysql_async::{Conn, DriverError, Error, Pool, Row, Value, prelude::Queryable as _};
use ringpact_sql::mysql::{ByteRow, MySqlClient, MySqlLink, StatementFailure};

use crate::error::{cause_may_pass, is_lost, no_answer, of_statement};

/// The pools of a participant.
#[derive(Debug)]
pub struct Pools {
    /// Connections for branches.
    pub(crate) work: Pool,
    /// Connections for all else, so that it need not wait for branches to end.
    pub(crate) control: Pool,
}

impl MySqlClient for Pools {
    type Link = Link;

    const RESETS_CONNECTIONS: bool = true;
    const SEES_STATEMENTS: bool = true;

    async fn connect(&self) -> Result<Link, StatementFailure> {
        self.work.get_conn().await.map(Link::new).map_err(of_statement)
    }

    async fn control(&self) -> Result<Link, StatementFailure> {
        self.control.get_conn().await.map(Link::new).map_err(of_statement)
    }

    fn may_pass(error: &(dyn StdError + 'static)) -> bool {
        cause_may_pass(error)
    }
}

/// What the client library's methods return.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A connection of a pool. If it is dropped, it is closed; only [`release`](Self::release) gives it
/// back.
///
/// The client library gives a dropped connection back to its pool, and does not know that an `XA`
/// transaction may be open in it, or that a dropped future has left an answer unread.
#[derive(Debug)]
pub struct Link {
    conn: Option<Conn>,
    /// Whether all statements were answered.
    is_sound: bool,
}

impl Link {
    pub(crate) const fn new(conn: Conn) -> Self {
        Self { conn: Some(conn), is_sound: true }
    }

    /// Carries out a statement, within this time. An error that is no answer of the server leaves the
    /// link of no more use, and so does a future that is dropped.
    pub(crate) async fn carry_out<T>(
        &mut self,
        within: Duration,
        statement: impl for<'c> FnOnce(&'c mut Conn) -> Answer<'c, T>,
    ) -> Result<T, Error> {
        let Some(conn) = self.conn.as_mut().filter(|_| self.is_sound) else {
            return Err(Error::Driver(DriverError::ConnectionClosed));
        };
        self.is_sound = false;
        let result = tokio::time::timeout(within, statement(conn)).await.map_err(|_| no_answer(within))?;
        self.is_sound = result.as_ref().err().is_none_or(|error| !is_lost(error));
        result
    }

    pub(crate) const fn conn(&self) -> Option<&Conn> {
        self.conn.as_ref()
    }
}

impl MySqlLink for Link {
    fn id(&self) -> u64 {
        self.conn.as_ref().map_or(0, |conn| conn.id().into())
    }

    fn is_sound(&self) -> bool {
        self.is_sound && self.conn.is_some()
    }

    async fn run(&mut self, within: Duration, sql: String) -> Result<(), StatementFailure> {
        self.carry_out(within, |conn| conn.query_drop(sql)).await.map_err(of_statement)
    }

    async fn rows(&mut self, within: Duration, sql: String) -> Result<Vec<ByteRow>, StatementFailure> {
        let rows: Vec<Row> = self.carry_out(within, |conn| conn.query(sql)).await.map_err(of_statement)?;
        Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(bytes).collect()).collect())
    }

    fn release(mut self) {
        if self.is_sound {
            drop(self.conn.take());
        }
    }
}

/// Returns a value of a query that was sent as text.
fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        // The first step of this future marks the connection as closed, so the pool drops it. What
        // cannot be sent at once need not be: the socket is closed in any case.
        let mut closing = Box::pin(conn.disconnect());
        let _ready = closing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}
