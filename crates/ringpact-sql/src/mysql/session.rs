//! One session with a branch: [`Session`], and the statements that begin, promise and end the branch.

use std::{fmt::Write as _, time::Duration};

use ringpact::Epoch;

use super::{
    answer_within,
    client::MySqlLink,
    error::{StatementFailure, code},
    id::{NameHash, Xid},
};
use crate::BranchTimeouts;

/// Frees the session's locks.
const FREE: &str = "DO RELEASE_ALL_LOCKS()";

/// What a branch sets of its session, beside the limit of a statement's duration.
const SETTINGS: [&str; 4] = ["autocommit", "innodb_lock_wait_timeout", "lock_wait_timeout", "wait_timeout"];

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
#[non_exhaustive]
pub struct Session<L> {
    /// The connection.
    pub link: L,
    pub(crate) xid: Xid,
    pub(crate) id: SessionId,
    pub(crate) timeouts: BranchTimeouts,
    /// The participant's database, quoted.
    pub(crate) database: String,
    pub(crate) is_mariadb: bool,
    /// Whether the session's settings are put back when the branch ends, because the pool does not do it.
    pub(crate) puts_back: bool,
    /// Whether each statement of the branch so far is one that only reads, unless it calls a
    /// function that writes.
    pub only_reads: bool,
    /// Number of rows that the connection had written when the branch began: those of its
    /// registration. The pool's reset sets the server's count to zero.
    pub(crate) written_before: Option<u64>,
}

impl<L: MySqlLink> Session<L> {
    /// Returns for how long the answer to a statement is waited for.
    #[must_use]
    pub fn answer_within(&self) -> Duration {
        answer_within(&self.timeouts)
    }

    /// Begins the branch. Registers the session first, if `registration` is passed. One message, and
    /// another one for a session that is registered.
    pub(crate) async fn begin(
        &mut self,
        registration: Option<&Registration>,
        coordinator: &str,
    ) -> Result<(), StatementFailure> {
        let (xid, own, branch) = (&self.xid, self.id.lock(), self.xid.lock());
        let mut sql = settings(&self.timeouts, self.is_mariadb, self.puts_back);
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
        self.link.begin(self.answer_within(), sql).await?;
        if self.only_reads {
            self.written_before = if registration.is_some() { self.rows_written().await } else { Some(0) };
        }
        Ok(())
    }

    /// Returns the statements that free the session's locks, and put its settings back.
    fn free(&self) -> String {
        format!("{FREE}{}", put_back(self.is_mariadb, self.puts_back))
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
    pub(crate) async fn prepare(&mut self, position: u64) -> Result<(), StatementFailure> {
        let (mark, xid) = (self.mark(position), &self.xid);
        let sql = format!("{mark}XA END {xid};XA PREPARE {xid}");
        self.link.end(self.answer_within(), sql).await
    }

    /// Ends the promise. One message. The locks are freed with it, so that they lead to no session that
    /// works for another branch by then.
    pub(crate) async fn end_promise(&mut self, verb: &str) -> Result<(), StatementFailure> {
        self.run(format!("XA {verb} {xid};{free}", xid = self.xid, free = self.free())).await
    }

    /// Commits alone, with a marker or without. One message.
    ///
    /// MariaDB with a binary log loses `XA COMMIT .. ONE PHASE` in a crash after it was answered: it comes back as a promise. So
    /// a branch that changed something promises first, also there; the coordinator need not know.
    pub(crate) async fn commit_one_phase(&mut self, has_marker: bool) -> Result<(), StatementFailure> {
        let mark = if has_marker { self.mark(0) } else { String::new() };
        let (xid, free) = (&self.xid, self.free());
        let commit = if has_marker && self.is_mariadb {
            format!("XA PREPARE {xid};XA COMMIT {xid}")
        } else {
            format!("XA COMMIT {xid} ONE PHASE")
        };
        let sql = format!("{mark}XA END {xid};{commit};{free}");
        self.link.end(self.answer_within(), sql).await
    }

    /// Undoes the branch, in whatever state it is, and a promise, too.
    pub(crate) async fn undo(&mut self) -> Result<Undone, StatementFailure> {
        let (xid, free) = (&self.xid, self.free());
        let sql = format!("XA END {xid};XA ROLLBACK {xid};{free}");
        match self.link.end(self.answer_within(), sql).await {
            Ok(()) => return Ok(Undone::RolledBack),
            Err(error) if !self.link.is_sound() => return Err(error),
            // `XA END` is refused in some states, among them that of a deadlock's victim.
            Err(_) => {}
        }
        match self.run(format!("XA ROLLBACK {};{}", self.xid, self.free())).await {
            Ok(()) => Ok(Undone::RolledBack),
            Err(error) if error.code == Some(code::XAER_NOTA) => Ok(Undone::WasGone),
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
        self.link.rows(self.answer_within(), sql).await.ok()?.first()?.number(0)
    }

    pub(crate) async fn run(&mut self, sql: String) -> Result<(), StatementFailure> {
        self.link.run(self.answer_within(), sql).await
    }
}

/// Returns the statements that limit for how long locks are waited for and statements run. The pool's reset undoes them, or
/// [`put_back`].
pub(super) fn settings(timeouts: &BranchTimeouts, is_mariadb: bool, puts_back: bool) -> String {
    let BranchTimeouts { idle, statement, lock, .. } = timeouts;
    // Whole seconds, and at least one: zero means "no limit", or is refused.
    let (lock, idle) = (lock.as_secs().max(1), idle.as_secs().max(1));
    let limit = if is_mariadb { format!("{:.3}", statement.as_secs_f64()) } else { statement.as_millis().to_string() };
    let mut sql = String::new();
    if puts_back {
        sql = set(is_mariadb, |name| format!("@ringpact_{name} = @@SESSION.{name}"));
        sql.push(';');
    }
    let _infallible = write!(
        sql,
        "SET SESSION autocommit = 1, innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}, \
         wait_timeout = {idle}, {} = {limit};",
        limit_name(is_mariadb)
    );
    sql
}

/// Returns the statement that puts the settings back, with a semicolon before it; nothing if the pool does it.
pub(super) fn put_back(is_mariadb: bool, puts_back: bool) -> String {
    if !puts_back {
        return String::new();
    }
    format!(";{}", set(is_mariadb, |name| format!("SESSION {name} = @ringpact_{name}")))
}

/// Returns the statement that does this with each of the settings.
fn set(is_mariadb: bool, assign: impl Fn(&str) -> String) -> String {
    let all: Vec<String> = SETTINGS.into_iter().chain([limit_name(is_mariadb)]).map(assign).collect();
    format!("SET {}", all.join(", "))
}

/// Returns the variable that limits a statement's duration.
const fn limit_name(is_mariadb: bool) -> &'static str {
    if is_mariadb { "max_statement_time" } else { "max_execution_time" }
}

/// Returns a statement that fails unless the condition holds, by [`code::SUBQUERY_NO_1_ROW`]. Then the
/// statements after it in the same message are not carried out.
pub(super) fn fails_unless(condition: &str) -> String {
    format!("SELECT IF({condition}, 1, (SELECT 1 UNION SELECT 2));")
}
