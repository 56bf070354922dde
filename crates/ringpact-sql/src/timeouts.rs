//! How long branches may wait: [`BranchTimeouts`].

use std::time::Duration;

/// How long a branch may keep its locks without a step forward. The server enforces each of them but the last, so they hold
/// when the client is gone, too.
///
/// A prepared branch keeps its locks until its decision comes, whatever these times are. All values must fit in milliseconds
/// of 31 bits.
///
/// | | PostgreSQL | MariaDB and MySQL |
/// |---|---|---|
/// | [`idle`](Self::idle) | `idle_in_transaction_session_timeout` | `wait_timeout`, in whole seconds, at least one |
/// | [`statement`](Self::statement) | `statement_timeout` | `max_statement_time`; in MySQL `max_execution_time`, which is for `SELECT` only. The client gives the connection up 5 s later |
/// | [`lock`](Self::lock) | `lock_timeout` | `innodb_lock_wait_timeout` and `lock_wait_timeout`, in whole seconds, at least one |
/// | zero | switches a limit off | `statement`: no limit at the server; the others: one second |
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
}
