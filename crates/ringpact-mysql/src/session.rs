//! One session with a branch: [`Session`], and the statements that begin, promise and end the branch.

use std::fmt::Write as _;

use mysql_async::{Error, prelude::Queryable as _};
use ringpact::Epoch;

use crate::{
    BranchTimeouts,
    error::{code, server_code},
    id::{NameHash, Xid},
    link::Link,
};

/// Frees the session's locks.
const FREE: &str = "DO RELEASE_ALL_LOCKS()";

/// Identity of a connection. Unlike the server's number of the connection, it never comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId([u8; 16]);

impl SessionId {
    /// Returns a new one; `None` if the system gives no random numbers.
    pub(crate) fn random() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    /// Returns the SQL literal of the row's key.
    pub(crate) fn key(self) -> String {
        format!("X'{}'", self.hex())
    }

    /// Returns the SQL literal of the name of the lock that the connection holds at work.
    pub(crate) fn lock(self) -> String {
        format!("'ringpact:{}'", self.hex())
    }
}

/// For which branches a connection works, as its row in `ringpact_session` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) id: SessionId,
    pub(crate) coordinator: NameHash,
    pub(crate) epoch: Epoch,
}

/// How a branch was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undone {
    /// By this session.
    RolledBack,
    /// The session had no branch any more.
    WasGone,
}

/// A connection that works for a branch.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) xid: Xid,
    pub(crate) id: SessionId,
    pub(crate) timeouts: BranchTimeouts,
    /// The participant's database, quoted.
    pub(crate) database: String,
    pub(crate) is_mariadb: bool,
    /// Whether each statement of the branch so far is one that only reads, unless it calls a
    /// function that writes.
    pub(crate) only_reads: bool,
    /// Number of rows that the connection had written when the branch began: those of its
    /// registration. The pool's reset sets the server's count to zero.
    pub(crate) written_before: Option<u64>,
}

impl Session {
    /// Begins the branch. Registers the session first, if `registration` is passed. One message, and
    /// another one for a session that is registered.
    pub(crate) async fn begin(&mut self, registration: Option<&Registration>, coordinator: &str) -> Result<(), Error> {
        let (xid, own, branch) = (&self.xid, self.id.lock(), self.xid.lock());
        let mut sql = settings(&self.timeouts, self.is_mariadb);
        if let Some(Registration { id, coordinator: hash, epoch }) = registration {
            let (database, participant) = (&self.database, xid.participant);
            // Not for an epoch that is over: its sessions may have been ended already. See `fence.rs`.
            let _infallible = write!(
                sql,
                "REPLACE INTO {database}.ringpact_session (id, participant, coordinator, epoch, fenced) \
                 SELECT {key}, {participant}, {hash}, {epoch}, 0 FROM DUAL WHERE NOT EXISTS (\
                 SELECT 1 FROM {database}.ringpact_coordinator \
                 WHERE participant = {participant} AND name = '{coordinator}' AND epoch > {epoch});",
                key = id.key()
            );
        }
        // The row is looked at after the locks are taken: see `fence.rs`. Outside of the branch's own
        // transaction, in which a look might lock the row.
        let row = self.registration_row();
        let locks = self.has_locks();
        let check = fails_unless(&format!("{locks} AND EXISTS (SELECT 1 FROM {row} AND NOT fenced)"));
        let _infallible = write!(sql, "DO GET_LOCK({own}, 0), GET_LOCK({branch}, 0);{check}XA START {xid}");
        self.run(sql).await?;
        self.written_before = if registration.is_some() { self.rows_written().await } else { Some(0) };
        Ok(())
    }

    /// Writes the marker, after a check that the session has its locks still: the branch's own SQL may
    /// have freed them, and then the session could not be ended.
    fn mark(&self, position: u64) -> String {
        let (check, database, marker) = (fails_unless(&self.has_locks()), &self.database, self.xid.marker());
        format!("{check}INSERT INTO {database}.ringpact_marker (id, position) VALUES ({marker}, {position});")
    }

    /// Returns the table and the condition that select the session's row.
    fn registration_row(&self) -> String {
        let Xid { coordinator, ordinal, .. } = &self.xid;
        format!(
            "{database}.ringpact_session WHERE id = {key} AND coordinator = {coordinator} AND epoch = {epoch}",
            database = self.database,
            key = self.id.key(),
            epoch = ordinal.epoch
        )
    }

    /// Returns the condition that the session has both its locks.
    fn has_locks(&self) -> String {
        let has = |lock: String| format!("COALESCE(IS_USED_LOCK({lock}) = CONNECTION_ID(), 0)");
        format!("{} AND {}", has(self.id.lock()), has(self.xid.lock()))
    }

    /// Makes the promise. One message.
    pub(crate) async fn prepare(&mut self, position: u64) -> Result<(), Error> {
        let (mark, xid) = (self.mark(position), &self.xid);
        self.run(format!("{mark}XA END {xid};XA PREPARE {xid}")).await
    }

    /// Ends the promise. One message. The locks are freed with it, so that they lead to no session that
    /// works for another branch by then.
    pub(crate) async fn end_promise(&mut self, verb: &str) -> Result<(), Error> {
        self.run(format!("XA {verb} {xid};{FREE}", xid = self.xid)).await
    }

    /// Commits without a promise, with a marker or without. One message.
    pub(crate) async fn commit_one_phase(&mut self, has_marker: bool) -> Result<(), Error> {
        let mark = if has_marker { self.mark(0) } else { String::new() };
        let xid = &self.xid;
        self.run(format!("{mark}XA END {xid};XA COMMIT {xid} ONE PHASE;{FREE}")).await
    }

    /// Undoes the branch, in whatever state it is, and a promise, too.
    pub(crate) async fn undo(&mut self) -> Result<Undone, Error> {
        let xid = &self.xid;
        match self.run(format!("XA END {xid};XA ROLLBACK {xid};{FREE}")).await {
            Ok(()) => return Ok(Undone::RolledBack),
            Err(error) if !self.link.is_sound() => return Err(error),
            // `XA END` is refused in some states, among them that of a deadlock's victim.
            Err(_) => {}
        }
        match self.run(format!("XA ROLLBACK {};{FREE}", self.xid)).await {
            Ok(()) => Ok(Undone::RolledBack),
            Err(error) if server_code(&error) == Some(code::XAER_NOTA) => Ok(Undone::WasGone),
            Err(error) => Err(error),
        }
    }

    /// Whether the branch, whose statements all look like reads, has changed nothing.
    pub(crate) async fn has_changed_nothing(&mut self) -> bool {
        self.only_reads && self.written_before.is_some() && self.rows_written().await == self.written_before
    }

    /// Returns the number of rows that this connection has written since its last reset, functions
    /// and triggers included; `None` if the server does not say.
    async fn rows_written(&mut self) -> Option<u64> {
        let schema = if self.is_mariadb { "information_schema" } else { "performance_schema" };
        let sql = format!(
            "SELECT CAST(SUM(VARIABLE_VALUE) AS UNSIGNED) FROM {schema}.session_status \
             WHERE VARIABLE_NAME IN ('Handler_write', 'Handler_update', 'Handler_delete')"
        );
        let within = self.timeouts.answer();
        self.link.run(within, |conn| conn.query_first::<Option<u64>, _>(sql)).await.ok()??
    }

    pub(crate) async fn run(&mut self, sql: String) -> Result<(), Error> {
        self.link.run(self.timeouts.answer(), |conn| conn.query_drop(sql)).await
    }
}

/// Returns the statement that limits for how long locks are waited for and statements run. The pool's
/// reset undoes it.
pub(crate) fn settings(timeouts: &BranchTimeouts, is_mariadb: bool) -> String {
    let BranchTimeouts { idle, statement, lock } = timeouts;
    // Whole seconds, and at least one: zero means "no limit", or is refused.
    let (lock, idle) = (lock.as_secs().max(1), idle.as_secs().max(1));
    let limit = if is_mariadb {
        format!("max_statement_time = {:.3}", statement.as_secs_f64())
    } else {
        format!("max_execution_time = {}", statement.as_millis())
    };
    format!(
        "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}, \
         wait_timeout = {idle}, {limit};"
    )
}

/// Returns a statement that fails unless the condition holds, by [`code::SUBQUERY_NO_1_ROW`]. Then the
/// statements after it in the same message are not carried out.
fn fails_unless(condition: &str) -> String {
    format!("SELECT IF({condition}, 1, (SELECT 1 UNION SELECT 2));")
}

/// Whether a statement can only read, unless it calls a function that writes. Locks that a read takes
/// must stay until the transaction ends, so locking reads do not count.
pub(crate) fn is_plain_read(sql: &[u8]) -> bool {
    let Ok(sql) = std::str::from_utf8(sql) else { return false };
    let mut words = sql.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"))
        && !sql.contains([';', '#'])
        && !sql.contains("/*")
        && !sql.contains("--")
        && !words.any(|word| ["for", "lock", "into"].iter().any(|locking| word.eq_ignore_ascii_case(locking)))
}

#[cfg(test)]
mod tests {
    use super::is_plain_read;

    #[test]
    fn only_a_plain_select_is_taken_for_a_read() {
        for read in ["SELECT 1", "  select *\nfrom t", "SELECT(1)", "SELECT before_it FROM t"] {
            assert!(is_plain_read(read.as_bytes()), "{read}");
        }
        for other in [
            "INSERT INTO t VALUES (1)",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM t LOCK IN SHARE MODE",
            "SELECT 1 INTO @x",
            "SELECT 1; DELETE FROM t",
            "SELECT /*!50000 1 */",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "",
        ] {
            assert!(!is_plain_read(other.as_bytes()), "{other}");
        }
    }
}
