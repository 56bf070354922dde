//! A branch's connection: [`PgSession`].

use std::{fmt, time::Duration};

use deadpool_postgres::{ClientWrapper, Object, Pool};
use ringpact::{
    BranchId,
    participant::xa::{XaError, XaErrorKind},
};
use tokio::time::timeout;

use crate::{
    error::{During, PgFailure, ends_connection, failure, no_connection},
    names::{literal, tag},
};

/// Number of connections that a branch tries. After a restart of the server all of the pool are dead, and the pool learns it
/// one by one.
const CONNECTIONS_TRIED: usize = 5;

/// How long a branch may keep its locks without a step forward. The server enforces each of them but the last.
///
/// A prepared branch keeps its locks until its decision comes, whatever these times are. All values must fit in milliseconds
/// of 31 bits; zero switches a limit off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchTimeouts {
    /// Maximum time between two statements. The session is then ended, and the branch votes No. 30 s.
    pub idle: Duration,
    /// Maximum time of one statement. 10 s.
    pub statement: Duration,
    /// Maximum time for which a statement waits for a lock. 2 s, because no server sees a deadlock between two databases.
    pub lock: Duration,
    /// Maximum time for which a branch waits for a connection of the pool before it begins. 10 s.
    pub connection: Duration,
}

impl Default for BranchTimeouts {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            statement: Duration::from_secs(10),
            lock: Duration::from_secs(2),
            connection: Duration::from_secs(10),
        }
    }
}

impl BranchTimeouts {
    /// Returns these times with another maximum time between two statements.
    #[must_use]
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Returns these times with another maximum time of one statement.
    #[must_use]
    pub const fn statement(mut self, statement: Duration) -> Self {
        self.statement = statement;
        self
    }

    /// Returns these times with another maximum time for a lock.
    #[must_use]
    pub const fn lock(mut self, lock: Duration) -> Self {
        self.lock = lock;
        self
    }

    /// Returns these times with another maximum time for a connection of the pool.
    #[must_use]
    pub const fn connection(mut self, connection: Duration) -> Self {
        self.connection = connection;
        self
    }

    /// Returns the message that begins the branch's transaction.
    ///
    /// `SET LOCAL` takes no snapshot, so the work may still choose its isolation level.
    fn begin(&self, tag: &str) -> String {
        let milliseconds = |time: Duration| time.as_millis().min(i32::MAX as u128);
        format!(
            "BEGIN; SET LOCAL application_name = {}; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}",
            literal(tag),
            milliseconds(self.lock),
            milliseconds(self.statement),
            milliseconds(self.idle)
        )
    }
}

/// A connection with a branch's transaction open in it. If it is dropped, the connection is closed.
pub struct PgSession {
    /// `None` only while it is dropped, or given back.
    client: Option<Object>,
    tag: String,
}

impl PgSession {
    /// Takes a connection and begins the branch's transaction in it.
    pub(crate) async fn begin(pool: &Pool, branch: &BranchId, timeouts: &BranchTimeouts) -> Result<Self, XaError> {
        Self::begin_tagged(pool, tag(branch), timeouts).await
    }

    /// Takes a connection and begins a transaction in it, under this tag.
    pub(crate) async fn begin_tagged(pool: &Pool, tag: String, timeouts: &BranchTimeouts) -> Result<Self, XaError> {
        let message = timeouts.begin(&tag);
        let mut tried = 0;
        loop {
            let Ok(taken) = timeout(timeouts.connection, pool.get()).await else {
                let cause = PgFailure::NoConnection { waited: timeouts.connection, size: pool.status().max_size };
                return Err(XaError::new(XaErrorKind::Transient, cause));
            };
            let session = Self { client: Some(taken.map_err(no_connection)?), tag: tag.clone() };
            tried += 1;
            match session.client().batch_execute(&message).await {
                Ok(()) => return Ok(session),
                // Nothing was done under the branch yet, so another connection does as well.
                Err(error) if ends_connection(&error) && tried < CONNECTIONS_TRIED => {}
                Err(error) => return Err(failure(error, During::Repeatable)),
            }
        }
    }

    /// Returns the connection. Its transaction is the branch's: leave `COMMIT` and `ROLLBACK` to the participant.
    #[must_use]
    pub fn client(&self) -> &ClientWrapper {
        match &self.client {
            Some(client) => client,
            None => unreachable!("a session has its connection until it is dropped"),
        }
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Gives the connection back to its pool, because no transaction is open in it.
    pub(crate) fn give_back(mut self) {
        drop(self.client.take());
    }
}

impl Drop for PgSession {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}

impl fmt::Debug for PgSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgSession").field("tag", &self.tag).finish_non_exhaustive()
    }
}
